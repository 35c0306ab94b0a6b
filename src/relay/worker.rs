//! One worker: a plain thread with its own sockets and its own engine.
//!
//! The straight line of a round: wait, then for each readable socket receive a batch, hand every
//! datagram to the engine, carry out what it asks for, and send the verdicts grouped by socket.
//! Nothing here waits for anything but epoll, and nothing on the way of a packet locks, logs or
//! allocates.
//!
//! A panic is a bug, and it must not end anybody's call: it is caught around the handling of one
//! datagram, counted, and the datagram is dropped. The engine is kept. A fresh one would cut every
//! call of the worker, so that whoever found the bug could end them all with one packet; kept, it
//! costs at most the allocation that the datagram belonged to, which expires like any other.

mod mailbox;
mod round;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::hop::Courier;
use super::outbound::{Marks, Outbound, Pieces, Sent};
use super::pace::{Pace, Rhythm};
use super::share::WINDOW;
use super::shared::{Commands, Inbox};
use super::sys::{Received, RecvBatch, SocketError, sharpen_timers};
use super::udp::{Sockets, Token};
use crate::metrics::{DropReason, Heartbeat, Limit, WorkerMetrics};
use crate::net::Now;
use crate::turn::{
    Action, Actions, BindFailure, FiveTuple, HEADROOM, RelayId, Server, TAILROOM, Transport,
    Verdict,
};

/// All that one worker has.
pub(super) struct Worker {
    pub(super) engine: Server,
    pub(super) sockets: Sockets,
    pub(super) inbox: Arc<Inbox>,
    pub(super) courier: Courier,
    pub(super) metrics: Arc<WorkerMetrics>,
    pub(super) heartbeat: Arc<Heartbeat>,
}

impl Worker {
    /// Serves until it is told to stop. Every allocation is closed when this returns.
    pub(super) fn run(self) {
        sharpen_timers();
        let mut running = Running::new(self);
        while !running.stop {
            let metrics = Arc::clone(&running.worker.metrics);
            match guard(&metrics, || running.round()) {
                Some(Ok(())) => {}
                // The rest of the round is lost; whatever is still readable is reported again.
                None => running.outbound.forget(&mut running.worker.sockets),
                Some(Err(err)) => {
                    // The heartbeat stops here, and health check and watchdog see it.
                    tracing::error!(%err, "a relay worker cannot wait for its sockets and ends");
                    running.close_all();
                }
            }
        }
    }
}

/// A worker with the memory that it works in; made within its thread.
struct Running {
    worker: Worker,
    received: RecvBatch,
    outbound: Outbound,
    actions: Actions,
    commands: Commands,
    pace: Pace,
    /// How many datagrams relay sockets have had handled since every listener was read.
    from_peers: usize,
    now: Now,
    /// After a panic in a sweep the next one waits, for it may well panic again.
    sweep_again: Instant,
    /// When ports in reserve are looked at next.
    reservations_at: Instant,
    stop: bool,
}

impl Running {
    fn new(worker: Worker) -> Self {
        let now = Now::read();
        Self {
            worker,
            received: RecvBatch::new(),
            outbound: Outbound::new(),
            actions: Actions::new(),
            commands: Commands::default(),
            pace: Pace::new(Rhythm::DATAGRAMS, now.instant),
            from_peers: 0,
            now,
            sweep_again: now.instant,
            reservations_at: now.instant,
            stop: false,
        }
    }

    /// How long there is nothing to do but to beat.
    fn timeout(&self) -> Duration {
        let longest = if self.worker.sockets.is_overloaded() { WINDOW } else { BEAT };
        self.due().map_or(longest, |due| due.saturating_duration_since(Instant::now()).min(longest))
    }

    /// When the engine wants to be told the time.
    fn due(&self) -> Option<Instant> {
        self.worker.engine.poll_timeout().map(|due| due.max(self.sweep_again))
    }

