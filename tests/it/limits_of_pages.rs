//! Every limit of the pages and of the hub, as `limits.rs` has those of the relay.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::{Value, json};
use turncast::credentials::Entropy;

use crate::abuse::{frame, pour};
use crate::harness::{DEADLINE, Daemon, Setup, text};
use crate::limits::hits;
use crate::streams::{connect, read_to_end};
use crate::ws::Ws;

/// A daemon with these lines in a section.
fn start(section: &str, lines: &str) -> Daemon {
    Setup::new(&format!("[{section}]\n{lines}\n")).start()
}

fn web(lines: &str) -> Daemon {
    start("web.limits", lines)
}

/// A text frame of this message.
fn text_frame(message: &str) -> Vec<u8> {
    frame(0x81, message.as_bytes(), &mut Entropy::from_seed([1; 32]))
}

const HELLO: &str = r#"{"t":"hello","versions":[1],"role":"watcher","room":"room"}"#;

/// The status of a WebSocket handshake, and its connection.
fn upgrade(web: SocketAddr) -> (String, TcpStream) {
    let mut stream = connect(web);
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {web}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("a write");
    let mut line = [0; 12];
    stream.read_exact(&mut line).expect("a status line");
    (text(&line[9..]), stream)
}

#[test]
fn connections_are_counted_in_all_and_per_address() {
    for (lines, limit) in [
        ("connections = 2", "connections"),
        ("connections_per_address = 2", "connections_per_address"),
    ] {
        let daemon = web(lines);
        let (_one, two) = (connect(daemon.web()), connect(daemon.web()));
        assert!(read_to_end(&mut connect(daemon.web())).is_empty(), "{lines}");
        assert_eq!(hits(&daemon, limit), 1, "{lines}");
        drop(two);
        // Room again, as soon as the daemon has seen that.
        let begin = Instant::now();
        loop {
            let mut stream = connect(daemon.web());
            let _ = stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n");
            if !read_to_end(&mut stream).is_empty() {
                break;
            }
            assert!(begin.elapsed() < DEADLINE, "{lines}: the place is not given back");
        }
        daemon.stop();
    }
}

#[test]
fn the_head_of_a_request_has_to_come_soon_and_be_short() {
    let daemon = web("handshake_secs = 1\nheader_bytes = 8192");
    let mut slow = connect(daemon.web());
    slow.write_all(b"GET / HTTP/1.1\r\nHost: ").expect("a write");
    read_to_end(&mut slow);
    assert_eq!(hits(&daemon, "handshake_time"), 1);
    let mut long = connect(daemon.web());
    let line = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(9000));
    long.write_all(line.as_bytes()).expect("a write");
    assert!(text(&read_to_end(&mut long)).starts_with("HTTP/1.1 431"));
    assert_eq!(hits(&daemon, "header_bytes"), 1);
    daemon.stop();
}

#[test]
fn a_reader_that_takes_nothing_is_disconnected() {
    let setup = Setup::new("[web]\nstatic_dir = \"pages\"\n[web.limits]\nwrite_stall_secs = 1\n");
    let pages = setup.directory().join("pages");
    std::fs::create_dir(&pages).expect("a directory");
    let setup = setup.variable("TURNCAST__WEB__STATIC_DIR", pages.to_str().expect("UTF-8"));
    std::fs::write(pages.join("large.bin"), vec![b'x'; 8 << 20]).expect("a file");
    let daemon = setup.start();
    let mut deaf = connect(daemon.web());
    // More than the kernel takes for a reader who does not read.
    let request = b"GET /static/large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n";
    deaf.write_all(&request.repeat(8)).expect("a write");
    daemon.wait_for_metric("turncast_limit_hits_total{limit=\"write_stall\"}", 1);
    daemon.stop();
}

#[test]
fn websockets_are_counted_in_all_and_per_address() {
    for (lines, limit, status) in
        [("conns = 1", "conns", "503"), ("conns_per_address = 1", "conns_per_address", "429")]
    {
        let daemon = web(lines);
        let (first, _one) = upgrade(daemon.web());
        let (second, _two) = upgrade(daemon.web());
        assert_eq!((&*first, &*second), ("101", status), "{lines}");
        assert_eq!(hits(&daemon, limit), 1);
        daemon.stop();
    }
}

