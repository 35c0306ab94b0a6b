//! The load: clients and peers in one thread, on a core of its own.
//!
//! Closed loop: a window of packets is under way, and the next leave when some have arrived. So the
//! server is always busy and its queues never overflow; whoever is the slower one shows in how long
//! the load had to wait.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, send, sendmmsg, sendmsg,
};

/// What is sent: `burst` packets of one client in a row, merged into one send or not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) burst: usize,
    pub(crate) merged: bool,
}

/// Who sends: each socket in turn, one frame; the other end is where it is connected to, or the
/// address beside it.
pub(crate) struct Source {
    socket: UdpSocket,
    to: Option<SockaddrIn>,
    frame: Vec<u8>,
}

impl Source {
    /// Frames to whom the socket is connected to.
    pub(crate) fn connected(socket: &UdpSocket, frame: Vec<u8>) -> Self {
        Self { socket: clone(socket), to: None, frame }
    }

    /// Frames to this address.
    pub(crate) fn to(socket: &UdpSocket, to: SocketAddrV4, frame: Vec<u8>) -> Self {
        Self { socket: clone(socket), to: Some(SockaddrIn::from(to)), frame }
    }

    fn send(&self, shape: Shape, bytes: &[u8], headers: &mut MultiHeaders<SockaddrIn>) -> usize {
        let (socket, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let frame = &bytes[..self.frame.len()];
        let sent = if shape.burst == 1 {
            match &self.to {
                None => send(socket, frame, flags).map(|_| 1),
                Some(to) => nix::sys::socket::sendto(socket, frame, to, flags).map(|_| 1),
            }
        } else if shape.merged {
            let segment = u16::try_from(frame.len()).expect("a datagram");
            let control = [ControlMessage::UdpGsoSegments(&segment)];
            let slices = [IoSlice::new(bytes)];
            sendmsg(socket, &slices, &control, flags, self.to.as_ref()).map(|_| shape.burst)
        } else {
            let slices = [[IoSlice::new(frame)]; BURST_MAX];
            let to = [self.to; BURST_MAX];
            let (slices, to) = (&slices[..shape.burst], &to[..shape.burst]);
            sendmmsg(socket, headers, slices, to, [], flags).map(Iterator::count)
        };
        // A full buffer: what did not leave is sent another time.
        sent.unwrap_or(0)
    }
}

/// Sends in turn.
pub(crate) struct Sources {
    all: Vec<Source>,
    /// The frame of each, `burst` times.
    bytes: Vec<Vec<u8>>,
    next: usize,
    shape: Shape,
    headers: MultiHeaders<SockaddrIn>,
}

impl Sources {
    pub(crate) fn new(all: Vec<Source>, shape: Shape) -> Self {
        assert!(shape.burst <= BURST_MAX && !all.is_empty());
        let bytes = all.iter().map(|source| source.frame.repeat(shape.burst)).collect();
        Self { all, bytes, next: 0, shape, headers: MultiHeaders::preallocate(BURST_MAX, None) }
    }

    /// One burst of the next client; how many packets left.
    pub(crate) fn send_next(&mut self) -> usize {
        let index = self.next;
        self.next = (index + 1) % self.all.len();
        self.all[index].send(self.shape, &self.bytes[index], &mut self.headers)
    }

    /// Writes something into the first bytes behind `at` of the next client's frame.
    pub(crate) fn mark_next(&mut self, at: usize, mark: [u8; 8]) {
        self.bytes[self.next][at..at + 8].copy_from_slice(&mark);
    }
}

/// Where packets arrive.
pub(crate) struct Sinks {
    sockets: Vec<UdpSocket>,
    poll: Epoll,
    headers: MultiHeaders<SockaddrIn>,
    buffers: Vec<u8>,
    /// Bytes of a packet when it arrives.
    size: usize,
}

/// What arrived in one piece: the first bytes, who sent it, and how many packets it was.
pub(crate) struct Arrived<'a> {
    pub(crate) head: &'a [u8],
    pub(crate) from: Option<SockaddrIn>,
    pub(crate) packets: usize,
}

