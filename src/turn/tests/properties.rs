//! Random cases against references that are too simple to be wrong.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::bench::{options, start};
use crate::credentials::{Entropy, Grants, RoomTag};
use crate::metrics::Limit;
use crate::turn::bandwidth::SharedBucket;
use crate::turn::nonce::{NONCE_BYTES, NonceState, Nonces, offers_password_algorithms};
use crate::turn::peers::{Peers, Room, Unbindable, Unpermitted};
use crate::turn::policy::CanonicalPeer;
use crate::turn::ports::{PortLease, PortPool};
use crate::turn::quota::{Payer, Quota};
use crate::turn::relayed::{Relayed, Tag};

proptest! {
    #[test]
    fn no_port_is_leased_twice_and_none_is_lost(
        seed: u8,
        count in 1u16..40,
        steps in prop::collection::vec((any::<bool>(), any::<u16>()), 0..300),
    ) {
        let mut entropy = Entropy::from_seed([seed; 32]);
        let pool = PortPool::new((50_000, 50_000 + count - 1));
        let mut leases = Vec::new();
        for (draw, which) in steps {
            if draw {
                let lease = pool.draw(&mut entropy);
                prop_assert_eq!(lease.is_some(), leases.len() < usize::from(count));
                leases.extend(lease);
            } else if !leases.is_empty() {
                leases.swap_remove(usize::from(which) % leases.len());
            }
            let held: HashSet<u16> = leases.iter().map(PortLease::port).collect();
            prop_assert_eq!(held.len(), leases.len());
            prop_assert!(held.iter().all(|port| (50_000..50_000 + count).contains(port)));
            prop_assert_eq!(pool.available() + leases.len(), usize::from(count));
        }
        drop(leases);
        prop_assert_eq!(pool.available(), usize::from(count));
    }

    #[test]
    fn a_unit_of_quota_lives_exactly_as_long_as_its_owner(
        steps in prop::collection::vec((any::<bool>(), 0u8..6), 0..200),
    ) {
        let mut limits = options().limits;
        (limits.allocations_per_user, limits.allocations_per_link) = (3, 2);
        limits.allocations = 8;
        let grants = Grants::new(crate::telemetry::Secret::new([0; 32]));
        let mut entropy = Entropy::from_seed([3; 32]);
        let names: Vec<_> = (0..6).map(|_| {
            let room = RoomTag::draw(&mut entropy);
            grants.issue(room, &mut entropy).name().clone()
        }).collect();
        let payer = |of: u8| match of {
            0..3 => Payer::User(Arc::clone(&names[usize::from(of)])),
            _ => Payer::Grant(Arc::clone(&names[usize::from(of)])),
        };
        let quota = Quota::new(&limits);
        let now = start().instant;
        let mut units: Vec<(u8, _)> = Vec::new();
        for (take, of) in steps {
            let own = units.iter().filter(|(payer, _)| *payer == of).count();
            if take {
                let (allowed, limit) = match of {
                    0..3 => (3, Limit::AllocationsPerUser),
                    _ => (2, Limit::AllocationsPerLink),
                };
                match quota.try_take(payer(of), now) {
                    Ok(unit) => {
                        prop_assert!(own < allowed && units.len() < 8);
                        units.push((of, unit));
                    }
                    Err(Limit::Allocations) => prop_assert!(own < allowed && units.len() == 8),
                    Err(bitten) => prop_assert!(own == allowed && bitten == limit),
                }
            } else if let Some(index) = units.iter().position(|(payer, _)| *payer == of) {
                units.swap_remove(index);
            }
            let payers: HashSet<u8> = units.iter().map(|(payer, _)| *payer).collect();
            prop_assert_eq!(quota.taken(), (units.len() as u32, payers.len()));
        }
        drop(units);
        prop_assert_eq!(quota.taken(), (0, 0));
    }

    #[test]
    fn a_user_never_gets_more_bandwidth_or_peers_by_deleting_and_allocating(
        rate in 1_000u64..1_000_000,
        per_min in 1u32..1_000,
        steps in prop::collection::vec((0u8..4, 0usize..65_000, 0u64..100), 1..200),
    ) {
        let mut limits = options().limits;
        limits.bandwidth_per_user_bytes_per_sec = rate;
        limits.new_peers_per_min = per_min;
        let peers_per_min = u64::from(per_min * limits.allocations_per_user);
        let quota = Quota::new(&limits);
        let (start, name) = (start().instant, Arc::from("alice"));
        let (mut millis, mut passed, mut peers, mut units) = (0, 0u64, 0u64, Vec::new());
        for (what, bytes, pause) in steps {
            millis += pause;
            let now = start + Duration::from_millis(millis);
            match what {
                0 => units.extend(quota.try_take(Payer::User(Arc::clone(&name)), now)),
                1 => units.clear(),
                _ => {
                    let Some(unit) = units.last() else { continue };
                    if unit.bandwidth().try_take(bytes, now) {
                        passed += bytes as u64;
                    }
                    if unit.shared_new_peers().try_pieces(bytes / 100, now) {
                        peers += bytes as u64 / 100;
                    }
                }
            }
            let allowed = rate * millis / 1000 + rate.max(65_536) + 64;
            prop_assert!(passed <= allowed, "{passed} of {allowed}");
            let allowed = peers_per_min + peers_per_min * millis / 60_000 + 1;
            prop_assert!(peers <= allowed, "{peers} of {allowed} peers");
        }
        // Who has been away long enough is forgotten when the next one comes.
        units.clear();
        let later = start + Duration::from_secs(10_000);
        let unit = quota.try_take(Payer::User(Arc::from("bob")), later);
        prop_assert_eq!((quota.taken(), quota.known()), ((1, 1), 1));
        drop(unit);
    }

    #[test]
    fn whoever_spends_and_waits_keeps_to_the_rate_and_leaves_room_for_packets(
        rate in 1_000u64..10_000_000,
        reads in prop::collection::vec(1usize..=65_536, 1..200),
    ) {
        let (bucket, begin) = (SharedBucket::new(rate), start().instant);
        let (mut now, mut spent) = (begin, 0);
        for read in reads {
            now += bucket.spend(read, now);
            spent += read as u64;
            // Half of the bucket is there again, up to the last nanosecond.
            let half = rate.max(65_536) as f64 / 2.0;
            let passed = now.duration_since(begin).as_secs_f64();
            let least = (spent as f64 - half) / rate as f64;
            prop_assert!(passed >= least - 1e-6 && passed <= spent as f64 / rate as f64);
        }
        prop_assert!(bucket.try_take(32_000, now + Duration::from_nanos(1)));
        prop_assert_eq!(SharedBucket::new(0).spend(1 << 30, now), Duration::ZERO);
    }

    #[test]
    fn a_nonce_is_good_for_its_client_and_its_time_only(
        seed: u8,
        client: IpAddr,
        port: u16,
        made in 0u64..1 << 40,
        age in 0u64..5000,
        bit in 0u32..128,
        flip in 0..NONCE_BYTES * 8,
        anonymity: bool,
    ) {
        let nonces = Nonces::new(3600, anonymity, &mut Entropy::from_seed([seed; 32]));
        let client = SocketAddr::new(client, port);
        let nonce = nonces.make(client, made);
        // Bits 0 and 1 of 24 in base64: 100000 or 110000, and zeros.
        let prefix = if anonymity { b"obMatJos2wAAA" } else { b"obMatJos2gAAA" };
        prop_assert!(nonce.starts_with(prefix));
        prop_assert!(offers_password_algorithms(&nonce));
        prop_assert!(nonce.iter().all(u8::is_ascii_graphic));
        let expected = if age < 3600 { NonceState::Valid } else { NonceState::Stale };
        prop_assert_eq!(nonces.check(&nonce, client, made + age), expected);
        let mut other = client;
        other.set_port(port.wrapping_add(1));
        prop_assert_eq!(nonces.check(&nonce, other, made), NonceState::Wrong);
        other = SocketAddr::new(with_a_bit_changed(client.ip(), bit), port);
        prop_assert_eq!(nonces.check(&nonce, other, made), NonceState::Wrong);
        let mut forged = nonce;
        forged[flip / 8] ^= 1 << (flip % 8);
        prop_assert_eq!(nonces.check(&forged, client, made), NonceState::Wrong);
        prop_assert_eq!(nonces.check(&nonce[..flip / 8], client, made), NonceState::Wrong);
        let elsewhere = Nonces::new(3600, anonymity, &mut Entropy::from_seed([seed ^ 1; 32]));
        prop_assert_eq!(elsewhere.check(&nonce, client, made), NonceState::Wrong);
    }

    #[test]
    fn only_the_first_bit_of_a_cookie_offers_algorithms(
        features: [u8; 3],
        rest in "[!-~]{0,30}",
        cut in 0usize..13,
    ) {
        use base64::Engine as _;
        let features_text = base64::engine::general_purpose::STANDARD.encode(features);
        let nonce = format!("obMatJos2{features_text}{rest}");
        prop_assert_eq!(offers_password_algorithms(nonce.as_bytes()), features[0] & 0x80 != 0);
        prop_assert!(!offers_password_algorithms(&nonce.as_bytes()[..cut]));
        prop_assert!(!offers_password_algorithms(nonce.to_lowercase().as_bytes()));
    }

    #[test]
    fn permissions_and_channels_agree_with_a_naive_reference(
        steps in prop::collection::vec((0u8..4, 0u8..6, 0u16..6, 0u64..400), 0..60),
    ) {
        peers_agree(&steps)?;
    }

    #[test]
    fn all_together_never_pass_more_than_rate_and_burst(
        rate in 1_000u64..10_000_000,
        packets in prop::collection::vec((0usize..65_000, 0u64..50_000_000), 1..200),
    ) {
        let bucket = SharedBucket::new(rate);
        let start = start().instant;
        let (mut nanos, mut passed) = (0, 0u64);
        for (bytes, pause) in packets {
            nanos += pause;
            if bucket.try_take(bytes, start + Duration::from_nanos(nanos)) {
                passed += bytes as u64;
            }
            let earned = u128::from(rate) * u128::from(nanos) / 1_000_000_000;
            let allowed = earned + u128::from(rate.max(65_536)) + 64;
            prop_assert!(u128::from(passed) <= allowed, "{passed} of {allowed}");
        }
        prop_assert!(bucket.try_take(65_000, start + Duration::from_secs(1_000_000)));
    }
}

