//! Receiving many datagrams with one call.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{NonNull, slice_from_raw_parts_mut};

use super::BATCH;
use super::address::{Address, canonical_v6};
use super::calls::{Call, made};
use crate::turn::{HEADROOM, TAILROOM};

/// Where a datagram came from and where it was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) struct Received {
    /// The sender, in canonical form.
    pub(in crate::relay) from: SocketAddr,
    /// The address of ours that the sender used, on a socket that is bound to the wildcard; its
    /// port is 0, for the kernel does not say it.
    pub(in crate::relay) to: Option<SocketAddr>,
    /// DSCP and ECN: the TOS octet of IPv4, the traffic class of IPv6.
    pub(in crate::relay) traffic_class: u8,
    /// Bytes of payload.
    pub(in crate::relay) len: usize,
    /// Bytes of each datagram in it, but for the last one, which may be shorter: `len`, unless the
    /// kernel has merged several in a row.
    pub(in crate::relay) segment: usize,
}

impl Received {
    /// Whether it is more than one datagram.
    #[inline]
    pub(in crate::relay) fn is_merged(&self) -> bool {
        self.segment < self.len
    }

    /// How many datagrams it is.
    pub(in crate::relay) fn datagrams(&self) -> usize {
        if self.is_merged() { self.len.div_ceil(self.segment) } else { 1 }
    }
}

/// Memory for [`BATCH`] datagrams of any size, each with room for a header in front:
/// ```text
/// slot:  | HEADROOM | payload, up to 65,535 bytes | TAILROOM |
/// ```
/// About 4 MiB of address space, of which the kernel hands out only the pages that were written.
/// The headers point into memory that this struct owns and never moves, so they are set up once.
pub(in crate::relay) struct RecvBatch {
    headers: NonNull<[libc::mmsghdr; BATCH]>,
    vectors: NonNull<[libc::iovec; BATCH]>,
    names: NonNull<[Address; BATCH]>,
    controls: NonNull<[Control; BATCH]>,
    bytes: NonNull<u8>,
    /// How many headers the kernel wrote into since they were last made as new.
    used: usize,
}

impl RecvBatch {
    /// An empty batch.
    pub(in crate::relay) fn new() -> Self {
        // SAFETY: a mmsghdr and an iovec of all zeros are valid values, of null pointers.
        let (headers, vectors) = unsafe { (zeroed(), zeroed()) };
        let bytes = Box::leak(vec![0u8; SLOT * BATCH].into_boxed_slice());
        let batch = Self {
            headers: leak([headers; BATCH]),
            vectors: leak([vectors; BATCH]),
            names: leak([Address::empty(); BATCH]),
            controls: leak([Control([0; CONTROL]); BATCH]),
            bytes: NonNull::from(bytes).cast(),
            used: BATCH,
        };
        for index in 0..BATCH {
            // SAFETY: all pointers are to live memory of this batch, and `index` is within each
            // array; the payload area lies within slot `index`.
            unsafe {
                let vector = batch.vectors.cast::<libc::iovec>().add(index);
                (*vector.as_ptr()).iov_base =
                    batch.bytes.add(index * SLOT + HEADROOM).as_ptr().cast();
                (*vector.as_ptr()).iov_len = PAYLOAD_MAX;
                let header = &mut (*batch.header(index).as_ptr()).msg_hdr;
                header.msg_name = batch.names.cast::<Address>().add(index).as_ptr().cast();
                header.msg_iov = vector.as_ptr();
                header.msg_iovlen = 1;
                header.msg_control = batch.controls.cast::<Control>().add(index).as_ptr().cast();
            }
        }
        batch
    }

    /// As [`Self::recv_some`], up to [`BATCH`] datagrams.
    #[cfg(test)]
    pub(in crate::relay) fn recv(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.recv_some(socket, BATCH)
    }

    /// Receives what is there, up to `most` datagrams, or pieces of merged ones, and forgets those
    /// of the last call.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there, or what the kernel said.
    pub(in crate::relay) fn recv_some(
        &mut self,
        socket: BorrowedFd<'_>,
        most: usize,
    ) -> io::Result<usize> {
        for index in 0..std::mem::take(&mut self.used) {
            // SAFETY: `index` is within the array, and `&mut self` is the only access to it.
            let header = unsafe { &mut (*self.header(index).as_ptr()).msg_hdr };
            header.msg_namelen = Address::SPACE;
            header.msg_controllen = CONTROL as _;
            header.msg_flags = 0;
        }
        made(Call::Receive);
        // SAFETY: BATCH headers are live, and each points to a name, an iovec, a slot and a
        // control buffer of the lengths it says, owned by this batch and borrowed by nobody.
        let count = unsafe {
            let (fd, headers) = (socket.as_raw_fd(), self.headers.cast().as_ptr());
            let flags = libc::MSG_DONTWAIT as _;
            libc::recvmmsg(fd, headers, most.min(BATCH) as u32, flags, std::ptr::null_mut())
        };
        self.used = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        Ok(self.used)
    }

