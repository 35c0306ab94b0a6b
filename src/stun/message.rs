//! A STUN message where it lies: checked once, never copied.
//!
//! Attributes follow the header, each `kind (16), length (16), value, padding to four bytes`.
//! Padding may hold anything when it arrives (RFC 8489, section 14); nothing here reads it.

use std::fmt;
use std::ops::Range;

use super::header::{class_of, method_of};
use super::{
    Class, DecodeError, HEADER_BYTES, Integrity, LongTermKeys, MAGIC_COOKIE, Method,
    PasswordAlgorithm, TransactionId, attr, fingerprint,
};

/// A view of a whole STUN message, whose header and attribute framing hold.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    /// Where the header of the first MESSAGE-INTEGRITY starts.
    integrity_at: Option<usize>,
    /// Where the header of the first MESSAGE-INTEGRITY-SHA256 starts.
    integrity_sha256_at: Option<usize>,
    /// Where the header of the first FINGERPRINT starts.
    fingerprint_at: Option<usize>,
}

/// One attribute of a [`Message`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its number; see [`attr`].
    pub kind: u16,
    /// Its value, without padding.
    pub value: &'a [u8],
    /// Where its header starts within the message.
    pub offset: usize,
}

impl<'a> Message<'a> {
    /// Checks the framing of `datagram`, which must be one message and nothing else.
    ///
    /// # Errors
    /// Says which part of the framing does not hold. A value of an attribute is not looked at.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, DecodeError> {
        let header = datagram.first_chunk::<HEADER_BYTES>().ok_or(DecodeError::TooShort)?;
        let [type_high, _, length_high, length_low, c0, c1, c2, c3, ..] = *header;
        if type_high & 0xC0 != 0 || u32::from_be_bytes([c0, c1, c2, c3]) != MAGIC_COOKIE {
            return Err(DecodeError::NotStun);
        }
        let length = usize::from(u16::from_be_bytes([length_high, length_low]));
        if !length.is_multiple_of(4) || HEADER_BYTES + length != datagram.len() {
            return Err(DecodeError::Length);
        }
        let mut message = Self {
            bytes: datagram,
            integrity_at: None,
            integrity_sha256_at: None,
            fingerprint_at: None,
        };
        let mut offset = HEADER_BYTES;
        while offset < datagram.len() {
            let attribute = attribute_at(datagram, offset).ok_or(DecodeError::AttributeCut)?;
            let seen = match attribute.kind {
                attr::MESSAGE_INTEGRITY => &mut message.integrity_at,
                attr::MESSAGE_INTEGRITY_SHA256 => &mut message.integrity_sha256_at,
                attr::FINGERPRINT => &mut message.fingerprint_at,
                _ => &mut None,
            };
            seen.get_or_insert(offset);
            offset = attribute.end();
        }
        Ok(message)
    }

    /// Request, indication, success or error.
    pub fn class(&self) -> Class {
        class_of(self.message_type())
    }

    /// What it is about.
    pub fn method(&self) -> Method {
        method_of(self.message_type())
    }

    /// Its transaction id.
    pub fn transaction_id(&self) -> TransactionId {
        let mut id = [0; 12];
        id.copy_from_slice(&self.bytes[8..HEADER_BYTES]);
        TransactionId(id)
    }

    /// The whole message.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Every attribute in order, including what stands behind the integrity, where anybody on the
    /// path can have put it.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes { bytes: self.bytes, offset: HEADER_BYTES }
    }

    /// The attributes in front of MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256, or all when there
    /// is neither. What follows the first of them is to be ignored, but for the other integrity
    /// and FINGERPRINT: a receiver that knows only the first cannot vouch for the rest.
    pub fn trusted_attributes(&self) -> Attributes<'a> {
        Attributes { bytes: self.trusted_bytes(), offset: HEADER_BYTES }
    }

    /// The value of the first `kind` among the trusted attributes; later ones do not count
    /// (RFC 8489, section 14).
    pub fn first(&self, kind: u16) -> Option<&'a [u8]> {
        self.first_attribute(kind).map(|attribute| attribute.value)
    }

    /// The first `kind` among the trusted attributes.
    pub fn first_attribute(&self, kind: u16) -> Option<Attribute<'a>> {
        self.trusted_attributes().find(|attribute| attribute.kind == kind)
    }

    /// Whether a FINGERPRINT is there, right or wrong: an answer then gets one, too.
    pub fn has_fingerprint(&self) -> bool {
        self.fingerprint_at.is_some()
    }

    /// Whether the FINGERPRINT is right; `None` without one. One that is not the last attribute is
    /// wrong (RFC 8489, section 14.7).
    pub fn fingerprint_ok(&self) -> Option<bool> {
        let attribute = attribute_at(self.bytes, self.fingerprint_at?)?;
        let expected = fingerprint::value(&self.bytes[..attribute.offset]).to_be_bytes();
        Some(attribute.end() == self.bytes.len() && attribute.value == expected)
    }

    /// The integrity that is checked: MESSAGE-INTEGRITY-SHA256 when it is there, in front of
    /// MESSAGE-INTEGRITY or behind it, else MESSAGE-INTEGRITY (RFC 8489, section 9.2.4).
    pub fn integrity(&self) -> Option<Integrity> {
        match (self.integrity_at, self.integrity_sha256_at) {
            (_, Some(_)) => Some(Integrity::Sha256),
            (Some(_), None) => Some(Integrity::Sha1),
            (None, None) => None,
        }
    }

    /// Whether one of the two is there, right or wrong.
    pub fn has_integrity(&self) -> bool {
        self.integrity().is_some()
    }

    /// Whether [`Message::integrity`] was made with `key`; `None` without one. Takes the same time
    /// whatever differs.
    pub fn integrity_ok(&self, key: &[u8]) -> Option<bool> {
        let (integrity, covered, value) = self.signed()?;
        Some(integrity.verify(&integrity.key(key), covered, value))
    }

    /// The same by the key of a credential that an algorithm gives, which is kept ready there.
    pub fn integrity_ok_by(&self, keys: &LongTermKeys, by: PasswordAlgorithm) -> Option<bool> {
        let (integrity, covered, value) = self.signed()?;
        Some(integrity.verify(keys.ready(by, integrity), covered, value))
    }

    /// The integrity that is checked, what it covers, and its value.
    fn signed(&self) -> Option<(Integrity, &'a [u8], &'a [u8])> {
        let integrity = self.integrity()?;
        let at = match integrity {
            Integrity::Sha1 => self.integrity_at,
            Integrity::Sha256 => self.integrity_sha256_at,
        };
        let attribute = attribute_at(self.bytes, at?)?;
        Some((integrity, &self.bytes[..attribute.offset], attribute.value))
    }

    /// The trusted attributes that must be understood and are not in `known`, each once, in the
    /// order of the message. A set of bits keeps it linear, whatever a stranger sends.
    pub fn unknown_required(&self, known: &[u16]) -> Vec<u16> {
        let is_unknown =
            |attribute: &Attribute<'_>| attribute.kind < 0x8000 && !known.contains(&attribute.kind);
        let mut unknown = Vec::new();
        let mut attributes = self.trusted_attributes().filter(is_unknown).peekable();
        if attributes.peek().is_none() {
            return unknown;
        }
        let mut seen = [0u64; 0x8000 / 64];
        for Attribute { kind, .. } in attributes {
            let (word, bit) = (&mut seen[usize::from(kind / 64)], 1 << (kind % 64));
            if *word & bit == 0 {
                *word |= bit;
                unknown.push(kind);
            }
            if unknown.len() == UNKNOWN_ATTRIBUTES_MAX {
                break;
            }
        }
        unknown
    }

    /// The header and the trusted attributes; the length field still counts the rest.
    fn trusted_bytes(&self) -> &'a [u8] {
        let ends = [self.integrity_at, self.integrity_sha256_at];
        &self.bytes[..ends.into_iter().flatten().min().unwrap_or(self.bytes.len())]
    }

    fn message_type(&self) -> u16 {
        u16::from_be_bytes([self.bytes[0], self.bytes[1]])
    }
}

