//! UDP sockets with the options that the relay needs.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::calls::{Call, made};
use super::features::{SocketOptions, ask};

/// A socket that clients send to, bound to `address`. The first one of a port binds alone, which
/// refuses a second daemon; the others join it once [`share_port`] has opened it to them.
///
/// # Errors
/// What the failing system call said.
pub(in crate::relay) fn udp_listener(
    address: SocketAddr,
    joins: bool,
    options: impl Into<SocketOptions>,
) -> io::Result<Socket> {
    let socket = unbound(address, options.into(), libc::IP_PMTUDISC_DONT)?;
    if address.ip().is_unspecified() {
        let (level, name) = match address {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        };
        set_option(socket.as_fd(), level, name, 1)?;
    }
    if joins {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Lets further sockets of this process share the port of `first`.
///
/// # Errors
/// What the system call said.
pub(in crate::relay) fn share_port(first: &Socket) -> io::Result<()> {
    first.set_reuse_port(true)
}

/// The socket of an allocation, bound to `local` alone: nobody else may share a relayed address.
/// ICMP errors are queued on it, see `errors.rs`.
///
/// # Errors
/// What the failing system call said.
pub(in crate::relay) fn relay_socket(
    local: SocketAddr,
    options: impl Into<SocketOptions>,
) -> io::Result<Socket> {
    let options = options.into();
    let never = libc::IP_PMTUDISC_DONT;
    let fragmentation = if options.features.dont_fragment { FRAGMENT } else { never };
    let socket = unbound(local, options, fragmentation)?;
    let (level, name) = match local {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVERR),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    ask(socket.as_fd(), options.features.icmp_errors, level, name);
    socket.bind(&local.into())?;
    Ok(socket)
}

/// What to set for `socket` to have the buffers that it was made with, when the kernel has cut
/// them: the settings of `sysctl`, with a space in between.
pub(in crate::relay) fn cut_buffers(socket: &Socket, wanted: usize) -> Option<String> {
    let receive = ("rmem_max", socket.recv_buffer_size());
    let send = ("wmem_max", socket.send_buffer_size());
    // The kernel doubles what is asked for, and tells that.
    let is_cut = |size: io::Result<usize>| size.is_ok_and(|size| size / 2 < wanted);
    let cut = [receive, send].into_iter().filter_map(|(name, size)| is_cut(size).then_some(name));
    let settings: Vec<String> = cut.map(|name| format!("net.core.{name}={wanted}")).collect();
    (!settings.is_empty()).then(|| settings.join(" "))
}

/// Whether the kernel sends datagrams of IPv4 with the DF bit when it is asked to.
pub(in crate::relay) fn can_set_dont_fragment() -> bool {
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    let socket = Socket::new(Domain::for_address(any), Type::DGRAM.cloexec(), Some(Protocol::UDP));
    socket.is_ok_and(|socket| set_dont_fragment(socket.as_fd(), true).is_ok())
}

/// Sets the DF bit on what leaves `socket`, a relay socket of IPv4, from now on, or clears it.
/// The kernel knows no way to say so with a single datagram.
///
/// # Errors
/// What the system call said.
pub(in crate::relay) fn set_dont_fragment(socket: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let mode = if on { libc::IP_PMTUDISC_PROBE } else { FRAGMENT };
    set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, mode)
}

/// Has datagrams in a row arrive in one piece from now on. There is no way back: what lies in the
/// queue already would come without the sizes of its datagrams.
///
/// # Errors
/// When the kernel does not know how.
pub(in crate::relay) fn set_merging(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Has whatever leaves `socket` cut in datagrams of so many bytes; 0: not at all.
///
/// # Errors
/// When the kernel does not know how.
pub(in crate::relay) fn set_segment(socket: BorrowedFd<'_>, bytes: u16) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, i32::from(bytes))
}

/// The DF bit is clear, and what some router says about a path is told to the client who set it
/// ("fragmentation needed") without being believed by the kernel, which sends for others, too.
pub(super) const FRAGMENT: i32 = libc::IP_PMTUDISC_OMIT;

/// Whether binding failed because somebody else has the port.
pub(in crate::relay) fn was_address_in_use(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EADDRINUSE)
}

/// Whether a call failed because descriptors, watches or memory have run out.
pub(in crate::relay) fn was_exhausted(error: &io::Error) -> bool {
    let codes = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::ENOSPC];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// A socket that fragments what it sends over IPv4 as `fragmentation` says. Each option is a system
/// call of its own, so none is set twice.
fn unbound(address: SocketAddr, options: SocketOptions, fragmentation: i32) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    } else {
        // RFC 8656, section 14: without DONT-FRAGMENT a packet may be fragmented on its way.
        set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, fragmentation)?;
    }
    // DSCP and ECN of what arrives, to be set on what leaves (RFC 8656, section 14).
    let (level, name) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVTOS),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
    };
    let SocketOptions { buffer_bytes, features } = options;
    ask(socket.as_fd(), features.traffic_class, level, name);
    ask(socket.as_fd(), features.queue_drops, libc::SOL_SOCKET, libc::SO_RXQ_OVFL);
    // The kernel cuts what exceeds its own maximum, and never refuses.
    socket.set_recv_buffer_size(buffer_bytes)?;
    socket.set_send_buffer_size(buffer_bytes)?;
    Ok(socket)
}

