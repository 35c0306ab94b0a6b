//! Whom a client may reach through us: one table, one function.
//!
//! [`Policy::judge`] is asked by every method that names a peer; what it grants is kept with the
//! permission, so the packet path compares addresses and judges nothing again. IPv4 addresses
//! that hide in IPv6 ones are judged as what they are. Our own relayed addresses are a case of
//! their own: the judge grants the address, and the packet path looks at the port
//! ([`super::relayed`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{PoisonError, RwLock};

use super::{Options, RelayAddress};
use crate::net::Prefix;

/// A peer's address that passed the policy, in the form that is stored, compared and reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CanonicalPeer {
    /// The address; the PUBLIC one of a `PUBLIC/LOCAL` pair.
    pub(super) ip: IpAddr,
    /// Which of our relay addresses it is, if one: then a packet needs a live port as well.
    pub(super) relay_address: Option<usize>,
}

/// Why a peer's address was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// Unspecified, multicast or broadcast: nothing opens these.
    Never,
    /// A form of IPv6 address that carries an IPv4 one and has no business on the wire.
    Encoded,
    /// An address of this host without a host prefix of its own in `allow_peers`.
    Host,
    /// The longest match in the operator's lists denies it.
    Operator,
    /// A special-purpose range that is denied by default.
    Special,
}

/// The peer policy of one configuration.
pub(super) struct Policy {
    allow: Vec<Prefix>,
    deny: Vec<Prefix>,
    /// Asked for each peer of a request, never for a packet.
    hosts: RwLock<Vec<IpAddr>>,
    /// Addresses of this host that a NAT gives it, so no interface has them, beside those of
    /// `relays`.
    public: Vec<IpAddr>,
    relays: Vec<RelayAddress>,
}

impl Policy {
    pub(super) fn new(options: &Options) -> Self {
        let discovery = options.nat_discovery.pairs.iter().flat_map(|pair| pair.addresses);
        let policy = Self {
            allow: options.allow_peers.clone(),
            deny: options.deny_peers.clone(),
            hosts: RwLock::default(),
            public: discovery.map(|address| address.public).collect(),
            relays: options.relay_addresses.clone(),
        };
        policy.set_hosts(&options.host_addresses);
        policy
    }

    /// Sets the addresses of this host, which come and go while the daemon runs.
    pub(super) fn set_hosts(&self, addresses: &[IpAddr]) {
        let hosts = addresses.iter().map(IpAddr::to_canonical).collect();
        *self.hosts.write().unwrap_or_else(PoisonError::into_inner) = hosts;
    }

    fn is_host(&self, ip: IpAddr) -> bool {
        let hosts = self.hosts.read().unwrap_or_else(PoisonError::into_inner);
        hosts.contains(&ip) || self.public.contains(&ip)
    }

    /// Says whether clients may reach `peer`, an address as it came off the wire.
    pub(super) fn judge(&self, peer: IpAddr) -> Result<CanonicalPeer, Denied> {
        if is_never_a_peer(peer) {
            return Err(Denied::Never);
        }
        let public = |relay: &RelayAddress| relay.public == peer;
        if let Some(index) = self.relays.iter().position(public) {
            return Ok(CanonicalPeer { ip: peer, relay_address: Some(index) });
        }
        if is_stray_encoding(peer) {
            return Err(Denied::Encoded);
        }
        self.rule(peer)?;
        if let Some(inner) = embedded_ipv4(peer) {
            if is_never_a_peer(inner) {
                return Err(Denied::Never);
            }
            self.rule(inner)?;
        }
        Ok(CanonicalPeer { ip: peer, relay_address: None })
    }

    /// The address under which a packet that came from `source` is judged and reported, and
    /// which of our relay addresses it is: the mirror of [`Self::delivery`].
    #[inline]
    pub(super) fn reported(&self, source: IpAddr) -> CanonicalPeer {
        for (index, relay) in self.relays.iter().enumerate() {
            if relay.local == source || relay.public == source {
                return CanonicalPeer { ip: relay.public, relay_address: Some(index) };
            }
        }
        CanonicalPeer { ip: source, relay_address: None }
    }

    /// Where packets for a granted peer go: LOCAL instead of PUBLIC, so that no NAT in front of
    /// us has to turn them round.
    #[inline]
    pub(super) fn delivery(&self, peer: CanonicalPeer) -> IpAddr {
        peer.relay_address.map_or(peer.ip, |index| self.relays[index].local)
    }

