//! Packets between two allocations of ours: what they look like, and every rule on either side.

use std::net::SocketAddr;
use std::sync::Arc;

use super::bench::{Bench, Holds, five_tuple, options};
use crate::credentials::Entropy;
use crate::metrics::{DropReason, Limit, Shortcut, WorkerMetrics};
use crate::stun::{
    ChannelData, Class, Kind, Message, Method, TransactionId, Writer, attr, classify,
    parse_xor_address,
};
use crate::turn::{
    Actions, EngineId, HEADROOM, Hop, Options, RelayAddress, RelayId, Server, TAILROOM, Verdict,
};

const ONE: &str = "198.51.100.1:40001";
const TWO: &str = "198.51.100.2:40002";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Two engines with one relay: `bench` is the first one, unless [`Pair::on_other`] says so.
struct Pair {
    bench: Bench,
    other: Server,
    metrics: Arc<WorkerMetrics>,
}

/// What became of a client's packet.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    Nowhere,
    /// To the client of the other allocation.
    ToClient(SocketAddr, Told),
    /// Through a socket.
    ToPeer(SocketAddr),
    ToEngine(Hop, Vec<u8>),
}

/// What a client is told: through a channel, or by an indication with this peer.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Channel(u16, Vec<u8>),
    Indication(SocketAddr, Vec<u8>),
}

impl Pair {
    fn new(options: Options) -> Self {
        let mut bench = Bench::new(options, 21);
        let engine = |number, metrics: &Arc<WorkerMetrics>| {
            let own = Entropy::from_seed([number as u8; 32]);
            let server = Server::new(Arc::clone(&bench.shared), Arc::clone(metrics), own);
            server.named(EngineId(number))
        };
        let metrics = Arc::new(WorkerMetrics::default());
        let (one, other) = (engine(0, &bench.metrics), engine(1, &metrics));
        bench.server = one;
        Self { bench, other, metrics }
    }

    fn on_other<T>(&mut self, act: impl FnOnce(&mut Bench) -> T) -> T {
        std::mem::swap(&mut self.bench.server, &mut self.other);
        let result = act(&mut self.bench);
        std::mem::swap(&mut self.bench.server, &mut self.other);
        result
    }

    /// The packet arrives at the other engine.
    fn hop(&mut self, hop: &Hop, payload: &[u8]) -> Sent {
        let (mut buffer, range) = buffer(payload);
        let verdict = self.other.handle_hop(self.bench.now, hop, &mut buffer, range);
        sent(verdict, &buffer)
    }
}

fn buffer(bytes: &[u8]) -> (Vec<u8>, std::ops::Range<usize>) {
    let mut buffer = vec![0xEE; HEADROOM + bytes.len() + TAILROOM];
    let range = HEADROOM..HEADROOM + bytes.len();
    buffer[range.clone()].copy_from_slice(bytes);
    (buffer, range)
}

fn sent(verdict: Verdict, buffer: &[u8]) -> Sent {
    match verdict {
        Verdict::Done => Sent::Nowhere,
        Verdict::ToPeer { peer, .. } => Sent::ToPeer(peer),
        Verdict::ToEngine { hop, payload } => Sent::ToEngine(hop, buffer[payload].to_vec()),
        Verdict::ToClient { five_tuple, datagram } => {
            Sent::ToClient(five_tuple.client, told(&buffer[datagram]))
        }
    }
}

fn told(bytes: &[u8]) -> Told {
    if classify(bytes) == Kind::ChannelData {
        let message = ChannelData::parse(bytes).expect("ChannelData");
        return Told::Channel(message.number, bytes[message.payload].to_vec());
    }
    let message = Message::parse(bytes).expect("a message");
    assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
    let data = message.first_attribute(attr::DATA).expect("DATA");
    assert!(bytes[data.value_range().end..].iter().all(|byte| *byte == 0), "padding");
    let peer = message.first(attr::XOR_PEER_ADDRESS).expect("XOR-PEER-ADDRESS");
    let peer = parse_xor_address(peer, &message.transaction_id()).expect("an address");
    Told::Indication(peer, data.value.to_vec())
}

/// A datagram of a client, as a worker hands it in.
fn says(bench: &mut Bench, client: &str, datagram: &[u8]) -> Sent {
    let (mut buffer, range) = buffer(datagram);
    let (now, from) = (bench.now, five_tuple(address(client)));
    let (engine, actions) = (&mut bench.server, &mut Actions::new());
    let verdict = engine.handle_client_in_place(now, from, &mut buffer, range, actions);
    assert!(actions.is_empty());
    sent(verdict, &buffer)
}

