//! Clients of the relay over TCP and TLS, through the daemon: framing, deadlines, limits, and what
//! happens when one of them is slow, silent or gone.

use std::io::{ErrorKind, Read, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use webrtc_stun::attributes::{
    ATTR_EVEN_PORT, ATTR_REQUESTED_ADDRESS_FAMILY, ATTR_RESERVATION_TOKEN, AttrType,
};

use crate::harness::{DEADLINE, Daemon, Setup, free_again};
use crate::relay::client::{Client, Relayed, relayed_addresses};
use crate::secure::{KEYS, certificate_for};
use crate::ws::Ws;

const CONFIG: &str = r#"
[turn]
users = [{ name = "alice", password = "password-of-alice-1" }]
allow_peers = ["127.0.0.3"]
[turn.limits]
"#;

const BINDING: [u8; 20] =
    [0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

fn start(limits: &str) -> Daemon {
    Setup::new(&format!("{CONFIG}{limits}\n")).start()
}

pub(crate) fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).expect("somebody listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    stream.set_nodelay(true).expect("an option of TCP");
    stream
}

fn client(daemon: &Daemon) -> Client {
    let server = daemon.turn_over("tcp");
    Client::over(connect(server), server, "alice", "password-of-alice-1")
}

fn peer() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.3:0").expect("a peer");
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let address = socket.local_addr().expect("bound");
    (socket, address)
}

/// Reads until the server closes, which it must do in time, and gives what it said before.
#[track_caller]
pub(crate) fn read_to_end(stream: &mut impl Read) -> Vec<u8> {
    let mut read = Vec::new();
    match stream.read_to_end(&mut read) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("not closed: {error}"),
        _ => read,
    }
}

pub(crate) fn limit(name: &str) -> String {
    format!("turncast_limit_hits_total{{limit=\"{name}\"}}")
}

