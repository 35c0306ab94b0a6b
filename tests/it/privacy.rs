//! What must never reach the log: secrets and raw addresses, at the most talkative level.

use std::io::Write as _;
use std::net::SocketAddr;

use serde_json::json;

use crate::harness::{Daemon, Setup};
use crate::relay::client::{Client, Stream};
use crate::secure::{KEYS, certificate_for};
use crate::streams::{connect, connect_tls, read_to_end};
use crate::tcp_relay::{Waiting, call, expect, expect_end};
use crate::ws::Ws;

const PASSWORD: &str = "password-of-alice-1";
/// What peers are told, which is nobody else's business.
const SAID: &[u8] = b"between-you-and-me";
const SECRET: &str = "shared-secret-of-a-test";
const STUDIO: &str = "key-of-the-studio-1";

fn config() -> String {
    format!(
        "[turn]\nusers = [{{ name = \"alice\", password = \"{PASSWORD}\" }}]\n\
         shared_secret = \"{SECRET}\"\nallow_peers = [\"127.0.0.3\"]\n\
         tcp_relay = true\n\
         [broadcast]\npublish = \"key\"\nkeys = [{{ name = \"studio\", key = \"{STUDIO}\" }}]\n\
         [log]\nlevel = \"trace\"\n"
    )
}

/// Clients over TCP or TLS, with allocations for UDP and TCP, and what goes wrong with each.
fn over_streams(daemon: &Daemon, transport: &str, trusting: &rustls::ClientConfig) {
    let server = daemon.turn_over(transport);
    let open = || -> Box<dyn Stream> {
        match transport {
            "tls" => Box::new(connect_tls(server, trusting, &[]).expect("a handshake")),
            _ => Box::new(connect(server)),
        }
    };
    let with = |password| Client::over(open(), server, "alice", password);
    // No message of ours, and over TLS no handshake either.
    let mut stranger = connect(server);
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n").expect("a write");
    read_to_end(&mut stranger);
    assert_eq!(with("wrong-password").allocate_tcp(), Err(401));

    let mut packets = with(PASSWORD);
    packets.allocate().expect("an allocation");
    let peer: SocketAddr = "127.0.0.3:9".parse().expect("an address");
    packets.bind_channel(0x4000, peer).expect("a channel");
    packets.send_channel(0x4000, SAID);
    packets.refresh(600).expect("refreshed");

    let mut control = with(PASSWORD);
    let relayed = control.allocate_tcp().expect("a TCP allocation");
    let forbidden = "10.1.2.3:9".parse().expect("an address");
    assert_eq!(control.connect(forbidden), Err(403));
    assert_eq!(control.connect(peer), Err(447));
    control.permit(&[peer]).expect("a permission");
    expect_end(&mut call("127.0.0.4", relayed));
    let waiting = Waiting::new();
    let id = control.connect(waiting.address).expect("a connection");
    let (at_peer, _) = waiting.accept();
    let called = call("127.0.0.3", relayed);
    let (of_call, _) = control.attempt();
    for (id, mut at_peer) in [(id, at_peer), (of_call, called)] {
        assert_eq!(with("wrong-password").bind_connection(id), Err(401));
        let mut data = with(PASSWORD);
        data.bind_connection(id).expect("a data connection");
        at_peer.write_all(SAID).expect("a write");
        let mut at_client = data.stream.take().expect("a stream").into_inner();
        expect(&mut at_client, SAID);
    }
    control.refresh(0).expect("deleted");
}

#[test]
fn no_secret_and_no_raw_address_reaches_the_log() {
    let setup = Setup::new(&config());
    let daemon = setup.start();
    let mut secrets = vec![PASSWORD.to_owned(), SECRET.to_owned(), STUDIO.to_owned()];
    for name in ["hub.key", "broadcast.key"] {
        let key = std::fs::read_to_string(setup.state().join(name)).expect("a generated key");
        secrets.push(key.trim().to_owned());
    }

    // Everything that has an address or a secret in it, right and wrong.
    let mut client = Client::new(daemon.turn(), "alice", PASSWORD);
    client.bind();
    client.allocate().expect("an allocation");
    let peer: SocketAddr = "127.0.0.3:9".parse().expect("an address");
    client.permit(&[peer]).expect("a permission");
    assert_eq!(client.permit(&["10.1.2.3:9".parse().expect("an address")]), Err(403));
    client.bind_channel(0x4000, peer).expect("a channel");
    client.send_channel(0x4000, b"into the void");
    client.refresh(0).expect("deleted");
    assert_eq!(Client::new(daemon.turn(), "alice", "wrong-password").allocate(), Err(401));

    let mut broadcaster = Ws::open(daemon.web());
    let welcome = broadcaster.hello("broadcaster", "studio", Some(STUDIO));
    assert_eq!(welcome["t"], "welcome", "{welcome}");
    let mut watcher = Ws::open(daemon.web());
    let watching = watcher.hello("watcher", "studio", None);
    for welcome in [&welcome, &watching] {
        let credential = welcome["ice"]["servers"][0]["credential"].as_str();
        secrets.push(credential.expect("a credential").to_owned());
        secrets.push(welcome["resume"].as_str().expect("a token").to_owned());
    }
    secrets.push(welcome["room_key"].as_str().expect("a room key").to_owned());
    let joined = broadcaster.wait_for("member");
    let candidate = "candidate:1 1 udp 1 192.0.2.99 9 typ host";
    broadcaster.say(&json!({
        "t": "candidates", "link": joined["link"],
        "candidates": [{ "candidate": candidate, "sdpMid": "0", "sdpMLineIndex": 0 }]
    }));
    watcher.wait_for("candidates");
    let mut wrong = Ws::open(daemon.web());
    assert_eq!(wrong.hello("broadcaster", "x", Some("wrong-key-of-somebody"))["t"], "error");
    secrets.extend(["wrong-password", "wrong-key-of-somebody"].map(str::to_owned));

    assert_keeps(&daemon.stop(), &secrets);
}

#[test]
fn neither_do_those_of_clients_over_tcp_and_tls_and_of_tcp_allocations() {
    let setup = Setup::new(&format!("{}{KEYS}", config()))
        .variable("TURNCAST__TURN__LISTEN", "[\"tcp://127.0.0.1:0\", \"tls://127.0.0.1:0\"]");
    let trusting = certificate_for(setup.directory(), &[&rustls::version::TLS13]);
    let daemon = setup.start();
    for transport in ["tcp", "tls"] {
        over_streams(&daemon, transport, &trusting);
    }
    let said = std::str::from_utf8(SAID).expect("text");
    let secrets = [PASSWORD, "wrong-password", SECRET, STUDIO, said];
    assert_keeps(&daemon.stop(), &secrets.map(str::to_owned));
}

/// No secret and no raw address is in a log at the most talkative level.
#[track_caller]
fn assert_keeps(log: &str, secrets: &[String]) {
    assert!(log.lines().count() > 10, "the level is trace:\n{log}");
    for secret in secrets {
        assert!(!log.contains(secret.as_str()), "{secret} is in\n{log}");
    }
    for line in log.lines() {
        let mut line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        // Our own listeners are no visitors.
        line.as_object_mut().expect("an object").remove("listener");
        let line = line.to_string();
        for address in ["127.0.0.1", "127.0.0.3", "127.0.0.4", "10.1.2.3", "192.0.2.99"] {
            assert!(!line.contains(address), "{address} is in {line}");
        }
    }
    assert!(log.contains("127.0.0.0/24"), "addresses are there, cut to their prefix:\n{log}");
}
