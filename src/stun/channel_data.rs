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
    let header = channel_data_header(number, buffer.get(payload.clone())?.len())?;
    let start = payload.start.checked_sub(CHANNEL_DATA_HEADER_BYTES)?;
    buffer[start..payload.start].copy_from_slice(&header);
    Some(start..payload.end)
}

/// The header for `len` bytes of payload, for one that is sent from where it lies; `None` when
/// the length field cannot say so much.
#[inline]
pub fn channel_data_header(number: u16, len: usize) -> Option<[u8; CHANNEL_DATA_HEADER_BYTES]> {
    let ([n0, n1], [l0, l1]) = (number.to_be_bytes(), u16::try_from(len).ok()?.to_be_bytes());
    Some([n0, n1, l0, l1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_channel_numbers_of_the_rfc_are_read() {
        let parse = |number: u16| ChannelData::parse(&[number.to_be_bytes(), [0, 0]].concat());
        for number in [0x4000, 0x4FFF] {
            assert_eq!(parse(number), Ok(ChannelData { number, payload: 4..4 }));
        }
        for number in [0x0000, 0x3FFF, 0x5000, 0x7FFF, 0xFFFF] {
            assert_eq!(parse(number), Err(DecodeError::ChannelNumber));
        }
    }

    #[test]
    fn what_follows_the_payload_is_ignored_and_a_cut_payload_refused() {
        let padded = [0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0];
        assert_eq!(ChannelData::parse(&padded).unwrap().payload, 4..9);
        assert_eq!(ChannelData::parse(&padded[..9]).unwrap().payload, 4..9);
        for len in 0..4 {
            assert_eq!(ChannelData::parse(&padded[..len]), Err(DecodeError::TooShort));
        }
        for len in 4..9 {
            assert_eq!(ChannelData::parse(&padded[..len]), Err(DecodeError::Length));
        }
    }

    #[test]
    fn the_largest_payload_is_whole() {
        let mut buffer = vec![7; 4 + 0xFFFF];
        let written = write_channel_data_header(&mut buffer, 4..4 + 0xFFFF, 0x4FFF);
        assert_eq!(written, Some(0..4 + 0xFFFF));
        let read = ChannelData::parse(&buffer).unwrap();
        assert_eq!(read, ChannelData { number: 0x4FFF, payload: 4..4 + 0xFFFF });
    }

    #[test]
    fn without_room_nothing_is_written() {
        let mut buffer = vec![7; 0x1_0010];
        assert_eq!(write_channel_data_header(&mut buffer, 3..8, 0x4000), None);
        assert_eq!(write_channel_data_header(&mut buffer, 8..0x1_0008, 0x4000), None);
        assert_eq!(write_channel_data_header(&mut buffer, 8..0x1_0011, 0x4000), None);
        assert!(buffer.iter().all(|byte| *byte == 7));
    }
}
