//! Allocate (RFC 8656, section 7.2): relayed addresses for the client.
//!
//! Two halves: [`begin`] checks and draws ports, the worker binds them
//! ([`crate::turn::pending`]), [`finish`] tells the client. A client never hears of a port that is
//! not bound.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Request, Success, named, requested_secs};
use crate::credentials::Entropy;
use crate::metrics::{Limit, WorkerMetrics};
use crate::net::{Now, TokenBucket};
use crate::stun::control::{AddressFamily, Control};
use crate::stun::{Class, DecodeError, Method, Writer, attr};
use crate::turn::authenticate::Holder;
use crate::turn::bandwidth::burst_bytes;
use crate::turn::peers::Peers;
use crate::turn::policy::is_tunnel;
use crate::turn::ports::PortLease;
use crate::turn::quota::{Payer, QuotaUnit};
use crate::turn::reject::{Reject, Why};
use crate::turn::relayed::Tag;
use crate::turn::reservations::{Reserved, Token};
use crate::turn::shared::Shared;
use crate::turn::table::{
    Allocation, Binding, FAMILIES, Half, Pair, Pending, Place, PortWish, Table,
};
use crate::turn::tcp::TcpSide;
use crate::turn::{Action, Actions, BindFailure, HeldSocket, Transport};

/// The protocol numbers of REQUESTED-TRANSPORT (RFC 8656, section 18.8; RFC 6062, section 4.1).
const UDP: u8 = 17;
const TCP: u8 = 6;

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
    // §7.2 step 1 was authentication. Step 2: the five-tuple is in use.
    if let Some(own) = table.find(&request.five_tuple).and_then(|place| table.get(place)) {
        return again(own, request);
    }
    // §21.4: a client with an address of Teredo or 6to4 => 403.
    if is_tunnel(request.five_tuple.client.ip()) {
        return Err(Why::ClientTunneled.into());
    }
    let wish = Wish::read(shared, request)?;
    check_holder(shared, request, &wish)?;
    let payer = request.caller.holder.payer().ok_or(Reject::from(Why::AllocationExists))?;
    let got = match wish.source {
        Source::Token(token) => claim(shared, token, &payer, request.now)?,
        Source::Fresh { family, both, port } => {
            let draw = Draw { shared, payer: &payer, port, now: request.now };
            let got = if both { draw.both(entropy) } else { draw.one(entropy, family) }?;
            if let Some(limit) = got.lost.as_ref().and_then(|(_, reject)| reject.limit) {
                metrics.limit(limit);
            }
            got
        }
    };
    let (lifetime_secs, cut) = shared.lifetime_secs(wish.lifetime_secs);
    if cut {
        metrics.limit(Limit::Lifetime);
    }
    let grant = match &request.caller.holder {
        Holder::Grant(grant) => Some(Arc::clone(grant)),
        Holder::Owner | Holder::User(_) => None,
    };
    let Got { halves, lost, pair, socket } = got;
    let tcp = if wish.tcp { tcp_side(shared, request, &halves) } else { None };
    let place = table.insert(Allocation {
        five_tuple: request.five_tuple,
        transaction: request.message.transaction_id(),
        username: (*request.caller.username).into(),
        key: request.caller.key.clone(),
        tag: match &tcp {
            Some(_) => Tag::TCP,
            None => Tag::new(grant.as_ref().map(|grant| grant.room())),
        },
        grant,
        peers: Peers::new(halves.iter().flatten().next().map(|half| half.unit.shared_new_peers())),
        halves,
        tcp,
        bucket: own_bucket(shared, request.now),
        answer: Box::default(),
        pending: Some(Box::new(Pending {
            lifetime_secs,
            fingerprint: request.message.has_fingerprint(),
            lost,
            pair,
            ended: false,
        })),
    });
    ask_for_sockets(shared, table, place, socket, actions);
    Ok(Success::Pending)
}