pub(super) fn set_option(
    socket: BorrowedFd<'_>,
    level: i32,
    name: i32,
    value: i32,
) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    made(Call::Other);
    // SAFETY: the pointer is to a live i32 of the length said, which the call only reads.
    let result = unsafe {
        let value = (&raw const value).cast();
        libc::setsockopt(socket.as_raw_fd(), level, name, value, len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A port that answers by ICMP. It is held by a socket that is connected elsewhere and so hears
/// nobody; a port that was merely closed could be somebody else's by now.
#[cfg(test)]
pub(super) fn dead_peer(local: &str) -> (std::net::UdpSocket, SocketAddr) {
    let socket = std::net::UdpSocket::bind(local).expect("a socket");
    let local = socket.local_addr().expect("an address");
    socket.connect(SocketAddr::new(local.ip(), 9)).expect("a peer of its own");
    (socket, local)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUFFER: usize = 256 * 1024;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("a test address")
    }

    fn bound(socket: &Socket) -> SocketAddr {
        let local = socket.local_addr().expect("a local address");
        local.as_socket().expect("an IP address")
    }

    #[test]
    fn the_first_listener_binds_alone_and_others_join_once_it_shares() {
        let first = udp_listener(address("127.0.0.1:0"), false, BUFFER).expect("a listener");
        let here = bound(&first);
        let refused = udp_listener(here, true, BUFFER).expect_err("not shared yet");
        assert!(was_address_in_use(&refused));
        share_port(&first).expect("sharing");
        udp_listener(here, true, BUFFER).expect("a second worker's socket");
        let refused = udp_listener(here, false, BUFFER).expect_err("a second daemon");
        assert!(was_address_in_use(&refused) && !was_exhausted(&refused));
    }

    #[test]
    fn buffers_that_the_kernel_cuts_are_told_with_what_to_set() {
        let cut = |bytes| {
            let socket = udp_listener(address("127.0.0.1:0"), false, bytes).expect("a listener");
            cut_buffers(&socket, bytes)
        };
        assert_eq!(cut(64 << 10), None);
        let settings = "net.core.rmem_max=1073741824 net.core.wmem_max=1073741824";
        assert_eq!(cut(1 << 30).as_deref(), Some(settings));
    }

    #[test]
    fn both_wildcards_stand_side_by_side() {
        let v6 = udp_listener(address("[::]:0"), false, BUFFER).expect("an IPv6 listener");
        let v4 = SocketAddr::new(address("0.0.0.0:0").ip(), bound(&v6).port());
        udp_listener(v4, false, BUFFER).expect("an IPv4 listener on the same port");
    }

    #[test]
    fn a_relay_socket_shares_its_port_with_nobody() {
        let relay = relay_socket(address("127.0.0.1:0"), BUFFER).expect("a relay socket");
        let refused = udp_listener(bound(&relay), true, BUFFER).expect_err("taken");
        assert!(was_address_in_use(&refused));
    }
}
