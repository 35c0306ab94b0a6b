//! How many allocations live: of each user, of each grant, and in all, on all workers together.
//!
//! A unit is taken before a port is drawn and belongs to the allocation; dropping the allocation
//! gives it back, on every path. It cannot be given back while the allocation lives.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::Limits;
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
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    in_all: u32,
    /// Keyed by payer; an entry is never 0, so strangers cannot grow it. Whoever is in it has
    /// authenticated, and `in_all` bounds it.
    by_payer: HashMap<Payer, u32>,
}

/// One allocation's share of the quota, given back on drop.
pub(super) struct QuotaUnit {
    quota: Arc<Quota>,
    payer: Payer,
}

impl Quota {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            per_user: limits.allocations_per_user,
            per_grant: limits.allocations_per_link,
            in_all: limits.allocations,
            taken: Mutex::default(),
        })
    }

    /// Takes a unit for `payer`.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(super) fn try_take(self: &Arc<Self>, payer: Payer) -> Result<QuotaUnit, Limit> {
        let (allowed, limit) = match payer {
            Payer::User(_) => (self.per_user, Limit::AllocationsPerUser),
            Payer::Grant(_) => (self.per_grant, Limit::AllocationsPerLink),
        };
        let mut taken = self.lock();
        let own = taken.by_payer.get(&payer).copied().unwrap_or(0);
        if own >= allowed {
            return Err(limit);
        }
        if taken.in_all >= self.in_all {
            return Err(Limit::Allocations);
        }
        taken.in_all += 1;
        taken.by_payer.insert(payer.clone(), own + 1);
        Ok(QuotaUnit { quota: Arc::clone(self), payer })
    }

    /// The units of all payers together, and the number of payers.
    #[cfg(test)]
    pub(super) fn taken(&self) -> (u32, usize) {
        let taken = self.lock();
        (taken.in_all, taken.by_payer.len())
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        match self.taken.lock() {
            Ok(taken) => taken,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

impl QuotaUnit {
    /// Who pays.
    pub(super) fn payer(&self) -> &Payer {
        &self.payer
    }
}

impl Drop for QuotaUnit {
    fn drop(&mut self) {
        let mut taken = self.quota.lock();
        taken.in_all -= 1;
        match taken.by_payer.get_mut(&self.payer) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                taken.by_payer.remove(&self.payer);
            }
        }
    }
}
