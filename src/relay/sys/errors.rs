//! The error queue of a socket: what routers and hosts said about datagrams that left through it.

use std::mem::{size_of, zeroed};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use super::address::Address;
use super::calls::{Call, made};
use crate::turn::Icmp;

/// An ICMP error about a datagram of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) struct SocketError {
    /// Whom the datagram was for; port 0 when the kernel does not tell.
    pub(in crate::relay) peer: SocketAddr,
    /// What was said about it.
    pub(in crate::relay) icmp: Icmp,
    /// Whether our own kernel said so, of a datagram that it did not send.
    pub(in crate::relay) local: bool,
}

/// Empties the error queue of `socket`, which also clears the error that would fail the next
/// call, and returns how many errors there were. `each` is told of those that are ICMP's, or that
/// the kernel itself made of the same cause: a datagram too large to be sent in one piece.
pub(in crate::relay) fn drain_errors(
    socket: BorrowedFd<'_>,
    mut each: impl FnMut(SocketError),
) -> usize {
    let mut drained = 0;
    while drained < ERRORS_MAX {
        match read_error(socket) {
            None => break,
            Some(error) => error.into_iter().for_each(&mut each),
        }
        drained += 1;
    }
    // An error that found no room in the queue is pending all the same; reading it clears it.
    made(Call::Other);
    let _ = socket2::SockRef::from(&socket).take_error();
    drained
}

/// Whether a call that failed with `error` may have met what an ICMP error has left for it, and not
/// be at fault itself (`icmp_err_convert` and `icmpv6_err_convert` in the kernel).
pub(super) fn may_be_left(error: i32) -> bool {
    let all = [
        libc::ECONNREFUSED,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::EHOSTDOWN,
        libc::ENONET,
        libc::EMSGSIZE,
        libc::EACCES,
        libc::EPROTO,
        libc::ENOPROTOOPT,
        libc::EOPNOTSUPP,
    ];
    all.contains(&error)
}

/// Takes one entry out of the queue; `None` when it is empty, `Some(None)` when the entry is
/// nothing that a client could use.
fn read_error(socket: BorrowedFd<'_>) -> Option<Option<SocketError>> {
    let (mut name, mut control) = (Address::empty(), Control([0; CONTROL]));
    // SAFETY: a msghdr of all zeros is a valid value, of null pointers.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = Address::SPACE;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = CONTROL;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    made(Call::Other);
    // SAFETY: name and control buffer are live and of the lengths said; there is no payload
    // buffer, so nothing of the datagram itself is written.
    let result = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    if result < 0 {
        return None;
    }
    let error = extended_error(&header).and_then(|error| {
        let peer = name.read()?;
        let local = error.ee_origin == libc::SO_EE_ORIGIN_LOCAL;
        Some(SocketError { peer, icmp: icmp(&error, peer.is_ipv6())?, local })
    });
    Some(error)
}

/// The entry's own words.
fn extended_error(header: &libc::msghdr) -> Option<libc::sock_extended_err> {
    // SAFETY: the kernel filled `msg_control` in up to `msg_controllen`, and the macros walk no
    // further than that.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(header) };
    while let Some(found) = NonNull::new(control) {
        // SAFETY: the macros hand out pointers to whole, aligned control headers only; behind one
        // of this level and type lies a sock_extended_err, which is read unaligned.
        unsafe {
            match ((*found.as_ptr()).cmsg_level, (*found.as_ptr()).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                    let error = libc::CMSG_DATA(control).cast::<libc::sock_extended_err>();
                    return Some(error.read_unaligned());
                }
                _ => control = libc::CMSG_NXTHDR(header, control),
            }
        }
    }
    None
}

fn icmp(error: &libc::sock_extended_err, ipv6: bool) -> Option<Icmp> {
    let too_big = i32::try_from(error.ee_errno) == Ok(libc::EMSGSIZE);
    match error.ee_origin {
        libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 => {
            // `ee_info` is the next link's MTU where the message carries one.
            Some(Icmp { kind: error.ee_type, code: error.ee_code, data: error.ee_info })
        }
        libc::SO_EE_ORIGIN_LOCAL if too_big => {
            let (kind, code) = if ipv6 { (2, 0) } else { (3, 4) };
            Some(Icmp { kind, code, data: error.ee_info })
        }
        _ => None,
    }
}

/// Room for the control messages of an error: the error with the offender's address, and what the
/// socket was asked to tell of every datagram.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Bytes of a control buffer.
const CONTROL: usize = 256;

const _: () = {
    let error = size_of::<libc::sock_extended_err>() + size_of::<libc::sockaddr_in6>();
    // SAFETY: the macro computes with its argument only.
    assert!(unsafe { libc::CMSG_SPACE(error as u32) } as usize * 2 <= CONTROL);
};

/// The most errors drained at once; a queue that is longer is drained by the next call.
const ERRORS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::super::socket::{dead_peer, relay_socket};
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn draining_tells_and_clears_what_a_dead_peer_left() {
        for (local, kind, code) in [("127.0.0.1:0", 3, 3), ("[::1]:0", 1, 4)] {
            let address = local.parse().expect("a test address");
            let relay = relay_socket(address, 1 << 18).expect("a relay socket");
            let (_held, dead) = dead_peer(local);
            relay.send_to(b"anybody?", &dead.into()).expect("the first send");
            // Loopback answers by ICMP before the send returns.
            let mut told = Vec::new();
            assert_eq!(drain_errors(relay.as_fd(), |error| told.push(error)), 1);
            let icmp = Icmp { kind, code, data: 0 };
            assert_eq!(told, [SocketError { peer: dead, icmp, local: false }]);
            assert_eq!(drain_errors(relay.as_fd(), |_| panic!("there is no other")), 0);
            assert!(relay.take_error().expect("SO_ERROR").is_none());
            relay.send_to(b"anybody?", &dead.into()).expect("a send after draining");
        }
    }
}
