//! Our views and writers against the decoding and encoding of the `stun` and `turn` crates.
//!
//! Where the crates are more lenient, the difference is spelled out in the expectation, so that a
//! change on either side is noticed.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use proptest::prelude::*;
use webrtc_stun::agent::TransactionId as DecodedId;
use webrtc_stun::attributes::{ATTR_FINGERPRINT, ATTR_MESSAGE_INTEGRITY, ATTR_XOR_PEER_ADDRESS};
use webrtc_stun::attributes::{AttrType, RawAttribute};
use webrtc_stun::error_code::{ErrorCode, ErrorCodeAttribute};
use webrtc_stun::fingerprint::FINGERPRINT;
use webrtc_stun::integrity::MessageIntegrity;
use webrtc_stun::message::{
    CLASS_ERROR_RESPONSE, CLASS_INDICATION, CLASS_REQUEST, CLASS_SUCCESS_RESPONSE, Getter,
    METHOD_ALLOCATE, METHOD_DATA, METHOD_SEND, Message as Decoded, MessageClass, MessageType,
    Setter,
};
use webrtc_stun::textattrs::TextAttribute;
use webrtc_stun::uattrs::UnknownAttributes;
use webrtc_stun::xoraddr::XorMappedAddress;
use webrtc_turn::proto::chandata::ChannelData as DecodedChannelData;
use webrtc_turn::proto::channum::ChannelNumber;
use webrtc_turn::proto::data::Data as Payload;
use webrtc_turn::proto::lifetime::Lifetime;
use webrtc_turn::proto::peeraddr::PeerAddress;
use webrtc_turn::proto::relayaddr::RelayedAddress;
use webrtc_turn::proto::reqfamily::RequestedAddressFamily;
use webrtc_turn::proto::reqtrans::RequestedTransport;
use webrtc_turn::proto::rsrvtoken::ReservationToken;

