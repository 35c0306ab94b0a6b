//! Ports in reserve: whatever happens to them, on whichever worker, nothing leaks.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::bench::{Bench, options};
use crate::credentials::Entropy;
use crate::metrics::WorkerMetrics;
use crate::stun::{Class, Message, Method, attr, parse_xor_address};
use crate::turn::ports::{PortLease, PortPool};
use crate::turn::{Actions, HeldSocket, Server};

/// What a client asks for.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Plain,
    Reserve,
    Dual,
    Token,
}

#[derive(Debug, Clone)]
enum Step {
    Allocate(u8, Kind),
    Delete(u8, Option<u8>),
    Wait(u8),
    Sweep,
    OtherWorker,
}

fn steps() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        Just(Kind::Plain),
        Just(Kind::Reserve),
        Just(Kind::Reserve),
        Just(Kind::Dual),
        Just(Kind::Token),
        Just(Kind::Token)
    ];
    prop_oneof![
        4 => (0u8..8, kind).prop_map(|(client, kind)| Step::Allocate(client, kind)),
        2 => (0u8..8, prop_oneof![Just(None), Just(Some(1)), Just(Some(2))])
            .prop_map(|(client, family)| Step::Delete(client, family)),
        1 => (0u8..20).prop_map(Step::Wait),
        1 => Just(Step::Sweep),
        2 => Just(Step::OtherWorker),
    ]
}

fn client(number: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, number], 40_000))
}

/// Sends a request of `number`, every second one of another user; returns whether it succeeded,
/// the relayed addresses and the token of the answer.
fn ask(
    bench: &mut Bench,
    number: u8,
    method: Method,
    attributes: Vec<(u16, Vec<u8>)>,
) -> (bool, Vec<SocketAddr>, Option<Vec<u8>>) {
    let holds = bench.fixed(if number.is_multiple_of(2) { "alice" } else { "bob" });
    let mut ask = bench.ask(method);
    ask.attributes = attributes;
    let datagram = bench.request(client(number), &holds, &ask);
    let (_, answers) = bench.client(client(number), &datagram);
    let message = Message::parse(&answers[0]).expect("an answer");
    let relayed = message.attributes().filter(|found| found.kind == attr::XOR_RELAYED_ADDRESS);
    let id = message.transaction_id();
    let relayed = relayed.map(|found| parse_xor_address(found.value, &id).expect("an address"));
    let token = message.first(attr::RESERVATION_TOKEN).map(<[u8]>::to_vec);
    (message.class() == Class::Success, relayed.collect(), token)
}

#[test]
fn tokens_cannot_be_guessed_from_one_another() {
    let mut options = options();
    (options.limits.allocations_per_user, options.limits.allocations) = (100, 100);
    let mut bench = Bench::new(options, 11);
    let reserve = attributes(Kind::Reserve, None);
    let mut draw = |number| {
        let (_, _, token) = ask(&mut bench, number, Method::ALLOCATE, reserve.clone());
        u64::from_be_bytes(token.expect("a token").try_into().expect("8 bytes"))
    };
    let tokens: Vec<u64> = (0..32).map(&mut draw).collect();
    // Each of the 64 bits is set in one and clear in another, and half of them differ each time.
    let (ones, zeros) = tokens.iter().fold((0, 0), |(ones, zeros), t| (ones | t, zeros | !t));
    assert_eq!((ones, zeros), (u64::MAX, u64::MAX), "{tokens:x?}");
    let bits: u32 = tokens.windows(2).map(|pair| (pair[0] ^ pair[1]).count_ones()).sum();
    assert!((850..1134).contains(&bits), "{bits} of 1984 bits differ");
}

