//! Connect (RFC 6062, section 5.2): a TCP connection from the relayed address to a peer.
//!
//! Two halves, as of an Allocate: [`handle`] checks and has the worker connect, which takes as long
//! as the peer does; [`crate::turn::Server::connected`] answers.

use std::net::SocketAddr;

use super::{Request, Success};
use crate::credentials::Entropy;
use crate::metrics::Limit;
use crate::stun::control::AddressFamily;
use crate::turn::policy::CanonicalPeer;
use crate::turn::reject::{Reject, Why};
use crate::turn::shared::Shared;
use crate::turn::table::{Allocation, Half, Place};
use crate::turn::tcp::Connecting;
use crate::turn::{Action, Actions};

/// Checks a Connect request; on success the worker is connecting.
pub(in crate::turn) fn handle(
    shared: &Shared,
    entropy: &mut Entropy,
    (place, allocation): (Place, &mut Allocation),
    request: &Request<'_>,
    actions: &mut Actions,
) -> Result<Success, Reject> {
    // §5.2: no allocation => 437, and one for UDP is none.
    if allocation.tcp.is_none() {
        return Err(Why::NoTcpAllocation.into());
    }
    // §5.2: XOR-PEER-ADDRESS missing or invalid => 400.
    let address = request.control.peer_address().map_err(|_| Reject::from(Why::BadAttribute))?;
    let address = address.ok_or(Reject::from(Why::PeerMissing))?;
    // §5.2: forbidden by local policy => 403; another family => 443.
    let canonical = shared.admit(allocation, address)?;
    let family = AddressFamily::of(canonical.ip);
    let peer = SocketAddr::new(canonical.ip, address.port());
    let no_half = || Reject::from(Why::PeerFamily);
    let half = allocation.half(family).ok_or_else(no_half)?;
    if !is_open(shared, allocation, half, canonical, peer) {
        return Err(Why::PeerForbidden.into());
    }
    let local = SocketAddr::new(shared.local(half.relay_address), half.lease.port());
    // §5.2: a connection to this peer is being made, pending or active => 446.
    let tcp = allocation.tcp.as_mut().ok_or(Reject::from(Why::NoTcpAllocation))?;
    if tcp.own.has(peer) {
        return Err(Why::ConnectionExists.into());
    }
    // Each attempt counts as a new peer, or a relay would be good for looking at ports.
    let per_min = shared.options().limits.new_peers_per_min;
    if !allocation.peers.pay_for(1, per_min, request.now.instant) {
        return Err(Reject::limit(Why::PeersTooFast, Limit::NewPeers));
    }
    let connection = tcp.own.connect(entropy, peer)?;
    tcp.expect(Connecting {
        id: connection,
        peer: peer.ip(),
        transaction: request.message.transaction_id(),
        fingerprint: request.message.has_fingerprint(),
        key: request.caller.key.clone(),
        since: request.now.instant,
    });
    let relay = place.relay(family);
    let peer = SocketAddr::new(shared.policy.delivery(canonical), peer.port());
    actions.push(Action::Connect { relay, connection, local, peer });
    Ok(Success::Pending)
}

/// Whether there may be something at the port: any one of a foreign host, but of our own only live
/// relayed addresses for TCP. A socket that connects to itself would talk to itself.
fn is_open(
    shared: &Shared,
    allocation: &Allocation,
    own: &Half,
    canonical: CanonicalPeer,
    peer: SocketAddr,
) -> bool {
    let reaches =
        |index| shared.relayed.reaches(allocation.tag, index, peer.port()) && peer != own.relayed;
    peer.port() != 0 && canonical.relay_address.is_none_or(reaches)
}
