//! One engine, the clients in front of it and the worker that it believes to have.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::credentials::{Entropy, Grant, Grants, RoomTag, SharedSecrets};
use crate::metrics::WorkerMetrics;
use crate::net::Now;
use crate::stun::{
    Class, LongTermKeys, Message, Method, PasswordAlgorithm, TransactionId, Writer, attr,
};
use crate::telemetry::Secret;
use crate::turn::{
    Action, Actions, BindFailure, DefaultFamily, FiveTuple, FixedUser, HEADROOM, HeldSocket,
    Limits, NatDiscovery, Options, RelayAddress, RelayId, Server, Shared, TAILROOM, Transport,
    Verdict,
};

pub(super) const START_UNIX_SECS: u64 = 1_000_000_000;
pub(super) const REALM: &str = "example.org";
pub(super) const SECRETS: [&str; 2] = ["first secret", "second secret"];

pub(super) fn fixed(name: &str) -> FixedUser {
    let password = Secret::new(format!("password of {name}"));
    FixedUser { name: name.to_owned(), password }
}

/// Options that deny nothing that the transcripts' documentation addresses need.
pub(super) fn options() -> Options {
    let both = |ip: &str| {
        let ip = ip.parse().expect("an address");
        RelayAddress { public: ip, local: ip }
    };
    Options {
        realm: REALM.to_owned(),
        relay_addresses: vec![both("192.0.2.1"), both("2001:db8::1")],
        relay_ports: (50_000, 50_999),
        users: vec![fixed("alice"), fixed("bob")],
        shared_secrets: SharedSecrets::new(
            SECRETS.iter().map(|text| Secret::new((*text).to_owned())).collect(),
        ),
        strict_expiry: false,
        allow_peers: Vec::new(),
        deny_peers: Vec::new(),
        dont_fragment: true,
        default_family: DefaultFamily::Ipv4,
        alternate_servers: Vec::new(),
        alternate_domain: None,
        examiners: String::new(),
        tcp_relay: None,
        nat_discovery: NatDiscovery::default(),
        host_addresses: vec![both("192.0.2.1").public, both("127.0.0.1").public],
        limits: Limits {
            allocations_per_user: 10,
            allocations_per_link: 16,
            allocations: 100,
            permissions_per_allocation: 64,
            channels_per_allocation: 32,
            new_peers_per_min: 0,
            lifetime_secs_max: 3600,
            nonce_secs: 3600,
            bandwidth_per_allocation_bytes_per_sec: 0,
            bandwidth_per_user_bytes_per_sec: 0,
            bandwidth_bytes_per_sec: 0,
            unauthenticated_per_prefix_per_sec: 200,
            unauthenticated_burst: 2000,
        },
    }
}

/// The engine and everything around it.
pub(super) struct Bench {
    pub(super) server: Server,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Arc<WorkerMetrics>,
    pub(super) entropy: Entropy,
    pub(super) now: Now,
    pub(super) grants: HashMap<String, Arc<Grant>>,
    pub(super) rooms: HashMap<String, RoomTag>,
    next_transaction: u64,
}

/// A credential as a client holds it.
#[derive(Clone)]
pub(super) struct Holds {
    pub(super) username: String,
    pub(super) password: String,
}

/// How a request is built.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) transaction: TransactionId,
    pub(super) attributes: Vec<(u16, Vec<u8>)>,
    pub(super) peers: Vec<SocketAddr>,
    pub(super) fingerprint: bool,
}

impl Ask {
    pub(super) fn writer(&self, class: Class) -> Writer {
        let mut writer = Writer::new(class, self.method, self.transaction);
        for peer in &self.peers {
            writer = writer.xor_address(attr::XOR_PEER_ADDRESS, *peer);
        }
        for (kind, value) in &self.attributes {
            writer = writer.attribute(*kind, value);
        }
        writer
    }
}

#[allow(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
pub(super) fn start() -> Now {
    Now { instant: Instant::now(), unix_secs: START_UNIX_SECS }
}

pub(super) fn five_tuple(client: SocketAddr) -> FiveTuple {
    let server = if client.is_ipv6() { "[2001:db8::1]:3478" } else { "192.0.2.1:3478" };
    let server = server.parse().expect("an address");
    FiveTuple { transport: Transport::Udp, client, server }
}