fn with_a_bit_changed(ip: IpAddr, bit: u32) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() ^ 1 << (bit % 32)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() ^ 1 << bit).into(),
    }
}

#[test]
fn ports_are_uniform_over_the_range_and_not_reused_at_once() {
    let mut entropy = Entropy::from_seed([9; 32]);
    let pool = PortPool::new((1000, 1099));
    let mut drawn = HashMap::new();
    let mut last = 0;
    for _ in 0..100_000 {
        let lease = pool.draw(&mut entropy).expect("a free port");
        assert_ne!(lease.port(), last);
        last = lease.port();
        *drawn.entry(last).or_insert(0u32) += 1;
    }
    assert_eq!(drawn.len(), 100);
    let (least, most) = (drawn.values().min().copied(), drawn.values().max().copied());
    assert!(least > Some(850) && most < Some(1150), "{least:?} {most:?}");

    // The first draw of a fresh pool as well, which no rest evens out.
    let mut first = [0u32; 16];
    for _ in 0..16_000 {
        let lease = PortPool::new((2000, 2015)).draw(&mut entropy).expect("a free port");
        first[usize::from(lease.port() - 2000)] += 1;
    }
    assert!(first.iter().all(|count| (850..1150).contains(count)), "{first:?}");
}

#[test]
fn even_ports_are_drawn_until_none_is_left_and_odd_ones_stay() {
    let mut entropy = Entropy::from_seed([10; 32]);
    let pool = PortPool::new((1001, 1020));
    let even: Vec<_> = std::iter::from_fn(|| pool.draw_even(&mut entropy)).collect();
    assert_eq!(even.len(), 10);
    assert!(even.iter().all(|lease| lease.port() % 2 == 0));
    let odd: Vec<_> = std::iter::from_fn(|| pool.draw(&mut entropy)).collect();
    assert_eq!(odd.len(), 10);
    drop(even);
    assert!(pool.draw_even(&mut entropy).is_some(), "a rested port is drawn when nothing else is");
}

