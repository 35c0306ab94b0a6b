//! The bytes of a client that shares nothing with the daemon: written and read here by the text of
//! the RFCs, wrong on purpose where a check wants that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ring::digest::{SHA256, digest};
use ring::hmac;

pub(crate) const BINDING: u16 = 0x001;
pub(crate) const ALLOCATE: u16 = 0x003;
pub(crate) const REFRESH: u16 = 0x004;
pub(crate) const SEND: u16 = 0x006;
pub(crate) const DATA_INDICATION: u16 = 0x007;
pub(crate) const CREATE_PERMISSION: u16 = 0x008;
pub(crate) const CHANNEL_BIND: u16 = 0x009;

/// The two bits of the class, as the first column of RFC 8489, figure 3 has them.
pub(crate) const REQUEST: u16 = 0;
pub(crate) const INDICATION: u16 = 1;
pub(crate) const SUCCESS: u16 = 2;
pub(crate) const ERROR: u16 = 3;

pub(crate) const MAPPED_ADDRESS: u16 = 0x0001;
pub(crate) const USERNAME: u16 = 0x0006;
pub(crate) const MESSAGE_INTEGRITY: u16 = 0x0008;
pub(crate) const ERROR_CODE: u16 = 0x0009;
pub(crate) const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
pub(crate) const CHANNEL_NUMBER: u16 = 0x000C;
pub(crate) const LIFETIME: u16 = 0x000D;
pub(crate) const XOR_PEER_ADDRESS: u16 = 0x0012;
pub(crate) const DATA: u16 = 0x0013;
pub(crate) const REALM: u16 = 0x0014;
pub(crate) const NONCE: u16 = 0x0015;
pub(crate) const XOR_RELAYED_ADDRESS: u16 = 0x0016;
pub(crate) const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
pub(crate) const EVEN_PORT: u16 = 0x0018;
pub(crate) const REQUESTED_TRANSPORT: u16 = 0x0019;
pub(crate) const DONT_FRAGMENT: u16 = 0x001A;
pub(crate) const MESSAGE_INTEGRITY_SHA256: u16 = 0x001C;
pub(crate) const PASSWORD_ALGORITHM: u16 = 0x001D;
pub(crate) const USERHASH: u16 = 0x001E;
pub(crate) const XOR_MAPPED_ADDRESS: u16 = 0x0020;
pub(crate) const RESERVATION_TOKEN: u16 = 0x0022;
pub(crate) const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
pub(crate) const ADDRESS_ERROR_CODE: u16 = 0x8001;
pub(crate) const PASSWORD_ALGORITHMS: u16 = 0x8002;
pub(crate) const ALTERNATE_DOMAIN: u16 = 0x8003;
pub(crate) const ICMP: u16 = 0x8004;
pub(crate) const SOFTWARE: u16 = 0x8022;
pub(crate) const ALTERNATE_SERVER: u16 = 0x8023;
pub(crate) const FINGERPRINT: u16 = 0x8028;

/// The value of PASSWORD-ALGORITHM for each algorithm.
pub(crate) const MD5: [u8; 4] = [0, 1, 0, 0];
pub(crate) const SHA_256: [u8; 4] = [0, 2, 0, 0];

const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];

/// The type of a message: `00 M11..M7 C1 M6..M4 C0 M3..M0`.
pub(crate) fn message_type(class: u16, method: u16) -> u16 {
    let mut bits = method & 0xF;
    bits |= (class & 1) << 4;
    bits |= (method & 0x70) << 1;
    bits |= (class & 2) << 7;
    bits | (method & 0xF80) << 2
}

/// A message that is being written. Its length field counts what is there so far, always.
#[derive(Clone)]
pub(crate) struct Out(pub(crate) Vec<u8>);

impl Out {
    /// A message with a transaction id of its own.
    pub(crate) fn new(class: u16, method: u16) -> Self {
        Self::with_id(class, method, random())
    }

    pub(crate) fn request(method: u16) -> Self {
        Self::new(REQUEST, method)
    }

    pub(crate) fn indication(method: u16) -> Self {
        Self::new(INDICATION, method)
    }

    pub(crate) fn with_id(class: u16, method: u16, id: [u8; 12]) -> Self {
        let mut bytes = message_type(class, method).to_be_bytes().to_vec();
        bytes.extend([0, 0]);
        bytes.extend(COOKIE);
        bytes.extend(id);
        Self(bytes)
    }

    /// An Allocate request for UDP, which every relay grants.
    pub(crate) fn allocate() -> Self {
        Self::request(ALLOCATE).attribute(REQUESTED_TRANSPORT, &[17, 0, 0, 0])
    }

    /// A Refresh request.
    pub(crate) fn refresh(lifetime_secs: u32) -> Self {
        Self::request(REFRESH).attribute(LIFETIME, &lifetime_secs.to_be_bytes())
    }

    pub(crate) fn id(&self) -> [u8; 12] {
        self.0[8..20].try_into().expect("a header")
    }

