//! The relay's side of one client over TCP or TLS: its engine, the sockets of its allocation, and
//! what waits to be written to it. It knows no stream; `connection.rs` does.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::super::shared::Commands;
use super::super::sys::{
    Datagram, Readiness, RecvBatch, SendBatch, SocketError, SocketOptions, drain_errors,
    set_dont_fragment,
};
use super::super::udp::{Sockets, Token, bind_failure};
use super::super::worker::guard;
use super::outbox::Outbox;
use super::peers::{News, Peers};
use super::{Lease, Streams};
use crate::metrics::{DropReason, Limit, WorkerMetrics};
use crate::net::Now;
use crate::turn::{
    Action, Actions, BindFailure, DataConnection, FiveTuple, HEADROOM, HeldSocket, RelayId, Server,
    Verdict,
};

/// One client. Its allocation ends with it.
pub(super) struct Client {
    pub(super) five_tuple: FiveTuple,
    pub(super) engine: Server,
    pub(super) outbox: Outbox,
    /// The time of what is being handled.
    pub(super) now: Now,
    /// When the last allocation ended.
    pub(super) released: Instant,
    /// It asks for more answers than it reads.
    pub(super) is_overrun: bool,
    /// What the connection turns into, once the answer to that has left.
    pub(super) bound: Option<Bound>,
    /// There from the first allocation until the last one ends.
    relays: Option<Relays>,
    /// The same for TCP allocations.
    peers: Option<Peers>,
    relay_socket: SocketOptions,
    actions: Actions,
    lease: Lease,
}

impl Client {
    pub(super) fn new(
        five_tuple: FiveTuple,
        engine: Server,
        outbox: Outbox,
        lease: Lease,
        relay_socket: SocketOptions,
    ) -> Self {
        let now = Now::read();
        Self {
            five_tuple,
            engine,
            outbox,
            now,
            released: now.instant,
            is_overrun: false,
            bound: None,
            relays: None,
            peers: None,
            relay_socket,
            actions: Actions::new(),
            lease,
        }
    }

    /// Whether an allocation has a socket.
    pub(super) fn has_relay(&self) -> bool {
        self.relays.as_ref().is_some_and(|relays| !relays.sockets.has_no_relay())
            || self.peers.as_ref().is_some_and(|peers| !peers.is_empty())
    }

    /// The counters of this connection, and what all of them share.
    pub(super) fn counters(&self) -> (&Arc<Streams>, &WorkerMetrics) {
        (&self.lease.streams, &self.lease.metrics)
    }

    /// Counts a limit that bit.
    pub(super) fn limit(&self, limit: Limit) {
        self.lease.metrics.limit(limit);
    }

    /// Counts a message that is dropped.
    pub(super) fn dropped(&self, reason: DropReason) {
        self.lease.metrics.dropped(reason);
    }

    /// Handles one message of the client, without its padding.
    pub(super) fn handle_message(&mut self, message: &[u8]) {
        #[cfg(test)]
        assert_ne!(message.get(8..20), Some(&super::tests::PANIC[..]), "a panic of a test");
        let Self { engine, actions, now, five_tuple, .. } = self;
        match engine.handle_client(*now, *five_tuple, message, actions) {
            Verdict::Done => {}
            Verdict::ToPeer { relay, peer, payload, dont_fragment } => {
                self.send(relay, peer, &message[payload], dont_fragment);
            }
            Verdict::ToClient { datagram, .. } => {
                self.push_packet(&message[datagram]);
            }
        }
        self.execute();
    }

    /// Hands what peers have sent to the engine; whether there was anything to do.
    pub(super) fn poll_relays(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(Relays { sockets, readiness }) = &mut self.relays else { return false };
        let Poll::Ready(ready) = readiness.poll(cx) else { return false };
        let count = sockets.poll.wait(Duration::ZERO).unwrap_or(0);
        if count == 0 {
            // Whether something has come meanwhile is for the next round to see.
            ready.clear();
        }
        for index in 0..count {
            let Some(Relays { sockets, .. }) = &self.relays else { break };
            let event = sockets.poll.event(index);
            if let Token::Relay(id) = Token::from_number(event.token) {
                self.read_relay(RelayId(id), event.error);
            }
        }
        true
    }

    /// Hands connections to and from peers to the engine; whether there was anything to do.
    pub(super) fn poll_peers(&mut self, cx: &mut Context<'_>) -> bool {
        for index in 0..NEWS_MAX {
            let Some(peers) = &mut self.peers else { return index > 0 };
            let Poll::Ready(news) = peers.poll(cx) else { return index > 0 };
            match news {
                News::Incoming(relay, from, socket) => {
                    let (socket, mut told) = (HeldSocket::new(socket), Actions::new());
                    let incoming =
                        self.engine.handle_incoming(self.now, relay, from, socket, &mut told);
                    if !self.push_told(told)
                        && let Some(connection) = incoming
                    {
                        self.engine.untold(relay, connection);
                    }
                }
                News::Connected(relay, connection, result) => {
                    let result = result.map(HeldSocket::new);
                    self.ask(|engine, now, actions| {
                        engine.connected(now, relay, connection, result, actions);
                    });
                }
                News::Exhausted => self.limit(Limit::Descriptors),
            }
        }
        true
    }

