//! Writes STUN messages.

use std::net::{IpAddr, SocketAddr};

use super::address::{XOR_ADDRESS_BYTES_MAX, write_xor_address};
use super::control::AddressFamily;
use super::header::message_type;
use super::integrity::Key;
use super::message::{ATTRIBUTE_HEADER_BYTES, padded};
use super::{
    Class, HEADER_BYTES, Integrity, MAGIC_COOKIE, Message, Method, Signer, TransactionId, attr,
    fingerprint,
};

/// Builds one message: attributes in the order of the calls, then the integrity and FINGERPRINT by
/// [`Writer::finish`] or [`Writer::finish_signed`]. Padding is always zero.
///
/// An attribute that would make the message longer than its length field can say is left out; the
/// message stays well-formed.
#[must_use]
pub struct Writer {
    bytes: Vec<u8>,
    id: TransactionId,
}

impl Writer {
    /// A message without attributes.
    pub fn new(class: Class, method: Method, id: TransactionId) -> Self {
        let mut bytes = Vec::with_capacity(CAPACITY);
        bytes.extend_from_slice(&message_type(class, method).to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        bytes.extend_from_slice(&id.0);
        Self { bytes, id }
    }

    /// The success response to `request`.
    pub fn success(request: &Message<'_>) -> Self {
        Self::new(Class::Success, request.method(), request.transaction_id())
    }

    /// The error response to `request`, starting with ERROR-CODE. `reason` may be empty.
    pub fn error(request: &Message<'_>, code: u16, reason: &str) -> Self {
        Self::new(Class::Error, request.method(), request.transaction_id()).error_code(code, reason)
    }

    /// Adds an attribute.
    pub fn attribute(self, kind: u16, value: &[u8]) -> Self {
        self.attribute_of(kind, value, &[])
    }

    /// Adds an attribute that is one number, such as LIFETIME.
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Adds XOR-MAPPED-ADDRESS, XOR-PEER-ADDRESS or XOR-RELAYED-ADDRESS.
    pub fn xor_address(self, kind: u16, address: SocketAddr) -> Self {
        let mut value = [0; XOR_ADDRESS_BYTES_MAX];
        let len = write_xor_address(&mut value, address, &self.id);
        self.attribute(kind, &value[..len])
    }

    /// Adds ERROR-CODE, whose code is 300 to 699; `reason` may be empty
    /// (RFC 8489, section 14.8).
    pub fn error_code(self, code: u16, reason: &str) -> Self {
        debug_assert!((300..=699).contains(&code), "{code} is no error code");
        let fixed = [0, 0, ((code / 100) & 7) as u8, (code % 100) as u8];
        self.attribute_of(attr::ERROR_CODE, &fixed, reason.as_bytes())
    }

    /// Adds ADDRESS-ERROR-CODE: why there is no relayed address of `family`
    /// (RFC 8656, section 18.12).
    pub fn address_error_code(self, family: AddressFamily, code: u16, reason: &str) -> Self {
        let fixed = [family.number(), 0, ((code / 100) & 7) as u8, (code % 100) as u8];
        self.attribute_of(attr::ADDRESS_ERROR_CODE, &fixed, reason.as_bytes())
    }

    /// Adds ICMP (RFC 8656, section 18.13): 16 bits of zero, type and code of 8 bits each, and the
    /// error data.
    pub fn icmp(self, kind: u8, code: u8, error_data: u32) -> Self {
        self.attribute_of(attr::ICMP, &[0, 0, kind, code], &error_data.to_be_bytes())
    }

    /// Adds an address as it is: MAPPED-ADDRESS, ALTERNATE-SERVER, RESPONSE-ORIGIN or OTHER-ADDRESS
    /// (RFC 8489, section 14.1).
    pub fn address(self, kind: u16, address: SocketAddr) -> Self {
        let family = AddressFamily::of(address.ip()).number();
        let [high, low] = address.port().to_be_bytes();
        let fixed = [0, family, high, low];
        match address.ip() {
            IpAddr::V4(v4) => self.attribute_of(kind, &fixed, &v4.octets()),
            IpAddr::V6(v6) => self.attribute_of(kind, &fixed, &v6.octets()),
        }
    }

    /// Adds UNKNOWN-ATTRIBUTES, as a 420 has it (RFC 8489, section 14.13).
    pub fn unknown_attributes(self, kinds: &[u16]) -> Self {
        let value: Vec<u8> = kinds.iter().flat_map(|kind| kind.to_be_bytes()).collect();
        self.attribute(attr::UNKNOWN_ATTRIBUTES, &value)
    }

    /// How long the message is so far.
    pub fn written_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The message, with MESSAGE-INTEGRITY when there is a `key` and FINGERPRINT when asked for.
    #[must_use]
    pub fn finish(self, key: Option<&[u8]>, fingerprint: bool) -> Vec<u8> {
        match key {
            Some(key) => self.integrity(Integrity::Sha1, key).close(fingerprint),
            None => self.close(fingerprint),
        }
    }

    /// The message, signed as `signer` says, with FINGERPRINT when asked for.
    #[must_use]
    pub fn finish_signed(mut self, signer: &Signer, fingerprint: bool) -> Vec<u8> {
        let Signer { keys, algorithm, integrity, also_sha1 } = signer;
        if *also_sha1 && *integrity == Integrity::Sha256 {
            self = self.integrity_by(Integrity::Sha1, keys.ready(*algorithm, Integrity::Sha1));
        }
        self.integrity_by(*integrity, keys.ready(*algorithm, *integrity)).close(fingerprint)
    }

    /// Adds MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256 over what is there so far. Room is kept
    /// for one of each, the shorter first.
    pub fn integrity(self, integrity: Integrity, key: &[u8]) -> Self {
        self.integrity_by(integrity, &integrity.key(key))
    }

    fn integrity_by(mut self, integrity: Integrity, key: &Key) -> Self {
        if self.bytes.len() + integrity_bytes(integrity) + FINGERPRINT_BYTES <= MESSAGE_BYTES_MAX {
            let tag = integrity.sign(key, &self.bytes);
            self.push(integrity.kind(), tag.as_ref(), &[]);
        }
        self
    }

    fn close(mut self, fingerprint: bool) -> Vec<u8> {
        if fingerprint {
            self.write_length(FINGERPRINT_BYTES);
            let value = fingerprint::value(&self.bytes).to_be_bytes();
            self.push(attr::FINGERPRINT, &value, &[]);
        }
        self.write_length(0);
        self.bytes
    }

    /// Adds an attribute whose value comes in two parts, if it fits.
    fn attribute_of(mut self, kind: u16, first: &[u8], second: &[u8]) -> Self {
        let end = self.bytes.len() + ATTRIBUTE_HEADER_BYTES + padded(first.len() + second.len());
        if end <= MESSAGE_BYTES_MAX - TRAILER_BYTES_MAX {
            self.push(kind, first, second);
        }
        self
    }

    /// Appends an attribute that is known to fit.
    fn push(&mut self, kind: u16, first: &[u8], second: &[u8]) {
        let len = (first.len() + second.len()) as u16;
        self.bytes.extend_from_slice(&kind.to_be_bytes());
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(first);
        self.bytes.extend_from_slice(second);
        // The message is a multiple of four long before each attribute.
        self.bytes.resize(padded(self.bytes.len()), 0);
    }

    /// Writes the length of the message as it will be `more` bytes later. It fits, because
    /// `attribute` keeps room for the trailer.
    fn write_length(&mut self, more: usize) {
        let length = (self.bytes.len() + more - HEADER_BYTES) as u16;
        self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
    }
}

/// Enough for an Allocate success of IPv6 with integrity and fingerprint.
const CAPACITY: usize = 128;

/// FINGERPRINT with its header.
pub const FINGERPRINT_BYTES: usize = ATTRIBUTE_HEADER_BYTES + 4;

/// One of the two attributes of integrity with its header.
const fn integrity_bytes(integrity: Integrity) -> usize {
    ATTRIBUTE_HEADER_BYTES + integrity.tag_bytes()
}

/// What may follow the attributes: both integrities and FINGERPRINT.
const TRAILER_BYTES_MAX: usize =
    integrity_bytes(Integrity::Sha1) + integrity_bytes(Integrity::Sha256) + FINGERPRINT_BYTES;

/// The header and the largest multiple of four that the length field can say.
const MESSAGE_BYTES_MAX: usize = HEADER_BYTES + 0xFFFC;

#[cfg(test)]
mod tests {
    use super::super::{LongTermKeys, PasswordAlgorithm};
    use super::*;

