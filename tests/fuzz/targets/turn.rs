//! The relay's engine, with an allocation to lose.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use turncast::credentials::{Entropy, Grants, SharedSecrets, userhash};
use turncast::metrics::Metrics;
use turncast::net::Now;
use turncast::stun::{
    Class, Integrity, LongTermKeys, Message, Method, PASSWORD_ALGORITHMS_OFFERED,
    PasswordAlgorithm, TransactionId, Writer, attr,
};
use turncast::telemetry::Secret;
use turncast::turn::{
    Action, Actions, DefaultFamily, DiscoveryPair, EngineId, FiveTuple, FixedUser, HEADROOM,
    HeldSocket, Icmp, Limits, NatDiscovery, Options, RelayAddress, RelayId, Server, Shared,
    TAILROOM, TcpLimits, Transport, Verdict,
};

const REALM: &str = "turncast";

/// A client who has no credential.
const STRANGER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 2)), 6000);

/// A script: steps of an opcode, a length (16 bits) and so many bytes.
///
/// Opcode, modulo 8: 0 a datagram of the client; 1 the attributes of a request that gets the right
/// credentials, its method being the first byte; 2 a peer's datagram, and an ICMP error of the same
/// bytes; 3 time passes, the first byte in minutes; 4 as 0, from a stranger; 5 an allocation;
/// 6 permission and channel for the peer; 7 a datagram of the client with a FINGERPRINT. With 128
/// added the client comes over TCP: there 5 is an allocation for TCP, 2 a connection of the peer,
/// 6 a Connect, and a ConnectionBind by 1 is for the last connection.
pub fn turn_server(input: &[u8]) {
    let mut script = Script::new();
    let mut rest = input;
    // A corpus entry is short; what is longer tells nothing new.
    for _ in 0..64 {
        let [opcode, high, low, after @ ..] = rest else { return };
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (bytes, next) = after.split_at(len);
        rest = next;
        script.transport = if *opcode < 128 { Transport::Udp } else { Transport::Tcp };
        script.step(opcode % 8, bytes);
    }
}

struct Script {
    server: Server,
    now: Now,
    client: SocketAddr,
    nonce: Vec<u8>,
    relays: Vec<RelayId>,
    transport: Transport,
    connection: Vec<u8>,
    counter: u8,
}

impl Script {
    fn new() -> Self {
        let mut entropy = Entropy::from_seed([5; 32]);
        let metrics = Arc::new(Metrics::default());
        let grants = Arc::new(Grants::new(Secret::new([6; 32])));
        let shared = Arc::new(Shared::new(Arc::new(options()), grants, &mut entropy));
        let server = Server::new(shared, metrics.worker(), entropy).named(EngineId(0));
        let now = Now { instant: Instant::now(), unix_secs: 1_800_000_000 };
        let client = address("198.51.100.1:5000");
        let (nonce, relays, connection) = (Vec::new(), Vec::new(), Vec::new());
        let transport = Transport::Udp;
        Self { server, now, client, nonce, relays, transport, connection, counter: 0 }
    }

    fn step(&mut self, opcode: u8, bytes: &[u8]) {
        match (opcode, bytes) {
            (0, _) => self.client_says(self.client, bytes),
            (1, [method, attributes @ ..]) => {
                let (method, id) = (Method::new(u16::from(*method)), self.connection.clone());
                if (method, self.transport) == (Method::CONNECTION_BIND, Transport::Tcp) {
                    // A connection of its own, by the same nonce.
                    self.transport = Transport::Tls;
                }
                self.request(method, |writer| match method {
                    Method::CONNECTION_BIND => {
                        tlvs(writer.attribute(attr::CONNECTION_ID, &id), attributes)
                    }
                    _ => tlvs(writer, attributes),
                });
            }
            (2, _) if self.transport == Transport::Tcp => self.peer_connects(bytes.len()),
            (2, _) => {
                self.peer_says(bytes);
                self.icmp_says(bytes);
            }
            (3, [minutes, ..]) => {
                self.now = self.now.after(Duration::from_secs(u64::from(*minutes) * 60));
                let mut actions = Actions::new();
                self.server.handle_timeout(self.now, &mut actions);
                self.carry_out(actions);
            }
            (4, _) => self.client_says(STRANGER, bytes),
            (5, _) => {
                let protocol = if self.transport == Transport::Tcp { 6 } else { 17 };
                self.request(Method::ALLOCATE, |writer| {
                    writer.attribute(attr::REQUESTED_TRANSPORT, &[protocol, 0, 0, 0])
                });
            }
            (6, _) if self.transport == Transport::Tcp => {
                for method in [Method::CREATE_PERMISSION, Method::CONNECT] {
                    self.request(method, |w| w.xor_address(attr::XOR_PEER_ADDRESS, peer()));
                }
            }
            (6, _) => self.request(Method::CHANNEL_BIND, |writer| {
                writer
                    .attribute(attr::CHANNEL_NUMBER, &[0x40, 0, 0, 0])
                    .xor_address(attr::XOR_PEER_ADDRESS, peer())
            }),
            (7, _) => {
                let id = TransactionId([7; 12]);
                let writer = tlvs(Writer::new(Class::Request, Method::BINDING, id), bytes);
                let datagram = writer.finish(None, true);
                self.client_says(self.client, &datagram);
            }
            _ => {}
        }
    }