/// What depends on who asks.
fn check_holder(shared: &Shared, request: &Request<'_>, wish: &Wish) -> Result<(), Reject> {
    let alternates = shared.alternate_servers(request.five_tuple.client.ip());
    match &request.caller.holder {
        // §7.2 step 11: another server shall do it => 300. Only we can verify our own grants.
        Holder::User(_) if !alternates.is_empty() => Err(Reject::alternates(alternates)),
        // RFC 6062, §5.1: forbidden by local policy => 403. Links of the hub are browsers', which
        // know UDP only.
        Holder::Grant(_) if wish.tcp => Err(Why::TcpOfGrant.into()),
        _ => Ok(()),
    }
}

/// What a TCP allocation has besides: its share of the connections of all.
fn tcp_side(
    shared: &Shared,
    request: &Request<'_>,
    halves: &[Option<Half>; 2],
) -> Option<Box<TcpSide>> {
    let connections = shared.connections.as_ref()?;
    let rate = shared.options().limits.bandwidth_per_allocation_bytes_per_sec;
    // All halves have one payer, and with him one bucket.
    let of_payer = halves.iter().flatten().next()?.unit.shared_bandwidth();
    Some(Box::new(TcpSide::new(connections.share(&request.caller.username, rate, of_payer))))
}

/// The answer where an allocation is: 437, unless this is the request that made it. Then its answer
/// was lost, and is the same again.
fn again(own: &Allocation, request: &Request<'_>) -> Result<Success, Reject> {
    let repeated = own.transaction == request.message.transaction_id();
    let answered = own.pending.is_none() && !own.answer.is_empty();
    if repeated && answered && matches!(request.caller.holder, Holder::Owner) {
        return Ok(Success::Repeated(own.answer.to_vec()));
    }
    Err(Why::AllocationExists.into())
}

/// Asks the worker for the socket of each half, or hands over the one that was reserved.
fn ask_for_sockets(
    shared: &Shared,
    table: &Table,
    place: Place,
    mut socket: Option<HeldSocket>,
    actions: &mut Actions,
) {
    let Some(allocation) = table.get(place) else { return };
    for family in allocation.families() {
        let relay = place.relay(family);
        match socket.take() {
            Some(socket) => actions.push(Action::Adopt { relay, socket }),
            None => actions.extend(bind_action(shared, allocation, place, family)),
        }
    }
}

/// What the worker binds next for a half: the upper port of a pair before the lower one, so that
/// a pair that cannot be had leaves nothing to close.
pub(in crate::turn) fn bind_action(
    shared: &Shared,
    allocation: &Allocation,
    place: Place,
    family: AddressFamily,
) -> Option<Action> {
    let half = allocation.half(family)?;
    let relay = place.relay(family);
    let local = |port| SocketAddr::new(shared.local(half.relay_address), port);
    let pair = allocation.pending.as_ref().and_then(|pending| pending.pair.as_ref());
    Some(match pair.filter(|pair| pair.socket.is_none()) {
        Some(pair) => Action::Reserve { relay, local: local(pair.lease.port()) },
        None if allocation.tcp.is_some() => {
            Action::Listen { relay, local: local(half.lease.port()) }
        }
        None => Action::Bind { relay, local: local(half.lease.port()) },
    })
}

/// What the attributes of an Allocate request ask for.
struct Wish {
    source: Source,
    /// TCP instead of UDP.
    tcp: bool,
    lifetime_secs: Option<u32>,
}

/// Where the relayed addresses come from.
enum Source {
    /// One that is held in reserve.
    Token(Token),
    /// New ones.
    Fresh { family: AddressFamily, both: bool, port: PortWish },
}