    /// The operator's lists, then the defaults; an address of this host needs a prefix of its own.
    fn rule(&self, ip: IpAddr) -> Result<(), Denied> {
        if self.relays.iter().any(|relay| relay.local == ip || relay.public == ip) {
            return Err(Denied::Host);
        }
        let longest = |list: &[Prefix]| {
            let lengths = list.iter().filter(|prefix| prefix.contains(ip)).map(|p| p.bits());
            lengths.max()
        };
        let (allowed, denied) = (longest(&self.allow), longest(&self.deny));
        if ip.is_loopback() || self.is_host(ip) {
            let own = Prefix::host(ip);
            let opened = self.allow.contains(&own) && !self.deny.contains(&own);
            return if opened { Ok(()) } else { Err(Denied::Host) };
        }
        match (allowed, denied) {
            (None, None) if is_special(ip) => Err(Denied::Special),
            (None, None) => Ok(()),
            (allowed, denied) if allowed > denied => Ok(()),
            _ => Err(Denied::Operator),
        }
    }
}

/// Unspecified, multicast and broadcast addresses.
fn is_never_a_peer(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    ip.is_unspecified() || ip.is_multicast() || broadcast
}

/// Teredo and 6to4: a client with such an address could make packets go round between us and the
/// end of its tunnel, so it gets no allocation (RFC 8656, section 21.4).
pub(super) fn is_tunnel(ip: IpAddr) -> bool {
    TEREDO.contains(ip) || SIX_TO_FOUR.contains(ip)
}

/// What is denied unless the operator says otherwise. Of IPv6 that is whatever has not been given
/// out for hosts of the internet, today or by a registry of tomorrow.
fn is_special(ip: IpAddr) -> bool {
    let is_unassigned = ip.is_ipv6() && !GLOBAL.contains(ip) && !NAT64.contains(ip);
    is_unassigned || DENIED.iter().any(|prefix| prefix.contains(ip))
}

/// IPv4-mapped, IPv4-translated (RFC 2765) and IPv4-compatible ones, local-use NAT64 and Teredo:
/// denied whatever they carry. `::1` is no IPv4-compatible address but a host address, which the
/// table judges.
fn is_stray_encoding(ip: IpAddr) -> bool {
    ip != IpAddr::V6(Ipv6Addr::LOCALHOST) && ENCODED.iter().any(|prefix| prefix.contains(ip))
}

/// The IPv4 address that a packet to this IPv6 address ends at, if routers on the way translate
/// or unwrap it: 6to4 (RFC 3056), well-known NAT64 (RFC 6052), ISATAP (RFC 5214).
fn embedded_ipv4(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = ip else { return None };
    let bits = v6.to_bits();
    let inner = if bits >> 112 == 0x2002 {
        bits >> 80
    } else if NAT64.contains(ip) || (bits >> 32) & ISATAP_MASK == ISATAP {
        bits
    } else {
        return None;
    };
    // The low 32 bits are the address; the cast drops the prefix in front.
    Some(IpAddr::V4(Ipv4Addr::from_bits(inner as u32)))
}

/// The upper half of an ISATAP interface identifier, its universal/local bit masked out
/// (RFC 5214, section 6.1).
const ISATAP: u128 = 0x0000_5efe;
const ISATAP_MASK: u128 = 0xfdff_ffff;

const fn v4(a: u8, b: u8, c: u8, d: u8, len: u8) -> Prefix {
    Prefix::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), len)
}

const fn v6(first: u128, len: u8) -> Prefix {
    Prefix::new(IpAddr::V6(Ipv6Addr::from_bits(first)), len)
}

const TEREDO: Prefix = v6(0x2001_0000 << 96, 32);
const SIX_TO_FOUR: Prefix = v6(0x2002 << 112, 16);

/// What is given out of IPv6 (RFC 4291, section 2.4).
const GLOBAL: Prefix = v6(0x2000 << 112, 3);
/// The well-known prefix (RFC 6052), the one part beside it that leads anywhere.
const NAT64: Prefix = v6(0x0064_ff9b << 96, 96);

const ENCODED: &[Prefix] = &[
    v6(0xffff << 32, 96),
    v6(0xffff << 48, 96),
    v6(0, 96),
    v6(0x0064_ff9b_0001 << 80, 48),
    TEREDO,
];

/// The special-purpose ranges (RFC 6890); of IPv6 those inside [`GLOBAL`].
const DENIED: &[Prefix] = &[
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
    // Assignments of protocols, no hosts: Teredo, benchmarks, ORCHID (RFC 2928, 5180, 7343).
    v6(0x2001 << 112, 23),
    // Documentation (RFC 3849, 9637).
    v6(0x2001_0db8 << 96, 32),
    v6(0x3fff << 112, 20),
    // RFC 8656, section 21.4: no peer of a tunnel. Who opens it still has the IPv4 in it judged.
    SIX_TO_FOUR,
];
