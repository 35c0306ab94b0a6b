//! The allocations of one worker: a slab, and an index from the client's five-tuple into it.
//!
//! A client's packet costs one hash look-up ([`Table::find`]); a peer's packet costs none, because
//! a [`RelayId`] is the place in the slab, and one bit for the family. What expires is found by a
//! sweep: the table keeps the earliest moment at which one can be due, so asking for it is O(1)
//! and no timer runs per entry.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashTable;
use slab::Slab;

use super::peers::Peers;
use super::ports::PortLease;
use super::quota::QuotaUnit;
use super::reject::Reject;
use super::relayed::{LiveRelayed, Tag};
use super::tcp::TcpSide;
use super::{FiveTuple, HeldSocket, RelayId, Transport};
use crate::credentials::{Entropy, Grant};
use crate::net::TokenBucket;
use crate::stun::control::AddressFamily;
use crate::stun::{Signer, TransactionId};

/// One allocation (RFC 8656, section 6), from the moment its ports are drawn. What few have, or
/// have for a moment, is in a box: all of them would pay for it.
pub(super) struct Allocation {
    pub(super) five_tuple: FiveTuple,
    /// The transaction that made it: a repeated request is recognised by it.
    pub(super) transaction: TransactionId,
    pub(super) username: Box<str>,
    /// The keys of every request, and what the answer to its own is signed with; the password is
    /// not kept (section 6).
    pub(super) key: Signer,
    /// The grant that it was made with, if one.
    pub(super) grant: Option<Arc<Grant>>,
    pub(super) tag: Tag,
    /// Its relayed addresses, IPv4 and IPv6: one, or both of a dual allocation.
    pub(super) halves: [Option<Half>; 2],
    pub(super) peers: Peers,
    /// What it has besides when it is one for TCP; it has no packets then, and no channels.
    pub(super) tcp: Option<Box<TcpSide>>,
    /// Its own bandwidth, when that is limited.
    pub(super) bucket: Option<TokenBucket>,
    /// The answer that told the client, for a client that did not hear it; empty once it is true
    /// no more.
    pub(super) answer: Box<[u8]>,
    /// There until the relay sockets are bound.
    pub(super) pending: Option<Box<Pending>>,
}

/// One relayed address of an allocation: a port, its socket's name, its own time and its unit of
/// the quota. All of it ends with the half, on every path.
///
/// The order of the last three fields matters: dropping goes from top to bottom, and a port must
/// be no live relayed address any more when another worker can draw it.
pub(super) struct Half {
    /// What XOR-RELAYED-ADDRESS says.
    pub(super) relayed: SocketAddr,
    /// Its place among the relay addresses.
    pub(super) relay_address: usize,
    pub(super) expires: Instant,
    /// There until the relay socket is bound.
    pub(super) binding: Option<Binding>,
    pub(super) live: Option<LiveRelayed>,
    pub(super) lease: PortLease,
    pub(super) unit: QuotaUnit,
}

impl Allocation {
    /// Whether it is that of `five_tuple`. A call of its own: within the look-up all parts of the
    /// five-tuple would be loaded and put aside for places that are never looked at.
    #[inline(never)]
    fn is_of(&self, five_tuple: &FiveTuple) -> bool {
        self.five_tuple == *five_tuple
    }

    /// Whether packets and requests find it at `now`.
    #[inline]
    pub(super) fn is_live(&self, now: Instant) -> bool {
        let [ipv4, ipv6] = &self.halves;
        let lives = |half: &Option<Half>| half.as_ref().is_some_and(|half| now < half.expires);
        self.pending.is_none() && (lives(ipv4) || lives(ipv6))
    }

    /// Whether packets pass the relayed address of a family at `now`.
    #[inline]
    pub(super) fn relays(&self, family: AddressFamily, now: Instant) -> bool {
        self.pending.is_none() && self.half(family).is_some_and(|half| now < half.expires)
    }

    /// The relayed address of a family.
    #[inline]
    pub(super) fn half(&self, family: AddressFamily) -> Option<&Half> {
        self.halves[index(family)].as_ref()
    }

    #[inline]
    pub(super) fn half_mut(&mut self, family: AddressFamily) -> Option<&mut Half> {
        self.halves[index(family)].as_mut()
    }

    /// Takes the relayed address of a family out.
    pub(super) fn take_half(&mut self, family: AddressFamily) -> Option<Half> {
        self.halves[index(family)].take()
    }

