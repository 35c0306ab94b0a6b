//! A worker's sockets, and the datagrams that wait to leave through them.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustc_hash::FxHashMap;
use socket2::Socket;

use super::share::{Change, Share};
use super::sys::{
    BATCH, Datagram, Poll, RecvBatch, SendBatch, SocketError, SocketOptions, queue_drops,
    relay_socket, set_dont_fragment, was_address_in_use, was_exhausted,
};
use crate::metrics::{DropReason, Limit, Queue, WorkerMetrics};
use crate::turn::{BindFailure, FiveTuple, HeldSocket, RelayId};

/// What a socket is to its worker, packed into the number that epoll hands back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Token {
    /// The eventfd of the inbox.
    Wake,
    /// The listener of that index.
    Client(u32),
    /// The socket of that allocation.
    Relay(u32),
}

impl Token {
    /// The kind in the upper half, the index in the lower.
    pub(super) const fn number(self) -> u64 {
        match self {
            Self::Wake => 0,
            Self::Client(index) => 1 << 32 | index as u64,
            Self::Relay(id) => 2 << 32 | id as u64,
        }
    }

    /// The token that `number` was made from.
    pub(super) const fn from_number(number: u64) -> Self {
        let index = (number & 0xffff_ffff) as u32;
        match number >> 32 {
            0 => Self::Wake,
            1 => Self::Client(index),
            _ => Self::Relay(index),
        }
    }
}

/// One listener of one worker.
pub(super) struct ClientSocket {
    socket: Socket,
    local: SocketAddr,
    wildcard: bool,
    /// What each client may send when all of them send too much.
    pub(super) share: Share,
}

impl ClientSocket {
    /// The address of ours that a datagram was sent to; `to` is what the kernel told. `None` for
    /// a multicast one, which no answer could leave from.
    pub(super) fn server(&self, to: Option<SocketAddr>) -> Option<SocketAddr> {
        if !self.wildcard {
            return Some(self.local);
        }
        let mut server = to.filter(|to| !to.ip().is_multicast())?;
        server.set_port(self.local.port());
        Some(server)
    }

    /// Does to the socket's filter what its shares ask for.
    fn carry_out(&mut self, change: Change, metrics: &WorkerMetrics) {
        match change {
            Change::None => {}
            Change::Detach => {
                // None is there when it is the worker that drops.
                let _ = self.socket.detach_filter();
            }
            Change::Shed => {
                metrics.limit(Limit::ClientShare);
                if self.share.filter().is_some_and(|filter| filter.attach(&self.socket).is_err()) {
                    self.share.without_kernel();
                }
            }
        }
    }

    fn serves(&self, server: SocketAddr) -> bool {
        self.local == server
            || self.wildcard
                && self.local.port() == server.port()
                && self.local.is_ipv4() == server.is_ipv4()
    }
}

/// Every socket of one worker, watched by one epoll.
pub(super) struct Sockets {
    pub(super) poll: Poll,
    clients: Vec<ClientSocket>,
    relays: FxHashMap<RelayId, Socket>,
    relay_socket: SocketOptions,
    /// What the kernel has told that sockets have lost; most lose nothing.
    queue_drops: FxHashMap<Token, u32>,
}

impl Sockets {
    /// Watches `listeners` and the inbox's `wake`.
    ///
    /// # Errors
    /// When descriptors, watches or memory have run out.
    pub(super) fn new(
        wake: BorrowedFd<'_>,
        listeners: Vec<(Socket, SocketAddr)>,
        relay_socket: impl Into<SocketOptions>,
    ) -> io::Result<Self> {
        let relay_socket = relay_socket.into();
        let poll = Poll::new(EVENTS)?;
        poll.add(wake, Token::Wake.number())?;
        let mut clients = Vec::with_capacity(listeners.len());
        for ((socket, local), index) in listeners.into_iter().zip(0..) {
            poll.add(socket.as_fd(), Token::Client(index).number())?;
            let share = Share::new(relay_socket.features.source_filter, Instant::now());
            let wildcard = local.ip().is_unspecified();
            clients.push(ClientSocket { socket, local, wildcard, share });
        }
        Ok(Self { clients, ..Self::none(poll, relay_socket) })
    }

