//! The TURN server (RFC 8656) as a state machine: it is told what arrived and when, and says what
//! to do. One `Server` belongs to one relay worker; what spans workers is in [`Shared`].
//!
//! No socket, no clock, no randomness of its own. The straight line: [`Server::handle_client`]
//! classifies a datagram; data goes out as a [`Verdict`] that points into the received buffer,
//! everything else becomes an [`Action`] that the worker executes before it reads again.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod authenticate;
mod bandwidth;
mod connections;
mod discovery;
mod ending;
mod hop;
mod icmp;
mod method;
mod nonce;
mod peers;
mod pending;
mod policy;
mod ports;
mod quota;
mod reject;
mod relayed;
mod reservations;
mod runs;
mod server;
mod shared;
mod table;
mod tcp;
#[cfg(test)]
mod tests;
mod traffic;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use crate::credentials::SharedSecrets;
use crate::net::Prefix;
use crate::telemetry::Secret;

pub use connections::{DataConnection, Pause};
pub use discovery::{DiscoveryPair, NatDiscovery};
pub use hop::{EngineId, Hop};
pub use icmp::Icmp;
pub use reservations::HeldSocket;
pub use runs::ToClient;
pub use server::Server;
pub use shared::Shared;

/// Bytes that must be free in front of a peer's payload, for the largest header that
/// [`Server::handle_peer`] writes there: a Data indication with an IPv6 XOR-PEER-ADDRESS.
pub const HEADROOM: usize = 48;

/// Bytes that must be free behind a peer's payload: the padding of a DATA attribute.
pub const TAILROOM: usize = 3;

/// How a client reaches us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP: a datagram is a message.
    Udp,
    /// TCP: messages in a stream (RFC 8656, section 3.1).
    Tcp,
    /// TLS over TCP, of which the engine sees what is inside.
    Tls,
}

impl Transport {
    /// Every value. DTLS would be one more.
    pub const ALL: [Self; 3] = [Self::Udp, Self::Tcp, Self::Tls];

    /// The word in front of `://` in a listener's URL.
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.scheme())
    }
}

/// The client's side of an allocation (RFC 8656, section 2): unique among live allocations.
/// Addresses are canonical: an IPv4 client of an IPv6 socket is written as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FiveTuple {
    /// How the client reaches us.
    pub transport: Transport,
    /// The address the client's packets come from.
    pub client: SocketAddr,
    /// The address of ours that the client sends to, and that answers leave from.
    pub server: SocketAddr,
}

/// Names the relay socket of one allocation within one [`Server`]. Never reused while the worker
/// may still hold the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RelayId(pub u32);

/// The value of CONNECTION-ID: unique among the connections of all TCP allocations (RFC 6062,
/// section 6.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u32);

/// An address of this host, such as one that allocations are relayed from, with its 1:1 NAT
/// (`PUBLIC/LOCAL`) when the clients know it under another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayAddress {
    /// What clients are told, as in XOR-RELAYED-ADDRESS.
    pub public: IpAddr,
    /// What sockets are bound to; the same as `public` without NAT.
    pub local: IpAddr,
}

/// A fixed user with a long-term credential.
#[derive(Debug, Clone)]
pub struct FixedUser {
    /// The USERNAME, by the OpaqueString profile.
    pub name: String,
    /// The password, by the same.
    pub password: Secret<String>,
}

/// The limits of `[turn.limits]`; 0 means no limit where the field says so.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Live allocations of one user (fixed, or signed with a shared secret), on all workers.
    pub allocations_per_user: u32,
    /// Live allocations of one grant (one side of one link), on all workers.
    pub allocations_per_link: u32,
    /// Live allocations in all.
    pub allocations: u32,
    /// Permissions of one allocation.
    pub permissions_per_allocation: u32,
    /// Channels of one allocation.
    pub channels_per_allocation: u32,
    /// Peers that one allocation may add in a minute, and all of one payer as many times that as
    /// there may be of them; 0: no limit.
    pub new_peers_per_min: u32,
    /// The longest lifetime granted, in seconds.
    pub lifetime_secs_max: u32,
    /// How long a nonce is good, in seconds.
    pub nonce_secs: u32,
    /// Payload bytes a second of one allocation, both directions together; 0: no limit.
    pub bandwidth_per_allocation_bytes_per_sec: u64,
    /// Payload bytes a second of all allocations of one user, or of one grant, both directions
    /// together; 0: no limit.
    pub bandwidth_per_user_bytes_per_sec: u64,
    /// Payload bytes a second of all allocations; 0: no limit.
    pub bandwidth_bytes_per_sec: u64,
    /// Requests of strangers answered per second and /24 or /56; 0: no limit.
    pub unauthenticated_per_prefix_per_sec: u32,
    /// How many of them at once.
    pub unauthenticated_burst: u32,
}

