//! Time-limited credentials: the username `expiry:name` and a password that follows from it.
//!
//! The scheme is the one that coturn calls `use-auth-secret`: the password is the base64 of an
//! HMAC over the username, so a server that knows the secret needs no table of users. HMAC-SHA1 is
//! what everybody else computes; HMAC-SHA256 is there for who may not use the other.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use subtle::ConstantTimeEq;

use super::Credential;
use crate::telemetry::Secret;

/// A username of the form `expiry:name`, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimited<'a> {
    /// When the credential ends, in Unix seconds.
    pub expiry_unix_secs: u64,
    /// Whom it is for: everything behind the first colon; may be empty, and may contain colons.
    pub name: &'a str,
}

impl<'a> TimeLimited<'a> {
    /// Takes `username` apart; a bare number is an expiry without a name. `None` when the part
    /// before the first colon is no decimal number.
    pub fn parse(username: &'a str) -> Option<Self> {
        let (expiry, name) = username.split_once(':').unwrap_or((username, ""));
        if expiry.is_empty() || !expiry.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Self { expiry_unix_secs: expiry.parse().ok()?, name })
    }

    /// Whether the credential has ended at `unix_secs`.
    pub const fn is_expired(self, unix_secs: u64) -> bool {
        self.expiry_unix_secs <= unix_secs
    }
}

/// What a password is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialHash {
    /// HMAC-SHA1: 28 characters.
    Sha1,
    /// HMAC-SHA256: 44 characters.
    Sha256,
}

/// The password that belongs to `username` under `secret`.
pub fn password(hash: CredentialHash, secret: &[u8], username: &str) -> Secret<String> {
    let algorithm = match hash {
        CredentialHash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        CredentialHash::Sha256 => hmac::HMAC_SHA256,
    };
    let key = hmac::Key::new(algorithm, secret);
    Secret::new(STANDARD.encode(hmac::sign(&key, username.as_bytes())))
}

/// Whether `offered` is the password of `username` under `secret`, in constant time.
pub fn verify_password(hash: CredentialHash, secret: &[u8], username: &str, offered: &str) -> bool {
    let expected = password(hash, secret, username);
    expected.expose().as_bytes().ct_eq(offered.as_bytes()).into()
}

/// The shared secrets of the configuration, and the hashes that go with them: the first of each
/// signs, all verify, so that either can be replaced while credentials of the other are still out.
#[derive(Debug, Clone)]
pub struct SharedSecrets {
    secrets: Vec<Secret<String>>,
    hashes: Vec<CredentialHash>,
}

impl Default for SharedSecrets {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl SharedSecrets {
    /// The secrets in the order of the configuration, with HMAC-SHA1.
    pub fn new(secrets: Vec<Secret<String>>) -> Self {
        Self { secrets, hashes: vec![CredentialHash::Sha1] }
    }

    /// The same secrets with these hashes; a credential of any other is refused.
    #[must_use]
    pub fn hashed_by(self, hashes: Vec<CredentialHash>) -> Self {
        Self { hashes, ..self }
    }

    /// The same secrets with the hashes of `other`.
    #[must_use]
    pub fn hashed_as(self, other: &Self) -> Self {
        Self { hashes: other.hashes.clone(), ..self }
    }

    /// These secrets and one more, which verifies and, unless it is the only one, never signs.
    #[must_use]
    pub fn and(mut self, secret: Secret<String>) -> Self {
        self.secrets.push(secret);
        self
    }

    /// Whether there is none, and so no application can sign credentials.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// A credential for `name` that ends at `expiry_unix_secs`; `None` without a secret.
    pub fn sign(&self, name: &str, expiry_unix_secs: u64) -> Option<Credential> {
        let (secret, hash) = (self.secrets.first()?, self.hashes.first()?);
        let username = format!("{expiry_unix_secs}:{name}");
        let password = password(*hash, secret.expose().as_bytes(), &username);
        Some(Credential { username, password })
    }

    /// The password of `username` under each secret and hash; the client may have used any of
    /// them.
    pub fn passwords(&self, username: &str) -> impl Iterator<Item = Secret<String>> {
        self.hashes.iter().flat_map(move |hash| {
            let secrets = self.secrets.iter();
            secrets.map(move |secret| password(*hash, secret.expose().as_bytes(), username))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usernames_come_apart_at_the_first_colon() {
        let parse = |text| TimeLimited::parse(text).map(|t| (t.expiry_unix_secs, t.name));
        assert_eq!(parse("1700000000:alice"), Some((1_700_000_000, "alice")));
        assert_eq!(parse("1700000000:a:b"), Some((1_700_000_000, "a:b")));
        assert_eq!(parse("1700000000"), Some((1_700_000_000, "")));
        assert_eq!(parse("alice"), None);
        assert_eq!(parse(":alice"), None);
        assert_eq!(parse("+17:alice"), None);
        assert_eq!(parse("99999999999999999999999:alice"), None);
    }

    #[test]
    fn the_last_second_is_already_over() {
        let limited = TimeLimited::parse("100:x").expect("a time-limited name");
        assert!(!limited.is_expired(99));
        assert!(limited.is_expired(100));
    }

    // From `printf 1700000000:alice | openssl dgst -sha1 -hmac north -binary | base64`, and from
    // the same with `-sha256`.
    #[test]
    fn the_password_is_the_one_that_openssl_computes() {
        let cases = [
            (CredentialHash::Sha1, "Cd/49soE35ICqcJF/bCTn8Z4OyE="),
            (CredentialHash::Sha256, "EuME0Xh0HllnbpbObfs8aBsd78Vr1EMwxArqbyCrGl8="),
        ];
        for (hash, expected) in cases {
            let found = password(hash, b"north", "1700000000:alice");
            assert_eq!(found.expose(), expected);
            assert!(verify_password(hash, b"north", "1700000000:alice", found.expose()));
            assert!(!verify_password(hash, b"south", "1700000000:alice", found.expose()));
            assert!(!verify_password(hash, b"north", "1700000000:alice", ""));
        }
    }

    #[test]
    fn the_first_secret_and_hash_sign_and_all_verify() {
        use CredentialHash::{Sha1, Sha256};
        let secret = |text: &str| Secret::new(text.to_owned());
        let ring = SharedSecrets::new(vec![secret("new"), secret("old")]);
        let signed = ring.sign("alice", 500).expect("a secret is there");
        assert_eq!(signed.username, "500:alice");
        assert_eq!(signed.password, password(Sha1, b"new", "500:alice"));
        let all: Vec<_> = ring.passwords("500:alice").collect();
        let by = |hash, secret: &[u8]| password(hash, secret, "500:alice");
        assert_eq!(all, [by(Sha1, b"new"), by(Sha1, b"old")]);

        let ring = ring.hashed_by(vec![Sha256, Sha1]);
        let signed = ring.sign("alice", 500).expect("a secret is there");
        assert_eq!(signed.password, by(Sha256, b"new"));
        let all: Vec<_> = ring.passwords("500:alice").collect();
        let expected = [by(Sha256, b"new"), by(Sha256, b"old"), by(Sha1, b"new"), by(Sha1, b"old")];
        assert_eq!(all, expected);

        let ring = ring.hashed_by(vec![Sha256]);
        assert!(!ring.passwords("500:alice").any(|found| found == by(Sha1, b"new")));
        assert!(SharedSecrets::default().sign("alice", 500).is_none());
    }
}
