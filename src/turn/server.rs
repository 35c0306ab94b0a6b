//! One worker's engine: what comes in, and what is done about it.
//!
//! The straight line of a request: [`Server::handle_client`], parse, find the allocation,
//! authenticate, one file of [`super::method`], answer. Of a packet: one look-up, one expiry
//! compare, a [`Verdict`] that points into the buffer. Every refusal is counted here, once.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use tracing::debug;

use super::authenticate::{Caller, Unproven, authenticate};
use super::method::{self, Request, Success, label, named};
use super::reject::{Reject, Why};
use super::reservations::RESERVATION_LIFE;
use super::shared::Shared;
use super::table::{Allocation, Place, Table};
use super::traffic::{Dropped, charge};
use super::{
    Action, Actions, EngineId, FiveTuple, HEADROOM, RelayId, TAILROOM, Transport, Verdict,
};
use crate::credentials::Entropy;
use crate::metrics::{DropReason, Method as Label, WorkerMetrics};
use crate::net::Now;
use crate::stun::control::Control;
use crate::stun::{
    ChannelData, Class, DATA_INDICATION_HEADER_BYTES_MAX, Integrity, Kind, Message, Method,
    SendIndication, Signer, TransactionId, Writer, attr, challenge, classify,
    write_channel_data_header, write_data_indication,
};
use crate::telemetry::Addr;

/// The comprehension-required attributes that are understood, wherever they stand; any other one
/// in a request is answered by 420. What a later version understands is added here.
pub(super) const UNDERSTOOD: &[u16] = &[
    attr::MAPPED_ADDRESS,
    attr::USERNAME,
    attr::MESSAGE_INTEGRITY,
    attr::ERROR_CODE,
    attr::UNKNOWN_ATTRIBUTES,
    attr::CHANNEL_NUMBER,
    attr::LIFETIME,
    attr::XOR_PEER_ADDRESS,
    attr::DATA,
    attr::REALM,
    attr::NONCE,
    attr::XOR_RELAYED_ADDRESS,
    attr::REQUESTED_ADDRESS_FAMILY,
    attr::EVEN_PORT,
    attr::REQUESTED_TRANSPORT,
    attr::DONT_FRAGMENT,
    attr::MESSAGE_INTEGRITY_SHA256,
    attr::PASSWORD_ALGORITHM,
    attr::USERHASH,
    attr::XOR_MAPPED_ADDRESS,
    attr::RESERVATION_TOKEN,
];

const _: () = assert!(HEADROOM >= DATA_INDICATION_HEADER_BYTES_MAX && TAILROOM >= 3);

/// The largest UDP payload: 65,535 bytes less the headers that its length field counts. The one
/// of IPv4 counts its own 20 bytes, too.
const DATAGRAM_BYTES_MAX_IPV4: usize = 65_535 - 20 - 8;
const DATAGRAM_BYTES_MAX_IPV6: usize = 65_535 - 8;

/// The largest payload of a datagram to `to`.
#[inline]
pub(super) const fn datagram_bytes_max(to: SocketAddr) -> usize {
    match to {
        SocketAddr::V4(_) => DATAGRAM_BYTES_MAX_IPV4,
        SocketAddr::V6(_) => DATAGRAM_BYTES_MAX_IPV6,
    }
}

/// One worker's part of the relay.
pub struct Server {
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Arc<WorkerMetrics>,
    pub(super) entropy: Entropy,
    pub(super) table: Table,
    /// Its name, if packets may come to it from other engines.
    pub(super) engine: Option<EngineId>,
    /// When ports in reserve may have expired.
    reservations_at: Option<Instant>,
    /// When something of a TCP allocation may have taken too long.
    pub(super) connections_at: Option<Instant>,
    /// The reasons of all refusals so far, for the tests that look for each.
    #[cfg(test)]
    pub(super) marks: std::collections::BTreeSet<Why>,
}

impl Server {
    /// A server without allocations.
    pub fn new(shared: Arc<Shared>, metrics: Arc<WorkerMetrics>, mut entropy: Entropy) -> Self {
        let table = Table::new(&mut entropy);
        Self {
            shared,
            metrics,
            entropy,
            table,
            engine: None,
            reservations_at: None,
            connections_at: None,
            #[cfg(test)]
            marks: Default::default(),
        }
    }

