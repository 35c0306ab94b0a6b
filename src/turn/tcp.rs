//! TCP allocations (RFC 6062): what becomes of connections to and from peers until a client binds
//! them. From there on they are the worker's ([`super::connections`]).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::connections::{BIND_TIME, NoRoom, OwnConnections};
use super::method::connection_attempt;
use super::reject::{Reject, Why};
use super::server::{Answering, Server};
use super::table::Place;
use super::traffic::Dropped;
use super::{Action, Actions, ConnectFailure, ConnectionId, HeldSocket, RelayId};
use crate::metrics::{DropReason, Limit};
use crate::net::Now;
use crate::stun::control::AddressFamily;
use crate::stun::{Class, Method, Signer, TransactionId, Writer, attr};

/// How long a peer may take to answer (RFC 6062, section 5.2).
const CONNECT_TIME: Duration = Duration::from_secs(30);

/// What a TCP allocation has.
pub(super) struct TcpSide {
    pub(super) own: OwnConnections,
    /// Connect requests that are not answered yet.
    connecting: Vec<Connecting>,
}

/// A Connect request that waits for its connection.
pub(super) struct Connecting {
    pub(super) id: ConnectionId,
    /// The peer, as the policy judges it.
    pub(super) peer: IpAddr,
    pub(super) transaction: TransactionId,
    pub(super) fingerprint: bool,
    pub(super) key: Signer,
    pub(super) since: Instant,
}

impl TcpSide {
    pub(super) const fn new(own: OwnConnections) -> Self {
        Self { own, connecting: Vec::new() }
    }

    /// Waits for a connection.
    pub(super) fn expect(&mut self, connecting: Connecting) {
        self.connecting.push(connecting);
    }

    /// Ends everything of a family, whose relayed address is gone. Gives the Connect requests that
    /// must still be answered.
    pub(super) fn end_family(&mut self, family: AddressFamily) -> Vec<Connecting> {
        self.own.end_family(family);
        let ends = |connecting: &mut Connecting| AddressFamily::of(connecting.peer) == family;
        self.connecting.extract_if(.., ends).collect()
    }

    fn take(&mut self, wanted: impl Fn(&Connecting) -> bool) -> Option<Connecting> {
        let index = self.connecting.iter().position(wanted)?;
        Some(self.connecting.swap_remove(index))
    }
}

impl From<NoRoom> for Reject {
    fn from(why: NoRoom) -> Self {
        match why {
            NoRoom::Exists => Why::ConnectionExists.into(),
            NoRoom::Full(limit) => Self::limit(Why::ConnectionsFull, limit),
        }
    }
}

impl Server {
    /// Says what became of [`Action::Connect`].
    pub fn connected(
        &mut self,
        now: Now,
        relay: RelayId,
        connection: ConnectionId,
        result: Result<HeldSocket, ConnectFailure>,
        actions: &mut Actions,
    ) {
        let (place, _) = Place::of(relay);
        let Some(own) = self.table.get_mut(place) else { return };
        let (five_tuple, tcp) = (own.five_tuple, own.tcp.as_mut());
        let Some(tcp) = tcp else { return };
        let Some(connecting) = tcp.take(|connecting| connecting.id == connection) else { return };
        // What was allowed when it was asked for may be an address of this host by now.
        let is_peer = self.shared.policy.judge(connecting.peer).is_ok();
        let waits = |socket| is_peer && tcp.own.connected(connection, socket, now.instant);
        let failure = match result.map(waits) {
            Ok(true) => None,
            Ok(false) | Err(ConnectFailure::Refused) => Some(Reject::from(Why::ConnectFailed)),
            Err(ConnectFailure::Exhausted) => {
                Some(Reject::limit(Why::ConnectFailed, Limit::Descriptors))
            }
        };
        let answering = connecting.answering(five_tuple);
        let Some(reject) = failure else {
            // §5.2: the success response has the CONNECTION-ID.
            let bytes = Writer::new(Class::Success, Method::CONNECT, connecting.transaction)
                .number(attr::CONNECTION_ID, connection.0)
                .finish_signed(&connecting.key, connecting.fingerprint);
            actions.push(Action::Answer { five_tuple, bytes });
            return self.expect_connections(now.instant + BIND_TIME);
        };
        // §5.2: no connection came about => 447.
        tcp.own.forget(connection);
        self.refuse(&answering, &reject, Some(&connecting.key), actions);
    }

