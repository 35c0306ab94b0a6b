//! A whole client that nobody here wrote, `turn-client-proto`, through the daemon over real
//! sockets: every transport, every way to authenticate, both families at once. It checks the
//! integrity of every answer and passes over what it does not believe.
//!
//! Its clock is set forward for what takes half an hour; the daemon's is not, so a refresh comes
//! early there, and is as good as any.

use std::collections::HashSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use turn_client_proto::api::{TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::client::TurnClient;
use turn_client_proto::prelude::{DelayedTransmitBuild as _, TurnClientApi as _};
use turn_client_proto::stun::Instant as TheirTime;
use turn_client_proto::stun::agent::Transmit;
use turn_client_proto::stun::auth::Feature;
use turn_client_proto::stun::types::TransportType;
use turn_client_proto::stun::types::message::IntegrityAlgorithm;
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::types::{AddressFamily, TurnCredentials};
use turn_client_proto::udp::TurnClientUdp;
use webrtc_stun::attributes::{ATTR_MESSAGE_INTEGRITY, ATTR_USERNAME, AttrType};
use webrtc_stun::message as stun;
use webrtc_stun::message::{Message, Method};

use crate::harness::{DEADLINE, Daemon, Setup};
use crate::relay::client::Stream;
use crate::secure::{self, certificate_for};
use crate::streams::{connect, connect_tls};

const CONFIG: &str = r#"
[turn]
users = [
    { name = "alice", password = "password-of-alice-1" },
    { name = "マトリックス", password = "password-of-many-letters" },
]
allow_peers = ["127.0.0.3"]
[tls]
certificate = "cert.pem"
key = "key.pem"
"#;

const ALICE: (&str, &str) = ("alice", "password-of-alice-1");
const MATRIX: (&str, &str) = ("マトリックス", "password-of-many-letters");

const UDP: TransportType = TransportType::Udp;
const MESSAGE_INTEGRITY_SHA256: AttrType = AttrType(0x001C);
const PASSWORD_ALGORITHM: AttrType = AttrType(0x001D);
const USERHASH: AttrType = AttrType(0x001E);

/// How long a read waits before the client is asked what it has to do next.
const PAUSE: Duration = Duration::from_millis(20);

/// How a client proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// MD5 and MESSAGE-INTEGRITY.
    Md5,
    /// SHA-256 and MESSAGE-INTEGRITY-SHA256.
    Sha256,
    /// The same, with USERHASH instead of USERNAME.
    Hidden,
}

/// What is between a client and the daemon.
enum Wire {
    Udp(UdpSocket),
    Stream(Box<dyn Stream>),
}

/// Their client at one end of a wire to the daemon.
struct Oracle {
    client: TurnClient,
    wire: Wire,
    began: Instant,
    /// How far its clock is set forward.
    ahead: Duration,
    /// How long it wants to wait.
    pause: Duration,
    /// Whether it wants to end its allocation.
    deletes: bool,
    /// Requests that nobody has answered yet.
    open: HashSet<[u8; 12]>,
    /// How each request with an integrity proved its sender.
    proofs: Vec<Proof>,
    /// The method of every success.
    succeeded: Vec<Method>,
    events: Vec<TurnEvent>,
    /// Payloads, and the peer that each is from.
    heard: Vec<(SocketAddr, Vec<u8>)>,
    /// ICMP errors: the peer that did not get a datagram, type and code.
    icmp: Vec<(SocketAddr, u8, u8)>,
}