    /// The families that it has a relayed address of, IPv4 first.
    pub(super) fn families(&self) -> impl Iterator<Item = AddressFamily> + use<> {
        let there = [self.halves[0].is_some(), self.halves[1].is_some()];
        FAMILIES.into_iter().filter(move |family| there[index(*family)])
    }

    /// Its relayed addresses, the first one for a line in the log.
    pub(super) fn relayed(&self) -> impl Iterator<Item = SocketAddr> {
        self.halves.iter().flatten().map(|half| half.relayed)
    }

    /// Whether one of its relayed addresses has expired at `now`.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.pending.is_none() && self.halves.iter().flatten().any(|half| half.expires <= now)
    }
}

/// What an allocation waits with for its relay sockets.
pub(super) struct Pending {
    pub(super) lifetime_secs: u32,
    /// Whether the request had a FINGERPRINT.
    pub(super) fingerprint: bool,
    /// The half of a dual allocation that could not be had: ADDRESS-ERROR-CODE, when the other
    /// one is there.
    pub(super) lost: Option<(AddressFamily, Reject)>,
    /// The next higher port, which is reserved.
    pub(super) pair: Option<Pair>,
    /// The allocation was ended meanwhile; its sockets are closed as soon as they are there.
    pub(super) ended: bool,
}

/// The upper port of a pair while the lower one is being bound.
pub(super) struct Pair {
    /// There once it is bound.
    pub(super) socket: Option<HeldSocket>,
    pub(super) lease: PortLease,
    pub(super) unit: QuotaUnit,
}

/// What a half waits with for its relay socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Binding {
    pub(super) wish: PortWish,
    /// How many more ports may be tried.
    pub(super) tries: u32,
}

/// What kind of port will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortWish {
    /// Any port.
    Any,
    /// An even one.
    Even,
    /// An even one whose next higher one is free as well.
    Pair,
    /// The one that a reservation token stands for, and no other.
    Reserved,
}

/// Both families, in the order in which an answer names them.
pub(super) const FAMILIES: [AddressFamily; 2] = [AddressFamily::Ipv4, AddressFamily::Ipv6];

const fn index(family: AddressFamily) -> usize {
    match family {
        AddressFamily::Ipv4 => 0,
        AddressFamily::Ipv6 => 1,
    }
}

/// Where an allocation stands in the table of its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(usize);

impl Place {
    /// The name of the relay socket of a family: the place and one bit.
    #[inline]
    pub(super) fn relay(self, family: AddressFamily) -> RelayId {
        // A slab never holds 2^31 allocations: each has a relay port of its own.
        debug_assert!(u32::try_from(self.0).is_ok_and(|place| place < 1 << 31));
        RelayId((self.0 as u32) << 1 | index(family) as u32)
    }

    /// Where the allocation of a relay socket stands, and the family of the socket.
    #[inline]
    pub(super) fn of(relay: RelayId) -> (Self, AddressFamily) {
        (Self((relay.0 >> 1) as usize), FAMILIES[(relay.0 & 1) as usize])
    }
}

/// All allocations of one worker.
pub(super) struct Table {
    slab: Slab<Allocation>,
    /// Places in the slab, keyed by the five-tuple found there.
    by_five_tuple: HashTable<usize>,
    seed: Seed,
    /// No allocation expires before this.
    sweep_at: Option<Instant>,
}

/// Sweeps are at least this far apart, however many allocations there are.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

impl Table {
    pub(super) fn new(entropy: &mut Entropy) -> Self {
        let seed = Seed(entropy.u64(), entropy.u64() | 1);
        Self { slab: Slab::new(), by_five_tuple: HashTable::new(), seed, sweep_at: None }
    }

    /// The allocation of `five_tuple`, which may have expired or still be pending.
    #[inline]
    pub(super) fn find(&self, five_tuple: &FiveTuple) -> Option<Place> {
        let hash = self.seed.hash(five_tuple);
        let found = self
            .by_five_tuple
            .find(hash, |&place| self.slab.get(place).is_some_and(|found| found.is_of(five_tuple)));
        found.map(|&place| Place(place))
    }

