//! Accepts TCP connections, finds out what they speak, and hands them to whoever serves that.
//!
//! The straight line: [`Listener::bind`], then [`serve`] accepts, asks the [`Gate`] for a place,
//! believes a trusted proxy's header, looks at the first bytes, ends TLS, looks at the first bytes
//! inside, and hands the [`Stream`] with its [`Peer`] to a call-back. All of that together has
//! one deadline. The edge knows the first bytes of HTTP and TURN and nothing else of them.

mod accept;
mod first;
mod gate;
mod proxy;
mod stream;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

pub use accept::{Acceptor, Listener, Takes, serve};
pub use first::{FIRST_BYTES_MAX, Speaks, first_bytes};
pub use gate::{Gate, Place};
pub use proxy::{BadHeader, PROXY_BYTES_MAX, Proxied, proxy_header};
pub use stream::{Stream, WriteMessages};

use crate::metrics::Limit;
use crate::net::Prefix;

/// The limits of everything that is accepted through one [`Gate`], over all its listeners together.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections that are open at once.
    pub connections: u32,
    /// Connections that are open at once from one address (from one /64 of IPv6).
    pub connections_per_address: u32,
    /// How long it may take to say what the connection is for: the header of a proxy, the TLS
    /// handshake, and the first bytes inside.
    pub handshake: Duration,
    /// How long a write may make no progress before the connection is given up.
    pub write_stall: Duration,
    /// Proxies that speak for many people: their PROXY header is believed, and the limit per
    /// address does not apply to them.
    pub trusted_proxies: Vec<Prefix>,
    /// What `connections` is counted as when it bites.
    pub connections_label: Limit,
    /// What `connections_per_address` is counted as when it bites.
    pub connections_per_address_label: Limit,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_address: 256,
            handshake: Duration::from_secs(10),
            write_stall: Duration::from_secs(20),
            trusted_proxies: Vec::new(),
            connections_label: Limit::Connections,
            connections_per_address_label: Limit::ConnectionsPerAddress,
        }
    }
}

/// Where a stream comes from, where it arrived, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The other end, an IPv4-mapped address in its IPv4 form; whom a trusted proxy's PROXY
    /// header names, if there was one.
    pub remote: SocketAddr,
    /// Our end; where that one came to, if there was such a header.
    pub local: SocketAddr,
    /// The trusted proxy whose PROXY header names `remote`.
    pub proxy: Option<IpAddr>,
    /// Whether the stream is encrypted.
    pub tls: bool,
    /// What the other end speaks. Never [`Speaks::Tls`], which ends here.
    pub speaks: Speaks,
}

/// What a limit per address counts as one: an IPv4 address, or a /64 of IPv6, which one customer
/// usually holds whole.
pub fn one_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}