    /// No listeners and no inbox: the sockets of the allocations of one client, whose own messages
    /// come over a stream.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub(super) fn of_stream(relay_socket: SocketOptions) -> io::Result<Self> {
        Ok(Self::none(Poll::new(EVENTS_OF_STREAM)?, relay_socket))
    }

    fn none(poll: Poll, relay_socket: SocketOptions) -> Self {
        let (clients, relays, queue_drops) = Default::default();
        Self { poll, clients, relays, relay_socket, queue_drops }
    }

    /// Whether there is no allocation.
    pub(super) fn has_no_relay(&self) -> bool {
        self.relays.is_empty()
    }

    /// Binds the socket `relay` of an allocation.
    pub(super) fn bind(&mut self, relay: RelayId, local: SocketAddr) -> Result<(), BindFailure> {
        let socket = self.open(local)?;
        self.watch(relay, socket)
    }

    /// Binds a socket that is held for a later allocation, here or at another worker. Nobody reads
    /// it until then; its receive buffer bounds what gathers.
    pub(super) fn reserve(&self, local: SocketAddr) -> Result<HeldSocket, BindFailure> {
        self.open(local).map(HeldSocket::new)
    }

    /// Takes a socket over that was held for the allocation of `relay`.
    pub(super) fn adopt(&mut self, relay: RelayId, held: HeldSocket) -> Result<(), BindFailure> {
        // Only `reserve` makes them, so it is a socket of its kind.
        let socket: Socket = held.into_socket().ok_or(BindFailure::Unavailable)?;
        // What came before anybody asked for the address is for nobody; later it might pass for
        // what somebody was permitted to send.
        let mut byte = [std::mem::MaybeUninit::uninit(); 1];
        for _ in 0..EARLY_MAX {
            if socket.recv(&mut byte).is_err() {
                break;
            }
        }
        self.watch(relay, socket)
    }

    fn open(&self, local: SocketAddr) -> Result<Socket, BindFailure> {
        relay_socket(local, self.relay_socket).map_err(bind_failure)
    }

    fn watch(&mut self, relay: RelayId, socket: Socket) -> Result<(), BindFailure> {
        let watched = self.poll.add(socket.as_fd(), Token::Relay(relay.0).number());
        watched.map_err(bind_failure)?;
        self.relays.insert(relay, socket);
        Ok(())
    }

    /// Closes the socket of allocation `relay`.
    pub(super) fn close(&mut self, relay: RelayId) {
        self.relays.remove(&relay);
        self.queue_drops.remove(&Token::Relay(relay.0));
    }

    /// Counts what the receive queue of `token` has lost since it was last told of; `told` is
    /// [`RecvBatch::queue_drops`]. Returns how many that are.
    pub(super) fn note_queue_drops(
        &mut self,
        token: Token,
        told: u32,
        metrics: &WorkerMetrics,
    ) -> u32 {
        let before = self.queue_drops.entry(token).or_default();
        let lost = told.wrapping_sub(*before);
        if lost > u32::MAX / 2 {
            // A datagram that had waited was told of less than is known by now.
            return 0;
        }
        *before = told;
        let queue = if matches!(token, Token::Relay(_)) { Queue::Relay } else { Queue::Client };
        metrics.queue_dropped(queue, lost.into());
        lost
    }

    /// Counts what a batch of `received` datagrams of `token` says beside them, and gives clients
    /// their shares when they send too much. `is_emptied`: there were no more.
    pub(super) fn note_batch(
        &mut self,
        token: Token,
        now: Instant,
        (received, is_emptied): (usize, bool),
        queue_drops: Option<u32>,
        metrics: &WorkerMetrics,
    ) {
        let lost = queue_drops.map_or(0, |told| self.note_queue_drops(token, told, metrics));
        if let Token::Client(index) = token
            && let Some(client) = self.clients.get_mut(index as usize)
        {
            client.share.batch(now, received, lost, is_emptied);
            if client.share.is_due(now) {
                self.end_window(index, now, metrics);
            }
        }
    }

    /// Whether some listener has more than its worker can bear.
    pub(super) fn is_overloaded(&self) -> bool {
        self.clients.iter().any(|client| client.share.is_busy())
    }

    /// Lets the shares of listeners know the time, also of those that hear nothing.
    pub(super) fn tick(&mut self, now: Instant, metrics: &WorkerMetrics) {
        for index in 0..self.clients.len() {
            if self.clients[index].share.is_due(now) {
                self.end_window(index as u32, now, metrics);
            }
        }
    }

    fn end_window(&mut self, index: u32, now: Instant, metrics: &WorkerMetrics) {
        let token = Token::Client(index);
        let told = self.socket(token).and_then(queue_drops);
        let lost = told.map_or(0, |told| self.note_queue_drops(token, told, metrics));
        if let Some(client) = self.clients.get_mut(index as usize) {
            let change = client.share.tick(now, lost);
            client.carry_out(change, metrics);
        }
    }

    /// The listener of that index.
    pub(super) fn client_mut(&mut self, index: u32) -> Option<&mut ClientSocket> {
        self.clients.get_mut(index as usize)
    }

    /// The listener of that index.
    pub(super) fn client(&self, index: u32) -> Option<&ClientSocket> {
        self.clients.get(index as usize)
    }

    /// The socket that `token` stands for.
    pub(super) fn socket(&self, token: Token) -> Option<BorrowedFd<'_>> {
        match token {
            Token::Wake => None,
            Token::Client(index) => self.client(index).map(|client| client.socket.as_fd()),
            Token::Relay(id) => self.relays.get(&RelayId(id)).map(AsFd::as_fd),
        }
    }

    /// The listener that answers to `server` leave through, and the address that they must be
    /// told to leave from.
    fn route(&self, server: SocketAddr) -> Option<(Token, Option<SocketAddr>)> {
        let index = self.clients.iter().position(|client| client.serves(server))?;
        let from = self.clients[index].wildcard.then_some(server);
        Some((Token::Client(u32::try_from(index).ok()?), from))
    }
}

