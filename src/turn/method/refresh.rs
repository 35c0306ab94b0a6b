//! Refresh (RFC 8656, section 8.2): a new lifetime, or the end at once.

use std::time::Duration;

use super::{Request, Success, requested_secs};
use crate::metrics::{Limit, WorkerMetrics};
use crate::stun::DecodeError;
use crate::turn::reject::{Reject, Why};
use crate::turn::shared::Shared;
use crate::turn::table::Allocation;

/// Sets the lifetime; the caller takes out what is [`Success::Deleted`].
pub(in crate::turn) fn handle(
    shared: &Shared,
    metrics: &WorkerMetrics,
    allocation: &mut Allocation,
    request: &Request<'_>,
) -> Result<Success, Reject> {
    // §8.2: REQUESTED-ADDRESS-FAMILY of a family that the allocation has no relayed address of
    // => 443. Without the attribute the request is about all of them (§8.1).
    let family = match request.control.requested_address_family() {
        Ok(None) => None,
        Ok(Some(family)) if allocation.half(family).is_some() => Some(family),
        Ok(_) | Err(DecodeError::AddressFamily) => return Err(Why::FamilyMismatch.into()),
        Err(_) => return Err(Why::BadAttribute.into()),
    };
    // §8.2: the desired lifetime. Zero ends the allocation at once, or its half.
    let requested = requested_secs(&request.control)?;
    if requested == Some(0) {
        return Ok(Success::Deleted(family.filter(|_| allocation.families().count() > 1)));
    }
    let (lifetime_secs, cut) = shared.lifetime_secs(requested);
    if cut {
        metrics.limit(Limit::Lifetime);
    }
    let expires = request.now.instant + Duration::from_secs(lifetime_secs.into());
    for wanted in allocation.families().filter(|own| family.is_none_or(|family| family == *own)) {
        if let Some(half) = allocation.half_mut(wanted) {
            half.expires = expires;
        }
    }
    Ok(Success::Refreshed(lifetime_secs, expires))
}