    /// Carries out what other threads have asked for.
    fn obey(&mut self) {
        let mut commands = std::mem::take(&mut self.commands);
        self.worker.inbox.take(&mut commands);
        if commands.stop {
            self.close_all();
        } else if commands.revoked_too_many {
            self.worker.metrics.limit(Limit::Revocations);
            // Whose ports in reserve may stay is not known either.
            self.ask(|engine, _, actions| {
                engine.close_all(actions);
                engine.release_reservations();
            });
        } else {
            for name in &commands.revoked {
                self.ask(|engine, _, actions| engine.revoke(name, actions));
            }
        }
        if commands.judge_again {
            self.ask(|engine, _, _| engine.judge_again());
        }
        self.flush();
        commands.revoked.clear();
        self.commands = Commands { revoked: commands.revoked, ..Commands::default() };
    }

    fn close_all(&mut self) {
        self.stop = true;
        self.ask(|engine, _, actions| {
            engine.close_all(actions);
            engine.release_reservations();
        });
    }

    /// Handles what came in slot `index`; whether it was merged.
    fn handle(&mut self, token: Token, index: usize) -> bool {
        let Some(received) = self.received.received(index) else {
            self.worker.metrics.dropped(DropReason::TooLong);
            return false;
        };
        let merged = received.is_merged();
        if merged {
            self.worker.metrics.merged.add(1, received.datagrams());
        }
        match token {
            Token::Client(client) => self.handle_client(client, index, received),
            Token::Relay(id) if merged => self.handle_peer_run(RelayId(id), index, received),
            Token::Relay(id) => self.handle_peer(RelayId(id), index, received),
            Token::Wake => {}
        }
        self.execute();
        merged
    }

    fn handle_client(&mut self, client: u32, index: usize, received: Received) {
        let listener = self.worker.sockets.client_mut(client);
        let server = listener.and_then(|listener| Some((listener.server(received.to)?, listener)));
        let Some((server, listener)) = server else {
            return self.dropped(DropReason::Unexpected, received);
        };
        let bytes = || self.received.bytes(index, HEADROOM..HEADROOM + received.len);
        if !listener.share.admits(received.from, bytes) {
            return self.dropped(DropReason::Overload, received);
        }
        let is_counted = listener.share.is_busy();
        let five_tuple = FiveTuple { transport: Transport::Udp, client: received.from, server };
        let relays = if received.is_merged() {
            self.handle_client_run(five_tuple, index, received)
        } else {
            self.handle_client_alone(five_tuple, index, received)
        };
        if is_counted && relays {
            self.worker.sockets.note_client(client, received.from);
        }
    }

    /// Whether it is relayed.
    #[inline]
    fn handle_client_alone(
        &mut self,
        five_tuple: FiveTuple,
        index: usize,
        received: Received,
    ) -> bool {
        let Self { worker, actions, now, .. } = self;
        let datagram = HEADROOM..HEADROOM + received.len;
        let buffer = self.received.slot_mut(index, received.len);
        // Written in place, here and below: it is large, and this is on the way of every packet.
        let mut verdict = Verdict::Done;
        guard(&worker.metrics, || {
            let engine = &mut worker.engine;
            verdict = engine.handle_client_in_place(*now, five_tuple, buffer, datagram, actions);
        });
        let slot = Slot { index, offset: 0, count: 1, stride: 0 };
        self.obey_verdict(&verdict, slot, received.traffic_class);
        !matches!(verdict, Verdict::Done)
    }

    fn dropped(&self, reason: DropReason, received: Received) {
        for _ in 0..received.datagrams() {
            self.worker.metrics.dropped(reason);
        }
    }

    /// Whether some of a merged one is relayed. After a panic every datagram is handled by itself,
    /// so that it costs only the one that it came of.
    fn handle_client_run(
        &mut self,
        five_tuple: FiveTuple,
        index: usize,
        received: Received,
    ) -> bool {
        let Received { len, segment, traffic_class, .. } = received;
        let (mut start, mut alone, mut relays) = (0, false, false);
        while start < len {
            let end = if alone { len.min(start + segment) } else { len };
            let Self { worker, actions, now, .. } = self;
            let run = self.received.bytes(index, HEADROOM + start..HEADROOM + end);
            let handled = guard(&worker.metrics, || {
                #[cfg(test)]
                tests::may_panic(run);
                worker.engine.handle_client_run(*now, five_tuple, run, segment, actions)
            });
            match handled {
                Some((count, verdict)) => {
                    let slot = Slot { index, offset: HEADROOM + start, count, stride: segment };
                    self.obey_verdict(&verdict, slot, traffic_class);
                    relays |= !matches!(verdict, Verdict::Done);
                    start += count * segment;
                }
                None if end - start <= segment => start = end,
                None => alone = true,
            }
            self.execute();
        }
        relays
    }

