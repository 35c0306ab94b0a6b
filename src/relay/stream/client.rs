//! The relay's side of one client over TCP or TLS: its engine, the sockets of its allocation, and
//! what waits to be written to it. It knows no stream; `connection.rs` does.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::net::TcpStream;

use super::super::hop::Courier;
use super::super::outbound::{self, Sent};
use super::super::shared::Commands;
use super::super::sys::{
    BATCH, Datagram, Received, RecvBatch, Run, SendBatch, SocketError, SocketOptions,
};
use super::super::udp::open;
use super::super::worker::guard;
use super::outbox::Outbox;
use super::peers::{News, Peers};
use super::relays::{Largest, RELAYS_MAX, Relays, waiting_bytes};
use super::{Lease, Streams};
use crate::metrics::{DropReason, Limit, ReceiveQueue, RunSwitch, WorkerMetrics};
use crate::net::Now;
use crate::stun::{DecodeError, Messages};
use crate::turn::{
    Action, Actions, BindFailure, DataConnection, FiveTuple, HEADROOM, HeldSocket, RelayId, Server,
    ToClient, Verdict,
};

/// One client. Its allocation ends with it.
pub(super) struct Client {
    pub(super) five_tuple: FiveTuple,
    pub(super) engine: Server,
    pub(super) outbox: Outbox,
    /// Packets from and to other engines.
    pub(super) courier: Courier,
    /// The time of what is being handled.
    pub(super) now: Now,
    /// When the last allocation ended.
    pub(super) released: Instant,
    /// It asks for more answers than it reads.
    pub(super) is_overrun: bool,
    /// What the connection turns into, once the answer to that has left.
    pub(super) bound: Option<Bound>,
    relays: Relays,
    /// In which of their sockets something waits until the client has read more.
    held: [bool; RELAYS_MAX],
    /// There from the first TCP allocation until the last one ends.
    peers: Option<Peers>,
    relay_socket: SocketOptions,
    actions: Actions,
    lease: Lease,
}

impl Client {
    pub(super) fn new(
        five_tuple: FiveTuple,
        (engine, courier): (Server, Courier),
        outbox: Outbox,
        lease: Lease,
        relay_socket: SocketOptions,
    ) -> Self {
        let now = Now::read();
        Self {
            five_tuple,
            engine,
            outbox,
            courier,
            now,
            released: now.instant,
            is_overrun: false,
            bound: None,
            relays: Relays::new(relay_socket),
            held: [false; RELAYS_MAX],
            peers: None,
            relay_socket,
            actions: Actions::new(),
            lease,
        }
    }