impl Oracle {
    fn over_udp(daemon: &Daemon, config: TurnConfig) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a client socket");
        socket.connect(daemon.turn()).expect("a route to the server");
        socket.set_read_timeout(Some(PAUSE)).expect("a pause");
        let local = socket.local_addr().expect("bound");
        let client = TurnClientUdp::allocate(local, daemon.turn(), config);
        Self::new(client.into(), Wire::Udp(socket))
    }

    /// Over a TCP connection, and over what is spoken on it.
    fn over(socket: &TcpStream, stream: Box<dyn Stream>, config: TurnConfig) -> Self {
        let (local, server) = (socket.local_addr(), socket.peer_addr());
        let (local, server) = (local.expect("connected"), server.expect("connected"));
        socket.set_read_timeout(Some(PAUSE)).expect("a pause");
        Self::new(TurnClientTcp::allocate(local, server, config).into(), Wire::Stream(stream))
    }

    fn new(client: TurnClient, wire: Wire) -> Self {
        Self {
            client,
            wire,
            began: Instant::now(),
            ahead: Duration::ZERO,
            pause: Duration::ZERO,
            deletes: false,
            open: HashSet::new(),
            proofs: Vec::new(),
            succeeded: Vec::new(),
            events: Vec::new(),
            heard: Vec::new(),
            icmp: Vec::new(),
        }
    }

    fn now(&self) -> TheirTime {
        TheirTime::from_std(self.began).checked_add(self.ahead).expect("a time")
    }

    /// Carries messages both ways until `done`.
    #[track_caller]
    fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while self.says_something() {}
        while !done(self) {
            assert!(Instant::now() < deadline, "not done: {:?} {:?}", self.events, self.open);
            self.step();
        }
    }

    /// Carries messages until every request is answered and the next one is far away.
    #[track_caller]
    fn settle(&mut self) {
        self.run_until(|it| it.open.is_empty() && it.pause > Duration::from_secs(1));
    }

    /// Sends what the client has to say by now; whether that was anything.
    fn says_something(&mut self) -> bool {
        let now = self.now();
        match self.client.poll(now) {
            TurnPollRet::WaitUntil(next) => self.pause = next.saturating_duration_since(now),
            TurnPollRet::Closed if self.deletes => {}
            other => panic!("the client gave up: {other:?} {:?}", self.events),
        }
        let sent = self.client.poll_transmit(now);
        if let Some(sent) = &sent {
            self.send(&sent.data);
        }
        sent.is_some()
    }

    fn step(&mut self) {
        self.receive();
        self.events.extend(std::iter::from_fn(|| self.client.poll_event()));
        while self.says_something() {}
    }

    fn send(&mut self, message: &[u8]) {
        if let Some(request) = parse(message)
            && request.typ.class == stun::CLASS_REQUEST
        {
            self.open.insert(request.transaction_id.0);
            let has = |kind| request.contains(kind);
            assert!(!(has(ATTR_USERNAME) && has(USERHASH)));
            if has(MESSAGE_INTEGRITY_SHA256) {
                assert!(has(PASSWORD_ALGORITHM));
                self.proofs.push(if has(USERHASH) { Proof::Hidden } else { Proof::Sha256 });
            } else if has(ATTR_MESSAGE_INTEGRITY) {
                self.proofs.push(Proof::Md5);
            }
        }
        match &mut self.wire {
            Wire::Udp(socket) => drop(socket.send(message).expect("a send to the server")),
            Wire::Stream(stream) => stream.write_all(message).expect("a write to the server"),
        }
    }

    /// Hands the client what has arrived, in the pieces in which it did.
    fn receive(&mut self) {
        let mut buffer = vec![0; 65_535];
        let read = match &mut self.wire {
            Wire::Udp(socket) => socket.recv(&mut buffer),
            Wire::Stream(stream) => stream.read(&mut buffer),
        };
        let len = match read {
            Ok(len) => len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return;
            }
            Err(error) => panic!("the wire: {error}"),
        };
        assert!(len > 0, "the server closed");
        buffer.truncate(len);
        let mut repeated = false;
        for answer in messages(&buffer) {
            repeated |= !self.open.remove(&answer.transaction_id.0);
            if answer.typ.class == stun::CLASS_SUCCESS_RESPONSE {
                self.succeeded.push(answer.typ.method);
            }
        }
        let (transport, now) = (self.client.transport(), self.now());
        let (from, to) = (self.client.remote_addr(), self.client.local_addr());
        match self.client.recv(Transmit { data: buffer, transport, from, to }, now) {
            TurnRecvRet::Handled => {}
            TurnRecvRet::PeerData(data) => self.heard.push((data.peer, data.data().to_vec())),
            TurnRecvRet::PeerIcmp { peer, icmp_type, icmp_code, .. } => {
                self.icmp.push((peer, icmp_type, icmp_code));
            }
            // A request that it has sent twice is answered twice.
            TurnRecvRet::Ignored(_) if repeated => {}
            TurnRecvRet::Ignored(what) => panic!("the client does not believe {what:?}"),
        }
        while let Some(data) = self.client.poll_recv(now) {
            self.heard.push((data.peer, data.data().to_vec()));
        }
    }

    /// The relayed addresses that the client knows: IPv4 and IPv6.
    fn relayed(&self) -> [SocketAddr; 2] {
        let mut relayed: Vec<_> = self.client.relayed_addresses().map(|(_, at)| at).collect();
        relayed.sort();
        relayed.try_into().expect("one address of each family")
    }

    #[track_caller]
    fn permit(&mut self, peers: &[SocketAddr]) {
        let now = self.now();
        for peer in peers {
            if !self.client.have_permission(UDP, peer.ip()) {
                self.client.create_permission(UDP, peer.ip(), now).expect("a permission");
            }
        }
        let has = |it: &Self| peers.iter().all(|peer| it.client.have_permission(UDP, peer.ip()));
        self.run_until(|it| it.open.is_empty() && has(it));
    }

    #[track_caller]
    fn bind_channel(&mut self, peer: SocketAddr) {
        let now = self.now();
        self.client.bind_channel(UDP, peer, now).expect("a channel");
        let bound =
            |event: &TurnEvent| matches!(event, TurnEvent::ChannelCreated(_, to) if *to == peer);
        self.run_until(|it| it.events.iter().any(bound));
    }

    fn say(&mut self, to: SocketAddr, payload: &[u8]) {
        let now = self.now();
        let sent = self.client.send_to(UDP, to, payload, now).expect("a permission");
        let sent = sent.expect("one to send").data.build();
        self.send(&sent);
    }

    /// Waits for one payload.
    #[track_caller]
    fn hears(&mut self, from: SocketAddr, payload: &[u8]) {
        self.run_until(|it| !it.heard.is_empty());
        assert_eq!(self.heard.remove(0), (from, payload.to_vec()));
    }

    fn count(&self, method: Method) -> usize {
        self.succeeded.iter().filter(|found| **found == method).count()
    }
}

