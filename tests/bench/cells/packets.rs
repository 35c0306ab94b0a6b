//! Payload over UDP.

use std::net::{SocketAddr, SocketAddrV4, UdpSocket};

use super::{COST, Cell, Runner, WINDOW, measure};
use crate::client::{Client, widen};
use crate::forwarder::{HEADER, header};
use crate::load::{Shape, Sinks, Source, Sources};
use crate::report::Goal;
use crate::target::{PEER, Target, Transport};

const ALL: &[&str] = &["turncast", "coturn", "epoll", "mmsg", "segmented", "server"];
const PLAIN: &[&str] = &["turncast", "coturn", "epoll", "mmsg", "server"];
const OWN_AND_COTURN: &[&str] = &["turncast", "coturn"];
const SINGLE: Shape = Shape { burst: 1, merged: false };

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for clients in [1, 50, 500] {
        for payload in [172, 1200] {
            let name = format!("single {payload} B x {clients}");
            let up = move |target: &Target| single(target, clients, payload);
            let cell = interleaved(Cell::new(name, PLAIN, up));
            cells.push(if clients == 50 { cell.quick() } else { cell });
        }
    }
    let down = |target: &Target| downwards(target, 50, 1200, SINGLE);
    cells.push(interleaved(Cell::new("single 1200 B x 50 down", PLAIN, down)));

    let merged = Shape { burst: 16, merged: true };
    let name = "bursts 1200 B x 50 merged";
    let up = move |target: &Target| upwards(target, 50, 1200, merged);
    let cell = Cell::new(name, ALL, up).goal(Goal::ratio(COST, &["mmsg"], 3.0));
    cells.push(cell.goal(Goal::ratio(COST, &["segmented"], 0.85)).quick());
    let name = "bursts 1200 B x 50 merged down";
    let down = move |target: &Target| downwards(target, 50, 1200, merged);
    let cell = Cell::new(name, ALL, down).goal(Goal::ratio(COST, &["mmsg"], 3.0));
    cells.push(cell.goal(Goal::ratio(COST, &["segmented"], 0.85)));
    let apart = Shape { burst: 16, merged: false };
    let name = "bursts 1200 B x 50 apart";
    let up = move |target: &Target| upwards(target, 50, 1200, apart);
    cells.push(Cell::new(name, ALL, up).goal(Goal::ratio(COST, &["mmsg"], 1.2)).quick());

    for clients in [2, 50] {
        let name = format!("client to client 1200 B x {clients}");
        let prepare = move |target: &Target| across(target, clients, 1200);
        let cell = Cell::new(name, PLAIN, prepare).goal(Goal::ratio(COST, &["coturn"], 2.0));
        cells.push(if clients == 50 { cell.quick() } else { cell });
    }
    let prepare = |target: &Target| across(target, 50, 1200);
    let cell = Cell::new("client to client 1200 B x 50, two workers", OWN_AND_COTURN, prepare);
    let cell = cell.goal(Goal::ratio(COST, &["coturn"], 2.0));
    // The kernel chooses the worker of each client: half of the pairs are at two different ones.
    cells.push(Cell { workers: 2, ..cell });
    cells
}

fn interleaved(cell: Cell) -> Cell {
    cell.goal(Goal::ratio(COST, &["epoll", "mmsg"], 0.9)).goal(Goal::ratio(COST, &["coturn"], 1.2))
}

/// A peer, and where it is.
pub(crate) fn peer() -> (UdpSocket, SocketAddrV4) {
    let socket = UdpSocket::bind((PEER, 0)).expect("a socket");
    widen(&socket);
    let Ok(SocketAddr::V4(address)) = socket.local_addr() else { panic!("an address of IPv4") };
    (socket, address)
}

/// Clients whose channel leads to `peer`, and from whom one packet came through to it.
pub(crate) fn clients(
    target: &Target,
    transport: Transport,
    count: usize,
    peer: (&UdpSocket, SocketAddrV4),
) -> Vec<Client> {
    let all = (0..count).map(|_| {
        let mut client = target.client(transport);
        client.bind(peer.1);
        client
    });
    let all: Vec<Client> = all.collect();
    if transport == Transport::Udp {
        for client in &all {
            arrives(client, peer.0, client.relayed);
        }
    }
    all
}

/// Proves with one packet that the way is open, unchanged and from the right address.
fn arrives(client: &Client, peer: &UdpSocket, from: SocketAddrV4) {
    client.datagrams().send(&frame(100)).expect("a packet");
    peer.set_read_timeout(Some(std::time::Duration::from_secs(5))).expect("a deadline");
    let mut buffer = [0; 2048];
    let (len, sender) = peer.recv_from(&mut buffer).expect("the packet came through");
    assert_eq!((&buffer[..len], sender), (&frame(100)[HEADER..], from.into()));
}

/// ChannelData with so much payload.
pub(crate) fn frame(payload: usize) -> Vec<u8> {
    let mut frame = header(payload).to_vec();
    frame.extend((0..payload).map(|index| index as u8));
    frame
}

/// Interleaved single packets to the peer.
pub(super) fn single(target: &Target, count: usize, payload: usize) -> Runner {
    upwards(target, count, payload, SINGLE)
}

fn upwards(target: &Target, count: usize, payload: usize, shape: Shape) -> Runner {
    let (socket, address) = peer();
    let clients = clients(target, Transport::Udp, count, (&socket, address));
    let source = |client: &Client| Source::connected(client.datagrams(), frame(payload));
    let sources = Sources::new(clients.iter().map(source).collect(), shape);
    run(clients, sources, Sinks::new([&socket].into_iter(), payload), shape)
}

fn downwards(target: &Target, count: usize, payload: usize, shape: Shape) -> Runner {
    let (socket, address) = peer();
    let clients = clients(target, Transport::Udp, count, (&socket, address));
    let bytes = frame(payload)[HEADER..].to_vec();
    let source = |client: &Client| Source::to(&socket, client.relayed, bytes.clone());
    let sources = Sources::new(clients.iter().map(source).collect(), shape);
    let sinks = Sinks::new(clients.iter().map(Client::datagrams), payload + HEADER);
    run(clients, sources, sinks, shape)
}

/// Each client's peer is the relayed address of another.
fn across(target: &Target, count: usize, payload: usize) -> Runner {
    let clients = pairs(target, count);
    let source = |client: &Client| Source::connected(client.datagrams(), frame(payload));
    let sources = Sources::new(clients.iter().map(source).collect(), SINGLE);
    let sinks = Sinks::new(clients.iter().map(Client::datagrams), payload + HEADER);
    run(clients, sources, sinks, SINGLE)
}

/// Clients, of whom each two have a channel to the other's relayed address.
pub(crate) fn pairs(target: &Target, count: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..count).map(|_| target.client(Transport::Udp)).collect();
    for index in 0..count {
        let other = clients[index ^ 1].relayed;
        clients[index].bind(other);
    }
    clients
}

fn run(clients: Vec<Client>, mut sources: Sources, mut sinks: Sinks, shape: Shape) -> Runner {
    // Two bursts at least are under way.
    let window = WINDOW.max(2 * shape.burst as u64);
    Box::new(move |target, length| {
        let _kept = &clients;
        measure(target, length, window, || sources.send_next(), || sinks.count())
    })
}
