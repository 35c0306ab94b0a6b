//! The indications that carry payload: Send from a client, Data to it (RFC 8656, section 11).
//!
//! A Data indication is built around the payload where it was received:
//! ```text
//! header (20) | XOR-PEER-ADDRESS (12 or 24) | DATA header (4) | payload | zero padding (0 to 3)
//! ```

use std::net::SocketAddr;
use std::ops::{Deref, Range};

use super::address::{XOR_ADDRESS_BYTES_MAX, write_xor_address};
use super::header::message_type;
use super::message::{ATTRIBUTE_HEADER_BYTES, padded};
use super::{
    Class, DecodeError, HEADER_BYTES, MAGIC_COOKIE, Message, Method, TransactionId, attr,
    parse_xor_address,
};

/// What a Send indication asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendIndication {
    /// Whom to.
    pub peer: SocketAddr,
    /// Where the payload lies within the message; may be empty.
    pub payload: Range<usize>,
    /// Whether DONT-FRAGMENT was there.
    pub dont_fragment: bool,
}

impl SendIndication {
    /// Reads the attributes of a Send indication in one pass. The caller has seen that it is one,
    /// and which attributes are `understood`, wherever they stand.
    ///
    /// # Errors
    /// `MissingAttribute` without XOR-PEER-ADDRESS or DATA, `BadAttribute` for no address,
    /// `UnknownAttribute` for another one that must be understood: dropped without an answer
    /// (RFC 8656, section 11.2; RFC 8489, section 6.3.2).
    pub fn read(message: &Message<'_>, understood: &[u16]) -> Result<Self, DecodeError> {
        let (mut peer, mut payload, mut dont_fragment) = (None, None, false);
        for attribute in message.trusted_attributes() {
            match attribute.kind {
                attr::XOR_PEER_ADDRESS => {
                    peer.get_or_insert(attribute.value);
                }
                attr::DATA => {
                    payload.get_or_insert(attribute.value_range());
                }
                attr::DONT_FRAGMENT => dont_fragment = true,
                kind if understood.contains(&kind) => {}
                0..0x8000 => return Err(DecodeError::UnknownAttribute),
                0x8000.. => {}
            }
        }
        let (Some(peer), Some(payload)) = (peer, payload) else {
            return Err(DecodeError::MissingAttribute);
        };
        let peer =
            parse_xor_address(peer, &message.transaction_id()).ok_or(DecodeError::BadAttribute)?;
        Ok(Self { peer, payload, dont_fragment })
    }
}

/// Writes a Data indication around the payload that lies at `payload` in `buffer`, and says where
/// the message lies now. Needs [`DATA_INDICATION_HEADER_BYTES_MAX`] bytes free in front for an
/// IPv6 peer (12 fewer for IPv4), and up to 3 behind for padding, which is written as zero.
///
/// `None`, and nothing written, when they are not free or the message would be longer than its
/// length field can say.
pub fn write_data_indication(
    buffer: &mut [u8],
    payload: Range<usize>,
    peer: SocketAddr,
    id: &TransactionId,
) -> Option<Range<usize>> {
    let payload_len = buffer.get(payload.clone())?.len();
    let (header, padding) = data_indication_header(payload_len, peer, id)?;
    let start = payload.start.checked_sub(header.len())?;
    let end = payload.end + padding;
    buffer.get_mut(payload.end..end)?.fill(0);
    buffer[start..payload.start].copy_from_slice(&header);
    Some(start..end)
}

/// What stands in front of `payload_len` bytes of payload in a Data indication, and how many bytes
/// of zero follow them; `None` when the message would be longer than its length field can say.
pub fn data_indication_header(
    payload_len: usize,
    peer: SocketAddr,
    id: &TransactionId,
) -> Option<(DataHeader, usize)> {
    let mut address = [0; XOR_ADDRESS_BYTES_MAX];
    let address_len = write_xor_address(&mut address, peer, id);
    let header_len = HEADER_BYTES + ATTRIBUTE_HEADER_BYTES + address_len + ATTRIBUTE_HEADER_BYTES;
    let length = u16::try_from(header_len - HEADER_BYTES + padded(payload_len)).ok()?;

    let mut written = DataHeader { bytes: [0; _], len: header_len };
    let header = &mut written.bytes[..header_len];
    let kind = message_type(Class::Indication, Method::DATA);
    header[0..2].copy_from_slice(&kind.to_be_bytes());
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    header[8..20].copy_from_slice(&id.0);
    header[20..22].copy_from_slice(&attr::XOR_PEER_ADDRESS.to_be_bytes());
    header[22..24].copy_from_slice(&(address_len as u16).to_be_bytes());
    header[24..24 + address_len].copy_from_slice(&address[..address_len]);
    let tail = &mut header[24 + address_len..];
    tail[..2].copy_from_slice(&attr::DATA.to_be_bytes());
    tail[2..].copy_from_slice(&(payload_len as u16).to_be_bytes());
    Some((written, padded(payload_len) - payload_len))
}

