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

use super::share::WINDOW;
use super::shared::{Commands, Inbox};
use super::sys::{BATCH, Event, RecvBatch, SocketError, drain_errors};
use super::udp::{Marks, Outbound, Sockets, Token};
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
    pub(super) metrics: Arc<WorkerMetrics>,
    pub(super) heartbeat: Arc<Heartbeat>,
}

impl Worker {
    /// Serves until it is told to stop. Every allocation is closed when this returns.
    pub(super) fn run(self) {
        let mut running = Running::new(self);
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
            now,
            sweep_again: now.instant,
            reservations_at: now.instant,
            stop: false,
        }
    }

    fn round(&mut self) -> std::io::Result<()> {
        let timeout = self.timeout();
        let events = self.worker.sockets.poll.wait(timeout)?;
        self.now = Now::read();
        self.worker.heartbeat.beat(self.now.instant);
        if self.worker.sockets.is_overloaded() {
            self.worker.sockets.tick(self.now.instant, &self.worker.metrics);
        }
        for index in 0..events {
            let event = self.worker.sockets.poll.event(index);
            match Token::from_number(event.token) {
                Token::Wake => self.obey(),
                token => self.read(token, event),
            }
        }
        if self.reservations_at <= self.now.instant {
            self.reservations_at = self.now.instant + BEAT;
            self.ask(|engine, now, _| engine.sweep_reservations(now));
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
                drain_errors(socket, |error| {
                    if let Token::Relay(relay) = token {
                        self.outbound.note_error(RelayId(relay), error);
                    }
                });
            }
            let count = match self.received.recv(socket) {
                Ok(count) => count,
                Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => {
                    self.note_batch(token, 0);
                    return self.tell_errors();
                }
                // An error of an earlier datagram, not of this call; what is there is read by the
                // next round at the latest.
                Err(_) => {
                    error = true;
                    continue;
                }
            };
            self.note_batch(token, count);
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

    /// What a batch says beside its datagrams.
    fn note_batch(&mut self, token: Token, count: usize) {
        let queue_drops = self.received.queue_drops();
        let Worker { sockets, metrics, .. } = &mut self.worker;
        sockets.note_batch(token, self.now.instant, (count, count < BATCH), queue_drops, metrics);
    }

    fn handle_client(&mut self, client: u32, index: usize) {
        let Some(received) = self.received.received(index) else {
            return self.worker.metrics.dropped(DropReason::TooLong);
        };
        let listener = self.worker.sockets.client_mut(client);
        let server = listener.and_then(|listener| Some((listener.server(received.to)?, listener)));
        let Some((server, listener)) = server else {
            return self.worker.metrics.dropped(DropReason::Unexpected);
        };
        let datagram = self.received.bytes(index, HEADROOM..HEADROOM + received.len);
        if !listener.share.admits(received.from, datagram) {
            return self.worker.metrics.dropped(DropReason::Overload);
        }
        let five_tuple = FiveTuple { transport: Transport::Udp, client: received.from, server };
        let Self { worker, actions, now, .. } = self;
        let verdict = guard(&worker.metrics, || {
            worker.engine.handle_client(*now, five_tuple, datagram, actions)
        });
        self.obey_verdict(verdict, (index, HEADROOM), received.traffic_class);
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
        self.obey_verdict(verdict, (index, 0), received.traffic_class);
    }

    /// Queues what the engine decided about slot `index`; `offset` is where the bytes it saw begin
    /// in the slot. DSCP and ECN are handed on.
    fn obey_verdict(
        &mut self,
        verdict: Option<Verdict>,
        (index, offset): (usize, usize),
        traffic_class: u8,
    ) {
        match verdict {
            None | Some(Verdict::Done) => {}
            Some(Verdict::ToPeer { relay, peer, payload, dont_fragment }) => {
                let range = payload.start + offset..payload.end + offset;
                let marks = Marks { traffic_class, dont_fragment };
                self.outbound.push_to_peer(relay, peer, (index, range), marks);
            }
            Some(Verdict::ToClient { five_tuple, datagram }) => {
                let range = datagram.start + offset..datagram.end + offset;
                let marks = Marks { traffic_class, dont_fragment: false };
                let (outbound, sockets) = (&mut self.outbound, &self.worker.sockets);
                if !outbound.push_to_client(sockets, five_tuple, (index, range), marks) {
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
                        // What was relayed before the end still leaves; what goes elsewhere waits
                        // for the rest of the round.
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

    fn flush(&mut self) {
        self.send();
        self.tell_errors();
    }

    fn send(&mut self) {
        if !self.outbound.is_empty() {
            self.outbound.flush(&self.worker.sockets, &self.received, &self.worker.metrics);
        }
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

/// The most batches that a listener gets per round; the socket of an allocation gets one.
const CLIENT_BATCHES: usize = 4;

#[cfg(test)]
mod tests {
    use super::super::listen::Listeners;
    use super::super::shared::Handle;
    use super::super::{Options, turn_options_for_tests};
    use super::*;
    use crate::credentials::{Entropy, Grants};
    use crate::metrics::Heartbeats;
    use crate::telemetry::Secret;
    use crate::turn::Shared;
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsFd;

    /// A worker that does one round at a time, and where it listens.
    pub(in crate::relay) fn worker() -> (Running, SocketAddr) {
        worker_with(Options::default())
    }

    pub(in crate::relay) fn worker_with(options: Options) -> (Running, SocketAddr) {
        let listen = vec!["127.0.0.1:0".parse().expect("a test address")];
        let options = Options { listen, ..options };
        let mut listeners = Listeners::bind(&options).expect("a listener");
        let inbox = Arc::new(Inbox::new().expect("an inbox"));
        let own = listeners.per_worker.remove(0);
        let sockets = Sockets::new(inbox.wake.as_fd(), own, options.of_relays()).expect("sockets");
        let mut entropy = Entropy::from_seed([1; 32]);
        let grants = Arc::new(Grants::new(Secret::new([2; 32])));
        let engine = Arc::new(turn_options_for_tests());
        let shared = Arc::new(Shared::new(engine, grants, &mut entropy));
        let metrics = Arc::new(WorkerMetrics::default());
        let engine = Server::new(shared, Arc::clone(&metrics), entropy);
        let heartbeat = Heartbeats::default().add("relay-0", Instant::now());
        let worker = Worker { engine, sockets, inbox, metrics, heartbeat };
        (Running::new(worker), listeners.addresses[0])
    }

    fn binding_is_answered(running: &mut Running, server: SocketAddr) {
        let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("a deadline");
        let mut request = [7; 20];
        request[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
        client.send_to(&request, server).expect("a request");
        running.round().expect("a round");
        let (len, from) = client.recv_from(&mut [0; 64]).expect("an answer");
        assert_eq!((len, from), (32, server));
    }

    #[test]
    fn a_panic_is_counted_and_ends_nothing() {
        let (mut running, server) = worker();
        assert!(!running.ask(|_, _, _| panic!("a panic of a test")));
        assert_eq!(running.worker.metrics.panics.value(), 1);
        binding_is_answered(&mut running, server);
        assert!(running.ask(|_, _, _| ()));
        assert_eq!(running.worker.metrics.panics.value(), 1);
    }

    #[test]
    fn what_the_engine_asked_for_before_a_panic_is_carried_out() {
        let (mut running, _) = worker();
        // An address of this test alone: nobody takes the port in between.
        let free = UdpSocket::bind("127.0.0.82:0").expect("a socket").local_addr();
        let (relay, local) = (RelayId(7), free.expect("an address"));
        running.ask(|_, _, actions| {
            actions.push(Action::Bind { relay, local });
            panic!("a panic of a test");
        });
        assert!(running.worker.sockets.socket(Token::Relay(7)).is_some());
        running.ask(|_, _, actions| {
            actions.push(Action::Close { relay });
            panic!("a panic of a test");
        });
        assert!(running.worker.sockets.socket(Token::Relay(7)).is_none());
        UdpSocket::bind(local).expect("the port is free again");
    }

    #[test]
    fn a_listener_gets_no_more_than_its_share_of_a_round() {
        let (mut running, server) = worker();
        let flooder = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        for _ in 0..600 {
            flooder.send_to(b"\xffrubbish", server).expect("a send");
        }
        let handled = |running: &Running| running.worker.metrics.drops(DropReason::Malformed);
        let share = (CLIENT_BATCHES * BATCH) as u64;
        for round in 1..=2 {
            running.round().expect("a round");
            assert_eq!(handled(&running), round * share);
        }
        running.round().expect("a round");
        assert_eq!(handled(&running), 600);
    }

    #[test]
    fn too_many_revocations_end_everything_and_are_counted() {
        let (mut running, server) = worker();
        let handle = Handle::new(vec![Arc::clone(&running.worker.inbox)], Arc::default());
        handle.revoke("a grant");
        running.round().expect("a round");
        assert_eq!(running.worker.metrics.limits(Limit::Revocations), 0);
        for _ in 0..=super::super::shared::REVOKED_MAX {
            handle.revoke("a grant");
        }
        running.round().expect("a round");
        assert_eq!(running.worker.metrics.limits(Limit::Revocations), 1);
        binding_is_answered(&mut running, server);
        handle.stop();
        running.round().expect("a round");
        assert!(running.stop);
    }
}
