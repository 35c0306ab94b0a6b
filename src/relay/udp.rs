//! A worker's sockets, and the datagrams that wait to leave through them.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use rustc_hash::FxHashMap;
use socket2::Socket;

use super::sys::{
    BATCH, Datagram, Poll, RecvBatch, SendBatch, relay_socket, was_address_in_use, was_exhausted,
};
use crate::metrics::{DropReason, WorkerMetrics};
use crate::turn::{BindFailure, FiveTuple, RelayId};

/// What a socket is to its worker, packed into the number that epoll hands back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    relay_buffer_bytes: usize,
}

impl Sockets {
    /// Watches `listeners` and the inbox's `wake`.
    ///
    /// # Errors
    /// When descriptors, watches or memory have run out.
    pub(super) fn new(
        wake: BorrowedFd<'_>,
        listeners: Vec<(Socket, SocketAddr)>,
        relay_buffer_bytes: usize,
    ) -> io::Result<Self> {
        let poll = Poll::new(EVENTS)?;
        poll.add(wake, Token::Wake.number())?;
        let mut clients = Vec::with_capacity(listeners.len());
        for ((socket, local), index) in listeners.into_iter().zip(0..) {
            poll.add(socket.as_fd(), Token::Client(index).number())?;
            clients.push(ClientSocket { socket, local, wildcard: local.ip().is_unspecified() });
        }
        Ok(Self { poll, clients, relays: FxHashMap::default(), relay_buffer_bytes })
    }

    /// No listeners and no inbox: the sockets of the allocations of one client, whose own messages
    /// come over a stream.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub(super) fn of_stream(relay_buffer_bytes: usize) -> io::Result<Self> {
        let poll = Poll::new(EVENTS_OF_STREAM)?;
        Ok(Self { poll, clients: Vec::new(), relays: FxHashMap::default(), relay_buffer_bytes })
    }

    /// Whether there is no allocation.
    pub(super) fn has_no_relay(&self) -> bool {
        self.relays.is_empty()
    }

    /// Binds the socket of allocation `relay`.
    pub(super) fn bind(&mut self, relay: RelayId, local: SocketAddr) -> Result<(), BindFailure> {
        let bound = relay_socket(local, self.relay_buffer_bytes).and_then(|socket| {
            self.poll.add(socket.as_fd(), Token::Relay(relay.0).number())?;
            Ok(socket)
        });
        match bound {
            Ok(socket) => {
                self.relays.insert(relay, socket);
                Ok(())
            }
            Err(error) => Err(bind_failure(error)),
        }
    }

    /// Closes the socket of allocation `relay`.
    pub(super) fn close(&mut self, relay: RelayId) {
        self.relays.remove(&relay);
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
}

struct Waiting {
    socket: Token,
    /// Keeps the order of the datagrams of one socket.
    sequence: u32,
    to: SocketAddr,
    from: Option<SocketAddr>,
    body: Body,
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
        Self { waiting, answers: Vec::new(), batch: SendBatch::new() }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Payload `range` of slot `index` goes to a peer.
    pub(super) fn push_to_peer(
        &mut self,
        relay: RelayId,
        to: SocketAddr,
        index: usize,
        range: Range<usize>,
    ) {
        self.push(Token::Relay(relay.0), to, None, Body::Slot { index, range });
    }

    /// The bytes `range` of slot `index` go to a client; whether one of our listeners is in
    /// charge of it.
    pub(super) fn push_to_client(
        &mut self,
        sockets: &Sockets,
        five_tuple: FiveTuple,
        index: usize,
        range: Range<usize>,
    ) -> bool {
        let Some((socket, from)) = sockets.route(five_tuple.server) else {
            return false;
        };
        self.push(socket, five_tuple.client, from, Body::Slot { index, range });
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
        self.push(socket, five_tuple.client, from, body);
        true
    }

    fn push(&mut self, socket: Token, to: SocketAddr, from: Option<SocketAddr>, body: Body) {
        let sequence = self.waiting.len() as u32;
        self.waiting.push(Waiting { socket, sequence, to, from, body });
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
        for group in self.waiting.chunk_by(|a, b| a.socket == b.socket) {
            let Some(socket) = sockets.socket(group[0].socket) else {
                count(metrics, DropReason::SendFailed, group.len());
                continue;
            };
            let outcome = self.batch.send(socket, group.len(), |index| {
                let waiting = &group[index];
                let bytes = match &waiting.body {
                    Body::Slot { index, range } => received.bytes(*index, range.clone()),
                    Body::Answer(index) => &self.answers[*index],
                };
                Datagram { bytes, to: waiting.to, from: waiting.from }
            });
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