/// What stands in front of the payload of a Data indication; it dereferences to its bytes.
#[derive(Debug, Clone, Copy)]
pub struct DataHeader {
    bytes: [u8; DATA_INDICATION_HEADER_BYTES_MAX],
    len: usize,
}

impl Deref for DataHeader {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The largest header of a Data indication, that of an IPv6 peer.
pub const DATA_INDICATION_HEADER_BYTES_MAX: usize = 48;

#[cfg(test)]
mod tests {
    use super::super::Writer;
    use super::*;

    const ID: TransactionId = TransactionId(*b"transaction1");

    #[test]
    fn padding_of_a_data_indication_is_zero_whatever_the_buffer_held() {
        for (peer, header_len) in [(v4(), 36), (v6(), 48)] {
            for len in 0..9 {
                let mut buffer = [0xAA; 48 + 9 + 3];
                let payload = 48..48 + len;
                let written =
                    write_data_indication(&mut buffer, payload.clone(), peer, &ID).unwrap();
                assert_eq!(written.start, 48 - header_len);
                let message = Message::parse(&buffer[written.clone()]).unwrap();
                assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
                assert_eq!(message.first(attr::DATA), Some(&[0xAA; 9][..len]));
                let from = message.first(attr::XOR_PEER_ADDRESS).unwrap();
                assert_eq!(parse_xor_address(from, &ID), Some(peer));
                assert!(buffer[payload.end..written.end].iter().all(|byte| *byte == 0));
                assert!(buffer[written.end..].iter().all(|byte| *byte == 0xAA));
            }
        }
    }

    #[test]
    fn without_room_no_data_indication_is_written() {
        let mut buffer = vec![7; 0x1_0100];
        assert_eq!(write_data_indication(&mut buffer, 47..60, v6(), &ID), None);
        assert_eq!(write_data_indication(&mut buffer, 35..60, v4(), &ID), None);
        assert_eq!(write_data_indication(&mut buffer[..99], 48..98, v4(), &ID), None);
        assert_eq!(write_data_indication(&mut buffer[..99], 48..100, v4(), &ID), None);
        // 16 bytes of address and header leave this much for the payload.
        assert_eq!(write_data_indication(&mut buffer, 48..48 + 0xFFED, v4(), &ID), None);
        assert!(buffer.iter().all(|byte| *byte == 7));
        assert!(write_data_indication(&mut buffer, 48..48 + 0xFFEC, v4(), &ID).is_some());
    }

    #[test]
    fn a_send_indication_needs_a_peer_and_payload() {
        let peer = send().xor_address(attr::XOR_PEER_ADDRESS, v6());
        assert_eq!(read(peer.attribute(attr::DATA, &[])).map(|send| send.peer), Ok(v6()));
        let no_payload = send().xor_address(attr::XOR_PEER_ADDRESS, v6());
        assert_eq!(read(no_payload), Err(DecodeError::MissingAttribute));
        let no_peer = send().attribute(attr::DATA, b"payload");
        assert_eq!(read(no_peer), Err(DecodeError::MissingAttribute));
        let bad_peer = send().attribute(attr::XOR_PEER_ADDRESS, &[0, 1, 0, 0]);
        assert_eq!(read(bad_peer.attribute(attr::DATA, &[])), Err(DecodeError::BadAttribute));
    }

    #[test]
    fn an_unknown_attribute_ends_a_send_indication_unless_it_is_optional() {
        let whole = || send().xor_address(attr::XOR_PEER_ADDRESS, v4()).attribute(attr::DATA, b"x");
        assert!(read(whole().attribute(0x8FFF, &[])).is_ok());
        let unknown = read(whole().attribute(0x7FFF, &[]));
        assert_eq!(unknown, Err(DecodeError::UnknownAttribute));
        assert!(read(whole().attribute(attr::USERNAME, b"alice")).is_ok());
        let dont_fragment = read(whole().attribute(attr::DONT_FRAGMENT, &[]));
        assert_eq!(dont_fragment.map(|send| send.dont_fragment), Ok(true));
    }

    #[test]
    fn the_first_peer_and_payload_count() {
        let twice = send()
            .xor_address(attr::XOR_PEER_ADDRESS, v4())
            .attribute(attr::DATA, b"first")
            .xor_address(attr::XOR_PEER_ADDRESS, v6())
            .attribute(attr::DATA, b"second");
        let read = read(twice).unwrap();
        assert_eq!((read.peer, read.payload), (v4(), 36..41));
    }

    fn read(writer: Writer) -> Result<SendIndication, DecodeError> {
        let bytes = writer.finish(None, false);
        SendIndication::read(&Message::parse(&bytes).unwrap(), &[attr::USERNAME])
    }

    fn send() -> Writer {
        Writer::new(Class::Indication, Method::SEND, ID)
    }

    fn v4() -> SocketAddr {
        "198.51.100.7:4000".parse().unwrap()
    }

    fn v6() -> SocketAddr {
        "[2001:db8::7]:4000".parse().unwrap()
    }
}