#[test]
fn a_relayed_address_is_live_until_it_is_dropped() {
    let mut entropy = Entropy::from_seed([4; 32]);
    let (red, blue) = (RoomTag::draw(&mut entropy), RoomTag::draw(&mut entropy));
    let tags = [Tag::new(None), Tag::new(Some(red)), Tag::new(Some(blue))];
    let table = Relayed::new(2, (50_000, 50_009));
    for (to, tag) in tags.into_iter().enumerate() {
        let live = table.publish(1, 50_009, tag);
        for (from, tag) in tags.into_iter().enumerate() {
            assert_eq!(table.reaches(tag, 1, 50_009), from == to);
            assert!(!table.reaches(tag, 0, 50_009));
            assert!(!table.reaches(tag, 1, 50_008));
            assert!(!table.reaches(tag, 1, 50_010));
            assert!(!table.reaches(tag, 1, 49_999));
            assert!(!table.reaches(tag, 2, 50_009));
        }
        drop(live);
        assert!(!table.reaches(tag, 1, 50_009));
    }
}

/// Permissions by address and channels by number, with the moment at which each ends.
#[derive(Default)]
struct Naive {
    permissions: BTreeMap<IpAddr, Instant>,
    channels: BTreeMap<u16, (SocketAddr, Instant)>,
}

