//! Who asks: the client's address behind trusted proxies, and whether a request may publish
//! without a key.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;

use super::host::Host;
use super::{Options, Publish};
use crate::edge::Peer;
use crate::net::Prefix;

/// The address of the person: the other end of the stream, unless that is a trusted proxy. Then
/// `X-Forwarded-For` is read from its right end, where the nearest proxy wrote, up to the first
/// address that is no trusted proxy; what stands left of it anybody could have written.
pub(super) fn address(headers: &HeaderMap, peer: Peer, trusted: &[Prefix]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|proxy| proxy.contains(address));
    let mut nearest = peer.remote.ip().to_canonical();
    if !is_trusted(nearest) {
        return nearest;
    }
    let written: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .flat_map(|value| value.to_str().unwrap_or("?").split(','))
        .collect();
    for entry in written.into_iter().rev() {
        let Some(address) = entry_address(entry.trim()) else {
            break;
        };
        nearest = address;
        if !is_trusted(nearest) {
            break;
        }
    }
    nearest
}

/// Proxies write an address, some with the port behind it.
fn entry_address(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
    let address = bare
        .parse::<IpAddr>()
        .or_else(|_| entry.parse::<SocketAddr>().map(|address| address.ip()))
        .ok()?;
    Some(address.to_canonical())
}

/// Whether the browser's own connection is encrypted: ours, or that to a trusted proxy, which
/// says so in `X-Forwarded-Proto`. A proxy that has sent a PROXY header is trusted already. If
/// that one passes on bytes, the word is the client's own: it talks itself out of being led to
/// HTTPS, and nobody else. Not to believe it would break a proxy that ends HTTPS and sends both.
pub(super) fn is_secure(headers: &HeaderMap, peer: Peer, trusted: &[Prefix]) -> bool {
    let remote = peer.remote.ip().to_canonical();
    let is_trusted = peer.proxy.is_some() || trusted.iter().any(|proxy| proxy.contains(remote));
    peer.tls || is_trusted && headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https")
}

/// Whether this request may broadcast without a key. `auto` means: nobody but a browser on this
/// very computer can have sent it. A reverse proxy that nobody told us of gives itself away by
/// its headers, a rebound name by the Host.
pub(super) fn may_publish(options: &Options, headers: &HeaderMap, host: &Host, peer: Peer) -> bool {
    match options.publish {
        Publish::Open => true,
        Publish::Key => false,
        Publish::Auto => {
            options.only_loopback_listeners
                && options.trusted_proxies.is_empty()
                && peer.remote.ip().to_canonical().is_loopback()
                && peer.local.ip().to_canonical().is_loopback()
                && host.is_loopback()
                && !is_forwarded(headers)
        }
    }
}

/// Whether any header says that a proxy stands between. Browsers open a WebSocket without any
/// `X-` header of their own, so each of those counts.
fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let name = name.as_str();
        FORWARDING_NAMES.contains(&name)
            || FORWARDING_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    })
}

const FORWARDING_NAMES: &[&str] =
    &["via", "client-ip", "true-client-ip", "cdn-loop", "surrogate-capability"];
