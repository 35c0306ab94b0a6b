//! The readers of datagrams.

use turncast::stun::control::Control;
use turncast::stun::{
    ChannelData, FRAME_BYTES_MAX, Framer, Kind, MAGIC_COOKIE, Message, SendIndication,
    UNKNOWN_ATTRIBUTES_MAX, attr, classify, long_term_key, parse_xor_address,
};

/// The view of a STUN message and everything it tells.
pub fn stun_message(input: &[u8]) {
    let Ok(message) = Message::parse(input) else { return };
    assert_ne!(classify(input), Kind::ChannelData, "nothing is both");
    assert_eq!(message.bytes(), input);
    let mut end = 0;
    for attribute in message.attributes() {
        let range = attribute.value_range();
        assert!(end <= attribute.offset && range.end <= input.len(), "attributes overlap");
        assert_eq!(&input[range.clone()], attribute.value);
        end = range.end;
        let _ = parse_xor_address(attribute.value, &message.transaction_id());
    }
    assert!(message.trusted_attributes().count() <= message.attributes().count());
    assert!(message.unknown_required(&[]).len() <= UNKNOWN_ATTRIBUTES_MAX);
    assert_eq!(message.fingerprint_ok().is_some(), message.has_fingerprint());
    assert_eq!(message.integrity_ok(b"key").is_some(), message.has_integrity());
    if let Ok(indication) = SendIndication::read(&message, &[]) {
        assert!(indication.payload.end <= input.len());
    }
}

/// ChannelData.
pub fn channel_data(input: &[u8]) {
    let Ok(channel_data) = ChannelData::parse(input) else { return };
    assert_eq!(classify(input), Kind::ChannelData);
    assert!((0x4000..=0x4FFF).contains(&channel_data.number));
    assert_eq!(channel_data.payload.start, 4);
    assert!(channel_data.payload.end <= input.len());
}

/// A stream of messages, once as it is and once in pieces of as many bytes as its first one says.
pub fn stream(input: &[u8]) {
    let whole = messages(input, input.len().max(1));
    let piece = usize::from(input.first().copied().unwrap_or(1)).max(1);
    assert_eq!(messages(input, piece), whole, "how bytes arrive changes nothing");
}

/// The messages of a stream, and whether it was one to its end.
fn messages(input: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
    let (mut framer, mut found, mut rest) = (Framer::new(), Vec::new(), input);
    while !rest.is_empty() {
        let space = framer.space();
        assert!(!space.is_empty(), "a read of nothing looks like the end");
        let count = piece.min(space.len()).min(rest.len());
        space[..count].copy_from_slice(&rest[..count]);
        framer.filled(count);
        rest = &rest[count..];
        loop {
            match framer.next_message() {
                Ok(Some(message)) => {
                    assert!(message.len() <= FRAME_BYTES_MAX);
                    let is_other = (0x04..0x40).contains(&message[0]);
                    assert!(!is_other || message[4..8] == MAGIC_COOKIE.to_be_bytes(), "not STUN");
                    found.push(message.to_vec());
                }
                Ok(None) => break,
                Err(_) => return (found, false),
            }
        }
    }
    (found, true)
}

/// The attributes of requests.
pub fn control(input: &[u8]) {
    let Ok(message) = Message::parse(input) else { return };
    let control = Control::of(message);
    let text = |kind| message.first(kind).and_then(|value| std::str::from_utf8(value).ok());
    if let (Some(username), Some(realm)) = (text(attr::USERNAME), text(attr::REALM)) {
        let _ = long_term_key(username, realm, "password");
    }
    let _ = (control.lifetime(), control.requested_transport(), control.channel_number());
    let _ = (control.reservation_token(), control.even_port(), control.dont_fragment());
    let _ = (control.requested_address_family(), control.additional_address_family());
    assert!(control.peer_addresses().count() <= input.len() / 8, "addresses out of nothing");
    let _ = control.peer_address();
}
