//! Accepts TCP connections: limits, deadlines and TLS, for whoever serves the stream.
//!
//! The straight line: [`Listener::bind`], then [`serve`] accepts, asks the [`Gate`] for a place,
//! finishes the TLS handshake within its deadline and hands the [`Stream`] with its [`Peer`] to a
//! call-back. The edge knows neither HTTP nor TURN; telling them apart by the first bytes, and the
//! PROXY protocol, belong between the handshake and the call-back.

mod accept;
mod gate;
mod stream;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

pub use accept::{Acceptor, Listener, serve};
pub use gate::{Gate, Place};
pub use stream::Stream;

use crate::metrics::Limit;
use crate::net::Prefix;

/// The limits of everything that is accepted through one [`Gate`], over all its listeners together.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections that are open at once.
    pub connections: u32,
    /// Connections that are open at once from one address (from one /64 of IPv6).
    pub connections_per_address: u32,
    /// How long the TLS handshake may take.
    pub handshake: Duration,
    /// How long a write may make no progress before the connection is given up.
    pub write_stall: Duration,
    /// Proxies that speak for many people: the limit per address does not apply to them.
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

/// Where a stream comes from and where it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The other end, an IPv4-mapped address in its IPv4 form.
    pub remote: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// Whether the stream is encrypted.
    pub tls: bool,
}

/// What a limit per address counts as one: an IPv4 address, or a /64 of IPv6, which one customer
/// usually holds whole.
pub fn one_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}
