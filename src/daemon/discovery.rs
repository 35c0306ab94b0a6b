//! Which addresses and ports of this host NAT behaviour discovery (RFC 5780) is served on.

use std::net::{IpAddr, SocketAddr};

use super::{Error, is_ours};
use crate::config::{Config, RelayPair};
use crate::turn::{DiscoveryPair, NatDiscovery, RelayAddress};

/// What `turn.nat_discovery` asks for. Where a wildcard is listened on, the address that streams
/// are relayed from is the first one.
///
/// # Errors
/// [`Error::NatDiscovery`] when this host does not have two addresses for it.
pub(super) fn nat_discovery(
    config: &Config,
    relay: &[RelayAddress],
    host: &[IpAddr],
) -> Result<NatDiscovery, Error> {
    let mut found = NatDiscovery::default();
    let listened: Vec<SocketAddr> = config.turn.listens_over_udp().collect();
    for &RelayPair { public, local } in &*config.turn.nat_discovery {
        let refused = |why: String| Err(Error::NatDiscovery { address: local, why });
        if !is_ours(local, host) {
            let pair = format!("behind a NAT write \"{local}/LOCAL_IP\"");
            return refused(format!("is no address of this host; {pair}"));
        }
        let Some(listener) = config.turn.discovery_listener(&RelayPair { public, local }) else {
            return refused("is of a family that turn.listen does not listen to".to_owned());
        };
        let Some(first) = first(listener.ip().to_canonical(), relay) else {
            let help = "name one in turn.relay_addresses or turn.listen";
            return refused(format!("has no other address of its family beside it; {help}"));
        };
        if first.local == local || first.public == public {
            let help = "name another address of this host, or set turn.relay_addresses";
            return refused(format!("is the address that clients use already; {help}"));
        }
        let ports = config.turn.discovery_ports(listener);
        let second = RelayAddress { public, local };
        let wanted = match listener.ip().is_unspecified() {
            true => vec![SocketAddr::new(listener.ip(), ports[1])],
            false => vec![
                SocketAddr::new(first.local, ports[1]),
                SocketAddr::new(local, ports[0]),
                SocketAddr::new(local, ports[1]),
            ],
        };
        let is_new = |address: &SocketAddr| !listened.iter().any(|own| covers(*own, *address));
        found.listeners.extend(wanted.into_iter().filter(is_new));
        found.pairs.push(DiscoveryPair { addresses: [first, second], ports });
    }
    Ok(found)
}

/// The address that clients of a listener on `ip` use.
fn first(ip: IpAddr, relay: &[RelayAddress]) -> Option<RelayAddress> {
    let mut relay = relay.iter().copied();
    if ip.is_unspecified() {
        return relay.find(|address| address.local.is_ipv4() == ip.is_ipv4());
    }
    let same = relay.find(|address| address.local == ip);
    Some(same.unwrap_or(RelayAddress { public: ip, local: ip }))
}

/// Whether a socket that is bound to `own` gets what comes to `address`.
fn covers(own: SocketAddr, address: SocketAddr) -> bool {
    let any = own.ip().is_unspecified() && own.is_ipv4() == address.is_ipv4();
    own.port() == address.port() && (any || own.ip().to_canonical() == address.ip())
}

#[cfg(test)]
mod tests {
    use super::super::addresses::relay_addresses;
    use super::*;
    use crate::config::{Environment, Loaded};

    const HOST: &[&str] = &["127.0.0.1", "::1", "10.0.0.5", "10.0.0.6", "2001:db8::7"];

    fn found(listen: &str, second: &str, relay: &str) -> Result<NatDiscovery, String> {
        let keys = [("LISTEN", listen), ("NAT_DISCOVERY", second), ("RELAY_ADDRESSES", relay)];
        let variables = keys.iter().filter(|(_, value)| !value.is_empty());
        let environment: Environment =
            variables.map(|(key, v)| (format!("TURNCAST__TURN__{key}"), (*v).to_owned())).collect();
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("t.toml");
        std::fs::write(&file, "").expect("a file");
        let loaded = Loaded::read(Some(&file), &environment).expect("a configuration");
        let host: Vec<IpAddr> = HOST.iter().map(|ip| ip.parse().expect("an address")).collect();
        let relay = relay_addresses(&loaded.config, &host);
        nat_discovery(&loaded.config, &relay, &host).map_err(|error| error.to_string())
    }

    fn shown(found: &NatDiscovery) -> Vec<String> {
        let address = |a: &RelayAddress| format!("{}/{}", a.public, a.local);
        let pairs = found.pairs.iter().map(|pair| {
            let [first, second] = pair.addresses.each_ref().map(address);
            format!("{first} {second} {:?}", pair.ports)
        });
        pairs.chain(found.listeners.iter().map(ToString::to_string)).collect()
    }

    #[test]
    fn a_concrete_listener_gets_three_more_and_a_wildcard_one() {
        let concrete = found("10.0.0.5:3478", "10.0.0.6", "").expect("two addresses");
        let first = "10.0.0.5/10.0.0.5 10.0.0.6/10.0.0.6 [3478, 3479]";
        let more = ["10.0.0.5:3479", "10.0.0.6:3478", "10.0.0.6:3479"];
        assert_eq!(shown(&concrete), [&[first][..], &more].concat());
        let wildcard = found("0.0.0.0:3478", "10.0.0.6", "").expect("two addresses");
        assert_eq!(shown(&wildcard), [first, "0.0.0.0:3479"]);
    }

    #[test]
    fn what_is_listened_on_already_is_not_bound_again() {
        let listen = r#"["10.0.0.5:3478", "10.0.0.6:3478", "0.0.0.0:3479", "[::]:3478"]"#;
        let both = found(listen, "10.0.0.6", "").expect("two addresses");
        assert_eq!(shown(&both), ["10.0.0.5/10.0.0.5 10.0.0.6/10.0.0.6 [3478, 3479]"]);
    }

    #[test]
    fn clients_are_told_the_addresses_before_a_nat() {
        let second = "203.0.113.6/10.0.0.6";
        let nat = found("0.0.0.0:3478", second, "203.0.113.5/10.0.0.5").expect("two addresses");
        let expected = "203.0.113.5/10.0.0.5 203.0.113.6/10.0.0.6 [3478, 3479]";
        assert_eq!(shown(&nat), [expected, "0.0.0.0:3479"]);
    }

    #[test]
    fn one_address_under_two_names_is_no_second_one() {
        let refused = |listen: &str, second: &str, relay: &str, part: &str| {
            let error = found(listen, second, relay).expect_err("refused");
            assert!(error.starts_with("turn.nat_discovery: "), "{error}");
            assert!(error.contains(part), "{error}");
        };
        refused("10.0.0.5:3478", "10.0.0.9", "", "10.0.0.9 is no address of this host");
        refused("0.0.0.0:3478", "10.0.0.5", "", "that clients use already");
        let same = "203.0.113.5/10.0.0.6";
        refused("0.0.0.0:3478", same, "203.0.113.5/10.0.0.5", "that clients use already");
        let only = "[::]:3478";
        refused(only, "2001:db8::7", "10.0.0.5", "has no other address of its family");
    }
}