/// Values can be addresses and names, so only the kind of message is printed.
impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("class", &self.class())
            .field("method", &self.method())
            .field("transaction_id", &self.transaction_id())
            .field("len", &self.bytes.len())
            .finish()
    }
}

impl Attribute<'_> {
    /// Where its value lies within the message.
    pub fn value_range(&self) -> Range<usize> {
        let start = self.offset + ATTRIBUTE_HEADER_BYTES;
        start..start + self.value.len()
    }

    /// Where the next attribute starts.
    fn end(&self) -> usize {
        self.offset + ATTRIBUTE_HEADER_BYTES + padded(self.value.len())
    }
}

/// The attributes of a [`Message`] in order.
#[derive(Clone)]
pub struct Attributes<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let attribute = attribute_at(self.bytes, self.offset)?;
        self.offset = attribute.end();
        Some(attribute)
    }
}

/// The attribute whose header starts at `offset`; `None` unless it and its padding are inside.
fn attribute_at(bytes: &[u8], offset: usize) -> Option<Attribute<'_>> {
    let [k0, k1, l0, l1, rest @ ..] = bytes.get(offset..)? else {
        return None;
    };
    let len = usize::from(u16::from_be_bytes([*l0, *l1]));
    let value = rest.get(..padded(len))?.get(..len)?;
    Some(Attribute { kind: u16::from_be_bytes([*k0, *k1]), value, offset })
}

