//! Which TURN URL a browser is told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The TURN URLs for a browser that asked for `asked` (a Host without its port), when the relay
/// listens on `turn`.
///
/// There is one URL, because a browser allocates once per URL. Its host is `public_host` if that
/// is set, else what the browser asked for; a browser on this very computer is given the
/// listener's own address, which `localhost` need not resolve to.
pub fn ice_urls(public_host: Option<&str>, asked: &str, turn: &[SocketAddr]) -> Vec<String> {
    let host = public_host.unwrap_or(asked).trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
    let loopback = address.is_some_and(|address| address.is_loopback())
        || host.eq_ignore_ascii_case("localhost");
    let Some(listener) = best(turn, address, loopback) else {
        return Vec::new();
    };
    let host = if loopback {
        bracketed(reached_from_here(listener.ip()))
    } else {
        address.map_or_else(|| host.to_owned(), bracketed)
    };
    vec![format!("turn:{host}:{}?transport=udp", listener.port())]
}

/// The listener that the host most likely leads to; the first one of the configuration among
/// equals.
fn best(turn: &[SocketAddr], address: Option<IpAddr>, loopback: bool) -> Option<SocketAddr> {
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
    turn.iter().copied().min_by_key(rank)
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
        let turn: Vec<SocketAddr> =
            turn.iter().map(|text| text.parse().expect("a test address")).collect();
        ice_urls(public_host, asked, &turn).join(" ")
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