impl Wish {
    fn read(shared: &Shared, request: &Request<'_>) -> Result<Self, Reject> {
        let Request { control, five_tuple, .. } = request;
        let bad = |_| Reject::from(Why::BadAttribute);
        // §7.2 step 3: REQUESTED-TRANSPORT missing or malformed => 400, not relayed => 442.
        let tcp = match control.requested_transport().map_err(bad)? {
            Some(UDP) => false,
            Some(TCP) if shared.connections.is_some() => true,
            Some(_) => return Err(Why::TransportUnsupported.into()),
            None => return Err(Why::TransportMissing.into()),
        };
        if tcp {
            Self::check_tcp(control, five_tuple.transport)?;
        }
        // §7.2 step 4, DONT-FRAGMENT, was the business of unknown attributes.
        let token = control.reservation_token().map_err(bad)?;
        let even = control.even_port().map_err(bad)?;
        let requested = Self::family(control.requested_address_family())?;
        let additional = Self::family(control.additional_address_family())?;
        let lifetime_secs = requested_secs(control)?;
        // §7.2 step 5: RESERVATION-TOKEN beside EVEN-PORT or a family => 400.
        if let Some(token) = token {
            if even.is_some() || requested != Family::Absent || additional != Family::Absent {
                return Err(Why::TokenConflict.into());
            }
            return Ok(Self { source: Source::Token(token), tcp, lifetime_secs });
        }
        // §7.2 step 6: both families' attributes => 400.
        if requested != Family::Absent && additional != Family::Absent {
            return Err(Why::FamilyConflict.into());
        }
        // §7.2 step 7: a family that nobody relays => 440; without a wish it is the default one.
        let family = match requested {
            Family::Is(family) => family,
            Family::Absent => shared.default_family(five_tuple.client.ip()),
            Family::Unknown => return Err(Why::FamilyUnsupported.into()),
        };
        // §7.2 step 8: EVEN-PORT with a reservation beside ADDITIONAL-ADDRESS-FAMILY => 400.
        if even == Some(true) && additional != Family::Absent {
            return Err(Why::PairConflict.into());
        }
        // §7.2 step 9: ADDITIONAL-ADDRESS-FAMILY of anything but IPv6 => 400.
        let both = match additional {
            Family::Absent => false,
            Family::Is(AddressFamily::Ipv6) => true,
            Family::Is(AddressFamily::Ipv4) | Family::Unknown => {
                return Err(Why::AdditionalFamily.into());
            }
        };
        let port = match even {
            None => PortWish::Any,
            Some(false) => PortWish::Even,
            Some(true) => PortWish::Pair,
        };
        Ok(Self { source: Source::Fresh { family, both, port }, tcp, lifetime_secs })
    }

    /// What RFC 6062, §5.1, asks of a request for TCP besides.
    fn check_tcp(control: &Control<'_>, transport: Transport) -> Result<(), Reject> {
        // Step 2: the client comes over UDP => 400.
        if transport == Transport::Udp {
            return Err(Why::TcpOverUdp.into());
        }
        // Step 3: DONT-FRAGMENT, EVEN-PORT or RESERVATION-TOKEN => 400.
        let even = !matches!(control.even_port(), Ok(None));
        let token = !matches!(control.reservation_token(), Ok(None));
        match even || token || control.dont_fragment() {
            true => Err(Why::TcpConflict.into()),
            false => Ok(()),
        }
    }

    fn family(read: Result<Option<AddressFamily>, DecodeError>) -> Result<Family, Reject> {
        match read {
            Ok(None) => Ok(Family::Absent),
            Ok(Some(family)) => Ok(Family::Is(family)),
            Err(DecodeError::AddressFamily) => Ok(Family::Unknown),
            Err(_) => Err(Why::BadAttribute.into()),
        }
    }
}

/// An attribute that names a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Absent,
    Is(AddressFamily),
    Unknown,
}

/// What was found for a request, not bound yet.
#[derive(Default)]
struct Got {
    halves: [Option<Half>; 2],
    lost: Option<(AddressFamily, Reject)>,
    pair: Option<Pair>,
    /// The socket that comes with a reservation.
    socket: Option<HeldSocket>,
}

/// Takes a relayed address that is held in reserve.
fn claim(shared: &Shared, token: Token, payer: &Payer, now: Now) -> Result<Got, Reject> {
    // The unit that held the port goes on to its own user; anybody else pays for himself, and
    // leaves the reservation as it was when he cannot.
    let pay = |holder: &Payer| (holder != payer).then(|| take_unit(shared, payer, now)).transpose();
    let claimed = shared.reservations.claim(token, now.instant, pay)?;
    // §7.2 step 5: the token is unknown, used or expired => 508.
    let claimed = claimed.ok_or(Reject::from(Why::TokenUnknown))?;
    let Reserved { socket, relayed, relay_address, lease, unit } = claimed;
    let half = Half {
        relayed,
        relay_address,
        expires: now.instant,
        binding: Some(Binding { wish: PortWish::Reserved, tries: 1 }),
        live: None,
        lease,
        unit,
    };
    let halves = if relayed.is_ipv6() { [None, Some(half)] } else { [Some(half), None] };
    Ok(Got { halves, socket: Some(socket), ..Got::default() })
}