    /// Handles a datagram from a client.
    #[inline]
    pub fn handle_client(
        &mut self,
        now: Now,
        five_tuple: FiveTuple,
        datagram: &[u8],
        actions: &mut Actions,
    ) -> Verdict {
        // Each by itself, so that no verdict is copied to where they would meet.
        match classify(datagram) {
            Kind::ChannelData => {
                let outgoing = self.handle_channel_data(now.instant, &five_tuple, datagram);
                self.counted(outgoing)
            }
            Kind::Stun => {
                let outgoing = self.handle_stun(now, five_tuple, datagram, actions);
                self.counted(outgoing)
            }
            Kind::Other => self.counted(Err(DropReason::Malformed.into())),
        }
    }

    /// Counts what is dropped.
    #[inline]
    fn counted(&self, outgoing: Result<Verdict, Dropped>) -> Verdict {
        match outgoing {
            Ok(verdict) => verdict,
            Err(dropped) => {
                dropped.count(&self.metrics);
                Verdict::Done
            }
        }
    }

    /// Handles a datagram that arrived on relay socket `relay` from `peer`. The payload stands at
    /// `payload` in `buffer`, with [`HEADROOM`] bytes free in front and [`TAILROOM`] behind.
    pub fn handle_peer(
        &mut self,
        now: Now,
        relay: RelayId,
        peer: SocketAddr,
        buffer: &mut [u8],
        payload: Range<usize>,
    ) -> Verdict {
        let outgoing = self.relay_to_client(now.instant, relay, peer, buffer, payload);
        self.counted(outgoing)
    }