use super::control::{AddressFamily, Control};
use super::{
    ChannelData, Class, HEADER_BYTES, Integrity, Message, Method, PASSWORD_ALGORITHMS_OFFERED,
    SendIndication, TransactionId, Writer, attr, binding_success, challenge, parse_xor_address,
    write_channel_data_header, write_data_indication,
};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_view_accepts_what_the_crate_accepts(bytes in any_bytes()) {
        let decoded = decode(&bytes);
        let framed = bytes.len() >= HEADER_BYTES
            && bytes[0] & 0xC0 == 0
            && bytes.len().is_multiple_of(4)
            && bytes.len() - HEADER_BYTES
                == usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        let ours = Message::parse(&bytes);
        prop_assert_eq!(ours.is_ok(), framed && decoded.is_some());
        if let (Ok(ours), Some(decoded)) = (ours, decoded) {
            assert_same_content(&ours, &decoded);
            assert_same_checks(&ours, decoded);
        }
    }

    #[test]
    fn decoding_and_encoding_again_is_the_identity(built in built_message()) {
        let bytes = built.bytes();
        let message = Message::parse(&bytes).unwrap();
        let mut again =
            Writer::new(message.class(), message.method(), message.transaction_id());
        for attribute in message.attributes() {
            again = again.attribute(attribute.kind, attribute.value);
        }
        prop_assert_eq!(again.finish(None, false), bytes);
    }

    #[test]
    fn every_truncation_is_refused(built in built_message()) {
        let bytes = built.bytes();
        for len in 0..bytes.len() {
            prop_assert!(Message::parse(&bytes[..len]).is_err(), "cut to {}", len);
        }
    }

    #[test]
    fn the_writer_writes_what_the_crate_writes(built in built_message()) {
        let ours = built.bytes();
        let mut theirs = start(built.class, Method::new(built.method), &built.id);
        for (kind, value) in &built.attributes {
            theirs.add(AttrType(*kind), value);
        }
        if let Some(key) = &built.key {
            // The crate refuses to sign behind a FINGERPRINT, which no writer of ours does.
            let before = built.attributes.iter().any(|(kind, _)| *kind == attr::FINGERPRINT);
            prop_assume!(!before);
            MessageIntegrity(key.clone()).add_to(&mut theirs).unwrap();
        }
        if built.fingerprint {
            FINGERPRINT.add_to(&mut theirs).unwrap();
        }
        prop_assert_eq!(&ours, &theirs.raw);

        let read = Message::parse(&ours).unwrap();
        let signed_before = built.attributes.iter().any(|(kind, _)| is_trailer(*kind));
        if !signed_before {
            let key = built.key.as_deref();
            prop_assert_eq!(key.and_then(|key| read.integrity_ok(key)), key.map(|_| true));
            prop_assert_eq!(read.fingerprint_ok(), built.fingerprint.then_some(true));
        }
    }

    #[test]
    fn what_is_signed_by_sha256_is_read_back_and_nothing_else_is(
        built in built_message(),
        key in any::<[u8; 32]>(),
        both: bool,
        bit in any::<prop::sample::Index>(),
    ) {
        let mut built = built;
        built.attributes.retain(|(kind, _)| !is_trailer(*kind));
        let id = TransactionId(built.id);
        let mut writer = Writer::new(built.class, Method::new(built.method), id);
        for (kind, value) in &built.attributes {
            writer = writer.attribute(*kind, value);
        }
        if both {
            writer = writer.integrity(Integrity::Sha1, KEY);
        }
        let mut bytes = writer.integrity(Integrity::Sha256, &key).finish(None, built.fingerprint);
        let message = Message::parse(&bytes).unwrap();
        prop_assert_eq!(message.integrity(), Some(Integrity::Sha256));
        prop_assert_eq!(message.integrity_ok(&key), Some(true));
        prop_assert_eq!(message.integrity_ok(KEY), Some(false));
        prop_assert_eq!(message.trusted_attributes().count(), built.attributes.len());
        prop_assert_eq!(message.fingerprint_ok(), built.fingerprint.then_some(true));

        // Whatever bit in front of FINGERPRINT is changed, the message is no more what it was.
        let end = bytes.len() - if built.fingerprint { 8 } else { 0 };
        let bit = bit.index(end * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(changed) = Message::parse(&bytes) {
            prop_assert!(changed.integrity_ok(&key) != Some(true));
        }
    }

    #[test]
    fn typed_answers_are_those_of_the_crates(
        id in any::<[u8; 12]>(),
        mapped in any_address(),
        relayed in any_address(),
        lifetime_secs in any::<u32>(),
        key in any::<[u8; 16]>(),
    ) {
        let ours = Writer::new(Class::Success, Method::ALLOCATE, TransactionId(id))
            .xor_address(attr::XOR_RELAYED_ADDRESS, relayed)
            .number(attr::LIFETIME, lifetime_secs)
            .xor_address(attr::XOR_MAPPED_ADDRESS, mapped)
            .finish(Some(&key), true);
        let theirs = build(CLASS_SUCCESS_RESPONSE, METHOD_ALLOCATE, id, &[
            &RelayedAddress { ip: relayed.ip(), port: relayed.port() },
            &Lifetime(Duration::from_secs(lifetime_secs.into())),
            &XorMappedAddress { ip: mapped.ip(), port: mapped.port() },
            &MessageIntegrity(key.to_vec()),
            &FINGERPRINT,
        ]);
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn error_answers_are_those_of_the_crates(
        id in any::<[u8; 12]>(),
        code in 300_u16..700,
        reason in "[ -~]{0,40}",
        unknown in prop::collection::vec(any::<u16>(), 0..8),
        key in any::<[u8; 16]>(),
    ) {
        let ours = Writer::new(Class::Error, Method::ALLOCATE, TransactionId(id))
            .error_code(code, &reason)
            .unknown_attributes(&unknown)
            .finish(Some(&key), false);
        let theirs = build(CLASS_ERROR_RESPONSE, METHOD_ALLOCATE, id, &[
            &ErrorCodeAttribute { code: ErrorCode(code), reason: reason.into_bytes() },
            &UnknownAttributes(unknown.into_iter().map(AttrType).collect()),
            &MessageIntegrity(key.to_vec()),
        ]);
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn answers_to_strangers_are_those_of_the_crates(
        id in any::<[u8; 12]>(),
        mapped in any_address(),
        realm in "[a-z.]{0,40}",
        nonce in "[ -~]{0,60}",
    ) {
        let ours = binding_success(TransactionId(id), mapped, true);
        let mut theirs = start(Class::Success, Method::BINDING, &id);
        XorMappedAddress { ip: mapped.ip(), port: mapped.port() }.add_to(&mut theirs).unwrap();
        FINGERPRINT.add_to(&mut theirs).unwrap();
        prop_assert_eq!(ours, theirs.raw);

        let ours =
            challenge(Method::ALLOCATE, TransactionId(id), 438, &realm, nonce.as_bytes(), false);
        let theirs = build(CLASS_ERROR_RESPONSE, METHOD_ALLOCATE, id, &[
            &ErrorCodeAttribute { code: ErrorCode(438), reason: Vec::new() },
            &TextAttribute::new(AttrType(attr::REALM), realm),
            &TextAttribute::new(AttrType(attr::NONCE), nonce),
            &RawAttribute {
                typ: AttrType(attr::PASSWORD_ALGORITHMS),
                length: 8,
                value: PASSWORD_ALGORITHMS_OFFERED.to_vec(),
            },
        ]);
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn addresses_are_read_as_the_crate_reads_them(
        id in any::<[u8; 12]>(),
        value in xor_address_value(),
    ) {
        let mut message = start(Class::Request, Method::CREATE_PERMISSION, &id);
        message.add(ATTR_XOR_PEER_ADDRESS, &value);
        let mut theirs = PeerAddress::default();
        let accepted = theirs.get_from(&message).is_ok();
        let ours = parse_xor_address(&value, &TransactionId(id));
        // The crate also takes cut addresses, and fills them up with zeros; it refuses a reserved
        // byte that is not zero, which the RFC says to ignore.
        let whole = matches!((value.len(), value.get(1)), (8, Some(1)) | (20, Some(2)));
        let reserved = value.first().is_some_and(|byte| *byte != 0);
        prop_assert_eq!(ours.is_some(), whole && (accepted || reserved));
        if let (Some(ours), true) = (ours, accepted) {
            prop_assert_eq!(ours, SocketAddr::new(theirs.ip, theirs.port));
        }
    }

    #[test]
    fn channel_data_is_read_as_the_crate_reads_it(bytes in channel_data_bytes()) {
        let mut theirs = DecodedChannelData { raw: bytes.clone(), ..Default::default() };
        let accepted = theirs.decode().is_ok();
        // The crate still knows the numbers of RFC 5766, up to 0x7FFF.
        let expected = accepted && theirs.number.0 <= 0x4FFF;
        let ours = ChannelData::parse(&bytes);
        prop_assert_eq!(ours.is_ok(), expected);
        if let Ok(ours) = ours {
            prop_assert_eq!(ours.number, theirs.number.0);
            prop_assert_eq!(&bytes[ours.payload], &theirs.data[..]);
        }
    }

    #[test]
    fn channel_data_is_written_as_the_crate_writes_it(
        number in 0x4000_u16..=0x4FFF,
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let (mut buffer, at) = with_room(&payload, 4, 0);
        let written = write_channel_data_header(&mut buffer, at, number).unwrap();
        let mut theirs = DecodedChannelData {
            data: payload.clone(),
            number: ChannelNumber(number),
            ..Default::default()
        };
        theirs.encode();
        // The crate pads, which a datagram does not need.
        prop_assert_eq!(&buffer[written], &theirs.raw[..4 + payload.len()]);
    }

    #[test]
    fn a_data_indication_is_that_of_the_crates(
        id in any::<[u8; 12]>(),
        peer in any_address(),
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let (mut buffer, at) = with_room(&payload, 48, 3);
        let written =
            write_data_indication(&mut buffer, at, peer, &TransactionId(id)).unwrap();
        let theirs = build(CLASS_INDICATION, METHOD_DATA, id, &[
            &PeerAddress { ip: peer.ip(), port: peer.port() },
            &Payload(payload),
        ]);
        prop_assert_eq!(&buffer[written], &theirs[..]);
    }

    #[test]
    fn a_send_indication_of_the_crates_is_read(
        id in any::<[u8; 12]>(),
        peer in any_address(),
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let bytes = build(CLASS_INDICATION, METHOD_SEND, id, &[
            &PeerAddress { ip: peer.ip(), port: peer.port() },
            &Payload(payload.clone()),
            &FINGERPRINT,
        ]);
        let send = SendIndication::read(&Message::parse(&bytes).unwrap(), &[]).unwrap();
        prop_assert_eq!(send.peer, peer);
        prop_assert_eq!(&bytes[send.payload], &payload[..]);
        prop_assert!(!send.dont_fragment);
    }

    #[test]
    fn a_control_message_of_the_crates_is_read(
        id in any::<[u8; 12]>(),
        peers in prop::collection::vec(any_address(), 0..4),
        protocol in any::<u8>(),
        secs in any::<u32>(),
        number in any::<u16>(),
        token in any::<[u8; 8]>(),
        v6 in any::<bool>(),
        username in "\\PC{0,30}",
    ) {
        let mut message = start(Class::Request, Method::ALLOCATE, &id);
        TextAttribute::new(AttrType(attr::USERNAME), username.clone())
            .add_to(&mut message)
            .unwrap();
        let mut transport = RequestedTransport::default();
        transport.protocol.0 = protocol;
        let setters: [&dyn Setter; 5] = [
            &transport,
            &Lifetime(Duration::from_secs(secs.into())),
            &ChannelNumber(number),
            &ReservationToken(token.to_vec()),
            &RequestedAddressFamily(if v6 { 2 } else { 1 }),
        ];
        setters.iter().for_each(|setter| setter.add_to(&mut message).unwrap());
        for peer in &peers {
            PeerAddress { ip: peer.ip(), port: peer.port() }.add_to(&mut message).unwrap();
        }

        let message = Message::parse(&message.raw).unwrap();
        prop_assert_eq!(message.first(attr::USERNAME), Some(username.as_bytes()));
        let control = Control::of(message);
        prop_assert_eq!(control.requested_transport(), Ok(Some(protocol)));
        prop_assert_eq!(control.lifetime(), Ok(Some(Duration::from_secs(secs.into()))));
        prop_assert_eq!(control.channel_number(), Ok(Some(number)));
        prop_assert_eq!(control.reservation_token(), Ok(Some(token)));
        let family = if v6 { AddressFamily::Ipv6 } else { AddressFamily::Ipv4 };
        prop_assert_eq!(control.requested_address_family(), Ok(Some(family)));
        prop_assert_eq!(control.additional_address_family(), Ok(None));
        prop_assert_eq!(control.peer_addresses().collect::<Result<Vec<_>, _>>(), Ok(peers));
    }
}

/// A failure prints its smallest input; no file of old failures is kept in the tree.
fn config() -> ProptestConfig {
    ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() }
}

/// Class, method, id and every attribute are the same.
fn assert_same_content(ours: &Message<'_>, theirs: &Decoded) {
    assert_eq!(crate_class(ours.class()), theirs.typ.class);
    assert_eq!(crate_type(ours.class(), ours.method()), theirs.typ);
    assert_eq!(ours.transaction_id().0, theirs.transaction_id.0);
    let attributes: Vec<_> = ours
        .attributes()
        // The crate reads a number of an old draft as XOR-MAPPED-ADDRESS.
        .map(|a| (if a.kind == 0x8020 { attr::XOR_MAPPED_ADDRESS } else { a.kind }, a.value))
        .collect();
    let decoded = |raw: &'_ RawAttribute| (raw.typ.value(), raw.value.clone());
    let decoded: Vec<_> = theirs.attributes.0.iter().map(decoded).collect();
    let decoded: Vec<_> = decoded.iter().map(|(kind, value)| (*kind, &value[..])).collect();
    assert_eq!(attributes, decoded);
}

/// Integrity and fingerprint are judged the same.
fn assert_same_checks(ours: &Message<'_>, mut theirs: Decoded) {
    let integrity = theirs.get(ATTR_MESSAGE_INTEGRITY).ok().map(|value| {
        let verified = MessageIntegrity(KEY.to_vec()).check(&mut theirs).is_ok();
        value.len() == 20 && verified
    });
    // The crate does not know SHA-256, which counts first.
    if ours.integrity() != Some(Integrity::Sha256) {
        assert_eq!(ours.integrity_ok(KEY), integrity);
        assert_eq!(ours.has_integrity(), integrity.is_some());
    }

    let fingerprint = ours.attributes().find(|a| a.kind == ATTR_FINGERPRINT.value());
    // The crate hashes up to the last eight bytes, wherever the attribute is.
    let expected = fingerprint.map(|attribute| {
        attribute.offset + 8 == ours.bytes().len() && FINGERPRINT.check(&theirs).is_ok()
    });
    assert_eq!(ours.fingerprint_ok(), expected);
    assert_eq!(ours.has_fingerprint(), expected.is_some());
}

const KEY: &[u8] = b"a key of tests";

/// A message that our writer is to build.
#[derive(Debug, Clone)]
struct Built {
    class: Class,
    method: u16,
    id: [u8; 12],
    attributes: Vec<(u16, Vec<u8>)>,
    key: Option<Vec<u8>>,
    fingerprint: bool,
}

impl Built {
    fn bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new(self.class, Method::new(self.method), TransactionId(self.id));
        for (kind, value) in &self.attributes {
            writer = writer.attribute(*kind, value);
        }
        writer.finish(self.key.as_deref(), self.fingerprint)
    }
}

fn built_message() -> impl Strategy<Value = Built> {
    let class =
        prop::sample::select(vec![Class::Request, Class::Indication, Class::Success, Class::Error]);
    let value = prop::collection::vec(any::<u8>(), 0..24);
    let attributes = prop::collection::vec((any_kind(), value), 0..6);
    let key = prop::option::of(Just(KEY.to_vec()));
    (class, 0_u16..0x1000, any::<[u8; 12]>(), attributes, key, any::<bool>()).prop_map(
        |(class, method, id, attributes, key, fingerprint)| Built {
            class,
            method,
            id,
            attributes,
            key,
            fingerprint,
        },
    )
}

fn any_kind() -> impl Strategy<Value = u16> {
    prop_oneof![
        8 => 0_u16..0x30,
        1 => Just(attr::MESSAGE_INTEGRITY),
        1 => Just(attr::FINGERPRINT),
        1 => Just(0x8020),
        2 => any::<u16>(),
    ]
}

/// Whole messages, messages with a few bytes changed, and noise.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let changed = (built_message(), edits, 0_usize..6, any::<bool>()).prop_map(
        |(built, edits, cut, fix_length)| {
            let mut bytes = built.bytes();
            for (index, byte) in edits {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(bytes.len() - cut);
            if let (true, Some(length)) = (fix_length, bytes.len().checked_sub(HEADER_BYTES)) {
                bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            }
            bytes
        },
    );
    prop_oneof![
        2 => built_message().prop_map(|built| built.bytes()),
        6 => changed,
        1 => prop::collection::vec(any::<u8>(), 0..64),
    ]
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn xor_address_value() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![Just(8_usize), Just(20), 0_usize..24];
    (0_u8..2, 0_u8..4, len, any::<[u8; 24]>()).prop_map(|(zero, family, len, mut value)| {
        (value[0], value[1]) = (zero, family);
        value[..len].to_vec()
    })
}