    const ID: TransactionId = TransactionId(*b"transaction1");

    #[test]
    fn an_answer_repeats_method_and_id_of_its_request() {
        let request = Writer::new(Class::Request, Method::REFRESH, ID).finish(None, false);
        let request = Message::parse(&request).unwrap();
        let success = Writer::success(&request).number(attr::LIFETIME, 600).finish(None, false);
        let error = Writer::error(&request, 437, "").finish(None, false);
        for (bytes, class) in [(&success, Class::Success), (&error, Class::Error)] {
            let answer = Message::parse(bytes).unwrap();
            assert_eq!((answer.class(), answer.method()), (class, Method::REFRESH));
            assert_eq!(answer.transaction_id(), ID);
        }
        assert_eq!(
            Message::parse(&error).unwrap().first(attr::ERROR_CODE),
            Some(&[0, 0, 4, 37][..])
        );
    }

    #[test]
    fn attributes_of_more_than_one_part_are_laid_out_as_drawn() {
        let value = |writer: Writer, kind| {
            let bytes = writer.finish(None, false);
            Message::parse(&bytes).unwrap().first(kind).unwrap().to_vec()
        };
        let icmp = new().icmp(3, 4, 0x0001_0203);
        assert_eq!(value(icmp, attr::ICMP), [0, 0, 3, 4, 0, 1, 2, 3]);
        let error = new().address_error_code(AddressFamily::Ipv6, 440, "no");
        assert_eq!(value(error, attr::ADDRESS_ERROR_CODE), [2, 0, 4, 40, b'n', b'o']);
        let error = new().address_error_code(AddressFamily::Ipv4, 508, "");
        assert_eq!(value(error, attr::ADDRESS_ERROR_CODE), [1, 0, 5, 8]);
        let server = new().address(attr::ALTERNATE_SERVER, "192.0.2.1:3478".parse().unwrap());
        let expected = [0, 1, 0x0D, 0x96, 192, 0, 2, 1];
        assert_eq!(value(server, attr::ALTERNATE_SERVER), expected);
        let server = new().address(attr::ALTERNATE_SERVER, "[2001:db8::1]:3478".parse().unwrap());
        let found = value(server, attr::ALTERNATE_SERVER);
        assert_eq!((found.len(), &found[..6]), (20, &[0, 2, 0x0D, 0x96, 0x20, 0x01][..]));
    }

