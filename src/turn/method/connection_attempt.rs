//! ConnectionAttempt (RFC 6062, section 5.3): a peer has connected to a relayed address.

use std::net::SocketAddr;
use std::time::Instant;

use crate::credentials::Entropy;
use crate::metrics::DropReason;
use crate::stun::{Class, Method, TransactionId, Writer, attr};
use crate::turn::ConnectionId;
use crate::turn::shared::Shared;
use crate::turn::table::Allocation;
use crate::turn::traffic::Dropped;

/// Whether the client is told of a connection from `source`, and under which address.
pub(in crate::turn) fn judge(
    shared: &Shared,
    allocation: &Allocation,
    source: SocketAddr,
    now: Instant,
) -> Result<SocketAddr, Dropped> {
    let reported = shared.policy.reported(source.ip());
    if let Some(index) = reported.relay_address
        && !shared.relayed.reaches(allocation.tag, index, source.port())
    {
        return Err(DropReason::NotRelayed.into());
    }
    // §5.3: no permission => closed at once.
    if allocation.peers.permission(reported.ip, now).is_none() {
        return Err(DropReason::NoPermission.into());
    }
    // What was allowed when the permission was installed may be an address of this host by now.
    let peer = SocketAddr::new(reported.ip, source.port());
    match shared.admit(allocation, peer) {
        Ok(_) => Ok(peer),
        Err(_) => Err(DropReason::PeerForbidden.into()),
    }
}

/// The indication: XOR-PEER-ADDRESS and CONNECTION-ID.
pub(in crate::turn) fn indication(
    entropy: &mut Entropy,
    peer: SocketAddr,
    connection: ConnectionId,
) -> Vec<u8> {
    let mut id = [0; 12];
    entropy.fill(&mut id);
    Writer::new(Class::Indication, Method::CONNECTION_ATTEMPT, TransactionId(id))
        .number(attr::CONNECTION_ID, connection.0)
        .xor_address(attr::XOR_PEER_ADDRESS, peer)
        .finish(None, false)
}