    /// When [`Server::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let all = [self.table.sweep_at(), self.reservations_at, self.connections_at];
        all.into_iter().flatten().min()
    }

    /// Ends what has expired.
    pub fn handle_timeout(&mut self, now: Now, actions: &mut Actions) {
        if self.table.sweep_at().is_some_and(|at| at <= now.instant) {
            for place in self.table.sweep(now.instant) {
                self.expire(place, now.instant, actions);
            }
        }
        if self.reservations_at.is_some_and(|at| at <= now.instant) {
            self.reservations_at = self.shared.reservations.sweep(now.instant);
        }
        self.sweep_connections(now, actions);
    }

    /// Sees to it that a sweep comes when a port that is reserved at `now` has been held long
    /// enough.
    pub(super) fn expect_reservation(&mut self, now: Now) {
        let expires = now.instant + RESERVATION_LIFE;
        self.reservations_at = Some(self.reservations_at.map_or(expires, |at| at.min(expires)));
    }

    /// The relay socket of a client's allocation.
    #[cfg(test)]
    pub(crate) fn relay_of(&self, five_tuple: &FiveTuple) -> Option<RelayId> {
        let place = self.table.find(five_tuple)?;
        let family = self.table.get(place)?.families().next()?;
        Some(place.relay(family))
    }

    /// The allocations of this worker, pending ones included.
    #[cfg(test)]
    pub(super) fn allocations(&self) -> usize {
        self.table.len()
    }

    /// The relayed addresses of this worker, pending ones included.
    #[cfg(test)]
    pub(super) fn halves(&self) -> usize {
        self.table.halves()
    }

    #[inline]
    fn handle_channel_data(
        &mut self,
        now: Instant,
        five_tuple: &FiveTuple,
        datagram: &[u8],
    ) -> Result<Verdict, Dropped> {
        let message = ChannelData::parse(datagram).map_err(|_| DropReason::Malformed)?;
        let (place, allocation) = live(&mut self.table, five_tuple, now)?;
        let (to, payload) = method::send::channel_data(&self.shared, allocation, &message, now)?;
        charge(&self.shared, allocation, payload.len(), now)?;
        self.metrics.to_peer.add(payload.len());
        Ok(to.verdict(place, payload, false))
    }

    fn handle_send(
        &mut self,
        now: Instant,
        five_tuple: &FiveTuple,
        message: &Message<'_>,
    ) -> Result<Verdict, Dropped> {
        let indication = SendIndication::read(message, UNDERSTOOD);
        let indication = indication.map_err(|_| DropReason::Unexpected)?;
        let (place, allocation) = live(&mut self.table, five_tuple, now)?;
        let (to, payload) = method::send::indication(&self.shared, allocation, &indication, now)?;
        charge(&self.shared, allocation, payload.len(), now)?;
        self.metrics.to_peer.add(payload.len());
        let dont_fragment = indication.dont_fragment && to.peer.is_ipv4();
        Ok(to.verdict(place, payload, dont_fragment))
    }

    /// RFC 8656, sections 11.3 and 12.7.
    #[inline]
    fn relay_to_client(
        &mut self,
        now: Instant,
        relay: RelayId,
        source: SocketAddr,
        buffer: &mut [u8],
        payload: Range<usize>,
    ) -> Result<Verdict, Dropped> {
        let Admitted { place, peer, channel } = self.admit(now, relay, source)?;
        let allocation = self.table.get_mut(place).ok_or(DropReason::NoAllocation)?;
        let len = payload.len();
        let five_tuple = allocation.five_tuple;
        let written = match channel {
            Some(number) => write_channel_data_header(buffer, payload, number),
            None => {
                let mut id = [0; 12];
                self.entropy.fill(&mut id);
                write_data_indication(buffer, payload, peer, &TransactionId(id))
            }
        };
        let datagram = written.filter(|range| range.len() <= five_tuple.datagram_bytes_max());
        let datagram = datagram.ok_or(DropReason::TooLong)?;
        charge(&self.shared, allocation, len, now)?;
        self.metrics.to_client.add(len);
        Ok(Verdict::ToClient { five_tuple, datagram })
    }

    /// Whether what comes from `source` passes relay socket `relay`, and how it is told.
    #[inline]
    pub(super) fn admit(
        &self,
        now: Instant,
        relay: RelayId,
        source: SocketAddr,
    ) -> Result<Admitted, Dropped> {
        let (place, family) = Place::of(relay);
        let allocation = self.table.get(place).filter(|own| own.relays(family, now));
        let allocation = allocation.ok_or(DropReason::NoAllocation)?;
        let reported = self.shared.policy.reported(source.ip());
        if let Some(index) = reported.relay_address
            && !self.shared.relayed.reaches(allocation.tag, index, source.port())
        {
            return Err(DropReason::NotRelayed.into());
        }
        let peer = SocketAddr::new(reported.ip, source.port());
        // §11.3: no permission => dropped. A usable channel implies one.
        let channel = allocation.peers.channel_of(peer, now).map(|channel| channel.number);
        if channel.is_none() && allocation.peers.permission(peer.ip(), now).is_none() {
            return Err(DropReason::NoPermission.into());
        }
        Ok(Admitted { place, peer, channel })
    }

    fn handle_stun(
        &mut self,
        now: Now,
        five_tuple: FiveTuple,
        datagram: &[u8],
        actions: &mut Actions,
    ) -> Result<Verdict, Dropped> {
        let message = Message::parse(datagram).map_err(|_| DropReason::Malformed)?;
        if message.fingerprint_ok() == Some(false) {
            return Err(DropReason::Fingerprint.into());
        }
        match (message.class(), message.method()) {
            (Class::Indication, Method::SEND) => {
                self.handle_send(now.instant, &five_tuple, &message)
            }
            (Class::Request, Method::BINDING) => {
                self.answer_binding(now, five_tuple, &message, actions)
            }
            (Class::Request, _) => self.handle_request(now, five_tuple, message, actions),
            _ => Err(DropReason::Unexpected.into()),
        }
    }

    fn answer_binding(
        &mut self,
        now: Now,
        five_tuple: FiveTuple,
        message: &Message<'_>,
        actions: &mut Actions,
    ) -> Result<Verdict, Dropped> {
        self.metrics.request(Label::Binding);
        let known = live(&mut self.table, &five_tuple, now.instant).is_ok();
        if !known && !self.shared.strangers.try_take(five_tuple.client.ip(), now.instant) {
            return Err(Dropped::STRANGER);
        }
        let discovery = &self.shared.options().nat_discovery;
        match method::binding::handle(discovery, five_tuple, message) {
            Ok((five_tuple, bytes)) => actions.push(Action::Answer { five_tuple, bytes }),
            Err(reject) => {
                self.refuse(&Answering::to(five_tuple, message), &reject, None, actions);
            }
        }
        Ok(Verdict::Done)
    }

    fn handle_request(
        &mut self,
        now: Now,
        five_tuple: FiveTuple,
        message: Message<'_>,
        actions: &mut Actions,
    ) -> Result<Verdict, Dropped> {
        // RFC 8489, §6.3: a method that is not supported, or not here => dropped.
        let here = self.shared.options().nat_discovery.leaves_turn_to(&five_tuple);
        let served = |label: &Label| here && self.shared.serves(*label);
        let label = label(message.method()).filter(served).ok_or(DropReason::Unexpected)?;
        self.metrics.request(label);
        self.end_if_expired(&five_tuple, now, actions);
        let own = self.table.find(&five_tuple).and_then(|place| self.table.get(place));
        let at_work =
            |own: &Allocation| own.pending.is_some() && own.transaction == message.transaction_id();
        if own.is_some_and(at_work) {
            return Err(DropReason::Repeated.into());
        }
        let answering = Answering::to(five_tuple, &message);
        match authenticate(&self.shared, now, &five_tuple, &message, own) {
            Ok(caller) => {
                let key = caller.key.clone();
                match self.execute(now, five_tuple, message, caller, actions) {
                    Ok(success) => self.succeed(&answering, success, &key, actions),
                    Err(reject) => self.refuse(&answering, &reject, Some(&key), actions),
                }
            }
            Err(Unproven::Challenge(why)) => self.challenge(now, &answering, why, actions),
            Err(Unproven::Refuse(why)) => self.refuse(&answering, &why.into(), None, actions),
            Err(Unproven::RateLimited) => return Err(Dropped::STRANGER),
        }
        Ok(Verdict::Done)
    }

    /// Runs the method of a request whose sender is proven.
    fn execute(
        &mut self,
        now: Now,
        five_tuple: FiveTuple,
        message: Message<'_>,
        caller: Caller<'_>,
        actions: &mut Actions,
    ) -> Result<Success, Reject> {
        // RFC 8489, §6.3.1: an unknown comprehension-required attribute => 420.
        let mut unknown = message.unknown_required(UNDERSTOOD);
        // RFC 8656, §7.2 step 4: DONT-FRAGMENT is understood where it can be obeyed, and
        // CONNECTION-ID where RFC 6062 is.
        let obeys = self.shared.options().dont_fragment;
        if !obeys && message.first(attr::DONT_FRAGMENT).is_some() {
            unknown.push(attr::DONT_FRAGMENT);
        }
        if self.shared.connections.is_some() {
            unknown.retain(|kind| *kind != attr::CONNECTION_ID);
        }
        if !unknown.is_empty() {
            return Err(Reject::unknown_attributes(unknown));
        }
        let control = Control::of(message);
        let request = Request { now, five_tuple, message, control, caller };
        let (shared, metrics) = (&*self.shared, &*self.metrics);
        if message.method() == Method::ALLOCATE {
            let (table, entropy) = (&mut self.table, &mut self.entropy);
            return method::allocate::begin(shared, metrics, table, entropy, &request, actions);
        }
        if message.method() == Method::CONNECTION_BIND {
            let has_allocation = self.table.find(&five_tuple).is_some();
            return method::connection_bind::handle(
                &self.shared,
                has_allocation,
                &request,
                actions,
            );
        }
        // RFC 8656, §5: no allocation => 437.
        let (place, own) = live(&mut self.table, &five_tuple, now.instant)
            .map_err(|_| Reject::from(Why::NoAllocation))?;
        // RFC 8656, §5: another username than the allocation was made with => 441.
        if *own.username != *request.caller.username {
            return Err(Why::OtherUsername.into());
        }
        match message.method() {
            Method::CREATE_PERMISSION => method::create_permission::handle(shared, own, &request),
            Method::CHANNEL_BIND => method::channel_bind::handle(shared, own, &request),
            Method::CONNECT => {
                let (entropy, own) = (&mut self.entropy, (place, own));
                let success = method::connect::handle(shared, entropy, own, &request, actions)?;
                self.expect_connect(now);
                Ok(success)
            }
            _ => {
                let success = method::refresh::handle(shared, metrics, own, &request)?;
                match success {
                    Success::Refreshed(_, expires) => self.table.expect_expiry(expires),
                    Success::Deleted(None) => self.end(place, "deleted", actions),
                    Success::Deleted(Some(family)) => {
                        self.end_half(place, family, "deleted", actions);
                    }
                    Success::Done | Success::Pending | Success::Repeated(_) => {}
                }
                Ok(success)
            }
        }
    }

    fn succeed(
        &self,
        answering: &Answering,
        success: Success,
        key: &Signer,
        actions: &mut Actions,
    ) {
        let Answering { five_tuple, method, transaction, fingerprint } = *answering;
        let writer = || named(Writer::new(Class::Success, method, transaction), method);
        let bytes = match success {
            Success::Pending => return,
            Success::Repeated(bytes) => bytes,
            Success::Done => writer().finish_signed(key, fingerprint),
            Success::Refreshed(secs, _) => {
                writer().number(attr::LIFETIME, secs).finish_signed(key, fingerprint)
            }
            Success::Deleted(_) => {
                writer().number(attr::LIFETIME, 0).finish_signed(key, fingerprint)
            }
        };
        actions.push(Action::Answer { five_tuple, bytes });
    }

    /// The one place where a [`Reject`] becomes an error response. Only a client that has proven
    /// itself, and so has a `key`, reads words.
    pub(super) fn refuse(
        &mut self,
        answering: &Answering,
        reject: &Reject,
        key: Option<&Signer>,
        actions: &mut Actions,
    ) {
        let Answering { five_tuple, method, transaction, fingerprint } = *answering;
        self.count_refusal(answering, reject.why, key.is_some());
        if let Some(limit) = reject.limit {
            self.metrics.limit(limit);
        }
        let words = if key.is_some() { reject.why.text() } else { "" };
        let writer =
            Writer::new(Class::Error, method, transaction).error_code(reject.why.number(), words);
        // RFC 8489, §10: over TLS, who signs by SHA-256 is told of another name in the certificate.
        let knows = key.is_some_and(|key| key.integrity == Integrity::Sha256);
        let domain = self.shared.options().alternate_domain.as_deref();
        let domain = domain.filter(|_| knows && five_tuple.transport == Transport::Tls);
        let writer = reject.write(writer, domain);
        let bytes = match key {
            Some(key) => named(writer, method).finish_signed(key, fingerprint),
            None => writer.finish(None, fingerprint),
        };
        actions.push(Action::Answer { five_tuple, bytes });
    }

    /// Answers 401 or 438 with a nonce to try again with.
    fn challenge(&mut self, now: Now, answering: &Answering, why: Why, actions: &mut Actions) {
        let Answering { five_tuple, method, transaction, fingerprint } = *answering;
        self.count_refusal(answering, why, false);
        let nonce = self.shared.nonces.make(five_tuple.client, now.unix_secs);
        let realm = &self.shared.options().realm;
        let bytes = challenge(method, transaction, why.number(), realm, &nonce, fingerprint);
        actions.push(Action::Answer { five_tuple, bytes });
    }

    /// Counts a refusal, and logs it unless anybody who scans us could fill the log with it.
    fn count_refusal(&mut self, answering: &Answering, why: Why, proven: bool) {
        if let Some(label) = label(answering.method) {
            self.metrics.refuse(label, why.code());
        }
        if proven {
            let (client, method) = (Addr::from(answering.five_tuple.client), answering.method);
            debug!(%client, ?method, code = why.number(), why = why.text(), "request refused");
        }
        #[cfg(test)]
        self.marks.insert(why);
    }
}

