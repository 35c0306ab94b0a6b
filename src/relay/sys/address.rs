//! Socket addresses as the kernel writes them.

use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Room for a `sockaddr_in` or a `sockaddr_in6`; the family tells which, and 0 means neither.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union Address {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Address {
    /// What to tell the kernel when it fills an address in.
    pub(super) const SPACE: libc::socklen_t = size_of::<Self>() as libc::socklen_t;

    /// An address of no family.
    pub(super) const fn empty() -> Self {
        // SAFETY: a sockaddr_in6 of all zeros is a valid value, and it is the largest member.
        Self { v6: unsafe { std::mem::zeroed() } }
    }

    /// `address` in the kernel's form and the length of that form.
    #[inline]
    pub(super) fn write(address: SocketAddr) -> (Self, libc::socklen_t) {
        let mut written = Self::empty();
        match address {
            SocketAddr::V4(v4) => {
                written.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: in_addr(*v4.ip()),
                    sin_zero: [0; 8],
                };
                (written, size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            SocketAddr::V6(v6) => {
                written.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: in6_addr(*v6.ip()),
                    sin6_scope_id: v6.scope_id(),
                };
                (written, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }

    /// The address in canonical form: an IPv4-mapped one as IPv4, no flow label, and a scope only
    /// where it means something. `None` for any other family.
    #[inline]
    pub(super) fn read(&self) -> Option<SocketAddr> {
        // SAFETY: every member starts with the family, and all bytes were initialised by `empty`.
        match i32::from(unsafe { self.family }) {
            libc::AF_INET => {
                // SAFETY: the kernel or `write` filled this member in: the family says so.
                let v4 = unsafe { self.v4 };
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port)))
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let v6 = unsafe { self.v6 };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Some(canonical_v6(ip, u16::from_be(v6.sin6_port), v6.sin6_scope_id))
            }
            _ => None,
        }
    }
}

/// An IPv6 socket address in canonical form. A call of its own: where it was part of its callers,
/// IPv4 addresses were put together byte by byte as well.
#[inline(never)]
pub(super) fn canonical_v6(ip: Ipv6Addr, port: u16, scope_id: u32) -> SocketAddr {
    match ip.to_ipv4_mapped() {
        Some(v4) => SocketAddr::new(IpAddr::V4(v4), port),
        None => {
            let scope_id = if ip.is_unicast_link_local() { scope_id } else { 0 };
            SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope_id))
        }
    }
}

pub(super) const fn in_addr(ip: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) }
}

pub(super) const fn in6_addr(ip: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr { s6_addr: ip.octets() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_form() {
        for text in ["127.0.0.1:3478", "255.255.255.255:65535", "[::1]:1", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().expect("a test address");
            let (written, len) = Address::write(address);
            assert_eq!(written.read(), Some(address));
            assert_eq!(len, if address.is_ipv4() { 16 } else { 28 });
        }
        assert_eq!(Address::empty().read(), None);
    }

    #[test]
    fn what_the_kernel_says_is_made_canonical() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:5".parse().expect("a test address");
        let (written, _) = Address::write(mapped);
        assert_eq!(written.read(), "192.0.2.1:5".parse().ok());
        let scoped: SocketAddr = "[2001:db8::1%4]:5".parse().expect("a test address");
        let (written, _) = Address::write(scoped);
        assert_eq!(written.read(), "[2001:db8::1]:5".parse().ok());
    }
}
