//! The words of transcripts: attributes out of text, messages into text.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::bench::Ask;
use crate::credentials::CredentialHash;
use crate::stun::{ChannelData, Class, Kind, Message, Method, attr, classify, parse_xor_address};
use crate::turn::{DiscoveryPair, FiveTuple, NatDiscovery, RelayAddress, Transport};

/// The words of a line behind the first ones: `key=value` and bare ones.
pub(super) struct Words<'t>(pub(super) Vec<(&'t str, &'t str)>);

impl<'t> Words<'t> {
    pub(super) fn parse(words: &[&'t str]) -> Self {
        Self(words.iter().map(|word| word.split_once('=').unwrap_or((word, ""))).collect())
    }

    pub(super) fn get(&self, key: &str) -> Option<&'t str> {
        self.0.iter().find(|(found, _)| *found == key).map(|(_, value)| *value)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn all(&self, key: &str) -> impl Iterator<Item = &'t str> {
        self.0.iter().filter(move |(found, _)| *found == key).map(|(_, value)| *value)
    }
}

pub(super) fn read_attributes(words: &Words<'_>, ask: &mut Ask) {
    ask.fingerprint = words.has("fingerprint");
    for &(key, value) in &words.0 {
        let number = || value.parse::<u32>().expect("a number").to_be_bytes().to_vec();
        let byte = || vec![value.parse::<u8>().expect("a byte"), 0, 0, 0];
        ask.attributes.push(match key {
            "peer" => {
                ask.peers.push(value.parse().expect("an address"));
                continue;
            }
            "channel" => {
                let mut bytes = from_hex(value.trim_start_matches("0x"));
                bytes.extend_from_slice(&[0, 0]);
                (attr::CHANNEL_NUMBER, bytes)
            }
            "transport" => (attr::REQUESTED_TRANSPORT, byte()),
            "family" => (attr::REQUESTED_ADDRESS_FAMILY, byte()),
            "additional" => (attr::ADDITIONAL_ADDRESS_FAMILY, byte()),
            "df" => (attr::DONT_FRAGMENT, vec![]),
            "even" => (attr::EVEN_PORT, vec![0]),
            "reserve" => (attr::EVEN_PORT, vec![0x80]),
            "lifetime" => (attr::LIFETIME, number()),
            "text" => (attr::DATA, payload(value)),
            "change" => {
                let flag =
                    |word, bit| if value.split(',').any(|own| own == word) { bit } else { 0 };
                (attr::CHANGE_REQUEST, vec![0, 0, 0, flag("ip", 4) | flag("port", 2)])
            }
            "port" => (attr::RESPONSE_PORT, [&number()[2..], &[0; 2]].concat()),
            "padding" => (attr::PADDING, vec![b'x'; value.parse().expect("a number")]),
            "attr" => attribute(value),
            _ => continue,
        });
    }
}

/// Appends attributes behind everything else and corrects the length of the message.
pub(super) fn append(
    mut message: Vec<u8>,
    attributes: impl Iterator<Item = (u16, Vec<u8>)>,
) -> Vec<u8> {
    for (kind, value) in attributes {
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&(value.len() as u16).to_be_bytes());
        message.extend_from_slice(&value);
        message.resize(message.len().next_multiple_of(4), 0);
    }
    let length = (message.len() - 20) as u16;
    message[2..4].copy_from_slice(&length.to_be_bytes());
    message
}

/// `KIND:HEX`, KIND as four hexadecimal digits.
pub(super) fn attribute(text: &str) -> (u16, Vec<u8>) {
    let (kind, value) = text.split_once(':').expect("KIND:HEX");
    (u16::from_str_radix(kind, 16).expect("hexadecimal"), from_hex(value))
}

pub(super) fn from_hex(text: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(digits).collect()
}

