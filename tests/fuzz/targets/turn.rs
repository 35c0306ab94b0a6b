//! The relay's engine, with an allocation to lose, and a neighbour at another engine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use turncast::credentials::{Entropy, Grants, SharedSecrets, userhash};
use turncast::metrics::{DropReason, Limit, Metrics, WorkerMetrics};
use turncast::net::Now;
use turncast::stun::{
    Class, Integrity, LongTermKeys, Message, Method, PASSWORD_ALGORITHMS_OFFERED,
    PasswordAlgorithm, TransactionId, Writer, attr, parse_xor_address,
};
use turncast::telemetry::Secret;
use turncast::turn::{
    Action, Actions, DefaultFamily, DiscoveryPair, EngineId, FiveTuple, FixedUser, HEADROOM,
    HeldSocket, Hop, Icmp, Limits, NatDiscovery, Options, RelayAddress, RelayId, Server, Shared,
    TAILROOM, TcpLimits, ToClient, Transport, Verdict,
};

const REALM: &str = "turncast";

/// The address that is relayed from.
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10));

/// A client who has no credential.
const STRANGER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)), 6000);

/// The client of the other engine.
const NEIGHBOUR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 3)), 7000);

/// The most datagrams that a kernel hands over in one piece.
const RUN_MAX: usize = 64;

/// A script: steps of an opcode, a length (16 bits) and so many bytes.
///
/// Opcode, modulo 8: 0 a datagram of the client; 1 the attributes of a request that gets the right
/// credentials, its method being the first byte; 2 a peer's datagram, and an ICMP error of the same
/// bytes; 3 time passes, the first byte in minutes; 4 as 0, from a stranger; 5 an allocation;
/// 6 permission and channel for the peer; 7 a datagram of the client with a FINGERPRINT. With 128
/// added the client comes over TCP: there 5 is an allocation for TCP, 2 a connection of the peer,
/// 6 a Connect, and a ConnectionBind by 1 is for the last connection.
///
/// With 64 added there are more than one: 0 a run of the client's datagrams, each as long as the
/// first byte says; 2 a run of the peer's, of which come the size (16 bits), the bytes in all (16
/// bits), and whether it is the port without a channel; 4 as 0, from the neighbour; 5 an allocation
/// of the neighbour; 6 channels from it to the client's and back.
///
/// Each script is played twice. What arrives as a run is handled datagram by datagram the first
/// time and as a run the second, and the same has to come of it.
pub fn turn_server(input: &[u8]) {
    let now = Now { instant: Instant::now(), unix_secs: 1_800_000_000 };
    let [mut single, mut merged] = [false, true].map(|merges| Script::new(now, merges));
    let mut rest = input;
    // A corpus entry is short; what is longer tells nothing new.
    for _ in 0..64 {
        let [opcode, high, low, after @ ..] = rest else { return };
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (bytes, next) = after.split_at(len);
        rest = next;
        for script in [&mut single, &mut merged] {
            script.transport = if *opcode < 128 { Transport::Udp } else { Transport::Tcp };
            script.step(opcode & 64 != 0, opcode % 8, bytes);
        }
        let (left, left_merged) = (single.left.drain(..), merged.left.drain(..));
        assert!(left.eq(left_merged), "a run is handled as its datagrams are");
        assert_eq!(single.counted(), merged.counted(), "and counted so");
    }
}

/// What has left: whom to and what, whatever was drawn at random apart.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    ToPeer(RelayId, SocketAddr, bool, Vec<u8>),
    ToClient(FiveTuple, Vec<u8>),
}

/// An engine and its client.
struct Side {
    server: Server,
    metrics: Arc<WorkerMetrics>,
    client: SocketAddr,
    nonce: Vec<u8>,
    relays: Vec<RelayId>,
    relayed: Option<SocketAddr>,
}

struct Script {
    /// The client's and the neighbour's.
    sides: [Side; 2],
    now: Now,
    transport: Transport,
    connection: Vec<u8>,
    counter: u8,
    /// Whether runs are handed over as such.
    merges: bool,
    left: Vec<Left>,
}

