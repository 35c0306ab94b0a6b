//! CreatePermission (RFC 8656, section 10.2): all of the peers in a request, or none.

use super::{Request, Success};
use crate::turn::peers::Room;
use crate::turn::policy::CanonicalPeer;
use crate::turn::reject::{Reject, Why};
use crate::turn::shared::Shared;
use crate::turn::table::Allocation;

/// Installs or refreshes a permission for each XOR-PEER-ADDRESS.
pub(in crate::turn) fn handle(
    shared: &Shared,
    allocation: &mut Allocation,
    request: &Request<'_>,
) -> Result<Success, Reject> {
    // §10.2: no XOR-PEER-ADDRESS, or an invalid one => 400.
    let addresses: Result<Vec<_>, _> = request.control.peer_addresses().collect();
    let addresses = addresses.map_err(|_| Reject::from(Why::BadAttribute))?;
    if addresses.is_empty() {
        return Err(Why::PeerMissing.into());
    }
    // §10.2: another family => 443; an address that is not allowed => 403. Ports do not count.
    let peers: Result<Vec<CanonicalPeer>, Reject> =
        addresses.into_iter().map(|address| shared.admit(allocation, address)).collect();
    // §10.2: more than fit => 508, and none is installed.
    let room = Room::new(&shared.options().limits);
    allocation.peers.permit(&peers?, room, request.now.instant)?;
    Ok(Success::Done)
}
