//! Runs: what is decided once for many is what would have been decided about each.

use std::net::SocketAddr;

use super::bench::{Bench, five_tuple, options};
use crate::metrics::{DropReason, Limit};
use crate::stun::{CHANNEL_DATA_HEADER_BYTES, ChannelData, Message, attr, parse_xor_address};
use crate::turn::{Action, Actions, Icmp, RelayId, Verdict};

const CHANNEL: u16 = 0x4001;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a test address")
}

fn client() -> SocketAddr {
    address("198.51.100.1:4000")
}

fn peer() -> SocketAddr {
    address("198.51.100.9:9000")
}

/// A bench with one allocation and one channel.
fn bench(bytes_per_sec: [u64; 3]) -> (Bench, RelayId) {
    let mut options = options();
    let limits = &mut options.limits;
    limits.bandwidth_per_allocation_bytes_per_sec = bytes_per_sec[0];
    limits.bandwidth_per_user_bytes_per_sec = bytes_per_sec[1];
    limits.bandwidth_bytes_per_sec = bytes_per_sec[2];
    options.allow_peers = vec!["198.51.100.0/24".parse().expect("a prefix")];
    let mut bench = Bench::new(options, 1);
    let alice = bench.fixed("alice");
    let (_, relay) = bench.allocate(client(), &alice);
    bench.bind(client(), &alice, CHANNEL, peer());
    (bench, relay)
}

fn frame(number: u16, len: usize) -> Vec<u8> {
    let mut frame = number.to_be_bytes().to_vec();
    frame.extend(u16::try_from(len).expect("a datagram").to_be_bytes());
    frame.extend(vec![7; len]);
    frame
}

impl Bench {
    /// Hands a run in; how many datagrams each verdict was about, and whether they pass.
    fn run(&mut self, run: &[u8], segment: usize) -> Vec<(usize, bool)> {
        let (mut at, mut all) = (0, Vec::new());
        while at < run.len() {
            let mut actions = Actions::new();
            let (server, rest) = (&mut self.server, &run[at..]);
            let (count, verdict) = server.handle_client_run(
                self.now,
                five_tuple(client()),
                rest,
                segment,
                &mut actions,
            );
            if let Verdict::ToPeer { payload, .. } = &verdict {
                assert_eq!(rest[payload.clone()], vec![7; payload.len()]);
            }
            all.push((count, verdict != Verdict::Done));
            at += count * segment;
        }
        all
    }

    /// The same from the peer.
    fn run_of_peer(&mut self, relay: RelayId, len: usize, segment: usize) -> Vec<(usize, bool)> {
        let (mut left, mut all) = (len, Vec::new());
        while left > 0 {
            let mut headers = Vec::new();
            let (server, run) = (&mut self.server, (left, segment));
            let (count, to) = server.handle_peer_run(self.now, relay, peer(), run, &mut headers);
            all.push((count, to.is_some()));
            left -= (count * segment).min(left);
        }
        all
    }
}

#[test]
fn what_is_alike_is_decided_about_once_and_counted_all() {
    let (mut bench, relay) = bench([0; 3]);
    let mut run = frame(CHANNEL, 100).repeat(9);
    run.extend(frame(CHANNEL, 40));
    assert_eq!(bench.run(&run, 104), [(9, true), (1, true)]);
    let to_peer = &bench.metrics.to_peer;
    assert_eq!((to_peer.packets.value(), to_peer.bytes.value()), (10, 940));
    assert_eq!(bench.run_of_peer(relay, 940, 100), [(9, true), (1, true)]);
    let to_client = &bench.metrics.to_client;
    assert_eq!((to_client.packets.value(), to_client.bytes.value()), (10, 940));
}

#[test]
fn what_differs_is_handled_by_itself() {
    let (mut bench, relay) = bench([0; 3]);
    let unbound = frame(CHANNEL + 1, 100);
    // Of the same size, but with padding, which is cut off.
    let mut padded = frame(CHANNEL, 97);
    padded.extend([0; 3]);
    let run = [
        frame(CHANNEL, 100),
        frame(CHANNEL, 100),
        unbound.clone(),
        unbound,
        vec![0xFF; 104],
        padded,
        frame(CHANNEL, 100),
    ];
    let expected = [(2, true), (1, false), (1, false), (1, false), (1, true), (1, true)];
    assert_eq!(bench.run(&run.concat(), 104), expected);
    assert_eq!(bench.metrics.drops(DropReason::NoChannel), 2);
    assert_eq!(bench.metrics.drops(DropReason::Malformed), 1);
    assert_eq!(bench.metrics.to_peer.bytes.value(), 397);
    // A length that says more than is there is that of each of them.
    let mut short = frame(CHANNEL, 100);
    short[3] += 1;
    assert_eq!(bench.run(&short.repeat(2), 104), [(1, false), (1, false)]);
    assert_eq!(bench.run(&[0x40; 7], 3), [(1, false); 3]);
    assert_eq!(bench.run_of_peer(RelayId(relay.0 + 8), 20, 10), [(1, false); 2]);
    assert_eq!(bench.metrics.drops(DropReason::NoAllocation), 2);
}

