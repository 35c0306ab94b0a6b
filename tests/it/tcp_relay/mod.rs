//! TCP allocations (RFC 6062) through the daemon: connections to and from peers, what they carry,
//! what bounds them, and what ends them.

mod ends;
mod limits;
mod oracle;

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;

use socket2::{Domain, Socket, Type};

use crate::harness::{DEADLINE, Daemon, Setup};
use crate::relay::client::Client;
use crate::secure::{KEYS, certificate_for};
use crate::streams::{connect, connect_tls};

const CONFIG: &str = r#"
[turn]
tcp_relay = true
users = [
    { name = "alice", password = "password-of-alice-1" },
    { name = "bob", password = "password-of-bob-1" },
]
allow_peers = ["127.0.0.3"]
[turn.limits]
"#;

fn start(limits: &str) -> Daemon {
    Setup::new(&format!("{CONFIG}{limits}\n")).start()
}

fn client(daemon: &Daemon) -> Client {
    let server = daemon.turn_over("tcp");
    Client::over(connect(server), server, "alice", "password-of-alice-1")
}

/// A client with an allocation, and its relayed address.
fn allocated(daemon: &Daemon) -> (Client, SocketAddr) {
    let mut client = client(daemon);
    let relayed = client.allocate_tcp().expect("a TCP allocation");
    (client, relayed)
}

/// A peer that waits for connections.
pub(crate) struct Waiting {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Waiting {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.3:0").expect("a peer");
        let address = listener.local_addr().expect("bound");
        Self { listener, address }
    }

    /// The next connection, and where it comes from.
    pub(crate) fn accept(&self) -> (TcpStream, SocketAddr) {
        let (stream, from) = self.listener.accept().expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        (stream, from)
    }
}

