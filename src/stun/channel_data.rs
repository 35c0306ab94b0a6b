//! ChannelData (RFC 8656, section 12.4): `channel number (16), length (16), payload`.

use std::ops::{Range, RangeInclusive};

use super::DecodeError;

/// The channel numbers that a client may bind (RFC 8656, section 12).
pub const CHANNEL_NUMBERS: RangeInclusive<u16> = 0x4000..=0x4FFF;

/// The size of the header.
pub const CHANNEL_DATA_HEADER_BYTES: usize = 4;

/// A ChannelData message within a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelData {
    /// The channel number, one of [`CHANNEL_NUMBERS`].
    pub number: u16,
    /// Where the payload lies within the datagram; may be empty.
    pub payload: Range<usize>,
}

impl ChannelData {
    /// Reads a datagram. Over UDP a client may pad; what follows the payload is ignored.
    ///
    /// # Errors
    /// `TooShort` without a header, `ChannelNumber` out of range, `Length` when it says more than
    /// is there.
    #[inline]
    pub fn parse(datagram: &[u8]) -> Result<Self, DecodeError> {
        let (&[n0, n1, l0, l1], rest) =
            datagram.split_first_chunk::<4>().ok_or(DecodeError::TooShort)?;
        let number = u16::from_be_bytes([n0, n1]);
        if !CHANNEL_NUMBERS.contains(&number) {
            return Err(DecodeError::ChannelNumber);
        }
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        if len > rest.len() {
            return Err(DecodeError::Length);
        }
        let start = CHANNEL_DATA_HEADER_BYTES;
        Ok(Self { number, payload: start..start + len })
    }
}

/// Writes the header in front of the payload that lies at `payload` in `buffer`, and says where
/// the message lies now. No padding: a datagram needs none.
///
/// `None`, and nothing written, when four bytes are not free in front or the payload is longer
/// than the length field can say.
#[inline]
pub fn write_channel_data_header(
    buffer: &mut [u8],
    payload: Range<usize>,
    number: u16,
) -> Option<Range<usize>> {
    debug_assert!(CHANNEL_NUMBERS.contains(&number), "channel {number:#06x} cannot be bound");
    let len = u16::try_from(buffer.get(payload.clone())?.len()).ok()?;
    let start = payload.start.checked_sub(CHANNEL_DATA_HEADER_BYTES)?;
    let header = &mut buffer[start..payload.start];
    header[..2].copy_from_slice(&number.to_be_bytes());
    header[2..].copy_from_slice(&len.to_be_bytes());
    Some(start..payload.end)
}
