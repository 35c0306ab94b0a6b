//! Many datagrams a call: `recvmmsg`, then `sendmmsg` for all that leave one socket.

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd as _;

use nix::sys::epoll::EpollEvent;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, sendto};

use super::{BATCH, Forwarder, HEADER, LISTENER, header};

/// Bytes per datagram: more than any of the benchmark has.
const SLOT: usize = 2048;

struct Batch {
    buffers: Vec<u8>,
    received: MultiHeaders<SockaddrIn>,
    sent: MultiHeaders<SockaddrIn>,
    /// Slot, sender and length of what the last call received.
    datagrams: Vec<(usize, SocketAddrV4, usize)>,
    /// What leaves: index of the route, slot, length.
    leaving: Vec<(usize, usize, usize)>,
    addresses: Vec<Option<SockaddrIn>>,
}

pub(super) fn run(forwarder: &mut Forwarder) {
    let mut events = [EpollEvent::empty(); BATCH];
    let mut batch = Batch {
        buffers: vec![0; SLOT * BATCH],
        received: MultiHeaders::preallocate(BATCH, None),
        sent: MultiHeaders::preallocate(BATCH, None),
        datagrams: Vec::with_capacity(BATCH),
        leaving: Vec::with_capacity(BATCH),
        addresses: Vec::with_capacity(BATCH),
    };
    loop {
        let ready = forwarder.wait(&mut events);
        for event in &events[..ready] {
            match event.data() {
                LISTENER => while batch.outward(forwarder) {},
                index => while batch.inward(forwarder, index as usize) {},
            }
        }
    }
}

impl Batch {
    /// Fills slots behind room for a header; whether there may be more.
    fn receive(&mut self, socket: i32) -> bool {
        self.datagrams.clear();
        let mut slots = self.buffers.chunks_exact_mut(SLOT);
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] = std::array::from_fn(|_| {
            let slot = slots.next().map_or(&mut [][..], |slot| &mut slot[HEADER..]);
            [IoSliceMut::new(slot)]
        });
        let flags = MsgFlags::MSG_DONTWAIT;
        let Ok(results) = recvmmsg(socket, &mut self.received, &mut slices, flags, None) else {
            return false;
        };
        for (slot, message) in results.enumerate() {
            let from = message.address.map_or(UNKNOWN, SocketAddrV4::from);
            self.datagrams.push((slot, from, message.bytes));
        }
        self.datagrams.len() == BATCH
    }

    fn outward(&mut self, forwarder: &mut Forwarder) -> bool {
        let more = self.receive(forwarder.listener.as_raw_fd());
        self.leaving.clear();
        for &(slot, from, len) in &self.datagrams {
            let start = slot * SLOT + HEADER;
            if let Some(route) = forwarder.outward(from, &self.buffers[start..start + len]) {
                self.leaving.push((route, slot, len));
            }
        }
        // Order within a route is kept.
        self.leaving.sort_by_key(|(route, ..)| *route);
        for group in self.leaving.chunk_by(|(one, ..), (other, ..)| one == other) {
            let route = &forwarder.routes[group[0].0];
            let (socket, to) = (route.relay.as_raw_fd(), SockaddrIn::from(route.peer));
            let bytes = |index: usize| {
                let (_, slot, len) = group[index];
                &self.buffers[slot * SLOT + 2 * HEADER..slot * SLOT + HEADER + len]
            };
            send(socket, group.len(), to, &mut self.sent, &mut self.addresses, bytes);
        }
        more
    }

    fn inward(&mut self, forwarder: &Forwarder, index: usize) -> bool {
        let route = &forwarder.routes[index];
        let more = self.receive(route.relay.as_raw_fd());
        for &(slot, _, len) in &self.datagrams {
            self.buffers[slot * SLOT..slot * SLOT + HEADER].copy_from_slice(&header(len));
        }
        let (socket, to) = (forwarder.listener.as_raw_fd(), SockaddrIn::from(route.client));
        let bytes = |index: usize| {
            let (slot, _, len) = self.datagrams[index];
            &self.buffers[slot * SLOT..slot * SLOT + HEADER + len]
        };
        let count = self.datagrams.len();
        send(socket, count, to, &mut self.sent, &mut self.addresses, bytes);
        more
    }
}

/// Sends `count` datagrams; one alone by the cheaper call.
fn send<'a>(
    socket: i32,
    count: usize,
    to: SockaddrIn,
    headers: &'a mut MultiHeaders<SockaddrIn>,
    addresses: &mut Vec<Option<SockaddrIn>>,
    bytes: impl Fn(usize) -> &'a [u8],
) {
    // A full buffer drops the rest, as with any relay.
    match count {
        0 => {}
        1 => drop(sendto(socket, bytes(0), &to, MsgFlags::MSG_DONTWAIT)),
        _ => {
            addresses.clear();
            addresses.resize(count, Some(to));
            let slices: [[IoSlice<'_>; 1]; BATCH] = std::array::from_fn(|index| {
                [IoSlice::new(if index < count { bytes(index) } else { &[] })]
            });
            let flags = MsgFlags::MSG_DONTWAIT;
            drop(sendmmsg(socket, headers, &slices[..count], &addresses[..], [], flags));
        }
    }
}

const UNKNOWN: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0);
