//! Bytes that nobody should send, and what each packet costs.

use std::net::SocketAddr;
use std::time::Duration;

use super::bench::{Bench, Holds, five_tuple, options};
use crate::credentials::Entropy;
use crate::stun::{ChannelData, Class, Message, Method, attr};
use crate::turn::{Actions, HEADROOM, RelayId, TAILROOM, Verdict};

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A client with an allocation, a permission and a channel.
struct Caller {
    client: SocketAddr,
    holds: Holds,
    peer: SocketAddr,
    relay: RelayId,
}

fn caller(bench: &mut Bench) -> Caller {
    let (client, peer) = (address("198.51.100.1:40001"), address("9.9.9.9:9"));
    let holds = bench.fixed("alice");
    let (_, relay) = bench.allocate(client, &holds);
    bench.bind(client, &holds, 0x4000, peer);
    Caller { client, holds, peer, relay }
}

/// One message of each kind, right as it is.
fn messages(bench: &mut Bench, caller: &Caller) -> Vec<Vec<u8>> {
    let Caller { client, ref holds, peer, .. } = *caller;
    let mut all = vec![b"\x40\x00\x00\x05hello\0\0\0".to_vec()];
    for method in [
        Method::BINDING,
        Method::ALLOCATE,
        Method::REFRESH,
        Method::CREATE_PERMISSION,
        Method::CHANNEL_BIND,
        Method::SEND,
    ] {
        let mut ask = bench.ask(method);
        ask.peers.push(peer);
        ask.fingerprint = true;
        ask.attributes.push((attr::REQUESTED_TRANSPORT, vec![17, 0, 0, 0]));
        ask.attributes.push((attr::LIFETIME, vec![0, 0, 2, 88]));
        ask.attributes.push((attr::CHANNEL_NUMBER, vec![0x40, 0, 0, 0]));
        all.push(bench.request(client, holds, &ask));
        all.push(ask.writer(Class::Indication).attribute(attr::DATA, b"x").finish(None, false));
    }
    all
}

/// Changes some bytes, cuts, or repeats a part.
fn mutate(message: &mut Vec<u8>, entropy: &mut Entropy) {
    for _ in 0..=entropy.below(4) {
        let len = u32::try_from(message.len()).expect("a short message");
        let at = entropy.below(len.max(1)) as usize;
        match entropy.below(6) {
            0 => message.truncate(at),
            1 => {
                let tail = message[at.min(message.len())..].to_vec();
                message.extend_from_slice(&tail);
            }
            2 => message.insert(at.min(message.len()), entropy.below(256) as u8),
            _ => {
                if let Some(byte) = message.get_mut(at) {
                    *byte = entropy.below(256) as u8;
                }
            }
        }
    }
}

#[test]
fn a_hundred_thousand_random_and_mutated_datagrams_change_nothing() {
    let mut bench = Bench::new(options(), 11);
    let caller = caller(&mut bench);
    let messages = messages(&mut bench, &caller);
    let mut entropy = Entropy::from_seed([12; 32]);
    let before = state(&bench);
    let strangers: Vec<SocketAddr> =
        (0..50).map(|last| SocketAddr::from(([198, 51, last, 7], 5000))).collect();
    for round in 0..100_000u32 {
        let mut datagram = if round % 4 == 0 {
            let mut bytes = vec![0; entropy.below(120) as usize];
            entropy.fill(&mut bytes);
            if let Some(first) = bytes.first_mut().filter(|_| round % 8 == 0) {
                *first &= 0x43;
            }
            bytes
        } else {
            messages[entropy.below(messages.len() as u32) as usize].clone()
        };
        mutate(&mut datagram, &mut entropy);
        let client = match entropy.below(2) {
            0 => caller.client,
            _ => strangers[entropy.below(50) as usize],
        };
        let mut actions = Actions::new();
        bench.server.handle_client(bench.now, five_tuple(client), &datagram, &mut actions);
        bench.work(actions);
        bench.peer(caller.relay, caller.peer, &datagram);
        if round % 1000 == 0 {
            bench.now = bench.now.after(Duration::from_millis(50));
        }
    }
    assert_eq!(state(&bench), before);
    let told = bench.peer(caller.relay, caller.peer, b"hello").expect("still relayed");
    assert_eq!(ChannelData::parse(&told).expect("ChannelData").number, 0x4000);
    let (verdict, _) = bench.client(caller.client, &messages[0]);
    assert!(matches!(verdict, Verdict::ToPeer { peer, .. } if peer == caller.peer));
}

fn state(bench: &Bench) -> (usize, (u32, usize), usize, i64) {
    (
        bench.server.allocations(),
        bench.shared.quota.taken(),
        bench.shared.ports(0).available() + bench.shared.ports(1).available(),
        bench.metrics.allocations.value(),
    )
}

