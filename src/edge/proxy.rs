//! The PROXY protocol, versions 1 and 2: a proxy's word on who is behind it, in front of
//! everything else. Whose word counts is not decided here.
//!
//! ```text
//! v1: PROXY TCP4 192.0.2.1 203.0.113.5 4711 443\r\n
//! v2: \r\n\r\n\0\r\nQUIT\n  0x21  0x11  length (2)  source (4) target (4) ports (2 + 2)  TLVs
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What the beginning of a connection says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxied {
    /// Another byte is needed.
    More,
    /// It is no header of this protocol.
    Absent,
    /// A header.
    Header {
        /// How long it is.
        bytes: usize,
        /// Who is behind the proxy and where he came to; `None` when the proxy speaks for itself,
        /// as it does to see whether we live.
        people: Option<(SocketAddr, SocketAddr)>,
    },
}

/// The header breaks a rule of the protocol: nothing behind it can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a bad header of the PROXY protocol")]
pub struct BadHeader;

/// Reads the header that `bytes` may begin with.
///
/// # Errors
/// [`BadHeader`] as soon as it shows, also for a header longer than [`PROXY_BYTES_MAX`].
pub fn proxy_header(bytes: &[u8]) -> Result<Proxied, BadHeader> {
    if bytes.starts_with(V1) {
        return text_header(bytes);
    }
    if bytes.starts_with(V2) {
        return binary_header(bytes);
    }
    let may_become = V1.starts_with(bytes) || V2.starts_with(bytes);
    Ok(if may_become { Proxied::More } else { Proxied::Absent })
}

fn text_header(bytes: &[u8]) -> Result<Proxied, BadHeader> {
    let seen = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
        return if seen.len() < V1_BYTES_MAX { Ok(Proxied::More) } else { Err(BadHeader) };
    };
    let line = seen[V1.len()..end].strip_suffix(b"\r").ok_or(BadHeader)?;
    let line = std::str::from_utf8(line).map_err(|_| BadHeader)?;
    let bytes = end + 1;
    let words: Vec<&str> = line.split(' ').collect();
    let people = match words[..] {
        // What else is said then is to be ignored.
        ["UNKNOWN", ..] => None,
        ["TCP4" | "TCP6", source, target, source_port, target_port] => {
            let is_v4 = words[0] == "TCP4";
            let of_family = |text: &str| {
                let ip: IpAddr = text.parse().map_err(|_| BadHeader)?;
                if ip.is_ipv4() == is_v4 { Ok(ip) } else { Err(BadHeader) }
            };
            let client = SocketAddr::new(of_family(source)?, port(source_port)?);
            Some((client, SocketAddr::new(of_family(target)?, port(target_port)?)))
        }
        _ => return Err(BadHeader),
    };
    Ok(Proxied::Header { bytes, people: people.map(canonical) })
}

fn port(text: &str) -> Result<u16, BadHeader> {
    // A number may have a sign in front for Rust, but not here.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or(BadHeader)
}

fn binary_header(bytes: &[u8]) -> Result<Proxied, BadHeader> {
    let Some(&[version_command, family, high, low]) = bytes.get(V2.len()..V2_HEAD_BYTES) else {
        return Ok(Proxied::More);
    };
    let speaks_for_itself = match version_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(BadHeader),
    };
    let end = V2_HEAD_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if end > PROXY_BYTES_MAX {
        return Err(BadHeader);
    }
    let Some(body) = bytes.get(V2_HEAD_BYTES..end) else { return Ok(Proxied::More) };
    let people = match (speaks_for_itself, family) {
        (true, _) | (_, UNSPECIFIED | UNIX_STREAM) => None,
        (_, TCP4) => {
            let (addresses, _) = body.split_first_chunk::<12>().ok_or(BadHeader)?;
            let [a, b, c, d, e, f, g, h, ports @ ..] = *addresses;
            let (source, target) = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h));
            Some(with_ports(source.into(), target.into(), ports))
        }
        (_, TCP6) => {
            let (source, rest) = body.split_first_chunk::<16>().ok_or(BadHeader)?;
            let (target, rest) = rest.split_first_chunk::<16>().ok_or(BadHeader)?;
            let (ports, _) = rest.split_first_chunk::<4>().ok_or(BadHeader)?;
            let (source, target) = (Ipv6Addr::from(*source), Ipv6Addr::from(*target));
            Some(with_ports(source.into(), target.into(), *ports))
        }
        _ => return Err(BadHeader),
    };
    Ok(Proxied::Header { bytes: end, people: people.map(canonical) })
}

fn with_ports(source: IpAddr, target: IpAddr, [a, b, c, d]: [u8; 4]) -> (SocketAddr, SocketAddr) {
    let of = |ip, port| SocketAddr::new(ip, u16::from_be_bytes(port));
    (of(source, [a, b]), of(target, [c, d]))
}

fn canonical((client, server): (SocketAddr, SocketAddr)) -> (SocketAddr, SocketAddr) {
    let of = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    (of(client), of(server))
}

