//! Who may publish: broadcast keys, and the `room_key` that proves a room is one's own. Secrets
//! are compared in constant time, and against every key, so that time tells nothing.

use subtle::{Choice, ConstantTimeEq};

use super::BroadcastKey;
use super::protocol::Code;
use crate::credentials::Entropy;
use crate::telemetry::Secret;

/// Checks the key of a broadcaster.
///
/// # Errors
/// `key-required` without a key, `bad-key` with one that admits nobody.
pub(super) fn admit(
    may_publish: bool,
    key: Option<&str>,
    keys: &[BroadcastKey],
) -> Result<(), Code> {
    if may_publish {
        return Ok(());
    }
    let key = key.ok_or(Code::KeyRequired)?;
    let matches = keys.iter().fold(Choice::from(0), |found, known| {
        // An empty key in the configuration admits nobody.
        let usable = Choice::from(u8::from(!known.key.expose().is_empty()));
        found | (usable & known.key.expose().as_bytes().ct_eq(key.as_bytes()))
    });
    if bool::from(matches) { Ok(()) } else { Err(Code::BadKey) }
}

/// Proves that a room is one's own.
#[derive(Debug, Clone)]
pub(super) struct RoomKey(Secret<String>);

impl RoomKey {
    /// Draws a key.
    pub(super) fn draw(entropy: &mut Entropy) -> Self {
        Self(Secret::new(entropy.token(16)))
    }

    /// Takes a key that a broadcaster brings from before a restart, if it could be one of ours.
    pub(super) fn adopt(text: &str) -> Option<Self> {
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let fits = (ROOM_KEY_CHARS_MIN..=ROOM_KEY_CHARS_MAX).contains(&text.len());
        (fits && text.bytes().all(letters)).then(|| Self(Secret::new(text.to_owned())))
    }

    /// Whether `offered` is this key.
    pub(super) fn matches(&self, offered: &str) -> bool {
        self.0.expose().as_bytes().ct_eq(offered.as_bytes()).into()
    }

    /// The key, for the broadcaster's `welcome`.
    pub(super) fn expose(&self) -> &str {
        self.0.expose()
    }
}

/// 128 bits in base64.
const ROOM_KEY_CHARS_MIN: usize = 22;
const ROOM_KEY_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(texts: &[&str]) -> Vec<BroadcastKey> {
        let key = |text: &&str| BroadcastKey {
            name: "a test".into(),
            key: Secret::new((*text).to_owned()),
        };
        texts.iter().map(key).collect()
    }

    #[test]
    fn any_of_the_keys_admits_and_nothing_else_does() {
        let keys = keys(&["", "first", "second"]);
        assert_eq!(admit(false, Some("second"), &keys), Ok(()));
        assert_eq!(admit(false, Some("first"), &keys), Ok(()));
        assert_eq!(admit(false, Some("third"), &keys), Err(Code::BadKey));
        assert_eq!(admit(false, Some("firs"), &keys), Err(Code::BadKey));
        assert_eq!(admit(false, Some(""), &keys), Err(Code::BadKey));
        assert_eq!(admit(false, Some("first"), &[]), Err(Code::BadKey));
        assert_eq!(admit(false, None, &keys), Err(Code::KeyRequired));
        assert_eq!(admit(true, None, &[]), Ok(()));
    }

    #[test]
    fn only_a_well_formed_room_key_is_adopted() {
        assert!(RoomKey::adopt("AAAAAAAAAAAAAAAAAAAA-_").is_some());
        assert!(RoomKey::adopt("AAAAAAAAAAAAAAAAAAAA-").is_none());
        assert!(RoomKey::adopt("AAAAAAAAAAAAAAAAAAAA-+").is_none());
        assert!(RoomKey::adopt(&"A".repeat(65)).is_none());
        let drawn = RoomKey::draw(&mut Entropy::from_seed([1; 32]));
        assert!(RoomKey::adopt(drawn.expose()).is_some_and(|key| key.matches(drawn.expose())));
        assert!(!format!("{drawn:?}").contains(drawn.expose()));
    }
}