const FORWARDING_PREFIXES: &[&str] = &[
    "x-",
    "forwarded",
    "cf-",
    "proxy-",
    "fastly-",
    "fly-",
    "akamai-",
    "wl-proxy-",
    "ali-cdn-",
    "incap-",
    "tailscale-",
    "ngrok-",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::Speaks;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in pairs {
            headers.append(name, value.parse().expect("a header value"));
        }
        headers
    }

    fn peer(remote: &str, local: &str) -> Peer {
        let parse = |text: &str| text.parse().expect("a test address");
        let (remote, local) = (parse(remote), parse(local));
        Peer { remote, local, proxy: None, tls: false, speaks: Speaks::Http }
    }

    fn seen(remote: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let trusted: Vec<Prefix> =
            trusted.iter().map(|text| text.parse().expect("a prefix")).collect();
        let pairs: Vec<_> = forwarded.iter().map(|&value| ("x-forwarded-for", value)).collect();
        address(&headers(&pairs), peer(remote, "127.0.0.1:80"), &trusted).to_string()
    }

    #[test]
    fn a_stranger_is_not_believed() {
        assert_eq!(seen("198.51.100.1:9", &["192.0.2.1"], &[]), "198.51.100.1");
        assert_eq!(seen("198.51.100.1:9", &["192.0.2.1"], &["10.0.0.0/8"]), "198.51.100.1");
    }

    #[test]
    fn the_last_untrusted_address_counts() {
        let trusted = &["10.0.0.0/8", "2001:db8::/32"][..];
        let seen = |forwarded| seen("10.0.0.1:9", forwarded, trusted);
        assert_eq!(seen(&["192.0.2.1"]), "192.0.2.1");
        assert_eq!(seen(&["127.0.0.1, 192.0.2.1"]), "192.0.2.1", "the left one is anybody's word");
        assert_eq!(seen(&["127.0.0.1", "192.0.2.1, 10.2.2.2"]), "192.0.2.1");
        assert_eq!(seen(&["192.0.2.1:4711, [2001:db8::7]:80"]), "192.0.2.1");
        assert_eq!(seen(&["[2001:db9::1]"]), "2001:db9::1");
        assert_eq!(seen(&["::ffff:192.0.2.1"]), "192.0.2.1");
        assert_eq!(seen(&["10.9.9.9"]), "10.9.9.9");
        assert_eq!(seen(&["192.0.2.1, nonsense, 10.3.3.3"]), "10.3.3.3");
        assert_eq!(seen(&[]), "10.0.0.1");
    }

    #[test]
    fn only_a_trusted_proxy_says_that_the_page_is_encrypted() {
        let trusted: [Prefix; 1] = ["10.0.0.0/8".parse().expect("a prefix")];
        let secure = |remote, proto| {
            let headers = headers(&[("x-forwarded-proto", proto)]);
            is_secure(&headers, peer(remote, "127.0.0.1:80"), &trusted)
        };
        assert!(secure("10.0.0.1:9", "https"));
        assert!(!secure("10.0.0.1:9", "http"));
        assert!(!secure("198.51.100.1:9", "https"));
        let proxy = Some("10.0.0.1".parse().expect("an address"));
        let behind = Peer { proxy, ..peer("198.51.100.1:9", "127.0.0.1:80") };
        let said = headers(&[("x-forwarded-proto", "https")]);
        assert!(is_secure(&said, behind, &trusted), "a PROXY header is a trusted proxy's word");
        assert!(!is_secure(&headers(&[]), behind, &trusted));
    }

    struct Case {
        publish: Publish,
        only_loopback: bool,
        trusted: &'static [&'static str],
        remote: &'static str,
        local: &'static str,
        host: &'static str,
        header: Option<&'static str>,
    }

    const HERE: Case = Case {
        publish: Publish::Auto,
        only_loopback: true,
        trusted: &[],
        remote: "127.0.0.1:5000",
        local: "127.0.0.1:8080",
        host: "localhost:8080",
        header: None,
    };

    fn allowed(case: &Case) -> bool {
        let options = Options {
            publish: case.publish,
            only_loopback_listeners: case.only_loopback,
            trusted_proxies: case.trusted.iter().map(|t| t.parse().expect("a prefix")).collect(),
            ..Options::default()
        };
        let mut request = headers(&[("origin", "http://localhost:8080"), ("user-agent", "test")]);
        if let Some(name) = case.header {
            request.insert(name, "value".parse().expect("a header value"));
        }
        let host = Host::parse(case.host).expect("a host");
        may_publish(&options, &request, &host, peer(case.remote, case.local))
    }

    #[test]
    fn auto_opens_to_this_computer_alone() {
        assert!(allowed(&HERE));
        assert!(allowed(&Case {
            remote: "[::1]:5000",
            local: "[::1]:8080",
            host: "[::1]:8080",
            ..HERE
        }));
        assert!(allowed(&Case { remote: "[::ffff:127.0.0.1]:5", host: "127.0.0.1", ..HERE }));
        let refused = [
            ("another listener", Case { only_loopback: false, ..HERE }),
            ("a trusted proxy", Case { trusted: &["10.0.0.0/8"], ..HERE }),
            ("a remote client", Case { remote: "192.0.2.1:5000", ..HERE }),
            ("a public listener", Case { local: "192.0.2.2:8080", ..HERE }),
            ("a rebound name", Case { host: "evil.example:8080", ..HERE }),
            ("a name like ours", Case { host: "localhost.evil.example", ..HERE }),
        ];
        for (why, case) in refused {
            assert!(!allowed(&case), "{why}");
        }
    }

    #[test]
    fn auto_closes_at_any_forwarding_header() {
        for name in [
            "forwarded",
            "via",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-forwarded-port",
            "x-forwarded-server",
            "x-real-ip",
            "x-client-ip",
            "x-cluster-client-ip",
            "x-original-host",
            "x-envoy-external-address",
            "cf-connecting-ip",
            "cf-ray",
            "cdn-loop",
            "true-client-ip",
            "fastly-client-ip",
            "fly-client-ip",
            "proxy-connection",
            "forwarded-for",
        ] {
            assert!(!allowed(&Case { header: Some(name), ..HERE }), "{name}");
        }
        assert!(allowed(&Case { header: Some("accept-language"), ..HERE }));
    }

    #[test]
    fn open_and_key_do_not_look_at_the_request() {
        let far =
            Case { remote: "192.0.2.1:5000", header: Some("via"), only_loopback: false, ..HERE };
        assert!(allowed(&Case { publish: Publish::Open, ..far }));
        assert!(!allowed(&Case { publish: Publish::Key, ..HERE }));
    }
}
