use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use super::*;
use crate::metrics::Refusal;

/// A client that shares no code with the server's side.
struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn connect(server: &Server) -> Self {
        Self::with(server, &[]).await.expect("a WebSocket").0
    }

    /// Connects with more headers; an error is the status of the refusal.
    async fn with(
        server: &Server,
        headers: &[(&'static str, &str)],
    ) -> Result<(Self, Option<String>), u16> {
        let tcp = TcpStream::connect(server.address).await.expect("a connection");
        Self::over(server, tcp, headers).await
    }

    async fn over(
        server: &Server,
        tcp: TcpStream,
        headers: &[(&'static str, &str)],
    ) -> Result<(Self, Option<String>), u16> {
        let url = format!("ws://{}/ws", server.address);
        let mut request = url.into_client_request().expect("a request");
        for &(name, value) in headers {
            request.headers_mut().insert(name, value.parse().expect("a header value"));
        }
        match tokio_tungstenite::client_async(request, tcp).await {
            Ok((socket, response)) => {
                let protocol = response.headers().get("sec-websocket-protocol");
                let protocol = protocol.map(|value| value.to_str().expect("text").to_owned());
                Ok((Self(socket), protocol))
            }
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(err) => panic!("{err}"),
        }
    }

    async fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.expect("sent");
    }

    async fn next(&mut self) -> Option<Message> {
        soon(self.0.next()).await.and_then(Result::ok)
    }

    /// The next message of type `t`; others are skipped.
    async fn hear(&mut self, t: &str) -> Value {
        loop {
            let message = self.next().await.expect("a message");
            let Message::Text(text) = message else { continue };
            let value: Value = serde_json::from_str(&text).expect("JSON");
            if value["t"] == t {
                return value;
            }
        }
    }

    /// The close frame; messages before it are skipped.
    async fn closed(&mut self) -> CloseFrame {
        loop {
            match self.next().await.expect("a close frame") {
                Message::Close(frame) => return frame.expect("with a code"),
                _ => continue,
            }
        }
    }

    async fn join(server: &Server, role: &str, room: &str) -> (Self, Value) {
        let mut client = Self::connect(server).await;
        client.say(hello(role, room)).await;
        let welcome = client.hear("welcome").await;
        (client, welcome)
    }
}

fn hello(role: &str, room: &str) -> Value {
    json!({ "t": "hello", "id": "h1", "versions": [1], "role": role, "room": room })
}

#[tokio::test]
async fn a_hello_is_welcomed_with_credentials() {
    let server = Setup::open().start();
    let (_client, welcome) = Client::join(&server, "watcher", "room").await;
    assert_eq!(welcome["re"], "h1");
    assert_eq!(welcome["room"]["state"], "waiting");
    let ice = &welcome["ice"]["servers"][0];
    assert_eq!(ice["urls"][0], "turn:127.0.0.1:3478?transport=udp");
    assert!(ice["username"].as_str().expect("a name").contains(':'));
    assert_eq!(welcome["limits"]["frame_bytes"], 65536);
    assert_eq!(server.metrics.conns.value(), 1);
}

#[tokio::test]
async fn the_sub_protocol_is_echoed_when_it_is_asked_for() {
    let server = Setup::open().start();
    let (_, protocol) = Client::with(&server, &[("sec-websocket-protocol", "turncast.v1")])
        .await
        .expect("a WebSocket");
    assert_eq!(protocol.as_deref(), Some("turncast.v1"));
    let (_, none) = Client::with(&server, &[]).await.expect("a WebSocket");
    assert_eq!(none, None);
}

#[tokio::test]
async fn a_page_of_another_site_gets_no_websocket() {
    let mut setup = Setup::open();
    setup.web.allowed_origins = vec!["https://portal.example".to_owned()];
    let server = setup.start();
    let own = format!("http://{}", server.address);
    for good in [own.as_str(), "https://portal.example"] {
        assert!(Client::with(&server, &[("origin", good)]).await.is_ok(), "{good}");
    }
    for bad in ["http://evil.example", "null", "http://localhost"] {
        let refused = Client::with(&server, &[("origin", bad)]).await.err();
        assert_eq!(refused, Some(403), "{bad}");
    }
    assert_eq!(server.metrics.refusals(Refusal::Origin), 3);
    let foreign = Client::with(&server, &[("host", "evil.example")]).await.err();
    assert_eq!(foreign, Some(421));
}

#[tokio::test]
async fn what_is_no_handshake_is_told_why() {
    let server = Setup::open().start();
    assert_eq!(server.get("/ws").await.status, 426);
    assert_eq!(server.ask("POST", "/ws", "Content-Length: 0\r\n").await.status, 405);
    let ask = async |lines: &str| {
        let head = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: close, Upgrade\r\n";
        server.raw(&format!("{head}Upgrade: websocket\r\n{lines}\r\n")).await
    };
    let old = ask("Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
    let old = old.await;
    assert_eq!((old.status, old.header("sec-websocket-version")), (426, "13"));
    assert_eq!(ask("Sec-WebSocket-Version: 13\r\n").await.status, 400);
    assert_eq!(ask("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n").await.status, 400);
}

#[tokio::test]
async fn without_a_key_only_this_computer_may_publish() {
    let auto = || {
        let mut setup = Setup::open();
        setup.web.publish = Publish::Auto;
        setup.web.only_loopback_listeners = true;
        setup.web.allowed_hosts = vec!["live.example".to_owned()];
        setup
    };
    let server = auto().start();
    let ask = async |server: &Server, headers: &[(&'static str, &str)], room: &str| {
        let (mut client, _) = Client::with(server, headers).await.expect("a WebSocket");
        client.say(hello("broadcaster", room)).await;
        loop {
            let Some(Message::Text(text)) = client.next().await else { panic!("no answer") };
            let value: Value = serde_json::from_str(&text).expect("JSON");
            match value["t"].as_str() {
                Some("welcome") => return "welcome".to_owned(),
                Some("error") => return value["code"].as_str().expect("a code").to_owned(),
                _ => {}
            }
        }
    };
    assert_eq!(ask(&server, &[], "one").await, "welcome");
    for header in ["x-forwarded-for", "forwarded", "via", "x-real-ip", "cf-connecting-ip"] {
        assert_eq!(ask(&server, &[(header, "127.0.0.1")], "two").await, "key-required", "{header}");
    }
    assert_eq!(ask(&server, &[("host", "live.example")], "three").await, "key-required");
    let mut proxied = auto();
    proxied.web.trusted_proxies = vec!["10.0.0.0/8".parse().expect("a prefix")];
    assert_eq!(ask(&proxied.start(), &[], "one").await, "key-required");
    let mut public = auto();
    public.web.only_loopback_listeners = false;
    let public = public.start();
    assert_eq!(ask(&public, &[], "one").await, "key-required");
    let mut client = Client::connect(&public).await;
    let mut hello = hello("broadcaster", "one");
    hello["key"] = "the-broadcast-key".into();
    client.say(hello).await;
    assert_eq!(client.hear("welcome").await["role"], "broadcaster");
}

#[tokio::test]
async fn a_message_that_is_too_long_ends_the_websocket_with_the_reason() {
    let server = Setup::open().start();
    let (mut client, _) = Client::join(&server, "watcher", "room").await;
    let _ = client.0.send(Message::text("x".repeat(65_537))).await;
    let error = client.hear("error").await;
    assert_eq!(error["code"], "too-large");
    let close = client.closed().await;
    assert_eq!((u16::from(close.code), close.reason.as_str()), (4013, "too-large"));
    assert_eq!(server.metrics.limits(Limit::FrameBytes), 1);
    until(|| server.metrics.conns.value() == 0).await;
}

#[tokio::test]
async fn a_message_of_the_allowed_length_passes() {
    let server = Setup::open().start();
    let (mut client, _) = Client::join(&server, "watcher", "room").await;
    let padding = "x".repeat(65_536 - r#"{"t":"ping","p":""}"#.len());
    client.say(json!({ "t": "ping", "p": padding })).await;
    client.hear("pong").await;
}

#[tokio::test]
async fn a_binary_message_is_a_bad_message() {
    let server = Setup::open().start();
    let (mut client, _) = Client::join(&server, "watcher", "room").await;
    client.0.send(Message::binary(Bytes::from_static(b"\0\x01"))).await.expect("sent");
    assert_eq!(client.hear("error").await["code"], "bad-message");
    client.say(json!({ "t": "ping", "id": "still here" })).await;
    assert_eq!(client.hear("pong").await["re"], "still here");
}

#[tokio::test]
async fn a_flood_of_messages_is_stopped() {
    let mut setup = Setup::open();
    setup.web.limits.messages_per_sec = 2;
    let server = setup.start();
    let (mut client, _) = Client::join(&server, "watcher", "room").await;
    for _ in 0..20 {
        if client.0.send(Message::text(r#"{"t":"ping"}"#)).await.is_err() {
            break;
        }
    }
    assert_eq!(client.hear("error").await["code"], "rate-limited");
    assert_eq!(u16::from(client.closed().await.code), 4012);
    assert_eq!(server.metrics.limits(Limit::Messages), 1);
    Client::join(&server, "watcher", "room").await;
}

#[tokio::test]
async fn a_flood_of_bytes_is_stopped_even_without_a_whole_message() {
    let mut setup = Setup::open();
    setup.web.limits.bytes_per_sec = 1024;
    setup.web.limits.frame_bytes = 4096;
    let server = setup.start();
    let (client, _) = Client::join(&server, "watcher", "room").await;
    let mut tcp = client.0.into_inner();
    // An unfinished text message, then empty continuations: never a message, always work.
    let mut flood = vec![0x01, 0x80, 0, 0, 0, 0];
    flood.extend([0x00, 0x80, 0, 0, 0, 0].repeat(8000));
    let _ = tcp.write_all(&flood).await;
    let mut rest = Vec::new();
    let _ = soon(tcp.read_to_end(&mut rest)).await;
    let text = String::from_utf8_lossy(&rest);
    assert!(text.contains("rate-limited"), "{text}");
    assert_eq!(server.metrics.limits(Limit::Bytes), 1);
}

#[tokio::test]
async fn hellos_of_one_address_are_limited() {
    let mut setup = Setup::open();
    setup.web.limits.hellos_per_address_per_min = 2;
    let server = setup.start();
    Client::join(&server, "watcher", "one").await;
    Client::join(&server, "watcher", "two").await;
    let mut third = Client::connect(&server).await;
    third.say(hello("watcher", "three")).await;
    let error = third.hear("error").await;
    assert_eq!((&error["code"], &error["retry"]), (&json!("rate-limited"), &json!(true)));
    assert_eq!(u16::from(third.closed().await.code), 4012);
    assert_eq!(server.metrics.limits(Limit::Hellos), 1);
}

#[tokio::test]
async fn websockets_of_one_address_are_limited_behind_a_proxy_too() {
    let mut setup = Setup::open();
    setup.web.limits.conns_per_address = 1;
    setup.web.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a prefix")];
    let server = setup.start();
    let one = Client::with(&server, &[("x-forwarded-for", "192.0.2.1")]).await.expect("let in");
    let again = Client::with(&server, &[("x-forwarded-for", "192.0.2.1")]).await.err();
    assert_eq!(again, Some(429));
    let other = Client::with(&server, &[("x-forwarded-for", "192.0.2.2")]).await;
    assert!(other.is_ok());
    assert_eq!(server.metrics.limits(Limit::ConnsPerAddress), 1);
    drop(one);
    until(|| server.metrics.conns.value() == 1).await;
}

#[tokio::test]
async fn a_full_server_says_so() {
    let mut setup = Setup::open();
    setup.web.limits.conns = 1;
    let server = setup.start();
    let _one = Client::connect(&server).await;
    assert_eq!(Client::with(&server, &[]).await.err(), Some(503));
    assert_eq!(server.metrics.limits(Limit::Conns), 1);
}

#[tokio::test]
async fn a_websocket_that_never_speaks_is_given_up() {
    let mut setup = Setup::open();
    setup.web.limits.header = Duration::from_millis(150);
    let server = setup.start();
    let mut client = Client::connect(&server).await;
    client.closed().await;
    assert_eq!(server.metrics.limits(Limit::HandshakeTime), 1);
}

#[tokio::test]
async fn a_slow_reader_loses_its_own_websocket_and_nobody_elses() {
    let mut setup = Setup::open();
    setup.web.limits.queue_bytes = 256 * 1024;
    setup.web.limits.bytes_per_sec = 1_000_000_000;
    setup.web.limits.messages_per_sec = 1_000_000;
    // The full queue ends it, and not the edge.
    setup.edge.write_stall = Duration::from_secs(3600);
    let server = setup.start();
    let (mut broadcaster, _) = Client::join(&server, "broadcaster", "room").await;
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let tcp = socket.connect(server.address).await.expect("a connection");
    let (mut slow, _) = Client::over(&server, tcp, &[]).await.expect("a WebSocket");
    slow.say(hello("watcher", "room")).await;
    let link = slow.hear("welcome").await["link"].clone();
    let (mut quick, welcome) = Client::join(&server, "watcher", "room").await;
    let quick_link = welcome["link"].clone();
    let sdp = "x".repeat(60_000);
    // The kernel swallows some megabytes before the queue begins to grow.
    for _ in 0..1000 {
        if server.metrics.limits(Limit::Queue) > 0 {
            break;
        }
        broadcaster.say(json!({ "t": "offer", "link": link, "sdp": sdp })).await;
        broadcaster.say(json!({ "t": "ping" })).await;
        broadcaster.hear("pong").await;
    }
    assert_eq!(server.metrics.limits(Limit::Queue), 1);
    broadcaster.say(json!({ "t": "offer", "link": quick_link, "sdp": "v=0" })).await;
    assert_eq!(quick.hear("offer").await["sdp"], "v=0");
    until(|| server.metrics.conns.value() == 2).await;
    broadcaster.say(json!({ "t": "ping" })).await;
    broadcaster.hear("pong").await;
}

#[tokio::test]
async fn a_stop_says_bye_to_everybody() {
    let server = Setup::open().start();
    let (mut one, _) = Client::join(&server, "broadcaster", "room").await;
    let (mut two, _) = Client::join(&server, "watcher", "room").await;
    server.hub.drain(Duration::from_secs(3));
    for client in [&mut one, &mut two] {
        let bye = client.hear("bye").await;
        assert_eq!((&bye["reason"], &bye["retry_after_ms"]), (&json!("draining"), &json!(3000)));
        assert_eq!(u16::from(client.closed().await.code), 4015);
    }
    assert_eq!(Client::with(&server, &[]).await.err(), Some(503));
    drop((one, two));
    soon(server.hub.idle()).await;
    assert_eq!(server.metrics.conns.value(), 0);
    server.web.stop();
    server.stop.send_replace(true);
    soon(server.task).await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn a_clean_close_ends_the_membership_and_revokes_its_grants() {
    let server = Setup::open().start();
    let (mut broadcaster, _) = Client::join(&server, "broadcaster", "room").await;
    let (mut watcher, _) = Client::join(&server, "watcher", "room").await;
    let joined = broadcaster.hear("member").await;
    assert_eq!(joined["event"], "joined");
    let close = CloseFrame { code: 1001.into(), reason: "".into() };
    watcher.0.close(Some(close)).await.expect("closed");
    let left = broadcaster.hear("member").await;
    assert_eq!((&left["event"], &left["member"]), (&json!("left"), &joined["member"]));
    until(|| !server.revoked.lock().expect("no panic").is_empty()).await;
}

#[tokio::test]
async fn a_page_that_goes_away_leaves_by_a_request_too() {
    let server = Setup::open().start();
    let (mut broadcaster, _) = Client::join(&server, "broadcaster", "room").await;
    let (mut watcher, welcome) = Client::join(&server, "watcher", "room").await;
    let joined = broadcaster.hear("member").await;
    let token = welcome["resume"].as_str().expect("a token");
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let refused = [
        ("GET", bearer.clone(), 405),
        ("POST", String::new(), 400),
        ("POST", format!("Authorization: Basic {token}\r\n"), 400),
        ("POST", format!("{bearer}Origin: https://evil.example\r\n"), 403),
    ];
    for (method, lines, status) in refused {
        assert_eq!(server.ask(method, "/leave", &lines).await.status, status, "{method} {lines}");
    }
    assert_eq!(server.metrics.refusals(Refusal::Origin), 1);
    let wrong = "Authorization: Bearer x.y\r\n";
    assert_eq!(server.ask("POST", "/leave", wrong).await.status, 204);
    assert_eq!(server.metrics.watchers.value(), 1);
    let own = format!("{bearer}Origin: http://{}\r\nContent-Length: 0\r\n", server.address);
    let reply = server.ask("POST", "/leave", &own).await;
    assert_eq!((reply.status, reply.body.as_str()), (204, ""));
    let left = broadcaster.hear("member").await;
    assert_eq!((&left["event"], &left["member"]), (&json!("left"), &joined["member"]));
    assert_eq!(u16::from(watcher.closed().await.code), 1000);
    assert_eq!(server.ask("POST", "/leave", &own).await.status, 204, "it has left all the same");
}

#[tokio::test]
async fn a_lost_socket_keeps_its_membership() {
    let server = Setup::open().start();
    let (mut broadcaster, _) = Client::join(&server, "broadcaster", "room").await;
    let (watcher, welcome) = Client::join(&server, "watcher", "room").await;
    broadcaster.hear("member").await;
    drop(watcher);
    until(|| server.metrics.conns.value() == 1).await;
    let mut back = Client::connect(&server).await;
    let mut again = hello("watcher", "room");
    again["resume"] = json!({ "token": welcome["resume"], "last_seq": welcome["seq"] });
    back.say(again).await;
    let resumed = back.hear("welcome").await;
    assert_eq!((&resumed["resumed"], &resumed["member"]), (&json!(true), &welcome["member"]));
    assert!(server.revoked.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn noise_on_a_websocket_harms_nobody() {
    let mut setup = Setup::open();
    setup.web.limits.header = Duration::from_millis(500);
    let server = setup.start();
    let mut entropy = Entropy::from_seed([42; 32]);
    for round in 0..50 {
        let mut tcp = Client::connect(&server).await.0.into_inner();
        let mut noise = vec![0; 200];
        entropy.fill(&mut noise);
        if round % 2 == 0 {
            // A masked text frame of a length that fits, with random content.
            noise[0] = 0x81;
            noise[1] = 0x80 | 100;
        }
        let _ = tcp.write_all(&noise).await;
        let _ = tcp.shutdown().await;
        let mut rest = Vec::new();
        let _ = soon(tcp.read_to_end(&mut rest)).await;
    }
    until(|| server.metrics.conns.value() == 0).await;
    let (_, welcome) = Client::join(&server, "watcher", "room").await;
    assert!(welcome["member"].is_string());
}

#[tokio::test]
async fn the_timer_pushes_fresh_credentials() {
    let server = Setup { credential_ttl_secs: Some(2), ..Setup::open() }.start();
    let (mut client, welcome) = Client::join(&server, "watcher", "room").await;
    let fresh = client.hear("ice").await;
    let name = |message: &Value| message["ice"]["servers"][0]["username"].clone();
    assert!(name(&fresh).is_string());
    assert_ne!(name(&fresh), name(&welcome), "a later expiry");
}

#[tokio::test]
async fn every_loop_beats() {
    let server = Setup::open().start();
    until(|| server.heartbeats.stuck(Instant::now()).is_empty()).await;
}

#[tokio::test]
async fn keys_are_read_for_a_hello_only() {
    let server = Setup::open().start();
    let (mut client, _) = Client::join(&server, "watcher", "room").await;
    for _ in 0..5 {
        client.say(json!({ "t": "ping" })).await;
        client.hear("pong").await;
    }
    assert_eq!(server.asked.load(Ordering::Relaxed), 1);
}

/// Where a test's log goes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_holds_no_address_and_no_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // With one subscriber alive, a line that another test's thread reaches first counts as
    // unwanted for good, because that thread has none; with two, everybody is asked.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    // The runtime of this test has one thread, so every task of the server logs here.
    let guard = tracing::subscriber::set_default(subscriber);
    let server = Setup::open().start();
    server.get("/watch/room?token=in-a-query").await;
    let mut client = Client::connect(&server).await;
    let mut hello = hello("broadcaster", "room");
    hello["key"] = "the-broadcast-key".into();
    client.say(hello).await;
    let welcome = client.hear("welcome").await;
    let mut stranger = Client::connect(&server).await;
    stranger.say(json!({ "t": "hello", "versions": [1], "role": "broadcaster", "key": "x" })).await;
    let _ = stranger.0.send(Message::text("x".repeat(70_000))).await;
    let token = welcome["resume"].as_str().expect("a token");
    server.ask("POST", "/leave", &format!("Authorization: Bearer {token}\r\n")).await;
    drop((client, stranger));
    until(|| server.metrics.conns.value() == 0).await;
    drop(guard);
    let text = String::from_utf8(log.0.lock().expect("no panic").clone()).expect("text");
    assert!(text.contains("websocket ended") && text.contains("127.0.0.0/24"), "{text}");
    let ice = &welcome["ice"]["servers"][0];
    for secret in [
        "127.0.0.1",
        "the-broadcast-key",
        "in-a-query",
        welcome["resume"].as_str().expect("a token"),
        welcome["room_key"].as_str().expect("a key"),
        ice["credential"].as_str().expect("a password"),
    ] {
        assert!(!text.contains(secret), "{secret} is in\n{text}");
    }
}
