//! One datagram a call: `recvfrom`, `sendto`.

use std::net::{SocketAddr, SocketAddrV4};

use nix::sys::epoll::EpollEvent;

use super::{BATCH, DATAGRAM_MAX, Forwarder, HEADER, LISTENER, header};

pub(super) fn run(forwarder: &mut Forwarder) {
    let mut events = [EpollEvent::empty(); BATCH];
    let mut buffer = vec![0; HEADER + DATAGRAM_MAX];
    loop {
        let ready = forwarder.wait(&mut events);
        for event in &events[..ready] {
            for _ in 0..BATCH {
                let more = match event.data() {
                    LISTENER => outward(forwarder, &mut buffer),
                    index => inward(forwarder, index as usize, &mut buffer),
                };
                if !more {
                    break;
                }
            }
        }
    }
}

fn outward(forwarder: &mut Forwarder, buffer: &mut [u8]) -> bool {
    let Ok((len, SocketAddr::V4(from))) = forwarder.listener.recv_from(buffer) else {
        return false;
    };
    if let Some(index) = forwarder.outward(from, &buffer[..len]) {
        let route = &forwarder.routes[index];
        // A full buffer drops it, as with any relay.
        let _ = route.relay.send_to(&buffer[HEADER..len], route.peer);
    }
    true
}

fn inward(forwarder: &Forwarder, index: usize, buffer: &mut [u8]) -> bool {
    let route = &forwarder.routes[index];
    let Ok((len, _)) = route.relay.recv_from(&mut buffer[HEADER..]) else { return false };
    buffer[..HEADER].copy_from_slice(&header(len));
    let client: SocketAddrV4 = route.client;
    let _ = forwarder.listener.send_to(&buffer[..HEADER + len], client);
    true
}
