//! How many allocations live: of each user, of each grant, and in all, on all workers together.
//!
//! A unit is taken before a port is drawn and belongs to the allocation; dropping the allocation
//! gives it back, on every path. It cannot be given back while the allocation lives.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::Limits;
use super::bandwidth::SharedBucket;
use crate::credentials::GrantName;
use crate::metrics::Limit;

/// Who pays for an allocation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Payer {
    /// A fixed user, or the part after the first colon of a time-limited username.
    User(Arc<str>),
    /// A grant of the hub: one side of one link.
    Grant(GrantName),
}

/// The units that are out.
pub(super) struct Quota {
    per_user: u32,
    per_grant: u32,
    in_all: u32,
    /// Payload bytes a second of one payer; 0: no limit.
    bytes_per_sec: u64,
    /// Peers that one allocation may add in a minute; 0: no limit.
    new_peers_per_min: u32,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    in_all: u32,
    /// Keyed by payer. Whoever is in it has authenticated, so strangers cannot grow it. An entry
    /// without units stays while its buckets are not full again: else an allocation that is
    /// deleted and made again would come with full ones.
    by_payer: HashMap<Payer, Account>,
    /// Entries without units.
    idle: usize,
    /// Those are looked at no sooner.
    sweep_at: Option<Instant>,
}

/// What one payer has taken.
struct Account {
    units: u32,
    buckets: Buckets,
}

/// What all allocations of one payer share.
#[derive(Clone)]
struct Buckets {
    bandwidth: Arc<SharedBucket>,
    new_peers: Arc<SharedBucket>,
}

impl Buckets {
    fn are_full(&self, now: Instant) -> bool {
        self.bandwidth.is_full(now) && self.new_peers.is_full(now)
    }
}

/// Payers without units are looked at this far apart, however many allocations come.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// One allocation's share of the quota, given back on drop.
pub(super) struct QuotaUnit {
    quota: Arc<Quota>,
    payer: Payer,
    buckets: Buckets,
}

impl Quota {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            per_user: limits.allocations_per_user,
            per_grant: limits.allocations_per_link,
            in_all: limits.allocations,
            bytes_per_sec: limits.bandwidth_per_user_bytes_per_sec,
            new_peers_per_min: limits.new_peers_per_min,
            taken: Mutex::default(),
        })
    }

    /// Takes a unit for `payer` at `now`.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(super) fn try_take(
        self: &Arc<Self>,
        payer: Payer,
        now: Instant,
    ) -> Result<QuotaUnit, Limit> {
        let (allowed, limit) = match payer {
            Payer::User(_) => (self.per_user, Limit::AllocationsPerUser),
            Payer::Grant(_) => (self.per_grant, Limit::AllocationsPerLink),
        };
        let mut taken = self.lock();
        taken.forget_idle(now);
        let own = taken.by_payer.get(&payer).map_or(0, |account| account.units);
        if own >= allowed {
            return Err(limit);
        }
        if taken.in_all >= self.in_all {
            return Err(Limit::Allocations);
        }
        taken.in_all += 1;
        let fresh = || Account { units: 0, buckets: self.full_buckets(allowed) };
        let is_back = own == 0 && taken.by_payer.contains_key(&payer);
        taken.idle -= usize::from(is_back);
        let account = taken.by_payer.entry(payer.clone()).or_insert_with(fresh);
        account.units += 1;
        let buckets = account.buckets.clone();
        Ok(QuotaUnit { quota: Arc::clone(self), payer, buckets })
    }

    /// Those of a payer who may have `allowed` allocations at a time.
    fn full_buckets(&self, allowed: u32) -> Buckets {
        let new_peers = u64::from(self.new_peers_per_min) * u64::from(allowed);
        Buckets {
            bandwidth: Arc::new(SharedBucket::new(self.bytes_per_sec)),
            new_peers: Arc::new(SharedBucket::of_a_minute(new_peers)),
        }
    }

    /// The units of all payers together, and the number of payers that have any.
    #[cfg(test)]
    pub(super) fn taken(&self) -> (u32, usize) {
        let taken = self.lock();
        (taken.in_all, taken.by_payer.len() - taken.idle)
    }

    /// How many payers there is an entry of.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.lock().by_payer.len()
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        match self.taken.lock() {
            Ok(taken) => taken,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

impl Taken {
    /// Lets go of payers without units whose buckets are full again.
    fn forget_idle(&mut self, now: Instant) {
        if self.idle > 0 && self.sweep_at.is_none_or(|at| at <= now) {
            self.sweep_at = Some(now + SWEEP_INTERVAL);
            self.by_payer.retain(|_, own| own.units > 0 || !own.buckets.are_full(now));
            self.idle = self.by_payer.values().filter(|own| own.units == 0).count();
        }
    }
}

impl QuotaUnit {
    /// The bandwidth of all that its payer has.
    pub(super) fn bandwidth(&self) -> &SharedBucket {
        &self.buckets.bandwidth
    }

    /// The same, for what does not go with the unit.
    pub(super) fn shared_bandwidth(&self) -> Arc<SharedBucket> {
        Arc::clone(&self.buckets.bandwidth)
    }

    /// The peers that all of its payer's allocations together may add.
    pub(super) fn shared_new_peers(&self) -> Arc<SharedBucket> {
        Arc::clone(&self.buckets.new_peers)
    }

    /// Who pays.
    pub(super) fn payer(&self) -> &Payer {
        &self.payer
    }
}

impl Drop for QuotaUnit {
    fn drop(&mut self) {
        let mut taken = self.quota.lock();
        taken.in_all -= 1;
        let Some(own) = taken.by_payer.get_mut(&self.payer) else { return };
        own.units -= 1;
        if own.units > 0 {
            return;
        }
        if self.quota.bytes_per_sec == 0 && self.quota.new_peers_per_min == 0 {
            taken.by_payer.remove(&self.payer);
        } else {
            taken.idle += 1;
        }
    }
}
