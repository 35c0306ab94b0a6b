//! The keys of a long-term credential (RFC 8489, sections 9.2.2 and 18.5), and the algorithms that
//! derive them, as PASSWORD-ALGORITHM and PASSWORD-ALGORITHMS name them.
//!
//! Texts are taken as they are: whoever configures or receives them has applied the OpaqueString
//! profile.

use std::fmt;
use std::sync::{Arc, OnceLock};

use ring::digest::{Context, Digest, SHA256};
use subtle::ConstantTimeEq;

use super::Integrity;
use super::integrity::Key;

/// How a key is derived from a password (RFC 8489, section 18.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordAlgorithm {
    /// 0x0001; also what a client means that says nothing.
    Md5,
    /// 0x0002.
    Sha256,
}

/// The value of PASSWORD-ALGORITHMS in every challenge (RFC 8489, section 14.11): the better one
/// first, because a client takes the first that it knows. Neither has parameters.
///
/// ```text
/// 0x0002 | 0 | 0x0001 | 0       algorithm (16), length of its parameters (16), twice
/// ```
pub const PASSWORD_ALGORITHMS_OFFERED: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

impl PasswordAlgorithm {
    /// Reads the value of PASSWORD-ALGORITHM; `None` unless it is one of those offered.
    pub fn parse(value: &[u8]) -> Option<Self> {
        match value {
            [0, 1, 0, 0] => Some(Self::Md5),
            [0, 2, 0, 0] => Some(Self::Sha256),
            _ => None,
        }
    }

    /// The value of PASSWORD-ALGORITHM (RFC 8489, section 14.12).
    pub const fn value(self) -> [u8; 4] {
        match self {
            Self::Md5 => [0, 1, 0, 0],
            Self::Sha256 => [0, 2, 0, 0],
        }
    }
}

/// Both keys of one credential: each request says anew by which of them it is signed, and by which
/// HMAC. What the HMACs make of them is made when it is needed for the first time, and kept. Cheap
/// to copy: all copies are one.
#[derive(Clone)]
pub struct LongTermKeys(Arc<Keys>);

struct Keys {
    md5: [u8; 16],
    sha256: [u8; 32],
    /// By algorithm and by HMAC. Nearly every credential is used with one of the four.
    ready: [OnceLock<Box<Key>>; 4],
}

impl LongTermKeys {
    /// The keys of `username` with `password` in `realm`.
    pub fn derive(username: &str, realm: &str, password: &str) -> Self {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(sha256_key(username, realm, password).as_ref());
        Self::from_raw(long_term_key(username, realm, password), sha256)
    }

    /// Keys that are no text's hash: those of nobody, drawn at random.
    pub fn from_raw(md5: [u8; 16], sha256: [u8; 32]) -> Self {
        Self(Arc::new(Keys { md5, sha256, ready: Default::default() }))
    }

    /// Makes everything ready now, so that the first request takes as long as any other.
    #[must_use]
    pub fn prepared(self) -> Self {
        for algorithm in [PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256] {
            for integrity in [Integrity::Sha1, Integrity::Sha256] {
                self.ready(algorithm, integrity);
            }
        }
        self
    }

    /// The key by `algorithm`: 16 bytes, or 32.
    pub fn by(&self, algorithm: PasswordAlgorithm) -> &[u8] {
        match algorithm {
            PasswordAlgorithm::Md5 => &self.0.md5,
            PasswordAlgorithm::Sha256 => &self.0.sha256,
        }
    }

    /// The key by `algorithm` as the HMAC of `integrity` takes it.
    pub(super) fn ready(&self, algorithm: PasswordAlgorithm, integrity: Integrity) -> &Key {
        let ready = &self.0.ready[2 * algorithm as usize + integrity as usize];
        ready.get_or_init(|| Box::new(integrity.key(self.by(algorithm))))
    }
}

/// In constant time, as keys are compared.
impl PartialEq for LongTermKeys {
    fn eq(&self, other: &Self) -> bool {
        let by = |algorithm| self.by(algorithm).ct_eq(other.by(algorithm));
        (by(PasswordAlgorithm::Md5) & by(PasswordAlgorithm::Sha256)).into()
    }
}

