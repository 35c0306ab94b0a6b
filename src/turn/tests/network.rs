//! Two clients on two workers, and between all of them a network that loses, repeats and reorders.
//! Every run has some networks that are always the same and a fresh one. A failure prints its seed;
//! `SEED=...` builds that network alone, and it fails again.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::hash::BuildHasher as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::bench::{Bench, Holds, five_tuple, options};
use crate::credentials::Entropy;
use crate::metrics::WorkerMetrics;
use crate::net::Now;
use crate::stun::{ChannelData, Class, Kind, Message, Method, attr, classify, parse_xor_address};
use crate::turn::{Action, Actions, HEADROOM, RelayId, Server, TAILROOM, Verdict};

/// Payloads that each client sends.
const PAYLOADS: u8 = 60;
/// A client repeats a request that often.
const RETRY_MILLIS: u64 = 300;
/// The longest a packet is on its way.
const DELAY_MILLIS: u32 = 400;

#[test]
fn two_clients_talk_through_a_bad_network() {
    for seed in seeds() {
        let outcome = std::panic::catch_unwind(|| Net::new(seed).run());
        assert!(outcome.is_ok(), "SEED={seed} fails again");
    }
}

#[test]
fn a_seed_makes_one_network_and_another_seed_another_one() {
    let [one, again, other] = [7, 7, 7 << 32].map(|seed| Net::new(seed).run());
    assert_eq!(one, again);
    assert_ne!(one, other);
}

/// The seed that was asked for; else those of every run and a fresh one.
fn seeds() -> Vec<u64> {
    if let Ok(seed) = std::env::var("SEED") {
        return vec![seed.parse().expect("SEED is a number")];
    }
    // The keys of a new hasher are drawn at random.
    let fresh = std::hash::RandomState::new().hash_one("a network");
    (0..40).chain([fresh]).collect()
}

/// `number` and `of` at the beginning of a seed.
fn seed_bytes(number: u64, of: u8) -> [u8; 32] {
    let mut seed = [of; 32];
    seed[..8].copy_from_slice(&number.to_be_bytes());
    seed
}

/// What is on its way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A client looks after itself.
    Wake(usize),
    /// To the relay's listening port.
    ToServer(usize, Vec<u8>),
    /// To a client.
    ToClient(usize, Vec<u8>),
    /// To a relayed address, from another one.
    ToRelayed(SocketAddr, SocketAddr, Vec<u8>),
}

struct Peer {
    address: SocketAddr,
    holds: Holds,
    server: Server,
    metrics: Arc<WorkerMetrics>,
    /// The sockets that its worker has: name and address.
    sockets: Vec<(RelayId, SocketAddr)>,
    relayed: Option<SocketAddr>,
    step: Step,
    waits_for: Option<(crate::stun::TransactionId, Vec<u8>)>,
    sent: u8,
    received: BTreeSet<u8>,
}

/// What a client does next, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Allocate,
    Permit,
    Bind,
    Talk,
    Delete,
    Done,
}

struct Net {
    bench: Bench,
    entropy: Entropy,
    start: Now,
    millis: u64,
    order: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    peers: Vec<Peer>,
}

impl Net {
    fn new(seed: u64) -> Self {
        let bench = Bench::seeded(options(), seed_bytes(seed, 0), seed_bytes(seed, 0xFF));
        let peer = |number: u8, name: &str| {
            let metrics = Arc::new(WorkerMetrics::default());
            let own = Entropy::from_seed(seed_bytes(seed, number));
            Peer {
                address: SocketAddr::from(([198, 51, 100, number], 40_000)),
                holds: bench.fixed(name),
                server: Server::new(Arc::clone(&bench.shared), Arc::clone(&metrics), own),
                metrics,
                sockets: Vec::new(),
                relayed: None,
                step: Step::Allocate,
                waits_for: None,
                sent: 0,
                received: BTreeSet::new(),
            }
        };
        let peers = vec![peer(1, "alice"), peer(2, "bob")];
        let start = bench.now;
        let entropy = Entropy::from_seed(seed_bytes(seed, 3));
        let events = BinaryHeap::new();
        Self { bench, entropy, start, millis: 0, order: 0, events, peers }
    }

