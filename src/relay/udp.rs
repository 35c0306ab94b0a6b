//! A worker's sockets, and what each of them has learned about the traffic that passes it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use socket2::Socket;

use super::outbound::Queue;
use super::share::{Change, Share};
use super::sys::{
    BATCH, Features, Poll, Segmenting, SocketOptions, queue_drops, relay_socket, set_merging,
    was_address_in_use, was_exhausted,
};
use crate::metrics::{Limit, ReceiveQueue, WorkerMetrics};
use crate::turn::{BindFailure, HeldSocket, RelayId};

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

/// A socket, and what is known about its traffic.
pub(super) struct Port {
    socket: Socket,
    /// What waits to leave through it.
    pub(super) queue: Queue,
    segmenting: Segmenting,
    pub(super) merging: Merging,
    losses: Losses,
}

/// What the kernel has told that a receive queue has lost.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Losses(u32);

impl Losses {
    /// Learns how many datagrams the queue has lost in all, as `SO_RXQ_OVFL` tells it or
    /// `SO_MEMINFO`; returns how many that are since it was last told.
    pub(super) fn since(&mut self, told: u32) -> u32 {
        let lost = told.wrapping_sub(self.0);
        if lost > u32::MAX / 2 {
            // A datagram that had waited was told of less than is known by now.
            return 0;
        }
        self.0 = told;
        lost
    }
}

impl Port {
    fn new(socket: Socket, features: Features) -> Self {
        let (segmenting, merging) =
            (Segmenting::new(features.segment), Merging::new(features.merge));
        Self { socket, queue: Queue::default(), segmenting, merging, losses: Losses::default() }
    }

    /// The socket itself.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What it takes to send.
    pub(super) fn outlet(&mut self) -> (BorrowedFd<'_>, &mut Segmenting) {
        (self.socket.as_fd(), &mut self.segmenting)
    }

    /// Learns how one receive went: how many pieces came, how many of them were merged, and
    /// whether what came alone left in runs all the same. Says whether the kernel merges from now
    /// on, which it does once a socket has seen runs: single packets only pay for being asked.
    pub(super) fn learn(&mut self, pieces: usize, merged: usize, in_runs: bool) -> bool {
        self.merging.lately = merged * 2 > pieces;
        let asks = self.merging.possible && in_runs && merged == 0;
        if !asks {
            return false;
        }
        // Once, whether it works or not. There is no way back, for what the kernel has merged
        // already would come without its borders.
        self.merging.possible = false;
        set_merging(self.fd()).is_ok()
    }
}

/// Whether a socket is one whose datagrams arrive merged (`UDP_GRO`).
#[derive(Debug, Clone, Copy)]
pub(super) struct Merging {
    /// It may become one.
    possible: bool,
    /// Most of what it received last was.
    lately: bool,
}

impl Merging {
    const fn new(possible: bool) -> Self {
        Self { possible, lately: false }
    }

    /// How many pieces to receive at once: few large ones, so that they are still in the
    /// processor's cache when they leave.
    pub(super) fn pieces(self) -> usize {
        if self.lately { PIECES } else { BATCH }
    }
}

/// Pieces of many datagrams per receive.
const PIECES: usize = 4;

