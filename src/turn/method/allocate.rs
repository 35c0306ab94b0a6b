//! Allocate (RFC 8656, section 7.2): a relayed address for the client.
//!
//! Two halves: [`begin`] checks and draws a port, the worker binds it, [`finish`] tells the
//! client. A client never hears of a port that is not bound.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Request, Success, requested_secs};
use crate::credentials::Entropy;
use crate::metrics::{Limit, WorkerMetrics};
use crate::net::{Now, TokenBucket};
use crate::stun::control::{AddressFamily, Control};
use crate::stun::{Class, DecodeError, Message, Method, Writer, attr};
use crate::turn::authenticate::Holder;
use crate::turn::bandwidth::burst_bytes;
use crate::turn::peers::Peers;
use crate::turn::ports::PortLease;
use crate::turn::reject::{Reject, Why};
use crate::turn::relayed::Tag;
use crate::turn::shared::Shared;
use crate::turn::table::{Allocation, Pending, Table};
use crate::turn::{Action, Actions, BindFailure, RelayAddress, RelayId};

/// The protocol number of UDP in REQUESTED-TRANSPORT (RFC 8656, section 18.8).
const UDP: u8 = 17;

/// How many ports are tried when other processes have them.
const BIND_TRIES: u32 = 16;

/// Checks an Allocate request; on success the allocation is in the table, pending.
pub(in crate::turn) fn begin(
    shared: &Shared,
    metrics: &WorkerMetrics,
    table: &mut Table,
    entropy: &mut Entropy,
    request: &Request<'_>,
    actions: &mut Actions,
) -> Result<Success, Reject> {
    // §7.2 step 1 was authentication. Step 2: the five-tuple is in use => 437, unless this is the
    // request that made the allocation: then its answer was lost, and is the same again.
    if let Some(own) = table.find(&request.five_tuple).and_then(|relay| table.get(relay)) {
        let repeated = own.transaction == request.message.transaction_id();
        if repeated && own.pending.is_none() && matches!(request.caller.holder, Holder::Owner) {
            return Ok(Success::Repeated(own.answer.clone()));
        }
        return Err(Why::AllocationExists.into());
    }
    let wish = Wish::read(shared, &request.control)?;
    // §7.2 step 10: the user's or the grant's quota => 486. All together => 508.
    let payer = request.caller.holder.payer().ok_or(Reject::from(Why::AllocationExists))?;
    let unit = shared.quota.try_take(payer).map_err(|limit| match limit {
        Limit::Allocations => Reject::limit(Why::AllocationsFull, limit),
        _ => Reject::limit(Why::QuotaReached, limit),
    })?;
    // §7.2, choice of a relayed address: a random port, or 508 when there is none.
    let lease = draw(shared, entropy, wish.relay_address, wish.even);
    let lease = lease.ok_or(Reject::limit(Why::NoPort, Limit::RelayPorts))?;

    let (lifetime_secs, cut) = shared.lifetime_secs(wish.lifetime_secs);
    if cut {
        metrics.limit(Limit::Lifetime);
    }
    let grant = match &request.caller.holder {
        Holder::Grant(grant) => Some(Arc::clone(grant)),
        Holder::Owner | Holder::User(_) => None,
    };
    let local = SocketAddr::new(wish.address.local, lease.port());
    let relay = table.insert(Allocation {
        five_tuple: request.five_tuple,
        transaction: request.message.transaction_id(),
        username: (*request.caller.username).into(),
        key: request.caller.key,
        tag: Tag::new(grant.as_ref().map(|grant| grant.room())),
        grant,
        relayed: SocketAddr::new(wish.address.public, lease.port()),
        relay_address: wish.relay_address,
        expires: request.now.instant,
        peers: Peers::default(),
        bucket: own_bucket(shared, request.now),
        answer: Vec::new(),
        pending: Some(Pending {
            lifetime_secs,
            fingerprint: request.message.has_fingerprint(),
            tries: BIND_TRIES,
            even: wish.even,
            ended: false,
        }),
        live: None,
        lease,
        _unit: unit,
    });
    actions.push(Action::Bind { relay, local });
    Ok(Success::Pending)
}

/// Whether EVEN-PORT of this request is understood: without a reservation it asks for an even
/// port only. The next higher port cannot be reserved yet (RFC 8656, section 18.7).
pub(in crate::turn) fn is_even_port_known(message: &Message<'_>) -> bool {
    matches!(message.first(attr::EVEN_PORT), Some([flags]) if flags & 0x80 == 0)
}