/// What is drawn for one request.
struct Draw<'a> {
    shared: &'a Shared,
    payer: &'a Payer,
    port: PortWish,
    now: Now,
}

impl Draw<'_> {
    /// A relayed address of one family.
    fn one(&self, entropy: &mut Entropy, family: AddressFamily) -> Result<Got, Reject> {
        let (half, pair) = self.half(entropy, family)?;
        let halves = match family {
            AddressFamily::Ipv4 => [Some(half), None],
            AddressFamily::Ipv6 => [None, Some(half)],
        };
        Ok(Got { halves, pair, ..Got::default() })
    }

    /// One of each family, or the one that can be had (§7.2 step 9).
    fn both(&self, entropy: &mut Entropy) -> Result<Got, Reject> {
        let mut got = Got::default();
        for (slot, family) in FAMILIES.into_iter().enumerate() {
            match self.half(entropy, family) {
                Ok((half, _)) => got.halves[slot] = Some(half),
                // Neither: the second family's reason, for the first may be that it is not there.
                Err(reject) if got.lost.is_some() => return Err(reject),
                Err(reject) => got.lost = Some((family, reject)),
            }
        }
        Ok(got)
    }

    fn half(
        &self,
        entropy: &mut Entropy,
        family: AddressFamily,
    ) -> Result<(Half, Option<Pair>), Reject> {
        let shared = self.shared;
        let found = shared.relay_address(family == AddressFamily::Ipv6);
        let (relay_address, address) = found.ok_or(Reject::from(Why::FamilyUnsupported))?;
        // §7.2 step 10: the user's or the grant's quota => 486. All together => 508. A reserved
        // port counts like any other.
        let unit = take_unit(shared, self.payer, self.now)?;
        let second = match self.port {
            PortWish::Pair => Some(take_unit(shared, self.payer, self.now)?),
            PortWish::Any | PortWish::Even | PortWish::Reserved => None,
        };
        // §7.2, choice of a relayed address: a random port, or 508 when there is none.
        let (lease, next) = draw(shared, entropy, relay_address, self.port).ok_or_else(no_port)?;
        let pair = next.zip(second).map(|(lease, unit)| Pair { socket: None, lease, unit });
        let half = Half {
            relayed: SocketAddr::new(address.public, lease.port()),
            relay_address,
            expires: self.now.instant,
            binding: Some(Binding { wish: self.port, tries: BIND_TRIES }),
            live: None,
            lease,
            unit,
        };
        Ok((half, pair))
    }
}

fn take_unit(shared: &Shared, payer: &Payer, now: Now) -> Result<QuotaUnit, Reject> {
    shared.quota.try_take(payer.clone(), now.instant).map_err(|limit| match limit {
        Limit::Allocations => Reject::limit(Why::AllocationsFull, limit),
        _ => Reject::limit(Why::QuotaReached, limit),
    })
}

fn no_port() -> Reject {
    Reject::limit(Why::NoPort, Limit::RelayPorts)
}

fn draw(
    shared: &Shared,
    entropy: &mut Entropy,
    relay_address: usize,
    wish: PortWish,
) -> Option<(PortLease, Option<PortLease>)> {
    let ports = shared.ports(relay_address);
    match wish {
        PortWish::Any => ports.draw(entropy).map(|lease| (lease, None)),
        PortWish::Even => ports.draw_even(entropy).map(|lease| (lease, None)),
        PortWish::Pair => ports.draw_pair(entropy).map(|(lease, next)| (lease, Some(next))),
        PortWish::Reserved => None,
    }
}