    #[inline]
    pub(super) fn get(&self, place: Place) -> Option<&Allocation> {
        self.slab.get(place.0)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut Allocation> {
        self.slab.get_mut(place.0)
    }

    /// Adds an allocation whose five-tuple has none.
    pub(super) fn insert(&mut self, allocation: Allocation) -> Place {
        debug_assert!(self.find(&allocation.five_tuple).is_none(), "one per five-tuple");
        let hash = self.seed.hash(&allocation.five_tuple);
        let place = self.slab.insert(allocation);
        let (slab, seed) = (&self.slab, self.seed);
        self.by_five_tuple.insert_unique(hash, place, |&place| seed.hash(&slab[place].five_tuple));
        Place(place)
    }

    /// Frees the five-tuple of an allocation, so that packets do not find it any more.
    pub(super) fn unlink(&mut self, place: Place) {
        let Some(allocation) = self.get(place) else { return };
        let hash = self.seed.hash(&allocation.five_tuple);
        if let Ok(entry) = self.by_five_tuple.find_entry(hash, |&found| found == place.0) {
            entry.remove();
        }
    }

    /// Takes an allocation out.
    pub(super) fn remove(&mut self, place: Place) -> Option<Allocation> {
        self.unlink(place);
        self.slab.try_remove(place.0)
    }

    /// Sees to it that a sweep comes when a relayed address expires at `expires`.
    pub(super) fn expect_expiry(&mut self, expires: Instant) {
        self.sweep_at = Some(self.sweep_at.map_or(expires, |at| at.min(expires)));
    }

    /// When the next sweep is due.
    pub(super) fn sweep_at(&self) -> Option<Instant> {
        self.sweep_at
    }

    /// The allocations of which something has expired at `now`; the next sweep is set for the
    /// others.
    pub(super) fn sweep(&mut self, now: Instant) -> Vec<Place> {
        let live = || self.slab.iter().filter(|(_, allocation)| allocation.pending.is_none());
        let overdue = live().filter(|(_, allocation)| allocation.is_overdue(now));
        let overdue = overdue.map(|(place, _)| Place(place)).collect();
        let halves = live().flat_map(|(_, allocation)| allocation.halves.iter().flatten());
        let rest = halves.map(|half| half.expires).filter(|at| *at > now);
        self.sweep_at = rest.min().map(|at| at.max(now + SWEEP_INTERVAL));
        overdue
    }

    /// Every allocation that `wanted` picks.
    pub(super) fn select(&self, wanted: impl Fn(&Allocation) -> bool) -> Vec<Place> {
        let found = self.slab.iter().filter(|(_, allocation)| wanted(allocation));
        found.map(|(place, _)| Place(place)).collect()
    }

    #[cfg(test)]
    pub(super) fn halves(&self) -> usize {
        self.slab.iter().map(|(_, allocation)| allocation.families().count()).sum()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }
}

/// The secret of the index. A stranger chooses his address and port, and must not be able to
/// choose where they fall; so a plain multiplicative hash would not do, and a slow one need not.
#[derive(Clone, Copy)]
struct Seed(u64, u64);

impl Seed {
    #[inline]
    fn hash(self, five_tuple: &FiveTuple) -> u64 {
        let FiveTuple { transport, client, server } = five_tuple;
        let transport = match transport {
            Transport::Udp => 0u64,
            Transport::Tcp => 1,
            Transport::Tls => 2,
        };
        let ports = u64::from(client.port()) << 16 | u64::from(server.port());
        // The two kinds may meet in the same place; they are compared there.
        if let (SocketAddr::V4(client), SocketAddr::V4(server)) = (client, server) {
            let addresses = u64::from(client.ip().to_bits()) << 32;
            let first = fold(self.0 ^ addresses ^ ports, self.1);
            return fold(first ^ transport << 32 ^ u64::from(server.ip().to_bits()), self.1);
        }
        let (client, server) = (bits(client.ip()), bits(server.ip()));
        let words = [
            client as u64,
            (client >> 64) as u64,
            server as u64,
            (server >> 64) as u64,
            transport << 32 | ports,
        ];
        words.into_iter().fold(self.0, |hash, word| fold(hash ^ word, self.1))
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Both halves of a product, folded: every bit of either factor reaches every bit of the result.
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every allocation takes of the slab, used or not. Whoever adds to it decides so here.
    #[test]
    fn an_entry_of_the_slab_stays_small() {
        assert!(size_of::<Allocation>() <= 592, "{} bytes", size_of::<Allocation>());
        assert!(size_of::<Half>() <= 152, "{} bytes", size_of::<Half>());
        assert!(size_of::<Peers>() <= 104, "{} bytes", size_of::<Peers>());
    }
}