impl Eq for LongTermKeys {}

/// A key is as good as the password, so it never prints.
impl fmt::Debug for LongTermKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The key by MD5: of `username:realm:password` (RFC 8489, section 18.5.1.1).
pub fn long_term_key(username: &str, realm: &str, password: &str) -> [u8; 16] {
    let key = webrtc_turn::auth::generate_auth_key(username, realm, password);
    key.try_into().expect("an MD5 digest has 16 bytes")
}

/// The key by SHA-256 of the same text (RFC 8489, section 18.5.1.2).
fn sha256_key(username: &str, realm: &str, password: &str) -> Digest {
    let mut context = Context::new(&SHA256);
    for part in [username, ":", realm, ":", password] {
        context.update(part.as_bytes());
    }
    context.finish()
}

/// What an answer is signed with: the keys of who sent the request, and which of them and which
/// attribute the request asked for (RFC 8489, section 9.2.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The keys of the credential.
    pub keys: LongTermKeys,
    /// Which of them.
    pub algorithm: PasswordAlgorithm,
    /// The attribute of the answer.
    pub integrity: Integrity,
    /// Whether MESSAGE-INTEGRITY stands in front of MESSAGE-INTEGRITY-SHA256, for a client that
    /// knows no other.
    pub also_sha1: bool,
}

impl Signer {
    /// The key of the HMAC.
    #[cfg(test)]
    pub(super) fn key(&self) -> &[u8] {
        self.keys.by(self.algorithm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // From `printf %s user:realm:pass | md5sum` and `| sha256sum`; section 9.2.2 has the first.
    #[test]
    fn keys_are_the_hashes_of_name_realm_and_password() {
        let keys = LongTermKeys::derive("user", "realm", "pass");
        let hex = |key: &[u8]| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(keys.by(PasswordAlgorithm::Md5)), "8493fbc53ba582fb4c044c456bdc40eb");
        assert_eq!(hex(keys.by(PasswordAlgorithm::Sha256)), SHA256_OF_USER_REALM_PASS);
        assert_eq!(format!("{keys:?}"), "***");
    }

    #[test]
    fn keys_are_made_ready_once_for_all_copies_and_beforehand_where_asked() {
        let ready = |keys: &LongTermKeys| keys.0.ready.each_ref().map(|key| key.get().is_some());
        let keys = LongTermKeys::derive("user", "realm", "pass");
        let copy = keys.clone();
        assert_eq!(ready(&keys), [false; 4]);
        let made: *const _ = keys.ready(PasswordAlgorithm::Md5, Integrity::Sha1);
        assert_eq!(ready(&copy), [true, false, false, false]);
        assert!(std::ptr::eq(made, copy.ready(PasswordAlgorithm::Md5, Integrity::Sha1)));
        let prepared = LongTermKeys::derive("user", "realm", "pass").prepared();
        assert_eq!(ready(&prepared), [true; 4]);
        assert!(prepared == keys && keys != LongTermKeys::derive("user", "realm", "Pass"));
    }

    #[test]
    fn an_algorithm_is_read_as_it_is_written_and_nothing_else_is() {
        let mut offered = Vec::new();
        for algorithm in [PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5] {
            assert_eq!(PasswordAlgorithm::parse(&algorithm.value()), Some(algorithm));
            offered.extend(algorithm.value());
        }
        assert_eq!(offered, PASSWORD_ALGORITHMS_OFFERED);
        let refused: [&[u8]; 7] = [
            &[],
            &[0, 2],
            &[0, 2, 0],
            &[0, 0, 0, 0],
            &[0, 3, 0, 0],
            &[0, 2, 0, 4, 1, 2, 3, 4],
            &[0, 2, 0, 0, 0],
        ];
        for value in refused {
            assert_eq!(PasswordAlgorithm::parse(value), None, "{value:?}");
        }
    }

    const SHA256_OF_USER_REALM_PASS: &str =
        "07e934117abd40836e7c6329b54731b2b2d2a5f9a71f544922d75e0730d8251b";
}