    fn handle_peer(&mut self, relay: RelayId, index: usize, received: Received) {
        let payload = HEADROOM..HEADROOM + received.len;
        let Self { worker, now, .. } = self;
        let buffer = self.received.slot_mut(index, received.len);
        debug_assert_eq!(buffer.len(), payload.end + TAILROOM);
        let mut verdict = Verdict::Done;
        guard(&worker.metrics, || {
            verdict = worker.engine.handle_peer(*now, relay, received.from, buffer, payload);
        });
        let slot = Slot { index, offset: 0, count: 1, stride: 0 };
        self.obey_verdict(&verdict, slot, received.traffic_class);
    }

    /// The same for a merged one, in which there is no room for headers.
    fn handle_peer_run(&mut self, relay: RelayId, index: usize, received: Received) {
        let Received { len, segment, traffic_class, from, .. } = received;
        let (mut start, mut alone) = (0, false);
        while start < len {
            let bytes = if alone { segment.min(len - start) } else { len - start };
            let Self { worker, outbound, now, .. } = self;
            let headers = outbound.headers.len();
            let handled = guard(&worker.metrics, || {
                let into = &mut outbound.headers;
                worker.engine.handle_peer_run(*now, relay, from, (bytes, segment), into)
            });
            match handled {
                Some((count, Some(to_client))) => {
                    let (slot, len) = (index, segment.min(bytes));
                    let begin = HEADROOM + start;
                    let pieces = Pieces { slot, start: begin, len, stride: segment, count };
                    let marks = Marks { traffic_class, dont_fragment: false };
                    let sockets = &mut worker.sockets;
                    if !outbound.push_headed(sockets, to_client, pieces, headers, marks) {
                        self.send_failed(count);
                    }
                    start += count * segment;
                }
                Some((count, None)) => start += count * segment,
                None if bytes <= segment => start += segment,
                None => alone = true,
            }
        }
    }

    /// Queues what the engine decided about the datagrams of a slot. DSCP and ECN are handed on.
    #[inline]
    fn obey_verdict(&mut self, verdict: &Verdict, slot: Slot, traffic_class: u8) {
        let Self { outbound, worker, .. } = self;
        let queued = match *verdict {
            Verdict::Done => true,
            Verdict::ToPeer { relay, peer, ref payload, dont_fragment } => {
                let marks = Marks { traffic_class, dont_fragment };
                let pieces = slot.pieces(payload.clone());
                outbound.push_to_peer(&mut worker.sockets, relay, peer, pieces, marks)
            }
            Verdict::ToClient { five_tuple, ref datagram } => {
                let marks = Marks { traffic_class, dont_fragment: false };
                let pieces = slot.pieces(datagram.clone());
                outbound.push_to_client(&mut worker.sockets, five_tuple, pieces, marks)
            }
            Verdict::ToEngine { hop, ref payload } => {
                return self.obey_hop(hop, slot.pieces(payload.clone()), traffic_class);
            }
        };
        if !queued {
            self.send_failed(slot.count);
        }
    }

    fn send_failed(&self, datagrams: usize) {
        for _ in 0..datagrams {
            self.worker.metrics.dropped(DropReason::SendFailed);
        }
    }

    /// Calls the engine outside the packet path and carries out what it asks for.
    /// Whether it came through without a panic.
    fn ask(&mut self, call: impl FnOnce(&mut Server, Now, &mut Actions)) -> bool {
        let Self { worker, actions, now, .. } = self;
        let result = guard(&worker.metrics, || call(&mut worker.engine, *now, actions));
        self.execute();
        result.is_some()
    }

