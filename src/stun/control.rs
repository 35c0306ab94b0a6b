//! Authenticated control messages, decoded by the `stun` crate and the attribute types of the
//! `turn` crate. Several allocations a message, which requests can bear and floods cannot.
//!
//! The crates see a copy that ends in front of MESSAGE-INTEGRITY, so that they cannot find what
//! anybody on the path may have appended. Where they are too lenient or keep a value to
//! themselves (addresses of a wrong size, EVEN-PORT, an unknown family), the raw value is read.
//! Every accessor: `Ok(None)` when the attribute is absent, the first one when there are several.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use webrtc_stun::attributes::AttrType;
use webrtc_stun::message::{Getter, Message as Decoded};
use webrtc_stun::textattrs::TextAttribute;
use webrtc_turn::proto::channum::ChannelNumber;
use webrtc_turn::proto::lifetime::Lifetime;
use webrtc_turn::proto::reqtrans::RequestedTransport;
use webrtc_turn::proto::rsrvtoken::ReservationToken;

use super::address::{FAMILY_IPV4, FAMILY_IPV6};
use super::{DecodeError, HEADER_BYTES, Message, TransactionId, attr, parse_xor_address};

/// A decoded control message: what stands in front of its MESSAGE-INTEGRITY.
pub struct Control {
    decoded: Decoded,
    id: TransactionId,
}

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

