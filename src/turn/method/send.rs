//! Send indications and ChannelData from a client (RFC 8656, sections 11.2 and 12.6): the packet
//! path. No lock, no memory; whatever does not fit is dropped, and the caller counts why.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use crate::metrics::DropReason;
use crate::stun::control::AddressFamily;
use crate::stun::{ChannelData, SendIndication};
use crate::turn::Hop;
use crate::turn::hop::Destination;
use crate::turn::policy::CanonicalPeer;
use crate::turn::shared::Shared;
use crate::turn::table::Allocation;
use crate::turn::traffic::Dropped;

/// Where a payload goes, and its place in the datagram.
pub(in crate::turn) type Outgoing = (Destination, Range<usize>);

/// Finds the peer of a Send indication.
pub(in crate::turn) fn indication(
    shared: &Shared,
    allocation: &Allocation,
    indication: &SendIndication,
    now: Instant,
) -> Result<Outgoing, Dropped> {
    // §11.2: where DONT-FRAGMENT cannot be obeyed, it counts as an attribute not understood.
    if indication.dont_fragment && !shared.options().dont_fragment {
        return Err(DropReason::Unexpected.into());
    }
    // §11.2: no permission => dropped. A Send indication never refreshes one.
    let SendIndication { peer, ref payload, .. } = *indication;
    let permission = allocation.peers.permission(peer.ip(), now);
    let permission = permission.ok_or(DropReason::NoPermission)?;
    let to = deliver(shared, allocation, permission.peer, peer.port(), now)?;
    Ok((to, payload.clone()))
}

/// Finds the peer of a ChannelData message.
#[inline]
pub(in crate::turn) fn channel_data(
    shared: &Shared,
    allocation: &Allocation,
    message: &ChannelData,
    now: Instant,
) -> Result<Outgoing, Dropped> {
    // §12.6: a channel that is not bound => dropped. It also needs the permission that was
    // installed with it, and refreshes neither.
    let channel = allocation.peers.channel(message.number).ok_or(DropReason::NoChannel)?;
    if !channel.is_usable(now) {
        return Err(DropReason::NoChannel.into());
    }
    let to = deliver(shared, allocation, channel.peer, channel.port, now)?;
    Ok((to, message.payload.clone()))
}

/// Where to send. Among our own addresses only a live relayed address within reach gets
/// anything, never another service of this host.
#[inline]
fn deliver(
    shared: &Shared,
    allocation: &Allocation,
    peer: CanonicalPeer,
    port: u16,
    now: Instant,
) -> Result<Destination, Dropped> {
    // RFC 6062, §3: what belongs to a TCP allocation goes over data connections.
    if allocation.tcp.is_some() {
        return Err(DropReason::Unexpected.into());
    }
    // A half of a dual allocation may have expired before the other.
    let family = AddressFamily::of(peer.ip);
    let half = allocation.half(family).filter(|_| allocation.relays(family, now));
    let half = half.ok_or(DropReason::NoAllocation)?;
    if port == 0 {
        return Err(DropReason::PeerForbidden.into());
    }
    let mut hop = None;
    if let Some(index) = peer.relay_address {
        if !shared.relayed.reaches(allocation.tag, index, port) {
            return Err(DropReason::NotRelayed.into());
        }
        hop = Hop::find(shared, (half, allocation.tag), index, port);
    }
    Ok(Destination { peer: SocketAddr::new(shared.policy.delivery(peer), port), hop })
}