/// A connection of a peer at `ip` to a relayed address.
pub(crate) fn call(ip: &str, relayed: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let from: SocketAddr = format!("{ip}:0").parse().expect("an address");
    socket.bind(&from.into()).expect("an address of this host");
    socket.connect(&relayed.into()).expect("somebody listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    stream
}

/// The client's end of connection `id`.
fn bind(daemon: &Daemon, id: u32) -> TcpStream {
    let server = daemon.turn_over("tcp");
    let stream = connect(server);
    let copy = stream.try_clone().expect("a copy");
    let mut client = Client::over(copy, server, "alice", "password-of-alice-1");
    client.bind_connection(id).expect("a data connection");
    stream
}

/// Both ends of a data connection.
fn spliced(daemon: &Daemon, client: &mut Client, peer: &Waiting) -> (TcpStream, TcpStream) {
    let id = client.connect(peer.address).expect("a connection");
    let (at_peer, _) = peer.accept();
    (bind(daemon, id), at_peer)
}

#[track_caller]
pub(crate) fn expect(stream: &mut impl Read, expected: &[u8]) {
    let mut read = vec![0; expected.len()];
    stream.read_exact(&mut read).expect("bytes in time");
    assert!(read == expected, "other bytes");
}

/// Waits for the end of a stream, in order or not.
#[track_caller]
pub(crate) fn expect_end(stream: &mut TcpStream) {
    match stream.read(&mut [0; 64]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("not closed: {other:?}"),
    }
}

/// Bytes that repeat after a prime number of them only.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

#[test]
fn bytes_go_both_ways_as_they_are() {
    let daemon = start("");
    let (mut client, relayed) = allocated(&daemon);
    let peer = Waiting::new();
    let id = client.connect(peer.address).expect("a connection");
    let (mut at_peer, from) = peer.accept();
    assert_eq!(from, relayed, "the peer sees the relayed address");
    // What the peer says before the client is there is not lost.
    at_peer.write_all(&pattern(100_000)).expect("a write");
    let mut at_client = bind(&daemon, id);
    expect(&mut at_client, &pattern(100_000));
    // No message of ours can be made of it.
    at_client.write_all(b"\x00\x01\x00\x00 GET / HTTP/1.1\r\n").expect("a write");
    expect(&mut at_peer, b"\x00\x01\x00\x00 GET / HTTP/1.1\r\n");
    let large = pattern(3_000_000);
    std::thread::scope(|scope| {
        scope.spawn(|| (&at_client).write_all(&large).expect("a write"));
        scope.spawn(|| (&at_peer).write_all(&large).expect("a write"));
        scope.spawn(|| expect(&mut &at_peer, &large));
        expect(&mut &at_client, &large);
    });
    assert_eq!(daemon.metric("turncast_data_connections"), 1);
    let bytes =
        |to: &str| daemon.metric(&format!("turncast_relayed_bytes_total{{direction=\"{to}\"}}"));
    assert_eq!((bytes("to_peer"), bytes("to_client")), (3_000_021, 3_100_000));
    client.refresh(600).expect("the control connection is as good as before");
    daemon.stop();
}

/// Writes `early` behind the next message, by one call.
struct Together {
    stream: TcpStream,
    early: Rc<RefCell<Vec<u8>>>,
}

impl Read for Together {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for Together {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let early = self.early.take();
        self.stream.write_all(&[bytes, &early[..]].concat())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

#[test]
fn what_follows_the_request_at_once_is_the_peers() {
    let daemon = start("");
    let (mut client, _) = allocated(&daemon);
    let peer = Waiting::new();
    let id = client.connect(peer.address).expect("a connection");
    let (mut at_peer, _) = peer.accept();
    let server = daemon.turn_over("tcp");
    let mut copy = connect(server);
    let early = Rc::new(RefCell::new(Vec::new()));
    let stream = copy.try_clone().expect("a copy");
    let together = Together { stream, early: Rc::clone(&early) };
    let mut data = Client::over(together, server, "alice", "password-of-alice-1");
    // With a challenge in hand the request and the first bytes can leave together.
    assert_eq!(data.bind_connection(!id), Err(400));
    early.borrow_mut().extend(pattern(5_000));
    data.bind_connection(id).expect("a data connection");
    expect(&mut at_peer, &pattern(5_000));
    at_peer.write_all(b"and back").expect("a write");
    expect(&mut copy, b"and back");
    daemon.stop();
}

#[test]
fn data_connections_work_over_tls_beside_tcp() {
    let setup = Setup::new(&format!("{CONFIG}{KEYS}"))
        .variable("TURNCAST__TURN__LISTEN", "tls://127.0.0.1:0");
    let config = certificate_for(setup.directory(), &[&rustls::version::TLS13]);
    let daemon = setup.start();
    let tls = daemon.turn_over("tls");
    let open = || connect_tls(tls, &config, &["stun.turn"]).expect("a handshake");
    let mut client = Client::over(open(), tls, "alice", "password-of-alice-1");
    let relayed = client.allocate_tcp().expect("a TCP allocation");
    let peer = Waiting::new();
    let id = client.connect(peer.address).expect("a connection");
    let (mut at_peer, from) = peer.accept();
    assert_eq!(from, relayed);
    let mut data = Client::over(open(), tls, "alice", "password-of-alice-1");
    data.bind_connection(id).expect("a data connection");
    let stream = data.stream.take().expect("a stream");
    let mut at_client = stream.into_inner();
    let large = pattern(300_000);
    at_client.write_all(&large).expect("a write");
    expect(&mut at_peer, &large);
    at_peer.write_all(&large).expect("a write");
    expect(&mut at_client, &large);
    // The end of the peer's stream is a close_notify, not a cut.
    at_peer.shutdown(Shutdown::Write).expect("no more from there");
    assert_eq!(at_client.read(&mut [0; 8]).expect("an end in order"), 0);
    daemon.stop();
}

#[test]
fn a_permitted_peer_is_announced_and_others_are_closed_at_once() {
    let daemon = start("");
    let (mut client, relayed) = allocated(&daemon);
    let mut early = call("127.0.0.3", relayed);
    // Nobody is permitted yet.
    expect_end(&mut early);
    let dropped = "turncast_turn_dropped_total{reason=\"no_permission\"}";
    daemon.wait_for_metric(dropped, 1);
    client.permit(&["127.0.0.3:1".parse().expect("an address")]).expect("a permission");
    let mut stranger = call("127.0.0.4", relayed);
    expect_end(&mut stranger);
    daemon.wait_for_metric(dropped, 2);
    let mut at_peer = call("127.0.0.3", relayed);
    at_peer.write_all(b"may I?").expect("a write");
    let (id, from) = client.attempt();
    assert_eq!(from, at_peer.local_addr().expect("bound"));
    let mut at_client = bind(&daemon, id);
    expect(&mut at_client, b"may I?");
    at_client.write_all(b"yes").expect("a write");
    expect(&mut at_peer, b"yes");
    // And a second one beside it.
    let (mut second, (id, _)) = (call("127.0.0.3", relayed), client.attempt());
    let mut at_client = bind(&daemon, id);
    second.write_all(b"me too").expect("a write");
    expect(&mut at_client, b"me too");
    daemon.stop();
}

#[test]
fn a_data_connection_takes_the_right_user_and_what_waits_waits_on() {
    let daemon = start("");
    let (mut client, _) = allocated(&daemon);
    let peer = Waiting::new();
    let id = client.connect(peer.address).expect("a connection");
    let (mut at_peer, _) = peer.accept();
    let server = daemon.turn_over("tcp");
    let mut bob = Client::over(connect(server), server, "bob", "password-of-bob-1");
    assert_eq!(bob.bind_connection(id), Err(441));
    let mut wrong = Client::over(connect(server), server, "alice", "not her password");
    assert_eq!(wrong.bind_connection(id), Err(401));
    let mut plain = Client::new(daemon.turn(), "alice", "password-of-alice-1");
    assert_eq!(plain.bind_connection(id), Err(400), "over UDP");
    assert_eq!(client.bind_connection(id), Err(400), "on the control connection");
    // A connection of its own is challenged first, always: the nonce is that of another address.
    let mut at_client = bind(&daemon, id);
    at_peer.write_all(b"hello").expect("a write");
    expect(&mut at_client, b"hello");
    let mut late = Client::over(connect(server), server, "alice", "password-of-alice-1");
    assert_eq!(late.bind_connection(id), Err(400), "once");
    daemon.stop();
}

#[test]
fn connect_is_refused_as_the_rfc_says() {
    let daemon = start("");
    let mut client = client(&daemon);
    let peer = Waiting::new();
    assert_eq!(client.connect(peer.address), Err(437));
    let relayed = client.allocate_tcp().expect("a TCP allocation");
    assert_eq!(client.allocate_tcp(), Err(437));
    for forbidden in ["127.0.0.1:80", "127.0.0.4:80", "10.0.0.1:80", "0.0.0.0:80"] {
        let address = forbidden.parse().expect("an address");
        assert_eq!(client.connect(address), Err(403), "{forbidden}");
    }
    assert_eq!(client.connect(daemon.turn()), Err(403), "our own listener");
    assert_eq!(client.connect(relayed), Err(403), "itself");
    assert_eq!(client.connect("[::1]:80".parse().expect("an address")), Err(443));
    // Bound, and nobody listens.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: SocketAddr = "127.0.0.3:0".parse().expect("an address");
    socket.bind(&any.into()).expect("an address of this host");
    let nobody = socket.local_addr().expect("bound").as_socket().expect("an address");
    assert_eq!(client.connect(nobody), Err(447));
    let (at_client, at_peer) = spliced(&daemon, &mut client, &peer);
    assert_eq!(client.connect(peer.address), Err(446));
    // 446 ends with the connection.
    drop((at_client, at_peer));
    daemon.wait_for_metric("turncast_data_connections", 0);
    // What is left of it in the kernel may be in the way of another one.
    assert_ne!(client.connect(peer.address), Err(446));
    let mut plain = Client::new(daemon.turn(), "alice", "password-of-alice-1");
    assert_eq!(plain.allocate_tcp(), Err(400));
    daemon.stop();
}

#[test]
fn without_tcp_relay_there_is_none() {
    let config = CONFIG.replace("tcp_relay = true", "");
    let daemon = Setup::new(&config).start();
    assert_eq!(client(&daemon).allocate_tcp(), Err(442));
    daemon.stop();
}

#[test]
fn two_allocations_reach_each_other_and_nothing_else_of_this_host() {
    let daemon = start("");
    let ((mut one, relayed_one), (mut two, relayed_two)) = (allocated(&daemon), allocated(&daemon));
    assert_eq!(one.connect(SocketAddr::new(relayed_two.ip(), 9)), Err(403), "no relayed address");
    let mut packets = Client::new(daemon.turn(), "alice", "password-of-alice-1");
    let of_packets = packets.allocate().expect("a UDP allocation");
    assert_eq!(one.connect(of_packets), Err(403), "a port for UDP");
    two.permit(&[relayed_one]).expect("a permission");
    // The relay answers for the second one, and tells it.
    let id = one.connect(relayed_two).expect("a connection");
    let (other_id, from) = two.attempt();
    assert_eq!(from, relayed_one);
    let (mut at_one, mut at_two) = (bind(&daemon, id), bind(&daemon, other_id));
    at_one.write_all(&pattern(200_000)).expect("a write");
    expect(&mut at_two, &pattern(200_000));
    at_two.write_all(b"and back").expect("a write");
    expect(&mut at_one, b"and back");
    // A program on this host that is no relayed address is not let in, permission or not.
    let mut stray = TcpStream::connect(relayed_two).expect("it listens");
    stray.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    expect_end(&mut stray);
    daemon.wait_for_metric("turncast_turn_dropped_total{reason=\"not_relayed\"}", 1);
    daemon.stop();
}