fn channel_data_bytes() -> impl Strategy<Value = Vec<u8>> {
    let rest = prop::collection::vec(any::<u8>(), 0..40);
    (0x3FF0_u16..0x8010, 0_u16..48, rest, 0_usize..4).prop_map(|(number, len, rest, cut)| {
        let header = [number.to_be_bytes(), len.to_be_bytes()].concat();
        let mut bytes = [header, rest].concat();
        bytes.truncate(bytes.len() - cut);
        bytes
    })
}

/// A dirty buffer with `payload` in it and so many bytes free around it.
fn with_room(payload: &[u8], front: usize, behind: usize) -> (Vec<u8>, Range<usize>) {
    let mut buffer = vec![0xAA; front];
    buffer.extend_from_slice(payload);
    buffer.resize(front + payload.len() + behind, 0xAA);
    (buffer, front..front + payload.len())
}

fn decode(bytes: &[u8]) -> Option<Decoded> {
    let mut decoded = Decoded::new();
    decoded.unmarshal_binary(bytes).ok().map(|()| decoded)
}

fn start(class: Class, method: Method, id: &[u8; 12]) -> Decoded {
    let mut message = Decoded::new();
    message.typ = crate_type(class, method);
    message.transaction_id = DecodedId(*id);
    message.write_header();
    message
}

fn build(
    class: MessageClass,
    method: webrtc_stun::message::Method,
    id: [u8; 12],
    setters: &[&dyn Setter],
) -> Vec<u8> {
    let mut message = Decoded::new();
    message.typ = MessageType::new(method, class);
    message.transaction_id = DecodedId(id);
    message.write_header();
    setters.iter().for_each(|setter| setter.add_to(&mut message).unwrap());
    message.raw
}

fn crate_class(class: Class) -> MessageClass {
    match class {
        Class::Request => CLASS_REQUEST,
        Class::Indication => CLASS_INDICATION,
        Class::Success => CLASS_SUCCESS_RESPONSE,
        Class::Error => CLASS_ERROR_RESPONSE,
    }
}

/// The crate has no constructor for any method, so its own reading of our number is taken; the
/// numbers themselves are tested in `header`.
fn crate_type(class: Class, method: Method) -> MessageType {
    let mut message_type = MessageType::default();
    message_type.read_value(super::header::message_type(class, method));
    message_type
}

fn is_trailer(kind: u16) -> bool {
    matches!(kind, attr::MESSAGE_INTEGRITY | attr::MESSAGE_INTEGRITY_SHA256 | attr::FINGERPRINT)
}
