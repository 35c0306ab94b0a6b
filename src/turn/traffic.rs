//! What both directions of the packet path have in common: why a packet goes no further, and what
//! it costs.

use std::time::Instant;

use super::bandwidth::burst_bytes;
use super::shared::Shared;
use super::table::Allocation;
use crate::metrics::{DropReason, Limit, WorkerMetrics};

/// Why a packet goes no further: counted once, under one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    /// It may not, or cannot.
    Reason(DropReason),
    /// It would be too much.
    Limit(Limit),
}

impl From<DropReason> for Dropped {
    fn from(reason: DropReason) -> Self {
        Self::Reason(reason)
    }
}

impl Dropped {
    /// A stranger's request above the share of his prefix.
    pub(super) const STRANGER: Self = Self::Limit(Limit::Unauthenticated);

    #[cold]
    pub(super) fn count(self, metrics: &WorkerMetrics) {
        match self {
            Self::Reason(reason) => metrics.dropped(reason),
            Self::Limit(limit) => metrics.limit(limit),
        }
    }
}

/// Takes the bandwidth for `bytes`: the allocation's own, its user's, that of all. When it is not
/// all there, nothing is taken: what goes no further is no traffic of theirs.
pub(super) fn charge(
    shared: &Shared,
    allocation: &mut Allocation,
    bytes: usize,
    now: Instant,
) -> Result<(), Dropped> {
    let rate = shared.options().limits.bandwidth_per_allocation_bytes_per_sec;
    let before = allocation.bucket;
    if let Some(bucket) = &mut allocation.bucket {
        let (rate, burst) = (rate as f64, burst_bytes(rate) as f64);
        if !bucket.try_take(bytes as f64, rate, burst, now) {
            return Err(Dropped::Limit(Limit::BandwidthPerAllocation));
        }
    }
    // All halves have one payer, and with him one bucket.
    let of_user = allocation.halves.iter().flatten().next().map(|half| half.unit.bandwidth());
    if !of_user.is_none_or(|bucket| bucket.try_take(bytes, now)) {
        allocation.bucket = before;
        return Err(Dropped::Limit(Limit::BandwidthPerUser));
    }
    if !shared.bandwidth.try_take(bytes, now) {
        if let Some(bucket) = of_user {
            bucket.give_back(bytes);
        }
        allocation.bucket = before;
        return Err(Dropped::Limit(Limit::Bandwidth));
    }
    Ok(())
}
