//! Which TURN URLs a browser is told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::turn::Transport;

/// A listener of the relay, with its real port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnListener {
    /// How clients come.
    pub transport: Transport,
    /// Where.
    pub address: SocketAddr,
}

/// The TURN URLs for a browser that asked for `asked` (a Host without its port), when it reaches
/// the relay at `turn`.
///
/// There are at most two, because a browser allocates once per URL: UDP, and for networks that
/// block it TLS, or plain TCP where browsers would not trust the certificate; `trusted` says for
/// which host they do. Port 443 goes before all others for these, and port 3478 for UDP. The host
/// is `public_host` if that is set, else what the browser asked for; a browser on this very
/// computer is given the listener's own address, which `localhost` need not resolve to.
pub fn ice_urls(
    public_host: Option<&str>,
    asked: &str,
    turn: &[TurnListener],
    trusted: impl Fn(&str) -> bool,
) -> Vec<String> {
    let host = public_host.unwrap_or(asked).trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
    let loopback = address.is_some_and(|address| address.is_loopback())
        || host.eq_ignore_ascii_case("localhost");
    let find = |transport: Transport| {
        let own = turn.iter().filter(|listener| listener.transport == transport);
        let own = own.map(|listener| listener.address);
        let listener = best(own, address, loopback, usual_port(transport))?;
        let reached = if loopback { Some(reached_from_here(listener.ip())) } else { address };
        Some((transport, reached, listener.port()))
    };
    let url = |(transport, reached, port): (Transport, Option<IpAddr>, u16)| {
        let host = reached.map_or_else(|| host.to_owned(), bracketed);
        let (scheme, over) = match transport {
            Transport::Udp => ("turn", "udp"),
            Transport::Tcp => ("turn", "tcp"),
            Transport::Tls => ("turns", "tcp"),
        };
        format!("{scheme}:{host}:{port}?transport={over}")
    };
    let is_trusted = |&(_, reached, _): &(Transport, Option<IpAddr>, u16)| {
        trusted(&reached.map_or_else(|| host.to_owned(), |address| address.to_string()))
    };
    let tls = find(Transport::Tls);
    let stream = match tls.filter(is_trusted) {
        Some(tls) => Some(tls),
        None => find(Transport::Tcp).or(tls),
    };
    find(Transport::Udp).into_iter().chain(stream).map(url).collect()
}

/// The port that the strictest networks let out.
const fn usual_port(transport: Transport) -> u16 {
    match transport {
        Transport::Udp => 3478,
        Transport::Tcp | Transport::Tls => 443,
    }
}

/// The listener that the host most likely leads to; among equals that with the `usual` port, then
/// the first one of the configuration.
fn best(
    turn: impl Iterator<Item = SocketAddr>,
    address: Option<IpAddr>,
    loopback: bool,
    usual: u16,
) -> Option<SocketAddr> {
    let rank = |listener: &SocketAddr| {
        let own = listener.ip();
        let same_family = address.is_none_or(|address| address.is_ipv4() == own.is_ipv4());
        if loopback {
            // `localhost` is IPv4 first: it is there even where IPv6 is switched off.
            return match (own.is_loopback(), own.is_unspecified(), own.is_ipv4()) {
                (true, _, true) => 0,
                (true, _, false) => 1,
                (_, true, true) => 2,
                (_, true, false) => 3,
                _ => 4,
            };
        }
        match (address == Some(own), own.is_unspecified(), own.is_loopback()) {
            (true, ..) => 0,
            (_, true, _) if same_family => 1,
            (.., false) if same_family => 2,
            (.., false) => 3,
            _ => 4,
        }
    };
    turn.min_by_key(|listener| (rank(listener), listener.port() != usual))
}

