//! NAT behaviour discovery (RFC 5780): which of our addresses an answer leaves from, and which
//! one a client is told of. What is asked and answered stands in [`super::method::binding`].

use std::net::SocketAddr;

use super::{FiveTuple, RelayAddress, Transport};

/// Where NAT behaviour discovery is served. Plain data, filled by `daemon`; empty: nowhere.
#[derive(Debug, Clone, Default)]
pub struct NatDiscovery {
    /// At most one for each address family.
    pub pairs: Vec<DiscoveryPair>,
    /// Listeners over UDP that are there for it alone, and answer Binding requests only. An
    /// unspecified address stands for every one of its family.
    pub listeners: Vec<SocketAddr>,
}

/// Two addresses of this host, listened on over UDP with the same two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiscoveryPair {
    /// A1 and A2 of RFC 5780, section 6.1; clients know them by their public halves.
    pub addresses: [RelayAddress; 2],
    /// P1 and P2.
    pub ports: [u16; 2],
}

impl NatDiscovery {
    /// The pair of the address family of `server`.
    pub(super) fn pair(&self, server: SocketAddr) -> Option<&DiscoveryPair> {
        let same = |pair: &&DiscoveryPair| pair.addresses[0].local.is_ipv4() == server.is_ipv4();
        self.pairs.iter().find(same)
    }

    /// Whether requests other than Binding are served where this one came in.
    pub(super) fn leaves_turn_to(&self, five_tuple: &FiveTuple) -> bool {
        let FiveTuple { transport, server, .. } = *five_tuple;
        let is_own = |listener: &SocketAddr| {
            let any = listener.ip().is_unspecified() && listener.is_ipv4() == server.is_ipv4();
            listener.port() == server.port() && (any || listener.ip() == server.ip())
        };
        transport != Transport::Udp || !self.listeners.iter().any(is_own)
    }
}

impl DiscoveryPair {
    /// The address of ours, as we know it, that an answer leaves from (RFC 5780, table 1).
    /// `None` when `server`, the one that was asked, is none of the four.
    pub(super) fn changed(
        &self,
        server: SocketAddr,
        change_ip: bool,
        change_port: bool,
    ) -> Option<SocketAddr> {
        let address = self.addresses.iter().position(|own| own.local == server.ip())?;
        let port = self.ports.iter().position(|own| *own == server.port())?;
        let address = self.addresses[address ^ usize::from(change_ip)];
        Some(SocketAddr::new(address.local, self.ports[port ^ usize::from(change_port)]))
    }

    /// An address of ours as clients know it.
    pub(super) fn public(&self, own: SocketAddr) -> SocketAddr {
        let known = self.addresses.iter().find(|address| address.local == own.ip());
        SocketAddr::new(known.map_or(own.ip(), |address| address.public), own.port())
    }
}
