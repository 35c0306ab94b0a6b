//! The allocations of one worker: a slab, and an index from the client's five-tuple into it.
//!
//! A client's packet costs one hash look-up ([`Table::find`]); a peer's packet costs none, because
//! a [`RelayId`] is the place in the slab. What expires is found by a sweep: the table keeps the
//! earliest moment at which one can be due, so asking for it is O(1) and no timer runs per entry.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashTable;
use slab::Slab;

use super::peers::Peers;
use super::ports::PortLease;
use super::quota::QuotaUnit;
use super::relayed::{LiveRelayed, Tag};
use super::{FiveTuple, RelayId, Transport};
use crate::credentials::{Entropy, Grant};
use crate::net::TokenBucket;
use crate::stun::{Signer, TransactionId};

/// One allocation (RFC 8656, section 6), from the moment its port is drawn.
///
/// The order of the last three fields matters: dropping goes from top to bottom, and a port must
/// be no live relayed address any more when another worker can draw it.
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
    /// What XOR-RELAYED-ADDRESS says.
    pub(super) relayed: SocketAddr,
    /// Its place among the relay addresses.
    pub(super) relay_address: usize,
    pub(super) expires: Instant,
    pub(super) peers: Peers,
    /// Its own bandwidth, when that is limited.
    pub(super) bucket: Option<TokenBucket>,
    /// The answer that told the client, for a client that did not hear it.
    pub(super) answer: Vec<u8>,
    /// There until the relay socket is bound.
    pub(super) pending: Option<Pending>,
    pub(super) live: Option<LiveRelayed>,
    pub(super) lease: PortLease,
    pub(super) _unit: QuotaUnit,
}

impl Allocation {
    /// Whether packets and requests find it at `now`.
    #[inline]
    pub(super) fn is_live(&self, now: Instant) -> bool {
        self.pending.is_none() && now < self.expires
    }
}

/// What an allocation waits with for its relay socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    pub(super) lifetime_secs: u32,
    /// Whether the request had a FINGERPRINT.
    pub(super) fingerprint: bool,
    /// How many more ports may be tried.
    pub(super) tries: u32,
    /// Only an even port will do.
    pub(super) even: bool,
    /// The allocation was ended meanwhile; its socket is closed as soon as it is there.
    pub(super) ended: bool,
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
    pub(super) fn find(&self, five_tuple: &FiveTuple) -> Option<RelayId> {
        let hash = self.seed.hash(five_tuple);
        let found = self.by_five_tuple.find(hash, |&place| {
            self.slab.get(place).is_some_and(|found| found.five_tuple == *five_tuple)
        });
        found.map(|&place| relay_id(place))
    }

    #[inline]
    pub(super) fn get(&self, relay: RelayId) -> Option<&Allocation> {
        self.slab.get(relay.0 as usize)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, relay: RelayId) -> Option<&mut Allocation> {
        self.slab.get_mut(relay.0 as usize)
    }

    /// Adds an allocation whose five-tuple has none.
    pub(super) fn insert(&mut self, allocation: Allocation) -> RelayId {
        debug_assert!(self.find(&allocation.five_tuple).is_none(), "one per five-tuple");
        let hash = self.seed.hash(&allocation.five_tuple);
        let place = self.slab.insert(allocation);
        let (slab, seed) = (&self.slab, self.seed);
        self.by_five_tuple.insert_unique(hash, place, |&place| seed.hash(&slab[place].five_tuple));
        relay_id(place)
    }

    /// Frees the five-tuple of an allocation, so that packets do not find it any more.
    pub(super) fn unlink(&mut self, relay: RelayId) {
        let Some(allocation) = self.get(relay) else { return };
        let hash = self.seed.hash(&allocation.five_tuple);
        let place = relay.0 as usize;
        if let Ok(entry) = self.by_five_tuple.find_entry(hash, |&found| found == place) {
            entry.remove();
        }
    }

    /// Takes an allocation out.
    pub(super) fn remove(&mut self, relay: RelayId) -> Option<Allocation> {
        self.unlink(relay);
        self.slab.try_remove(relay.0 as usize)
    }

    /// Sees to it that a sweep comes when an allocation expires at `expires`.
    pub(super) fn expect_expiry(&mut self, expires: Instant) {
        self.sweep_at = Some(self.sweep_at.map_or(expires, |at| at.min(expires)));
    }

    /// When the next sweep is due.
    pub(super) fn sweep_at(&self) -> Option<Instant> {
        self.sweep_at
    }

    /// The allocations that have expired at `now`; the next sweep is set for the others.
    pub(super) fn sweep(&mut self, now: Instant) -> Vec<RelayId> {
        let live = || self.slab.iter().filter(|(_, allocation)| allocation.pending.is_none());
        let expired = live().filter(|(_, allocation)| allocation.expires <= now);
        let expired = expired.map(|(place, _)| relay_id(place)).collect();
        let rest = live().map(|(_, allocation)| allocation.expires).filter(|at| *at > now);
        self.sweep_at = rest.min().map(|at| at.max(now + SWEEP_INTERVAL));
        expired
    }

    /// Every allocation that `wanted` picks.
    pub(super) fn select(&self, wanted: impl Fn(&Allocation) -> bool) -> Vec<RelayId> {
        let found = self.slab.iter().filter(|(_, allocation)| wanted(allocation));
        found.map(|(place, _)| relay_id(place)).collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }
}

/// A slab never holds 2^32 allocations: each has a relay port of its own.
fn relay_id(place: usize) -> RelayId {
    debug_assert!(u32::try_from(place).is_ok());
    RelayId(place as u32)
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