fn channel_data(number: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).expect("a payload");
    [&number.to_be_bytes()[..], &len.to_be_bytes(), payload].concat()
}

fn indication(peer: SocketAddr, payload: &[u8]) -> Vec<u8> {
    Writer::new(Class::Indication, Method::SEND, TransactionId([3; 12]))
        .xor_address(attr::XOR_PEER_ADDRESS, peer)
        .attribute(attr::DATA, payload)
        .finish(None, false)
}

/// Two allocations on the first engine that permit each other; their relayed addresses.
fn permitted(bench: &mut Bench) -> (SocketAddr, SocketAddr) {
    let (alice, bob) = (bench.fixed("alice"), bench.fixed("bob"));
    let (one, _) = bench.allocate(address(ONE), &alice);
    let (two, _) = bench.allocate(address(TWO), &bob);
    bench.permit(address(ONE), &alice, &[two]);
    bench.permit(address(TWO), &bob, &[one]);
    (one, two)
}

/// The same at two engines.
fn apart(pair: &mut Pair, one: &Holds, two: &Holds) -> (SocketAddr, SocketAddr) {
    let (relayed_one, _) = pair.bench.allocate(address(ONE), one);
    let (relayed_two, _) = pair.on_other(|bench| bench.allocate(address(TWO), two));
    pair.bench.permit(address(ONE), one, &[relayed_two]);
    pair.on_other(|bench| bench.permit(address(TWO), two, &[relayed_one]));
    (relayed_one, relayed_two)
}

#[test]
fn a_packet_comes_out_as_if_it_had_left_and_come_in_again() {
    let nat = |public: &str, local: &str| RelayAddress {
        public: public.parse().expect("an address"),
        local: local.parse().expect("an address"),
    };
    for addresses in [options().relay_addresses, vec![nat("203.0.113.9", "10.0.0.5")]] {
        let mut bench = Pair::new(Options { relay_addresses: addresses, ..options() }).bench;
        let (one, two) = permitted(&mut bench);
        let (alice, bob) = (bench.fixed("alice"), bench.fixed("bob"));
        let lens = [0, 1, 2, 3, 4, 171, 1200, 9000];
        let mut count = 0;
        for bound in [(false, false), (true, false), (true, true)] {
            if bound.0 {
                bench.bind(address(ONE), &alice, 0x4001, two);
            }
            if bound.1 {
                bench.bind(address(TWO), &bob, 0x4002, one);
            }
            for len in lens {
                let payload: Vec<u8> = (0..len).map(|at: usize| at as u8 | 1).collect();
                let expected = || match bound.1 {
                    true => Told::Channel(0x4002, payload.clone()),
                    false => Told::Indication(one, payload.clone()),
                };
                let mut datagrams = vec![indication(two, &payload)];
                datagrams.extend(bound.0.then(|| channel_data(0x4001, &payload)));
                for datagram in datagrams {
                    count += 1;
                    let came = Sent::ToClient(address(TWO), expected());
                    assert_eq!(says(&mut bench, ONE, &datagram), came);
                }
            }
        }
        let metrics = &bench.metrics;
        let packets = [&metrics.to_peer.packets, &metrics.to_client.packets];
        assert_eq!(packets.map(crate::metrics::Count::value), [count, count]);
        assert_eq!(metrics.to_peer.bytes.value(), metrics.to_client.bytes.value());
        assert_eq!(metrics.shortcuts(Shortcut::SameWorker), count);
    }
}

#[test]
fn a_client_that_sends_to_its_own_relayed_address_hears_itself_once() {
    let mut bench = Pair::new(options()).bench;
    let alice = bench.fixed("alice");
    let (own, _) = bench.allocate(address(ONE), &alice);
    assert_eq!(says(&mut bench, ONE, &indication(own, b"echo")), Sent::Nowhere);
    assert_eq!(bench.metrics.drops(DropReason::NoPermission), 1);
    bench.permit(address(ONE), &alice, &[own]);
    let echo = Told::Indication(own, b"echo".to_vec());
    assert_eq!(
        says(&mut bench, ONE, &indication(own, b"echo")),
        Sent::ToClient(address(ONE), echo)
    );
}