    /// When the last event was, and what has arrived at each client.
    fn run(mut self) -> (u64, [BTreeSet<u8>; 2]) {
        self.at(0, Event::Wake(0));
        self.at(0, Event::Wake(1));
        while let Some(Reverse((millis, _, event))) = self.events.pop() {
            assert!(millis < 120_000, "it takes for ever: {:?}", self.steps());
            self.millis = millis;
            match event {
                Event::Wake(client) => self.wake(client),
                Event::ToServer(client, bytes) => self.arrive_at_server(client, &bytes),
                Event::ToClient(client, bytes) => self.arrive_at_client(client, &bytes),
                Event::ToRelayed(from, to, bytes) => self.arrive_at_relayed(from, to, &bytes),
            }
        }
        assert_eq!(self.steps(), [Step::Done, Step::Done]);
        for peer in &self.peers {
            let arrived = peer.received.len();
            // About half of them do; in one network of a thousand million so few would be chance.
            assert!(arrived > usize::from(PAYLOADS) / 8, "only {arrived} arrived");
        }
        let ended = self.millis;
        // A repeated Allocate that came late made an allocation nobody wants; its time runs out.
        self.millis += 700_000;
        let now = self.now();
        for peer in &mut self.peers {
            let mut actions = Actions::new();
            peer.server.handle_timeout(now, &mut actions);
            assert_eq!(peer.server.allocations(), 0);
            assert_eq!(peer.metrics.allocations.value(), 0);
        }
        assert_eq!(self.bench.shared.quota.taken(), (0, 0));
        assert_eq!(self.bench.shared.ports(0).available(), 1000);
        (ended, [0, 1].map(|client| std::mem::take(&mut self.peers[client].received)))
    }

    fn steps(&self) -> Vec<Step> {
        self.peers.iter().map(|peer| peer.step).collect()
    }

    fn now(&self) -> Now {
        self.start.after(Duration::from_millis(self.millis))
    }

    fn at(&mut self, delay_millis: u64, event: Event) {
        self.order += 1;
        self.events.push(Reverse((self.millis + delay_millis, self.order, event)));
    }

    /// Puts a packet on its way: none, one or two of it arrive, each after a time of its own.
    fn travel(&mut self, event: Event) {
        let copies = match self.entropy.below(10) {
            0 | 1 => 0,
            2 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = u64::from(self.entropy.below(DELAY_MILLIS));
            self.at(delay, event.clone());
        }
    }

    fn wake(&mut self, client: usize) {
        let Peer { relayed: other, step: other_step, sent: other_sent, .. } =
            self.peers[1 - client];
        let peer = &mut self.peers[client];
        if peer.step == Step::Done {
            return;
        }
        if peer.step == Step::Talk {
            let Some(to) = other.filter(|_| other_step >= Step::Talk) else {
                return self.at(50, Event::Wake(client));
            };
            if let Some(datagram) = talk(peer, to) {
                self.travel(Event::ToServer(client, datagram));
            } else if other_sent == PAYLOADS {
                // What is still on its way may arrive.
                peer.step = Step::Delete;
                return self.at(3 * u64::from(DELAY_MILLIS), Event::Wake(client));
            }
            return self.at(20, Event::Wake(client));
        }
        if self.peers[client].waits_for.is_none() && !self.ask(client, other) {
            return self.at(50, Event::Wake(client));
        }
        if let Some((_, datagram)) = self.peers[client].waits_for.clone() {
            self.travel(Event::ToServer(client, datagram));
        }
        self.at(RETRY_MILLIS, Event::Wake(client));
    }

    /// Makes the request of the client's step; false when it cannot yet.
    fn ask(&mut self, client: usize, other: Option<SocketAddr>) -> bool {
        let step = self.peers[client].step;
        let (method, attribute) = match step {
            Step::Allocate => {
                (Method::ALLOCATE, Some((attr::REQUESTED_TRANSPORT, vec![17, 0, 0, 0])))
            }
            Step::Permit => (Method::CREATE_PERMISSION, None),
            Step::Bind => (Method::CHANNEL_BIND, Some((attr::CHANNEL_NUMBER, vec![0x40, 0, 0, 0]))),
            _ => (Method::REFRESH, Some((attr::LIFETIME, vec![0; 4]))),
        };
        let mut ask = self.bench.ask(method);
        ask.attributes.extend(attribute);
        if matches!(step, Step::Permit | Step::Bind) {
            let Some(other) = other else { return false };
            ask.peers.push(other);
        }
        let peer = &mut self.peers[client];
        let datagram = self.bench.request(peer.address, &peer.holds, &ask);
        peer.waits_for = Some((ask.transaction, datagram));
        true
    }

