//! Whom a request asks for, and from which page it comes.
//!
//! A name that is not ours is refused: without that, a page of a stranger whose name resolves to
//! our address (DNS rebinding) would count as our own. The same for the origin of a WebSocket,
//! which browsers do not check themselves.

use std::net::IpAddr;

use hyper::header::{HOST, ORIGIN};
use hyper::{HeaderMap, Request, Version};

use super::Options;
use crate::edge::Peer;

/// The Host of a request: lower case, checked for form, so that it may stand in a header again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// As it was asked for: with the port, if there was one.
    authority: String,
    /// Without the port; an IPv6 address keeps its brackets.
    name: String,
}

/// Why a Host is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// None, several, or one of a form that no browser sends.
    Malformed,
    /// A name that is not ours.
    Foreign,
}

impl Host {
    /// The Host of a request, not yet compared with ours.
    ///
    /// # Errors
    /// [`Refused::Malformed`].
    pub(super) fn of<B>(request: &Request<B>) -> Result<Self, Refused> {
        let uri = request.uri();
        let mut all = request.headers().get_all(HOST).iter();
        let host = match (all.next(), all.next(), uri.authority()) {
            (Some(host), None, _) => host.to_str().map_err(|_| Refused::Malformed)?,
            // RFC 9113 §8.3.1: the authority stands for the header, which HTTP/1.1 must have.
            (None, _, Some(authority)) if request.version() == Version::HTTP_2 => {
                authority.as_str()
            }
            _ => return Err(Refused::Malformed),
        };
        let host = Self::parse(host).ok_or(Refused::Malformed)?;
        // RFC 9112 §3.2.2: a whole URL in the request line names the host a second time.
        match uri.authority() {
            Some(named) if Self::parse(named.as_str()).as_ref() != Some(&host) => {
                Err(Refused::Malformed)
            }
            _ => Ok(host),
        }
    }

    /// Reads `name`, `name:port`, `1.2.3.4:port` or `[::1]:port`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let authority = text.to_ascii_lowercase();
        let end_of_name = match authority.strip_prefix('[') {
            Some(rest) => rest.find(']')? + 2,
            None => authority.find(':').unwrap_or(authority.len()),
        };
        let (name, port) = authority.split_at(end_of_name);
        let port_is_good = match port.strip_prefix(':') {
            Some(digits) => digits.is_empty() || digits.parse::<u16>().is_ok_and(|port| port > 0),
            None => port.is_empty(),
        };
        let name_is_good = match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => is_name(name),
        };
        if !port_is_good || !name_is_good {
            return None;
        }
        let name = name.trim_end_matches('.').to_owned();
        Some(Self { authority, name })
    }

    /// Without the port.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is an IP address, not a name.
    pub(super) fn is_address(&self) -> bool {
        self.name.starts_with('[') || self.name.parse::<std::net::Ipv4Addr>().is_ok()
    }

    /// With the port, as a browser writes it into a URL.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// The host as an address, if it is one.
    pub(super) fn address(&self) -> Option<IpAddr> {
        as_address(&self.name)
    }

    /// Whether it means the computer on which the browser runs.
    pub(super) fn is_loopback(&self) -> bool {
        self.name == "localhost" || self.address().is_some_and(|address| address.is_loopback())
    }

    /// Checks that the name is one of ours: the public host, loopback, one of the list, or the
    /// very address on which the connection arrived. An address cannot be rebound as a name can.
    pub(super) fn check(
        &self,
        public_host: Option<&str>,
        allowed: &[String],
        peer: Peer,
    ) -> Result<(), Refused> {
        let local = peer.local.ip().to_canonical();
        let ours = self.is_loopback()
            || self.address() == Some(local)
            || public_host.is_some_and(|host| self.is(host))
            || allowed.iter().any(|host| self.is(host));
        if ours { Ok(()) } else { Err(Refused::Foreign) }
    }

    /// Whether a name of the configuration means this host. A name with a port is meant for that
    /// port only.
    fn is(&self, configured: &str) -> bool {
        if let Ok(address) = configured.parse::<IpAddr>() {
            return self.address() == Some(address.to_canonical());
        }
        match Self::parse(configured) {
            Some(host) if host.authority.len() > host.name.len() + 1 => {
                host.authority == self.authority
            }
            Some(host) => host.name == self.name,
            None => false,
        }
    }
}

/// Whether a page may open our WebSocket: a page of our own, or one of the list. A request
/// without Origin comes from no browser, which always sends one here; it has no page's rights to
/// misuse.
pub(super) fn origin_is_good(
    headers: &HeaderMap,
    host: &Host,
    options: &Options,
    secure: bool,
) -> bool {
    let mut all = headers.get_all(ORIGIN).iter();
    let origin = match (all.next(), all.next()) {
        (None, _) => return true,
        (Some(origin), None) => origin.to_str().unwrap_or_default().to_ascii_lowercase(),
        (Some(_), Some(_)) => return false,
    };
    let listed = |allowed: &String| origin == allowed.trim_end_matches('/').to_ascii_lowercase();
    if options.allowed_origins.iter().any(listed) {
        return true;
    }
    let (page, default_port) = match origin.split_once("://") {
        Some(("https", page)) => (page, ":443"),
        // Behind a proxy that nobody told us of, the page is https and our stream is not; the
        // other way round, a page that came unencrypted is not ours.
        Some(("http", page)) if !secure => (page, ":80"),
        _ => return false,
    };
    let without = |authority: &str| {
        authority.strip_suffix(default_port).unwrap_or(authority).trim_end_matches(':').to_owned()
    };
    without(page) == without(host.authority())
}

