//! A STUN message where it lies: checked once, never copied.
//!
//! Attributes follow the header, each `kind (16), length (16), value, padding to four bytes`.
//! Padding may hold anything when it arrives (RFC 8489, section 14); nothing here reads it.

use std::fmt;
use std::ops::Range;

use super::header::{class_of, method_of};
use super::{
    Class, DecodeError, HEADER_BYTES, MAGIC_COOKIE, Method, TransactionId, attr, fingerprint,
    integrity,
};

/// A view of a whole STUN message, whose header and attribute framing hold.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    /// Where the header of the first MESSAGE-INTEGRITY starts.
    integrity_at: Option<usize>,
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
        let mut message = Self { bytes: datagram, integrity_at: None, fingerprint_at: None };
        let mut offset = HEADER_BYTES;
        while offset < datagram.len() {
            let attribute = attribute_at(datagram, offset).ok_or(DecodeError::AttributeCut)?;
            let seen = match attribute.kind {
                attr::MESSAGE_INTEGRITY => &mut message.integrity_at,
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

    /// Every attribute in order, including what stands behind MESSAGE-INTEGRITY, where anybody on
    /// the path can have put it.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes { bytes: self.bytes, offset: HEADER_BYTES }
    }

    /// The attributes in front of MESSAGE-INTEGRITY, or all when there is none. What follows it is
    /// to be ignored (RFC 8489, section 14.5).
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

    /// Whether a MESSAGE-INTEGRITY is there, right or wrong.
    pub fn has_integrity(&self) -> bool {
        self.integrity_at.is_some()
    }

    /// Whether the MESSAGE-INTEGRITY was made with `key`; `None` without one. Takes the same time
    /// whatever differs.
    pub fn integrity_ok(&self, key: &[u8]) -> Option<bool> {
        let attribute = attribute_at(self.bytes, self.integrity_at?)?;
        Some(integrity::verify(key, &self.bytes[..attribute.offset], attribute.value))
    }

    /// The trusted attributes that must be understood and are not in `known`, each once, at most
    /// [`UNKNOWN_ATTRIBUTES_MAX`] of them. MESSAGE-INTEGRITY is always known.
    pub fn unknown_required(&self, known: &[u16]) -> Vec<u16> {
        let mut unknown = Vec::new();
        for Attribute { kind, .. } in self.trusted_attributes() {
            if kind < 0x8000 && !known.contains(&kind) && !unknown.contains(&kind) {
                unknown.push(kind);
                if unknown.len() == UNKNOWN_ATTRIBUTES_MAX {
                    break;
                }
            }
        }
        unknown
    }

    /// The header and the trusted attributes; the length field still counts the rest.
    pub(super) fn trusted_bytes(&self) -> &'a [u8] {
        &self.bytes[..self.integrity_at.unwrap_or(self.bytes.len())]
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
pub(super) const ATTRIBUTE_HEADER_BYTES: usize = 4;

/// The most attributes that [`Message::unknown_required`] lists. More would let a stranger's
/// datagram cost a quadratic search; who reads the answer learns nothing from the rest.
pub const UNKNOWN_ATTRIBUTES_MAX: usize = 32;