    /// Tells the engine the time, if it wants to know.
    pub(super) fn sweep(&mut self) {
        self.ask(Server::handle_timeout);
    }

    /// Carries out what other threads have asked for, but for a stop.
    pub(super) fn obey(&mut self, commands: &Commands) {
        if commands.revoked_too_many {
            self.limit(Limit::Revocations);
            self.hang_up();
            self.engine.release_reservations();
        }
        for name in &commands.revoked {
            self.ask(|engine, _, actions| engine.revoke(name, actions));
        }
    }

    /// Ends the allocation. The others' reservations and allocations stay: they are shared.
    pub(super) fn hang_up(&mut self) {
        self.ask(|engine, _, actions| engine.hang_up(actions));
    }

    fn ask(&mut self, call: impl FnOnce(&mut Server, Now, &mut Actions)) {
        call(&mut self.engine, self.now, &mut self.actions);
        self.execute();
    }

    /// Reads one batch; the rest is reported again, after everything else had its turn.
    fn read_relay(&mut self, relay: RelayId, error: bool) {
        let mut errors = Vec::new();
        SCRATCH.with_borrow_mut(|Scratch { received, .. }| {
            let Some(socket) = self.socket(relay) else { return };
            if error {
                drain_errors(socket, |error| errors.push((relay, error)));
            }
            // An error is one of an earlier datagram, and is gone with being told.
            let count = received.recv(socket).unwrap_or(0);
            self.note_queue_drops(relay, received);
            for index in 0..count {
                self.handle_peer(relay, index, received);
            }
        });
        self.tell_errors(errors);
    }

    fn note_queue_drops(&mut self, relay: RelayId, received: &RecvBatch) {
        let (token, told) = (Token::Relay(relay.0), received.queue_drops());
        if let Some(relays) = &mut self.relays {
            relays.sockets.note_queue_drops(token, told, &self.lease.metrics);
        }
    }

    /// Tells the client of the ICMP errors that came to its relay sockets: like what peers send,
    /// if it reads quickly enough.
    fn tell_errors(&mut self, errors: Vec<(RelayId, SocketError)>) {
        for (index, (relay, SocketError { peer, icmp, .. })) in errors.into_iter().enumerate() {
            if index >= ERRORS_MAX {
                self.dropped(DropReason::Icmp);
                continue;
            }
            let mut told = Actions::new();
            self.engine.handle_icmp(self.now, relay, peer, icmp, &mut told);
            self.push_told(told);
        }
    }

    /// Tells the client what it did not ask for; false when it reads too slowly for that.
    fn push_told(&mut self, told: Actions) -> bool {
        let mut is_told = true;
        for action in told {
            if let Action::Answer { bytes, .. } = action {
                is_told &= self.push_packet(&bytes);
            }
        }
        is_told
    }

    fn handle_peer(&mut self, relay: RelayId, index: usize, batch: &mut RecvBatch) {
        let Some(received) = batch.received(index) else {
            return self.dropped(DropReason::TooLong);
        };
        let payload = HEADROOM..HEADROOM + received.len;
        let buffer = batch.slot_mut(index, received.len);
        match self.engine.handle_peer(self.now, relay, received.from, buffer, payload) {
            Verdict::ToClient { datagram, .. } => {
                self.push_packet(&buffer[datagram]);
            }
            Verdict::ToPeer { .. } | Verdict::Done => {}
        }
    }

    /// Sends at once: a stream brings few messages at a time, so there is little to group. DSCP
    /// and ECN are those of best effort, as RFC 8656, section 15 allows for what comes by TCP.
    fn send(&mut self, relay: RelayId, to: SocketAddr, bytes: &[u8], dont_fragment: bool) {
        let Some(socket) = self.socket(relay) else {
            return self.dropped(DropReason::SendFailed);
        };
        // The bit is the socket's, so it is set for this one alone.
        if dont_fragment && set_dont_fragment(socket, true).is_err() {
            return self.dropped(DropReason::SendFailed);
        }
        let mut errors = Vec::new();
        let each = |error| errors.push((relay, error));
        let outcome = SCRATCH.with_borrow_mut(|Scratch { send, .. }| {
            send.send(socket, 1, each, |_| Datagram { bytes, to, from: None, traffic_class: 0 })
        });
        if dont_fragment {
            // What was set a moment ago can be set back.
            let _ = set_dont_fragment(socket, false);
        }
        if outcome.full > 0 {
            self.dropped(DropReason::SendBufferFull);
        }
        if outcome.failed > 0 {
            self.dropped(DropReason::SendFailed);
        }
        self.tell_errors(errors);
    }

