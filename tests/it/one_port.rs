//! Pages, signaling and the relay over one port, all at once, and what strangers can do to it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::harness::{Daemon, Setup, text};
use crate::https;
use crate::relay::client::Client;
use crate::secure::{self, connect_from, get, secure};
use crate::ws::Ws;

const CONFIG: &str = r#"
public_host = "live.example.org"
[turn]
users = [{ name = "alice", password = "password-of-alice-1" }]
allow_peers = ["127.0.0.3"]
[broadcast]
publish = "open"
"#;

const BINDING: [u8; 20] =
    [0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

fn here() -> std::net::IpAddr {
    "127.0.0.1".parse().expect("an address")
}

/// The relay listens over UDP alone, so that TCP is what the pages' listener takes.
fn start(more: &str) -> (Daemon, rustls::ClientConfig, Setup) {
    let setup = Setup::new(&format!("{CONFIG}{}{more}", secure::KEYS))
        .variable("TURNCAST__TURN__LISTEN", "udp://127.0.0.1:0");
    let trusting = secure::certificate(setup.directory());
    (setup.start(), trusting, setup)
}

fn uclient(daemon: &Daemon, more: &[&str]) -> Child {
    Command::new("timeout")
        .args(["60", "turnutils_uclient", "-y", "-c", "-t", "-s", "-n", "200"])
        .args(["-p", &daemon.https().port().to_string(), "-u", "alice"])
        .args(["-w", "password-of-alice-1"])
        .args(more)
        .arg("127.0.0.1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("timeout (coreutils) runs")
}

#[track_caller]
fn assert_relayed_all(child: Child) {
    let output = child.wait_with_output().expect("turnutils_uclient (apt-get install coturn)");
    let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{all}");
    assert!(all.contains("tot_send_msgs=400, tot_recv_msgs=400\n"), "{all}");
}

/// Connections that began something and do not go on.
fn half_open(daemon: &Daemon, trusting: &rustls::ClientConfig) -> Vec<TcpStream> {
    let hello = [&[0x16, 3, 1, 0, 200, 1][..], &[0; 40]].concat();
    let halves: [&[u8]; 5] =
        [b"", &hello, &BINDING[..7], b"GET / HTTP/1.1\r\nHost: live.exa", b"PRI * HTTP/2.0\r\n"];
    let mut open = Vec::new();
    for _ in 0..10 {
        for half in halves {
            let mut stream = connect_from(here(), daemon.https());
            stream.write_all(half).expect("written");
            open.push(stream);
        }
        // The same inside TLS.
        for half in [&b"GET / HT"[..], &BINDING[..5], b"PRI * "] {
            let mut stream = secure(connect_from(here(), daemon.https()), trusting, &["h2"]);
            stream.write_all(half).expect("written");
            open.push(stream.sock);
        }
    }
    open
}

#[test]
fn relay_pages_and_sockets_share_a_port_while_others_dawdle() {
    let (daemon, trusting, _setup) = start("");
    let web = daemon.https();
    let dawdlers = half_open(&daemon, &trusting);
    let mut sockets: Vec<Ws> = (0..4)
        .map(|_| {
            let stream = secure(connect_from(here(), web), &trusting, &["http/1.1"]);
            Ws::try_over(stream, secure::NAME, &[]).expect("a WebSocket")
        })
        .collect();
    let rooms = ["a", "a", "b", "b"];
    for (index, (socket, room)) in sockets.iter_mut().zip(rooms).enumerate() {
        let role = if index % 2 == 0 { "broadcaster" } else { "watcher" };
        assert_eq!(socket.hello(role, room, None)["t"], "welcome");
    }
    let wrk = Command::new("timeout")
        .args(["60", "wrk", "-t1", "-c8", "-d5s", "-H", "Host: live.example.org"])
        .arg(format!("https://{web}/watch/room"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("timeout (coreutils) runs");
    let (over_tls, over_tcp) = (uclient(&daemon, &["-S"]), uclient(&daemon, &[]));
    assert_relayed_all(over_tls);
    assert_relayed_all(over_tcp);
    for socket in &mut sockets {
        socket.say(&json!({ "t": "ping", "id": "p" }));
        assert_eq!(socket.wait_for("pong")["re"], "p");
    }
    let output = wrk.wait_with_output().expect("wrk (apt-get install wrk)");
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && said.contains("Requests/sec"), "{said}");
    assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "{said}");
    drop(dawdlers);
    daemon.stop();
}

#[test]
fn every_kind_of_dawdler_is_closed_and_nobody_else() {
    let (daemon, trusting, _setup) = start("[web.limits]\nhandshake_secs = 1\n");
    let tls = secure(connect_from(here(), daemon.https()), &trusting, &["stun.turn"]);
    let mut client = Client::over(tls, daemon.https(), "alice", "password-of-alice-1");
    client.allocate().expect("an allocation");
    for mut stream in half_open(&daemon, &trusting) {
        let mut rest = Vec::new();
        // What was not read by us makes the end a reset.
        let ended = stream.read_to_end(&mut rest);
        let late = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!late, "it is still open");
    }
    daemon.wait_for_metric("turncast_limit_hits_total{limit=\"handshake_time\"}", 80);
    client.refresh(600).expect("the allocation lives");
    daemon.stop();
}

#[test]
fn turn_clients_of_the_pages_port_have_the_places_of_the_relay() {
    let more = "[turn.limits]\nconnections_per_address = 1\nidle_secs = 600\n";
    let (daemon, trusting, _setup) = start(more);
    let mut first = Client::over(
        connect_from(here(), daemon.https()),
        daemon.https(),
        "alice",
        "password-of-alice-1",
    );
    let mapped = first.bind();
    assert_eq!(mapped.ip(), here());
    let mut second = secure(connect_from(here(), daemon.https()), &trusting, &[]);
    second.write_all(&BINDING).expect("written");
    let mut rest = Vec::new();
    let _ = second.read_to_end(&mut rest);
    assert!(rest.is_empty(), "it is closed without a word");
    let limit = "turncast_limit_hits_total{limit=\"turn_connections_per_address\"}";
    daemon.wait_for_metric(limit, 1);
    let page = get(secure(connect_from(here(), daemon.https()), &trusting, &[]), "/");
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    daemon.stop();
}

#[test]
fn a_stop_waits_for_no_client_of_the_relay() {
    let (daemon, trusting, _setup) = start("");
    let tls = secure(connect_from(here(), daemon.https()), &trusting, &[]);
    let mut client = Client::over(tls, daemon.https(), "alice", "password-of-alice-1");
    client.allocate().expect("an allocation");
    let began = std::time::Instant::now();
    let log = daemon.stop();
    assert!(!log.contains("were cut at the deadline"), "{log}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn browsers_are_told_one_url_for_udp_and_one_for_the_port_of_the_pages() {
    let told = |more: &str, variables: &[(&str, &str)]| -> Vec<String> {
        let mut setup = Setup::new(&format!("{CONFIG}{}{more}", secure::KEYS));
        for (name, value) in variables {
            setup = setup.variable(name, value);
        }
        let trusting = secure::certificate(setup.directory());
        let daemon = setup.start();
        let stream = secure(connect_from(here(), daemon.https()), &trusting, &["http/1.1"]);
        let mut socket = Ws::try_over(stream, secure::NAME, &[]).expect("a WebSocket");
        let welcome = socket.hello("broadcaster", "room", None);
        let urls = welcome["ice"]["servers"][0]["urls"].as_array().cloned().unwrap_or_default();
        let urls = urls.iter().map(|url| url.as_str().expect("a text"));
        let port = daemon.https().port().to_string();
        let urls = urls.map(|url| url.replace(&port, "PAGES")).collect();
        daemon.stop();
        urls
    };
    let udp = "[\"udp://127.0.0.1:0\"]";
    let urls = told("", &[("TURNCAST__TURN__LISTEN", udp)]);
    assert_eq!(urls.len(), 2, "{urls:?}");
    assert!(urls[0].starts_with("turn:live.example.org:"), "{urls:?}");
    assert_eq!(urls[1], "turns:live.example.org:PAGES?transport=tcp");
    let forwarded = told("[public_ports]\ntcp = 443\nudp = 3478\n", &[]);
    let expected =
        ["turn:live.example.org:3478?transport=udp", "turns:live.example.org:443?transport=tcp"];
    assert_eq!(forwarded, expected);
    let none = "[public_ports]\ntcp = 0\nudp = 0\n";
    let nothing = told(none, &[("TURNCAST__TURN__LISTEN", udp)]);
    assert!(nothing.is_empty(), "{nothing:?}");
    let own = told(none, &[("TURNCAST__TURN__LISTEN", "tcp://127.0.0.1:0")]);
    assert_eq!(own.len(), 1, "the relay's own port is not that of the pages: {own:?}");
    assert!(own[0].starts_with("turn:live.example.org:"), "{own:?}");
    assert!(own[0].ends_with("?transport=tcp") && !own[0].contains("PAGES"), "{own:?}");
}

#[test]
fn where_browsers_would_not_trust_the_certificate_they_are_told_plain_tcp() {
    let setup = Setup::new(&format!("{CONFIG}[tls]\nmode = \"self-signed\"\n"))
        .variable("TURNCAST__TURN__LISTEN", "udp://127.0.0.1:0");
    let daemon = setup.start();
    let stream = secure(connect_from(here(), daemon.https()), &https::credulous(), &["http/1.1"]);
    let mut socket = Ws::try_over(stream, secure::NAME, &[]).expect("a WebSocket");
    let welcome = socket.hello("broadcaster", "room", None);
    let expected = [
        format!("turn:live.example.org:{}?transport=udp", daemon.turn().port()),
        format!("turn:live.example.org:{}?transport=tcp", daemon.https().port()),
    ];
    assert_eq!(welcome["ice"]["servers"][0]["urls"], json!(expected));
    // And there it is.
    let tcp = connect_from(here(), daemon.https());
    let mut client = Client::over(tcp, daemon.https(), "alice", "password-of-alice-1");
    client.allocate().expect("an allocation");
    daemon.stop();
}

#[test]
fn no_weak_protocol_or_cipher_is_spoken() {
    let (daemon, _, setup) = start("");
    let report = setup.directory().join("testssl.json");
    let output = Command::new("timeout")
        .args(["300", "testssl", "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none"])
        .args(["--ip", "127.0.0.1", "--protocols", "--std"])
        .args(["--server-preference", "--jsonfile"])
        .arg(&report)
        .arg(format!("https://live.example.org:{}", daemon.https().port()))
        .stdin(Stdio::null())
        .output()
        .expect("timeout (coreutils) runs");
    let said = text(&output.stdout);
    let report = std::fs::read_to_string(&report)
        .unwrap_or_else(|_| panic!("testssl (apt-get install testssl.sh): {said}"));
    let findings: Vec<serde_json::Value> = serde_json::from_str(&report).expect("JSON");
    let of = |id: &str| {
        let found = findings.iter().find(|finding| finding["id"] == id);
        let found = found.unwrap_or_else(|| panic!("{id} is not in:\n{said}"));
        found["finding"].as_str().expect("a text")
    };
    for id in ["SSLv2", "SSLv3", "TLS1", "TLS1_1", "cipherlist_NULL", "cipherlist_LOW"] {
        assert!(of(id).starts_with("not offered"), "{id}: {}\n{said}", of(id));
    }
    for id in ["TLS1_2", "TLS1_3"] {
        assert!(of(id).starts_with("offered"), "{id}: {}\n{said}", of(id));
    }
    for finding in &findings {
        let severity = finding["severity"].as_str().expect("a text");
        // The certificate is the test's own; what is looked at is what is spoken.
        assert!(!["LOW", "MEDIUM", "HIGH", "CRITICAL"].contains(&severity), "{finding}\n{said}");
    }
    daemon.stop();
}
