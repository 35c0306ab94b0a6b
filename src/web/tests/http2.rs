use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

type Sender = http2::SendRequest<Empty<Bytes>>;

async fn open(server: &Server) -> Sender {
    let tcp = TcpStream::connect(server.address).await.expect("a connection");
    let (sender, conn) = http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(1024 * 1024)
        .handshake(TokioIo::new(tcp))
        .await
        .expect("HTTP/2");
    tokio::spawn(conn);
    sender
}

async fn ask(
    sender: &mut Sender,
    method: &str,
    path: &str,
    header: Option<String>,
) -> Response<hyper::body::Incoming> {
    let request = Request::builder().method(method).uri(format!("http://localhost{path}"));
    let request = match header {
        Some(value) => request.header("x-long", value),
        None => request,
    };
    let request = request.body(Empty::new()).expect("a request");
    soon(sender.send_request(request)).await.expect("an answer")
}

#[tokio::test]
async fn pages_come_over_http2_with_their_protection() {
    let server = Setup::open().start();
    let mut sender = open(&server).await;
    for path in ["/", "/watch/room", "/static/style/base.css"] {
        let answer = ask(&mut sender, "GET", path, None).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let policy = answer.headers()["content-security-policy"].to_str().expect("a text");
        assert!(policy.contains("connect-src 'self' ws://localhost wss://localhost;"), "{policy}");
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(body, server.get(path).await.body);
    }
    let head = ask(&mut sender, "HEAD", "/", None).await;
    assert!(head.into_body().collect().await.expect("no body").to_bytes().is_empty());
    assert_eq!(ask(&mut sender, "POST", "/", None).await.status(), 405);
    let foreign = Request::get("http://evil.example/").body(Empty::new()).expect("a request");
    let answer = soon(sender.send_request(foreign)).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test]
async fn a_websocket_is_refused_over_http2_without_words_of_http1() {
    let server = Setup::open().start();
    let answer = ask(&mut open(&server).await, "GET", "/ws", None).await;
    assert_eq!(answer.status(), StatusCode::UPGRADE_REQUIRED);
    assert!(answer.headers().get("connection").is_none());
    assert!(answer.headers().get("upgrade").is_none());
}

#[tokio::test]
async fn long_headers_are_refused_over_http2() {
    let mut setup = Setup::open();
    setup.web.limits.header_bytes = 8192;
    let server = setup.start();
    let mut sender = open(&server).await;
    let ok = ask(&mut sender, "GET", "/", Some("a".repeat(7000))).await;
    assert_eq!(ok.status(), StatusCode::OK);
    let long = ask(&mut sender, "GET", "/", Some("a".repeat(9000))).await;
    assert_eq!(long.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(server.metrics.limits(Limit::HeaderBytes), 1);
}

/// A client that has said hello by hand and sends the same frame on and on.
async fn flood(server: &Server, frame: &[u8]) {
    let mut stream = TcpStream::connect(server.address).await.expect("a connection");
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings].concat();
    stream.write_all(&hello).await.expect("written");
    let (mut read, mut write) = stream.into_split();
    let drain = tokio::spawn(async move {
        let mut sink = Vec::new();
        let _ = read.read_to_end(&mut sink).await;
    });
    soon(async { while write.write_all(frame).await.is_ok() {} }).await;
    soon(drain).await.expect("the end of the connection");
}

#[tokio::test]
async fn a_flood_without_a_request_ends_the_connection_and_is_counted() {
    let mut setup = Setup::open();
    setup.web.limits.bytes_between_requests = 65_536;
    let server = setup.start();
    let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[7; 8]].concat();
    let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 255, 255];
    for frame in [&ping[..], &settings] {
        flood(&server, frame).await;
    }
    until(|| server.metrics.limits(Limit::BytesBetweenRequests) == 2).await;
    until(|| server.metrics.connections.value() == 0).await;
    assert_eq!(ask(&mut open(&server).await, "GET", "/", None).await.status(), 200);
}

#[tokio::test]
async fn streams_that_are_reset_at_once_end_the_connection() {
    let server = Setup::open().start();
    let mut frames = Vec::new();
    // GET / with an authority, by the static table of HPACK, and a reset of it; odd numbers go up.
    for number in (1u32..40_001).step_by(2) {
        let head =
            [0x82, 0x84, 0x86, 0x41, 9, b'l', b'o', b'c', b'a', b'l', b'h', b'o', b's', b't'];
        frames.extend([0, 0, head.len() as u8, 1, 5]);
        frames.extend(number.to_be_bytes());
        frames.extend(head);
        frames.extend([0, 0, 4, 3, 0]);
        frames.extend(number.to_be_bytes());
        frames.extend([0, 0, 0, 8]);
    }
    flood(&server, &frames).await;
    until(|| server.metrics.connections.value() == 0).await;
}

#[tokio::test]
async fn a_connection_that_asks_nothing_or_nothing_more_is_closed() {
    let mut setup = Setup::open();
    setup.web.limits.header = Duration::from_millis(150);
    let server = setup.start();
    let mut asked = open(&server).await;
    assert_eq!(ask(&mut asked, "GET", "/", None).await.status(), 200);
    until(|| server.metrics.connections.value() == 0).await;
    assert_eq!(server.metrics.limits(Limit::HandshakeTime), 0, "that is no offence");
    let silent = open(&server).await;
    until(|| server.metrics.limits(Limit::HandshakeTime) == 1).await;
    drop(silent);
}

#[tokio::test]
async fn the_last_requests_are_answered_when_the_daemon_stops() {
    let server = Setup::open().start();
    let mut sender = open(&server).await;
    assert_eq!(ask(&mut sender, "GET", "/", None).await.status(), 200);
    server.web.stop();
    until(|| server.metrics.connections.value() == 0).await;
}

/// Sends `hello` and then one ping after the other, each when the one before was answered.
async fn ping_until_closed(server: &Server, hello: &[u8]) {
    let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[7; 8]].concat();
    let mut stream = TcpStream::connect(server.address).await.expect("a connection");
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings, hello].concat();
    stream.write_all(&hello).await.expect("written");
    let mut answer = [0; 65_536];
    while stream.write_all(&ping).await.is_ok() {
        if !matches!(stream.read(&mut answer).await, Ok(1..)) {
            break;
        }
    }
}

#[tokio::test]
async fn pings_buy_no_time() {
    let mut setup = Setup::open();
    setup.web.limits.header = Duration::from_millis(150);
    setup.web.limits.bytes_between_requests = usize::MAX / 2;
    let server = setup.start();
    soon(ping_until_closed(&server, b"")).await;
    until(|| server.metrics.limits(Limit::HandshakeTime) == 1).await;
    let head = [0x82, 0x84, 0x86, 0x41, 9, b'l', b'o', b'c', b'a', b'l', b'h', b'o', b's', b't'];
    let request = [&[0, 0, head.len() as u8, 1, 5, 0, 0, 0, 1][..], &head].concat();
    soon(ping_until_closed(&server, &request)).await;
    until(|| server.metrics.connections.value() == 0).await;
    assert_eq!(server.metrics.limits(Limit::HandshakeTime), 1, "a request was answered");
}