impl Control {
    /// Decodes the trusted part of `message`.
    ///
    /// # Errors
    /// `AttributeCut` when the crate refuses what the view has accepted; the two are tested to
    /// agree.
    pub fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let mut decoded = Decoded::new();
        decoded.raw.clear();
        decoded.raw.extend_from_slice(message.trusted_bytes());
        let length = (decoded.raw.len() - HEADER_BYTES) as u16;
        decoded.raw[2..4].copy_from_slice(&length.to_be_bytes());
        decoded.decode().map_err(|_| DecodeError::AttributeCut)?;
        Ok(Self { decoded, id: message.transaction_id() })
    }

    /// USERNAME.
    ///
    /// # Errors
    /// `BadAttribute` when it is not UTF-8.
    pub fn username(&self) -> Result<Option<String>, DecodeError> {
        self.text(attr::USERNAME)
    }

    /// REALM.
    ///
    /// # Errors
    /// `BadAttribute` when it is not UTF-8.
    pub fn realm(&self) -> Result<Option<String>, DecodeError> {
        self.text(attr::REALM)
    }

    /// LIFETIME, in whole seconds.
    ///
    /// # Errors
    /// `BadAttribute` when it is not 4 bytes.
    pub fn lifetime(&self) -> Result<Option<Duration>, DecodeError> {
        let mut lifetime = Lifetime::default();
        Ok(self.read(attr::LIFETIME, &mut lifetime)?.then_some(lifetime.0))
    }

    /// REQUESTED-TRANSPORT: the protocol number of IP, 17 for UDP.
    ///
    /// # Errors
    /// `BadAttribute` when it is not 4 bytes.
    pub fn requested_transport(&self) -> Result<Option<u8>, DecodeError> {
        let mut transport = RequestedTransport::default();
        let found = self.read(attr::REQUESTED_TRANSPORT, &mut transport)?;
        Ok(found.then_some(transport.protocol.0))
    }

    /// CHANNEL-NUMBER, whatever its range.
    ///
    /// # Errors
    /// `BadAttribute` when it is not 4 bytes.
    pub fn channel_number(&self) -> Result<Option<u16>, DecodeError> {
        let mut number = ChannelNumber::default();
        Ok(self.read(attr::CHANNEL_NUMBER, &mut number)?.then_some(number.0))
    }

    /// RESERVATION-TOKEN.
    ///
    /// # Errors
    /// `BadAttribute` when it is not 8 bytes.
    pub fn reservation_token(&self) -> Result<Option<[u8; 8]>, DecodeError> {
        let mut token = ReservationToken::default();
        if !self.read(attr::RESERVATION_TOKEN, &mut token)? {
            return Ok(None);
        }
        token.0.try_into().map(Some).map_err(|_| DecodeError::BadAttribute)
    }

    /// EVEN-PORT: whether the next higher port is to be reserved, too.
    ///
    /// # Errors
    /// `BadAttribute` when it is not 1 byte.
    pub fn even_port(&self) -> Result<Option<bool>, DecodeError> {
        match self.raw(attr::EVEN_PORT) {
            None => Ok(None),
            Some([flags]) => Ok(Some(flags & 0x80 != 0)),
            Some(_) => Err(DecodeError::BadAttribute),
        }
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
        let value = self.raw(attr::CONNECTION_ID).map(<[u8; 4]>::try_from).transpose();
        let value = value.map_err(|_| DecodeError::BadAttribute)?;
        Ok(value.map(u32::from_be_bytes))
    }

    /// Whether DONT-FRAGMENT is there.
    pub fn dont_fragment(&self) -> bool {
        self.raw(attr::DONT_FRAGMENT).is_some()
    }

    /// XOR-PEER-ADDRESS, the first one.
    ///
    /// # Errors
    /// `BadAttribute` when it is no address.
    pub fn peer_address(&self) -> Result<Option<SocketAddr>, DecodeError> {
        self.peer_addresses().next().transpose()
    }

    /// Every XOR-PEER-ADDRESS in order, as CreatePermission has them.
    pub fn peer_addresses(&self) -> impl Iterator<Item = Result<SocketAddr, DecodeError>> {
        let peers = AttrType(attr::XOR_PEER_ADDRESS);
        let found = self.decoded.attributes.0.iter().filter(move |raw| raw.typ == peers);
        found.map(|raw| parse_xor_address(&raw.value, &self.id).ok_or(DecodeError::BadAttribute))
    }

    fn family(&self, kind: u16) -> Result<Option<AddressFamily>, DecodeError> {
        match self.raw(kind) {
            None => Ok(None),
            Some([FAMILY_IPV4, _, _, _]) => Ok(Some(AddressFamily::Ipv4)),
            Some([FAMILY_IPV6, _, _, _]) => Ok(Some(AddressFamily::Ipv6)),
            Some([_, _, _, _]) => Err(DecodeError::AddressFamily),
            Some(_) => Err(DecodeError::BadAttribute),
        }
    }

    fn text(&self, kind: u16) -> Result<Option<String>, DecodeError> {
        let mut text = TextAttribute { attr: AttrType(kind), text: String::new() };
        Ok(self.read(kind, &mut text)?.then_some(text.text))
    }

    /// Lets the crate's `getter` read attribute `kind`; false when it is absent.
    fn read(&self, kind: u16, getter: &mut impl Getter) -> Result<bool, DecodeError> {
        if self.raw(kind).is_none() {
            return Ok(false);
        }
        getter.get_from(&self.decoded).map_err(|_| DecodeError::BadAttribute)?;
        Ok(true)
    }

    fn raw(&self, kind: u16) -> Option<&[u8]> {
        let mut attributes = self.decoded.attributes.0.iter();
        attributes.find(|raw| raw.typ.value() == kind).map(|raw| raw.value.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Class, Method, Writer};
    use super::*;

    #[test]
    fn what_is_absent_is_none() {
        let control = control(request());
        assert_eq!(control.username(), Ok(None));
        assert_eq!(control.realm(), Ok(None));
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
            let control = control(request().attribute(kind, &vec![1; len]));
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
    fn a_name_that_is_no_text_is_refused() {
        let control = control(request().attribute(attr::USERNAME, &[0xFF, 0xFE]));
        assert_eq!(control.username(), Err(DecodeError::BadAttribute));
    }

    #[test]
    fn even_port_says_whether_to_reserve() {
        for (flags, reserve) in [(0x00, false), (0x7F, false), (0x80, true), (0xFF, true)] {
            let control = control(request().attribute(attr::EVEN_PORT, &[flags]));
            assert_eq!(control.even_port(), Ok(Some(reserve)));
        }
    }

    #[test]
    fn an_unknown_family_is_not_a_malformed_one() {
        let family = |value: &[u8]| {
            control(request().attribute(attr::REQUESTED_ADDRESS_FAMILY, value))
                .requested_address_family()
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
        let control = Control::decode(&message).unwrap();
        assert_eq!(control.lifetime(), Ok(None));
        assert_eq!(message.integrity_ok(b"key"), Some(true));
    }

    #[test]
    fn the_first_of_several_counts_and_peers_keep_their_order() {
        let peers = ["192.0.2.1:1", "[2001:db8::1]:2", "192.0.2.1:1"];
        let peers: Vec<SocketAddr> = peers.iter().map(|text| text.parse().unwrap()).collect();
        let writer = request().number(attr::LIFETIME, 1).number(attr::LIFETIME, 2);
        let with_peer = |w: Writer, peer: &SocketAddr| w.xor_address(attr::XOR_PEER_ADDRESS, *peer);
        let control = control(peers.iter().fold(writer, with_peer));
        assert_eq!(control.lifetime(), Ok(Some(Duration::from_secs(1))));
        assert_eq!(control.peer_address(), Ok(Some(peers[0])));
        assert_eq!(control.peer_addresses().collect::<Result<Vec<_>, _>>(), Ok(peers));
    }

    fn request() -> Writer {
        Writer::new(Class::Request, Method::ALLOCATE, TransactionId(*b"transaction1"))
    }

    fn control(writer: Writer) -> Control {
        let bytes = writer.finish(None, false);
        Control::decode(&Message::parse(&bytes).unwrap()).unwrap()
    }
}
