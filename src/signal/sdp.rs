//! The little of SDP and ICE candidates that the hub reads: the addresses that candidates carry,
//! and what must go when only relayed candidates may pass.
//!
//! It is lenient where browsers are: a line ends at a carriage return, a line feed, or both.
//! `.local` names and `raddr` are no addresses to reach anybody at, so they count for nothing.

use std::net::IpAddr;

/// What a candidate line says of its address (RFC 8839, section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An address of the device itself.
    Host,
    /// An address that a server or a peer saw, or anything unknown.
    Reflexive,
    /// A relayed address.
    Relay,
}

/// A candidate line, taken apart as far as needed.
#[derive(Debug, Clone, Copy)]
struct Candidate<'a> {
    /// Foundation, component, transport, priority, address, port.
    head: [&'a str; 6],
    kind: Kind,
    /// `raddr`, `rport` and extensions, in pairs.
    rest: &'a str,
}

impl<'a> Candidate<'a> {
    /// Reads `candidate:...`, with or without `a=` in front.
    fn parse(text: &'a str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix("a=").unwrap_or(text);
        let (prefix, mut rest) = text.split_at_checked(PREFIX.len())?;
        if !prefix.eq_ignore_ascii_case(PREFIX) {
            return None;
        }
        let mut next = || {
            let word;
            rest = rest.trim_start();
            (word, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            (!word.is_empty()).then_some(word)
        };
        let head = [next()?, next()?, next()?, next()?, next()?, next()?];
        if !next()?.eq_ignore_ascii_case("typ") {
            return None;
        }
        let kind = match next()? {
            kind if kind.eq_ignore_ascii_case("host") => Kind::Host,
            kind if kind.eq_ignore_ascii_case("relay") => Kind::Relay,
            _ => Kind::Reflexive,
        };
        Some(Self { head, kind, rest })
    }

    fn address(&self) -> Option<IpAddr> {
        self.head[4].parse().ok().map(|address: IpAddr| address.to_canonical())
    }

    /// The candidate without anything that names another address than the relayed one.
    fn without_origin(&self) -> String {
        let mut text = format!("{PREFIX}{} typ relay", self.head.join(" "));
        let nowhere = match self.address() {
            Some(IpAddr::V6(_)) => "::",
            _ => "0.0.0.0",
        };
        text.push_str(&format!(" raddr {nowhere} rport {DISCARD_PORT}"));
        let mut words = self.rest.split_whitespace();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            if HARMLESS_EXTENSIONS.contains(&name) {
                text.push_str(&format!(" {name} {value}"));
            }
        }
        text
    }
}

/// The canonical address that a candidate carries.
pub(super) fn candidate_address(text: &str) -> Option<(IpAddr, Kind)> {
    let candidate = Candidate::parse(text)?;
    Some((candidate.address()?, candidate.kind))
}

/// The canonical addresses of the candidates in a session description.
pub(super) fn addresses(sdp: &str) -> impl Iterator<Item = (IpAddr, Kind)> {
    lines(sdp).filter(|line| line.starts_with("a=")).filter_map(candidate_address)
}

/// A relayed candidate without its origin; `None` for any other.
pub(super) fn relayed_candidate(text: &str) -> Option<String> {
    let candidate = Candidate::parse(text)?;
    (candidate.kind == Kind::Relay && candidate.address().is_some())
        .then(|| candidate.without_origin())
}

/// A session description without any address but those of relayed candidates.
pub(super) fn relayed_sdp(sdp: &str) -> String {
    let mut text = String::with_capacity(sdp.len());
    for line in lines(sdp) {
        if let Some(line) = relayed_line(line) {
            text.push_str(&line);
            text.push_str("\r\n");
        }
    }
    text
}

fn relayed_line(line: &str) -> Option<String> {
    let (kind, value) = line.split_once('=')?;
    match kind {
        "a" => relayed_attribute(line, value),
        "c" => Some(format!("c={NOWHERE}")),
        "o" => {
            let mut words = value.split_whitespace();
            let (name, id, version) = (words.next()?, words.next()?, words.next()?);
            Some(format!("o={name} {id} {version} {NOWHERE}"))
        }
        // The port of the default candidate; 0 means that the section is not used.
        "m" => {
            let mut words: Vec<&str> = value.split_whitespace().collect();
            if *words.get(1)? != "0" {
                words[1] = DISCARD_PORT;
            }
            Some(format!("m={}", words.join(" ")))
        }
        // A type is one letter (RFC 8866, section 5). Who reads less strictly than that may find
        // an address in what is none.
        _ if matches!(kind.as_bytes(), [b'a'..=b'z']) => Some(line.to_owned()),
        _ => None,
    }
}

fn relayed_attribute(line: &str, value: &str) -> Option<String> {
    let name = value.split(':').next().unwrap_or("").trim().to_ascii_lowercase();
    match name.as_str() {
        "candidate" => relayed_candidate(value).map(|candidate| format!("a={candidate}")),
        "remote-candidates" => None,
        "rtcp" => Some(format!("a=rtcp:{DISCARD_PORT} {NOWHERE}")),
        _ => Some(line.to_owned()),
    }
}

fn lines(sdp: &str) -> impl Iterator<Item = &str> {
    sdp.split(['\r', '\n']).filter(|line| !line.is_empty())
}

