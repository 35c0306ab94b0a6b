//! The attributes of requests, read where they lie: nothing is copied and nothing is allocated.
//!
//! Only what stands in front of the integrity is seen, so that nobody finds what somebody on the
//! path may have appended. Every accessor: `Ok(None)` when the attribute is absent, the first one
//! when there are several. That the `stun` and `turn` crates read the same is tested.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::address::{FAMILY_IPV4, FAMILY_IPV6};
use super::{DecodeError, Message, attr, parse_xor_address};

/// The view of a control message: what stands in front of its integrity.
#[derive(Debug, Clone, Copy)]
pub struct Control<'a>(Message<'a>);

/// The address family of a relayed address (RFC 8656, section 18.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressFamily {
    /// 0x01.
    Ipv4,
    /// 0x02.
    Ipv6,
}

impl AddressFamily {
    /// The family of `ip`.
    #[inline]
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// The family as attributes write it.
    pub const fn number(self) -> u8 {
        match self {
            Self::Ipv4 => FAMILY_IPV4,
            Self::Ipv6 => FAMILY_IPV6,
        }
    }
}

impl<'a> Control<'a> {
    /// Reads `message`.
    pub const fn of(message: Message<'a>) -> Self {
        Self(message)
    }

    /// LIFETIME, in whole seconds.
    ///
    /// # Errors
    /// `BadAttribute` when it is not 4 bytes.
    pub fn lifetime(&self) -> Result<Option<Duration>, DecodeError> {
        let secs = self.value(attr::LIFETIME)?.map(u32::from_be_bytes);
        Ok(secs.map(|secs| Duration::from_secs(secs.into())))
    }

    /// REQUESTED-TRANSPORT: the protocol number of IP, 17 for UDP.
    ///
    /// # Errors
    /// `BadAttribute` when it is not 4 bytes.
    pub fn requested_transport(&self) -> Result<Option<u8>, DecodeError> {
        Ok(self.value(attr::REQUESTED_TRANSPORT)?.map(|[protocol, _, _, _]| protocol))
    }

    /// CHANNEL-NUMBER, whatever its range.
    ///
    /// # Errors
    /// `BadAttribute` when it is not 4 bytes.
    pub fn channel_number(&self) -> Result<Option<u16>, DecodeError> {
        let value = self.value(attr::CHANNEL_NUMBER)?;
        Ok(value.map(|[high, low, _, _]| u16::from_be_bytes([high, low])))
    }

    /// RESERVATION-TOKEN.
    ///
    /// # Errors
    /// `BadAttribute` when it is not 8 bytes.
    pub fn reservation_token(&self) -> Result<Option<[u8; 8]>, DecodeError> {
        self.value(attr::RESERVATION_TOKEN)
    }

    /// EVEN-PORT: whether the next higher port is to be reserved, too.
    ///
    /// # Errors
    /// `BadAttribute` when it is not 1 byte.
    pub fn even_port(&self) -> Result<Option<bool>, DecodeError> {
        Ok(self.value(attr::EVEN_PORT)?.map(|[flags]| flags & 0x80 != 0))
    }

    /// REQUESTED-ADDRESS-FAMILY.
    ///
    /// # Errors
    /// `BadAttribute` when it is not 4 bytes, `AddressFamily` when it is neither IPv4 nor IPv6.
    pub fn requested_address_family(&self) -> Result<Option<AddressFamily>, DecodeError> {
        self.family(attr::REQUESTED_ADDRESS_FAMILY)
    }

    /// ADDITIONAL-ADDRESS-FAMILY.
    ///
    /// # Errors
    /// As [`Control::requested_address_family`].
    pub fn additional_address_family(&self) -> Result<Option<AddressFamily>, DecodeError> {
        self.family(attr::ADDITIONAL_ADDRESS_FAMILY)
    }

    /// CONNECTION-ID.
    ///
    /// # Errors
    /// `BadAttribute` when it is not 4 bytes.
    pub fn connection_id(&self) -> Result<Option<u32>, DecodeError> {
        Ok(self.value(attr::CONNECTION_ID)?.map(u32::from_be_bytes))
    }

    /// Whether DONT-FRAGMENT is there.
    pub fn dont_fragment(&self) -> bool {
        self.0.first(attr::DONT_FRAGMENT).is_some()
    }

    /// XOR-PEER-ADDRESS, the first one.
    ///
    /// # Errors
    /// `BadAttribute` when it is no address.
    pub fn peer_address(&self) -> Result<Option<SocketAddr>, DecodeError> {
        self.peer_addresses().next().transpose()
    }