/// A daemon with a certificate, and what trusts it.
fn start_tls(
    versions: &[&'static rustls::SupportedProtocolVersion],
    more: &str,
) -> (Daemon, ClientConfig) {
    let setup = Setup::new(&format!("{CONFIG}{KEYS}{more}"))
        .variable("TURNCAST__TURN__LISTEN", "[\"udp://127.0.0.1:0\", \"tls://127.0.0.1:0\"]");
    let trusting = certificate_for(setup.directory(), versions);
    (setup.start(), trusting)
}

pub(crate) fn connect_tls(
    server: SocketAddr,
    config: &ClientConfig,
    alpn: &[&str],
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut config = config.clone();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = "live.example.org".try_into().expect("a name");
    let tls = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut stream = StreamOwned::new(tls, connect(server));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

#[test]
fn a_tcp_client_relays_both_ways_with_every_length() {
    let daemon = start("");
    let mut client = client(&daemon);
    assert_eq!(client.bind().ip(), daemon.turn().ip());
    let relayed = client.allocate().expect("an allocation");
    let (peer, to) = peer();
    client.bind_channel(0x4000, to).expect("a channel");
    let mut buffer = vec![0; 65_535];
    for len in (0..12).chain([1_200, 9_001, 65_507]) {
        let payload: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        client.send_channel(0x4000, &payload);
        let (count, from) = peer.recv_from(&mut buffer).expect("a datagram at the peer");
        assert_eq!((&buffer[..count], from), (&payload[..], relayed));
        peer.send_to(&payload, relayed).expect("an answer");
        assert_eq!(client.receive(), Relayed::Channel(0x4000, payload));
    }
    client.refresh(0).expect("the end of the allocation");
    daemon.wait_for_metric("turncast_allocations", 0);
    // The same connection may have another one.
    client.allocate().expect("a second allocation");
    daemon.stop();
}

#[test]
fn indications_of_every_length_reach_a_tcp_client() {
    let daemon = start("");
    let mut client = client(&daemon);
    let relayed = client.allocate().expect("an allocation");
    let (peer, to) = peer();
    client.permit(&[to]).expect("a permission");
    let mut buffer = vec![0; 65_535];
    // Over UDP the last one would be too long with its header in front.
    for len in [0, 1, 2, 3, 4, 1_201, 65_400, 65_507] {
        let payload = vec![7; len];
        client.send_indication(to, &payload[..len.min(65_400)]);
        let (count, _) = peer.recv_from(&mut buffer).expect("a datagram at the peer");
        assert_eq!(count, len.min(65_400));
        peer.send_to(&payload, relayed).expect("an answer");
        let Relayed::Indication(from, read) = client.receive() else { panic!("no indication") };
        // The longest payload is padded into the length field of the message.
        assert_eq!((from, read), (to, payload));
    }
    daemon.stop();
}

#[test]
fn messages_may_come_one_byte_at_a_time_and_many_at_once() {
    let daemon = start("");
    let mut stream = connect(daemon.turn_over("tcp"));
    let mut answer = [0; 32];
    for byte in BINDING {
        stream.write_all(&[byte]).expect("a byte");
    }
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!((&answer[..2], &answer[8..20]), (&[1, 1][..], &BINDING[8..]));
    // More than one round handles, with ChannelData in between that nobody is interested in.
    let mut many = Vec::new();
    for _ in 0..300u16 {
        many.extend(BINDING);
        many.extend([0x40, 0, 0, 3, 1, 2, 3, 0]);
    }
    stream.write_all(&many).expect("many messages");
    for _ in 0..300 {
        stream.read_exact(&mut answer).expect("an answer for each");
        assert_eq!(&answer[..2], &[1, 1]);
    }
    daemon.wait_for_metric("turncast_turn_dropped_total{reason=\"no_allocation\"}", 300);
    daemon.stop();
}

#[test]
fn answers_leave_before_a_half_closed_connection_ends() {
    let daemon = start("");
    let mut stream = connect(daemon.turn_over("tcp"));
    stream.write_all(&[BINDING, BINDING].concat()).expect("two requests");
    stream.shutdown(std::net::Shutdown::Write).expect("no more from here");
    assert_eq!(read_to_end(&mut stream).len(), 64);
    daemon.wait_for_metric("turncast_turn_connections", 0);
    daemon.stop();
}

#[test]
fn a_bad_frame_closes_the_connection_and_nobody_elses() {
    let daemon = start("");
    let mut other = client(&daemon);
    other.allocate().expect("an allocation");
    for bad in [&b"\x16\x03\x01\x02\x00"[..], &[0x3F, 0xFF, 0, 1, 0], &[4, 0, 0, 0, 0]] {
        let mut stream = connect(daemon.turn_over("tcp"));
        stream.write_all(&[&BINDING[..], bad].concat()).expect("a write");
        assert_eq!(read_to_end(&mut stream).len(), 32, "what was good before is answered");
    }
    assert_eq!(daemon.metric("turncast_turn_dropped_total{reason=\"malformed\"}"), 3);
    other.refresh(600).expect("the other one's allocation lives");
    daemon.stop();
}

#[test]
fn a_malformed_message_is_dropped_and_what_follows_is_answered() {
    let daemon = start("");
    let mut stream = connect(daemon.turn_over("tcp"));
    // Another cookie, a length that is none, both; RFC 8489, section 6.3: silently discarded.
    let mut malformed = [BINDING, BINDING, BINDING].map(|binding| binding.to_vec());
    malformed[0][4..8].copy_from_slice(&[0, 0, 0, 1]);
    malformed[1][3] = 2;
    malformed[1].extend([0; 2]);
    malformed[2][3] = 1;
    malformed[2][4] = 0;
    malformed[2].push(0);
    for bytes in &malformed {
        stream.write_all(&[&bytes[..], &BINDING].concat()).expect("a write");
        let mut answer = [0; 32];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!((&answer[..2], &answer[8..20]), (&[1, 1][..], &BINDING[8..]));
    }
    assert_eq!(daemon.metric("turncast_turn_dropped_total{reason=\"malformed\"}"), 3);
    daemon.stop();
}

#[test]
fn silence_and_half_messages_end_a_connection_and_are_counted() {
    let daemon = start("idle_secs = 1\nhalf_message_secs = 2");
    let start = Instant::now();
    // Whoever has an allocation may be silent, and one that has ended gives no such right.
    let mut keeps = client(&daemon);
    keeps.allocate().expect("an allocation");
    let mut silent = connect(daemon.turn_over("tcp"));
    assert!(read_to_end(&mut silent).is_empty());
    assert!(start.elapsed().as_secs_f32() >= 1.0);
    assert_eq!(daemon.metric(&limit("idle_time")), 1);
    keeps.refresh(600).expect("it is still connected");
    let mut half = client(&daemon);
    half.allocate().expect("an allocation");
    let mut half = half.stream.expect("a stream").into_inner();
    half.write_all(&BINDING[..7]).expect("a part");
    let mut nothing = Vec::new();
    half.read_to_end(&mut nothing).expect("the server closes");
    assert_eq!((nothing.len(), daemon.metric(&limit("half_message_time"))), (0, 1));
    daemon.wait_for_metric("turncast_allocations", 1);
    keeps.refresh(0).expect("the end of the allocation");
    daemon.wait_for_metric("turncast_turn_connections", 0);
    assert_eq!(daemon.metric(&limit("idle_time")), 2);
    daemon.stop();
}

#[test]
fn too_many_connections_are_refused_and_counted() {
    let daemon = start("connections_per_address = 2");
    let server = daemon.turn_over("tcp");
    let (_one, two) = (connect(server), connect(server));
    daemon.wait_for_metric("turncast_turn_connections", 2);
    assert!(read_to_end(&mut connect(server)).is_empty());
    assert_eq!(daemon.metric(&limit("turn_connections_per_address")), 1);
    drop(two);
    daemon.wait_for_metric("turncast_turn_connections", 1);
    Client::over(connect(server), server, "alice", "password-of-alice-1").bind();
    daemon.stop();
    let daemon = start("connections = 1");
    let _one = connect(daemon.turn_over("tcp"));
    daemon.wait_for_metric("turncast_turn_connections", 1);
    assert!(read_to_end(&mut connect(daemon.turn_over("tcp"))).is_empty());
    assert_eq!(daemon.metric(&limit("turn_connections")), 1);
    daemon.stop();
}

#[test]
fn a_slow_reader_loses_packets_and_holds_up_nobody() {
    let daemon = start("write_queue_bytes = 131072");
    let mut slow = client(&daemon);
    let to_slow = slow.allocate().expect("an allocation");
    let mut quick = client(&daemon);
    let to_quick = quick.allocate().expect("an allocation");
    let (peer, from) = peer();
    slow.bind_channel(0x4000, from).expect("a channel");
    quick.bind_channel(0x4000, from).expect("a channel");
    // What the kernel takes for the slow one is full before this ends.
    let payload = [5; 60_000];
    let begin = Instant::now();
    for round in 0u64.. {
        peer.send_to(&payload, to_slow).expect("a send");
        peer.send_to(&round.to_be_bytes(), to_quick).expect("a send");
        let expected = Relayed::Channel(0x4000, round.to_be_bytes().to_vec());
        assert_eq!(quick.receive(), expected);
        if round % 64 == 0 && daemon.metric(&limit("write_queue")) > 0 {
            break;
        }
        assert!(begin.elapsed() < DEADLINE, "nothing was dropped");
    }
    // Whole messages were lost, never a part of one; the connection is as good as before. A full
    // queue holds at least these two, one of them perhaps in part.
    for _ in 0..2 {
        assert_eq!(slow.receive(), Relayed::Channel(0x4000, payload.to_vec()));
    }
    slow.refresh(600).expect("answers come behind what waits");
    daemon.stop();
}

#[test]
fn whoever_never_reads_answers_is_disconnected() {
    let daemon = start("write_queue_bytes = 131072\nunauthenticated_per_prefix_per_sec = 0");
    let mut deaf = connect(daemon.turn_over("tcp"));
    deaf.set_write_timeout(Some(DEADLINE)).expect("a deadline");
    let many = BINDING.repeat(1000);
    // The write fails once the server has closed, or nothing limits what waits for us.
    let begin = Instant::now();
    while deaf.write_all(&many).is_ok() {
        assert!(begin.elapsed() < DEADLINE, "answers pile up without end");
    }
    daemon.wait_for_metric("turncast_turn_connections", 0);
    assert_eq!(daemon.metric(&limit("write_queue")), 1);
    daemon.stop();
}

#[test]
fn an_allocation_ends_with_its_connection() {
    let daemon = start("");
    let mut gone = client(&daemon);
    let relayed = gone.allocate().expect("an allocation");
    assert_eq!(daemon.metric("turncast_allocations"), 1);
    drop(gone);
    daemon.wait_for_metric("turncast_allocations", 0);
    free_again(relayed);
    let log = daemon.stop();
    assert!(log.contains("disconnected"), "{log}");
}

#[test]
fn clients_over_tcp_and_udp_reach_each_other_through_their_relayed_addresses() {
    let daemon = start("");
    let mut streamed = client(&daemon);
    let mut plain = Client::new(daemon.turn(), "alice", "password-of-alice-1");
    let to_streamed = streamed.allocate().expect("an allocation");
    let to_plain = plain.allocate().expect("an allocation");
    streamed.bind_channel(0x4001, to_plain).expect("a channel");
    plain.permit(&[to_streamed]).expect("a permission");
    for round in 0..200u8 {
        let payload = vec![round; usize::from(round)];
        streamed.send_channel(0x4001, &payload);
        assert_eq!(plain.receive(), Relayed::Indication(to_streamed, payload.clone()));
        plain.send_indication(to_streamed, &payload);
        assert_eq!(streamed.receive(), Relayed::Channel(0x4001, payload));
    }
    assert_eq!(daemon.metric("turncast_allocations"), 2);
    let packets = daemon.metric("turncast_relayed_packets_total{direction=\"to_peer\"}");
    assert_eq!(packets, 400, "the counts of connections and workers are summed");
    daemon.stop();
}

#[test]
fn a_dead_peer_costs_a_live_one_nothing_over_tcp() {
    let daemon = start("");
    let mut client = client(&daemon);
    let relayed = client.allocate().expect("an allocation");
    let ((live, to_live), (dead, to_dead)) = (peer(), peer());
    // It holds its port but is connected elsewhere, so the kernel answers by ICMP.
    dead.connect(("127.0.0.3", 9)).expect("a peer of its own");
    client.bind_channel(0x4000, to_live).expect("a channel");
    client.bind_channel(0x4001, to_dead).expect("a channel");
    for round in 0..200u8 {
        client.send_channel(0x4001, b"anybody?");
        client.send_channel(0x4000, &[round]);
        assert_eq!(live.recv_from(&mut [0; 8]).expect("the live peer's"), (1, relayed));
        live.send_to(&[round], relayed).expect("an answer");
        assert_eq!(client.receive_payload(), Relayed::Channel(0x4000, vec![round]));
    }
    assert_eq!(daemon.metric("turncast_turn_dropped_total{reason=\"send_failed\"}"), 0);
    // Of the dead one it is told without having to send anything more.
    client.send_channel(0x4001, b"anybody?");
    assert_eq!(client.receive(), Relayed::Icmp(to_dead, 3, 3));
    daemon.stop();
}

#[test]
fn a_port_in_reserve_outlives_its_connection_and_is_claimed_over_another_transport() {
    let daemon = start("");
    let claim = |client: &mut Client, token: &[u8]| {
        let answer = client.allocate_with(&[(ATTR_RESERVATION_TOKEN, token)]);
        answer.map(|answer| relayed_addresses(&answer)[0].port())
    };
    let reserve = |client: &mut Client| {
        let answer = client.allocate_with(&[(ATTR_EVEN_PORT, &[0x80])]).expect("a pair of ports");
        let token = answer.get(ATTR_RESERVATION_TOKEN).expect("a token");
        (relayed_addresses(&answer)[0].port(), token)
    };
    let plain = || Client::new(daemon.turn(), "alice", "password-of-alice-1");
    let mut streamed = client(&daemon);
    let (even, token) = reserve(&mut streamed);
    drop(streamed);
    daemon.wait_for_metric("turncast_allocations", 0);
    assert_eq!(claim(&mut plain(), &token), Ok(even + 1));
    let (even, token) = reserve(&mut plain());
    let mut streamed = client(&daemon);
    assert_eq!(claim(&mut streamed, &token), Ok(even + 1));
    // What arrives there reaches the one who claimed it.
    let (peer, from) = peer();
    streamed.permit(&[from]).expect("a permission");
    peer.send_to(b"hello", (daemon.turn().ip(), even + 1)).expect("a send");
    assert_eq!(streamed.receive(), Relayed::Indication(from, b"hello".to_vec()));
    daemon.stop();
}

#[test]
fn a_port_reserved_on_any_worker_is_claimed_over_tcp_and_tls() {
    let config = CONFIG.replace("[turn]\n", "[turn]\nworkers = 4\n");
    let listen = "[\"udp://127.0.0.1:0\", \"tcp://127.0.0.1:0\", \"tls://127.0.0.1:0\"]";
    let setup = Setup::new(&format!("{config}{KEYS}")).variable("TURNCAST__TURN__LISTEN", listen);
    let trusting = certificate_for(setup.directory(), &[&rustls::version::TLS13]);
    let daemon = setup.start();
    let tls = daemon.turn_over("tls");
    let (peer, from) = peer();
    // The kernel picks a worker for each client over UDP: of so many, some are on different ones.
    for round in 0..16 {
        let mut plain = Client::new(daemon.turn(), "alice", "password-of-alice-1");
        let answer = plain.allocate_with(&[(ATTR_EVEN_PORT, &[0x80])]).expect("a pair of ports");
        let token = answer.get(ATTR_RESERVATION_TOKEN).expect("a token");
        let lower = relayed_addresses(&answer)[0];
        let upper = SocketAddr::new(lower.ip(), lower.port() + 1);
        let taken = UdpSocket::bind(upper).expect_err("the upper port is bound");
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        let mut claims = if round % 2 == 0 {
            client(&daemon)
        } else {
            let stream = connect_tls(tls, &trusting, &["stun.turn"]).expect("a handshake");
            Client::over(stream, tls, "alice", "password-of-alice-1")
        };
        let token = (ATTR_RESERVATION_TOKEN, &token[..]);
        let answer = claims.allocate_with(&[token]).expect("the reserved port");
        assert_eq!(relayed_addresses(&answer), [upper]);
        // It is good once, over whatever transport.
        assert_eq!(client(&daemon).allocate_with(&[token]).err(), Some(508));
        let mut other = Client::new(daemon.turn(), "alice", "password-of-alice-1");
        assert_eq!(other.allocate_with(&[token]).err(), Some(508));
        claims.bind_channel(0x4000, from).expect("a channel");
        claims.send_channel(0x4000, b"hello");
        assert_eq!(peer.recv_from(&mut [0; 16]).expect("a datagram"), (5, upper));
        peer.send_to(b"and back", upper).expect("an answer");
        assert_eq!(claims.receive(), Relayed::Channel(0x4000, b"and back".to_vec()));
        plain.refresh(0).expect("the end of the lower one");
        claims.send_channel(0x4000, b"still here");
        assert_eq!(peer.recv_from(&mut [0; 16]).expect("a datagram"), (10, upper));
        claims.refresh(0).expect("the end of the upper one");
        free_again(upper);
    }
    assert_eq!(daemon.metric("turncast_allocations"), 0);
    daemon.stop();
}

#[test]
fn both_families_are_relayed_for_one_connection() {
    let daemon = start("");
    let mut client = client(&daemon);
    // ADDITIONAL-ADDRESS-FAMILY.
    let answer = client.allocate_with(&[(AttrType(0x8000), &[2, 0, 0, 0])]).expect("both");
    let [v4, v6] = relayed_addresses(&answer)[..] else { panic!("two relayed addresses") };
    assert!(v4.is_ipv4() && v6.is_ipv6());
    let mut other = Client::new(daemon.turn(), "alice", "password-of-alice-1");
    let family_of_v6 = &[(ATTR_REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0][..])];
    let answer = other.allocate_with(family_of_v6).expect("an IPv6 allocation");
    let to_other = relayed_addresses(&answer)[0];
    client.permit(&[to_other]).expect("a permission");
    other.permit(&[v6]).expect("a permission");
    other.send_indication(v6, b"hello");
    assert_eq!(client.receive(), Relayed::Indication(to_other, b"hello".to_vec()));
    client.send_unfragmented(to_other, b"and back");
    assert_eq!(other.receive(), Relayed::Indication(v6, b"and back".to_vec()));
    client.delete_family(2).expect("one is left");
    assert_eq!(daemon.metric("turncast_allocations"), 2);
    drop(client);
    daemon.wait_for_metric("turncast_allocations", 1);
    daemon.stop();
}

#[test]
fn a_revoked_grant_ends_the_allocation_of_a_tcp_client() {
    let daemon = start("");
    let mut watcher = Ws::open(daemon.web());
    let welcome = watcher.hello("watcher", "some-room", None);
    let server = &welcome["ice"]["servers"][0];
    let text = |name: &str| server[name].as_str().expect("a text").to_owned();
    let (username, credential) = (text("username"), text("credential"));
    let tcp = daemon.turn_over("tcp");
    let mut client = Client::over(connect(tcp), tcp, &username, &credential);
    client.allocate().expect("an allocation");
    assert_eq!(daemon.metric("turncast_allocations"), 1);
    // Whoever leaves takes the grants of the link along.
    watcher.say(&serde_json::json!({ "t": "bye" }));
    daemon.wait_for_metric("turncast_allocations", 0);
    assert!(client.refresh(600).is_err());
    let log = daemon.stop();
    assert!(log.contains("revoked"), "{log}");
}

#[test]
fn a_stop_ends_the_connections_of_clients() {
    let daemon = Setup::new(&format!("shutdown_secs = 5\n{CONFIG}")).start();
    let mut keeps = client(&daemon);
    keeps.allocate().expect("an allocation");
    let mut silent = connect(daemon.turn_over("tcp"));
    daemon.wait_for_metric("turncast_turn_connections", 2);
    let begin = Instant::now();
    let log = daemon.stop();
    assert!(begin.elapsed().as_secs_f32() < 3.5, "{:?}", begin.elapsed());
    assert!(!log.contains("left behind") && !log.contains("cut at the deadline"), "{log}");
    assert!(read_to_end(&mut silent).is_empty());
}

#[test]
fn tls_is_spoken_in_both_versions_and_by_the_names_of_rfc_7443() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (daemon, config) = start_tls(&[version], "");
        for (offered, chosen) in [
            (&[][..], None),
            (&["stun.turn"][..], Some(&b"stun.turn"[..])),
            (&["stun.nat-discovery"], Some(b"stun.nat-discovery")),
            (&["h2", "stun.nat-discovery", "stun.turn"], Some(b"stun.turn")),
        ] {
            let stream =
                connect_tls(daemon.turn_over("tls"), &config, offered).expect("a handshake");
            assert_eq!(stream.conn.alpn_protocol(), chosen, "{offered:?}");
            let server = daemon.turn_over("tls");
            let mut client = Client::over(stream, server, "alice", "password-of-alice-1");
            let relayed = client.allocate().expect("an allocation");
            let (peer, to) = peer();
            client.bind_channel(0x4000, to).expect("a channel");
            for len in [0, 3, 1_200, 40_000] {
                client.send_channel(0x4000, &vec![1; len]);
                let (count, _) = peer.recv_from(&mut vec![0; 65_535]).expect("a datagram");
                assert_eq!(count, len);
                peer.send_to(&vec![2; len], relayed).expect("an answer");
                assert_eq!(client.receive(), Relayed::Channel(0x4000, vec![2; len]));
            }
        }
        assert!(
            connect_tls(daemon.turn_over("tls"), &config, &["http/1.1"]).is_err(),
            "no web server is here"
        );
        daemon.wait_for_metric("turncast_turn_connections", 0);
        daemon.stop();
    }
}

#[test]
fn a_handshake_that_does_not_go_on_is_cut_and_counted() {
    let more = "[web.limits]\nhandshake_secs = 1\n";
    let (daemon, _) = start_tls(&[&rustls::version::TLS13], more);
    let mut silent = connect(daemon.turn_over("tls"));
    assert!(read_to_end(&mut silent).is_empty());
    daemon.wait_for_metric(&limit("handshake_time"), 1);
    daemon.stop();
}