    /// Carries out the engine's actions in order, and those that follow from them.
    fn execute(&mut self) {
        while !self.actions.is_empty() {
            let mut actions = std::mem::take(&mut self.actions);
            for action in actions.drain(..) {
                match action {
                    Action::Answer { five_tuple, bytes } => {
                        let sockets = &mut self.worker.sockets;
                        if !self.outbound.push_answer(sockets, five_tuple, bytes) {
                            self.send_failed(1);
                        }
                    }
                    Action::Bind { relay, local } => {
                        let result = self.worker.sockets.bind(relay, local);
                        self.bound(relay, result);
                    }
                    Action::Adopt { relay, socket } => {
                        let result = self.worker.sockets.adopt(relay, socket);
                        self.bound(relay, result);
                    }
                    Action::Reserve { relay, local } => self.reserve(relay, local),
                    // Nobody may ask for TCP over UDP (RFC 6062, section 5.1).
                    Action::Listen { relay, .. } => {
                        self.bound(relay, Err(BindFailure::Unavailable));
                    }
                    Action::Connect { .. } | Action::Abandon { .. } | Action::Splice { .. } => {}
                    Action::Close { relay } => {
                        // What was relayed before the end still leaves.
                        if self.outbound.waits_for(relay) {
                            self.flush();
                        }
                        self.worker.sockets.close(relay);
                    }
                }
            }
            // The larger memory is kept, so that a quiet worker allocates nothing.
            if self.actions.is_empty() {
                self.actions = actions;
            }
        }
    }

    fn bound(&mut self, relay: RelayId, result: Result<(), BindFailure>) {
        let Self { worker, actions, now, .. } = self;
        let told = guard(&worker.metrics, || worker.engine.bound(*now, relay, result, actions));
        if told.is_none() {
            // Whether the engine still knows of it is open; a socket that nobody closes is worse.
            worker.sockets.close(relay);
        }
    }

    fn reserve(&mut self, relay: RelayId, local: std::net::SocketAddr) {
        let Self { worker, actions, now, .. } = self;
        let result = worker.sockets.reserve(local);
        // A panic closes the socket on its way.
        guard(&worker.metrics, || worker.engine.reserved(*now, relay, result, actions));
    }

    fn flush(&mut self) -> Sent {
        self.worker.courier.ring();
        let sent = self.send();
        self.tell_errors();
        sent
    }

    fn send(&mut self) -> Sent {
        if self.outbound.is_empty() {
            return Sent::default();
        }
        let Self { worker, outbound, received, .. } = self;
        outbound.flush(&mut worker.sockets, received, &worker.metrics)
    }

    /// Tells clients of the ICMP errors that came to their relay sockets. What that sends leaves
    /// through listeners, where no errors are queued.
    fn tell_errors(&mut self) {
        let errors = self.outbound.take_errors();
        for _ in 0..errors.lost {
            self.worker.metrics.dropped(DropReason::Icmp);
        }
        if errors.waiting.is_empty() {
            return;
        }
        for (relay, SocketError { peer, icmp, .. }) in errors.waiting {
            self.ask(|engine, now, actions| engine.handle_icmp(now, relay, peer, icmp, actions));
        }
        self.send();
    }
}

/// Which datagrams of a slot a verdict is about.
#[derive(Debug, Clone, Copy)]
struct Slot {
    index: usize,
    /// Where the bytes that the engine saw begin.
    offset: usize,
    count: usize,
    /// From one datagram to the next.
    stride: usize,
}

impl Slot {
    /// What lies at `range` of the first of them, and at the same place of the others.
    #[inline]
    fn pieces(self, range: std::ops::Range<usize>) -> Pieces {
        let Self { index, offset, count, stride } = self;
        let (start, len) = (range.start + offset, range.end - range.start);
        Pieces { slot: index, start, len, stride, count }
    }
}

/// Calls `handle`; a panic in it is counted (the panic hook has told of it) and gives `None`.
pub(super) fn guard<T>(metrics: &WorkerMetrics, handle: impl FnOnce() -> T) -> Option<T> {
    // Unwind safety: the engine holds no `unsafe` and its tables stay usable, see above.
    let result = catch_unwind(AssertUnwindSafe(handle));
    if result.is_err() {
        metrics.panics.add(1);
    }
    result.ok()
}

/// A worker that has nothing to do beats this often.
const BEAT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