fn own_bucket(shared: &Shared, now: Now) -> Option<TokenBucket> {
    let rate = shared.options().limits.bandwidth_per_allocation_bytes_per_sec;
    (rate > 0).then(|| TokenBucket::full(burst_bytes(rate) as f64, now.instant))
}

/// The relay sockets are bound: the allocation lives from now on. Returns the answer.
pub(in crate::turn) fn finish(
    shared: &Shared,
    entropy: &mut Entropy,
    now: Now,
    allocation: &mut Allocation,
    pending: Pending,
) -> Vec<u8> {
    let tag = allocation.tag;
    let expires = now.instant + Duration::from_secs(pending.lifetime_secs.into());
    let mut writer = Writer::new(Class::Success, Method::ALLOCATE, allocation.transaction);
    let mut reserved = None;
    // §7.2: XOR-RELAYED-ADDRESS of each half, LIFETIME, RESERVATION-TOKEN, XOR-MAPPED-ADDRESS.
    for half in allocation.halves.iter_mut().flatten() {
        let (relay_address, port) = (half.relay_address, half.relayed.port());
        half.live = Some(shared.relayed.publish(relay_address, port, tag));
        half.expires = expires;
        writer = writer.xor_address(attr::XOR_RELAYED_ADDRESS, half.relayed);
        reserved = Some((half.relayed.ip(), relay_address));
    }
    writer = writer.number(attr::LIFETIME, pending.lifetime_secs);
    if let Some(Pair { socket: Some(socket), lease, unit }) = pending.pair
        && let Some((ip, relay_address)) = reserved
    {
        let relayed = SocketAddr::new(ip, lease.port());
        let mut token = Token::default();
        entropy.fill(&mut token);
        let reserved = Reserved { socket, relayed, relay_address, lease, unit };
        shared.reservations.hold(token, reserved, now.instant);
        writer = writer.attribute(attr::RESERVATION_TOKEN, &token);
    }
    writer = writer.xor_address(attr::XOR_MAPPED_ADDRESS, allocation.five_tuple.client);
    // §7.2 step 9: why the other half of a dual allocation is not there.
    if let Some((family, reject)) = pending.lost {
        // No other codes may stand here; a quota is a want of capacity.
        let (code, words) = match reject.why {
            Why::FamilyUnsupported => (440, Why::FamilyUnsupported.text()),
            _ => (508, "no relayed address of this family is free"),
        };
        writer = writer.address_error_code(family, code, words);
    }
    let writer = named(writer, Method::ALLOCATE);
    let answer = writer.finish_signed(&allocation.key, pending.fingerprint);
    allocation.answer = answer.as_slice().into();
    answer
}

/// A relay socket is not bound: draws another port while that can help, else says why not.
pub(in crate::turn) fn try_next(
    shared: &Shared,
    entropy: &mut Entropy,
    allocation: &mut Allocation,
    family: AddressFamily,
    failure: BindFailure,
) -> Result<(), Reject> {
    match failure {
        BindFailure::PortTaken => {}
        BindFailure::Exhausted => {
            return Err(Reject::limit(Why::NoDescriptor, Limit::Descriptors));
        }
        BindFailure::Unavailable => return Err(Why::RelayUnavailable.into()),
    }
    let half = allocation.half_mut(family).ok_or_else(no_port)?;
    let relay_address = half.relay_address;
    let binding = half.binding.as_mut().ok_or_else(no_port)?;
    binding.tries = binding.tries.checked_sub(1).filter(|left| *left > 0).ok_or_else(no_port)?;
    // The taken port is given back after the next one is drawn, so that it is not drawn again.
    let drawn = draw(shared, entropy, relay_address, binding.wish).ok_or_else(no_port)?;
    let (lease, next) = drawn;
    half.relayed.set_port(lease.port());
    half.lease = lease;
    let pair = allocation.pending.as_mut().and_then(|pending| pending.pair.as_mut());
    if let Some((pair, next)) = pair.zip(next) {
        // The socket of the old upper port is closed before its lease is given back.
        pair.socket = None;
        pair.lease = next;
    }
    Ok(())
}
