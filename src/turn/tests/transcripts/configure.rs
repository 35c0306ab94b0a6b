//! The lines before anything else: the options of the engine, and the grants of its hub.

use super::Script;
use crate::turn::tests::bench::fixed;
use crate::turn::tests::words::{Words, credential_hash, nat_discovery};
use crate::turn::{DefaultFamily, RelayAddress, TcpLimits};

impl Script {
    pub(super) fn configure(&mut self, words: &Words<'_>) {
        assert!(self.bench.is_none(), "configuration comes first");
        let options = &mut self.options;
        let limits = &mut options.limits;
        let mut relays = Vec::new();
        for &(key, value) in &words.0 {
            let number = || value.parse().expect("a number");
            match key {
                "allocations_per_user" => limits.allocations_per_user = number(),
                "allocations_per_link" => limits.allocations_per_link = number(),
                "allocations" => limits.allocations = number(),
                "permissions" => limits.permissions_per_allocation = number(),
                "channels" => limits.channels_per_allocation = number(),
                "lifetime" => limits.lifetime_secs_max = number(),
                "new_peers" => limits.new_peers_per_min = number(),
                "bandwidth_of_user" => limits.bandwidth_per_user_bytes_per_sec = number().into(),
                "tcp" => options.tcp_relay = Some(tcp_limits(value)),
                "dont_fragment" => options.dont_fragment = value == "yes",
                "default_family" => options.default_family = DefaultFamily::Client,
                "alternate" => options.alternate_servers.push(value.parse().expect("a server")),
                "discovery" => options.nat_discovery = nat_discovery(value),
                "nonce" => limits.nonce_secs = number(),
                "bandwidth" => limits.bandwidth_per_allocation_bytes_per_sec = number().into(),
                "bandwidth_in_all" => limits.bandwidth_bytes_per_sec = number().into(),
                "strangers" => {
                    limits.unauthenticated_per_prefix_per_sec = number();
                    limits.unauthenticated_burst = number();
                }
                "ports" => {
                    let (first, last) = value.split_once('-').expect("a range");
                    let port = |text: &str| text.parse().expect("a port");
                    options.relay_ports = (port(first), port(last));
                }
                "allow" => options.allow_peers.push(value.parse().expect("a prefix")),
                "deny" => options.deny_peers.push(value.parse().expect("a prefix")),
                "host" => options.host_addresses.push(value.parse().expect("an address")),
                "relay" => {
                    let (public, local) = value.split_once('/').unwrap_or((value, value));
                    let ip = |text: &str| text.parse().expect("an address");
                    relays.push(RelayAddress { public: ip(public), local: ip(local) });
                }
                "bind" => self.manual_bind = value == "manual",
                "users" => {
                    let names = value.split(',').filter(|name| !name.is_empty());
                    options.users = names.map(fixed).collect();
                }
                "strict_expiry" => options.strict_expiry = value == "true",
                "hash" => {
                    let hashes = value.split(',').map(credential_hash).collect();
                    options.shared_secrets = options.shared_secrets.clone().hashed_by(hashes);
                }
                other => panic!("no such key: {other}"),
            }
        }
        if !relays.is_empty() {
            options.relay_addresses = relays;
        }
    }

    pub(super) fn grant(&mut self, name: &str, words: &Words<'_>) {
        let room = words.get("room").expect("a room");
        let grant = self.bench().grant(name, room);
        for peer in words.all("reach") {
            grant.allow(peer.parse().expect("an address")).expect("room in the scope");
        }
    }
}

/// How many connections there may be in all, per allocation, and pending.
fn tcp_limits(text: &str) -> TcpLimits {
    let numbers: Vec<u32> = text.split('/').map(|n| n.parse().expect("a number")).collect();
    let [connections, connections_per_allocation, pending_per_allocation] = numbers[..] else {
        panic!("three numbers: {text}");
    };
    TcpLimits { connections, connections_per_allocation, pending_per_allocation }
}