/// `len` rounded up to the boundary of attributes.
pub(super) const fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// The size of an attribute's number and length (RFC 8489, section 14).
pub const ATTRIBUTE_HEADER_BYTES: usize = 4;

/// The most attributes that [`Message::unknown_required`] lists: with them a 420, its reason, its
/// integrity and its FINGERPRINT stay below 548 bytes, which every path carries whole
/// (RFC 8489, section 6.1).
pub const UNKNOWN_ATTRIBUTES_MAX: usize = 220;

#[cfg(test)]
mod tests {
    use super::super::Writer;
    use super::*;

    const ID: TransactionId = TransactionId(*b"transaction1");

    #[test]
    fn a_wrong_header_is_named() {
        let good = request().finish(None, false);
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Message::parse(&bytes).err()
        };
        assert_eq!(Message::parse(&[]).err(), Some(DecodeError::TooShort));
        assert_eq!(Message::parse(&good[..19]).err(), Some(DecodeError::TooShort));
        assert_eq!(changed(0, 0x40), Some(DecodeError::NotStun));
        assert_eq!(changed(0, 0x80), Some(DecodeError::NotStun));
        assert_eq!(changed(7, 0x43), Some(DecodeError::NotStun));
        assert_eq!(changed(3, 1), Some(DecodeError::Length));
        assert_eq!(changed(3, 4), Some(DecodeError::Length));
        assert_eq!(changed(3, 0), None);
    }

    #[test]
    fn bytes_behind_the_message_are_refused() {
        let mut bytes = request().finish(None, false);
        bytes.extend_from_slice(&[0; 4]);
        assert_eq!(Message::parse(&bytes).err(), Some(DecodeError::Length));
        bytes.truncate(HEADER_BYTES + 1);
        bytes[3] = 1;
        assert_eq!(Message::parse(&bytes).err(), Some(DecodeError::Length));
    }

    #[test]
    fn an_attribute_over_the_end_is_refused() {
        let good = request().attribute(attr::USERNAME, b"abcde").finish(None, false);
        let with_length = |len: u8| {
            let mut bytes = good.clone();
            bytes[23] = len;
            Message::parse(&bytes).err()
        };
        assert_eq!(with_length(8), None);
        assert_eq!(with_length(9), Some(DecodeError::AttributeCut));
        assert_eq!(with_length(0xFF), Some(DecodeError::AttributeCut));
    }

    #[test]
    fn padding_may_hold_anything() {
        let mut bytes = request().attribute(attr::USERNAME, b"abcde").finish(None, false);
        bytes[29..32].fill(0xEE);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.first(attr::USERNAME), Some(&b"abcde"[..]));
    }

    #[test]
    fn attributes_behind_integrity_are_ignored() {
        let signed = request().attribute(attr::USERNAME, b"anna").finish(Some(b"key"), false);
        let appended = append(signed, attr::LIFETIME, &[0, 0, 0, 0]);
        let appended = append(appended, attr::EVEN_PORT, &[0x80]);
        let message = Message::parse(&appended).unwrap();
        assert_eq!(message.attributes().count(), 4);
        assert_eq!(message.trusted_attributes().count(), 1);
        assert_eq!(message.first(attr::LIFETIME), None);
        assert_eq!(message.first(attr::USERNAME), Some(&b"anna"[..]));
        assert_eq!(message.unknown_required(&[attr::USERNAME]), [0u16; 0]);
        assert_eq!(message.integrity_ok(b"key"), Some(true));
    }

    #[test]
    fn a_second_integrity_counts_for_nothing() {
        let signed = request().finish(Some(b"key"), false);
        let forged = append(signed, attr::MESSAGE_INTEGRITY, &[0; 20]);
        let message = Message::parse(&forged).unwrap();
        assert_eq!(message.integrity_ok(b"key"), Some(true));

        let forged = append(request().finish(None, false), attr::MESSAGE_INTEGRITY, &[0; 20]);
        let again = append(forged, attr::MESSAGE_INTEGRITY, &[0; 20]);
        assert_eq!(Message::parse(&again).unwrap().integrity_ok(b"key"), Some(false));
    }

    #[test]
    fn integrity_of_another_size_is_wrong() {
        for integrity in [Integrity::Sha1, Integrity::Sha256] {
            let signed = request().integrity(integrity, b"key").finish(None, false);
            let tag = signed[24..].to_vec();
            for len in 0..=tag.len() + 4 {
                // A prefix of the right HMAC under the right length: truncation is not allowed.
                let mut value = tag.clone();
                value.resize(len, 0);
                let bytes = append(request().finish(None, false), integrity.kind(), &value);
                let right = Message::parse(&bytes).unwrap().integrity_ok(b"key");
                assert_eq!(right, Some(len == tag.len()), "{len} bytes");
            }
        }
    }

    #[test]
    fn of_both_integrities_the_one_of_sha256_is_checked() {
        let with = |sha1: &[u8], sha256: &[u8]| {
            request()
                .integrity(Integrity::Sha1, sha1)
                .integrity(Integrity::Sha256, sha256)
                .finish(None, true)
        };
        for (sha1, sha256, right) in
            [("key", "key", true), ("no", "key", true), ("key", "no", false)]
        {
            let bytes = with(sha1.as_bytes(), sha256.as_bytes());
            let message = Message::parse(&bytes).unwrap();
            assert_eq!(message.integrity(), Some(Integrity::Sha256));
            assert_eq!(message.integrity_ok(b"key"), Some(right), "{sha1} {sha256}");
            assert_eq!(message.fingerprint_ok(), Some(true));
        }
    }

    #[test]
    fn what_stands_behind_the_first_integrity_is_ignored_whichever_it_is() {
        for (first, second) in
            [(Integrity::Sha1, Integrity::Sha256), (Integrity::Sha256, Integrity::Sha1)]
        {
            let bytes = request()
                .integrity(first, b"key")
                .attribute(attr::LIFETIME, &[0; 4])
                .attribute(0x7FFF, &[])
                .integrity(second, b"key")
                .finish(None, false);
            let message = Message::parse(&bytes).unwrap();
            assert_eq!(message.attributes().count(), 4);
            assert_eq!(message.trusted_attributes().count(), 0);
            assert_eq!(message.first(attr::LIFETIME), None);
            assert_eq!(message.unknown_required(&[]), [0u16; 0]);
            assert_eq!(message.integrity(), Some(Integrity::Sha256));
            assert_eq!(message.integrity_ok(b"key"), Some(true));
        }
    }

    #[test]
    fn the_first_of_several_counts() {
        let bytes = request()
            .attribute(attr::REALM, b"first")
            .attribute(attr::REALM, b"second")
            .finish(None, false);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.first(attr::REALM), Some(&b"first"[..]));
        let found = message.first_attribute(attr::REALM).unwrap();
        assert_eq!(&bytes[found.value_range()], b"first");
    }

    #[test]
    fn a_fingerprint_that_is_not_last_is_wrong() {
        let right = request().finish(None, true);
        assert_eq!(Message::parse(&right).unwrap().fingerprint_ok(), Some(true));
        let followed = append(right.clone(), attr::SOFTWARE, b"late");
        assert_eq!(Message::parse(&followed).unwrap().fingerprint_ok(), Some(false));
        // Even when it hashes what stands in front of it under the final length.
        let mut exact = followed;
        let value = fingerprint::value(&exact[..HEADER_BYTES]).to_be_bytes();
        exact[24..28].copy_from_slice(&value);
        assert_eq!(Message::parse(&exact).unwrap().fingerprint_ok(), Some(false));
        let mut changed = right;
        changed[10] ^= 1;
        assert_eq!(Message::parse(&changed).unwrap().fingerprint_ok(), Some(false));
    }

    #[test]
    fn unknown_attributes_are_listed_once_and_bounded() {
        let writer = request()
            .attribute(0x7FFF, &[])
            .attribute(0x8FFF, &[])
            .attribute(attr::USERNAME, b"anna")
            .attribute(0x7FFF, &[]);
        let bytes = writer.finish(None, false);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.unknown_required(&[attr::USERNAME]), [0x7FFF]);
        assert_eq!(message.unknown_required(&[]), [0x7FFF, attr::USERNAME]);

        let many = (0x1000..0x4000).fold(request(), |writer, kind| writer.attribute(kind, &[]));
        let bytes = many.finish(None, false);
        let message = Message::parse(&bytes).unwrap();
        let unknown = message.unknown_required(&[]);
        assert!(unknown.iter().copied().eq((0x1000..).take(UNKNOWN_ATTRIBUTES_MAX)));
        let answer = Writer::error(&message, 420, "unknown attribute").unknown_attributes(&unknown);
        let answer = answer.integrity(Integrity::Sha256, b"key").finish(None, true);
        assert!(answer.len() < 548, "{} bytes", answer.len());
    }

    #[test]
    fn a_message_prints_without_its_values() {
        let bytes = request().attribute(attr::USERNAME, b"anna").finish(None, false);
        let printed = format!("{:?}", Message::parse(&bytes).unwrap());
        assert_eq!(
            printed,
            "Message { class: Request, method: Allocate, \
             transaction_id: 7472616e73616374696f6e31, len: 28 }"
        );
    }

    fn request() -> Writer {
        Writer::new(Class::Request, Method::ALLOCATE, ID)
    }

    /// Appends an attribute to a finished message, as anybody on the path can.
    fn append(mut bytes: Vec<u8>, kind: u16, value: &[u8]) -> Vec<u8> {
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(padded(bytes.len()), 0);
        let length = (bytes.len() - HEADER_BYTES) as u16;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes
    }
}
