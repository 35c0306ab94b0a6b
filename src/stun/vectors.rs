//! The test vectors of RFC 5769 and of RFC 8489, appendix B, read by the view, by `control` and by
//! the `stun` crate.

use std::net::SocketAddr;

use ring::hmac;

use super::{
    Class, DecodeError, Integrity, LongTermKeys, Message, Method, PasswordAlgorithm, Writer, attr,
    long_term_key, parse_xor_address,
};

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

/// RFC 8489, appendix B.1: a request with USERHASH and MESSAGE-INTEGRITY-SHA256.
const REQUEST_SHA256: &str = "
    0001009c 2112a442 78ad3433 c6ad72c0 29da412e
    001e0020 4a3cf38f ef6992bd a952c678 0417da0f 24819415 569e60b2 05c46e41 407f1704
    00150029 6f624d61 744a6f73 32414141 43662f2f 3439396b 39353464 364f4c33 346f4c39 46535476
             79363473 41000000
    0014000b 6578616d 706c652e 6f726700
    001c0020 e4686c8f 0edeb590 13e07090 010a93ef ccbccc54 4c0a45d9 f830aa6d 6f735a01";

/// Its HMAC under the right length, by Python's `hmac`.
const TAG_CORRECTED: &str =
    "234112fb d4e27f98 3eb40328 36f99821 6f5b23f8 d927753f bc4f882b fbdf0dec";

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
    let username = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}";
    assert_eq!(message.first(attr::USERNAME), Some(username.as_bytes()));
    assert_eq!(message.first(attr::REALM), Some(&b"example.org"[..]));
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

/// The sample counts its own header in the length field (0x9c in place of 0x88), under which its
/// HMAC was computed, too; so it is no message, and shows the key and the userhash only.
#[test]
fn the_sample_with_sha256_is_refused_as_printed_and_read_when_corrected() {
    let mut sample = bytes(REQUEST_SHA256);
    assert_eq!(Message::parse(&sample).err(), Some(DecodeError::Length));
    let username = "\u{30de}\u{30c8}\u{30ea}\u{30c3}\u{30af}\u{30b9}";
    let keys = LongTermKeys::derive(username, "example.org", "TheMatrIX");
    let key = keys.by(PasswordAlgorithm::Sha256);
    let (covered, tag) = sample.split_at(sample.len() - 36);
    let sha256 = hmac::Key::new(hmac::HMAC_SHA256, key);
    assert_eq!(hmac::sign(&sha256, covered).as_ref(), &tag[4..]);

    let corrected = bytes(TAG_CORRECTED);
    let at = sample.len() - corrected.len();
    sample[3] = 0x88;
    sample[at..].copy_from_slice(&corrected);
    let message = Message::parse(&sample).unwrap();
    assert_eq!(message.first(attr::REALM), Some(&b"example.org"[..]));
    let nonce = message.first(attr::NONCE).unwrap();
    assert_eq!(nonce, b"obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA");
    assert_eq!(message.integrity(), Some(Integrity::Sha256));
    assert_eq!(message.integrity_ok(key), Some(true));
    assert_eq!(message.integrity_ok(keys.by(PasswordAlgorithm::Md5)), Some(false));

    let written = Writer::new(Class::Request, Method::BINDING, message.transaction_id())
        .attribute(attr::USERHASH, message.first(attr::USERHASH).unwrap())
        .attribute(attr::NONCE, nonce)
        .attribute(attr::REALM, b"example.org")
        .integrity(Integrity::Sha256, key)
        .finish(None, false);
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