    /// Whence and whither datagram `index` of the last call went; `None` when it was cut, which
    /// the size of a slot rules out for anything but a jumbogram, or is not of an IP family.
    pub(in crate::relay) fn received(&self, index: usize) -> Option<Received> {
        assert!(index < BATCH, "a batch has {BATCH} datagrams");
        // SAFETY: `index` is within the arrays, and `&self` means that nobody writes to them.
        let (header, name) = unsafe {
            (&*self.header(index).as_ptr(), &*self.names.cast::<Address>().add(index).as_ptr())
        };
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let len = usize::try_from(header.msg_len).ok().filter(|len| *len <= PAYLOAD_MAX)?;
        let Told { to, traffic_class, segment, .. } = Told::read(&header.msg_hdr);
        // Zero is said by nobody, and means what is said of one alone.
        let segment = if (1..len).contains(&segment) { segment } else { len };
        Some(Received { from: name.read()?, to, traffic_class, len, segment })
    }

    /// How many datagrams the socket of the last call has lost in all, when the last datagram that
    /// it gave was queued: the kernel counts to 2^32 and begins again, and says nothing before
    /// the first.
    pub(in crate::relay) fn queue_drops(&self) -> Option<u32> {
        let last = self.used.checked_sub(1).filter(|last| *last < BATCH)?;
        // SAFETY: `last` is within the array, and `&self` means that nobody writes to it.
        let header = unsafe { &*self.header(last).as_ptr() };
        Told::read(&header.msg_hdr).queue_drops
    }

    /// The slot of datagram `index` up to `len` bytes of payload: headroom, payload, tailroom.
    pub(in crate::relay) fn slot_mut(&mut self, index: usize, len: usize) -> &mut [u8] {
        let start = slot_start(index, len);
        // SAFETY: `slot_start` checked that the range lies within slot `index`; all bytes were
        // initialised by `new`, and `&mut self` is the only access to them.
        unsafe {
            let slot = self.bytes.add(start).as_ptr();
            &mut *slice_from_raw_parts_mut(slot, HEADROOM + len + TAILROOM)
        }
    }

    /// The bytes `range` of slot `index`, counted as in [`RecvBatch::slot_mut`].
    pub(in crate::relay) fn bytes(&self, index: usize, range: Range<usize>) -> &[u8] {
        let start = slot_start(index, 0);
        // SAFETY: the slice is all of slot `index`, initialised by `new`, and `&self` means that
        // nobody writes to it; `range` is checked by the indexing.
        let slot = unsafe { &*slice_from_raw_parts_mut(self.bytes.add(start).as_ptr(), SLOT) };
        &slot[range]
    }

    fn header(&self, index: usize) -> NonNull<libc::mmsghdr> {
        debug_assert!(index < BATCH);
        // SAFETY: every caller's `index` is below BATCH, the length of the array.
        unsafe { self.headers.cast::<libc::mmsghdr>().add(index) }
    }
}

impl Drop for RecvBatch {
    fn drop(&mut self) {
        let bytes = slice_from_raw_parts_mut(self.bytes.as_ptr(), SLOT * BATCH);
        // SAFETY: each pointer was leaked from a box of this type and length by `new`, and is
        // given back once, here.
        unsafe {
            drop(Box::from_raw(self.headers.as_ptr()));
            drop(Box::from_raw(self.vectors.as_ptr()));
            drop(Box::from_raw(self.names.as_ptr()));
            drop(Box::from_raw(self.controls.as_ptr()));
            drop(Box::from_raw(bytes));
        }
    }
}

/// Room for the control messages that we ask for: `in6_pktinfo`, which is the larger one, the
/// traffic class, the size of merged datagrams, and what the queue has lost.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// What the kernel told of a datagram.
#[derive(Default)]
struct Told {
    /// The address that it was sent to: `IP_PKTINFO` says `ipi_spec_dst`, an address of ours even
    /// when the datagram was broadcast.
    to: Option<SocketAddr>,
    traffic_class: u8,
    /// Bytes of each datagram in a merged one, else 0.
    segment: usize,
    /// `SO_RXQ_OVFL`.
    queue_drops: Option<u32>,
}

impl Told {
    #[inline]
    fn read(header: &libc::msghdr) -> Self {
        let mut told = Self::default();
        match Self::class_alone(header) {
            Some(traffic_class) => told.traffic_class = traffic_class,
            None => told.read_all(header),
        }
        told
    }

