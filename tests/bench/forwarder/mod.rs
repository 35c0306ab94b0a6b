//! The least that a relay can do: receive, look up, send. No TURN, no checks, no time; what a real
//! relay costs beyond this is its own.
//!
//! Registration: a datagram `R`, then IPv4 address and port of the peer. The answer is the address
//! and port of a socket that is bound for this client. ChannelData of the client then leaves that
//! socket for the peer without its header, and what comes there goes to the client with one.

mod epoll;
mod mmsg;
mod segmented;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd as _;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{setsockopt, sockopt};
use rustc_hash::FxHashMap;

/// ChannelData's header: channel and length.
pub(crate) const HEADER: usize = 4;
/// The channel of every client.
pub(crate) const CHANNEL: [u8; 2] = [0x40, 0x00];
/// The largest datagram, or run of datagrams that were merged.
const DATAGRAM_MAX: usize = 65_535;
/// Bytes of a socket's buffer.
const BUFFER: usize = 4 << 20;
/// Datagrams per call and per turn of a socket.
const BATCH: usize = 64;

/// How a forwarder talks to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// `recvfrom` and `sendto`.
    Epoll,
    /// `recvmmsg` and `sendmmsg`.
    Mmsg,
    /// Merged datagrams in (`UDP_GRO`), segmented ones out (`UDP_SEGMENT`).
    Segmented,
}

/// One client: its own address, its socket towards peers, and its peer.
struct Route {
    client: SocketAddrV4,
    relay: UdpSocket,
    peer: SocketAddrV4,
}

/// The sockets and the two look-ups.
struct Forwarder {
    listener: UdpSocket,
    routes: Vec<Route>,
    by_client: FxHashMap<SocketAddrV4, usize>,
    poll: Epoll,
    merge: bool,
}

/// Epoll's token of the listener; those of relay sockets are indices of routes.
const LISTENER: u64 = u64::MAX;

/// Prints its address and serves until it is killed.
pub(crate) fn run(kind: Kind) {
    let listener = UdpSocket::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address");
    let mut out = std::io::stdout();
    writeln!(out, "{address}").and_then(|()| out.flush()).expect("somebody reads");
    let poll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
    let merge = kind == Kind::Segmented;
    let (routes, by_client) = (Vec::new(), FxHashMap::default());
    let mut forwarder = Forwarder { listener, routes, by_client, poll, merge };
    forwarder.watch(&forwarder.listener, LISTENER);
    match kind {
        Kind::Epoll => epoll::run(&mut forwarder),
        Kind::Mmsg => mmsg::run(&mut forwarder),
        Kind::Segmented => segmented::run(&mut forwarder),
    }
}

impl Forwarder {
    fn watch(&self, socket: &UdpSocket, token: u64) {
        socket.set_nonblocking(true).expect("a socket that does not block");
        // The kernel takes what its limit allows.
        setsockopt(socket, sockopt::RcvBuf, &BUFFER).expect("a receive buffer");
        setsockopt(socket, sockopt::SndBuf, &BUFFER).expect("a send buffer");
        if self.merge {
            setsockopt(socket, sockopt::UdpGroSegment, &true).expect("UDP_GRO");
        }
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
        self.poll.add(socket.as_fd(), event).expect("epoll takes it");
    }

    fn wait(&self, events: &mut [EpollEvent]) -> usize {
        loop {
            match self.poll.wait(events, EpollTimeout::NONE) {
                Ok(count) => return count,
                Err(nix::errno::Errno::EINTR) => {}
                Err(err) => panic!("epoll: {err}"),
            }
        }
    }

    /// The route of a client's ChannelData; anything else may be a registration.
    fn outward(&mut self, client: SocketAddrV4, datagram: &[u8]) -> Option<usize> {
        if datagram.starts_with(&CHANNEL) {
            return self.by_client.get(&client).copied();
        }
        if let [b'R', a, b, c, d, high, low] = *datagram {
            let peer =
                SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]));
            self.register(client, peer);
        }
        None
    }

    fn register(&mut self, client: SocketAddrV4, peer: SocketAddrV4) {
        let index = *self.by_client.entry(client).or_insert(self.routes.len());
        if index == self.routes.len() {
            let relay = UdpSocket::bind("127.0.0.1:0").expect("a relay socket");
            self.watch(&relay, index as u64);
            self.routes.push(Route { client, relay, peer });
        }
        let route = &mut self.routes[index];
        route.peer = peer;
        let local = route.relay.local_addr().expect("an address").to_string();
        // A client whose answer is lost asks again.
        let _ = self.listener.send_to(local.as_bytes(), client);
    }
}

/// ChannelData's header for `len` bytes.
pub(crate) fn header(len: usize) -> [u8; HEADER] {
    let [high, low] = u16::try_from(len).expect("a datagram").to_be_bytes();
    [CHANNEL[0], CHANNEL[1], high, low]
}