#[test]
fn headers_say_what_those_of_single_packets_say() {
    let (mut bench, relay) = bench([0; 3]);
    let mut headers = vec![0xEE; 3];
    let run = (500, 100);
    let (count, to) = bench.server.handle_peer_run(bench.now, relay, peer(), run, &mut headers);
    let to = to.expect("a way to the client");
    assert_eq!((count, to.header_bytes, to.padding), (5, CHANNEL_DATA_HEADER_BYTES, 0));
    assert_eq!(headers, [&[0xEE; 3][..], &frame(CHANNEL, 100)[..4]].concat());
    // Another port of the same peer has a permission, and no channel.
    let other = SocketAddr::new(peer().ip(), 9001);
    let mut headers = Vec::new();
    let run = (2 * 101, 101);
    let (count, to) = bench.server.handle_peer_run(bench.now, relay, other, run, &mut headers);
    let to = to.expect("a way to the client");
    assert_eq!((count, to.header_bytes, to.padding), (2, 36, 3));
    let mut ids = Vec::new();
    for header in headers.chunks(36) {
        let message = [header, &[7; 101], &[0; 3]].concat();
        let message = Message::parse(&message).expect("a message");
        assert_eq!(message.first(attr::DATA), Some(&[7; 101][..]));
        let from = message.first(attr::XOR_PEER_ADDRESS).expect("an address");
        assert_eq!(parse_xor_address(from, &message.transaction_id()), Some(other));
        ids.push(message.transaction_id());
    }
    assert!(ids.len() == 2 && ids[0] != ids[1]);
    assert!(ChannelData::parse(&headers).is_err());
}

#[test]
fn a_limit_that_bites_in_the_middle_lets_through_what_fits() {
    // The smallest burst is 65,536 bytes: 65 of these, and a rest of 536.
    let limits = [Limit::BandwidthPerAllocation, Limit::BandwidthPerUser, Limit::Bandwidth];
    for (index, limit) in limits.into_iter().enumerate() {
        let mut rates = [0; 3];
        rates[index] = 1;
        let (mut bench, relay) = bench(rates);
        let run = frame(CHANNEL, 1000).repeat(40);
        assert_eq!(bench.run(&run, 1004), [(40, true)]);
        let one_by_one = bench.run(&run, 1004);
        assert_eq!(one_by_one.iter().filter(|(_, passes)| *passes).count(), 25, "{limit:?}");
        assert_eq!(bench.metrics.limits(limit), 15);
        assert_eq!(bench.metrics.to_peer.packets.value(), 65);
        // What was refused has cost nothing.
        assert_eq!(bench.run_of_peer(relay, 500, 250), [(2, true)]);
        assert_eq!(bench.run_of_peer(relay, 60, 30), [(1, true), (1, false)]);
    }
    // One limit that holds, and one that does not: the first gets its bytes back.
    let (mut bench, _) = bench([65_536, 65_536, 1]);
    let run = frame(CHANNEL, 1000);
    assert_eq!(bench.run(&run.repeat(40), 1004), [(40, true)]);
    bench.wait(1);
    let one_by_one = bench.run(&run.repeat(60), 1004);
    assert_eq!(one_by_one.iter().filter(|(_, passes)| *passes).count(), 25);
}

#[test]
fn a_packet_that_one_limit_refuses_costs_the_others_nothing() {
    // Of one there is enough for 131 of these, of the one behind it for 65.
    for (rates, refuses, spared) in [
        ([131_072, 0, 1], Limit::Bandwidth, Limit::BandwidthPerAllocation),
        ([0, 131_072, 1], Limit::Bandwidth, Limit::BandwidthPerUser),
        ([131_072, 1, 0], Limit::BandwidthPerUser, Limit::BandwidthPerAllocation),
    ] {
        let (mut bench, _) = bench(rates);
        let frame = frame(CHANNEL, 1000);
        let passed = (0..300).filter(|_| bench.run(&frame, 1004) == [(1, true)]).count();
        assert_eq!((passed, bench.metrics.limits(refuses)), (65, 235), "{refuses:?}");
        assert_eq!(bench.metrics.limits(spared), 0, "{spared:?}");
    }
}

#[test]
fn what_routers_say_costs_bandwidth_like_what_peers_say() {
    let (mut bench, relay) = bench([1, 0, 0]);
    let tell = |bench: &mut Bench| {
        let mut told = Actions::new();
        let icmp = Icmp { kind: 3, code: 3, data: 0 };
        bench.server.handle_icmp(bench.now, relay, peer(), icmp, &mut told);
        match told.pop() {
            Some(Action::Answer { bytes, .. }) => bytes.len(),
            _ => 0,
        }
    };
    // The smallest burst is 65,536 bytes.
    let told: Vec<usize> = (0..2000).map(|_| tell(&mut bench)).collect();
    let bytes: usize = told.iter().sum();
    assert!((65_000..=65_536).contains(&bytes), "{bytes}");
    let refused = told.iter().filter(|bytes| **bytes == 0).count();
    assert_eq!(bench.metrics.limits(Limit::BandwidthPerAllocation), refused as u64);
}

#[test]
fn a_run_that_is_refused_has_no_more_headers_written_than_one() {
    let (mut bench, relay) = bench([1, 0, 0]);
    // More than the smallest burst; the first one alone fits.
    let (other, run) = (SocketAddr::new(peer().ip(), 9001), (64 * 1025, 1025));
    let mut headers = Vec::new();
    let (count, to) = bench.server.handle_peer_run(bench.now, relay, other, run, &mut headers);
    assert!(count == 1 && to.is_some_and(|to| to.header_bytes == headers.len()));
    assert!(headers.capacity() < 8 * headers.len(), "{} bytes", headers.capacity());
}