fn attributes(kind: Kind, token: Option<&Vec<u8>>) -> Vec<(u16, Vec<u8>)> {
    let token = token.cloned().unwrap_or_else(|| vec![0; 8]);
    let special = match kind {
        Kind::Plain => None,
        Kind::Reserve => Some((attr::EVEN_PORT, vec![0x80])),
        Kind::Dual => Some((attr::ADDITIONAL_ADDRESS_FAMILY, vec![2, 0, 0, 0])),
        Kind::Token => Some((attr::RESERVATION_TOKEN, token)),
    };
    let transport = Some((attr::REQUESTED_TRANSPORT, vec![17, 0, 0, 0]));
    transport.into_iter().chain(special).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn reservations_leak_nothing_and_are_good_once(
        seed: u8,
        steps in prop::collection::vec(steps(), 0..60),
    ) {
        let mut options = options();
        options.relay_ports = (50_000, 50_005);
        options.limits.allocations_per_user = 6;
        let mut bench = Bench::new(options, seed);
        let shared = Arc::clone(&bench.shared);
        // Two generators that begin alike would draw the same tokens.
        let own = Entropy::from_seed(std::array::from_fn(|index| seed ^ index as u8));
        let mut other = Server::new(Arc::clone(&shared), Arc::new(WorkerMetrics::default()), own);
        // Tokens in the order in which they were told, and those that were used.
        let (mut tokens, mut used) = (Vec::new(), HashSet::new());
        for step in steps {
            match step {
                Step::Allocate(number, kind) => {
                    let token = tokens.get(usize::from(number) % tokens.len().max(1)).cloned();
                    let attributes = attributes(kind, token.as_ref().map(|(token, _)| token));
                    let (success, relayed, told) =
                        ask(&mut bench, number, Method::ALLOCATE, attributes);
                    if let (Kind::Token, true) = (kind, success) {
                        let (token, next) = token.expect("nobody guesses one");
                        prop_assert_eq!(&relayed, &[next]);
                        prop_assert!(used.insert(token), "a token is good once");
                    }
                    if let Some(token) = told {
                        let mut next = relayed[0];
                        prop_assert_eq!(next.port() % 2, 0);
                        next.set_port(next.port() + 1);
                        tokens.push((token, next));
                    }
                }
                Step::Delete(number, family) => {
                    let family = family.map(|family| vec![family, 0, 0, 0]);
                    let family = family.map(|value| (attr::REQUESTED_ADDRESS_FAMILY, value));
                    let lifetime = Some((attr::LIFETIME, vec![0; 4]));
                    let attributes = lifetime.into_iter().chain(family).collect();
                    ask(&mut bench, number, Method::REFRESH, attributes);
                }
                Step::Wait(secs) => bench.wait(secs.into()),
                Step::Sweep => {
                    bench.server.handle_timeout(bench.now, &mut Actions::new());
                }
                Step::OtherWorker => std::mem::swap(&mut bench.server, &mut other),
            }
            let halves = bench.server.halves() + other.halves();
            let in_use = halves + shared.reservations.len();
            prop_assert_eq!(shared.quota.taken().0 as usize, in_use);
            let free = shared.ports(0).available() + shared.ports(1).available();
            prop_assert_eq!(free + in_use, 12);
        }
        let mut actions = Actions::new();
        bench.wait(31);
        for server in [&mut bench.server, &mut other] {
            // Whoever reserved sweeps, without being told by anybody.
            while server.poll_timeout().is_some_and(|at| at <= bench.now.instant) {
                server.handle_timeout(bench.now, &mut actions);
            }
        }
        prop_assert_eq!(shared.reservations.len(), 0);
        bench.server.close_all(&mut actions);
        other.close_all(&mut actions);
        prop_assert_eq!(shared.quota.taken(), (0, 0));
        prop_assert_eq!(shared.ports(0).available() + shared.ports(1).available(), 12);
    }

    #[test]
    fn a_pair_is_drawn_as_long_as_there_is_one(
        seed: u8,
        count in 1u16..30,
        steps in prop::collection::vec((0u8..3, any::<u16>()), 0..100),
    ) {
        let mut entropy = Entropy::from_seed([seed; 32]);
        let (first, last) = (50_001, 50_000 + count);
        let pool = PortPool::new((first, last));
        let mut held: Vec<PortLease> = Vec::new();
        for (what, which) in steps {
            match what {
                0 => held.extend(pool.draw(&mut entropy)),
                1 if !held.is_empty() => {
                    let index = usize::from(which) % held.len();
                    held.swap_remove(index);
                }
                1 => {}
                _ => {
                    let taken: HashSet<u16> = held.iter().map(PortLease::port).collect();
                    let free = |port: u16| (first..=last).contains(&port) && !taken.contains(&port);
                    let there = (first..last).any(|port| {
                        port.is_multiple_of(2) && free(port) && free(port + 1)
                    });
                    let pair = pool.draw_pair(&mut entropy);
                    prop_assert_eq!(pair.is_some(), there);
                    if let Some((lower, upper)) = pair {
                        prop_assert_eq!(lower.port() % 2, 0);
                        prop_assert_eq!(lower.port() + 1, upper.port());
                        held.extend([lower, upper]);
                    }
                }
            }
            prop_assert_eq!(pool.available() + held.len(), usize::from(count));
        }
    }
}

#[test]
fn the_last_port_of_all_is_the_upper_one_of_a_pair() {
    let mut entropy = Entropy::from_seed([5; 32]);
    let pool = PortPool::new((65_534, 65_535));
    let (lower, upper) = pool.draw_pair(&mut entropy).expect("a pair");
    assert_eq!((lower.port(), upper.port()), (65_534, 65_535));
    let alone = PortPool::new((65_535, 65_535));
    assert!(alone.draw_pair(&mut entropy).is_none());
}

#[test]
fn what_an_engine_that_is_gone_has_reserved_is_let_go_of_by_another() {
    let mut bench = Bench::new(options(), 7);
    let reserve =
        vec![(attr::REQUESTED_TRANSPORT, vec![17, 0, 0, 0]), (attr::EVEN_PORT, vec![128])];
    assert!(ask(&mut bench, 0, Method::ALLOCATE, reserve).0);
    let own = Entropy::from_seed([9; 32]);
    let metrics = Arc::new(WorkerMetrics::default());
    let other = Server::new(Arc::clone(&bench.shared), metrics, own);
    drop(std::mem::replace(&mut bench.server, other));
    assert_eq!((bench.shared.reservations.len(), bench.shared.quota.taken().0), (1, 1));
    bench.wait(30);
    bench.server.sweep_reservations(bench.now);
    assert_eq!(bench.shared.reservations.len(), 1);
    bench.wait(1);
    bench.server.sweep_reservations(bench.now);
    assert_eq!((bench.shared.reservations.len(), bench.shared.quota.taken().0), (0, 0));
    assert_eq!(bench.shared.ports(0).available(), 1000);
}

#[test]
fn a_held_socket_is_given_out_as_what_it_is_and_closed_else() {
    let socket = Arc::new(());
    let held = HeldSocket::new(Arc::clone(&socket));
    assert!(held.into_socket::<Arc<()>>().is_some());
    let held = HeldSocket::new(Arc::clone(&socket));
    assert!(held.into_socket::<u8>().is_none());
    assert_eq!(Arc::strong_count(&socket), 1);
}
