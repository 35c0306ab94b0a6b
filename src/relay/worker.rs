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

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::shared::{Commands, Inbox};
use super::sys::{BATCH, Event, RecvBatch, drain_errors};
use super::udp::{Outbound, Sockets, Token};
use crate::metrics::{DropReason, Heartbeat, Limit, WorkerMetrics};
use crate::net::Now;
use crate::turn::{
    Action, Actions, FiveTuple, HEADROOM, RelayId, Server, TAILROOM, Transport, Verdict,
};

/// All that one worker has.
pub(super) struct Worker {
    pub(super) engine: Server,
    pub(super) sockets: Sockets,
    pub(super) inbox: Arc<Inbox>,
    pub(super) metrics: Arc<WorkerMetrics>,
    pub(super) heartbeat: Arc<Heartbeat>,
}

impl Worker {
    /// Serves until it is told to stop. Every allocation is closed when this returns.
    pub(super) fn run(self) {
        let now = Now::read();
        let mut running = Running {
            worker: self,
            received: RecvBatch::new(),
            outbound: Outbound::new(),
            actions: Actions::new(),
            commands: Commands::default(),
            now,
            sweep_again: now.instant,
            stop: false,
        };
        while !running.stop {
            let metrics = Arc::clone(&running.worker.metrics);
            match guard(&metrics, || running.round()) {
                Some(Ok(())) => {}
                // The rest of the round is lost; whatever is still readable is reported again.
                None => running.outbound.forget(),
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
    now: Now,
    /// After a panic in a sweep the next one waits, for it may well panic again.
    sweep_again: Instant,
    stop: bool,
}

impl Running {
    fn round(&mut self) -> std::io::Result<()> {
        let timeout = self.timeout();
        let events = self.worker.sockets.poll.wait(timeout)?;
        self.now = Now::read();
        self.worker.heartbeat.beat(self.now.instant);
        for index in 0..events {
            let event = self.worker.sockets.poll.event(index);
            match Token::from_number(event.token) {
                Token::Wake => self.obey(),
                token => self.read(token, event),
            }
        }
        if self.due().is_some_and(|due| due <= self.now.instant) {
            if !self.ask(Server::handle_timeout) {
                self.sweep_again = self.now.instant + BEAT;
            }
            self.flush();
        }
        Ok(())
    }

    /// How long there is nothing to do but to beat.
    fn timeout(&self) -> Duration {
        self.due().map_or(BEAT, |due| due.saturating_duration_since(Instant::now()).min(BEAT))
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
            self.ask(|engine, _, actions| engine.close_all(actions));
        } else {
            for name in &commands.revoked {
                self.ask(|engine, _, actions| engine.revoke(name, actions));
            }
        }
        self.flush();
        commands.revoked.clear();
        self.commands = Commands { revoked: commands.revoked, ..Commands::default() };
    }

    fn close_all(&mut self) {
        self.stop = true;
        self.ask(|engine, _, actions| engine.close_all(actions));
    }

    /// Reads a socket, but no more than its share of the round: the rest is reported again, after
    /// every other socket had its turn.
    fn read(&mut self, token: Token, event: Event) {
        let batches = if matches!(token, Token::Client(_)) { CLIENT_BATCHES } else { 1 };
        let mut error = event.error;
        for _ in 0..batches {
            let Some(socket) = self.worker.sockets.socket(token) else {
                // An action of this very round closed it.
                return;
            };
            if std::mem::take(&mut error) {
                drain_errors(socket);
            }
            let count = match self.received.recv(socket) {
                Ok(count) => count,
                Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => return,
                // An error of an earlier datagram, not of this call; what is there is read by the
                // next round at the latest.
                Err(_) => {
                    error = true;
                    continue;
                }
            };
            for index in 0..count {
                match token {
                    Token::Client(client) => self.handle_client(client, index),
                    Token::Relay(id) => self.handle_peer(RelayId(id), index),
                    Token::Wake => {}
                }
                self.execute();
            }
            self.flush();
            if count < BATCH {
                return;
            }
            self.now = Now::read();
        }
    }

    fn handle_client(&mut self, client: u32, index: usize) {
        let Some(received) = self.received.received(index) else {
            return self.worker.metrics.dropped(DropReason::TooLong);
        };
        let listener = self.worker.sockets.client(client);
        let Some(server) = listener.and_then(|listener| listener.server(received.to)) else {
            return self.worker.metrics.dropped(DropReason::Unexpected);
        };
        let five_tuple = FiveTuple { transport: Transport::Udp, client: received.from, server };
        let Self { worker, actions, now, .. } = self;
        let datagram = self.received.bytes(index, HEADROOM..HEADROOM + received.len);
        let verdict = guard(&worker.metrics, || {
            worker.engine.handle_client(*now, five_tuple, datagram, actions)
        });
        self.obey_verdict(verdict, index, HEADROOM);
    }

    fn handle_peer(&mut self, relay: RelayId, index: usize) {
        let Some(received) = self.received.received(index) else {
            return self.worker.metrics.dropped(DropReason::TooLong);
        };
        let payload = HEADROOM..HEADROOM + received.len;
        let Self { worker, now, .. } = self;
        let buffer = self.received.slot_mut(index, received.len);
        debug_assert_eq!(buffer.len(), payload.end + TAILROOM);
        let verdict = guard(&worker.metrics, || {
            worker.engine.handle_peer(*now, relay, received.from, buffer, payload)
        });
        self.obey_verdict(verdict, index, 0);
    }

    /// Queues what the engine decided; `offset` is where the bytes it saw begin in the slot.
    fn obey_verdict(&mut self, verdict: Option<Verdict>, index: usize, offset: usize) {
        match verdict {
            None | Some(Verdict::Done) => {}
            Some(Verdict::ToPeer { relay, peer, payload }) => {
                let range = payload.start + offset..payload.end + offset;
                self.outbound.push_to_peer(relay, peer, index, range);
            }
            Some(Verdict::ToClient { five_tuple, datagram }) => {
                let range = datagram.start + offset..datagram.end + offset;
                if !self.outbound.push_to_client(&self.worker.sockets, five_tuple, index, range) {
                    self.worker.metrics.dropped(DropReason::SendFailed);
                }
            }
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
                        if !self.outbound.push_answer(&self.worker.sockets, five_tuple, bytes) {
                            self.worker.metrics.dropped(DropReason::SendFailed);
                        }
                    }
                    Action::Bind { relay, local } => self.bind(relay, local),
                    Action::Close { relay } => {
                        // What was relayed before the end still leaves.
                        self.flush();
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

    fn bind(&mut self, relay: RelayId, local: std::net::SocketAddr) {
        let Self { worker, actions, now, .. } = self;
        let result = worker.sockets.bind(relay, local);
        guard(&worker.metrics, || worker.engine.bound(*now, relay, result, actions));
    }

    fn flush(&mut self) {
        if !self.outbound.is_empty() {
            self.outbound.flush(&self.worker.sockets, &self.received, &self.worker.metrics);
        }
    }
}

/// Calls `handle`; a panic in it is counted (the panic hook has told of it) and gives `None`.
fn guard<T>(metrics: &WorkerMetrics, handle: impl FnOnce() -> T) -> Option<T> {
    // Unwind safety: the engine holds no `unsafe` and its tables stay usable, see above.
    let result = catch_unwind(AssertUnwindSafe(handle));
    if result.is_err() {
        metrics.panics.add(1);
    }
    result.ok()
}

/// A worker that has nothing to do beats this often.
const BEAT: Duration = Duration::from_secs(1);

/// The most batches that a listener gets per round; the socket of an allocation gets one.
const CLIENT_BATCHES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_counted_and_ends_nothing() {
        let metrics = WorkerMetrics::default();
        assert_eq!(guard(&metrics, || 1), Some(1));
        assert_eq!(guard(&metrics, || -> i32 { panic!("a test's panic") }), None);
        assert_eq!(guard(&metrics, || 2), Some(2));
        assert_eq!(metrics.panics.value(), 1);
    }
}