const PERMISSIONS_MAX: usize = 4;
const CHANNELS_MAX: usize = 3;
const ROOM: Room =
    Room { permissions: PERMISSIONS_MAX, channels: CHANNELS_MAX, new_peers_per_min: 0 };

impl Naive {
    fn prune(&mut self, now: Instant) {
        self.permissions.retain(|_, expires| *expires > now);
        self.channels.retain(|_, (_, expires)| *expires > now);
    }

    fn permit(&mut self, ip: IpAddr, now: Instant) -> bool {
        let fits = self.permissions.contains_key(&ip) || self.permissions.len() < PERMISSIONS_MAX;
        if fits {
            self.permissions.insert(ip, now + Duration::from_secs(300));
        }
        fits
    }

    fn bind(&mut self, number: u16, peer: SocketAddr, now: Instant) -> Result<(), Unbindable> {
        if self.channels.get(&number).is_some_and(|(bound, _)| *bound != peer) {
            return Err(Unbindable::NumberTaken);
        }
        if self.channels.iter().any(|(other, (bound, _))| *bound == peer && *other != number) {
            return Err(Unbindable::PeerTaken);
        }
        if !self.channels.contains_key(&number) && self.channels.len() >= CHANNELS_MAX {
            return Err(Unbindable::ChannelsFull);
        }
        if !self.permit(peer.ip(), now) {
            return Err(Unbindable::Unpermitted(Unpermitted::Full));
        }
        self.channels.insert(number, (peer, now + Duration::from_secs(600)));
        Ok(())
    }
}

fn peers_agree(steps: &[(u8, u8, u16, u64)]) -> Result<(), TestCaseError> {
    let (mut peers, mut naive) = (Peers::default(), Naive::default());
    let mut now = start().instant;
    let address = |last: u8, port: u16| SocketAddr::from(([9, 9, 9, last], port));
    for &(what, last, number, pause) in steps {
        let (peer, channel) = (address(last, 1 + number / 3), 0x4000 + number);
        let canonical = CanonicalPeer { ip: peer.ip(), relay_address: None };
        naive.prune(now);
        match what {
            0 => now += Duration::from_secs(pause),
            1 => {
                let done = peers.permit(&[canonical], ROOM, now);
                prop_assert_eq!(done.is_ok(), naive.permit(peer.ip(), now));
            }
            _ => {
                let done = peers.bind(channel, canonical, peer.port(), ROOM, now);
                prop_assert_eq!(done, naive.bind(channel, peer, now));
            }
        }
        naive.prune(now);
        for last in 0..6 {
            let ip = address(last, 0).ip();
            let permitted = naive.permissions.contains_key(&ip);
            prop_assert_eq!(peers.permission(ip, now).is_some(), permitted);
            for port in 1..3 {
                let peer = address(last, port);
                let bound = naive.channels.iter().find(|(_, (bound, _))| *bound == peer);
                let bound = bound.map(|(number, _)| *number).filter(|_| permitted);
                prop_assert_eq!(peers.channel_of(peer, now).map(|found| found.number), bound);
            }
        }
        for number in 0x4000..0x4006 {
            let usable = naive.channels.get(&number);
            let usable = usable.filter(|(peer, _)| naive.permissions.contains_key(&peer.ip()));
            let found = peers.channel(number).filter(|channel| channel.is_usable(now));
            let found = found.map(|channel| SocketAddr::new(channel.peer.ip, channel.port));
            prop_assert_eq!(found, usable.map(|(peer, _)| *peer));
        }
    }
    Ok(())
}
