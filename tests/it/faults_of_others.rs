//! Faults that TURN servers are known for, each looked for in this daemon.
//!
//! Elsewhere: memory for each stranger (`flood.rs`), a busy port that ends the relay
//! (`resilience.rs`), an unreachable peer that ends an allocation (`relay/`, `streams.rs`), one
//! slow browser that holds up the hub (`limits_of_pages.rs`), padding that leaks memory and a
//! quota that is released too early (`src/turn/tests/`).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use turncast::stun::{
    Class, LongTermKeys, Message, Method, PasswordAlgorithm, TransactionId, Writer, attr,
};
use webrtc_stun::attributes::{
    ATTR_EVEN_PORT, ATTR_REQUESTED_ADDRESS_FAMILY, ATTR_RESERVATION_TOKEN,
};

use crate::harness::{DEADLINE, Daemon, Setup};
use crate::relay::client::Client;

const CONFIG: &str = r#"
[turn]
users = [{ name = "alice", password = "password-of-alice-1" }]
"#;

fn client(daemon: &Daemon) -> Client {
    Client::new(daemon.turn(), "alice", "password-of-alice-1")
}

/// A client with an IPv6 relayed address.
fn client_ipv6(daemon: &Daemon) -> Client {
    let mut client = client(daemon);
    let ipv6 = [(ATTR_REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0][..])];
    client.allocate_with(&ipv6).expect("an IPv6 allocation");
    client
}

fn address(text: &str) -> SocketAddr {
    SocketAddr::new(text.parse::<IpAddr>().expect("an address"), 9)
}

#[test]
fn no_encoding_of_an_address_gets_past_the_policy() {
    // A relay address is no peer by itself, but a permission for it is granted: see `policy.txt`.
    let relay = "relay_addresses = [\"127.0.0.9\", \"::1\"]\n";
    let daemon = Setup::new(&format!("{CONFIG}{relay}")).start();
    let mut ipv4 = client(&daemon);
    ipv4.allocate().expect("an allocation");
    let mut ipv6 = client_ipv6(&daemon);
    let dropped = || {
        let reasons = ["no_permission", "peer_forbidden"];
        let count =
            |why| daemon.metric(&format!("turncast_turn_dropped_total{{reason=\"{why}\"}}"));
        reasons.into_iter().map(count).sum::<u64>()
    };
    for text in [
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "169.254.169.254",
        "255.255.255.255",
        "::",
        "::ffff:127.0.0.1",
        "::ffff:9.9.9.9",
        "::127.0.0.1",
        // NAT64, 6to4, Teredo and ISATAP, around an IPv4 address that is denied.
        "64:ff9b::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::127.0.0.1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "2001:0:7f00:1::1",
        "2600::5efe:127.0.0.1",
        "2600::200:5efe:10.0.0.1",
        "fe80::1",
        "fc00::1",
        "ff02::1",
    ] {
        let peer = address(text);
        let client = if peer.is_ipv4() { &mut ipv4 } else { &mut ipv6 };
        assert_eq!(client.permit(&[peer]), Err(403), "{text}");
        assert_eq!(client.bind_channel(0x4000, peer), Err(403), "{text}");
        let before = dropped();
        client.send_indication(peer, b"let me in");
        client.bind();
        assert_eq!(dropped(), before + 1, "{text}");
    }
    assert_eq!(daemon.metric("turncast_relayed_packets_total{direction=\"to_peer\"}"), 0);
    // Around one that is not it is what it looks like, but for 6to4, which goes round in circles.
    ipv6.permit(&[address("64:ff9b::9.9.9.9")]).expect("a permission");
    assert_eq!(ipv6.permit(&[address("2002:909:909::1")]), Err(403));
    daemon.stop();
}

#[test]
fn a_prefix_of_ipv6_is_compared_by_bits() {
    let deny = "deny_peers = [\"2600:1:8000::/33\", \"2600:2::/127\"]\n";
    let daemon = Setup::new(&format!("{CONFIG}{deny}")).start();
    let mut client = client_ipv6(&daemon);
    for (text, denied) in [
        ("2600:1:7fff:ffff:ffff:ffff:ffff:ffff", false),
        ("2600:1:8000::", true),
        ("2600:1:ffff:ffff:ffff:ffff:ffff:ffff", true),
        ("2600:2::", true),
        ("2600:2::1", true),
        ("2600:2::2", false),
    ] {
        assert_eq!(client.permit(&[address(text)]).is_err(), denied, "{text}");
    }
    daemon.stop();
}

/// One request and its answer.
fn exchange(socket: &UdpSocket, request: &[u8]) -> Vec<u8> {
    socket.send(request).expect("a send");
    let mut answer = vec![0; 1500];
    let len = socket.recv(&mut answer).expect("an answer");
    answer.truncate(len);
    answer
}

fn connected(daemon: &Daemon, from: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(from).expect("a socket");
    socket.connect(daemon.turn()).expect("a route");
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    socket
}

fn writer(method: Method, id: u8) -> Writer {
    let writer = Writer::new(Class::Request, method, TransactionId([id; 12]));
    writer.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
}

/// The nonce of a fresh challenge.
fn nonce(socket: &UdpSocket) -> Vec<u8> {
    let answer = exchange(socket, &writer(Method::ALLOCATE, 1).finish(None, false));
    let challenge = Message::parse(&answer).expect("a challenge");
    challenge.first(attr::NONCE).expect("a nonce").to_vec()
}

