//! Sending many datagrams with one call.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null_mut;

use super::BATCH;
use super::address::{Address, in_addr, in6_addr};
use super::errors::{SocketError, drain_errors};

/// One datagram to send.
#[derive(Debug, Clone, Copy)]
pub(in crate::relay) struct Datagram<'a> {
    /// The payload.
    pub(in crate::relay) bytes: &'a [u8],
    /// Whom to.
    pub(in crate::relay) to: SocketAddr,
    /// The address of ours that it leaves from, on a socket that is bound to the wildcard.
    pub(in crate::relay) from: Option<SocketAddr>,
    /// DSCP and ECN.
    pub(in crate::relay) traffic_class: u8,
}

/// What became of a group of datagrams; the counts add up to the length of the group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::relay) struct Outcome {
    /// Taken by the kernel.
    pub(in crate::relay) sent: usize,
    /// Dropped, because the send buffer or the device's queue was full.
    pub(in crate::relay) full: usize,
    /// Dropped, because the kernel refused: no route, a forbidden address.
    pub(in crate::relay) failed: usize,
}

/// Headers for [`BATCH`] datagrams, reused by every call. The pointers in them are written and
/// used within one call of [`SendBatch::send`].
pub(in crate::relay) struct SendBatch {
    headers: Box<[libc::mmsghdr; BATCH]>,
    vectors: Box<[libc::iovec; BATCH]>,
    names: Box<[Address; BATCH]>,
    controls: Box<[Control; BATCH]>,
}

impl SendBatch {
    /// An empty batch.
    pub(in crate::relay) fn new() -> Self {
        // SAFETY: a mmsghdr and an iovec of all zeros are valid values, of null pointers.
        let (headers, vectors) = unsafe { (zeroed(), zeroed()) };
        Self {
            headers: Box::new([headers; BATCH]),
            vectors: Box::new([vectors; BATCH]),
            names: Box::new([Address::empty(); BATCH]),
            controls: Box::new([Control([0; CONTROL]); BATCH]),
        }
    }