    /// Every XOR-PEER-ADDRESS in order, as CreatePermission has them.
    pub fn peer_addresses(&self) -> impl Iterator<Item = Result<SocketAddr, DecodeError>> + 'a {
        let id = self.0.transaction_id();
        let found = self.0.trusted_attributes().filter(|own| own.kind == attr::XOR_PEER_ADDRESS);
        found.map(move |own| parse_xor_address(own.value, &id).ok_or(DecodeError::BadAttribute))
    }

    fn family(&self, kind: u16) -> Result<Option<AddressFamily>, DecodeError> {
        match self.value(kind)? {
            None => Ok(None),
            Some([FAMILY_IPV4, _, _, _]) => Ok(Some(AddressFamily::Ipv4)),
            Some([FAMILY_IPV6, _, _, _]) => Ok(Some(AddressFamily::Ipv6)),
            Some([_, _, _, _]) => Err(DecodeError::AddressFamily),
        }
    }

    /// The value of the first attribute `kind`, which has `N` bytes.
    fn value<const N: usize>(&self, kind: u16) -> Result<Option<[u8; N]>, DecodeError> {
        let value = self.0.first(kind).map(<[u8; N]>::try_from).transpose();
        value.map_err(|_| DecodeError::BadAttribute)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Class, Method, TransactionId, Writer};
    use super::*;

    #[test]
    fn what_is_absent_is_none() {
        let bytes = request().finish(None, false);
        let control = control(&bytes);
        assert_eq!(control.lifetime(), Ok(None));
        assert_eq!(control.requested_transport(), Ok(None));
        assert_eq!(control.channel_number(), Ok(None));
        assert_eq!(control.reservation_token(), Ok(None));
        assert_eq!(control.even_port(), Ok(None));
        assert_eq!(control.requested_address_family(), Ok(None));
        assert_eq!(control.peer_address(), Ok(None));
        assert_eq!(control.connection_id(), Ok(None));
        assert!(!control.dont_fragment());
    }

    #[test]
    fn a_value_of_the_wrong_size_is_refused() {
        let kinds = [
            attr::LIFETIME,
            attr::REQUESTED_TRANSPORT,
            attr::CHANNEL_NUMBER,
            attr::RESERVATION_TOKEN,
            attr::EVEN_PORT,
            attr::REQUESTED_ADDRESS_FAMILY,
            attr::XOR_PEER_ADDRESS,
            attr::CONNECTION_ID,
        ];
        for (len, kind) in kinds.into_iter().flat_map(|kind| [0, 3, 5, 9].map(|len| (len, kind))) {
            let bytes = request().attribute(kind, &vec![1; len]).finish(None, false);
            let control = control(&bytes);
            let refused = [
                control.lifetime().is_err(),
                control.requested_transport().is_err(),
                control.channel_number().is_err(),
                control.reservation_token().is_err(),
                control.even_port().is_err(),
                control.requested_address_family().is_err(),
                control.peer_address().is_err(),
                control.connection_id().is_err(),
            ];
            let expected = kinds.map(|other| other == kind);
            assert_eq!(refused, expected, "{kind:#06x} of {len} bytes");
        }
    }

    #[test]
    fn even_port_says_whether_to_reserve() {
        for (flags, reserve) in [(0x00, false), (0x7F, false), (0x80, true), (0xFF, true)] {
            let bytes = request().attribute(attr::EVEN_PORT, &[flags]).finish(None, false);
            assert_eq!(control(&bytes).even_port(), Ok(Some(reserve)));
        }
    }

    #[test]
    fn an_unknown_family_is_not_a_malformed_one() {
        let family = |value: &[u8]| {
            let writer = request().attribute(attr::REQUESTED_ADDRESS_FAMILY, value);
            control(&writer.finish(None, false)).requested_address_family()
        };
        assert_eq!(family(&[1, 9, 9, 9]), Ok(Some(AddressFamily::Ipv4)));
        assert_eq!(family(&[2, 0, 0, 0]), Ok(Some(AddressFamily::Ipv6)));
        assert_eq!(family(&[3, 0, 0, 0]), Err(DecodeError::AddressFamily));
    }

    #[test]
    fn what_was_appended_behind_integrity_is_not_seen() {
        let mut bytes = request().finish(Some(b"key"), false);
        bytes.extend_from_slice(&[0, 0x0D, 0, 4, 0, 0, 0, 0]);
        bytes[3] += 8;
        let message = Message::parse(&bytes).unwrap();
        let control = Control::of(message);
        assert_eq!(control.lifetime(), Ok(None));
        assert_eq!(message.integrity_ok(b"key"), Some(true));
    }

    #[test]
    fn the_first_of_several_counts_and_peers_keep_their_order() {
        let peers = ["192.0.2.1:1", "[2001:db8::1]:2", "192.0.2.1:1"];
        let peers: Vec<SocketAddr> = peers.iter().map(|text| text.parse().unwrap()).collect();
        let writer = request().number(attr::LIFETIME, 1).number(attr::LIFETIME, 2);
        let with_peer = |w: Writer, peer: &SocketAddr| w.xor_address(attr::XOR_PEER_ADDRESS, *peer);
        let bytes = peers.iter().fold(writer, with_peer).finish(None, false);
        let control = control(&bytes);
        assert_eq!(control.lifetime(), Ok(Some(Duration::from_secs(1))));
        assert_eq!(control.peer_address(), Ok(Some(peers[0])));
        assert_eq!(control.peer_addresses().collect::<Result<Vec<_>, _>>(), Ok(peers));
    }

    fn request() -> Writer {
        Writer::new(Class::Request, Method::ALLOCATE, TransactionId(*b"transaction1"))
    }

    fn control(bytes: &[u8]) -> Control<'_> {
        Control::of(Message::parse(bytes).unwrap())
    }
}