/// The most sockets that one wait of a worker reports.
const EVENTS: usize = 256;
/// The same for the few sockets of one client.
const EVENTS_OF_STREAM: usize = 4;

/// Datagrams that wait for the end of the batch, to leave with one call per socket.
///
/// Payloads stay where they were received: the batch may not be refilled before
/// [`Outbound::flush`].
pub(super) struct Outbound {
    waiting: Vec<Waiting>,
    answers: Vec<Vec<u8>>,
    batch: SendBatch,
    errors: Errors,
}

/// ICMP errors that wait for the engine, with the relay socket that each came to.
#[derive(Debug, Default)]
pub(super) struct Errors {
    pub(super) waiting: Vec<(RelayId, SocketError)>,
    /// How many found no room.
    pub(super) lost: usize,
}

impl Errors {
    fn push(&mut self, relay: RelayId, error: SocketError) {
        if self.waiting.len() < ERRORS_MAX {
            self.waiting.push((relay, error));
        } else {
            self.lost += 1;
        }
    }
}

/// The most datagrams thrown away from a socket that was held: more than its buffer has room for.
const EARLY_MAX: usize = 16_384;

/// The most ICMP errors that wait at once: a client is told of some, and of no flood.
const ERRORS_MAX: usize = 64;

struct Waiting {
    socket: Token,
    /// Keeps the order of the datagrams of one socket.
    sequence: u32,
    to: SocketAddr,
    from: Option<SocketAddr>,
    marks: Marks,
    body: Body,
}

/// What the IP header of a datagram says besides addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// DSCP and ECN: those of the datagram that the payload came in (RFC 8656, section 14).
    pub(super) traffic_class: u8,
    /// The DF bit, for IPv4.
    pub(super) dont_fragment: bool,
}

enum Body {
    /// A part of a slot of the received batch.
    Slot { index: usize, range: Range<usize> },
    /// An answer that the engine wrote.
    Answer(usize),
}