#[test]
fn messages_of_a_websocket_are_limited_in_length_and_number() {
    let ping = text_frame(r#"{"t":"ping"}"#);
    let long = text_frame(&format!(r#"{{"t":"ping","x":"{}"}}"#, "x".repeat(5000)));
    let some = text_frame(&format!(r#"{{"t":"ping","x":"{}"}}"#, "x".repeat(1500)));
    for (lines, limit, frames) in [
        ("frame_bytes = 4096", "frame_bytes", long),
        ("messages_per_sec = 1", "messages", ping.repeat(10)),
        ("frame_bytes = 4096\nbytes_per_sec = 1024", "bytes", some.repeat(12)),
    ] {
        let daemon = web(lines);
        pour(daemon.web(), &[text_frame(HELLO), frames].concat());
        assert_eq!(hits(&daemon, limit), 1, "{lines}");
        daemon.wait_for_metric("turncast_conns", 0);
        daemon.stop();
    }
}

#[test]
fn hellos_of_an_address_are_limited() {
    let daemon = web("hellos_per_address_per_min = 1");
    assert_eq!(Ws::open(daemon.web()).hello("watcher", "one", None)["t"], "welcome");
    assert_eq!(Ws::open(daemon.web()).hello("watcher", "two", None)["code"], "rate-limited");
    assert_eq!(hits(&daemon, "hellos"), 1);
    daemon.stop();
}

/// A broadcaster, its welcome, and a watcher's.
fn live(daemon: &Daemon) -> ((Ws, Value), (Ws, Value)) {
    let (mut broadcaster, mut watcher) = (Ws::open(daemon.web()), Ws::open(daemon.web()));
    let own = broadcaster.hello("broadcaster", "room", None);
    let watchers = watcher.hello("watcher", "room", None);
    assert_eq!((&own["t"], &watchers["t"]), (&json!("welcome"), &json!("welcome")));
    ((broadcaster, own), (watcher, watchers))
}

#[test]
fn a_queue_is_limited_in_messages_and_bytes() {
    let all = "messages_per_sec = 100000\nbytes_per_sec = 1073741824\nwrite_stall_secs = 300\n";
    for lines in ["queue_frames = 16\nqueue_bytes = 1073741824", "queue_bytes = 65536"] {
        let daemon = web(&format!("{all}{lines}"));
        let ((mut broadcaster, _), (_deaf, welcome)) = live(&daemon);
        let offer = json!({ "t": "offer", "link": welcome["link"], "sdp": "x".repeat(60_000) });
        let begin = Instant::now();
        // The kernel swallows some megabytes before the queue begins to grow.
        while hits(&daemon, "queue") == 0 {
            for _ in 0..16 {
                broadcaster.say(&offer);
            }
            broadcaster.say(&json!({ "t": "ping" }));
            broadcaster.wait_for("pong");
            assert!(begin.elapsed() < DEADLINE, "{lines}: the queue grows without end");
        }
        daemon.stop();
    }
}

#[test]
fn rooms_and_viewers_are_limited() {
    let daemon = start("broadcast", "rooms = 1\nviewers_per_room = 1");
    let (_broadcaster, _watcher) = live(&daemon);
    let mut second = Ws::open(daemon.web());
    assert_eq!(second.hello("watcher", "room", None)["code"], "room-full");
    let mut other = Ws::open(daemon.web());
    assert_eq!(other.hello("broadcaster", "other", None)["t"], "error");
    assert_eq!((hits(&daemon, "viewers"), hits(&daemon, "rooms")), (1, 1));
    daemon.stop();
}

#[test]
fn candidates_and_rebuilds_of_a_link_are_limited() {
    let daemon = start("broadcast.limits", "candidates_per_link = 1\nrebuilds_per_min = 1");
    let ((mut broadcaster, _), (mut watcher, welcome)) = live(&daemon);
    let candidate = |port: u16| {
        let line = format!("candidate:1 1 udp 1 192.0.2.1 {port} typ host");
        json!({ "candidate": line, "sdpMid": "0", "sdpMLineIndex": 0 })
    };
    let both = json!([candidate(1), candidate(2)]);
    broadcaster.say(&json!({ "t": "candidates", "link": welcome["link"], "candidates": both }));
    assert_eq!(watcher.wait_for("candidates")["candidates"].as_array().map(Vec::len), Some(1));
    assert_eq!(hits(&daemon, "candidates"), 1);
    watcher.say(&json!({ "t": "restart", "link": welcome["link"], "rebuild": true }));
    let room = watcher.wait_for("room");
    watcher.say(&json!({ "t": "restart", "link": room["link"], "rebuild": true }));
    assert_eq!(watcher.wait_for("error")["code"], "rate-limited");
    assert_eq!(hits(&daemon, "rebuilds"), 1);
    daemon.stop();
}

#[test]
fn what_is_kept_for_a_lost_connection_is_limited() {
    for lines in ["kept_messages = 4", "kept_bytes = 1024"] {
        let daemon = start("broadcast.limits", lines);
        let ((broadcaster, own), (mut watcher, welcome)) = live(&daemon);
        drop(broadcaster);
        daemon.wait_for_metric("turncast_conns", 1);
        for _ in 0..50 {
            watcher.say(&json!({ "t": "restart", "link": welcome["link"] }));
        }
        watcher.say(&json!({ "t": "ping" }));
        watcher.wait_for("pong");
        let mut back = Ws::open(daemon.web());
        back.say(&json!({
            "t": "hello", "versions": [1], "role": "broadcaster", "room": "room",
            "resume": { "token": own["resume"], "last_seq": own["seq"] },
        }));
        assert_eq!(back.hear().expect("an answer")["t"], "welcome");
        assert_eq!(hits(&daemon, "kept_messages"), 1, "{lines}");
        daemon.stop();
    }
}

/// A connection that has begun HTTP/2, and what the daemon says first: its settings.
fn http2(daemon: &Daemon) -> (TcpStream, Vec<u8>) {
    let mut stream = connect(daemon.web());
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings].concat();
    stream.write_all(&hello).expect("a write");
    let mut header = [0; 9];
    stream.read_exact(&mut header).expect("a frame");
    assert_eq!(header[3], 4, "settings (RFC 9113, section 6.5)");
    let mut settings = vec![0; usize::from(u16::from_be_bytes([header[1], header[2]]))];
    stream.read_exact(&mut settings).expect("the settings");
    (stream, settings)
}

#[test]
fn a_connection_of_http2_has_so_many_streams_and_may_say_so_much_between_requests() {
    let daemon = web("streams_per_connection = 7\nbytes_between_requests = 65536");
    let (mut stream, settings) = http2(&daemon);
    // SETTINGS_MAX_CONCURRENT_STREAMS; who opens more is refused by the library.
    assert!(settings.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 7]), "{settings:?}");
    let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[7; 8]].concat();
    for _ in 0..=65_536 / ping.len() {
        // The connection may end while this is written.
        let _ = stream.write_all(&ping);
    }
    read_to_end(&mut stream);
    daemon.wait_for_metric("turncast_limit_hits_total{limit=\"bytes_between_requests\"}", 1);
    daemon.stop();
}