    fn arrive_at_server(&mut self, client: usize, datagram: &[u8]) {
        let now = self.now();
        let peer = &mut self.peers[client];
        let mut actions = Actions::new();
        let verdict =
            peer.server.handle_client(now, five_tuple(peer.address), datagram, &mut actions);
        if let Verdict::ToPeer { relay, peer: to, payload, .. } = verdict {
            let socket = peer.sockets.iter().find(|(name, _)| *name == relay);
            let (_, from) = *socket.expect("a bound socket");
            self.travel(Event::ToRelayed(from, to, datagram[payload].to_vec()));
        }
        self.work(client, actions);
    }

    fn work(&mut self, client: usize, mut actions: Actions) {
        let now = self.now();
        while !actions.is_empty() {
            for action in std::mem::take(&mut actions) {
                match action {
                    Action::Answer { bytes, .. } => self.travel(Event::ToClient(client, bytes)),
                    Action::Bind { relay, local } => {
                        let peer = &mut self.peers[client];
                        peer.sockets.push((relay, local));
                        peer.server.bound(now, relay, Ok(()), &mut actions);
                    }
                    Action::Close { relay } => {
                        self.peers[client].sockets.retain(|(name, _)| *name != relay);
                    }
                    other => panic!("nobody asked for it: {other:?}"),
                }
            }
        }
    }

    fn arrive_at_relayed(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let now = self.now();
        for client in 0..2 {
            let peer = &mut self.peers[client];
            let Some((relay, _)) = peer.sockets.iter().copied().find(|(_, at)| *at == to) else {
                continue;
            };
            let mut buffer = vec![0; HEADROOM + payload.len() + TAILROOM];
            let range = HEADROOM..HEADROOM + payload.len();
            buffer[range.clone()].copy_from_slice(payload);
            let verdict = peer.server.handle_peer(now, relay, from, &mut buffer, range);
            if let Verdict::ToClient { datagram, .. } = verdict {
                self.travel(Event::ToClient(client, buffer[datagram].to_vec()));
            }
        }
    }

    fn arrive_at_client(&mut self, client: usize, bytes: &[u8]) {
        let peer = &mut self.peers[client];
        if classify(bytes) == Kind::ChannelData {
            let message = ChannelData::parse(bytes).expect("ChannelData");
            peer.received.insert(bytes[message.payload][0]);
            return;
        }
        let message = Message::parse(bytes).expect("a message");
        if message.class() == Class::Indication {
            let payload = message.first(attr::DATA).expect("DATA");
            peer.received.insert(payload[0]);
            return;
        }
        let id = message.transaction_id();
        let expected = peer.waits_for.as_ref().is_some_and(|(wanted, _)| *wanted == id);
        if !expected {
            return;
        }
        peer.waits_for = None;
        // A repeated deletion finds nothing left (RFC 8656, section 8.2).
        let refused = message.class() == Class::Error;
        assert!(!refused || peer.step == Step::Delete, "refused: {:?}", peer.step);
        peer.step = match peer.step {
            Step::Allocate => {
                let relayed = message.first(attr::XOR_RELAYED_ADDRESS).expect("an address");
                peer.relayed = parse_xor_address(relayed, &id);
                Step::Permit
            }
            Step::Permit => Step::Bind,
            Step::Bind => Step::Talk,
            Step::Talk | Step::Delete | Step::Done => Step::Done,
        };
    }
}

/// The next payload: its number, through the channel and by indication in turn.
fn talk(peer: &mut Peer, to: SocketAddr) -> Option<Vec<u8>> {
    if peer.sent == PAYLOADS {
        return None;
    }
    peer.sent += 1;
    let number = peer.sent;
    Some(match number % 2 {
        0 => vec![0x40, 0, 0, 1, number],
        _ => {
            let id = crate::stun::TransactionId([number; 12]);
            crate::stun::Writer::new(Class::Indication, Method::SEND, id)
                .xor_address(attr::XOR_PEER_ADDRESS, to)
                .attribute(attr::DATA, &[number])
                .finish(None, false)
        }
    })
}