    /// The TOS octet when nothing else is told: so comes what is sent over IPv4 to a socket that
    /// is bound to one address.
    #[inline]
    fn class_alone(header: &libc::msghdr) -> Option<u8> {
        if u32::try_from(header.msg_controllen) != Ok(CLASS_ALONE) || header.msg_control.is_null() {
            return None;
        }
        // SAFETY: the kernel filled `msg_control` in up to `msg_controllen`, which is a whole,
        // aligned control header and at least a byte behind it.
        unsafe {
            let control = header.msg_control.cast::<libc::cmsghdr>();
            let is_tos =
                (*control).cmsg_level == libc::IPPROTO_IP && (*control).cmsg_type == libc::IP_TOS;
            is_tos.then(|| libc::CMSG_DATA(control).read())
        }
    }

    /// Whatever is told.
    #[inline(never)]
    fn read_all(&mut self, header: &libc::msghdr) {
        // SAFETY: the kernel filled `msg_control` in up to `msg_controllen`, and the macros walk
        // no further than that.
        let mut control = unsafe { libc::CMSG_FIRSTHDR(header) };
        while let Some(found) = NonNull::new(control) {
            // SAFETY: the macros hand out pointers to whole, aligned control headers only; the
            // data behind one is of the type that its level and type say, and is read unaligned.
            unsafe {
                let value = libc::CMSG_DATA(control);
                match ((*found.as_ptr()).cmsg_level, (*found.as_ptr()).cmsg_type) {
                    // One byte here, an int over IPv6.
                    (libc::IPPROTO_IP, libc::IP_TOS) => self.traffic_class = value.read(),
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let pktinfo = value.cast::<libc::in_pktinfo>().read_unaligned();
                        let ip = Ipv4Addr::from(pktinfo.ipi_spec_dst.s_addr.to_ne_bytes());
                        self.to = Some(SocketAddr::new(IpAddr::V4(ip), 0));
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let pktinfo = value.cast::<libc::in6_pktinfo>().read_unaligned();
                        let ip = Ipv6Addr::from(pktinfo.ipi6_addr.s6_addr);
                        self.to = Some(canonical_v6(ip, 0, pktinfo.ipi6_ifindex));
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                        self.traffic_class = value.cast::<i32>().read_unaligned() as u8;
                    }
                    (libc::SOL_UDP, libc::UDP_GRO) => {
                        let bytes = value.cast::<i32>().read_unaligned();
                        self.segment = usize::try_from(bytes).unwrap_or(0);
                    }
                    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                        self.queue_drops = Some(value.cast::<u32>().read_unaligned());
                    }
                    _ => {}
                }
                control = libc::CMSG_NXTHDR(header, control);
            }
        }
    }
}

fn slot_start(index: usize, len: usize) -> usize {
    assert!(index < BATCH && len <= PAYLOAD_MAX, "a slot holds {PAYLOAD_MAX} bytes");
    index * SLOT
}

fn leak<T>(value: T) -> NonNull<T> {
    NonNull::from(Box::leak(Box::new(value)))
}

/// The largest payload that the length field of UDP can say.
const PAYLOAD_MAX: usize = 65_535;

/// Bytes of one slot: not a multiple of the page size, so that the beginnings of the datagrams
/// do not compete for the same lines of the processor's cache.
const SLOT: usize = 65_536 + 128;

const _: () = assert!(HEADROOM + PAYLOAD_MAX + TAILROOM <= SLOT);

/// Bytes of the control messages when the TOS octet is the only one.
// SAFETY: the macro computes with its argument only.
const CLASS_ALONE: u32 = unsafe { libc::CMSG_SPACE(1) };

/// Bytes of a control buffer.
// SAFETY: the macro computes with its argument only.
const CONTROL: usize = unsafe {
    libc::CMSG_SPACE(size_of::<libc::in6_pktinfo>() as u32)
        + 3 * libc::CMSG_SPACE(size_of::<i32>() as u32)
} as usize;

#[cfg(test)]
mod tests {
    use super::super::socket::udp_listener;
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    fn listener(address: &str) -> (socket2::Socket, SocketAddr) {
        let address = address.parse().expect("a test address");
        let socket = udp_listener(address, false, 1 << 20).expect("a listener");
        let local = socket.local_addr().expect("a local address");
        (socket, local.as_socket().expect("an IP address"))
    }

    fn payload(batch: &mut RecvBatch, index: usize) -> Vec<u8> {
        let len = batch.received(index).expect("a datagram").len;
        let whole = batch.slot_mut(index, len)[HEADROOM..HEADROOM + len].to_vec();
        assert_eq!(whole, batch.bytes(index, HEADROOM..HEADROOM + len));
        whole
    }