    #[test]
    fn padding_is_zero() {
        for len in 0..5 {
            let value = vec![0xFF; len];
            let bytes = new().attribute(attr::USERNAME, &value).finish(None, false);
            assert_eq!(bytes.len(), 24 + padded(len));
            assert!(bytes[24 + len..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn integrity_and_fingerprint_close_a_message() {
        let bytes = new().attribute(attr::USERNAME, b"anna").finish(Some(b"key"), true);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.integrity_ok(b"key"), Some(true));
        assert_eq!(message.integrity_ok(b"yek"), Some(false));
        assert_eq!(message.fingerprint_ok(), Some(true));
        let kinds: Vec<u16> = message.attributes().map(|attribute| attribute.kind).collect();
        assert_eq!(kinds, [attr::USERNAME, attr::MESSAGE_INTEGRITY, attr::FINGERPRINT]);
    }

    #[test]
    fn a_signer_chooses_key_and_attribute() {
        let keys = LongTermKeys::derive("anna", "example.org", "password");
        for algorithm in [PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256] {
            for integrity in [Integrity::Sha1, Integrity::Sha256] {
                let signer = Signer { keys: keys.clone(), algorithm, integrity, also_sha1: false };
                let bytes = new().attribute(attr::USERNAME, b"anna").finish_signed(&signer, true);
                let message = Message::parse(&bytes).unwrap();
                assert_eq!(message.integrity(), Some(integrity));
                assert_eq!(message.integrity_ok(keys.by(algorithm)), Some(true));
                assert_eq!(message.integrity_ok(b"another"), Some(false));
                assert_eq!(message.fingerprint_ok(), Some(true));
                let tag = message.attributes().nth(1).unwrap();
                assert_eq!((tag.kind, tag.value.len()), (integrity.kind(), integrity.tag_bytes()));
            }
        }
    }

    #[test]
    fn a_signer_puts_the_older_integrity_in_front_when_asked() {
        let keys = LongTermKeys::derive("anna", "example.org", "password");
        let (algorithm, integrity) = (PasswordAlgorithm::Md5, Integrity::Sha256);
        let signer = Signer { keys, algorithm, integrity, also_sha1: true };
        let bytes = new().attribute(attr::USERNAME, b"anna").finish_signed(&signer, false);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.integrity_ok(signer.key()), Some(true));
        // A client that stops at the first one reads a message that ends there.
        let mut older = bytes[..bytes.len() - 36].to_vec();
        older[3] -= 36;
        let message = Message::parse(&older).unwrap();
        assert_eq!(message.integrity(), Some(Integrity::Sha1));
        assert_eq!(message.integrity_ok(signer.key()), Some(true));
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_the_message_stays_whole() {
        let largest = 0xFFFC - 68 - 4;
        for (len, fits) in [(largest, true), (largest + 1, false), (0x1_0000, false)] {
            let value = vec![1; len];
            let bytes = new().attribute(attr::DATA, &value).finish(Some(b"key"), true);
            let message = Message::parse(&bytes).unwrap();
            assert_eq!(message.first(attr::DATA).is_some(), fits, "{len} bytes");
            assert_eq!(message.integrity_ok(b"key"), Some(true));
            assert_eq!(message.fingerprint_ok(), Some(true));
        }
    }

    fn new() -> Writer {
        Writer::new(Class::Request, Method::ALLOCATE, ID)
    }
}