fn draw(
    shared: &Shared,
    entropy: &mut Entropy,
    relay_address: usize,
    even: bool,
) -> Option<PortLease> {
    let ports = shared.ports(relay_address);
    if even { ports.draw_even(entropy) } else { ports.draw(entropy) }
}

/// What the attributes of an Allocate request ask for.
struct Wish {
    /// The place of `address` among the relay addresses.
    relay_address: usize,
    address: RelayAddress,
    lifetime_secs: Option<u32>,
    /// Whether the port must be even.
    even: bool,
}

impl Wish {
    fn read(shared: &Shared, control: &Control) -> Result<Self, Reject> {
        // §7.2 step 3: REQUESTED-TRANSPORT missing or malformed => 400, not UDP => 442.
        match control.requested_transport().map_err(|_| Reject::from(Why::BadAttribute))? {
            Some(UDP) => {}
            Some(_) => return Err(Why::TransportUnsupported.into()),
            None => return Err(Why::TransportMissing.into()),
        }
        // §7.2 steps 4 to 6 and 9: DONT-FRAGMENT and RESERVATION-TOKEN are not understood yet
        // (420); ADDITIONAL-ADDRESS-FAMILY need not be. Step 8: EVEN-PORT without a reservation.
        let even = control.even_port() == Ok(Some(false));
        // §7.2 step 7: a family that we do not relay => 440; without a wish it is IPv4.
        let ipv6 = match control.requested_address_family() {
            Ok(family) => family == Some(AddressFamily::Ipv6),
            Err(DecodeError::AddressFamily) => return Err(Why::FamilyUnsupported.into()),
            Err(_) => return Err(Why::BadAttribute.into()),
        };
        let found = shared.relay_address(ipv6);
        let (relay_address, address) = found.ok_or(Reject::from(Why::FamilyUnsupported))?;
        let lifetime_secs = requested_secs(control)?;
        Ok(Self { relay_address, address, lifetime_secs, even })
    }
}

fn own_bucket(shared: &Shared, now: Now) -> Option<TokenBucket> {
    let rate = shared.options().limits.bandwidth_per_allocation_bytes_per_sec;
    (rate > 0).then(|| TokenBucket::full(burst_bytes(rate) as f64, now.instant))
}

/// The relay socket is bound: the allocation lives from now on. Returns the answer.
pub(in crate::turn) fn finish(
    shared: &Shared,
    now: Now,
    allocation: &mut Allocation,
    pending: Pending,
) -> Vec<u8> {
    let Allocation { relayed, relay_address, tag, .. } = *allocation;
    allocation.live = Some(shared.relayed.publish(relay_address, relayed.port(), tag));
    allocation.expires = now.instant + Duration::from_secs(pending.lifetime_secs.into());
    // §7.2: XOR-RELAYED-ADDRESS, LIFETIME, XOR-MAPPED-ADDRESS.
    let answer = Writer::new(Class::Success, Method::ALLOCATE, allocation.transaction)
        .xor_address(attr::XOR_RELAYED_ADDRESS, relayed)
        .number(attr::LIFETIME, pending.lifetime_secs)
        .xor_address(attr::XOR_MAPPED_ADDRESS, allocation.five_tuple.client)
        .finish_signed(&allocation.key, pending.fingerprint);
    allocation.answer.clone_from(&answer);
    answer
}

/// The relay socket is not bound: asks for another port while that can help, else says why not.
pub(in crate::turn) fn try_next(
    shared: &Shared,
    entropy: &mut Entropy,
    relay: RelayId,
    allocation: &mut Allocation,
    failure: BindFailure,
) -> Result<Action, Reject> {
    match failure {
        BindFailure::PortTaken => {}
        BindFailure::Exhausted => {
            return Err(Reject::limit(Why::NoDescriptor, Limit::Descriptors));
        }
        BindFailure::Unavailable => return Err(Why::RelayUnavailable.into()),
    }
    let no_port = || Reject::limit(Why::NoPort, Limit::RelayPorts);
    let pending = allocation.pending.as_mut().ok_or_else(no_port)?;
    pending.tries = pending.tries.checked_sub(1).filter(|left| *left > 0).ok_or_else(no_port)?;
    // The taken port is given back after the next one is drawn, so that it is not drawn again.
    let index = allocation.relay_address;
    allocation.lease = draw(shared, entropy, index, pending.even).ok_or_else(no_port)?;
    let port = allocation.lease.port();
    allocation.relayed.set_port(port);
    let local = shared.options().relay_addresses[index].local;
    Ok(Action::Bind { relay, local: SocketAddr::new(local, port) })
}