/// The longest header that is taken, its extensions (TLVs) included.
pub const PROXY_BYTES_MAX: usize = 1024;

const V1: &[u8] = b"PROXY ";
/// The longest line of version 1, its end included.
const V1_BYTES_MAX: usize = 107;
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_HEAD_BYTES: usize = 16;
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const UNIX_STREAM: u8 = 0x31;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = [V2, &[command, family]].concat();
        bytes.extend(u16::try_from(body.len()).expect("a short body").to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn told(bytes: &[u8]) -> String {
        match proxy_header(bytes) {
            Ok(Proxied::Header { bytes: len, people: Some((client, server)) }) => {
                assert!(len <= bytes.len());
                format!("{client} {server}")
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn addresses_are_read_from_both_versions() {
        let v4 = [192, 0, 2, 1, 203, 0, 113, 5, 0x12, 0x67, 1, 187];
        let expected = "192.0.2.1:4711 203.0.113.5:443";
        assert_eq!(told(b"PROXY TCP4 192.0.2.1 203.0.113.5 4711 443\r\nGET /"), expected);
        assert_eq!(told(&v2(0x21, 0x11, &v4)), expected);
        assert_eq!(told(&v2(0x21, 0x11, &[&v4[..], &[4, 0, 1, 7]].concat())), expected);
        let expected = "[2001:db8::1]:4711 [2001:db8::2]:443";
        assert_eq!(told(b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n"), expected);
        let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let both = [&v6[..], &[1], &v6, &[2], &[0x12, 0x67, 1, 187]].concat();
        assert_eq!(told(&v2(0x21, 0x21, &both)), expected);
        let mapped = b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:203.0.113.5 4711 443\r\n";
        assert_eq!(told(mapped), "192.0.2.1:4711 203.0.113.5:443");
    }

    #[test]
    fn a_proxy_may_speak_for_itself() {
        for header in [
            &b"PROXY UNKNOWN\r\n"[..],
            b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n",
            &v2(0x20, 0x11, &[0; 12]),
            &v2(0x20, 0, b""),
            &v2(0x21, 0, b""),
            &v2(0x21, 0x31, &[0; 216]),
        ] {
            let expected = Ok(Proxied::Header { bytes: header.len(), people: None });
            assert_eq!(proxy_header(header), expected, "{}", String::from_utf8_lossy(header));
        }
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        let endless = [&b"PROXY TCP4 "[..], &[b'1'; 100]].concat();
        for header in [
            &b"PROXY TCP4 192.0.2.1 203.0.113.5 4711\r\n"[..],
            b"PROXY TCP4 192.0.2.1 203.0.113.5 4711 443 7\r\n",
            b"PROXY TCP4 192.0.2.1 2001:db8::1 4711 443\r\n",
            b"PROXY TCP4 192.0.2.1 203.0.113.5 4711 +43\r\n",
            b"PROXY TCP4 192.0.2.1 203.0.113.5 4711 65536\r\n",
            b"PROXY TCP4 192.0.2.1 203.0.113.5 4711 443\n",
            b"PROXY TCP4 192.0.2.01 203.0.113.5 4711 443\r\n",
            b"PROXY UDP4 192.0.2.1 203.0.113.5 4711 443\r\n",
            b"PROXY \xff\r\n",
            &endless,
            &v2(0x11, 0x11, &[0; 12]),
            &v2(0x22, 0x11, &[0; 12]),
            &v2(0x21, 0x12, &[0; 12]),
            &v2(0x21, 0x11, &[0; 11]),
            &v2(0x21, 0x21, &[0; 35]),
            &v2(0x21, 0x11, &[0; PROXY_BYTES_MAX]),
        ] {
            assert_eq!(proxy_header(header), Err(BadHeader), "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn a_header_that_is_cut_waits_and_what_follows_changes_nothing(
            which in 0usize..4,
            more in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let header = match which {
                0 => b"PROXY TCP4 192.0.2.1 203.0.113.5 4711 443\r\n".to_vec(),
                1 => v2(0x21, 0x21, &[7; 60]),
                2 => v2(0x20, 0, b"abc"),
                _ => b"PROXY UNKNOWN\r\n".to_vec(),
            };
            for len in 0..header.len() {
                prop_assert_eq!(proxy_header(&header[..len]), Ok(Proxied::More));
            }
            let whole = proxy_header(&header);
            let Ok(Proxied::Header { bytes, .. }) = whole else { panic!("{whole:?}") };
            prop_assert_eq!(bytes, header.len());
            prop_assert_eq!(proxy_header(&[header, more].concat()), whole);
        }

        #[test]
        fn a_header_is_never_waited_for_beyond_its_bound(
            start in prop_oneof![Just(V1), Just(V2), Just(&b""[..])],
            more in prop::collection::vec(any::<u8>(), PROXY_BYTES_MAX..PROXY_BYTES_MAX + 8),
        ) {
            let bytes = [start, &more].concat();
            prop_assert_ne!(proxy_header(&bytes), Ok(Proxied::More));
        }
    }
}
