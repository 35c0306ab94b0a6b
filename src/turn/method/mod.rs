//! One file per TURN method, each with the steps of its section of RFC 8656 or RFC 6062 in their
//! order.
//!
//! A method gets a request whose sender is proven, changes what it owns, and says what to answer;
//! [`super::server`] finds the allocation, writes the answer and counts.

pub(super) mod allocate;
pub(super) mod binding;
pub(super) mod channel_bind;
pub(super) mod connect;
pub(super) mod connection_attempt;
pub(super) mod connection_bind;
pub(super) mod create_permission;
pub(super) mod refresh;
pub(super) mod send;

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use tracing::debug;

use super::FiveTuple;
use super::authenticate::Caller;
use super::peers::Unpermitted;
use super::policy::CanonicalPeer;
use super::reject::{Reject, Why};
use super::shared::Shared;
use super::table::Allocation;
use crate::metrics::{Limit, Method as Label};
use crate::net::Now;
use crate::stun::control::{AddressFamily, Control};
use crate::stun::{Message, Method, Writer, attr};
use crate::telemetry::Addr;

/// A request whose sender is proven.
pub(super) struct Request<'a> {
    pub(super) now: Now,
    pub(super) five_tuple: FiveTuple,
    pub(super) message: Message<'a>,
    pub(super) control: Control<'a>,
    pub(super) caller: Caller<'a>,
}

/// The label of a method that is answered.
pub(super) fn label(method: Method) -> Option<Label> {
    Some(match method {
        Method::BINDING => Label::Binding,
        Method::ALLOCATE => Label::Allocate,
        Method::REFRESH => Label::Refresh,
        Method::CREATE_PERMISSION => Label::CreatePermission,
        Method::CHANNEL_BIND => Label::ChannelBind,
        Method::CONNECT => Label::Connect,
        Method::CONNECTION_BIND => Label::ConnectionBind,
        _ => return None,
    })
}

/// What a request led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Success {
    /// A success response without attributes.
    Done,
    /// What was asked about lives for so many more seconds, until then.
    Refreshed(u32, Instant),
    /// The client wants its allocation no more, or this half of it.
    Deleted(Option<AddressFamily>),
    /// The answer comes when the worker has bound or connected a socket.
    Pending,
    /// This very answer once more.
    Repeated(Vec<u8>),
}

/// The default lifetime of an allocation (RFC 8656, section 3.2).
const LIFETIME_SECS_DEFAULT: u32 = 600;

impl Shared {
    /// Whether a method is served at all: those of RFC 6062 only where TCP is relayed.
    pub(super) fn serves(&self, label: Label) -> bool {
        let for_tcp = matches!(label, Label::Connect | Label::ConnectionBind);
        !for_tcp || self.connections.is_some()
    }

    /// The lifetime for a requested one (RFC 8656, sections 7.2 and 8.2), and whether the limit
    /// cut it.
    fn lifetime_secs(&self, requested_secs: Option<u32>) -> (u32, bool) {
        let longest = self.options().limits.lifetime_secs_max;
        let default = LIFETIME_SECS_DEFAULT.min(longest);
        let requested = requested_secs.unwrap_or(default);
        (requested.clamp(default, longest), requested > longest)
    }

    /// Whether the allocation may exchange packets with `peer`: its family, the policy, and the
    /// scope of its grant. Our own relayed addresses are granted by address; the packet path looks
    /// at their ports.
    fn admit(&self, allocation: &Allocation, peer: SocketAddr) -> Result<CanonicalPeer, Reject> {
        if allocation.half(AddressFamily::of(peer.ip())).is_none() {
            return Err(Why::PeerFamily.into());
        }
        let peer = self.policy.judge(peer.ip()).map_err(|denied| {
            // The operator reads which rule it was; the client does not.
            debug!(peer = %Addr::from(peer.ip()), why = ?denied, "peer denied");
            Reject::from(Why::PeerForbidden)
        })?;
        let reaches = |ip: IpAddr| match &allocation.grant {
            Some(grant) => grant.reaches(ip),
            None => true,
        };
        if peer.relay_address.is_none() && !reaches(peer.ip) {
            return Err(Why::PeerOutOfScope.into());
        }
        Ok(peer)
    }
}

impl From<Unpermitted> for Reject {
    fn from(why: Unpermitted) -> Self {
        match why {
            Unpermitted::Full => Self::limit(Why::PermissionsFull, Limit::PermissionsPerAllocation),
            Unpermitted::TooFast => Self::limit(Why::PeersTooFast, Limit::NewPeers),
        }
    }
}

/// Adds SOFTWARE to what is answered to a proven client where RFC 8656, section 5, wants it. No
/// version: the answer may be read on its way.
pub(super) fn named(writer: Writer, method: Method) -> Writer {
    match method {
        Method::ALLOCATE | Method::REFRESH => writer.attribute(attr::SOFTWARE, b"Turncast"),
        _ => writer,
    }
}

/// LIFETIME in seconds, if it is there.
fn requested_secs(control: &Control<'_>) -> Result<Option<u32>, Reject> {
    let lifetime = control.lifetime().map_err(|_| Reject::from(Why::BadAttribute))?;
    // The attribute has 32 bits, so nothing is cut.
    Ok(lifetime.map(|lifetime| u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX)))
}