#[test]
fn an_allocation_leaves_nothing_behind_however_it_ends() {
    let mut options = options();
    options.limits.lifetime_secs_max = 600;
    let mut bench = Bench::new(options, 13);
    let empty = state(&bench);
    let alice = bench.fixed("alice");
    for round in 0..200u16 {
        let client = SocketAddr::from(([198, 51, 100, 1], 1000 + round));
        bench.grant("one", "red");
        let holds = if round % 4 == 0 {
            bench.granted("one", bench.now.unix_secs + 100)
        } else {
            alice.clone()
        };
        bench.allocate(client, &holds);
        bench.permit(client, &holds, &[address("192.0.2.1:1")]);
        assert_eq!(bench.server.allocations(), 1);
        let mut actions = Actions::new();
        match round % 4 {
            0 => {
                let name = bench.grants["one"].name().clone();
                bench.server.revoke(&name, &mut actions);
            }
            1 => {
                let mut ask = bench.ask(Method::REFRESH);
                ask.attributes.push((attr::LIFETIME, vec![0; 4]));
                bench.succeed(client, &holds, &ask);
            }
            2 => {
                bench.wait(601);
                bench.server.handle_timeout(bench.now, &mut actions);
            }
            _ => bench.server.close_all(&mut actions),
        }
        assert_eq!(state(&bench), empty, "round {round}");
    }
}

#[test]
fn the_next_sweep_is_known_and_never_early_nor_often() {
    let mut bench = Bench::new(options(), 14);
    assert_eq!(bench.server.poll_timeout(), None);
    let alice = bench.fixed("alice");
    let start = bench.now.instant;
    let at = |secs| start + Duration::from_secs(secs);
    bench.allocate(address("198.51.100.1:1"), &alice);
    assert_eq!(bench.server.poll_timeout(), Some(at(600)));
    bench.now.instant = start + Duration::from_millis(500);
    bench.allocate(address("198.51.100.1:2"), &alice);
    assert_eq!(bench.server.poll_timeout(), Some(at(600)));
    let mut actions = Actions::new();
    bench.now.instant = at(599);
    bench.server.handle_timeout(bench.now, &mut actions);
    assert_eq!((actions.len(), bench.server.allocations()), (0, 2));
    bench.now.instant = at(600);
    bench.server.handle_timeout(bench.now, &mut actions);
    assert_eq!((actions.len(), bench.server.allocations()), (1, 1));
    // The second one expires half a second later; sweeps are a second apart.
    assert_eq!(bench.server.poll_timeout(), Some(at(601)));
    bench.now.instant = at(601);
    bench.server.handle_timeout(bench.now, &mut actions);
    assert_eq!((actions.len(), bench.server.allocations()), (2, 0));
    assert_eq!(bench.server.poll_timeout(), None);
}