fn reached_from_here(listener: IpAddr) -> IpAddr {
    match listener {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        concrete => concrete,
    }
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(public_host: Option<&str>, asked: &str, turn: &[&str]) -> String {
        let listener = |text: &&str| {
            let (scheme, address) = text.split_once("://").unwrap_or(("udp", text));
            let transport = Transport::ALL.into_iter().find(|known| known.scheme() == scheme);
            TurnListener {
                transport: transport.expect("a transport"),
                address: address.parse().expect("a test address"),
            }
        };
        let turn: Vec<TurnListener> = turn.iter().map(listener).collect();
        let trusted = |host: &str| host == "a.example" || host == "192.0.2.7";
        ice_urls(public_host, asked, &turn, trusted).join(" ")
    }

    #[test]
    fn a_second_url_leads_around_a_network_that_blocks_udp() {
        let all = &["udp://0.0.0.0:1", "tcp://0.0.0.0:2", "tls://0.0.0.0:3"][..];
        let plain = &all[..2];
        let tls_only = &all[2..];
        let v6_first = &["tcp://[::]:5", "tcp://0.0.0.0:4"][..];
        let told = [
            ("a.example", all, "turn:a.example:1?transport=udp turns:a.example:3?transport=tcp"),
            ("a.example", plain, "turn:a.example:1?transport=udp turn:a.example:2?transport=tcp"),
            ("192.0.2.7", all, "turn:192.0.2.7:1?transport=udp turns:192.0.2.7:3?transport=tcp"),
            // Not what the certificate is for.
            ("192.0.2.1", all, "turn:192.0.2.1:1?transport=udp turn:192.0.2.1:2?transport=tcp"),
            ("localhost", all, "turn:127.0.0.1:1?transport=udp turn:127.0.0.1:2?transport=tcp"),
            ("192.0.2.1", tls_only, "turns:192.0.2.1:3?transport=tcp"),
            ("192.0.2.1", v6_first, "turn:192.0.2.1:4?transport=tcp"),
            ("[2001:db8::1]", v6_first, "turn:[2001:db8::1]:5?transport=tcp"),
        ];
        for (asked, turn, expected) in told {
            assert_eq!(url(None, asked, turn), expected, "{asked} with {turn:?}");
        }
        let named = url(Some("a.example"), "localhost", all);
        assert!(named.ends_with(" turns:a.example:3?transport=tcp"), "{named}");
    }

    #[test]
    fn the_usual_ports_go_before_others_and_each_kind_is_told_once() {
        let vps = &[
            "udp://[::]:443",
            "udp://0.0.0.0:443",
            "udp://0.0.0.0:3478",
            "tcp://0.0.0.0:3478",
            "tls://0.0.0.0:5349",
            "tcp://0.0.0.0:443",
            "tls://0.0.0.0:443",
            "tls://[::]:443",
        ][..];
        let told = [
            ("a.example", "turn:a.example:3478?transport=udp turns:a.example:443?transport=tcp"),
            ("b.example", "turn:b.example:3478?transport=udp turn:b.example:443?transport=tcp"),
            (
                "2001:db8::7",
                "turn:[2001:db8::7]:443?transport=udp turn:[2001:db8::7]:443?transport=tcp",
            ),
        ];
        for (host, expected) in told {
            assert_eq!(url(Some(host), "x.example", vps), expected);
        }
        let both = &["udp://0.0.0.0:443", "tls://0.0.0.0:443"][..];
        let expected = "turn:a.example:443?transport=udp turns:a.example:443?transport=tcp";
        assert_eq!(url(Some("a.example"), "x.example", both), expected);
    }

    #[test]
    fn this_computer_is_told_the_listeners_own_address() {
        let told = [
            ("localhost", &["127.0.0.1:3478"][..], "turn:127.0.0.1:3478?transport=udp"),
            ("LOCALHOST", &["0.0.0.0:3478"], "turn:127.0.0.1:3478?transport=udp"),
            ("127.0.0.1", &["[::1]:3479"], "turn:[::1]:3479?transport=udp"),
            ("[::1]", &["[::]:1", "0.0.0.0:1"], "turn:127.0.0.1:1?transport=udp"),
            ("localhost", &["[::1]:1", "127.0.0.1:2"], "turn:127.0.0.1:2?transport=udp"),
            ("localhost", &["203.0.113.1:3478"], "turn:203.0.113.1:3478?transport=udp"),
            ("localhost", &["203.0.113.1:1", "0.0.0.0:2"], "turn:127.0.0.1:2?transport=udp"),
        ];
        for (asked, turn, expected) in told {
            assert_eq!(url(None, asked, turn), expected, "{asked} with {turn:?}");
        }
    }

    #[test]
    fn everybody_else_is_told_the_host_they_asked_for() {
        let told = [
            ("live.example", &["0.0.0.0:3478"][..], "turn:live.example:3478?transport=udp"),
            ("live.example", &["127.0.0.1:1", "192.0.2.1:2"], "turn:live.example:2?transport=udp"),
            ("192.0.2.9", &["0.0.0.0:1", "[::]:2"], "turn:192.0.2.9:1?transport=udp"),
            ("[2001:db8::9]", &["0.0.0.0:1", "[::]:2"], "turn:[2001:db8::9]:2?transport=udp"),
            ("192.0.2.9", &["0.0.0.0:1", "192.0.2.9:2"], "turn:192.0.2.9:2?transport=udp"),
        ];
        for (asked, turn, expected) in told {
            assert_eq!(url(None, asked, turn), expected, "{asked} with {turn:?}");
        }
    }

    #[test]
    fn the_public_host_goes_before_what_was_asked_for() {
        let told = |public, asked| url(Some(public), asked, &["0.0.0.0:3478"]);
        assert_eq!(told("live.example", "localhost"), "turn:live.example:3478?transport=udp");
        assert_eq!(told("2001:db8::1", "localhost"), "turn:[2001:db8::1]:3478?transport=udp");
        assert_eq!(told("localhost", "live.example"), "turn:127.0.0.1:3478?transport=udp");
    }

    #[test]
    fn without_a_relay_there_is_no_url() {
        assert_eq!(url(None, "localhost", &[]), "");
    }
}
