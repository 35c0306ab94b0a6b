//! Names as the wire has them: the OpaqueString profile, and the hash that hides a name.

use std::borrow::Cow;

use precis_profiles::OpaqueString;
use precis_profiles::precis_core::profile::PrecisFastInvocation as _;
use ring::digest::{Context, SHA256};

/// The size of USERHASH (RFC 8489, section 14.4).
pub const USERHASH_BYTES: usize = 32;

/// `text` by the OpaqueString profile (RFC 8265, section 4.2): other spaces become U+0020, the rest
/// is composed (NFC). `None` for what the profile refuses: nothing at all, control characters,
/// characters that are not assigned or not to be seen.
pub fn opaque_string(text: &str) -> Option<Cow<'_, str>> {
    // Printable ASCII is as it should be, and nearly every name is that.
    if !text.is_empty() && text.bytes().all(|byte| (0x20..0x7F).contains(&byte)) {
        return Some(Cow::Borrowed(text));
    }
    OpaqueString::enforce(text).ok()
}

/// The USERHASH of `username` in `realm`, both prepared by [`opaque_string`]: SHA-256 of
/// `username:realm` (RFC 8489, section 14.4).
pub fn userhash(username: &str, realm: &str) -> [u8; USERHASH_BYTES] {
    let mut context = Context::new(&SHA256);
    for part in [username, ":", realm] {
        context.update(part.as_bytes());
    }
    let mut hash = [0; USERHASH_BYTES];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_prepared_as_rfc_8265_says() {
        let prepared = |text| opaque_string(text).map(Cow::into_owned);
        let cases = [
            ("alice", Some("alice")),
            ("correct horse", Some("correct horse")),
            // NFC, and no other mapping: compatibility forms and case stay (section 4.2.1).
            ("Ame\u{301}lie", Some("Am\u{e9}lie")),
            ("M\u{aa}tr\u{2168}", Some("M\u{aa}tr\u{2168}")),
            // Other spaces become U+0020.
            ("a\u{3000}b\u{a0}c", Some("a b c")),
            // Refused: nothing, controls, what cannot be seen, what is not assigned.
            ("", None),
            ("a\u{7}b", None),
            ("a\u{7f}b", None),
            ("The\u{ad}name", None),
            ("a\u{378}b", None),
        ];
        for (text, expected) in cases {
            assert_eq!(prepared(text).as_deref(), expected, "{text:?}");
        }
    }

    // RFC 8489, appendix B.1.
    #[test]
    fn the_userhash_is_that_of_the_rfc() {
        let hash = userhash("\u{30de}\u{30c8}\u{30ea}\u{30c3}\u{30af}\u{30b9}", "example.org");
        assert_eq!(hash[..8], [0x4a, 0x3c, 0xf3, 0x8f, 0xef, 0x69, 0x92, 0xbd]);
        assert_eq!(hash[24..], [0x05, 0xc4, 0x6e, 0x41, 0x40, 0x7f, 0x17, 0x04]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn whatever_a_client_calls_itself_is_prepared_once_and_for_all(text in ".{0,40}") {
            if let Some(once) = opaque_string(&text) {
                let twice = opaque_string(&once);
                prop_assert_eq!(twice.as_deref(), Some(&*once));
            }
        }

        #[test]
        fn any_characters_are_prepared_without_a_panic(
            text in prop::collection::vec(any::<char>(), 0..60),
        ) {
            let text: String = text.into_iter().collect();
            let _ = opaque_string(&text);
        }
    }
}