/// A STUN message; ChannelData is none.
fn parse(message: &[u8]) -> Option<Message> {
    let mut parsed = Message::new();
    parsed.raw = message.to_vec();
    parsed.decode().is_ok().then_some(parsed)
}

/// The STUN messages in what was read at once: of a datagram one, of a stream whole ones.
fn messages(mut read: &[u8]) -> Vec<Message> {
    let mut found = Vec::new();
    while let [first, _, high, low, ..] = *read {
        let header = if first < 4 { 20 } else { 4 };
        let len = (header + usize::from(u16::from_be_bytes([high, low]))).min(read.len());
        found.extend(parse(&read[..len]));
        read = &read[len.next_multiple_of(4).min(read.len())..];
    }
    found
}

fn config(holds: (&str, &str), proof: Proof) -> TurnConfig {
    let mut config = TurnConfig::new(TurnCredentials::new(holds.0, holds.1));
    config.add_address_family(AddressFamily::IPV6);
    config.set_supported_integrity(match proof {
        Proof::Md5 => IntegrityAlgorithm::Sha1,
        Proof::Sha256 | Proof::Hidden => IntegrityAlgorithm::Sha256,
    });
    config.set_anonymous_username(match proof {
        Proof::Hidden => Feature::Required,
        Proof::Md5 | Proof::Sha256 => Feature::Disabled,
    });
    config
}

/// Two clients and a peer: allocations of both families, permissions, payloads both ways by
/// indication and by channel, refreshes for half an hour, an ICMP error, and the end.
fn talk(
    daemon: &Daemon,
    start: impl Fn(TurnConfig) -> Oracle,
    names: [(&str, &str); 2],
    proof: Proof,
) {
    let [mut one, mut two] = names.map(|name| start(config(name, proof)));
    one.run_until(|it| it.client.relayed_addresses().count() == 2);
    two.run_until(|it| it.client.relayed_addresses().count() == 2);
    assert_eq!(daemon.metric("turncast_allocations"), 2);
    let streamed = one.client.transport() == TransportType::Tcp;
    let (to_one, to_two) = (one.relayed(), two.relayed());
    let peer = UdpSocket::bind("127.0.0.3:0").expect("a peer");
    let to_peer = peer.local_addr().expect("bound");
    one.permit(&[to_two[0], to_two[1], to_peer]);
    two.permit(&to_one);
    for channels in 0..3 {
        // It gives out the same numbers for each family, though they belong to the five-tuple, so
        // a client binds channels of one only.
        match channels {
            0 => {}
            1 => [to_two[0], to_peer].into_iter().for_each(|to| one.bind_channel(to)),
            _ => two.bind_channel(to_one[1]),
        }
        // Over a stream it does not pad ChannelData (RFC 8656, section 12.5).
        let padding = if streamed && channels > 0 { 4 } else { 1 };
        for len in [0, 1, 3, 1_200].map(|len: usize| len.next_multiple_of(padding)) {
            exchange(&mut one, &mut two, &peer, &vec![channels; len]);
        }
    }
    keep_alive(&mut one);
    one.say(to_two[1], b"still there");
    two.hears(to_one[1], b"still there");

    // It holds its port but hears somebody else only: destination unreachable, port unreachable.
    peer.connect("127.0.0.3:9").expect("a peer of its own");
    one.say(to_peer, b"anybody?");
    one.run_until(|it| !it.icmp.is_empty());
    assert_eq!(one.icmp, [(to_peer, 3, 3)]);

    for mut client in [one, two] {
        let (now, before) = (client.now(), client.count(stun::METHOD_REFRESH));
        client.deletes = true;
        client.client.delete(now).expect("a deletion");
        client.run_until(|it| it.count(stun::METHOD_REFRESH) > before);
        assert!(client.proofs.len() >= 5);
        assert!(client.proofs.iter().all(|found| *found == proof), "{:?}", client.proofs);
    }
    daemon.wait_for_metric("turncast_allocations", 0);
}