    /// Answers Connect requests of which nothing can come any more.
    pub(super) fn refuse_connecting(
        &mut self,
        five_tuple: super::FiveTuple,
        all: Vec<Connecting>,
        actions: &mut Actions,
    ) {
        let reject = Why::ConnectFailed.into();
        for connecting in all {
            let answering = connecting.answering(five_tuple);
            self.refuse(&answering, &reject, Some(&connecting.key), actions);
        }
    }

    /// Handles a connection that `socket` has accepted on relay socket `relay` from `peer`. Unless
    /// the client is to be told of it, the socket is closed at once. When it cannot be told,
    /// [`Server::untold`] closes what the result names.
    pub fn handle_incoming(
        &mut self,
        now: Now,
        relay: RelayId,
        peer: SocketAddr,
        socket: HeldSocket,
        actions: &mut Actions,
    ) -> Option<ConnectionId> {
        match self.attempt(now, relay, peer, socket) {
            Ok((id, indication)) => {
                actions.push(indication);
                self.expect_connections(now.instant + BIND_TIME);
                Some(id)
            }
            Err(dropped) => {
                dropped.count(&self.metrics);
                None
            }
        }
    }

    /// Closes a connection from a peer to relay socket `relay` that the client never heard of.
    pub fn untold(&mut self, relay: RelayId, connection: ConnectionId) {
        let (place, _) = Place::of(relay);
        if let Some(tcp) = self.table.get(place).and_then(|own| own.tcp.as_ref()) {
            tcp.own.forget(connection);
        }
    }

    fn attempt(
        &mut self,
        now: Now,
        relay: RelayId,
        source: SocketAddr,
        socket: HeldSocket,
    ) -> Result<(ConnectionId, Action), Dropped> {
        let (place, family) = Place::of(relay);
        let own = self.table.get(place).filter(|own| own.relays(family, now.instant));
        let own = own.ok_or(DropReason::NoAllocation)?;
        let tcp = own.tcp.as_ref().ok_or(DropReason::NoAllocation)?;
        let peer = connection_attempt::judge(&self.shared, own, source, now.instant)?;
        let accepted = tcp.own.accept(&mut self.entropy, peer, socket, now.instant);
        let id = accepted.map_err(|why| match why {
            NoRoom::Exists => Dropped::Reason(DropReason::Repeated),
            NoRoom::Full(limit) => Dropped::Limit(limit),
        })?;
        let five_tuple = own.five_tuple;
        let bytes = connection_attempt::indication(&mut self.entropy, peer, id);
        Ok((id, Action::Answer { five_tuple, bytes }))
    }

    /// Sees to it that a sweep comes when something of a TCP allocation is over at `at`.
    pub(super) fn expect_connections(&mut self, at: Instant) {
        self.connections_at = Some(self.connections_at.map_or(at, |next| next.min(at)));
    }

    /// The same for a Connect request of `now`.
    pub(super) fn expect_connect(&mut self, now: Now) {
        self.expect_connections(now.instant + CONNECT_TIME);
    }

    /// Ends what has waited for too long: for its peer, or for its client.
    pub(super) fn sweep_connections(&mut self, now: Now, actions: &mut Actions) {
        if self.connections_at.is_none_or(|at| now.instant < at) {
            return;
        }
        self.connections_at = None;
        for place in self.table.select(|own| own.tcp.is_some()) {
            while let Some((answering, connecting)) = self.take_overdue(place, now.instant) {
                actions.push(Action::Abandon { connection: connecting.id });
                let reject = Why::ConnectFailed.into();
                self.refuse(&answering, &reject, Some(&connecting.key), actions);
            }
            let Some(tcp) = self.table.get(place).and_then(|own| own.tcp.as_ref()) else {
                continue;
            };
            let bind = tcp.own.sweep(now.instant);
            let connect = tcp.connecting.iter().map(|connecting| connecting.since + CONNECT_TIME);
            if let Some(at) = connect.chain(bind).min() {
                self.expect_connections(at);
            }
        }
    }

    fn take_overdue(&mut self, place: Place, now: Instant) -> Option<(Answering, Connecting)> {
        let own = self.table.get_mut(place)?;
        let tcp = own.tcp.as_mut()?;
        let connecting = tcp.take(|connecting| connecting.since + CONNECT_TIME <= now)?;
        tcp.own.forget(connecting.id);
        Some((connecting.answering(own.five_tuple), connecting))
    }
}

impl Connecting {
    fn answering(&self, five_tuple: super::FiveTuple) -> Answering {
        Answering {
            five_tuple,
            method: Method::CONNECT,
            transaction: self.transaction,
            fingerprint: self.fingerprint,
        }
    }
}