/// How many connections TCP allocations may have (RFC 6062).
#[derive(Debug, Clone, Copy)]
pub struct TcpLimits {
    /// Connections to and from peers, of all allocations.
    pub connections: u32,
    /// Those of one allocation.
    pub connections_per_allocation: u32,
    /// Of those, the ones that are being made or wait for their ConnectionBind.
    pub pending_per_allocation: u32,
}

/// Which family a relayed address has when the request does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultFamily {
    /// IPv4 (RFC 8656, section 7.2 step 7).
    Ipv4,
    /// That of the client's own address, if it is relayed, else the other one: for hosts without
    /// IPv4, because browsers never ask for a family.
    Client,
}

/// What a relay is configured to do. Plain data, filled by `daemon`.
#[derive(Debug, Clone)]
pub struct Options {
    /// The REALM of every challenge, by the OpaqueString profile; at most 763 bytes.
    pub realm: String,
    /// Where allocations are relayed from; the first of each family is used. Never empty.
    pub relay_addresses: Vec<RelayAddress>,
    /// The ports of relayed addresses, both ends included.
    pub relay_ports: (u16, u16),
    /// Fixed users. When there are any, clients are asked to hide their names (USERHASH).
    pub users: Vec<FixedUser>,
    /// Shared secrets of other applications.
    pub shared_secrets: SharedSecrets,
    /// Whether the expiry of a shared secret's credential is looked at by Refresh, too.
    pub strict_expiry: bool,
    /// Peers that the operator opens, before the defaults.
    pub allow_peers: Vec<Prefix>,
    /// Peers that the operator closes, before the defaults.
    pub deny_peers: Vec<Prefix>,
    /// Whether the workers can send datagrams of IPv4 that nobody may fragment.
    pub dont_fragment: bool,
    /// The family of a relayed address that nobody asked for.
    pub default_family: DefaultFamily,
    /// Where clients are sent instead, by the family of their own address: the first of it. Empty:
    /// they are served. Holders of a grant always are.
    pub alternate_servers: Vec<SocketAddr>,
    /// The name in their certificate, when it is another than in ours: at most 255 bytes.
    pub alternate_domain: Option<String>,
    /// How the names begin of users whose packets go through the sockets also from one allocation
    /// of ours to another: they want to see what a firewall lets through. Empty: nobody's do.
    pub examiners: String,
    /// Whether and how much TCP is relayed (RFC 6062).
    pub tcp_relay: Option<TcpLimits>,
    /// NAT behaviour discovery (RFC 5780).
    pub nat_discovery: NatDiscovery,
    /// Every address of this host: denied as a peer unless a host prefix allows it. Later ones
    /// come in by [`Shared::set_host_addresses`].
    pub host_addresses: Vec<IpAddr>,
    /// The limits.
    pub limits: Limits,
}

