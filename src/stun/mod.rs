//! Bytes to values and back: STUN messages (RFC 8489), the TURN attributes (RFC 8656) and
//! ChannelData. No state, no socket, no clock, no randomness of its own.
//!
//! The straight line of a datagram: [`classify`] looks at its first byte; [`ChannelData::parse`]
//! or [`Message::parse`] checks its framing once and keeps a view into it; [`SendIndication`] and
//! [`Message::first`] read what is needed without a copy. Messages that come in floods are
//! answered from here ([`binding_success`], [`challenge`]), payload to a client gets its header in
//! place ([`write_channel_data_header`], [`write_data_indication`]). The attributes of requests are
//! read by [`control`]; every answer is written by [`Writer`]. The `stun` and `turn` crates, which
//! know neither SHA-256 integrity nor the later attributes, are what both are tested against.
//!
//! On a stream, a [`Framer`] finds the messages first.
//!
//! What is not decided here: who may do what, and which answer a message deserves.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod address;
mod answer;
pub mod attr;
mod channel_data;
pub mod control;
mod error;
mod fingerprint;
mod framer;
mod header;
mod indication;
mod integrity;
mod long_term;
mod message;
mod writer;

pub use address::parse_xor_address;
pub use answer::{binding_success, challenge};
pub use channel_data::{
    CHANNEL_DATA_HEADER_BYTES, CHANNEL_NUMBERS, ChannelData, channel_data_header,
    write_channel_data_header,
};
pub use error::DecodeError;
pub use framer::{FRAME_BYTES_MAX, Framer, Messages};
pub use header::{Class, HEADER_BYTES, MAGIC_COOKIE, Method, TransactionId};
pub use indication::{
    DATA_INDICATION_HEADER_BYTES_MAX, DataHeader, SendIndication, data_indication_header,
    write_data_indication,
};
pub use integrity::Integrity;
pub use long_term::{
    LongTermKeys, PASSWORD_ALGORITHMS_OFFERED, PasswordAlgorithm, Signer, long_term_key,
};
pub use message::{ATTRIBUTE_HEADER_BYTES, Attribute, Attributes, Message, UNKNOWN_ATTRIBUTES_MAX};
pub use writer::{FINGERPRINT_BYTES, Writer};

/// What a datagram is, by its first byte ([RFC 7983, section 7]).
///
/// [RFC 7983, section 7]: https://www.rfc-editor.org/rfc/rfc7983#section-7
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 0 to 3: a STUN message, if the rest of it holds.
    Stun,
    /// 0x40 to 0x4F: ChannelData.
    ChannelData,
    /// Anything else, and nothing at all.
    Other,
}

/// Says what `datagram` is; only the first byte is looked at.
#[inline]
pub fn classify(datagram: &[u8]) -> Kind {
    match datagram.first() {
        Some(0..=3) => Kind::Stun,
        Some(0x40..=0x4F) => Kind::ChannelData,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod against_crates;
#[cfg(test)]
mod mutations;
#[cfg(test)]
mod vectors;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_tells_what_a_datagram_is() {
        assert_eq!(classify(&[]), Kind::Other);
        for first in 0..=u8::MAX {
            let expected = match first {
                0..=3 => Kind::Stun,
                0x40..=0x4F => Kind::ChannelData,
                _ => Kind::Other,
            };
            assert_eq!(classify(&[first, 0, 0]), expected, "first byte {first:#04x}");
        }
    }
}
