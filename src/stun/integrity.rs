//! MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256: an HMAC over everything in front of it
//! (RFC 8489, sections 14.5 and 14.6).
//!
//! The HMAC covers a header whose length field ends with the attribute itself, whatever follows,
//! so the two bytes are replaced on the way into the hash and the message is not touched.

use hmac::{Hmac, KeyInit as _, Mac as _};
use ring::hmac as ring_hmac;
use sha1::Sha1;
use subtle::ConstantTimeEq;

use super::message::ATTRIBUTE_HEADER_BYTES;
use super::{HEADER_BYTES, attr};

/// Which of the two attributes it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// MESSAGE-INTEGRITY: HMAC-SHA1, 20 bytes.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256: HMAC-SHA256. TURN allows no truncation (RFC 8656 says nothing of
    /// it, and RFC 8489, section 14.6 then asks for all of the 32 bytes).
    Sha256,
}

impl Integrity {
    /// The number of the attribute.
    pub const fn kind(self) -> u16 {
        match self {
            Self::Sha1 => attr::MESSAGE_INTEGRITY,
            Self::Sha256 => attr::MESSAGE_INTEGRITY_SHA256,
        }
    }

    /// The size of the HMAC.
    pub(super) const fn tag_bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// A key for it, ready to be used again and again: what the HMAC makes of a key is most of the
    /// work for a message as short as a request.
    pub(super) fn key(self, key: &[u8]) -> Key {
        match self {
            // An HMAC takes keys of any length: this one is never refused.
            Self::Sha1 => Key::Sha1(Hmac::new_from_slice(key).expect("HMAC has no length of key")),
            Self::Sha256 => Key::Sha256(ring_hmac::Key::new(ring_hmac::HMAC_SHA256, key)),
        }
    }

    /// The HMAC of a message that is `covered` up to the header of the attribute, with a key of
    /// [`Integrity::key`].
    pub(super) fn sign(self, key: &Key, covered: &[u8]) -> Tag {
        let length = covered.len() - HEADER_BYTES + ATTRIBUTE_HEADER_BYTES + self.tag_bytes();
        // It fits: the attribute is inside a message, or Writer has kept room for it.
        let length = length as u16;
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&covered[..HEADER_BYTES]);
        header[2..4].copy_from_slice(&length.to_be_bytes());
        key.sign([&header, &covered[HEADER_BYTES..]])
    }

    /// Whether `value` is the HMAC of `covered`. A value of another size is wrong.
    pub(super) fn verify(self, key: &Key, covered: &[u8], value: &[u8]) -> bool {
        value.len() == self.tag_bytes() && self.sign(key, covered).as_ref().ct_eq(value).into()
    }
}

/// A key as an HMAC uses it.
///
/// SHA-1, which is what browsers sign with, is of the crate that makes use of the processor's own
/// instructions for it.
pub(super) enum Key {
    Sha1(Hmac<Sha1>),
    Sha256(ring_hmac::Key),
}

impl Key {
    fn sign(&self, parts: [&[u8]; 2]) -> Tag {
        match self {
            Self::Sha1(key) => {
                let mut hmac = key.clone();
                parts.iter().for_each(|part| hmac.update(part));
                Tag::Sha1(hmac.finalize().into_bytes().into())
            }
            Self::Sha256(key) => {
                let mut hmac = ring_hmac::Context::with_key(key);
                parts.iter().for_each(|part| hmac.update(part));
                Tag::Sha256(hmac.sign())
            }
        }
    }
}

/// The value of the attribute.
pub(super) enum Tag {
    Sha1([u8; 20]),
    Sha256(ring_hmac::Tag),
}

impl AsRef<[u8]> for Tag {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Sha1(tag) => tag,
            Self::Sha256(tag) => tag.as_ref(),
        }
    }
}