    /// Whether an allocation has a socket.
    pub(super) fn has_relay(&self) -> bool {
        !self.relays.is_empty() || self.peers.as_ref().is_some_and(|peers| !peers.is_empty())
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

    /// Handles what has come of the client, but no more than its share. Payloads leave together,
    /// though never later than what a request after them does.
    pub(super) fn handle_messages(&mut self, messages: &mut Messages<'_>) -> Handled {
        SCRATCH.with_borrow_mut(|scratch| {
            // A panic may have left something.
            scratch.outgoing.clear();
            let mut count = 0;
            let end = loop {
                if count == MESSAGES_MAX || self.bound.is_some() {
                    break Ok(count == MESSAGES_MAX);
                }
                match messages.next_message() {
                    Ok(Some(at)) => self.handle_message(messages.bytes(), at, scratch),
                    Ok(None) => break Ok(false),
                    Err(why) => break Err(why),
                }
                count += 1;
            };
            self.send(messages.bytes(), scratch);
            super::received(count, &self.lease.metrics);
            Handled { count, end }
        })
    }

    /// Handles the message at `at`, without its padding.
    fn handle_message(&mut self, bytes: &[u8], at: Range<usize>, scratch: &mut Scratch) {
        let message = &bytes[at.clone()];
        #[cfg(test)]
        assert_ne!(message.get(8..20), Some(&super::tests::PANIC[..]), "a panic of a test");
        let Self { engine, actions, now, five_tuple, .. } = self;
        match engine.handle_client(*now, *five_tuple, message, actions) {
            Verdict::Done => {}
            Verdict::ToPeer { relay, peer, payload, dont_fragment } => {
                let payload = at.start + payload.start..at.start + payload.end;
                scratch.outgoing.push(Outgoing { relay, to: peer, payload, dont_fragment });
            }
            Verdict::ToEngine { hop, payload } => {
                self.courier.carry(&self.lease.metrics, hop, 0, &message[payload]);
            }
            Verdict::ToClient { datagram, .. } => {
                self.push_packet(&message[datagram]);
            }
        }
        if !self.actions.is_empty() {
            // One of them may close the socket.
            self.send(bytes, scratch);
            self.execute();
        }
    }

    /// Hands what peers have sent to the engine, about one batch of each socket, and no more than
    /// there is room for; whether there was anything to do.
    pub(super) fn poll_relays(&mut self, cx: &mut Context<'_>) -> bool {
        let held = std::mem::take(&mut self.held);
        if self.relays.is_empty() {
            return false;
        }
        let mut is_busy = false;
        let mut errors = Vec::new();
        SCRATCH.with_borrow_mut(|scratch| {
            for index in 0..RELAYS_MAX {
                is_busy |= self.poll_relay(index, cx, scratch, &mut errors);
            }
        });
        if self.is_held() && held == <[bool; RELAYS_MAX]>::default() {
            self.limit(Limit::WriteQueue);
        }
        self.tell_errors(errors);
        is_busy
    }

    /// The same for socket `index`.
    fn poll_relay(
        &mut self,
        index: usize,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        errors: &mut Vec<(RelayId, SocketError)>,
    ) -> bool {
        let (mut pieces, mut datagrams, mut is_busy) = (0, 0, false);
        while datagrams < BATCH {
            let most = self.relays.fit(index, self.outbox.room()).min(BATCH - datagrams);
            if most == 0 {
                self.held[index] = self.relays.is_ready(index, cx);
                break;
            }
            let received = &mut scratch.received;
            let batch = self.relays.receive((index, most), cx, received, errors);
            let Poll::Ready((relay, count)) = batch else { break };
            is_busy = true;
            pieces += count;
            let lost = self.relays.lost(index, received.queue_drops());
            self.lease.metrics.queue_dropped(ReceiveQueue::Relay, lost.into());
            let mut largest = Largest::Single(0);
            for index in 0..count {
                let (piece, of_piece) = self.handle_peer(relay, index, scratch);
                (largest, datagrams) = (largest.max(piece), datagrams + of_piece);
            }
            if self.relays.learn(index, count, largest) {
                self.lease.metrics.switch(RunSwitch::Merge, 1);
            }
            if count < most {
                break;
            }
        }
        if is_busy {
            super::received(pieces, &self.lease.metrics);
        }
        is_busy
    }

    /// Whether what was held in the sockets has room now that something was written.
    pub(super) fn has_room_again(&self) -> bool {
        let room = self.outbox.room();
        (0..RELAYS_MAX).any(|index| self.held[index] && self.relays.fit(index, room) > 0)
    }

    /// Whether something waits in a socket because it has no room.
    pub(super) fn is_held(&self) -> bool {
        self.held.contains(&true)
    }

    /// Hands what other engines have brought to the engine; whether there was anything.
    pub(super) fn poll_mailbox(&mut self, cx: &mut Context<'_>) -> bool {
        let Self { relays, courier, engine, outbox, lease, now, .. } = self;
        let mailbox = courier.mailbox().filter(|_| !relays.is_empty());
        let Some(mailbox) = mailbox else { return false };
        mailbox.register(cx.waker());
        for index in 0..PARCELS_MAX {
            let Some(mut parcel) = mailbox.take() else { return index > 0 };
            let hop = parcel.hop();
            let (buffer, payload) = parcel.slot_mut();
            if let Verdict::ToClient { datagram, .. } =
                engine.handle_hop(*now, &hop, buffer, payload)
                && outbox.push_packet(parcel.bytes(datagram)).is_err()
            {
                lease.metrics.limit(Limit::WriteQueue);
            }
            mailbox.give_back(parcel);
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
        if commands.judge_again {
            self.engine.judge_again();
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

    /// Hands piece `index` of a batch to the engine; how large it was, and of how many datagrams.
    fn handle_peer(
        &mut self,
        relay: RelayId,
        index: usize,
        scratch: &mut Scratch,
    ) -> (Largest, usize) {
        let Scratch { received: batch, headers, .. } = scratch;
        let Some(received) = batch.received(index) else {
            self.dropped(DropReason::TooLong);
            return (Largest::Single(0), 1);
        };
        if received.is_merged() {
            let datagrams = batch.bytes(index, HEADROOM..HEADROOM + received.len);
            self.handle_peer_run(relay, received, datagrams, headers);
            return (Largest::Merged, received.datagrams());
        }
        let payload = HEADROOM..HEADROOM + received.len;
        let buffer = batch.slot_mut(index, received.len);
        match self.engine.handle_peer(self.now, relay, received.from, buffer, payload) {
            Verdict::ToClient { datagram, .. } => {
                self.push_packet(&buffer[datagram]);
            }
            Verdict::ToPeer { .. } | Verdict::ToEngine { .. } | Verdict::Done => {}
        }
        (Largest::Single(waiting_bytes(received.len)), 1)
    }

    /// The same for all `datagrams` of a merged one, whose headers are written to `headers`.
    fn handle_peer_run(
        &mut self,
        relay: RelayId,
        received: Received,
        mut datagrams: &[u8],
        headers: &mut Vec<u8>,
    ) {
        let Received { segment, from, .. } = received;
        self.lease.metrics.merged.add(1, received.datagrams());
        while !datagrams.is_empty() {
            headers.clear();
            let sizes = (datagrams.len(), segment);
            let (count, to) = self.engine.handle_peer_run(self.now, relay, from, sizes, headers);
            let (run, rest) = datagrams.split_at(datagrams.len().min(count * segment));
            datagrams = rest;
            let Some(ToClient { header_bytes, padding, .. }) = to else { continue };
            for (index, payload) in run.chunks(segment).enumerate() {
                // One header for each, or the same for all.
                let own = index * header_bytes..(index + 1) * header_bytes;
                let header = headers.get(own).unwrap_or(&headers[..header_bytes]);
                self.push_parts(&[header, payload, &ZEROS[..padding]]);
            }
        }
    }

    /// Sends what waits, parts of `bytes`, in order. DSCP and ECN are those of best effort, as
    /// RFC 8656, section 15 allows for what comes by TCP.
    fn send(&mut self, bytes: &[u8], scratch: &mut Scratch) {
        let Scratch { send, outgoing, .. } = scratch;
        let alike =
            |a: &Outgoing, b: &Outgoing| a.relay == b.relay && a.dont_fragment == b.dont_fragment;
        let mut errors = Vec::new();
        let mut sent = Sent::default();
        for group in outgoing.chunk_by(alike) {
            let Outgoing { relay, dont_fragment, .. } = group[0];
            let Some(outlet) = self.relays.outlet(relay) else {
                group.iter().for_each(|_| self.dropped(DropReason::SendFailed));
                continue;
            };
            let runs = group.iter().map(|Outgoing { to, payload, .. }| {
                let bytes = &bytes[payload.clone()];
                Run::single(Datagram { bytes, to: *to, from: None, traffic_class: 0 })
            });
            let each = |error| errors.push((relay, error));
            let outcome = outbound::send(outlet, dont_fragment, runs, send, each);
            sent.add(outcome, &self.lease.metrics);
        }
        outgoing.clear();
        self.tell_errors(errors);
    }

    /// Whether there was room.
    fn push_packet(&mut self, message: &[u8]) -> bool {
        self.push_parts(&[message])
    }

    /// The same for a message in parts.
    fn push_parts(&mut self, parts: &[&[u8]]) -> bool {
        let has_room = self.outbox.push_parts(parts).is_ok();
        if !has_room {
            self.limit(Limit::WriteQueue);
        }
        has_room
    }

    /// Carries out the engine's actions in order, and those that follow from them.
    fn execute(&mut self) {
        while !self.actions.is_empty() {
            let mut actions = std::mem::take(&mut self.actions);
            for action in actions.drain(..) {
                match action {
                    Action::Answer { bytes, .. } => {
                        if self.outbox.push_answer(&bytes).is_err() && !self.is_overrun {
                            self.is_overrun = true;
                            self.limit(Limit::WriteQueue);
                        }
                    }
                    Action::Bind { relay, local } => {
                        let result = self.relays.bind(relay, local);
                        self.bound(relay, result);
                    }
                    Action::Adopt { relay, socket } => {
                        let result = self.relays.adopt(relay, socket);
                        self.bound(relay, result);
                    }
                    Action::Reserve { relay, local } => {
                        // Nobody reads it until it is adopted; its receive buffer bounds what
                        // gathers.
                        let result = open(local, self.relay_socket).map(HeldSocket::new);
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
            // The memory is kept, so that what a client asks for again and again takes no more.
            if self.actions.is_empty() {
                self.actions = actions;
            }
        }
    }

    fn bound(&mut self, relay: RelayId, result: Result<(), BindFailure>) {
        if result.is_ok() && !self.relays.is_empty() {
            self.courier.open();
        }
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
        if !self.relays.is_empty() {
            self.relays.close(relay);
            // The others move up.
            self.held = [self.is_held(); RELAYS_MAX];
            if self.relays.is_empty() {
                self.courier.close();
            }
            self.released = self.now.instant;
        }
    }

    fn peers(&mut self) -> &mut Peers {
        let buffer_bytes = self.lease.streams.limits.tcp_buffer_bytes;
        self.peers.get_or_insert_with(|| Peers::new(buffer_bytes))
    }
}

/// A connection that the client has bound this one to.
pub(super) struct Bound {
    pub(super) peer: TcpStream,
    pub(super) connection: DataConnection,
}

/// What became of the messages of a round.
pub(super) struct Handled {
    /// Whole messages.
    pub(super) count: usize,
    /// Whether its share ended the round, so that there may be more messages; or what can be none.
    pub(super) end: Result<bool, DecodeError>,
}

/// A payload that waits for the end of the round.
struct Outgoing {
    relay: RelayId,
    to: SocketAddr,
    /// Where it is in the bytes of the round.
    payload: Range<usize>,
    dont_fragment: bool,
}

impl Drop for Client {
    fn drop(&mut self) {
        // Also after a panic and at the end of the runtime: no count may stay behind.
        let metrics = Arc::clone(&self.lease.metrics);
        guard(&metrics, || self.hang_up());
    }
}

/// The most packets of other engines that one round handles.
const PARCELS_MAX: usize = 64;
/// The most messages of the client that one round handles.
const MESSAGES_MAX: usize = 64;
/// The most connections of peers that one round handles.
const NEWS_MAX: usize = 16;
/// The most ICMP errors that a client is told of at once, as by a worker.
const ERRORS_MAX: usize = 64;

/// Memory to receive and send with; nothing stays in it between two calls.
struct Scratch {
    received: RecvBatch,
    outgoing: Vec<Outgoing>,
    send: SendBatch,
    headers: Vec<u8>,
}

/// The padding of a DATA attribute.
const ZEROS: [u8; 3] = [0; 3];

thread_local! {
    /// One for each thread that runs tasks, for one per connection would be megabytes each.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        received: RecvBatch::new(),
        outgoing: Vec::with_capacity(MESSAGES_MAX),
        send: SendBatch::new(),
        headers: Vec::new(),
    });
}