    /// Whether there was room.
    fn push_packet(&mut self, message: &[u8]) -> bool {
        let has_room = self.outbox.push_packet(message).is_ok();
        if !has_room {
            self.limit(Limit::WriteQueue);
        }
        has_room
    }

    /// Carries out the engine's actions in order, and those that follow from them.
    fn execute(&mut self) {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                match action {
                    Action::Answer { bytes, .. } => {
                        if self.outbox.push_answer(&bytes).is_err() && !self.is_overrun {
                            self.is_overrun = true;
                            self.limit(Limit::WriteQueue);
                        }
                    }
                    Action::Bind { relay, local } => {
                        let result = self.sockets().and_then(|sockets| sockets.bind(relay, local));
                        self.bound(relay, result);
                    }
                    Action::Adopt { relay, socket } => {
                        let result =
                            self.sockets().and_then(|sockets| sockets.adopt(relay, socket));
                        self.bound(relay, result);
                    }
                    Action::Reserve { relay, local } => {
                        let result = self.sockets().and_then(|sockets| sockets.reserve(local));
                        let Self { engine, actions, now, .. } = self;
                        engine.reserved(*now, relay, result, actions);
                    }
                    Action::Close { relay } => self.close(relay),
                    Action::Listen { relay, local } => {
                        let result = self.peers().listen(relay, local);
                        self.bound(relay, result);
                    }
                    Action::Connect { relay, connection, local, peer } => {
                        self.peers().connect((relay, connection), local, peer);
                    }
                    Action::Abandon { connection } => self.peers().abandon(connection),
                    Action::Splice { socket, connection } => {
                        // Only `poll_peers` makes them, so it is a socket of its kind.
                        let bound = socket.into_socket().map(|peer| Bound { peer, connection });
                        self.bound = bound;
                    }
                }
            }
        }
    }

    fn bound(&mut self, relay: RelayId, result: Result<(), BindFailure>) {
        let Self { engine, actions, now, .. } = self;
        engine.bound(*now, relay, result, actions);
    }

    fn close(&mut self, relay: RelayId) {
        if let Some(peers) = &mut self.peers {
            peers.close(relay);
            if peers.is_empty() {
                self.peers = None;
                self.released = self.now.instant;
            }
        }
        let Some(relays) = &mut self.relays else { return };
        relays.sockets.close(relay);
        if relays.sockets.has_no_relay() {
            self.relays = None;
            self.released = self.now.instant;
        }
    }

    fn socket(&self, relay: RelayId) -> Option<BorrowedFd<'_>> {
        self.relays.as_ref()?.sockets.socket(Token::Relay(relay.0))
    }

    fn peers(&mut self) -> &mut Peers {
        let buffer_bytes = self.lease.streams.limits.tcp_buffer_bytes;
        self.peers.get_or_insert_with(|| Peers::new(buffer_bytes))
    }

    /// The sockets, made with the first allocation: most connections never have one.
    fn sockets(&mut self) -> Result<&mut Sockets, BindFailure> {
        let relays = match self.relays.take() {
            Some(relays) => relays,
            None => Relays::new(self.relay_socket).map_err(bind_failure)?,
        };
        Ok(&mut self.relays.insert(relays).sockets)
    }
}

/// A connection that the client has bound this one to.
pub(super) struct Bound {
    pub(super) peer: TcpStream,
    pub(super) connection: DataConnection,
}

/// The sockets of the client's allocation, and how its task hears of them.
struct Relays {
    sockets: Sockets,
    readiness: Readiness,
}

impl Relays {
    fn new(relay_socket: SocketOptions) -> io::Result<Self> {
        let sockets = Sockets::of_stream(relay_socket)?;
        let readiness = Readiness::of(&sockets.poll)?;
        Ok(Self { sockets, readiness })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Also after a panic and at the end of the runtime: no count may stay behind.
        let metrics = Arc::clone(&self.lease.metrics);
        guard(&metrics, || self.hang_up());
    }
}

/// The most connections of peers that one round handles.
const NEWS_MAX: usize = 16;
/// The most ICMP errors that a client is told of at once, as by a worker.
const ERRORS_MAX: usize = 64;

/// Memory to receive and send with; nothing stays in it between two calls.
struct Scratch {
    received: RecvBatch,
    send: SendBatch,
}

thread_local! {
    /// One for each thread that runs tasks, for one per connection would be megabytes each.
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { received: RecvBatch::new(), send: SendBatch::new() });
}
