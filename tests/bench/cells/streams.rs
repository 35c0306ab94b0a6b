//! Payload of clients over TCP and TLS.

use std::cell::RefCell;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::packets::{clients, frame, peer};
use super::{COST, Cell, Runner, WINDOW, measure};
use crate::client::Client;
use crate::forwarder::HEADER;
use crate::load::{Shape, Sinks, Source, Sources};
use crate::report::Goal;
use crate::target::{Target, Transport};

const SERVERS: &[&str] = &["turncast", "coturn"];
const CLIENTS: usize = 50;
const PAYLOAD: usize = 1200;

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (transport, name, least) in [(Transport::Tcp, "TCP", 1.5), (Transport::Tls, "TLS", 1.0)] {
        for (burst, kind) in [(1, ""), (BURST, " bursts")] {
            let goal = || Goal::ratio(COST, &["coturn"], least);
            let name = format!("{name}{kind} 1200 B x {CLIENTS}");
            let up = move |target: &Target| upwards(target, transport, burst);
            cells.push(Cell::new(name.clone(), SERVERS, up).goal(goal()).quick());
            let down = move |target: &Target| downwards(target, transport, burst);
            cells.push(Cell::new(format!("{name} down"), SERVERS, down).goal(goal()));
        }
    }
    cells
}

/// So many packets of a client at a time, as a picture has.
const BURST: usize = 8;

/// How many packets are under way.
fn window(burst: usize) -> u64 {
    WINDOW * burst as u64
}

/// A write for each packet or burst, one client after the other.
fn upwards(target: &Target, transport: Transport, burst: usize) -> Runner {
    let (socket, address) = peer();
    let mut clients = clients(target, transport, CLIENTS, (&socket, address));
    let mut sinks = Sinks::new([&socket].into_iter(), PAYLOAD);
    let (frame, mut next) = (frame(PAYLOAD), 0);
    Box::new(move |target, length| {
        let send = || {
            clients[next].stream().send_burst(&frame, burst);
            next = (next + 1) % CLIENTS;
            burst
        };
        measure(target, length, window(burst), send, || sinks.count())
    })
}

fn downwards(target: &Target, transport: Transport, burst: usize) -> Runner {
    let (socket, address) = peer();
    let clients = RefCell::new(clients(target, transport, CLIENTS, (&socket, address)));
    let bytes = frame(PAYLOAD)[HEADER..].to_vec();
    let source = |client: &Client| Source::to(&socket, client.relayed, bytes.clone());
    let sources = clients.borrow().iter().map(source).collect();
    let mut sources = Sources::new(sources, Shape { burst, merged: burst > 1 });
    let mut buffer = vec![0; 1 << 16];
    let mut rest = 0;
    // Asking each client in turn would cost the load more than what it sends.
    let poll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
    for (index, client) in clients.borrow_mut().iter_mut().enumerate() {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
        poll.add(client.stream().tcp(), event).expect("epoll takes it");
    }
    Box::new(move |target, length| {
        let take = || {
            let mut events = [EpollEvent::empty(); CLIENTS];
            let ready = poll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
            let mut clients = clients.borrow_mut();
            for event in &events[..ready] {
                rest += clients[event.data() as usize].stream().receive(&mut buffer);
            }
            let packets = rest / (PAYLOAD + HEADER);
            rest %= PAYLOAD + HEADER;
            packets as u64
        };
        measure(target, length, window(burst), || sources.send_next(), take)
    })
}