    /// Adds an attribute, padded by zeros.
    pub(crate) fn attribute(self, kind: u16, value: &[u8]) -> Self {
        self.padded_by(kind, value, 0)
    }

    pub(crate) fn padded_by(self, kind: u16, value: &[u8], padding: u8) -> Self {
        self.cut_attribute(kind, value.len() as u16, value, padding)
    }

    /// Adds an attribute whose length says something else than there is.
    pub(crate) fn cut_attribute(self, kind: u16, len: u16, value: &[u8], padding: u8) -> Self {
        let mut bytes = self.0;
        bytes.extend(kind.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), padding);
        Self(bytes).counted(0)
    }

    /// Adds an attribute with the XOR of an address.
    pub(crate) fn xor_address(self, kind: u16, address: SocketAddr) -> Self {
        let value = xor_address(address, self.id());
        self.attribute(kind, &value)
    }

    /// Sets the length field to what is there and `more`.
    pub(crate) fn counted(mut self, more: usize) -> Self {
        let length = (self.0.len() - 20 + more) as u16;
        self.0[2..4].copy_from_slice(&length.to_be_bytes());
        self
    }

    /// Changes a byte of what is there.
    pub(crate) fn with_byte(mut self, at: usize, byte: u8) -> Self {
        self.0[at] = byte;
        self
    }

    /// Adds USERNAME, REALM and NONCE.
    pub(crate) fn credential(self, username: &str, realm: &str, nonce: &[u8]) -> Self {
        self.attribute(USERNAME, username.as_bytes())
            .attribute(REALM, realm.as_bytes())
            .attribute(NONCE, nonce)
    }

    pub(crate) fn sha1(self, key: &[u8]) -> Self {
        let tag = hmac_sha1(key, &self.clone().counted(24).0);
        self.attribute(MESSAGE_INTEGRITY, &tag)
    }

    pub(crate) fn sha256(self, key: &[u8]) -> Self {
        self.sha256_cut(key, 32)
    }

    /// Adds MESSAGE-INTEGRITY-SHA256 with the first `len` bytes of the HMAC, or zeros behind it.
    pub(crate) fn sha256_cut(self, key: &[u8], len: usize) -> Self {
        let mut tag = hmac_sha256(key, &self.clone().counted(4 + len.next_multiple_of(4)).0);
        tag.resize(len, 0);
        self.attribute(MESSAGE_INTEGRITY_SHA256, &tag)
    }

    pub(crate) fn fingerprint(self) -> Self {
        let value = fingerprint(&self.clone().counted(8).0);
        self.attribute(FINGERPRINT, &value)
    }
}

/// A whole message that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct In {
    pub(crate) bytes: Vec<u8>,
    /// Number, value, and where its header starts.
    pub(crate) attributes: Vec<(u16, Vec<u8>, usize)>,
}

impl In {
    /// Reads a message, which must be right to the last bit.
    #[track_caller]
    pub(crate) fn read(bytes: &[u8]) -> Self {
        assert!(bytes.len() >= 20, "no header: {bytes:02x?}");
        assert_eq!(bytes[0] & 0xC0, 0, "the first two bits");
        assert_eq!(bytes[4..8], COOKIE, "the magic cookie");
        let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        assert_eq!((length % 4, length + 20), (0, bytes.len()), "the length field");
        let mut attributes = Vec::new();
        let mut at = 20;
        while at < bytes.len() {
            let number = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let end = at + 4 + usize::from(number(at + 2));
            let padding = &bytes[end..end.next_multiple_of(4)];
            assert!(padding.iter().all(|byte| *byte == 0), "padding that is not zero");
            attributes.push((number(at), bytes[at + 4..end].to_vec(), at));
            at = end.next_multiple_of(4);
        }
        Self { bytes: bytes.to_vec(), attributes }
    }

    pub(crate) fn message_type(&self) -> u16 {
        u16::from_be_bytes([self.bytes[0], self.bytes[1]])
    }

    pub(crate) fn id(&self) -> [u8; 12] {
        self.bytes[8..20].try_into().expect("a header")
    }

    pub(crate) fn is(&self, class: u16, method: u16) -> bool {
        self.message_type() == message_type(class, method)
    }

    /// The value of the first attribute of this number.
    pub(crate) fn attribute(&self, kind: u16) -> Option<&[u8]> {
        self.attributes.iter().find(|(own, ..)| *own == kind).map(|(_, value, _)| &value[..])
    }

    pub(crate) fn has(&self, kind: u16) -> bool {
        self.attribute(kind).is_some()
    }

    /// The numbers of its attributes in order.
    pub(crate) fn kinds(&self) -> Vec<u16> {
        self.attributes.iter().map(|(kind, ..)| *kind).collect()
    }