const PREFIX: &str = "candidate:";
/// RFC 8839, section 4.2.1: what stands where no address is to be told.
const NOWHERE: &str = "IN IP4 0.0.0.0";
const DISCARD_PORT: &str = "9";
/// Extensions of a candidate whose values name no address.
const HARMLESS_EXTENSIONS: &[&str] =
    &["generation", "ufrag", "network-id", "network-cost", "tcptype"];

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: &str = "candidate:3 1 udp 100 203.0.113.1 50000 typ relay raddr 198.51.100.7 \
                         rport 4000 generation 0 ufrag ab evil 198.51.100.7 network-cost 10";

    fn address(text: &str) -> Option<IpAddr> {
        candidate_address(text).map(|(address, _)| address)
    }

    #[test]
    fn a_candidate_gives_its_address_in_canonical_form() {
        let ip = |text: &str| text.parse::<IpAddr>().ok();
        assert_eq!(address("candidate:1 1 udp 1 192.0.2.1 9 typ host"), ip("192.0.2.1"));
        assert_eq!(address("a=candidate:1 1 UDP 1 ::ffff:192.0.2.1 9 typ srflx"), ip("192.0.2.1"));
        assert_eq!(
            address("candidate:1 1 tcp 1 2001:db8::1 9 typ host tcptype active"),
            ip("2001:db8::1")
        );
        assert_eq!(candidate_address(RELAY), Some((IpAddr::from([203, 0, 113, 1]), Kind::Relay)));
    }

    #[test]
    fn local_names_and_nonsense_give_no_address() {
        for text in [
            "",
            "candidate:",
            "candidate:1 1 udp 1 0f3a.local 9 typ host",
            "192.0.2.1",
            "candidate:1 1 udp 1 192.0.2.1 9",
            "candidate:1 1 udp 1 192.0.2.1 9 type host",
            "candidate:1 1 udp 1 192.0.2.300 9 typ host",
            "candidaté: 1 1 udp 1 1.2.3.4 9 typ host",
            "candidate:1 1 udp 1 fe80::1%eth0 9 typ host",
        ] {
            assert_eq!(address(text), None, "{text}");
        }
    }

    #[test]
    fn lines_of_a_description_end_as_browsers_end_them() {
        let sdp = "v=0\r\na=candidate:1 1 udp 1 192.0.2.1 9 typ host\n\
                   a=candidate:1 1 udp 1 192.0.2.2 9 typ host\r\
                   x=candidate:1 1 udp 1 192.0.2.3 9 typ host\r\n\
                   a=candidate:1 1 udp 1 abc.local 9 typ srflx raddr 192.0.2.4 rport 1";
        let found: Vec<_> = addresses(sdp).map(|(address, _)| address.to_string()).collect();
        assert_eq!(found, ["192.0.2.1", "192.0.2.2"]);
    }

    #[test]
    fn a_relayed_candidate_passes_without_its_origin() {
        assert_eq!(
            relayed_candidate(RELAY).as_deref(),
            Some(
                "candidate:3 1 udp 100 203.0.113.1 50000 typ relay raddr 0.0.0.0 rport 9 \
                 generation 0 ufrag ab network-cost 10"
            )
        );
        assert_eq!(relayed_candidate("candidate:1 1 udp 1 192.0.2.1 9 typ host"), None);
        assert_eq!(relayed_candidate("candidate:1 1 udp 1 abc.local 9 typ relay"), None);
        assert_eq!(relayed_candidate("anything"), None);
    }

    #[test]
    fn a_description_keeps_no_address_but_relayed_ones() {
        let sdp = format!(
            "v=0\r\no=- 7 2 IN IP4 198.51.100.7\r\ns=-\r\nt=0 0\r\n\
             m=video 4000 UDP/TLS/RTP/SAVPF 96 97\r\nc=IN IP4 198.51.100.7\r\n\
             a=rtcp:4001 IN IP4 198.51.100.7\r\n\
             a=candidate:1 1 udp 1 198.51.100.7 4000 typ host\r\na={RELAY}\r\n\
             a=Candidate:1 1 udp 1 198.51.100.7 4000 typ srflx\r\n\
             a=remote-candidates:1 198.51.100.7 4000\r\na=rtcp-mux\r\na=ice-ufrag:ab\r\n\
             m=audio 0 UDP/TLS/RTP/SAVPF 111\r\nnonsense 198.51.100.7\r\n\
             \u{20}a=candidate:1 1 udp 1 198.51.100.7 4000 typ host\r\n\
             candidate:1 1 udp a=1 198.51.100.7 4000 typ host\r\n"
        );
        let relayed = relayed_sdp(&sdp);
        assert!(!relayed.contains("198.51.100.7"), "{relayed}");
        assert!(!relayed.contains("4000") && !relayed.contains("4001"), "{relayed}");
        for line in [
            "o=- 7 2 IN IP4 0.0.0.0",
            "m=video 9 UDP/TLS/RTP/SAVPF 96 97",
            "a=ice-ufrag:ab",
            "a=rtcp:9 IN IP4 0.0.0.0",
            "a=rtcp-mux",
            "m=audio 0 UDP/TLS/RTP/SAVPF 111",
        ] {
            assert!(relayed.contains(&format!("{line}\r\n")), "{line} is not in {relayed}");
        }
        assert!(relayed.contains("203.0.113.1"));
        assert_eq!(relayed_sdp(&relayed), relayed);
    }
}