impl Bench {
    pub(super) fn new(options: Options, seed: u8) -> Self {
        Self::seeded(options, [seed; 32], [seed.wrapping_add(1); 32])
    }

    /// The same, with a seed of the engine's own.
    pub(super) fn seeded(options: Options, seed: [u8; 32], of_engine: [u8; 32]) -> Self {
        let mut entropy = Entropy::from_seed(seed);
        let grants = Arc::new(Grants::new(Secret::new([7; 32])));
        let shared = Arc::new(Shared::new(Arc::new(options), grants, &mut entropy));
        let metrics = Arc::new(WorkerMetrics::default());
        let own = Entropy::from_seed(of_engine);
        let server = Server::new(Arc::clone(&shared), Arc::clone(&metrics), own);
        Self {
            server,
            shared,
            metrics,
            entropy,
            now: start(),
            grants: HashMap::new(),
            rooms: HashMap::new(),
            next_transaction: 0,
        }
    }

    pub(super) fn wait(&mut self, secs: u64) {
        self.now = self.now.after(Duration::from_secs(secs));
    }

    pub(super) fn transaction(&mut self) -> TransactionId {
        self.next_transaction += 1;
        let mut id = [0; 12];
        id[4..].copy_from_slice(&self.next_transaction.to_be_bytes());
        TransactionId(id)
    }

    pub(super) fn ask(&mut self, method: Method) -> Ask {
        let transaction = self.transaction();
        Ask { method, transaction, attributes: Vec::new(), peers: Vec::new(), fingerprint: false }
    }

    pub(super) fn fixed(&self, name: &str) -> Holds {
        Holds { username: name.to_owned(), password: format!("password of {name}") }
    }

    /// Makes a grant of `room` under `name`, which reaches `peers`.
    pub(super) fn grant(&mut self, name: &str, room: &str) -> Arc<Grant> {
        let tag = match self.rooms.get(room) {
            Some(tag) => *tag,
            None => {
                let tag = RoomTag::draw(&mut self.entropy);
                self.rooms.insert(room.to_owned(), tag);
                tag
            }
        };
        let grant = self.shared.grants.issue(tag, &mut self.entropy);
        self.grants.insert(name.to_owned(), Arc::clone(&grant));
        grant
    }

    pub(super) fn granted(&self, name: &str, expiry_unix_secs: u64) -> Holds {
        let credential = self.shared.grants.credential(&self.grants[name], expiry_unix_secs);
        let password = credential.password.expose().clone();
        Holds { username: credential.username, password }
    }

    pub(super) fn keys(holds: &Holds) -> LongTermKeys {
        LongTermKeys::derive(&holds.username, REALM, &holds.password)
    }

    pub(super) fn nonce(&self, client: SocketAddr) -> Vec<u8> {
        self.shared.nonces.make(client, self.now.unix_secs).to_vec()
    }

    /// An authenticated request, ready to be sent.
    pub(super) fn request(&self, client: SocketAddr, holds: &Holds, ask: &Ask) -> Vec<u8> {
        let nonce = self.nonce(client);
        ask.writer(Class::Request)
            .attribute(attr::USERNAME, holds.username.as_bytes())
            .attribute(attr::REALM, REALM.as_bytes())
            .attribute(attr::NONCE, &nonce)
            .finish(Some(Self::keys(holds).by(PasswordAlgorithm::Md5)), ask.fingerprint)
    }

    /// Hands a datagram in and does what the engine says, binding every port that it asks for.
    pub(super) fn client(
        &mut self,
        client: SocketAddr,
        datagram: &[u8],
    ) -> (Verdict, Vec<Vec<u8>>) {
        let mut actions = Actions::new();
        let verdict =
            self.server.handle_client(self.now, five_tuple(client), datagram, &mut actions);
        (verdict, self.work(actions))
    }