#[test]
fn both_sides_have_to_permit_and_each_counts_its_own_refusals() {
    let mut bench = Pair::new(options()).bench;
    let (alice, bob) = (bench.fixed("alice"), bench.fixed("bob"));
    let (one, _) = bench.allocate(address(ONE), &alice);
    let (two, _) = bench.allocate(address(TWO), &bob);
    let hello = indication(two, b"hello");
    let relayed = |bench: &Bench| {
        (bench.metrics.to_peer.packets.value(), bench.metrics.to_client.packets.value())
    };
    // The sender has no permission, then the receiver has none, then both do.
    assert_eq!(says(&mut bench, ONE, &hello), Sent::Nowhere);
    assert_eq!((bench.metrics.drops(DropReason::NoPermission), relayed(&bench)), (1, (0, 0)));
    bench.permit(address(ONE), &alice, &[two]);
    assert_eq!(says(&mut bench, ONE, &hello), Sent::Nowhere);
    assert_eq!((bench.metrics.drops(DropReason::NoPermission), relayed(&bench)), (2, (1, 0)));
    bench.permit(address(TWO), &bob, &[one]);
    assert!(matches!(says(&mut bench, ONE, &hello), Sent::ToClient(..)));
    assert_eq!(relayed(&bench), (2, 1));
    // A channel that nobody bound; then the receiver's permission expires before the sender's.
    assert_eq!(says(&mut bench, ONE, &channel_data(0x4001, b"hello")), Sent::Nowhere);
    assert_eq!(bench.metrics.drops(DropReason::NoChannel), 1);
    bench.wait(200);
    bench.permit(address(ONE), &alice, &[two]);
    bench.wait(150);
    assert_eq!(says(&mut bench, ONE, &hello), Sent::Nowhere);
    assert_eq!((bench.metrics.drops(DropReason::NoPermission), relayed(&bench)), (3, (3, 1)));
}

#[test]
fn an_allocation_that_has_expired_or_ended_gets_nothing() {
    let mut bench = Pair::new(options()).bench;
    let (_, two) = permitted(&mut bench);
    let (alice, bob) = (bench.fixed("alice"), bench.fixed("bob"));
    bench.wait(590);
    let mut refresh = bench.ask(Method::REFRESH);
    refresh.attributes.push((attr::LIFETIME, 600u32.to_be_bytes().to_vec()));
    bench.succeed(address(ONE), &alice, &refresh);
    bench.permit(address(ONE), &alice, &[two]);
    let hello = indication(two, b"hello");
    // Expired and not swept yet, then swept.
    bench.wait(10);
    assert_eq!(says(&mut bench, ONE, &hello), Sent::Nowhere);
    assert_eq!(bench.metrics.drops(DropReason::NoAllocation), 1);
    bench.server.handle_timeout(bench.now, &mut Actions::new());
    assert_eq!(says(&mut bench, ONE, &hello), Sent::Nowhere);
    assert_eq!(bench.metrics.drops(DropReason::NotRelayed), 1);
    let (two, _) = bench.allocate(address(TWO), &bob);
    bench.permit(address(ONE), &alice, &[two]);
    let mut delete = bench.ask(Method::REFRESH);
    delete.attributes.push((attr::LIFETIME, vec![0; 4]));
    bench.succeed(address(TWO), &bob, &delete);
    assert_eq!(says(&mut bench, ONE, &indication(two, b"hello")), Sent::Nowhere);
    assert_eq!(bench.metrics.drops(DropReason::NotRelayed), 2);
}

#[test]
fn rooms_stay_apart() {
    let mut bench = Pair::new(options()).bench;
    for (name, room) in [("red one", "red"), ("red two", "red"), ("blue", "blue")] {
        bench.grant(name, room);
    }
    let expiry = bench.now.unix_secs + 600;
    let clients = ["198.51.100.1:1", "198.51.100.1:2", "198.51.100.1:3", "198.51.100.1:4"];
    let holds = [
        bench.granted("red one", expiry),
        bench.granted("red two", expiry),
        bench.granted("blue", expiry),
        bench.fixed("alice"),
    ];
    let relayed: Vec<_> = clients
        .iter()
        .zip(&holds)
        .map(|(client, holds)| bench.allocate(address(client), holds).0)
        .collect();
    for (client, holds) in clients.iter().zip(&holds) {
        bench.permit(address(client), holds, &relayed);
    }
    for (from, client) in clients.iter().enumerate() {
        for (to, peer) in relayed.iter().enumerate() {
            let came = says(&mut bench, client, &indication(*peer, b"x"));
            let reaches = from == to || from + to == 1;
            assert_eq!(matches!(came, Sent::ToClient(..)), reaches, "{from} to {to}: {came:?}");
        }
    }
    assert_eq!(bench.metrics.drops(DropReason::NotRelayed), 10);
}