/// The text itself, or so many characters for `@NUMBER`.
pub(super) fn payload(text: &str) -> Vec<u8> {
    match text.strip_prefix('@') {
        Some(bytes) => vec![b'x'; bytes.parse().expect("a number")],
        None => text.as_bytes().to_vec(),
    }
}

pub(super) fn show(payload: &[u8]) -> String {
    match payload.len() {
        0..=40 => format!("{:?}", String::from_utf8_lossy(payload)),
        bytes => format!("@{bytes}"),
    }
}

/// An address that is not XORed, or whatever else is not told in another way.
fn plain(kind: u16, value: &[u8]) -> String {
    let name = match kind {
        attr::ALTERNATE_SERVER => "alternate",
        attr::MAPPED_ADDRESS => "plain",
        attr::RESPONSE_ORIGIN => "origin",
        attr::OTHER_ADDRESS => "other",
        attr::PADDING => return format!("padding({})", value.len()),
        _ => return format!("{kind:04x}"),
    };
    let port = u16::from_be_bytes([value[2], value[3]]);
    let address = match value {
        [0, 1, _, _, a, b, c, d] => SocketAddr::from(([*a, *b, *c, *d], port)),
        [0, 2, _, _, ip @ ..] => {
            let ip: [u8; 16] = ip.try_into().expect("an IPv6 address");
            SocketAddr::from((ip, port))
        }
        _ => panic!("no address: {value:?}"),
    };
    format!("{name}={address}")
}

/// The hash of `hash=`.
pub(super) fn credential_hash(text: &str) -> CredentialHash {
    match text {
        "sha1" => CredentialHash::Sha1,
        "sha256" => CredentialHash::Sha256,
        other => panic!("no hash: {other}"),
    }
}

/// `A1,A2,P1,P2`, each address with `/LOCAL` behind a NAT; what is not A1:P1 is there for
/// discovery alone.
pub(super) fn nat_discovery(text: &str) -> NatDiscovery {
    let parts: Vec<&str> = text.split(',').collect();
    let address = |text: &str| {
        let (public, local) = text.split_once('/').unwrap_or((text, text));
        let ip = |text: &str| text.parse().expect("an address");
        RelayAddress { public: ip(public), local: ip(local) }
    };
    let port = |text: &str| text.parse::<u16>().expect("a port");
    let addresses = [address(parts[0]), address(parts[1])];
    let ports = [port(parts[2]), port(parts[3])];
    let more = [(0, 1), (1, 0), (1, 1)];
    let more = more.map(|(a, p)| SocketAddr::new(addresses[a].local, ports[p]));
    NatDiscovery { pairs: vec![DiscoveryPair { addresses, ports }], listeners: more.to_vec() }
}

/// The way that a client's line takes: `at=` and `over=tcp`, else the usual one.
pub(super) fn sent(words: &[&str], usual: FiveTuple) -> FiveTuple {
    let words = Words::parse(words);
    let at = words.get("at").map(|at| at.parse().expect("an address"));
    let transport = if words.has("over") { Transport::Tcp } else { usual.transport };
    FiveTuple { transport, server: at.unwrap_or(usual.server), ..usual }
}

/// What is not usual about the way that an answer took.
pub(super) fn way(usual: FiveTuple, taken: FiveTuple) -> String {
    let from = (taken.server != usual.server).then(|| format!(" from {}", taken.server));
    let to = (taken.client != usual.client).then(|| format!(" to {}", taken.client));
    [from, to].into_iter().flatten().collect()
}

/// The class and method of a client's line.
pub(super) fn class_and_method(text: &str) -> (Class, Method) {
    match text {
        "binding" => (Class::Request, Method::BINDING),
        "allocate" => (Class::Request, Method::ALLOCATE),
        "refresh" => (Class::Request, Method::REFRESH),
        "permit" => (Class::Request, Method::CREATE_PERMISSION),
        "bind" => (Class::Request, Method::CHANNEL_BIND),
        "send" => (Class::Indication, Method::SEND),
        "keepalive" => (Class::Indication, Method::BINDING),
        "success" => (Class::Success, Method::BINDING),
        "connect" => (Class::Request, Method::CONNECT),
        "attach" => (Class::Request, Method::CONNECTION_BIND),
        other => panic!("no such method: {other}"),
    }
}