/// What the engine asks of its worker besides sending the verdict's packet.
#[derive(Debug)]
pub enum Action {
    /// Send this answer to the client.
    Answer {
        /// Whom to, and from which of our addresses.
        five_tuple: FiveTuple,
        /// A whole STUN message.
        bytes: Vec<u8>,
    },
    /// Bind a relay socket to `local`, then call [`Server::bound`].
    Bind {
        /// The name of the socket from now on.
        relay: RelayId,
        /// Address and port.
        local: SocketAddr,
    },
    /// Bind a socket to `local` and give it to [`Server::reserved`]: a port that is held for a
    /// later allocation, perhaps at another worker.
    Reserve {
        /// The relay socket that waits for it. It is bound by an [`Action::Bind`] of its own.
        relay: RelayId,
        /// Address and port.
        local: SocketAddr,
    },
    /// Take a socket over that was held for this allocation, then call [`Server::bound`].
    Adopt {
        /// The name of the socket from now on.
        relay: RelayId,
        /// The socket, bound.
        socket: HeldSocket,
    },
    /// Close the socket, and stop connecting from it; its name is free afterwards. What is bound
    /// to a data connection hears of its end by [`DataConnection::poll_ended`].
    Close {
        /// The socket.
        relay: RelayId,
    },
    /// Listen for TCP connections at `local`, then call [`Server::bound`]; each one that comes goes
    /// to [`Server::handle_incoming`]. Asked of clients over TCP and TLS only, as all below.
    Listen {
        /// The name of the socket from now on.
        relay: RelayId,
        /// Address and port.
        local: SocketAddr,
    },
    /// Connect to `peer` from `local`, then call [`Server::connected`].
    Connect {
        /// The listening socket that has `local`, too.
        relay: RelayId,
        /// The name of the connection.
        connection: ConnectionId,
        /// A relayed address.
        local: SocketAddr,
        /// Where to: the local address where a `PUBLIC/LOCAL` pair is the peer.
        peer: SocketAddr,
    },
    /// Stop connecting: it has taken too long, and nobody waits for [`Server::connected`].
    Abandon {
        /// The connection.
        connection: ConnectionId,
    },
    /// The client's connection is a data connection from here on (RFC 6062, section 5.4): after the
    /// answers of this call, what comes from it goes to `socket` as it is, and the other way round.
    Splice {
        /// The connection to the peer, as it was given to the engine.
        socket: HeldSocket,
        /// To be held as long as the two last.
        connection: DataConnection,
    },
}

/// Why a peer could not be connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectFailure {
    /// It refused, cannot be reached, or did not answer.
    Refused,
    /// No descriptor or memory is left.
    Exhausted,
}

/// Why a relay socket could not be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindFailure {
    /// Another process has the port (EADDRINUSE): the engine tries the next one.
    PortTaken,
    /// No descriptor or memory is left (EMFILE, ENFILE, ENOBUFS, ENOMEM): 508.
    Exhausted,
    /// Anything else, such as an address that is gone (EADDRNOTAVAIL): 508.
    Unavailable,
}

/// What a worker executes after each call, in order. Reused, so that it keeps its memory.
pub type Actions = Vec<Action>;

/// What to do with the datagram that was just handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing more: it was answered through an action, or dropped and counted.
    Done,
    /// Send this part of the buffer from the relay socket to the peer.
    ToPeer {
        /// The relay socket.
        relay: RelayId,
        /// Where to: the local address where a `PUBLIC/LOCAL` pair is the peer.
        peer: SocketAddr,
        /// The payload within the buffer that was handed in.
        payload: Range<usize>,
        /// Whether the datagram must not be fragmented; means nothing over IPv6, where nobody but
        /// the sender fragments.
        dont_fragment: bool,
    },
    /// Hand this part of the buffer to the engine that serves the peer, which is an allocation of
    /// ours: [`Server::handle_hop`].
    ToEngine {
        /// Which engine, and where from and to.
        hop: Hop,
        /// The payload within the buffer that was handed in.
        payload: Range<usize>,
    },
    /// Send this part of the buffer to the client.
    ToClient {
        /// Whom to, and from which of our addresses.
        five_tuple: FiveTuple,
        /// Header, payload and padding within the buffer that was handed in.
        datagram: Range<usize>,
    },
}

impl Verdict {
    /// The part of the buffer that goes on, if one does.
    #[inline]
    fn range_mut(&mut self) -> Option<&mut Range<usize>> {
        match self {
            Self::Done => None,
            Self::ToPeer { payload, .. } | Self::ToEngine { payload, .. } => Some(payload),
            Self::ToClient { datagram, .. } => Some(datagram),
        }
    }
}
