//! The shortcut: a packet from one allocation of ours to another one never leaves the process.
//!
//! It is judged as if it had: what its sender may do ([`super::method::send`]), then what its
//! receiver lets in ([`Server::handle_peer`]), each with its own charge, counters and reasons to
//! drop it. Between the two stands a [`Hop`], which says where the receiver is served. When that
//! is the same engine, it goes straight on; otherwise the worker carries it over.

use std::net::SocketAddr;
use std::ops::Range;

use super::relayed::{Owner, Tag};
use super::server::{Server, datagram_bytes_max};
use super::shared::Shared;
use super::table::{Half, Place};
use super::{Actions, FiveTuple, RelayId, ToClient, Verdict};
use crate::metrics::{DropReason, Shortcut};
use crate::net::Now;
use crate::stun::control::AddressFamily;

/// Names one engine among all that serve the same [`Shared`]. Never `u32::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EngineId(pub u32);

/// The way of a packet from one relayed address of ours to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The engine that is in charge of the receiver; it wants [`Server::handle_hop`].
    pub engine: EngineId,
    /// The receiver's allocation there, if it is still the one that is meant.
    relay: RelayId,
    from: Relay,
    to: Relay,
    tag: Tag,
}

/// A relayed address: the place of its relay address, and its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Relay {
    address: usize,
    port: u16,
}

impl Relay {
    fn of(half: &Half) -> Self {
        Self { address: half.relay_address, port: half.relayed.port() }
    }
}

/// Where a client's packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) peer: SocketAddr,
    /// The shorter way, if there is one.
    pub(super) hop: Option<Hop>,
}

impl Hop {
    /// The way from `half`, whose tag is `tag`, to a port of ours that it reaches.
    #[inline]
    pub(super) fn find(
        shared: &Shared,
        (half, tag): (&Half, Tag),
        address: usize,
        port: u16,
    ) -> Option<Self> {
        let Owner { engine, relay } = shared.relayed.owner(address, port)?;
        Some(Self { engine, relay, from: Relay::of(half), to: Relay { address, port }, tag })
    }
}

#[cfg(test)]
impl Hop {
    /// One to an engine that has nobody to give it to.
    pub(crate) fn for_tests(engine: EngineId) -> Self {
        let nowhere = Relay { address: 0, port: 0 };
        Self { engine, relay: RelayId(0), from: nowhere, to: nowhere, tag: Tag::TCP }
    }
}

impl Destination {
    /// What becomes of a payload that may go there from the allocation at `place`.
    #[inline]
    pub(super) fn verdict(
        self,
        place: Place,
        payload: Range<usize>,
        dont_fragment: bool,
    ) -> Verdict {
        let Self { peer, hop } = self;
        match hop {
            // A payload that no datagram can carry is refused by the socket, as ever.
            Some(hop) if payload.len() <= datagram_bytes_max(peer) => {
                Verdict::ToEngine { hop, payload }
            }
            _ => {
                let relay = place.relay(AddressFamily::of(peer.ip()));
                Verdict::ToPeer { relay, peer, payload, dont_fragment }
            }
        }
    }
}

impl Server {
    /// From now on this engine has a name, and packets to its allocations may come by
    /// [`Server::handle_hop`]. Without one they come through sockets only.
    pub fn named(mut self, engine: EngineId) -> Self {
        self.engine = Some(engine);
        self
    }

    /// Handles a datagram from a client as [`Server::handle_client`] does, where it stands in
    /// `buffer` with [`HEADROOM`](super::HEADROOM) bytes free in front and
    /// [`TAILROOM`](super::TAILROOM) behind: a packet for another allocation of this engine goes
    /// all its way. Ranges of the verdict count from the start of `buffer`.
    #[inline]
    pub fn handle_client_in_place(
        &mut self,
        now: Now,
        five_tuple: FiveTuple,
        buffer: &mut [u8],
        datagram: Range<usize>,
        actions: &mut Actions,
    ) -> Verdict {
        let start = datagram.start;
        // Changed where it lies: it is large, and this is on the way of every packet.
        let mut verdict = self.handle_client(now, five_tuple, &buffer[datagram], actions);
        if let Some(range) = verdict.range_mut() {
            *range = range.start + start..range.end + start;
        }
        if let Verdict::ToEngine { hop, payload } = &verdict
            && self.engine == Some(hop.engine)
        {
            let (hop, payload) = (*hop, payload.clone());
            self.metrics.shortcut(Shortcut::SameWorker, 1);
            verdict = self.handle_hop(now, &hop, buffer, payload);
        }
        verdict
    }

    /// Handles a payload that another allocation of ours has sent, at this engine or another. It
    /// stands in `buffer` as for [`Server::handle_peer`].
    pub fn handle_hop(
        &mut self,
        now: Now,
        hop: &Hop,
        buffer: &mut [u8],
        payload: Range<usize>,
    ) -> Verdict {
        match self.source(hop) {
            Some(source) => self.handle_peer(now, hop.relay, source, buffer, payload),
            None => {
                self.metrics.dropped(DropReason::NoAllocation);
                Verdict::Done
            }
        }
    }

    /// Handles the first of `count` payloads of `bytes` each that another allocation of ours has
    /// sent; all is as in [`Server::handle_peer_run`].
    pub fn handle_hop_run(
        &mut self,
        now: Now,
        hop: &Hop,
        (count, bytes): (usize, usize),
        headers: &mut Vec<u8>,
    ) -> (usize, Option<ToClient>) {
        match self.source(hop) {
            Some(source) => {
                let run = (count * bytes, bytes);
                self.handle_peer_run(now, hop.relay, source, run, headers)
            }
            None => {
                self.metrics.dropped(DropReason::NoAllocation);
                (1, None)
            }
        }
    }

    /// The source that the relay socket would have seen; `None` when the allocation at the
    /// receiver's place is not the one that was meant.
    #[inline]
    fn source(&self, hop: &Hop) -> Option<SocketAddr> {
        let (place, family) = Place::of(hop.relay);
        let own = self.table.get(place).filter(|own| own.tag == hop.tag)?;
        own.half(family).filter(|half| Relay::of(half) == hop.to)?;
        Some(SocketAddr::new(self.shared.local(hop.from.address), hop.from.port))
    }

    /// Tells all engines where the allocation at `place` is served. One for TCP has no packets, and
    /// an examiner wants his to leave.
    pub(super) fn tell_owner(&self, place: Place) {
        let (Some(engine), Some(own)) = (self.engine, self.table.get(place)) else { return };
        if own.tcp.is_some() || self.is_examiner(&own.username) {
            return;
        }
        for family in own.families() {
            if let Some(live) = own.half(family).and_then(|half| half.live.as_ref()) {
                live.served_by(Owner { engine, relay: place.relay(family) });
            }
        }
    }

    /// Whether `username` is that of one of [`super::Options::examiners`], with its expiry.
    fn is_examiner(&self, username: &str) -> bool {
        let prefix = &*self.shared.options().examiners;
        let (_, user) = username.split_once(':').unwrap_or_default();
        !prefix.is_empty() && user.starts_with(prefix)
    }
}