impl Script {
    fn new(now: Now, merges: bool) -> Self {
        let mut entropy = Entropy::from_seed([5; 32]);
        let metrics = Metrics::default();
        let grants = Arc::new(Grants::new(Secret::new([6; 32])));
        let shared = Arc::new(Shared::new(Arc::new(options()), grants, &mut entropy));
        let sides = [(0, address("198.51.100.1:5000")), (1, NEIGHBOUR)].map(|(engine, client)| {
            let own = Entropy::from_seed([5 + engine as u8; 32]);
            let metrics = metrics.worker();
            let server = Server::new(Arc::clone(&shared), Arc::clone(&metrics), own);
            let server = server.named(EngineId(engine));
            Side { server, metrics, client, nonce: vec![], relays: vec![], relayed: None }
        });
        let transport = Transport::Udp;
        Self { sides, now, transport, connection: vec![], counter: 0, merges, left: vec![] }
    }

    /// What the engines have counted of packets.
    fn counted(&self) -> Vec<u64> {
        let each = self.sides.iter().flat_map(|side| {
            let drops = DropReason::ALL.iter().map(|&reason| side.metrics.drops(reason));
            let limits = Limit::ALL.iter().map(|&limit| side.metrics.limits(limit));
            let traffic = [&side.metrics.to_peer, &side.metrics.to_client];
            let traffic = traffic.map(|way| [way.packets.value(), way.bytes.value()]);
            drops.chain(limits).chain(traffic.into_iter().flatten())
        });
        each.collect()
    }

    fn step(&mut self, more: bool, opcode: u8, bytes: &[u8]) {
        if more {
            return self.step_of_more(opcode, bytes);
        }
        match (opcode, bytes) {
            (0, _) => self.client_says(0, self.sides[0].client, bytes),
            (1, [method, attributes @ ..]) => {
                let (method, id) = (Method::new(u16::from(*method)), self.connection.clone());
                if (method, self.transport) == (Method::CONNECTION_BIND, Transport::Tcp) {
                    // A connection of its own, by the same nonce.
                    self.transport = Transport::Tls;
                }
                self.request(0, method, |writer| match method {
                    Method::CONNECTION_BIND => {
                        tlvs(writer.attribute(attr::CONNECTION_ID, &id), attributes)
                    }
                    _ => tlvs(writer, attributes),
                });
            }
            (2, _) if self.transport == Transport::Tcp => self.peer_connects(bytes.len()),
            (2, _) => {
                self.peer_says(peer(), bytes);
                self.icmp_says(bytes);
            }
            (3, [minutes, ..]) => {
                self.now = self.now.after(Duration::from_secs(u64::from(*minutes) * 60));
                for at in 0..self.sides.len() {
                    let mut actions = Actions::new();
                    self.sides[at].server.handle_timeout(self.now, &mut actions);
                    self.carry_out(at, actions);
                }
            }
            (4, _) => self.client_says(0, STRANGER, bytes),
            (5, _) => {
                let protocol = if self.transport == Transport::Tcp { 6 } else { 17 };
                self.allocate(0, protocol);
            }
            (6, _) if self.transport == Transport::Tcp => {
                for method in [Method::CREATE_PERMISSION, Method::CONNECT] {
                    self.request(0, method, |w| w.xor_address(attr::XOR_PEER_ADDRESS, peer()));
                }
            }
            (6, _) => self.bind_channel(0, 0x4000, peer()),
            (7, _) => {
                let id = TransactionId([7; 12]);
                let writer = tlvs(Writer::new(Class::Request, Method::BINDING, id), bytes);
                let datagram = writer.finish(None, true);
                self.client_says(0, self.sides[0].client, &datagram);
            }
            _ => {}
        }
    }