impl Sinks {
    /// Sockets that receive packets of `size` bytes.
    pub(crate) fn new<'a>(sockets: impl Iterator<Item = &'a UdpSocket>, size: usize) -> Self {
        let poll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
        let sockets: Vec<UdpSocket> = sockets.map(clone).collect();
        for (index, socket) in sockets.iter().enumerate() {
            socket.set_nonblocking(true).expect("a socket that does not block");
            let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
            poll.add(socket.as_fd(), event).expect("epoll takes it");
        }
        let headers = MultiHeaders::preallocate(BATCH, None);
        Self { sockets, poll, headers, buffers: vec![0; HEAD * BATCH], size }
    }

    /// Takes what is there, as [`Sinks::take`] does, and looks at nothing.
    pub(crate) fn count(&mut self) -> u64 {
        self.take(|_| ())
    }

    /// Takes what is there; how many packets it was.
    pub(crate) fn take(&mut self, mut each: impl FnMut(Arrived<'_>)) -> u64 {
        if self.sockets.len() == 1 {
            return self.take_from(0, &mut each);
        }
        let mut events = [EpollEvent::empty(); BATCH];
        let ready = self.poll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        let taken = events[..ready].iter().map(|event| self.take_from(event.data(), &mut each));
        taken.sum()
    }

    /// Payload is cut off after its first bytes: the length is what counts.
    fn take_from(&mut self, index: u64, each: &mut impl FnMut(Arrived<'_>)) -> u64 {
        let socket = self.sockets[index as usize].as_raw_fd();
        let mut places = self.buffers.chunks_exact_mut(HEAD);
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] = std::array::from_fn(|_| {
            [IoSliceMut::new(places.next().map_or(&mut [][..], |place| place))]
        });
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        let Ok(results) = recvmmsg(socket, &mut self.headers, &mut slices, flags, None) else {
            return 0;
        };
        let arrived: Vec<_> = results.map(|message| (message.address, message.bytes)).collect();
        let mut total = 0;
        for ((from, bytes), head) in arrived.into_iter().zip(self.buffers.chunks_exact(HEAD)) {
            let packets = bytes.div_ceil(self.size);
            total += packets as u64;
            each(Arrived { head: &head[..bytes.min(HEAD)], from, packets });
        }
        total
    }
}

/// What happened while it was measured.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counted {
    pub(crate) arrived: u64,
    pub(crate) lost: u64,
    pub(crate) elapsed: Duration,
    /// How long there was nothing to send and nothing to take.
    pub(crate) idle: Duration,
}

/// Keeps a window of packets under way for so long. `send` sends one burst and `take` takes what
/// is there, and both give the number of packets.
pub(crate) fn closed_loop(
    window: u64,
    length: Duration,
    mut send: impl FnMut() -> usize,
    mut take: impl FnMut() -> u64,
) -> Counted {
    let mut counted = Counted::default();
    let (mut under_way, start) = (0u64, Instant::now());
    let (mut before, mut progress) = (start, start);
    loop {
        let mut sent = 0;
        while under_way + sent < window && sent < ROUND {
            match send() {
                0 => break,
                packets => sent += packets as u64,
            }
        }
        let arrived = take();
        under_way = (under_way + sent).saturating_sub(arrived);
        counted.arrived += arrived;
        let now = Instant::now();
        if sent + arrived == 0 {
            counted.idle += now - before;
            if now - progress > STALL {
                // What has not arrived by now never will.
                counted.lost += std::mem::take(&mut under_way);
            }
        }
        if arrived > 0 || under_way == 0 {
            progress = now;
        }
        before = now;
        if now - start >= length {
            counted.elapsed = now - start;
            return counted;
        }
    }
}

fn clone(socket: &UdpSocket) -> UdpSocket {
    socket.try_clone().expect("another descriptor")
}

/// Packets in a row of one client, at most.
pub(crate) const BURST_MAX: usize = 16;
/// Packets that are sent before arrivals are looked at again.
const ROUND: u64 = 32;
/// Pieces per call.
const BATCH: usize = 64;
/// Bytes that are kept of each.
const HEAD: usize = 64;
/// After so long without an arrival everything under way counts as lost.
const STALL: Duration = Duration::from_millis(200);
