//! MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256: an HMAC over everything in front of it
//! (RFC 8489, sections 14.5 and 14.6).
//!
//! The HMAC covers a header whose length field ends with the attribute itself, whatever follows,
//! so the two bytes are replaced on the way into the hash and the message is not touched.

use ring::hmac;
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
    pub(super) fn key(self, key: &[u8]) -> hmac::Key {
        let algorithm = match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
        };
        hmac::Key::new(algorithm, key)
    }

    /// The HMAC of a message that is `covered` up to the header of the attribute, with a key of
    /// [`Integrity::key`].
    pub(super) fn sign(self, key: &hmac::Key, covered: &[u8]) -> hmac::Tag {
        let length = covered.len() - HEADER_BYTES + ATTRIBUTE_HEADER_BYTES + self.tag_bytes();
        // It fits: the attribute is inside a message, or Writer has kept room for it.
        let length = length as u16;
        let mut context = hmac::Context::with_key(key);
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&covered[..HEADER_BYTES]);
        header[2..4].copy_from_slice(&length.to_be_bytes());
        context.update(&header);
        context.update(&covered[HEADER_BYTES..]);
        context.sign()
    }

    /// Whether `value` is the HMAC of `covered`. A value of another size is wrong.
    pub(super) fn verify(self, key: &hmac::Key, covered: &[u8], value: &[u8]) -> bool {
        value.len() == self.tag_bytes() && self.sign(key, covered).as_ref().ct_eq(value).into()
    }
}