/// One listener of one worker.
pub(super) struct ClientSocket {
    port: Port,
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
        let socket = &self.port.socket;
        match change {
            Change::None => {}
            Change::Detach => {
                // None is there when it is the worker that drops.
                let _ = socket.detach_filter();
            }
            Change::Shed => {
                metrics.limit(Limit::ClientShare);
                if self.share.filter().is_some_and(|filter| filter.attach(socket).is_err()) {
                    // That of the window before must not stay; none may have been there.
                    let _ = socket.detach_filter();
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
    /// Those of the allocations, each at the place of its number: the engine's numbers are dense.
    relays: Vec<Option<Port>>,
    relay_socket: SocketOptions,
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
        let features = relay_socket.features;
        let poll = Poll::new(EVENTS)?;
        poll.add(wake, Token::Wake.number())?;
        let mut clients = Vec::with_capacity(listeners.len());
        for ((socket, local), index) in listeners.into_iter().zip(0..) {
            poll.add(socket.as_fd(), Token::Client(index).number())?;
            let (port, wildcard) = (Port::new(socket, features), local.ip().is_unspecified());
            let share = Share::new(features.source_filter, Instant::now());
            clients.push(ClientSocket { port, local, wildcard, share });
        }
        Ok(Self { poll, clients, relays: Vec::new(), relay_socket })
    }

    /// Binds the socket `relay` of an allocation.
    pub(super) fn bind(&mut self, relay: RelayId, local: SocketAddr) -> Result<(), BindFailure> {
        let socket = open(local, self.relay_socket)?;
        self.watch(relay, socket)
    }

    /// Binds a socket that is held for a later allocation, here or at another worker. Nobody reads
    /// it until then; its receive buffer bounds what gathers.
    pub(super) fn reserve(&self, local: SocketAddr) -> Result<HeldSocket, BindFailure> {
        open(local, self.relay_socket).map(HeldSocket::new)
    }

    /// Takes a socket over that was held for the allocation of `relay`.
    pub(super) fn adopt(&mut self, relay: RelayId, held: HeldSocket) -> Result<(), BindFailure> {
        self.watch(relay, taken_over(held)?)
    }

    fn watch(&mut self, relay: RelayId, socket: Socket) -> Result<(), BindFailure> {
        let watched = self.poll.add(socket.as_fd(), Token::Relay(relay.0).number());
        watched.map_err(bind_failure)?;
        let place = relay.0 as usize;
        if place >= self.relays.len() {
            self.relays.resize_with(place + 1, || None);
        }
        self.relays[place] = Some(Port::new(socket, self.relay_socket.features));
        Ok(())
    }

    /// Closes the socket of allocation `relay`.
    pub(super) fn close(&mut self, relay: RelayId) {
        if let Some(place) = self.relays.get_mut(relay.0 as usize) {
            *place = None;
        }
    }

    /// Counts what the receive queue of `token` has lost, as `told`; returns how many that are.
    pub(super) fn note_queue_drops(
        &mut self,
        token: Token,
        told: Option<u32>,
        metrics: &WorkerMetrics,
    ) -> u32 {
        let port = told.and_then(|_| self.port_mut(token));
        let lost = told.zip(port).map_or(0, |(told, port)| port.losses.since(told));
        if lost > 0 {
            let is_relay = matches!(token, Token::Relay(_));
            let queue = if is_relay { ReceiveQueue::Relay } else { ReceiveQueue::Client };
            metrics.queue_dropped(queue, lost.into());
        }
        lost
    }

    /// Counts what a receive of `received` pieces from `token` says beside them, and gives clients
    /// their shares when they send too much. `is_emptied`: there were no more.
    pub(super) fn note_batch(
        &mut self,
        token: Token,
        now: Instant,
        (received, is_emptied): (usize, bool),
        told: Option<u32>,
        metrics: &WorkerMetrics,
    ) {
        let lost = self.note_queue_drops(token, told, metrics);
        if let Token::Client(index) = token
            && let Some(client) = self.clients.get_mut(index as usize)
        {
            client.share.batch(now, received, lost, is_emptied);
            if client.share.is_due(now) {
                self.end_window(index, now, metrics);
            }
        }
    }

    /// Something was relayed for `client`, from it or to it, at the listener of that index.
    #[inline]
    pub(super) fn note_client(&mut self, index: u32, client: SocketAddr) {
        if let Some(listener) = self.clients.get_mut(index as usize) {
            listener.share.note_client(client);
        }
    }

    /// All listeners.
    pub(super) fn listeners(&self) -> impl Iterator<Item = Token> + use<> {
        (0..self.clients.len() as u32).map(Token::Client)
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
        let told = self.port_mut(token).and_then(|port| queue_drops(port.fd()));
        let lost = self.note_queue_drops(token, told, metrics);
        if let Some(client) = self.clients.get_mut(index as usize) {
            let change = client.share.tick(now, lost);
            client.carry_out(change, metrics);
        }
    }

    /// The listener of that index.
    pub(super) fn client_mut(&mut self, index: u32) -> Option<&mut ClientSocket> {
        self.clients.get_mut(index as usize)
    }

    /// The socket that `token` stands for, with what is known about it.
    #[inline]
    pub(super) fn port_mut(&mut self, token: Token) -> Option<&mut Port> {
        match token {
            Token::Wake => None,
            Token::Client(index) => {
                self.clients.get_mut(index as usize).map(|client| &mut client.port)
            }
            Token::Relay(id) => self.relays.get_mut(id as usize)?.as_mut(),
        }
    }

    /// The listener that answers to `server` leave through, and the address that they must be
    /// told to leave from.
    pub(super) fn route(&self, server: SocketAddr) -> Option<(Token, Option<SocketAddr>)> {
        let index = self.clients.iter().position(|client| client.serves(server))?;
        let from = self.clients[index].wildcard.then_some(server);
        Some((Token::Client(u32::try_from(index).ok()?), from))
    }
}

/// The most sockets that one wait of a worker reports.
pub(super) const EVENTS: usize = 256;

/// The most datagrams thrown away from a socket that was held: more than its buffer has room for.
const EARLY_MAX: usize = 16_384;

/// A bound socket for an allocation.
pub(super) fn open(local: SocketAddr, options: SocketOptions) -> Result<Socket, BindFailure> {
    relay_socket(local, options).map_err(bind_failure)
}

/// A socket that [`open`] made and that was held until now.
pub(super) fn taken_over(held: HeldSocket) -> Result<Socket, BindFailure> {
    // Nothing else is held for an allocation over UDP, so it is a socket of its kind.
    let socket: Socket = held.into_socket().ok_or(BindFailure::Unavailable)?;
    // What came before anybody asked for the address is for nobody; later it might pass for what
    // somebody was permitted to send.
    let mut byte = [std::mem::MaybeUninit::uninit(); 1];
    for _ in 0..EARLY_MAX {
        if socket.recv(&mut byte).is_err() {
            break;
        }
    }
    Ok(socket)
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
        let sockets = Sockets::new(wake.as_fd(), Vec::new(), 1 << 16);
        let mut sockets = sockets.expect("sockets");
        // An address of this test alone: nobody takes the port in between.
        let taken = UdpSocket::bind("127.0.0.81:0").expect("a socket");
        let taken = taken.local_addr().map(|address| (taken, address)).expect("an address");
        assert_eq!(sockets.bind(RelayId(1), taken.1), Err(BindFailure::PortTaken));
        let gone = "203.0.113.77:50000".parse().expect("a test address");
        assert_eq!(sockets.bind(RelayId(1), gone), Err(BindFailure::Unavailable));
        assert_eq!(sockets.relays.iter().flatten().count(), 0);
        drop(taken.0);
        assert_eq!(sockets.bind(RelayId(1), taken.1), Ok(()));
        assert_eq!(sockets.relays.iter().flatten().count(), 1);
        sockets.close(RelayId(1));
        UdpSocket::bind(taken.1).expect("the port is free again");
    }
}
