//! Runs of datagrams: what the kernel has merged is received in one piece and leaves in one piece.

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd as _;

use nix::sys::epoll::EpollEvent;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg,
};

use super::{BATCH, DATAGRAM_MAX, Forwarder, HEADER, LISTENER, header};

/// One merged run: who sent it, its bytes, and those of each datagram in it but the last.
struct Run {
    from: SocketAddrV4,
    len: usize,
    segment: usize,
}

pub(super) fn run(forwarder: &mut Forwarder) {
    let mut events = [EpollEvent::empty(); BATCH];
    let mut buffer = vec![0; DATAGRAM_MAX];
    let mut control = nix::cmsg_space!(i32);
    control.resize(control.capacity(), 0);
    loop {
        let ready = forwarder.wait(&mut events);
        for event in &events[..ready] {
            for _ in 0..BATCH {
                let socket = match event.data() {
                    LISTENER => forwarder.listener.as_raw_fd(),
                    index => forwarder.routes[index as usize].relay.as_raw_fd(),
                };
                let Some(run) = receive(socket, &mut buffer, &mut control) else { break };
                let bytes = &buffer[..run.len];
                match event.data() {
                    LISTENER => outward(forwarder, &run, bytes),
                    index => inward(forwarder, index as usize, &run, bytes),
                }
            }
        }
    }
}

fn receive(socket: i32, buffer: &mut [u8], control: &mut [u8]) -> Option<Run> {
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrIn>(socket, &mut slices, Some(control), flags).ok()?;
    let segment = message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::UdpGroSegments(segment) => usize::try_from(segment).ok(),
        _ => None,
    });
    let (from, len) = (SocketAddrV4::from(message.address?), message.bytes);
    Some(Run { from, len, segment: segment.unwrap_or(len).max(1) })
}

fn outward(forwarder: &mut Forwarder, run: &Run, bytes: &[u8]) {
    let Some(index) = forwarder.outward(run.from, bytes) else { return };
    let route = &forwarder.routes[index];
    let mut slices = [IoSlice::new(&[]); BATCH];
    let mut count = 0;
    for (slice, datagram) in slices.iter_mut().zip(bytes.chunks(run.segment)) {
        *slice = IoSlice::new(datagram.get(HEADER..).unwrap_or_default());
        count += 1;
    }
    let to = SockaddrIn::from(route.peer);
    send(route.relay.as_raw_fd(), &slices[..count], run.segment - HEADER, to);
}

fn inward(forwarder: &Forwarder, index: usize, run: &Run, bytes: &[u8]) {
    let mut headers = [[0; HEADER]; BATCH];
    let datagrams = bytes.chunks(run.segment);
    for (place, datagram) in headers.iter_mut().zip(datagrams.clone()) {
        *place = header(datagram.len());
    }
    let mut slices = [IoSlice::new(&[]); 2 * BATCH];
    let mut count = 0;
    for (two, (head, datagram)) in slices.chunks_mut(2).zip(headers.iter().zip(datagrams)) {
        two.copy_from_slice(&[IoSlice::new(head), IoSlice::new(datagram)]);
        count += 2;
    }
    let to = SockaddrIn::from(forwarder.routes[index].client);
    send(forwarder.listener.as_raw_fd(), &slices[..count], run.segment + HEADER, to);
}

/// Sends one run; a full buffer drops it, as with any relay.
fn send(socket: i32, slices: &[IoSlice<'_>], segment: usize, to: SockaddrIn) {
    let flags = MsgFlags::MSG_DONTWAIT;
    let total: usize = slices.iter().map(|slice| slice.len()).sum();
    if total <= segment {
        let _ = sendmsg(socket, slices, &[], flags, Some(&to));
    } else {
        let segment = u16::try_from(segment).expect("a datagram");
        let control = [ControlMessage::UdpGsoSegments(&segment)];
        let _ = sendmsg(socket, slices, &control, flags, Some(&to));
    }
}
