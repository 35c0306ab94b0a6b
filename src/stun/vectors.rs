//! The test vectors of RFC 5769, read by the view, by `control` and by the `stun` crate.

use std::net::SocketAddr;

use super::control::Control;
use super::{Class, Message, Method, Writer, attr, long_term_key, parse_xor_address};

/// Section 2.1: a request with short-term credentials, padded with spaces.
const REQUEST: &str = "
    00010058 2112a442 b7e7a701 bc34d686 fa87dfae
    80220010 5354554e 20746573 7420636c 69656e74
    00240004 6e0001ff
    80290008 932ff9b1 51263b36
    00060009 6576746a 3a683676 59202020
    00080014 9aeaa70c bfd8cb56 781ef2b5 b2d3f249 c1b571a2
    80280004 e57a3bcf";

/// Section 2.2: its answer over IPv4.
const RESPONSE_V4: &str = "
    0101003c 2112a442 b7e7a701 bc34d686 fa87dfae
    8022000b 74657374 20766563 746f7220
    00200008 0001a147 e112a643
    00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7
    80280004 c07d4c96";

/// Section 2.3: its answer over IPv6.
const RESPONSE_V6: &str = "
    01010048 2112a442 b7e7a701 bc34d686 fa87dfae
    8022000b 74657374 20766563 746f7220
    00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9
    00080014 a382954e 4be67bf1 1784c97c 8292c275 bfe3ed41
    80280004 c8fb0b4c";

/// Section 2.4: a request with long-term credentials, padded with zeros.
const REQUEST_LONG_TERM: &str = "
    00010060 2112a442 78ad3433 c6ad72c0 29da412e
    00060012 e3839ee3 8388e383 aae38383 e382afe3 82b90000
    0015001c 662f2f34 39396b39 35346436 4f4c3334 6f4c3946 53547679 36347341
    0014000b 6578616d 706c652e 6f726700
    00080014 f6702465 6dd64a3e 02b8e071 2e85c9a2 8ca89666";

const PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";

#[test]
fn the_sample_request_is_read() {
    let bytes = bytes(REQUEST);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.class(), message.method()), (Class::Request, Method::BINDING));
    assert_eq!(message.first(attr::SOFTWARE), Some(&b"STUN test client"[..]));
    assert_eq!(message.first(attr::PRIORITY), Some(&[0x6e, 0x00, 0x01, 0xff][..]));
    assert_eq!(message.first(attr::USERNAME), Some(&b"evtj:h6vY"[..]));
    assert_eq!(message.unknown_required(&[attr::USERNAME]), [attr::PRIORITY]);
    assert_eq!(message.integrity_ok(PASSWORD), Some(true));
    assert_eq!(message.integrity_ok(b"another"), Some(false));
    assert_eq!(message.fingerprint_ok(), Some(true));
}

#[test]
fn the_sample_responses_are_read() {
    let samples = [
        (RESPONSE_V4, "192.0.2.1:32853"),
        (RESPONSE_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
    ];
    for (sample, mapped) in samples {
        let bytes = bytes(sample);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Success, Method::BINDING));
        assert_eq!(message.first(attr::SOFTWARE), Some(&b"test vector"[..]));
        let value = message.first(attr::XOR_MAPPED_ADDRESS).unwrap();
        let mapped: SocketAddr = mapped.parse().unwrap();
        assert_eq!(parse_xor_address(value, &message.transaction_id()), Some(mapped));
        assert_eq!(message.integrity_ok(PASSWORD), Some(true));
        assert_eq!(message.fingerprint_ok(), Some(true));
    }
}

#[test]
fn the_sample_with_a_long_term_credential_is_read_and_written() {
    let sample = bytes(REQUEST_LONG_TERM);
    let message = Message::parse(&sample).unwrap();
    let control = Control::decode(&message).unwrap();
    let username = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}";
    assert_eq!(control.username(), Ok(Some(username.to_owned())));
    assert_eq!(control.realm(), Ok(Some("example.org".to_owned())));
    let nonce = b"f//499k954d6OL34oL9FSTvy64sA";
    assert_eq!(message.first(attr::NONCE), Some(&nonce[..]));

    let key = long_term_key(username, "example.org", "TheMatrIX");
    assert_eq!(message.integrity_ok(&key), Some(true));
    assert_eq!(message.integrity_ok(&key[..15]), Some(false));
    assert_eq!(message.fingerprint_ok(), None);

    let written = Writer::new(Class::Request, Method::BINDING, message.transaction_id())
        .attribute(attr::USERNAME, username.as_bytes())
        .attribute(attr::NONCE, nonce)
        .attribute(attr::REALM, b"example.org")
        .finish(Some(&key), false);
    assert_eq!(written, sample);
}

#[test]
fn every_changed_bit_of_a_sample_breaks_integrity_or_framing() {
    for sample in [REQUEST, RESPONSE_V4, RESPONSE_V6] {
        let sample = bytes(sample);
        for bit in 0..sample.len() * 8 {
            let mut changed = sample.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let Ok(message) = Message::parse(&changed) else { continue };
            let whole = message.integrity_ok(PASSWORD) == Some(true);
            let fingerprint = message.fingerprint_ok() == Some(true);
            assert!(!(whole && fingerprint), "bit {bit}");
        }
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}
