//! Refresh (RFC 8656, section 8.2): a new lifetime, or the end at once.

use std::time::Duration;

use super::{Request, Success, requested_secs};
use crate::metrics::{Limit, WorkerMetrics};
use crate::stun::DecodeError;
use crate::stun::control::AddressFamily;
use crate::turn::reject::{Reject, Why};
use crate::turn::shared::Shared;
use crate::turn::table::Allocation;

/// Sets the lifetime; the caller takes the allocation out when it is [`Success::Deleted`].
pub(in crate::turn) fn handle(
    shared: &Shared,
    metrics: &WorkerMetrics,
    allocation: &mut Allocation,
    request: &Request<'_>,
) -> Result<Success, Reject> {
    // §8.2: REQUESTED-ADDRESS-FAMILY of another family than the allocation's => 443.
    let own = match allocation.relayed.is_ipv6() {
        true => AddressFamily::Ipv6,
        false => AddressFamily::Ipv4,
    };
    match request.control.requested_address_family() {
        Ok(family) if family.is_none_or(|family| family == own) => {}
        Ok(_) | Err(DecodeError::AddressFamily) => return Err(Why::FamilyMismatch.into()),
        Err(_) => return Err(Why::BadAttribute.into()),
    }
    // §8.2: the desired lifetime. Zero ends the allocation at once.
    let requested = requested_secs(&request.control)?;
    if requested == Some(0) {
        return Ok(Success::Deleted);
    }
    let (lifetime_secs, cut) = shared.lifetime_secs(requested);
    if cut {
        metrics.limit(Limit::Lifetime);
    }
    allocation.expires = request.now.instant + Duration::from_secs(lifetime_secs.into());
    Ok(Success::Refreshed(lifetime_secs))
}