    #[test]
    fn datagrams_arrive_in_order_with_their_senders() {
        let (socket, here) = listener("127.0.0.1:0");
        let mut batch = RecvBatch::new();
        let nothing = batch.recv(socket.as_fd()).expect_err("nothing is there");
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        let senders: Vec<_> =
            (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").expect("a sender")).collect();
        for round in 0..40usize {
            for (index, sender) in senders.iter().enumerate() {
                let bytes = vec![index as u8; round * 10 + index];
                sender.send_to(&bytes, here).expect("a send");
            }
        }
        let first = batch.recv(socket.as_fd()).expect("a full batch");
        let check = |batch: &mut RecvBatch, slots: usize, before: usize| {
            for slot in 0..slots {
                let (round, index) = ((before + slot) / 3, (before + slot) % 3);
                let received = batch.received(slot).expect("a datagram");
                assert_eq!(received.from, senders[index].local_addr().expect("an address"));
                assert_eq!(received.to, None);
                assert_eq!(payload(batch, slot), vec![index as u8; round * 10 + index]);
            }
        };
        assert_eq!(first, BATCH);
        check(&mut batch, first, 0);
        let second = batch.recv(socket.as_fd()).expect("the rest");
        assert_eq!(second, 120 - BATCH);
        check(&mut batch, second, first);
    }

    #[test]
    fn a_class_is_read_alone_and_among_others() {
        let alone = [("127.0.0.1:0", Some(0xB8)), ("0.0.0.0:0", None), ("[::1]:0", None)];
        for (address, expected) in alone {
            let (socket, mut here) = listener(address);
            if here.ip().is_unspecified() {
                here.set_ip(Ipv4Addr::LOCALHOST.into());
            }
            let sender = UdpSocket::bind(SocketAddr::new(here.ip(), 0)).expect("a sender");
            let options = socket2::SockRef::from(&sender);
            let set =
                if here.is_ipv4() { options.set_tos_v4(0xB8) } else { options.set_tclass_v6(0xB8) };
            set.expect("a traffic class");
            sender.send_to(b"x", here).expect("a send");
            let mut batch = RecvBatch::new();
            assert_eq!(batch.recv(socket.as_fd()).expect("a datagram"), 1);
            // SAFETY: the first header is live, and nobody writes to it.
            let header = unsafe { &(*batch.header(0).as_ptr()).msg_hdr };
            assert_eq!(Told::class_alone(header), expected, "{address}");
            let mut all = Told::default();
            all.read_all(header);
            for told in [Told::read(header), all] {
                assert_eq!(told.traffic_class, 0xB8, "{address}");
                assert_eq!(told.to.is_some(), address.starts_with("0.0.0.0"));
            }
        }
    }

    #[test]
    fn the_largest_datagram_arrives_whole() {
        for (address, max) in [("127.0.0.1:0", 65_507), ("[::1]:0", 65_527)] {
            let (socket, here) = listener(address);
            let sender = UdpSocket::bind(address).expect("a sender");
            let sent: Vec<u8> = (0..max).map(|i: usize| (i % 251) as u8).collect();
            sender.send_to(&sent, here).expect("a large send");
            let mut batch = RecvBatch::new();
            assert_eq!(batch.recv(socket.as_fd()).expect("a datagram"), 1);
            assert_eq!(payload(&mut batch, 0), sent);
            assert_eq!(batch.slot_mut(0, max).len(), HEADROOM + max + TAILROOM);
        }
    }

    #[test]
    fn a_wildcard_socket_says_which_address_was_asked() {
        let (socket, here) = listener("0.0.0.0:0");
        let (socket6, here6) = listener("[::]:0");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a sender");
        let mut batch = RecvBatch::new();
        for asked in ["127.0.0.1", "127.0.0.2"] {
            let asked: IpAddr = asked.parse().expect("a test address");
            sender.send_to(b"x", (asked, here.port())).expect("a send");
            assert_eq!(batch.recv(socket.as_fd()).expect("a datagram"), 1);
            let received = batch.received(0).expect("a datagram");
            assert_eq!(received.to, Some(SocketAddr::new(asked, 0)));
        }
        let sender = UdpSocket::bind("[::1]:0").expect("a sender");
        sender.send_to(b"x", ("::1", here6.port())).expect("a send");
        assert_eq!(batch.recv(socket6.as_fd()).expect("a datagram"), 1);
        let received = batch.received(0).expect("a datagram");
        assert_eq!(received.to, "[::1]:0".parse().ok());
        assert_eq!(received.from, sender.local_addr().expect("an address"));
    }
}
