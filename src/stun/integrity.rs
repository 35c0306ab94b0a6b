//! MESSAGE-INTEGRITY: HMAC-SHA1 over everything in front of it (RFC 8489, section 14.5).
//!
//! The HMAC covers a header whose length field ends with the attribute itself, whatever follows,
//! so the two bytes are replaced on the way into the hash and the message is not touched.
//! SHA-256 integrity differs in the algorithm and the size only.

use ring::hmac;
use subtle::ConstantTimeEq;

use super::HEADER_BYTES;
use super::message::ATTRIBUTE_HEADER_BYTES;

/// The size of the HMAC.
pub(super) const TAG_BYTES: usize = 20;

/// The HMAC of a message that is `covered` up to the header of MESSAGE-INTEGRITY.
pub(super) fn sign(key: &[u8], covered: &[u8]) -> hmac::Tag {
    let length = covered.len() - HEADER_BYTES + ATTRIBUTE_HEADER_BYTES + TAG_BYTES;
    // It fits: the attribute is inside a message, or Writer has kept room for it.
    let length = length as u16;
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
    let mut context = hmac::Context::with_key(&key);
    context.update(&covered[..2]);
    context.update(&length.to_be_bytes());
    context.update(&covered[4..]);
    context.sign()
}

/// Whether `value` is the HMAC of `covered`. A value of another size is wrong.
pub(super) fn verify(key: &[u8], covered: &[u8], value: &[u8]) -> bool {
    value.len() == TAG_BYTES && sign(key, covered).as_ref().ct_eq(value).into()
}