#[test]
fn what_stands_behind_the_integrity_is_not_obeyed() {
    let daemon = Setup::new(CONFIG).start();
    let socket = connected(&daemon, ([127, 0, 0, 1], 0).into());
    let nonce = nonce(&socket);
    let keys = LongTermKeys::derive("alice", "turncast", "password-of-alice-1");
    let signed = |method, id| {
        let writer = writer(method, id).attribute(attr::USERNAME, b"alice");
        let writer = writer.attribute(attr::REALM, b"turncast").attribute(attr::NONCE, &nonce);
        writer.finish(Some(keys.by(PasswordAlgorithm::Md5)), false)
    };
    let answer = exchange(&socket, &signed(Method::ALLOCATE, 2));
    assert_eq!(Message::parse(&answer).expect("an answer").class(), Class::Success);
    // A LIFETIME of 0 that somebody on the path has put behind what alice has signed.
    let mut refresh = signed(Method::REFRESH, 3);
    refresh.extend([0x00, 0x0D, 0, 4, 0, 0, 0, 0]);
    let len = u16::try_from(refresh.len() - 20).expect("short").to_be_bytes();
    refresh[2..4].copy_from_slice(&len);
    let answer = exchange(&socket, &refresh);
    let answer = Message::parse(&answer).expect("an answer");
    assert_eq!(answer.class(), Class::Success);
    assert_eq!(answer.first(attr::LIFETIME), Some(&600u32.to_be_bytes()[..]));
    assert_eq!(daemon.metric("turncast_allocations"), 1);
    daemon.stop();
}

#[test]
fn nonces_and_ports_cannot_be_foretold() {
    let (one, two) = (Setup::new(CONFIG).start(), Setup::new(CONFIG).start());
    // The same client in front of two daemons: behind cookie, features and time, all differs.
    let same = connected(&one, ([127, 0, 0, 77], 0).into());
    let own = same.local_addr().expect("bound");
    let of_one = nonce(&same);
    same.connect(two.turn()).expect("a route");
    assert_eq!(same.local_addr().expect("bound"), own);
    let of_two = nonce(&same);
    assert_ne!(of_one[20..], of_two[20..]);
    // Many clients in front of one, each at a port of its own.
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let clients: Vec<_> = (0..100).map(|_| connected(&one, any)).collect();
    let all: BTreeSet<Vec<u8>> = clients.iter().map(|client| nonce(client)[20..].into()).collect();
    assert_eq!(all.len(), 100);
    // The next port is a neighbour of the last one as rarely as chance has it: once in 8,192.
    let mut last = 0u16;
    let mut neighbours = 0;
    for _ in 0..200 {
        let mut client = client(&one);
        let port = client.allocate().expect("an allocation").port();
        neighbours += u32::from(port.abs_diff(last) <= 1);
        last = port;
        client.refresh(0).expect("the end");
    }
    assert!(neighbours < 4, "{neighbours} of 200 ports are next to the one before");
    one.stop();
    two.stop();
}

#[test]
fn pairs_of_ports_lose_none() {
    let [.., high, low] = std::process::id().to_be_bytes();
    let own = format!("127.{}.{low}.77", 96 + high % 16);
    let relay = format!("relay_addresses = [\"{own}\"]\nrelay_ports = \"50000-50001\"\n");
    let daemon = Setup::new(&format!("{CONFIG}{relay}")).start();
    let (mut lower, mut upper) = (client(&daemon), client(&daemon));
    for _ in 0..50 {
        let answer = lower.allocate_with(&[(ATTR_EVEN_PORT, &[0x80])]).expect("a pair");
        let token = answer.get(ATTR_RESERVATION_TOKEN).expect("a token");
        // None is left, neither for a pair nor alone.
        assert_eq!(client(&daemon).allocate(), Err(508));
        upper.allocate_with(&[(ATTR_RESERVATION_TOKEN, &token)]).expect("the upper one");
        lower.refresh(0).expect("the end");
        // A lower one alone makes no pair.
        let pair = lower.allocate_with(&[(ATTR_EVEN_PORT, &[0x80])]);
        assert_eq!(pair.map(|_| ()), Err(508));
        upper.refresh(0).expect("the end");
    }
    lower.allocate().expect("one of two");
    upper.allocate().expect("the other one");
    daemon.stop();
}

#[test]
fn whoever_scans_the_relay_writes_nothing_into_its_log() {
    let daemon = Setup::new(CONFIG)
        .variable("TURNCAST__TURN__WORKERS", "1")
        .variable("TURNCAST__LOG__LEVEL", "debug")
        .start();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let lines = || daemon.log().lines().filter(|line| !line.contains("turncast::web")).count();
    let socket = connected(&daemon, any);
    nonce(&socket);
    let before = lines();
    let forged = writer(Method::REFRESH, 5)
        .attribute(attr::USERNAME, b"mallory")
        .attribute(attr::REALM, b"turncast")
        .attribute(attr::NONCE, b"obMatJos2wAAAabcdefghijklmnopqrstuvwxyz0")
        .finish(Some(&[7; 16]), false);
    for _ in 0..100 {
        for datagram in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0x16, 0x03, 0x01, 0x00],
            &[0x40, 0x00, 0x00, 0x00],
            &[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
            &writer(Method::ALLOCATE, 6).finish(None, false),
            &forged,
        ] {
            socket.send(datagram).expect("a send");
        }
        // Its answer comes after everything before it was handled.
        nonce(&connected(&daemon, any));
    }
    assert_eq!(lines(), before, "{}", daemon.log());
    daemon.stop();
}
