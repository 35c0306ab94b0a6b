//! Addresses in attributes, XORed with the magic cookie and the transaction id.
//!
//! ```text
//! zero (8) | family (8): 1 or 2 | port (16) | address (32 or 128)
//! ```
//! A NAT that rewrites addresses in payloads does not find them in this form (RFC 8489,
//! sections 14.1 and 14.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{MAGIC_COOKIE, TransactionId};

/// The address of XOR-MAPPED-ADDRESS, XOR-PEER-ADDRESS and XOR-RELAYED-ADDRESS.
/// `None` unless the value has a known family and exactly its size.
pub fn parse_xor_address(value: &[u8], id: &TransactionId) -> Option<SocketAddr> {
    let mask = mask(id);
    // The first byte is to be ignored (RFC 8489, section 14.1).
    let (&[_, family, p0, p1], address) = value.split_first_chunk::<4>()?;
    let ip = match family {
        FAMILY_IPV4 => {
            let bits = u32::from_be_bytes(address.try_into().ok()?) ^ (mask >> 96) as u32;
            IpAddr::V4(Ipv4Addr::from_bits(bits))
        }
        FAMILY_IPV6 => {
            let bits = u128::from_be_bytes(address.try_into().ok()?) ^ mask;
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([p0, p1]) ^ port_mask(mask)))
}

/// Writes the value of an XORed address to the front of `value` and says how long it is: 8 for
/// IPv4, 20 for IPv6. Flow label and scope of an IPv6 address are not part of it.
pub(super) fn write_xor_address(
    value: &mut [u8; XOR_ADDRESS_BYTES_MAX],
    address: SocketAddr,
    id: &TransactionId,
) -> usize {
    let mask = mask(id);
    let port = address.port() ^ port_mask(mask);
    value[0] = 0;
    value[2..4].copy_from_slice(&port.to_be_bytes());
    match address.ip() {
        IpAddr::V4(v4) => {
            let bits = v4.to_bits() ^ (mask >> 96) as u32;
            value[1] = FAMILY_IPV4;
            value[4..8].copy_from_slice(&bits.to_be_bytes());
            8
        }
        IpAddr::V6(v6) => {
            let bits = v6.to_bits() ^ mask;
            value[1] = FAMILY_IPV6;
            value[4..20].copy_from_slice(&bits.to_be_bytes());
            20
        }
    }
}

/// The size of the largest address value.
pub(super) const XOR_ADDRESS_BYTES_MAX: usize = 20;

/// The magic cookie and the transaction id in one number.
fn mask(id: &TransactionId) -> u128 {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    bytes[4..].copy_from_slice(&id.0);
    u128::from_be_bytes(bytes)
}

fn port_mask(mask: u128) -> u16 {
    (mask >> 112) as u16
}

/// IPv4 (RFC 8489, section 14.1).
pub(super) const FAMILY_IPV4: u8 = 0x01;
/// IPv6 (RFC 8489, section 14.1).
pub(super) const FAMILY_IPV6: u8 = 0x02;

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TransactionId = TransactionId(*b"transaction1");

    #[test]
    fn a_written_address_is_read_again() {
        for text in ["0.0.0.0:0", "203.0.113.9:65535", "[::]:1", "[::ffff:127.0.0.1]:3478"] {
            let address: SocketAddr = text.parse().unwrap();
            let mut value = [0xFF; XOR_ADDRESS_BYTES_MAX];
            let len = write_xor_address(&mut value, address, &ID);
            assert_eq!(parse_xor_address(&value[..len], &ID), Some(address));
            assert_eq!(value[0], 0);
        }
    }

    #[test]
    fn the_reserved_byte_is_ignored_and_a_wrong_size_is_not() {
        let value = [0xFF, 1, 0x21, 0x12, 0x21, 0x12, 0xA4, 0x42];
        assert_eq!(parse_xor_address(&value, &ID), Some("0.0.0.0:0".parse().unwrap()));
        assert_eq!(parse_xor_address(&value[..7], &ID), None);
        assert_eq!(parse_xor_address(&[&value[..], &[0]].concat(), &ID), None);
        for family in [0, 2, 3, 0xFF] {
            let value = [0, family, 0, 0, 0, 0, 0, 0];
            assert_eq!(parse_xor_address(&value, &ID), None, "family {family}");
        }
    }
}