    /// Sends `count` datagrams from `socket` in order; `datagram` says what they are. A failed
    /// one costs the others nothing: an error that some earlier datagram left behind is drained
    /// and told to `each`, and the datagram that met it is sent once more.
    pub(in crate::relay) fn send<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        count: usize,
        mut each: impl FnMut(SocketError),
        datagram: impl Fn(usize) -> Datagram<'a>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let mut done = 0;
        while done < count {
            let group = (count - done).min(BATCH);
            for index in 0..group {
                self.write(index, datagram(done + index));
            }
            let blocked = self.send_group(socket, group, &mut outcome, &mut each);
            done += group;
            if blocked {
                outcome.full += count - done;
                break;
            }
        }
        outcome
    }

    /// Points header `index` at `datagram`, whose bytes live until `send` returns.
    fn write(&mut self, index: usize, datagram: Datagram<'_>) {
        let (name, name_len) = Address::write(datagram.to);
        self.names[index] = name;
        // The kernel only reads from it, in spite of the type.
        self.vectors[index].iov_base = datagram.bytes.as_ptr().cast_mut().cast();
        self.vectors[index].iov_len = datagram.bytes.len();
        let control = &mut self.controls[index];
        let control_len = control.write(&datagram);
        let header = &mut self.headers[index].msg_hdr;
        header.msg_name = (&raw mut self.names[index]).cast();
        header.msg_namelen = name_len;
        header.msg_iov = &raw mut self.vectors[index];
        header.msg_iovlen = 1;
        header.msg_control =
            if control_len == 0 { null_mut() } else { control.0.as_mut_ptr().cast() };
        header.msg_controllen = control_len;
    }

    /// Sends the first `group` headers; whether the send buffer was full and the rest dropped.
    fn send_group(
        &mut self,
        socket: BorrowedFd<'_>,
        group: usize,
        outcome: &mut Outcome,
        each: &mut impl FnMut(SocketError),
    ) -> bool {
        let mut next = 0;
        let mut tries = 0;
        while next < group {
            let error = match self.sendmmsg(socket, next..group) {
                Ok(sent) if sent > 0 => {
                    outcome.sent += sent;
                    next += sent;
                    tries = 0;
                    continue;
                }
                Ok(_) => io::ErrorKind::WriteZero.into(),
                Err(error) => error,
            };
            match (error.kind(), error.raw_os_error()) {
                (io::ErrorKind::Interrupted, _) => continue,
                (io::ErrorKind::WouldBlock, _) => {
                    outcome.full += group - next;
                    return true;
                }
                (_, Some(libc::ENOBUFS)) => outcome.full += 1,
                _ => {
                    // Whether the error is this datagram's own is not to be seen. What an earlier
                    // one left is in the queue, and may be joined by another until we send again.
                    // Only what our own kernel refused to send is this one's for certain; that is
                    // told once, however often it was tried.
                    let mut refused = false;
                    let drained = drain_errors(socket, |error| {
                        if !(error.local && refused) {
                            each(error);
                        }
                        refused |= error.local;
                    });
                    tries += 1;
                    if refused {
                        outcome.failed += 1;
                        next += 1;
                        tries = 0;
                        continue;
                    }
                    if tries == 1 || (drained > 0 && tries < TRIES_MAX) {
                        continue;
                    }
                    outcome.failed += 1;
                }
            }
            next += 1;
            tries = 0;
        }
        false
    }

    fn sendmmsg(
        &mut self,
        socket: BorrowedFd<'_>,
        range: std::ops::Range<usize>,
    ) -> io::Result<usize> {
        let headers = &mut self.headers[range];
        // SAFETY: `write` pointed each of these headers at a name and a control buffer of this
        // batch and at bytes that are borrowed until `send` returns, with their lengths.
        let count = unsafe {
            let (fd, len) = (socket.as_raw_fd(), headers.len() as u32);
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            libc::sendmmsg(fd, headers.as_mut_ptr(), len, flags)
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

/// Room for two control messages: the address that a datagram leaves from, and its DSCP and ECN.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

impl Control {
    /// Writes `IP_PKTINFO` or `IPV6_PKTINFO`, and `IP_TOS` or `IPV6_TCLASS`, each when there is
    /// something to say; returns the bytes used.
    fn write(&mut self, datagram: &Datagram<'_>) -> usize {
        let used = datagram.from.map_or(0, |from| self.write_source(from));
        if datagram.traffic_class == 0 {
            return used;
        }
        let (level, kind) = match datagram.to {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        self.put(used, level, kind, i32::from(datagram.traffic_class))
    }

    fn write_source(&mut self, from: SocketAddr) -> usize {
        match from {
            SocketAddr::V4(v4) => {
                let pktinfo = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: in_addr(*v4.ip()),
                    ipi_addr: in_addr(std::net::Ipv4Addr::UNSPECIFIED),
                };
                self.put(0, libc::IPPROTO_IP, libc::IP_PKTINFO, pktinfo)
            }
            SocketAddr::V6(v6) => {
                let pktinfo = libc::in6_pktinfo {
                    ipi6_addr: in6_addr(*v6.ip()),
                    ipi6_ifindex: v6.scope_id(),
                };
                self.put(0, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, pktinfo)
            }
        }
    }

    /// Writes one control message behind the `used` bytes of an earlier one, and returns how many
    /// are used then.
    fn put<T: Copy>(&mut self, used: usize, level: i32, kind: i32, value: T) -> usize {
        let len = size_of::<T>() as u32;
        // SAFETY: the macro computes with its argument only.
        let space = unsafe { libc::CMSG_SPACE(len) } as usize;
        let place = &mut self.0[used..used + space];
        // SAFETY: the buffer is aligned for a cmsghdr, and so is the end of a control message
        // before this one; `place` holds CMSG_SPACE of the value, which is written unaligned
        // behind the header, where CMSG_DATA says.
        unsafe {
            let header = place.as_mut_ptr().cast::<libc::cmsghdr>();
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = libc::CMSG_LEN(len) as usize;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        }
        used + space
    }
}

/// How often one datagram is tried while errors of others keep coming.
const TRIES_MAX: usize = 4;

/// Bytes of a control buffer.
// SAFETY: the macro computes with its argument only.
const CONTROL: usize = unsafe {
    libc::CMSG_SPACE(size_of::<libc::in6_pktinfo>() as u32)
        + libc::CMSG_SPACE(size_of::<i32>() as u32)
} as usize;

#[cfg(test)]
mod tests {
    use super::super::recv::RecvBatch;
    use super::super::socket::{dead_peer, relay_socket, udp_listener};
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("a test address")
    }

    fn receiver(local: &str) -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind(local).expect("a receiver");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a deadline");
        let local = socket.local_addr().expect("an address");
        (socket, local)
    }

    #[test]
    fn more_than_a_batch_is_sent_in_order() {
        let (receiver, to) = receiver("127.0.0.1:0");
        let socket = relay_socket(address("127.0.0.1:0"), 1 << 20).expect("a relay socket");
        let payloads: Vec<Vec<u8>> = (0..150u8).map(|i| vec![i; usize::from(i)]).collect();
        let outcome = SendBatch::new().send(socket.as_fd(), payloads.len(), drop, |index| {
            Datagram { bytes: &payloads[index], to, from: None, traffic_class: 0 }
        });
        assert_eq!(outcome, Outcome { sent: 150, full: 0, failed: 0 });
        let mut buffer = [0; 256];
        for sent in &payloads {
            let (len, _) = receiver.recv_from(&mut buffer).expect("a datagram");
            assert_eq!(&buffer[..len], sent);
        }
    }

    #[test]
    fn a_dead_peer_costs_a_live_one_nothing() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let (live, to_live) = receiver(local);
            let (_held, to_dead) = dead_peer(local);
            let socket = relay_socket(address(local), 1 << 20).expect("a relay socket");
            let mut batch = SendBatch::new();
            for _ in 0..20 {
                let outcome = batch.send(socket.as_fd(), 64, drop, |index| Datagram {
                    bytes: b"frame",
                    to: if index % 3 == 1 { to_live } else { to_dead },
                    from: None,
                    traffic_class: 0,
                });
                assert_eq!(outcome, Outcome { sent: 64, full: 0, failed: 0 });
                for _ in 0..21 {
                    live.recv_from(&mut [0; 16]).expect("the live peer's datagram");
                }
            }
        }
    }

    #[test]
    fn a_refused_datagram_is_counted_and_the_next_one_goes_out() {
        let (receiver, to) = receiver("127.0.0.1:0");
        let socket = relay_socket(address("127.0.0.1:0"), 1 << 20).expect("a relay socket");
        let outcome = SendBatch::new().send(socket.as_fd(), 3, drop, |index| Datagram {
            bytes: &[0x55; 65_508][..if index == 1 { 65_508 } else { 5 }],
            to,
            from: None,
            traffic_class: 0,
        });
        assert_eq!(outcome, Outcome { sent: 2, full: 0, failed: 1 });
        for _ in 0..2 {
            assert_eq!(receiver.recv_from(&mut [0; 16]).expect("a datagram").0, 5);
        }
        let other_family =
            |_| Datagram { bytes: b"x", to: address("[::1]:9"), from: None, traffic_class: 0 };
        let outcome = SendBatch::new().send(socket.as_fd(), 1, drop, other_family);
        assert_eq!(outcome, Outcome { sent: 0, full: 0, failed: 1 });
    }

    #[test]
    fn a_wildcard_socket_answers_from_the_address_that_it_is_told() {
        for (wildcard, local, from) in [
            ("0.0.0.0:0", "127.0.0.1:0", "127.0.0.2:0"),
            ("0.0.0.0:0", "127.0.0.1:0", "127.0.0.3:0"),
            ("[::]:0", "[::1]:0", "[::1]:0"),
        ] {
            let (receiver, to) = receiver(local);
            let socket = udp_listener(address(wildcard), false, 1 << 20).expect("a listener");
            let from = address(from);
            let outcome = SendBatch::new().send(socket.as_fd(), 1, drop, |_| Datagram {
                bytes: b"answer",
                to,
                from: Some(from),
                traffic_class: 0,
            });
            assert_eq!(outcome.sent, 1);
            let (_, source) = receiver.recv_from(&mut [0; 16]).expect("the answer");
            assert_eq!(source.ip(), from.ip());
        }
    }

    #[test]
    fn a_datagram_that_is_too_large_is_told_of_once() {
        let (receiver, to) = receiver("127.0.0.1:0");
        let socket = relay_socket(address("127.0.0.1:0"), 1 << 20).expect("a relay socket");
        let mut told = Vec::new();
        let each = |error: SocketError| told.push(error.peer.ip());
        // Between others, so that the call that meets it is not the first one to try it.
        let outcome = SendBatch::new().send(socket.as_fd(), 5, each, |index| Datagram {
            bytes: &[0x55; 65_508][..if index % 2 == 1 { 65_508 } else { 5 }],
            to,
            from: None,
            traffic_class: 0,
        });
        assert_eq!(outcome, Outcome { sent: 3, full: 0, failed: 2 });
        assert_eq!(told, [to.ip(), to.ip()]);
        for _ in 0..3 {
            assert_eq!(receiver.recv_from(&mut [0; 16]).expect("a datagram").0, 5);
        }
        assert_eq!(drain_errors(socket.as_fd(), drop), 0);
    }

    #[test]
    fn dscp_and_ecn_arrive_as_they_were_sent() {
        for (wildcard, local) in [("0.0.0.0:0", "127.0.0.1:0"), ("[::]:0", "[::1]:0")] {
            // Beside the address that it leaves from, and without.
            for from in [None, Some(address(local))] {
                let receiver = relay_socket(address(local), 1 << 20).expect("a receiver");
                let to = receiver.local_addr().ok().and_then(|local| local.as_socket());
                let socket = udp_listener(address(wildcard), false, 1 << 20).expect("a listener");
                let classes = [0, 0b1011_1010, 0b0000_0001, 0xFF];
                let mut batch = SendBatch::new();
                let outcome = batch.send(socket.as_fd(), classes.len(), drop, |index| Datagram {
                    bytes: b"frame",
                    to: to.expect("an address"),
                    from,
                    traffic_class: classes[index],
                });
                assert_eq!(outcome.sent, classes.len());
                let mut batch = RecvBatch::new();
                assert_eq!(batch.recv(receiver.as_fd()).expect("a batch"), classes.len());
                for (index, class) in classes.into_iter().enumerate() {
                    let received = batch.received(index).expect("a datagram");
                    assert_eq!(received.traffic_class, class, "{local}");
                }
            }
        }
    }
}