/// Carries `payload` both ways between the two over both families, and to the peer and back.
fn exchange(one: &mut Oracle, two: &mut Oracle, peer: &UdpSocket, payload: &[u8]) {
    for (to_one, to_two) in one.relayed().into_iter().zip(two.relayed()) {
        one.say(to_two, payload);
        two.hears(to_one, payload);
        two.say(to_one, payload);
        one.hears(to_two, payload);
    }
    let mut buffer = [0; 2048];
    let to_peer = peer.local_addr().expect("bound");
    peer.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    one.say(to_peer, payload);
    let (read, from) = peer.recv_from(&mut buffer).expect("a datagram at the peer");
    assert_eq!((&buffer[..read], from), (payload, one.relayed()[0]));
    peer.send_to(payload, from).expect("an answer");
    one.hears(to_peer, payload);
}

/// Half an hour on the client's clock: permissions, channels and the allocation are refreshed.
fn keep_alive(client: &mut Oracle) {
    let methods = [stun::METHOD_REFRESH, stun::METHOD_CREATE_PERMISSION, stun::METHOD_CHANNEL_BIND];
    let before = methods.map(|method| client.count(method));
    for _ in 0..30 {
        client.ahead += Duration::from_secs(60);
        client.settle();
    }
    let after = methods.map(|method| client.count(method));
    let more = [0, 1, 2].map(|at| after[at] - before[at]);
    assert!(more[0] >= 1 && more[1] >= 6 && more[2] >= 4, "{more:?}");
}

fn talk_in_every_way(daemon: &Daemon, start: impl Fn(TurnConfig) -> Oracle) {
    for proof in [Proof::Md5, Proof::Sha256, Proof::Hidden] {
        talk(daemon, &start, [ALICE, MATRIX], proof);
    }
    // What they did not understand would have been asked again.
    assert_eq!(daemon.metric("turncast_turn_dropped_total{reason=\"malformed\"}"), 0);
}

fn setup(listen: &str) -> Setup {
    Setup::new(CONFIG).variable("TURNCAST__TURN__LISTEN", listen)
}

#[test]
fn a_client_of_rfc_8656_talks_over_udp() {
    let setup = setup("udp://127.0.0.1:0");
    secure::certificate(setup.directory());
    let daemon = setup.start();
    talk_in_every_way(&daemon, |config| Oracle::over_udp(&daemon, config));
    daemon.stop();
}

#[test]
fn a_client_of_rfc_8656_talks_over_tcp() {
    let setup = setup("tcp://127.0.0.1:0");
    secure::certificate(setup.directory());
    let daemon = setup.start();
    talk_in_every_way(&daemon, |config| {
        let stream = connect(daemon.turn_over("tcp"));
        let socket = stream.try_clone().expect("the same connection");
        Oracle::over(&socket, Box::new(stream), config)
    });
    daemon.stop();
}

#[test]
fn a_client_of_rfc_8656_talks_over_tls() {
    let setup = setup("tls://127.0.0.1:0");
    let trusting = certificate_for(setup.directory(), &[&rustls::version::TLS13]);
    let daemon = setup.start();
    talk_in_every_way(&daemon, |config| {
        let stream =
            connect_tls(daemon.turn_over("tls"), &trusting, &["stun.turn"]).expect("a handshake");
        let socket = stream.sock.try_clone().expect("the same connection");
        Oracle::over(&socket, Box::new(stream), config)
    });
    daemon.stop();
}