#[test]
fn a_header_never_overwrites_payload_and_padding_is_zero() {
    let mut bench = Bench::new(options(), 15);
    let caller = caller(&mut bench);
    for (port, len) in [(9, 0), (9, 1), (10, 0), (10, 1), (10, 2), (10, 3), (10, 4), (10, 1200)] {
        let mut buffer = vec![0xEE; HEADROOM + len + TAILROOM];
        let payload: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
        buffer[HEADROOM..HEADROOM + len].copy_from_slice(&payload);
        let peer = SocketAddr::new(caller.peer.ip(), port);
        let range = HEADROOM..HEADROOM + len;
        let verdict = bench.server.handle_peer(bench.now, caller.relay, peer, &mut buffer, range);
        let Verdict::ToClient { five_tuple: to, datagram } = verdict else {
            panic!("not relayed");
        };
        assert_eq!(to, five_tuple(caller.client));
        if port == 9 {
            let message = ChannelData::parse(&buffer[datagram.clone()]).expect("ChannelData");
            assert_eq!(buffer[datagram][message.payload], payload);
        } else {
            let bytes = &buffer[datagram];
            let message = Message::parse(bytes).expect("a Data indication");
            let found = message.first_attribute(attr::DATA).expect("DATA");
            assert_eq!(found.value, payload);
            assert!(bytes[found.value_range().end..].iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn a_repeated_allocate_is_answered_with_the_same_bytes() {
    let mut bench = Bench::new(options(), 16);
    let (client, alice) = (address("198.51.100.1:1"), bench.fixed("alice"));
    let mut ask = bench.ask(Method::ALLOCATE);
    ask.attributes.push((attr::REQUESTED_TRANSPORT, vec![17, 0, 0, 0]));
    let datagram = bench.request(client, &alice, &ask);
    let (_, first) = bench.client(client, &datagram);
    bench.wait(40);
    let (_, second) = bench.client(client, &datagram);
    assert_eq!(first, second);
    assert_eq!((first.len(), bench.server.allocations()), (1, 1));
}

#[test]
fn two_hundred_browsers_behind_one_address_all_get_through() {
    let mut bench = Bench::new(options(), 17);
    let room = bench.grant("room", "red").room();
    for port in 0..200u16 {
        let client = SocketAddr::from(([198, 51, 100, 1], 10_000 + port));
        let binding = bench.ask(Method::BINDING).writer(Class::Request).finish(None, false);
        assert_eq!(bench.client(client, &binding).1.len(), 1);
        let mut ask = bench.ask(Method::ALLOCATE);
        ask.attributes.push((attr::REQUESTED_TRANSPORT, vec![17, 0, 0, 0]));
        let bare = ask.writer(Class::Request).finish(None, false);
        assert_eq!(bench.client(client, &bare).1.len(), 1);
    }
    assert_eq!(bench.grants["room"].room(), room);
}

#[test]
fn a_relayed_packet_takes_no_memory() {
    let mut bench = Bench::new(options(), 18);
    let caller = caller(&mut bench);
    let Caller { client, peer, relay, .. } = caller;
    let send = bench.ask(Method::SEND);
    let send = send.writer(Class::Indication);
    let send = send.xor_address(attr::XOR_PEER_ADDRESS, peer).attribute(attr::DATA, b"hello");
    let send = send.finish(None, true);
    let unbound = SocketAddr::new(peer.ip(), 10);
    let stranger = address("8.8.8.8:8");
    let mut buffer = vec![0; HEADROOM + 1200 + TAILROOM];
    let mut actions = Actions::new();
    let from = five_tuple(client);
    let mut relayed = 0;
    let counted = allocation_counter::measure(|| {
        for _ in 0..100 {
            for datagram in [&b"\x40\x00\x00\x05hello"[..], &send, b"\x40\x01\x00\x00", b"\xff"] {
                let verdict = bench.server.handle_client(bench.now, from, datagram, &mut actions);
                relayed += usize::from(verdict != Verdict::Done);
            }
            for source in [peer, unbound, stranger] {
                let payload = HEADROOM..HEADROOM + 1200;
                let verdict =
                    bench.server.handle_peer(bench.now, relay, source, &mut buffer, payload);
                relayed += usize::from(verdict != Verdict::Done);
            }
        }
    });
    assert_eq!((relayed, counted.count_total, actions.len()), (400, 0, 0));
}

#[test]
fn a_flood_of_strangers_leaves_no_memory_behind() {
    let mut options = options();
    options.limits.unauthenticated_per_prefix_per_sec = 0;
    let mut bench = Bench::new(options, 19);
    let allocate = bench.ask(Method::ALLOCATE).writer(Class::Request).finish(None, true);
    let mallory = Holds { username: "mallory".to_owned(), password: "guess".to_owned() };
    let ask = bench.ask(Method::REFRESH);
    let mut actions = Actions::new();
    let mut answered = 0;
    let mut flood = |sources: std::ops::Range<u32>| {
        for source in sources {
            let [a, b, c, d] = source.to_be_bytes();
            let client = SocketAddr::from(([20 + a, b, c, d], 1024 + (source % 60_000) as u16));
            let forged = (source % 10 == 0).then(|| bench.request(client, &mallory, &ask));
            let datagram = forged.as_deref().unwrap_or(&allocate);
            bench.server.handle_client(bench.now, five_tuple(client), datagram, &mut actions);
            answered += actions.len();
            actions.clear();
        }
    };
    // What is made once, such as a table of checksums, is made before the count.
    flood(0..10);
    let counted = allocation_counter::measure(|| flood(0..100_000));
    assert_eq!((counted.bytes_current, answered), (0, 100_010));
}

#[test]
fn each_allocation_ends_in_its_own_time_and_not_with_the_last_one() {
    let mut bench = Bench::new(options(), 6);
    let holds = bench.fixed("alice");
    for (host, secs) in [(1, 700u32), (2, 1400), (3, 3000)] {
        let client = SocketAddr::from(([198, 51, 100, host], 40_000));
        bench.allocate(client, &holds);
        let mut ask = bench.ask(Method::REFRESH);
        ask.attributes.push((attr::LIFETIME, secs.to_be_bytes().to_vec()));
        bench.succeed(client, &holds, &ask);
    }
    for (secs, left) in [(700, 2), (700, 1), (1600, 0)] {
        bench.wait(secs);
        assert!(bench.server.poll_timeout().is_some_and(|due| due <= bench.now.instant));
        bench.server.handle_timeout(bench.now, &mut Actions::new());
        assert_eq!(bench.server.allocations(), left);
    }
    assert_eq!(bench.server.poll_timeout(), None);
}
