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

/// The TURN URLs for a browser that asked for `asked` (a Host without its port), when the relay
/// listens on `turn`.
///
/// There are at most two, because a browser allocates once per URL: UDP, and for networks that
/// block it TLS, or TCP where no certificate can be trusted: without a listener for TLS, and for a
/// bare address unless TLS is all there is. The host is `public_host` if that is set, else what
/// the browser asked for; a browser on this very computer is given the listener's own address,
/// which `localhost` need not resolve to.
pub fn ice_urls(public_host: Option<&str>, asked: &str, turn: &[TurnListener]) -> Vec<String> {
    let host = public_host.unwrap_or(asked).trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
    let loopback = address.is_some_and(|address| address.is_loopback())
        || host.eq_ignore_ascii_case("localhost");
    let url = |transport: Transport| {
        let own = turn.iter().filter(|listener| listener.transport == transport);
        let listener = best(own.map(|listener| listener.address), address, loopback)?;
        let host = if loopback {
            bracketed(reached_from_here(listener.ip()))
        } else {
            address.map_or_else(|| host.to_owned(), bracketed)
        };
        let (scheme, over) = match transport {
            Transport::Udp => ("turn", "udp"),
            Transport::Tcp => ("turn", "tcp"),
            Transport::Tls => ("turns", "tcp"),
        };
        Some(format!("{scheme}:{host}:{}?transport={over}", listener.port()))
    };
    let has_name = address.is_none() && !loopback;
    let [first, second] = match has_name {
        true => [Transport::Tls, Transport::Tcp],
        false => [Transport::Tcp, Transport::Tls],
    };
    let stream = url(first).or_else(|| url(second));
    url(Transport::Udp).into_iter().chain(stream).collect()
}

/// The listener that the host most likely leads to; the first one of the configuration among
/// equals.
fn best(
    turn: impl Iterator<Item = SocketAddr>,
    address: Option<IpAddr>,
    loopback: bool,
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
    turn.min_by_key(rank)
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
        ice_urls(public_host, asked, &turn).join(" ")
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
            // No certificate of a name holds for an address.
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
