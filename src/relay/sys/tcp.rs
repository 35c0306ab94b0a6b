//! The sockets of TCP allocations: one that listens at the relayed address, and for each peer that
//! is connected to another one with the same address (RFC 6062, section 5.2).
//!
//! What a peer sends before the client is there stays in the receive buffer of its socket: the
//! kernel closes the window when that is full, and nothing is lost.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use socket2::{Domain, Protocol, Socket, Type};

/// Listens at `local`. Nobody else has the port, and only [`tcp_relay_socket`] can share it. What
/// is accepted inherits buffers of `buffer_bytes` each.
///
/// # Errors
/// What the failing system call said.
pub(in crate::relay) fn tcp_relay_listener(
    local: SocketAddr,
    buffer_bytes: usize,
) -> io::Result<TcpListener> {
    let socket = unbound(local, buffer_bytes)?;
    socket.bind(&local.into())?;
    // Bound alone, and shared from now on.
    socket.set_reuse_port(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A socket that can be connected from `local`, where a [`tcp_relay_listener`] is.
///
/// # Errors
/// What the failing system call said.
pub(in crate::relay) fn tcp_relay_socket(
    local: SocketAddr,
    buffer_bytes: usize,
) -> io::Result<TcpStream> {
    let socket = unbound(local, buffer_bytes)?;
    socket.set_reuse_port(true)?;
    socket.bind(&local.into())?;
    Ok(socket.into())
}

fn unbound(local: SocketAddr, buffer_bytes: usize) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(local), kind, Some(Protocol::TCP))?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of a former holder may still be in TIME_WAIT.
    socket.set_reuse_address(true)?;
    // The kernel cuts what exceeds its own maximum, and never refuses.
    socket.set_recv_buffer_size(buffer_bytes)?;
    socket.set_send_buffer_size(buffer_bytes)?;
    Ok(socket)
}

/// Peers that the kernel answers before we know of them.
const BACKLOG: i32 = 16;

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::relay::sys::was_address_in_use;

    const BUFFER: usize = 16 * 1024;

    fn listener(local: &str) -> (TcpListener, SocketAddr) {
        let local = local.parse().expect("a test address");
        let listener = tcp_relay_listener(local, BUFFER).expect("a listener");
        let local = listener.local_addr().expect("bound");
        listener.set_nonblocking(false).expect("an option");
        (listener, local)
    }

    #[test]
    fn a_relayed_address_listens_and_connects_at_once() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let (relayed, local) = listener(any);
            let (one, two) = (listener(any), listener(any));
            for (peer, to) in [one, two] {
                let socket =
                    Socket::from(tcp_relay_socket(local, BUFFER).expect("a second socket"));
                socket.set_nonblocking(false).expect("an option");
                socket.connect(&to.into()).expect("a connection");
                assert_eq!(peer.accept().expect("a connection").1, local);
            }
            let peer = TcpStream::connect(local).expect("it listens");
            let from = peer.local_addr().expect("bound");
            assert_eq!(relayed.accept().expect("a connection").1, from);
        }
    }

    #[test]
    fn a_relayed_address_is_nobody_elses() {
        let (_relayed, local) = listener("127.0.0.1:0");
        let refused = tcp_relay_listener(local, BUFFER).expect_err("taken");
        assert!(was_address_in_use(&refused));
        assert!(was_address_in_use(&TcpListener::bind(local).expect_err("taken")));
    }

    #[test]
    fn what_a_peer_sends_early_waits_in_a_bounded_buffer() {
        let (relayed, local) = listener("127.0.0.1:0");
        let mut peer = TcpStream::connect(local).expect("it listens");
        let (accepted, _) = relayed.accept().expect("a connection");
        peer.set_nonblocking(true).expect("an option");
        socket2::SockRef::from(&peer).set_send_buffer_size(BUFFER).expect("an option");
        let mut sent = 0;
        while let Ok(count) = peer.write(&[7; 4096]) {
            sent += count;
            assert!(sent < 64 * BUFFER, "the window stays open");
        }
        let size = socket2::SockRef::from(&accepted).recv_buffer_size().expect("an option");
        assert!(size <= 2 * BUFFER, "{size}");
    }
}
