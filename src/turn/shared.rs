//! What the workers of one relay share, in one place.
//!
//! The packet path reads two things of it, both atomics: the live relayed addresses and the
//! bandwidth of all. The rest is asked per request, behind short locks.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::bandwidth::SharedBucket;
use super::connections::Connections;
use super::nonce::Nonces;
use super::policy::Policy;
use super::ports::PortPool;
use super::quota::Quota;
use super::relayed::Relayed;
use super::reservations::Reservations;
use super::{DefaultFamily, FixedUser, Options, RelayAddress};
use crate::credentials::{Entropy, Grants, USERHASH_BYTES, userhash};
use crate::net::PrefixBuckets;
use crate::stun::LongTermKeys;
use crate::stun::control::AddressFamily;

/// What all workers of a relay share: grants, quotas, ports, ports in reserve with their sockets,
/// connections of TCP allocations, live relayed addresses, the nonce key and the buckets of
/// strangers. The packet path reads atomics only.
pub struct Shared {
    /// Grants of the hub.
    pub grants: Arc<Grants>,
    options: Arc<Options>,
    pub(super) policy: Policy,
    pub(super) nonces: Nonces,
    pub(super) strangers: PrefixBuckets,
    pub(super) quota: Arc<Quota>,
    pub(super) relayed: Arc<Relayed>,
    /// Ports in reserve, with their sockets.
    pub(super) reservations: Reservations,
    /// The connections of TCP allocations; there when those are served.
    pub(super) connections: Option<Arc<Connections>>,
    pub(super) bandwidth: SharedBucket,
    pub(super) fixed_users: FixedUsers,
    /// What judging requests has cost.
    #[cfg(test)]
    pub(super) effort: super::authenticate::Effort,
    /// One pool for each relay address.
    ports: Vec<Arc<PortPool>>,
}

/// The keys of the fixed users, and those that belong to nobody.
pub(super) struct FixedUsers {
    keys: HashMap<Arc<str>, LongTermKeys>,
    by_userhash: HashMap<[u8; USERHASH_BYTES], Arc<str>>,
    nobody: LongTermKeys,
}

impl Shared {
    /// Shared state for `options`; `entropy` gives the nonce key and the seeds.
    /// From now on `grants` knows what it mints by its USERHASH, too.
    pub fn new(options: Arc<Options>, grants: Arc<Grants>, entropy: &mut Entropy) -> Self {
        let limits = &options.limits;
        grants.hash_usernames(&options.realm);
        let relay_addresses = options.relay_addresses.len();
        Self {
            grants,
            policy: Policy::new(&options),
            nonces: Nonces::new(limits.nonce_secs, !options.users.is_empty(), entropy),
            strangers: PrefixBuckets::new(
                limits.unauthenticated_per_prefix_per_sec,
                limits.unauthenticated_burst,
                entropy.u64(),
            ),
            quota: Quota::new(limits),
            reservations: Reservations::default(),
            connections: options.tcp_relay.map(Connections::new),
            relayed: Relayed::new(relay_addresses, options.relay_ports),
            bandwidth: SharedBucket::new(limits.bandwidth_bytes_per_sec),
            fixed_users: FixedUsers::new(&options, entropy),
            #[cfg(test)]
            effort: super::authenticate::Effort::default(),
            ports: (0..relay_addresses).map(|_| PortPool::new(options.relay_ports)).collect(),
            options,
        }
    }

    /// What the relay was configured to do.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Says which addresses this host has now: `Options::host_addresses` again, when they change.
    /// What was permitted before ends by [`Server::judge_again`](super::Server::judge_again).
    pub fn set_host_addresses(&self, addresses: &[IpAddr]) {
        self.policy.set_hosts(addresses);
    }

    /// The relay address of a family, by its place; the first one is used.
    pub(super) fn relay_address(&self, ipv6: bool) -> Option<(usize, RelayAddress)> {
        let mut addresses = self.options.relay_addresses.iter().copied().enumerate();
        addresses.find(|(_, address)| address.public.is_ipv6() == ipv6)
    }

    /// The family of a relayed address for a client who does not say.
    pub(super) fn default_family(&self, client: IpAddr) -> AddressFamily {
        let (own, other) = match client {
            IpAddr::V4(_) => (AddressFamily::Ipv4, AddressFamily::Ipv6),
            IpAddr::V6(_) => (AddressFamily::Ipv6, AddressFamily::Ipv4),
        };
        match self.options.default_family {
            DefaultFamily::Ipv4 => AddressFamily::Ipv4,
            DefaultFamily::Client if self.relay_address(client.is_ipv6()).is_some() => own,
            DefaultFamily::Client => other,
        }
    }

    /// Where a client is sent instead: an address of the family that he came with, and behind it
    /// one of the other (RFC 8489, section 10). None without the first.
    pub(super) fn alternate_servers(&self, client: IpAddr) -> Vec<SocketAddr> {
        let servers = &self.options.alternate_servers;
        let first = |ipv6| servers.iter().copied().find(|server| server.is_ipv6() == ipv6);
        let other = |_: &SocketAddr| first(client.is_ipv4());
        let own = first(client.is_ipv6());
        own.into_iter().chain(own.as_ref().and_then(other)).collect()
    }

    /// What relay sockets are bound to, by the place of the relay address.
    pub(super) fn local(&self, relay_address: usize) -> IpAddr {
        self.options.relay_addresses[relay_address].local
    }

    /// The free ports of a relay address, by its place.
    pub(super) fn ports(&self, relay_address: usize) -> &Arc<PortPool> {
        &self.ports[relay_address]
    }
}

impl FixedUsers {
    fn new(options: &Options, entropy: &mut Entropy) -> Self {
        let (mut keys, mut by_userhash) = (HashMap::new(), HashMap::new());
        for FixedUser { name, password } in &options.users {
            // Ready, so that a name that was never used takes as long as one that nobody has.
            let derived = LongTermKeys::derive(name, &options.realm, password.expose()).prepared();
            let name: Arc<str> = Arc::from(name.as_str());
            by_userhash.insert(userhash(&name, &options.realm), Arc::clone(&name));
            keys.insert(name, derived);
        }
        let (mut md5, mut sha256) = ([0; 16], [0; 32]);
        entropy.fill(&mut md5);
        entropy.fill(&mut sha256);
        Self { keys, by_userhash, nobody: LongTermKeys::from_raw(md5, sha256).prepared() }
    }

    /// The keys of `username`, and its holder; the keys of nobody for a name that is unknown.
    pub(super) fn keys(&self, username: &str) -> (&LongTermKeys, Option<Arc<str>>) {
        match self.keys.get_key_value(username) {
            Some((name, keys)) => (keys, Some(Arc::clone(name))),
            None => (&self.nobody, None),
        }
    }

    /// The fixed user whose name hashes to `hash`.
    pub(super) fn by_userhash(&self, hash: &[u8; USERHASH_BYTES]) -> Option<&Arc<str>> {
        self.by_userhash.get(hash)
    }
}
