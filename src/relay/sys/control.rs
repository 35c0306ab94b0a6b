//! What is said about a datagram beside its bytes: control messages.

use std::mem::size_of;
use std::net::SocketAddr;

use super::address::{in_addr, in6_addr};

/// Room for the control messages of a send: the address that it leaves from, its DSCP and ECN, and
/// where the kernel cuts it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control(pub(super) [u8; CONTROL]);

impl Control {
    /// Nothing to say.
    pub(super) const fn empty() -> Self {
        Self([0; CONTROL])
    }

    /// Writes `IP_PKTINFO` or `IPV6_PKTINFO`, and `IP_TOS` or `IPV6_TCLASS`, each when there is
    /// something to say; returns the bytes used.
    pub(super) fn write(
        &mut self,
        to: SocketAddr,
        from: Option<SocketAddr>,
        traffic_class: u8,
    ) -> usize {
        let used = from.map_or(0, |from| self.write_source(from));
        if traffic_class == 0 {
            return used;
        }
        let (level, kind) = match to {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        self.put(used, level, kind, i32::from(traffic_class))
    }

    /// Writes `UDP_SEGMENT` behind the `used` bytes of what was written before: datagrams of
    /// `bytes` each; returns the bytes used then.
    pub(super) fn write_segment(&mut self, used: usize, bytes: u16) -> usize {
        self.put(used, libc::SOL_UDP, libc::UDP_SEGMENT, bytes)
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
            (*header).cmsg_len = libc::CMSG_LEN(len) as _;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        }
        used + space
    }
}

/// Bytes of a control buffer.
// SAFETY: the macro computes with its argument only.
const CONTROL: usize = unsafe {
    libc::CMSG_SPACE(size_of::<libc::in6_pktinfo>() as u32)
        + libc::CMSG_SPACE(size_of::<i32>() as u32)
        + libc::CMSG_SPACE(size_of::<u16>() as u32)
} as usize;