#[test]
fn both_sides_pay_for_their_bandwidth() {
    let mut options = options();
    options.limits.bandwidth_per_allocation_bytes_per_sec = 10_000;
    let mut bench = Pair::new(options).bench;
    let (one, two) = permitted(&mut bench);
    let (bob, away) = (bench.fixed("bob"), address("9.9.9.9:9"));
    bench.permit(address(TWO), &bob, &[away]);
    let bitten = |bench: &Bench| bench.metrics.limits(Limit::BandwidthPerAllocation);
    let received = |bench: &Bench| bench.metrics.to_client.packets.value();
    while bitten(&bench) == 0 {
        says(&mut bench, TWO, &indication(away, &[0; 1000]));
    }
    // The receiver has nothing left, the sender all of his: he has paid when it is dropped.
    let sent = bench.metrics.to_peer.packets.value();
    assert_eq!(says(&mut bench, ONE, &indication(two, &[0; 1000])), Sent::Nowhere);
    assert_eq!((bitten(&bench), received(&bench)), (2, 0));
    assert_eq!(bench.metrics.to_peer.packets.value(), sent + 1);
    // Nor can it send; it can once there is something again.
    assert_eq!(says(&mut bench, TWO, &indication(one, &[0; 1000])), Sent::Nowhere);
    assert_eq!((bitten(&bench), received(&bench)), (3, 0));
    bench.wait(1);
    assert!(matches!(says(&mut bench, TWO, &indication(one, &[0; 1000])), Sent::ToClient(..)));
}

#[test]
fn what_is_too_long_for_the_receiver_is_dropped_and_for_any_datagram_left_to_the_socket() {
    let mut bench = Pair::new(options()).bench;
    let (_, two) = permitted(&mut bench);
    let alice = bench.fixed("alice");
    bench.bind(address(ONE), &alice, 0x4001, two);
    // 36 bytes of header of a Data indication.
    let fits = says(&mut bench, ONE, &channel_data(0x4001, &vec![7; 65_507 - 36 - 3]));
    assert!(matches!(fits, Sent::ToClient(..)));
    let too_long = says(&mut bench, ONE, &channel_data(0x4001, &vec![7; 65_507]));
    assert_eq!(too_long, Sent::Nowhere);
    assert_eq!(bench.metrics.drops(DropReason::TooLong), 1);
    let no_datagram = says(&mut bench, ONE, &channel_data(0x4001, &vec![7; 65_508]));
    assert_eq!(no_datagram, Sent::ToPeer(two));
}

#[test]
fn a_packet_for_another_engine_is_judged_on_both_sides() {
    let mut pair = Pair::new(options());
    let (alice, bob) = (pair.bench.fixed("alice"), pair.bench.fixed("bob"));
    let (one, two) = apart(&mut pair, &alice, &bob);
    let Sent::ToEngine(hop, payload) = says(&mut pair.bench, ONE, &indication(two, b"hello"))
    else {
        panic!("it stays in the process");
    };
    assert_eq!((hop.engine, &payload[..]), (EngineId(1), &b"hello"[..]));
    assert_eq!(pair.bench.metrics.to_peer.packets.value(), 1);
    let expected = Told::Indication(one, b"hello".to_vec());
    assert_eq!(pair.hop(&hop, &payload), Sent::ToClient(address(TWO), expected));
    assert_eq!(pair.metrics.to_client.packets.value(), 1);
    // The other way has the same rules; here the receiver's permission has expired.
    pair.bench.wait(200);
    pair.on_other(|bench| bench.permit(address(TWO), &bob, &[one]));
    pair.bench.wait(150);
    assert_eq!(says(&mut pair.bench, ONE, &indication(two, b"x")), Sent::Nowhere);
    let back = pair.on_other(|bench| says(bench, TWO, &indication(one, b"back")));
    let Sent::ToEngine(hop, payload) = back else { panic!("it stays in the process") };
    assert_eq!(hop.engine, EngineId(0));
    let (mut buffer, range) = buffer(&payload);
    let now = pair.bench.now;
    let verdict = pair.bench.server.handle_hop(now, &hop, &mut buffer, range);
    assert_eq!(verdict, Verdict::Done);
    assert_eq!(pair.bench.metrics.drops(DropReason::NoPermission), 2);
}