fn as_address(name: &str) -> Option<IpAddr> {
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    (1..=253).contains(&name.len()) && name.bytes().all(good) && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::Speaks;

    fn peer(local: &str) -> Peer {
        let local = local.parse().expect("a test address");
        let remote = "192.0.2.77:5000".parse().expect("a test address");
        Peer { remote, local, proxy: None, tls: false, speaks: Speaks::Http }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in pairs {
            headers.append(name, value.parse().expect("a header value"));
        }
        headers
    }

    #[test]
    fn hosts_are_read_strictly() {
        let name = |text| Host::parse(text).map(|host| host.name().to_owned());
        assert_eq!(name("Live.Example:8080").as_deref(), Some("live.example"));
        assert_eq!(name("live.example.").as_deref(), Some("live.example"));
        assert_eq!(name("[::1]:8080").as_deref(), Some("[::1]"));
        assert_eq!(name("[::1]").as_deref(), Some("[::1]"));
        assert_eq!(name("127.0.0.1:").as_deref(), Some("127.0.0.1"));
        for bad in [
            "",
            ":80",
            "a b",
            "a:b",
            "a:0",
            "a:99999",
            "a@b",
            "a/b",
            "::1",
            "[::1",
            "[x]",
            "[::1]x",
            "a;b",
            "a'b",
            "a\"b",
            "[::1%eth0]",
            "a,b",
            "é",
        ] {
            assert_eq!(name(bad), None, "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_taken_may_stand_in_a_header(text in "\\PC{0,40}|[a-zA-Z0-9.:\\[\\]-]{0,20}") {
            if let Some(host) = Host::parse(&text) {
                let safe = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
                assert!(host.authority().chars().all(safe), "{text:?}");
                assert!(!host.name().is_empty());
            }
        }
    }

    #[test]
    fn only_our_own_names_are_taken() {
        let allowed = ["other.example".to_owned(), "2001:db8::5".to_owned(), "p.example:81".into()];
        let check = |host: &str, local: &str| {
            let host = Host::parse(host).expect("a host");
            host.check(Some("live.example"), &allowed, peer(local))
        };
        for good in [
            "live.example",
            "LIVE.example.:8080",
            "other.example",
            "localhost:1",
            "127.9.9.9",
            "[::1]",
            "[2001:db8::5]:8080",
            "p.example:81",
            "192.0.2.1:8080",
        ] {
            assert_eq!(check(good, "192.0.2.1:8080"), Ok(()), "{good}");
        }
        for bad in [
            "evil.example",
            "live.example.evil.example",
            "xlive.example",
            "localhost.evil.example",
            "192.0.2.2",
            "p.example",
            "p.example:82",
            "0.0.0.0",
        ] {
            assert_eq!(check(bad, "192.0.2.1:8080"), Err(Refused::Foreign), "{bad}");
        }
    }

    #[test]
    fn a_request_names_exactly_one_host() {
        let of_version = |version, uri: &'static str, pairs: &[(&'static str, &str)]| {
            let mut request = Request::builder().version(version).uri(uri).body(());
            let request = request.as_mut().expect("a request");
            *request.headers_mut() = headers(pairs);
            Host::of(request).map(|host| host.name)
        };
        let of = |uri, pairs: &[_]| of_version(Version::HTTP_11, uri, pairs);
        assert_eq!(of("/", &[("host", "a.example")]), Ok("a.example".to_owned()));
        assert_eq!(of("/", &[]), Err(Refused::Malformed));
        assert_eq!(of("/", &[("host", "a"), ("host", "a")]), Err(Refused::Malformed));
        assert_eq!(of("http://a/", &[("host", "a")]), Ok("a".to_owned()));
        assert_eq!(of("http://b/", &[("host", "a")]), Err(Refused::Malformed));
        assert_eq!(of("http://a/", &[]), Err(Refused::Malformed));
        let http2 = |pairs: &[_]| of_version(Version::HTTP_2, "https://a:8443/", pairs);
        assert_eq!(http2(&[]), Ok("a".to_owned()));
        assert_eq!(http2(&[("host", "a:8443")]), Ok("a".to_owned()));
        assert_eq!(http2(&[("host", "b")]), Err(Refused::Malformed));
    }

    #[test]
    fn only_our_own_pages_open_the_websocket() {
        let options = Options {
            allowed_origins: vec!["https://portal.example".to_owned()],
            ..Options::default()
        };
        let check = |origin: &str, host: &str, tls: bool| {
            let host = Host::parse(host).expect("a host");
            origin_is_good(&headers(&[("origin", origin)]), &host, &options, tls)
        };
        assert!(check("http://localhost:8080", "localhost:8080", false));
        assert!(check("https://live.example", "live.example", true));
        assert!(check("https://live.example", "live.example:443", true));
        assert!(check("https://live.example", "live.example", false), "a proxy ends TLS");
        assert!(check("https://PORTAL.example", "live.example", true));
        assert!(check("http://[::1]:8080", "[::1]:8080", false));
        for (origin, host, tls) in [
            ("http://evil.example", "live.example", false),
            ("http://localhost:8081", "localhost:8080", false),
            ("http://127.0.0.1:8080", "localhost:8080", false),
            ("http://live.example", "live.example", true),
            ("https://portal.example.evil.example", "live.example", true),
            ("null", "live.example", false),
            ("", "live.example", false),
            ("file://live.example", "live.example", false),
        ] {
            assert!(!check(origin, host, tls), "{origin} to {host}");
        }
        let host = Host::parse("live.example").expect("a host");
        assert!(origin_is_good(&headers(&[]), &host, &options, true));
        let two = headers(&[("origin", "http://live.example"), ("origin", "http://live.example")]);
        assert!(!origin_is_good(&two, &host, &options, false));
    }
}