/// What an answer repeats of its request.
pub(super) struct Answering {
    pub(super) five_tuple: FiveTuple,
    pub(super) method: Method,
    pub(super) transaction: TransactionId,
    pub(super) fingerprint: bool,
}

impl Answering {
    fn to(five_tuple: FiveTuple, message: &Message<'_>) -> Self {
        Self {
            five_tuple,
            method: message.method(),
            transaction: message.transaction_id(),
            fingerprint: message.has_fingerprint(),
        }
    }
}

/// A peer's datagram that may pass.
pub(super) struct Admitted {
    pub(super) place: Place,
    /// Who sent it, as the client knows it.
    pub(super) peer: SocketAddr,
    /// The channel that leads there, if there is one.
    pub(super) channel: Option<u16>,
}

impl FiveTuple {
    /// The longest datagram that can be sent to the client.
    pub(super) fn datagram_bytes_max(&self) -> usize {
        match self.transport {
            Transport::Udp => datagram_bytes_max(self.client),
            // What the length fields of the messages can say.
            Transport::Tcp | Transport::Tls => usize::MAX,
        }
    }
}

/// The live allocation of a five-tuple: the one hash look-up of a client's packet.
#[inline]
pub(super) fn live<'t>(
    table: &'t mut Table,
    five_tuple: &FiveTuple,
    now: Instant,
) -> Result<(Place, &'t mut Allocation), Dropped> {
    let place = table.find(five_tuple).ok_or(DropReason::NoAllocation)?;
    let own = table.get_mut(place).filter(|own| own.is_live(now));
    Ok((place, own.ok_or(DropReason::NoAllocation)?))
}