/// The code and the phrase of an error.
fn coded(value: &[u8]) -> (u16, String) {
    let code = u16::from(value[2]) * 100 + u16::from(value[3]);
    (code, String::from_utf8_lossy(&value[4..]).into_owned())
}

/// A message to a client in words.
pub(super) fn describe(bytes: &[u8], key: Option<&[u8]>) -> String {
    if classify(bytes) == Kind::ChannelData {
        let message = ChannelData::parse(bytes).expect("ChannelData");
        return format!("channel {:#06x} {}", message.number, show(&bytes[message.payload]));
    }
    let message = Message::parse(bytes).expect("a message");
    let mut text = format!("{:?} {:?}", message.method(), message.class());
    let id = message.transaction_id();
    for attribute in message.attributes() {
        let value = attribute.value;
        let address = || parse_xor_address(value, &id).expect("an address");
        let word = match attribute.kind {
            attr::ERROR_CODE => {
                let (code, phrase) = coded(value);
                if phrase.is_empty() { code.to_string() } else { format!("{code} {phrase:?}") }
            }
            attr::UNKNOWN_ATTRIBUTES => {
                let kinds = value.chunks(2).map(|kind| format!("{:02x}{:02x}", kind[0], kind[1]));
                format!("unknown={}", kinds.collect::<Vec<_>>().join(","))
            }
            attr::XOR_RELAYED_ADDRESS => format!("relayed={}", address()),
            attr::XOR_MAPPED_ADDRESS => format!("mapped={}", address()),
            attr::XOR_PEER_ADDRESS => format!("peer={}", address()),
            attr::DATA => show(value),
            attr::LIFETIME => {
                let secs: [u8; 4] = value.try_into().expect("4 bytes");
                format!("lifetime={}", u32::from_be_bytes(secs))
            }
            attr::ICMP => {
                let data: [u8; 4] = value[4..].try_into().expect("8 bytes");
                assert_eq!(value[..2], [0, 0]);
                format!("icmp={}/{}/{}", value[2], value[3], u32::from_be_bytes(data))
            }
            attr::RESERVATION_TOKEN => format!("token({})", value.len()),
            attr::ADDRESS_ERROR_CODE => {
                let (code, phrase) = coded(value);
                format!("ipv{}={code} {phrase:?}", [0, 4, 6][usize::from(value[0])])
            }
            attr::REALM => format!("realm={}", String::from_utf8_lossy(value)),
            attr::NONCE => {
                let features = String::from_utf8_lossy(&value[9..13]);
                format!("nonce({features},{})", value.len())
            }
            attr::PASSWORD_ALGORITHMS => {
                let each = value.chunks(4).map(|one| format!("{:02x}{:02x}", one[0], one[1]));
                format!("algorithms={}", each.collect::<Vec<_>>().join(","))
            }
            attr::MESSAGE_INTEGRITY | attr::MESSAGE_INTEGRITY_SHA256 => {
                let right = key.and_then(|key| message.integrity_ok(key));
                let word = match attribute.kind {
                    attr::MESSAGE_INTEGRITY => "signed",
                    _ => "signed-by-sha256",
                };
                String::from(if right == Some(true) { word } else { "WRONGLY SIGNED" })
            }
            attr::FINGERPRINT => {
                assert_eq!(message.fingerprint_ok(), Some(true));
                "fingerprint".to_owned()
            }
            attr::SOFTWARE => "software".to_owned(),
            other => plain(other, value),
        };
        write!(text, " {word}").expect("a string takes all");
    }
    if message.class() != Class::Indication {
        write!(text, " ({} bytes)", bytes.len()).expect("a string takes all");
    }
    text
}
