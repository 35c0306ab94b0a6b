//! Which addresses streams are relayed from when the configuration does not say, and which of
//! ours a browser would reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::{Config, Host};
use crate::net::{self, Reach};
use crate::turn::RelayAddress;

/// The addresses to relay from: those of the configuration, else by what is listened on.
///
/// Loopback listeners relay from loopback. Otherwise each family takes `public_host` when it is
/// an address of this host, else the address listened on, else the best of `host`, the addresses
/// of the interfaces. IPv6 is left out when nobody listens on it. A private address behind a
/// `public_host` that is no address of ours is taken for a 1:1 NAT.
pub(super) fn relay_addresses(config: &Config, host: &[IpAddr]) -> Vec<RelayAddress> {
    let pairs = &config.turn.relay_addresses;
    if !pairs.is_empty() {
        return pairs.iter().map(|p| RelayAddress { public: p.public, local: p.local }).collect();
    }
    let listen: Vec<IpAddr> =
        config.turn.listen.iter().map(|listen| listen.address.ip().to_canonical()).collect();
    let found: Vec<RelayAddress> = if listen.iter().all(IpAddr::is_loopback) {
        Vec::new()
    } else {
        let public = match &config.public_host {
            Host::Is(name) => name.ip(),
            Host::Auto => None,
        };
        let listens_v6 = listen.iter().any(IpAddr::is_ipv6);
        let v4 = of_family(true, public, &listen, host);
        v4.into_iter()
            .chain(of_family(false, public, &listen, host).filter(|_| listens_v6))
            .collect()
    };
    if found.is_empty() { loopback(host) } else { found }
}

fn of_family(
    is_v4: bool,
    public: Option<IpAddr>,
    listen: &[IpAddr],
    host: &[IpAddr],
) -> Option<RelayAddress> {
    let public = public.filter(|ip| ip.is_ipv4() == is_v4);
    let ours = |ip: &IpAddr| ip.is_ipv4() == is_v4 && rank(*ip).is_some();
    let local = public
        .filter(|public| host.contains(public))
        .or_else(|| listen.iter().copied().filter(ours).min_by_key(|ip| rank(*ip)))
        .or_else(|| best(host, is_v4))?;
    let behind_nat = rank(local) == Some(Rank::Private);
    Some(RelayAddress { public: public.filter(|_| behind_nat).unwrap_or(local), local })
}

fn loopback(host: &[IpAddr]) -> Vec<RelayAddress> {
    let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);
    std::iter::once(IpAddr::from(Ipv4Addr::LOCALHOST))
        .chain(host.contains(&v6).then_some(v6))
        .map(|ip| RelayAddress { public: ip, local: ip })
        .collect()
}

/// The address of a family that strangers most likely reach.
pub(super) fn best(host: &[IpAddr], is_v4: bool) -> Option<IpAddr> {
    let family = host.iter().copied().filter(|ip| ip.is_ipv4() == is_v4);
    family.filter(|ip| rank(*ip).is_some()).min_by_key(|ip| rank(*ip))
}

/// How far an address reaches; `None` when nobody else can use it.
fn rank(ip: IpAddr) -> Option<Rank> {
    match net::reach(ip) {
        Reach::Host => None,
        Reach::Private => Some(Rank::Private),
        Reach::Public => Some(Rank::Global),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Global,
    Private,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Loaded};

    fn found(variables: &[(&str, &str)], host: &[&str]) -> Vec<String> {
        let environment: Environment = variables
            .iter()
            .map(|(name, value)| (format!("TURNCAST__{name}"), (*value).to_owned()))
            .collect();
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("t.toml");
        std::fs::write(&file, "").expect("a file");
        let loaded = Loaded::read(Some(&file), &environment).expect("a configuration");
        let host: Vec<IpAddr> = host.iter().map(|ip| ip.parse().expect("an address")).collect();
        relay_addresses(&loaded.config, &host)
            .iter()
            .map(|r| match r.public == r.local {
                true => r.local.to_string(),
                false => format!("{}/{}", r.public, r.local),
            })
            .collect()
    }

    const HOST: &[&str] =
        &["127.0.0.1", "::1", "10.0.0.5", "198.51.100.7", "fe80::1", "2001:db8::7"];

    #[test]
    fn loopback_listeners_relay_from_loopback() {
        assert_eq!(found(&[], HOST), ["127.0.0.1", "::1"]);
        assert_eq!(found(&[], &["127.0.0.1"]), ["127.0.0.1"]);
    }

    #[test]
    fn a_wildcard_takes_the_address_that_reaches_furthest() {
        let v4 = [("TURN__LISTEN", "0.0.0.0:3478")];
        assert_eq!(found(&v4, HOST), ["198.51.100.7"]);
        let both = [("TURN__LISTEN", r#"["0.0.0.0:3478", "[::]:3478"]"#)];
        assert_eq!(found(&both, HOST), ["198.51.100.7", "2001:db8::7"]);
        assert_eq!(found(&v4, &["127.0.0.1", "192.168.1.9"]), ["192.168.1.9"]);
        assert_eq!(found(&v4, &["127.0.0.1", "169.254.1.9"]), ["127.0.0.1"]);
    }

    #[test]
    fn a_concrete_listener_is_relayed_from() {
        assert_eq!(found(&[("TURN__LISTEN", "10.0.0.5:3478")], HOST), ["10.0.0.5"]);
        let v6_only = [("TURN__LISTEN", "[2001:db8::7]:3478")];
        assert_eq!(found(&v6_only, HOST), ["198.51.100.7", "2001:db8::7"]);
    }

    #[test]
    fn the_public_host_wins_and_tells_of_a_nat() {
        let listen = ("TURN__LISTEN", "0.0.0.0:3478");
        let own = [listen, ("PUBLIC_HOST", "10.0.0.5")];
        assert_eq!(found(&own, HOST), ["10.0.0.5"]);
        let nat = [listen, ("PUBLIC_HOST", "203.0.113.9")];
        assert_eq!(found(&nat, &["127.0.0.1", "10.0.0.5"]), ["203.0.113.9/10.0.0.5"]);
        assert_eq!(found(&nat, HOST), ["198.51.100.7"]);
        let given = [listen, ("TURN__RELAY_ADDRESSES", r#"["203.0.113.9/10.0.0.5"]"#)];
        assert_eq!(found(&given, HOST), ["203.0.113.9/10.0.0.5"]);
    }
}
