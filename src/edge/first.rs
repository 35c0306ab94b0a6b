//! What a connection speaks, told by its first bytes.
//!
//! | first bytes | |
//! |---|---|
//! | `16` | TLS: a record that holds a handshake |
//! | `00` or `01`, and the magic cookie at bytes 4 to 7 | TURN: a STUN request |
//! | `PRI * HTTP/2.0`, and the rest of the preface | HTTP/2 (RFC 9113, section 3.4) |
//! | anything else | HTTP/1.1, which answers rubbish by itself |
//!
//! ChannelData cannot come first, for no channel is bound yet; the first byte of a channel is that
//! of `GET` and `POST`, too. No more bytes are waited for than are needed: whatever comes after
//! the first difference changes nothing.

use crate::stun::MAGIC_COOKIE;

/// What a connection, or what is inside its TLS, speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// TLS; what is inside is looked at again.
    Tls,
    /// TURN.
    Turn,
    /// HTTP/1.1, or nothing that we know.
    Http,
    /// HTTP/2.
    Http2,
}

/// What a stream speaks that begins with `bytes`; `None` while another byte is needed. Once there
/// is an answer, it is the same for every longer beginning.
pub fn first_bytes(bytes: &[u8]) -> Option<Speaks> {
    match bytes {
        [] => None,
        [TLS_HANDSHAKE, ..] => Some(Speaks::Tls),
        [0 | 1, ..] => {
            let cookie = bytes.get(COOKIE_AT..).unwrap_or_default();
            begins(cookie, &MAGIC_COOKIE.to_be_bytes(), Speaks::Turn)
        }
        _ => begins(bytes, HTTP2_PREFACE, Speaks::Http2),
    }
}

/// `then` if `bytes` begin with `whole`, HTTP/1.1 if they differ.
fn begins(bytes: &[u8], whole: &[u8], then: Speaks) -> Option<Speaks> {
    match bytes.get(..whole.len()) {
        Some(first) if first == whole => Some(then),
        None if whole.starts_with(bytes) => None,
        _ => Some(Speaks::Http),
    }
}

/// The content type of a TLS record with a handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;
const COOKIE_AT: usize = 4;
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// No more bytes than this are ever needed.
pub const FIRST_BYTES_MAX: usize = HTTP2_PREFACE.len();

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BINDING: [u8; 20] =
        [0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

    /// The answer, and how many bytes it took.
    fn told(bytes: &[u8]) -> Option<(Speaks, usize)> {
        (0..=bytes.len()).find_map(|len| Some((first_bytes(&bytes[..len])?, len)))
    }

    #[test]
    fn each_protocol_is_known_as_soon_as_it_can_be() {
        let allocate = [&[0, 3][..], &BINDING[2..]].concat();
        let response = [&[1, 1][..], &BINDING[2..]].concat();
        let old_stun = [&BINDING[..4], b"abcdefghijklmnop"].concat();
        let cases = [
            (&b"\x16\x03\x01"[..], Some((Speaks::Tls, 1))),
            (&BINDING, Some((Speaks::Turn, 8))),
            (&allocate, Some((Speaks::Turn, 8))),
            (&response, Some((Speaks::Turn, 8))),
            // RFC 3489 had no cookie.
            (&old_stun, Some((Speaks::Http, 5))),
            (&BINDING[..7], None),
            (b"GET / HTTP/1.1", Some((Speaks::Http, 1))),
            (b"POST /", Some((Speaks::Http, 2))),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some((Speaks::Http2, 24))),
            (b"PRI * HTTP/2.0\r\n\r\nSN", Some((Speaks::Http, 20))),
            (b"PROXY TCP4 ", Some((Speaks::Http, 3))),
            (b"\r\n\r\n\0\r\nQUIT\n", Some((Speaks::Http, 1))),
            (b"\x40\x00\x00\x04", Some((Speaks::Http, 1))),
            (b"", None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(told(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        #[test]
        fn an_answer_never_changes_and_is_never_late(
            start in prop_oneof![
                Just(Vec::new()),
                Just(BINDING.to_vec()),
                Just(HTTP2_PREFACE.to_vec()),
            ],
            keep in 0usize..30,
            more in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut bytes = start;
            bytes.truncate(keep);
            bytes.extend(more);
            let answer = first_bytes(&bytes);
            prop_assert!(answer.is_some() || bytes.len() < FIRST_BYTES_MAX);
            if let Some((first, len)) = told(&bytes) {
                for len in len..=bytes.len() {
                    prop_assert_eq!(first_bytes(&bytes[..len]), Some(first));
                }
            }
        }
    }
}