impl Outbound {
    /// Nothing waits.
    pub(super) fn new() -> Self {
        let waiting = Vec::with_capacity(BATCH);
        Self { waiting, answers: Vec::new(), batch: SendBatch::new(), errors: Errors::default() }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether something waits to leave through relay socket `relay`, or an error of it for the
    /// engine.
    pub(super) fn waits_for(&self, relay: RelayId) -> bool {
        let token = Token::Relay(relay.0);
        self.waiting.iter().any(|waiting| waiting.socket == token)
            || self.errors.waiting.iter().any(|(of, _)| *of == relay)
    }

    /// Payload `range` of slot `index` goes to a peer.
    pub(super) fn push_to_peer(
        &mut self,
        relay: RelayId,
        to: SocketAddr,
        (index, range): (usize, Range<usize>),
        marks: Marks,
    ) {
        self.push(Token::Relay(relay.0), to, None, marks, Body::Slot { index, range });
    }

    /// The bytes `range` of slot `index` go to a client; whether one of our listeners is in
    /// charge of it.
    pub(super) fn push_to_client(
        &mut self,
        sockets: &Sockets,
        five_tuple: FiveTuple,
        (index, range): (usize, Range<usize>),
        marks: Marks,
    ) -> bool {
        let Some((socket, from)) = sockets.route(five_tuple.server) else {
            return false;
        };
        self.push(socket, five_tuple.client, from, marks, Body::Slot { index, range });
        true
    }

    /// An answer goes to a client; whether one of our listeners is in charge of it.
    pub(super) fn push_answer(
        &mut self,
        sockets: &Sockets,
        five_tuple: FiveTuple,
        bytes: Vec<u8>,
    ) -> bool {
        let Some((socket, from)) = sockets.route(five_tuple.server) else {
            return false;
        };
        let body = Body::Answer(self.answers.len());
        self.answers.push(bytes);
        self.push(socket, five_tuple.client, from, Marks::default(), body);
        true
    }

    fn push(
        &mut self,
        socket: Token,
        to: SocketAddr,
        from: Option<SocketAddr>,
        marks: Marks,
        body: Body,
    ) {
        let sequence = self.waiting.len() as u32;
        self.waiting.push(Waiting { socket, sequence, to, from, marks, body });
    }

    /// Notes an ICMP error that came to relay socket `relay`.
    pub(super) fn note_error(&mut self, relay: RelayId, error: SocketError) {
        self.errors.push(relay, error);
    }

    /// What came to relay sockets since the last call.
    pub(super) fn take_errors(&mut self) -> Errors {
        std::mem::take(&mut self.errors)
    }

    /// Sends all that waits, grouped by socket, in order; what the kernel does not take is
    /// counted and forgotten.
    pub(super) fn flush(
        &mut self,
        sockets: &Sockets,
        received: &RecvBatch,
        metrics: &WorkerMetrics,
    ) {
        self.waiting.sort_unstable_by_key(|waiting| (waiting.socket, waiting.sequence));
        let alike = |a: &Waiting, b: &Waiting| {
            a.socket == b.socket && a.marks.dont_fragment == b.marks.dont_fragment
        };
        for group in self.waiting.chunk_by(alike) {
            let Some(socket) = sockets.socket(group[0].socket) else {
                count(metrics, DropReason::SendFailed, group.len());
                continue;
            };
            // Its bit is the socket's, so it is set for this group alone; who asked for it is not
            // served without.
            let unfragmented = group[0].marks.dont_fragment;
            if unfragmented && set_dont_fragment(socket, true).is_err() {
                count(metrics, DropReason::SendFailed, group.len());
                continue;
            }
            let errors = &mut self.errors;
            let each = |error| {
                if let Token::Relay(relay) = group[0].socket {
                    errors.push(RelayId(relay), error);
                }
            };
            let outcome = self.batch.send(socket, group.len(), each, |index| {
                let waiting = &group[index];
                let bytes = match &waiting.body {
                    Body::Slot { index, range } => received.bytes(*index, range.clone()),
                    Body::Answer(index) => &self.answers[*index],
                };
                let Waiting { to, from, marks, .. } = *waiting;
                Datagram { bytes, to, from, traffic_class: marks.traffic_class }
            });
            if unfragmented {
                // What was set a moment ago can be set back.
                let _ = set_dont_fragment(socket, false);
            }
            count(metrics, DropReason::SendBufferFull, outcome.full);
            count(metrics, DropReason::SendFailed, outcome.failed);
        }
        self.forget();
    }

    /// Forgets what waits, unsent: after a panic in the middle of it.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
        self.answers.clear();
    }
}

pub(super) fn bind_failure(error: io::Error) -> BindFailure {
    if was_address_in_use(&error) {
        BindFailure::PortTaken
    } else if was_exhausted(&error) {
        BindFailure::Exhausted
    } else {
        BindFailure::Unavailable
    }
}

fn count(metrics: &WorkerMetrics, reason: DropReason, datagrams: usize) {
    for _ in 0..datagrams {
        metrics.dropped(reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::sys::Wake;
    use std::net::UdpSocket;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [Token::Wake, Token::Client(3), Token::Relay(0), Token::Relay(u32::MAX)] {
            assert_eq!(Token::from_number(token.number()), token);
        }
    }

    #[test]
    fn bind_failures_are_told_apart() {
        let wake = Wake::new().expect("an eventfd");
        let mut sockets = Sockets::new(wake.as_fd(), Vec::new(), 1 << 16).expect("sockets");
        // An address of this test alone: nobody takes the port in between.
        let taken = UdpSocket::bind("127.0.0.81:0").expect("a socket");
        let taken = taken.local_addr().map(|address| (taken, address)).expect("an address");
        assert_eq!(sockets.bind(RelayId(1), taken.1), Err(BindFailure::PortTaken));
        let gone = "203.0.113.77:50000".parse().expect("a test address");
        assert_eq!(sockets.bind(RelayId(1), gone), Err(BindFailure::Unavailable));
        assert_eq!(sockets.relays.len(), 0);
        drop(taken.0);
        assert_eq!(sockets.bind(RelayId(1), taken.1), Ok(()));
        assert_eq!(sockets.relays.len(), 1);
        sockets.close(RelayId(1));
        UdpSocket::bind(taken.1).expect("the port is free again");
    }
}