    /// A request with the right credentials, after a challenge when there was none yet.
    fn request(&mut self, method: Method, fill: impl FnOnce(Writer) -> Writer) {
        if self.nonce.is_empty() {
            let ask = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([1; 12]));
            let ask = ask.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            self.client_says(self.client, &ask.finish(None, false));
        }
        self.counter = self.counter.wrapping_add(1);
        let id = TransactionId([self.counter; 12]);
        let keys = LongTermKeys::derive("alice", REALM, "wonder");
        let writer = fill(Writer::new(Class::Request, method, id))
            .attribute(attr::REALM, REALM.as_bytes())
            .attribute(attr::NONCE, &self.nonce);
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
        self.client_says(self.client, &datagram);
    }

    fn client_says(&mut self, client: SocketAddr, datagram: &[u8]) {
        let mut actions = Actions::new();
        let server = address("198.51.100.10:3478");
        let five_tuple = FiveTuple { transport: self.transport, client, server };
        let (mut buffer, range) = buffer(datagram);
        let len = buffer.len();
        let engine = &mut self.server;
        let verdict =
            engine.handle_client_in_place(self.now, five_tuple, &mut buffer, range, &mut actions);
        match verdict {
            Verdict::ToPeer { relay, payload, .. } => {
                assert!(self.relays.contains(&relay), "a socket that nobody bound");
                assert_inside(&payload, len);
            }
            Verdict::ToClient { five_tuple, datagram: range } => {
                assert_eq!(five_tuple.client, client);
                assert_inside(&range, len);
            }
            Verdict::ToEngine { .. } => panic!("there is no other engine"),
            Verdict::Done => {}
        }
        self.carry_out(actions);
    }

    fn peer_says(&mut self, payload: &[u8]) {
        let Some(relay) = self.relays.last().copied() else { return };
        let (mut buffer, range) = buffer(payload);
        let verdict = self.server.handle_peer(self.now, relay, peer(), &mut buffer, range);
        if let Verdict::ToClient { datagram, .. } = verdict {
            assert_inside(&datagram, buffer.len());
        }
    }

    /// Another connection of the peer for each length.
    fn peer_connects(&mut self, port: usize) {
        let Some(relay) = self.relays.last().copied() else { return };
        let from = SocketAddr::new(peer().ip(), port as u16);
        let (socket, mut actions) = (HeldSocket::new(from), Actions::new());
        self.server.handle_incoming(self.now, relay, from, socket, &mut actions);
        self.carry_out(actions);
    }

    /// An ICMP error: type, code and data out of the payload.
    fn icmp_says(&mut self, bytes: &[u8]) {
        let (Some(relay), [kind, code, rest @ ..]) = (self.relays.last().copied(), bytes) else {
            return;
        };
        let data = rest.first().copied().unwrap_or(0).into();
        let icmp = Icmp { kind: *kind, code: *code, data };
        let mut actions = Actions::new();
        self.server.handle_icmp(self.now, relay, peer(), icmp, &mut actions);
        self.carry_out(actions);
    }

    fn carry_out(&mut self, actions: Actions) {
        for action in actions {
            match action {
                Action::Answer { five_tuple, bytes } => {
                    let hosts = [self.client.ip(), STRANGER.ip()];
                    assert!(hosts.contains(&five_tuple.client.ip()), "nobody else is answered");
                    let own = options().nat_discovery.pairs[0].addresses;
                    assert!(own.iter().any(|own| own.local == five_tuple.server.ip()));
                    let answer = Message::parse(&bytes).expect("our own answers are well-formed");
                    assert_ne!(answer.class(), Class::Request);
                    if let Some(nonce) = answer.first(attr::NONCE) {
                        self.nonce = nonce.to_vec();
                    }
                    if let Some(id) = answer.first(attr::CONNECTION_ID) {
                        self.connection = id.to_vec();
                    }
                }
                Action::Bind { relay, .. } | Action::Listen { relay, .. } => {
                    self.relays.push(relay);
                    let mut more = Actions::new();
                    self.server.bound(self.now, relay, Ok(()), &mut more);
                    self.carry_out(more);
                }
                Action::Reserve { relay, local } => {
                    let mut more = Actions::new();
                    self.server.reserved(self.now, relay, Ok(HeldSocket::new(local)), &mut more);
                    self.carry_out(more);
                }
                Action::Adopt { relay, .. } => {
                    self.relays.push(relay);
                    let mut more = Actions::new();
                    self.server.bound(self.now, relay, Ok(()), &mut more);
                    self.carry_out(more);
                }
                Action::Close { relay } => self.relays.retain(|open| *open != relay),
                Action::Connect { relay, connection, peer, .. } => {
                    let mut more = Actions::new();
                    let socket = Ok(HeldSocket::new(peer));
                    self.server.connected(self.now, relay, connection, socket, &mut more);
                    self.carry_out(more);
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

fn assert_inside(range: &Range<usize>, len: usize) {
    assert!(range.start <= range.end && range.end <= len, "{range:?} of {len} bytes");
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
    let own = address("198.51.100.10:0").ip();
    Options {
        realm: REALM.to_owned(),
        relay_addresses: vec![RelayAddress { public: own, local: own }],
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
        host_addresses: vec![own],
        limits: Limits {
            allocations_per_user: 2,
            allocations_per_link: 2,
            allocations: 4,
            permissions_per_allocation: 4,
            channels_per_allocation: 4,
            new_peers_per_min: 0,
            lifetime_secs_max: 3600,
            nonce_secs: 3600,
            bandwidth_per_allocation_bytes_per_sec: 0,
            bandwidth_per_user_bytes_per_sec: 0,
            bandwidth_bytes_per_sec: 0,
            unauthenticated_per_prefix_per_sec: 0,
            unauthenticated_burst: 1,
        },
    }
}