    /// The answers among `actions`, after the sockets were bound.
    pub(super) fn work(&mut self, mut actions: Actions) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        while !actions.is_empty() {
            for action in std::mem::take(&mut actions) {
                match action {
                    Action::Answer { bytes, .. } => answers.push(bytes),
                    Action::Bind { relay, .. } => {
                        self.server.bound(self.now, relay, Ok(()), &mut actions);
                    }
                    Action::Adopt { relay, socket } => {
                        assert!(socket.into_socket::<SocketAddr>().is_some(), "as it was held");
                        self.server.bound(self.now, relay, Ok(()), &mut actions);
                    }
                    Action::Reserve { relay, local } => {
                        let held = Ok(HeldSocket::new(local));
                        self.server.reserved(self.now, relay, held, &mut actions);
                    }
                    Action::Listen { relay, .. } => {
                        self.server.bound(self.now, relay, Ok(()), &mut actions);
                    }
                    Action::Connect { .. }
                    | Action::Abandon { .. }
                    | Action::Splice { .. }
                    | Action::Close { .. } => {}
                }
            }
        }
        answers
    }

    /// Hands a peer's payload in; returns what goes to the client.
    pub(super) fn peer(
        &mut self,
        relay: RelayId,
        peer: SocketAddr,
        payload: &[u8],
    ) -> Option<Vec<u8>> {
        let mut buffer = vec![0xEE; HEADROOM + payload.len() + TAILROOM];
        let range = HEADROOM..HEADROOM + payload.len();
        buffer[range.clone()].copy_from_slice(payload);
        match self.server.handle_peer(self.now, relay, peer, &mut buffer, range) {
            Verdict::ToClient { datagram, .. } => Some(buffer[datagram].to_vec()),
            Verdict::ToPeer { .. } | Verdict::ToEngine { .. } | Verdict::Done => None,
        }
    }

    /// Allocates for `holds` and returns relayed address and socket name.
    pub(super) fn allocate(&mut self, client: SocketAddr, holds: &Holds) -> (SocketAddr, RelayId) {
        let mut ask = self.ask(Method::ALLOCATE);
        ask.attributes.push((attr::REQUESTED_TRANSPORT, vec![17, 0, 0, 0]));
        let datagram = self.request(client, holds, &ask);
        let mut actions = Actions::new();
        self.server.handle_client(self.now, five_tuple(client), &datagram, &mut actions);
        let relay = actions.iter().find_map(|action| match action {
            Action::Bind { relay, .. } => Some(*relay),
            _ => None,
        });
        let answers = self.work(actions);
        let answer = Message::parse(&answers[0]).expect("an answer");
        let relayed = answer.first(attr::XOR_RELAYED_ADDRESS).expect("a relayed address");
        let relayed = crate::stun::parse_xor_address(relayed, &answer.transaction_id());
        (relayed.expect("an address"), relay.expect("a socket"))
    }

    /// Sends a request about `peers` that must succeed.
    pub(super) fn permit(&mut self, client: SocketAddr, holds: &Holds, peers: &[SocketAddr]) {
        let mut ask = self.ask(Method::CREATE_PERMISSION);
        ask.peers.extend_from_slice(peers);
        self.succeed(client, holds, &ask);
    }

    /// Sends a ChannelBind that must succeed.
    pub(super) fn bind(
        &mut self,
        client: SocketAddr,
        holds: &Holds,
        number: u16,
        peer: SocketAddr,
    ) {
        let mut ask = self.ask(Method::CHANNEL_BIND);
        ask.peers.push(peer);
        let [high, low] = number.to_be_bytes();
        ask.attributes.push((attr::CHANNEL_NUMBER, vec![high, low, 0, 0]));
        self.succeed(client, holds, &ask);
    }

    pub(super) fn succeed(&mut self, client: SocketAddr, holds: &Holds, ask: &Ask) {
        let datagram = self.request(client, holds, ask);
        let (_, answers) = self.client(client, &datagram);
        let class = Message::parse(&answers[0]).expect("an answer").class();
        assert_eq!(class, Class::Success, "{:?}", self.server.marks);
    }
}

/// What a worker may say about a socket.
pub(super) fn bind_failure(text: &str) -> Result<(), BindFailure> {
    match text {
        "ok" => Ok(()),
        "taken" => Err(BindFailure::PortTaken),
        "exhausted" => Err(BindFailure::Exhausted),
        "unavailable" => Err(BindFailure::Unavailable),
        other => panic!("no result of a bind: {other}"),
    }
}