#[test]
fn whoever_has_the_place_or_the_port_of_a_receiver_that_is_gone_gets_nothing_of_its() {
    // The sender has one of three ports, so the receiver's comes back soon; and there is but one
    // place in the table of the engine.
    let mut pair = Pair::new(Options { relay_ports: (50_000, 50_002), ..options() });
    pair.bench.grant("red one", "red");
    pair.bench.grant("red two", "red");
    pair.bench.grant("blue", "blue");
    let expiry = pair.bench.now.unix_secs + 600;
    let [one, two, blue] =
        ["red one", "red two", "blue"].map(|name| pair.bench.granted(name, expiry));
    let (from, to) = apart(&mut pair, &one, &two);
    let Sent::ToEngine(hop, payload) = says(&mut pair.bench, ONE, &indication(to, b"secret"))
    else {
        panic!("it stays in the process");
    };
    let mut ports = std::collections::BTreeSet::new();
    for round in 1..=6 {
        let (relayed, relay) = pair.on_other(|bench| {
            bench.server.close_all(&mut Actions::new());
            bench.allocate(address(TWO), &blue)
        });
        assert_eq!(relay, RelayId(0), "the place of the one before");
        pair.on_other(|bench| bench.permit(address(TWO), &blue, &[from]));
        ports.insert(relayed.port());
        assert_eq!(pair.hop(&hop, &payload), Sent::Nowhere);
        assert_eq!(pair.metrics.drops(DropReason::NoAllocation), round);
    }
    assert!(ports.contains(&to.port()) && ports.len() == 2, "{ports:?}");
    // In its own room it is the same address, as a network would have it.
    loop {
        let (relayed, _) = pair.on_other(|bench| {
            bench.server.close_all(&mut Actions::new());
            bench.allocate(address(TWO), &two)
        });
        pair.on_other(|bench| bench.permit(address(TWO), &two, &[from]));
        let came = matches!(pair.hop(&hop, &payload), Sent::ToClient(..));
        assert_eq!(came, relayed == to);
        if came {
            break;
        }
    }
}

#[test]
fn a_packet_of_a_sender_that_was_revoked_on_its_way_is_dropped() {
    let mut pair = Pair::new(options());
    pair.bench.grant("one", "red");
    pair.bench.grant("two", "red");
    let expiry = pair.bench.now.unix_secs + 600;
    let (one, two) = (pair.bench.granted("one", expiry), pair.bench.granted("two", expiry));
    let (_, to) = apart(&mut pair, &one, &two);
    let Sent::ToEngine(hop, payload) = says(&mut pair.bench, ONE, &indication(to, b"late")) else {
        panic!("it stays in the process");
    };
    let name = pair.bench.grants["one"].name().clone();
    pair.bench.server.revoke(&name, &mut Actions::new());
    assert_eq!(pair.hop(&hop, &payload), Sent::Nowhere);
    assert_eq!(pair.metrics.drops(DropReason::NotRelayed), 1);
    let name = pair.bench.grants["two"].name().clone();
    pair.other.revoke(&name, &mut Actions::new());
    assert_eq!(pair.hop(&hop, &payload), Sent::Nowhere);
    assert_eq!(pair.metrics.drops(DropReason::NoAllocation), 1);
}

#[test]
fn an_engine_without_a_name_is_reached_through_its_sockets() {
    let mut bench = Bench::new(options(), 22);
    let (_, two) = permitted(&mut bench);
    assert_eq!(says(&mut bench, ONE, &indication(two, b"hello")), Sent::ToPeer(two));
}

#[test]
fn a_packet_between_allocations_takes_no_memory() {
    let mut bench = Pair::new(options()).bench;
    let (one, two) = permitted(&mut bench);
    let (alice, bob) = (bench.fixed("alice"), bench.fixed("bob"));
    bench.bind(address(ONE), &alice, 0x4001, two);
    bench.bind(address(TWO), &bob, 0x4002, one);
    let from = five_tuple(address(ONE));
    let datagram = channel_data(0x4001, &[7; 1200]);
    let (mut buffer, range) = buffer(&datagram);
    let (mut actions, mut relayed) = (Actions::new(), 0);
    let counted = allocation_counter::measure(|| {
        for _ in 0..100 {
            buffer[range.clone()].copy_from_slice(&datagram);
            let (now, whole, server) = (bench.now, range.clone(), &mut bench.server);
            let verdict =
                server.handle_client_in_place(now, from, &mut buffer, whole, &mut actions);
            relayed += usize::from(matches!(verdict, Verdict::ToClient { .. }));
        }
    });
    assert_eq!((relayed, counted.count_total), (100, 0));
}