    /// The code of an error response; 0 of any other message.
    #[track_caller]
    pub(crate) fn code(&self) -> u16 {
        let is_error = self.message_type() & 0x0110 == 0x0110;
        let value = self.attribute(ERROR_CODE);
        assert_eq!(is_error, value.is_some(), "ERROR-CODE belongs in errors and nowhere else");
        let Some(value) = value else { return 0 };
        let [0, 0, class @ 3..=6, number @ 0..=99, reason @ ..] = value else {
            panic!("ERROR-CODE {value:02x?}");
        };
        let reason = std::str::from_utf8(reason).expect("a reason phrase in UTF-8");
        assert!(reason.chars().count() < 128, "a reason phrase of fewer than 128 characters");
        u16::from(*class) * 100 + u16::from(*number)
    }

    /// The numbers that UNKNOWN-ATTRIBUTES lists.
    #[track_caller]
    pub(crate) fn unknown(&self) -> Vec<u16> {
        let value = self.attribute(UNKNOWN_ATTRIBUTES).expect("UNKNOWN-ATTRIBUTES");
        value.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]])).collect()
    }

    /// The address in an attribute that is an XOR of it.
    #[track_caller]
    pub(crate) fn xor_address(&self, kind: u16) -> SocketAddr {
        let value = self.attribute(kind).unwrap_or_else(|| panic!("no {kind:#06x}: {self:02x?}"));
        let mut mask = COOKIE.to_vec();
        mask.extend(self.id());
        let ip: Vec<u8> = value[4..].iter().zip(&mask).map(|(byte, mask)| byte ^ mask).collect();
        let ip = match (value[0], value[1], ip.len()) {
            (0, 1, 4) => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(ip).expect("4 bytes"))),
            (0, 2, 16) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip).expect("16 bytes"))),
            _ => panic!("no address: {value:02x?}"),
        };
        let port = u16::from_be_bytes([value[2] ^ mask[0], value[3] ^ mask[1]]);
        SocketAddr::new(ip, port)
    }

    /// LIFETIME in seconds.
    #[track_caller]
    pub(crate) fn lifetime(&self) -> u32 {
        let value = self.attribute(LIFETIME).expect("LIFETIME");
        u32::from_be_bytes(value.try_into().expect("4 bytes"))
    }

    /// Whether the integrity attribute `kind` is there and made with `key`.
    #[track_caller]
    pub(crate) fn is_signed(&self, kind: u16, key: &[u8]) -> bool {
        let Some((_, value, at)) = self.attributes.iter().find(|(own, ..)| *own == kind) else {
            return false;
        };
        let covered = Out(self.bytes[..*at].to_vec());
        match kind {
            MESSAGE_INTEGRITY => *value == hmac_sha1(key, &covered.counted(24).0),
            _ => *value == hmac_sha256(key, &covered.counted(36).0),
        }
    }

    /// Whether it ends in a FINGERPRINT that is right; none is one, too, if there must be none.
    pub(crate) fn is_fingerprinted(&self) -> bool {
        let Some((kind, value, at)) = self.attributes.last() else { return false };
        *kind == FINGERPRINT && *value == fingerprint(&self.bytes[..*at])
    }
}

/// The value of an attribute with the XOR of an address.
pub(crate) fn xor_address(address: SocketAddr, id: [u8; 12]) -> Vec<u8> {
    let mut mask = COOKIE.to_vec();
    mask.extend(id);
    let (family, ip) = match address.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let [high, low] = address.port().to_be_bytes();
    let mut value = vec![0, family, high ^ mask[0], low ^ mask[1]];
    value.extend(ip.iter().zip(&mask).map(|(byte, mask)| byte ^ mask));
    value
}

/// The long-term key by MD5. The texts are prepared already.
pub(crate) fn md5_key(username: &str, realm: &str, password: &str) -> Vec<u8> {
    webrtc_turn::auth::generate_auth_key(username, realm, password)
}

/// The long-term key by SHA-256.
pub(crate) fn sha256_key(username: &str, realm: &str, password: &str) -> Vec<u8> {
    sha256(&format!("{username}:{realm}:{password}"))
}

/// The value of USERHASH.
pub(crate) fn userhash(username: &str, realm: &str) -> Vec<u8> {
    sha256(&format!("{username}:{realm}"))
}

/// Bytes that nobody else has.
pub(crate) fn random<const LEN: usize>() -> [u8; LEN] {
    use ring::rand::{SecureRandom as _, SystemRandom};
    let mut bytes = [0; LEN];
    SystemRandom::new().fill(&mut bytes).expect("randomness");
    bytes
}

fn sha256(text: &str) -> Vec<u8> {
    digest(&SHA256, text.as_bytes()).as_ref().to_vec()
}

fn hmac_sha1(key: &[u8], message: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
    hmac::sign(&key, message).as_ref().to_vec()
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

/// FINGERPRINT of a message up to it, whose length field counts it: bit by bit.
fn fingerprint(message: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for byte in message {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    (!crc ^ 0x5354_554E).to_be_bytes()
}