    fn step_of_more(&mut self, opcode: u8, bytes: &[u8]) {
        match (opcode, bytes) {
            (0, [segment, run @ ..]) => {
                let segment = usize::from(*segment).max(1);
                self.client_says_run(&run[..run.len().min(segment * RUN_MAX)], segment);
            }
            (2, [high, low, bytes_high, bytes_low, other, ..]) => {
                let segment = usize::from(u16::from_be_bytes([*high, *low])).max(1);
                let len = usize::from(u16::from_be_bytes([*bytes_high, *bytes_low]));
                let payloads: Vec<u8> = (0..len.min(segment * RUN_MAX)).map(|n| n as u8).collect();
                let from = SocketAddr::new(peer().ip(), peer().port() + u16::from(other % 2));
                self.peer_says_run(from, &payloads, segment);
            }
            // The neighbour comes over UDP always.
            _ => {
                self.transport = Transport::Udp;
                match opcode {
                    4 => self.client_says(1, NEIGHBOUR, bytes),
                    5 => self.allocate(1, 17),
                    6 => {
                        for at in 0..2 {
                            let Some(other) = self.sides[1 - at].relayed else { continue };
                            self.bind_channel(at, 0x4001, other);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn allocate(&mut self, at: usize, protocol: u8) {
        self.request(at, Method::ALLOCATE, |writer| {
            writer.attribute(attr::REQUESTED_TRANSPORT, &[protocol, 0, 0, 0])
        });
    }

    fn bind_channel(&mut self, at: usize, number: u16, to: SocketAddr) {
        let [high, low] = number.to_be_bytes();
        self.request(at, Method::CHANNEL_BIND, |writer| {
            writer
                .attribute(attr::CHANNEL_NUMBER, &[high, low, 0, 0])
                .xor_address(attr::XOR_PEER_ADDRESS, to)
        });
    }

    /// A request with the right credentials, after a challenge when there was none yet.
    fn request(&mut self, at: usize, method: Method, fill: impl FnOnce(Writer) -> Writer) {
        let client = self.sides[at].client;
        if self.sides[at].nonce.is_empty() {
            let ask = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([1; 12]));
            let ask = ask.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            self.client_says(at, client, &ask.finish(None, false));
        }
        self.counter = self.counter.wrapping_add(1);
        let id = TransactionId([self.counter; 12]);
        let keys = LongTermKeys::derive("alice", REALM, "wonder");
        let writer = fill(Writer::new(Class::Request, method, id))
            .attribute(attr::REALM, REALM.as_bytes())
            .attribute(attr::NONCE, &self.sides[at].nonce);
        // Every other request as a client of RFC 8489 sends it.
        let datagram = if self.counter.is_multiple_of(2) {
            let algorithm = PasswordAlgorithm::Sha256;
            writer
                .attribute(attr::USERHASH, &userhash("alice", REALM))
                .attribute(attr::PASSWORD_ALGORITHM, &algorithm.value())
                .attribute(attr::PASSWORD_ALGORITHMS, &PASSWORD_ALGORITHMS_OFFERED)
                .integrity(Integrity::Sha256, keys.by(algorithm))
                .finish(None, false)
        } else {
            let writer = writer.attribute(attr::USERNAME, b"alice");
            writer.finish(Some(keys.by(PasswordAlgorithm::Md5)), false)
        };
        self.client_says(at, client, &datagram);
    }

    fn five_tuple(&self, client: SocketAddr) -> FiveTuple {
        FiveTuple { transport: self.transport, client, server: SocketAddr::new(OWN, 3478) }
    }

    fn client_says(&mut self, at: usize, client: SocketAddr, datagram: &[u8]) {
        let mut actions = Actions::new();
        let five_tuple = self.five_tuple(client);
        let (mut buffer, range) = buffer(datagram);
        let engine = &mut self.sides[at].server;
        let verdict =
            engine.handle_client_in_place(self.now, five_tuple, &mut buffer, range, &mut actions);
        match verdict {
            Verdict::ToPeer { relay, peer, payload, dont_fragment } => {
                assert!(self.sides[at].relays.contains(&relay), "a socket that nobody bound");
                let payload = buffer[payload].to_vec();
                self.left.push(Left::ToPeer(relay, peer, dont_fragment, payload));
            }
            Verdict::ToClient { five_tuple, datagram } => {
                self.reaches(five_tuple, &buffer[datagram]);
            }
            Verdict::ToEngine { hop, payload } => self.hop(&hop, &[&buffer[payload]]),
            Verdict::Done => {}
        }
        self.carry_out(at, actions);
    }

    /// Datagrams of `segment` bytes each, but for the last one. What is for another allocation of
    /// ours is handed on when all are handled, as a worker does: each charge has its turn.
    fn client_says_run(&mut self, run: &[u8], segment: usize) {
        let five_tuple = self.five_tuple(self.sides[0].client);
        let (mut rest, mut hops) = (run, Vec::new());
        while !rest.is_empty() {
            let (engine, mut actions) = (&mut self.sides[0].server, Actions::new());
            let first = &rest[..segment.min(rest.len())];
            let (count, verdict) = if self.merges {
                engine.handle_client_run(self.now, five_tuple, rest, segment, &mut actions)
            } else {
                (1, engine.handle_client(self.now, five_tuple, first, &mut actions))
            };
            assert!(count > 0 && (count - 1) * segment < rest.len());
            let (handled, next) = rest.split_at(rest.len().min(count * segment));
            let pieces = |payload: Range<usize>| {
                handled.chunks(segment).map(move |datagram| &datagram[payload.clone()])
            };
            match verdict {
                Verdict::ToPeer { relay, peer, payload, dont_fragment } => {
                    assert!(self.sides[0].relays.contains(&relay), "a socket that nobody bound");
                    let left =
                        |payload: &[u8]| Left::ToPeer(relay, peer, dont_fragment, payload.to_vec());
                    self.left.extend(pieces(payload).map(left));
                }
                Verdict::ToEngine { hop, payload } => {
                    hops.push((hop, pieces(payload).collect::<Vec<_>>()));
                }
                Verdict::ToClient { .. } => panic!("there is no room for a header"),
                Verdict::Done => {}
            }
            self.carry_out(0, actions);
            rest = next;
        }
        for (hop, payloads) in hops {
            self.hop(&hop, &payloads);
        }
    }

    /// Payloads, all of one size, that one allocation of ours has sent to another.
    fn hop(&mut self, hop: &Hop, payloads: &[&[u8]]) {
        let at = hop.engine.0 as usize;
        if !self.merges {
            for payload in payloads {
                let (mut buffer, range) = buffer(payload);
                let engine = &mut self.sides[at].server;
                if let Verdict::ToClient { five_tuple, datagram } =
                    engine.handle_hop(self.now, hop, &mut buffer, range)
                {
                    self.reaches(five_tuple, &buffer[datagram]);
                }
            }
            return;
        }
        let mut rest = payloads;
        while let [first, ..] = rest {
            let (engine, mut headers) = (&mut self.sides[at].server, Vec::new());
            let run = (rest.len(), first.len());
            let (count, to) = engine.handle_hop_run(self.now, hop, run, &mut headers);
            let (handled, next) = rest.split_at(count);
            self.reach(to, &headers, handled.iter().copied());
            rest = next;
        }
    }

    fn peer_says(&mut self, from: SocketAddr, payload: &[u8]) {
        let Some(relay) = self.sides[0].relays.last().copied() else { return };
        let (mut buffer, range) = buffer(payload);
        let engine = &mut self.sides[0].server;
        let verdict = engine.handle_peer(self.now, relay, from, &mut buffer, range);
        if let Verdict::ToClient { five_tuple, datagram } = verdict {
            self.reaches(five_tuple, &buffer[datagram]);
        }
    }

    /// Payloads of `segment` bytes each, but for the last one.
    fn peer_says_run(&mut self, from: SocketAddr, payloads: &[u8], segment: usize) {
        if !self.merges {
            return payloads.chunks(segment).for_each(|payload| self.peer_says(from, payload));
        }
        let Some(relay) = self.sides[0].relays.last().copied() else { return };
        let mut rest = payloads;
        while !rest.is_empty() {
            let (engine, mut headers) = (&mut self.sides[0].server, Vec::new());
            let run = (rest.len(), segment);
            let (count, to) = engine.handle_peer_run(self.now, relay, from, run, &mut headers);
            let (handled, next) = rest.split_at(rest.len().min(count * segment));
            assert_eq!(handled.chunks(segment).count(), count);
            self.reach(to, &headers, handled.chunks(segment));
            rest = next;
        }
    }

    /// A run goes to a client, if it goes anywhere: one header for all, or one for each.
    fn reach<'a>(
        &mut self,
        to: Option<ToClient>,
        headers: &[u8],
        payloads: impl Iterator<Item = &'a [u8]>,
    ) {
        let Some(ToClient { five_tuple, header_bytes, padding }) = to else {
            return assert!(headers.is_empty(), "headers of what is dropped");
        };
        let payloads: Vec<_> = payloads.collect();
        assert!([1, payloads.len()].map(|n| n * header_bytes).contains(&headers.len()));
        for (payload, header) in payloads.into_iter().zip(headers.chunks(header_bytes).cycle()) {
            self.reaches(five_tuple, &[header, payload, &vec![0; padding]].concat());
        }
    }

    fn reaches(&mut self, five_tuple: FiveTuple, datagram: &[u8]) {
        let mut datagram = datagram.to_vec();
        assert!(self.sides.iter().any(|side| side.client == five_tuple.client));
        if datagram[0] < 0x40 {
            let message = Message::parse(&datagram).expect("our own indications are well-formed");
            let peer = message.first(attr::XOR_PEER_ADDRESS).expect("a peer");
            let peer = parse_xor_address(peer, &message.transaction_id()).expect("an address");
            datagram[8..20].fill(0);
            // A run that is handled as its datagrams are may draw more ids; the next port to be
            // drawn is another one then.
            if peer.ip() == OWN {
                datagram[26..28].fill(0);
            }
        }
        self.left.push(Left::ToClient(five_tuple, datagram));
    }

    /// Another connection of the peer for each length.
    fn peer_connects(&mut self, port: usize) {
        let Some(relay) = self.sides[0].relays.last().copied() else { return };
        let from = SocketAddr::new(peer().ip(), port as u16);
        let (socket, mut actions) = (HeldSocket::new(from), Actions::new());
        self.sides[0].server.handle_incoming(self.now, relay, from, socket, &mut actions);
        self.carry_out(0, actions);
    }

    /// An ICMP error: type, code and data out of the payload.
    fn icmp_says(&mut self, bytes: &[u8]) {
        let relay = self.sides[0].relays.last().copied();
        let (Some(relay), [kind, code, rest @ ..]) = (relay, bytes) else {
            return;
        };
        let data = rest.first().copied().unwrap_or(0).into();
        let icmp = Icmp { kind: *kind, code: *code, data };
        let mut actions = Actions::new();
        self.sides[0].server.handle_icmp(self.now, relay, peer(), icmp, &mut actions);
        self.carry_out(0, actions);
    }

    fn carry_out(&mut self, at: usize, actions: Actions) {
        for action in actions {
            match action {
                Action::Answer { five_tuple, bytes } => {
                    let hosts = [self.sides[at].client.ip(), STRANGER.ip()];
                    assert!(hosts.contains(&five_tuple.client.ip()), "nobody else is answered");
                    let own = options().nat_discovery.pairs[0].addresses;
                    assert!(own.iter().any(|own| own.local == five_tuple.server.ip()));
                    let answer = Message::parse(&bytes).expect("our own answers are well-formed");
                    assert_ne!(answer.class(), Class::Request);
                    if let Some(nonce) = answer.first(attr::NONCE) {
                        self.sides[at].nonce = nonce.to_vec();
                    }
                    if let Some(own) = answer.first(attr::XOR_RELAYED_ADDRESS) {
                        let own = parse_xor_address(own, &answer.transaction_id());
                        self.sides[at].relayed = Some(own.expect("an address"));
                    }
                    if let Some(id) = answer.first(attr::CONNECTION_ID) {
                        self.connection = id.to_vec();
                    }
                }
                Action::Bind { relay, .. } | Action::Listen { relay, .. } => {
                    self.sides[at].relays.push(relay);
                    let mut more = Actions::new();
                    self.sides[at].server.bound(self.now, relay, Ok(()), &mut more);
                    self.carry_out(at, more);
                }
                Action::Reserve { relay, local } => {
                    let mut more = Actions::new();
                    self.sides[at].server.reserved(
                        self.now,
                        relay,
                        Ok(HeldSocket::new(local)),
                        &mut more,
                    );
                    self.carry_out(at, more);
                }
                Action::Adopt { relay, .. } => {
                    self.sides[at].relays.push(relay);
                    let mut more = Actions::new();
                    self.sides[at].server.bound(self.now, relay, Ok(()), &mut more);
                    self.carry_out(at, more);
                }
                Action::Close { relay } => self.sides[at].relays.retain(|open| *open != relay),
                Action::Connect { relay, connection, peer, .. } => {
                    let mut more = Actions::new();
                    let socket = Ok(HeldSocket::new(peer));
                    self.sides[at].server.connected(self.now, relay, connection, socket, &mut more);
                    self.carry_out(at, more);
                }
                Action::Splice { socket, .. } => {
                    assert!(socket.into_socket::<SocketAddr>().is_some(), "as it was held");
                }
                Action::Abandon { .. } => {}
            }
        }
    }
}

/// Attributes as they come: kind, length, value; an odd rest is left out.
fn tlvs(mut writer: Writer, mut bytes: &[u8]) -> Writer {
    while let [kind_high, kind_low, len, rest @ ..] = bytes {
        let (value, next) = rest.split_at(usize::from(*len).min(rest.len()));
        writer = writer.attribute(u16::from_be_bytes([*kind_high, *kind_low]), value);
        bytes = next;
    }
    writer
}

/// What has arrived, as a worker holds it.
fn buffer(arrived: &[u8]) -> (Vec<u8>, Range<usize>) {
    let mut buffer = vec![0; HEADROOM];
    buffer.extend_from_slice(arrived);
    buffer.extend_from_slice(&[0xFF; TAILROOM]);
    (buffer, HEADROOM..HEADROOM + arrived.len())
}

fn peer() -> SocketAddr {
    address("192.0.2.77:4000")
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a constant address")
}

/// The usual server is one of the four, and two of them serve Binding alone.
fn discovery() -> NatDiscovery {
    let own = |text: &str| RelayAddress { public: address(text).ip(), local: address(text).ip() };
    let addresses = [own("198.51.100.10:0"), own("198.51.100.11:0")];
    let listeners = vec![address("198.51.100.11:3478"), address("198.51.100.11:3479")];
    NatDiscovery { pairs: vec![DiscoveryPair { addresses, ports: [3478, 3479] }], listeners }
}

fn options() -> Options {
    Options {
        realm: REALM.to_owned(),
        relay_addresses: vec![RelayAddress { public: OWN, local: OWN }],
        relay_ports: (49_152, 49_407),
        users: vec![FixedUser {
            name: "alice".to_owned(),
            password: Secret::new("wonder".to_owned()),
        }],
        shared_secrets: SharedSecrets::default(),
        strict_expiry: false,
        allow_peers: vec!["192.0.2.0/24".parse().expect("a constant prefix")],
        deny_peers: Vec::new(),
        dont_fragment: true,
        default_family: DefaultFamily::Ipv4,
        alternate_servers: Vec::new(),
        alternate_domain: None,
        examiners: String::new(),
        tcp_relay: Some(TcpLimits {
            connections: 3,
            connections_per_allocation: 2,
            pending_per_allocation: 2,
        }),
        nat_discovery: discovery(),
        host_addresses: vec![OWN],
        limits: Limits {
            allocations_per_user: 2,
            allocations_per_link: 2,
            allocations: 4,
            permissions_per_allocation: 4,
            channels_per_allocation: 4,
            new_peers_per_min: 0,
            lifetime_secs_max: 3600,
            nonce_secs: 3600,
            // A byte costs whole nanoseconds, so that many at once cost what they cost one by one.
            bandwidth_per_allocation_bytes_per_sec: 65_536,
            bandwidth_per_user_bytes_per_sec: 80_000,
            bandwidth_bytes_per_sec: 100_000,
            unauthenticated_per_prefix_per_sec: 0,
            unauthenticated_burst: 1,
        },
    }
}
