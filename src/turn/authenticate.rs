//! The long-term credential mechanism (RFC 8489, section 9.2.4) and our three kinds of credential.
//!
//! A stranger learns nothing from the answer or from the time it takes: an unknown name is checked
//! against a key of nobody, every secret is tried even after one has matched, and one answer
//! stands for unknown, wrong, expired and revoked. What strangers cost is charged to their prefix
//! before the HMAC is computed; who sends a valid nonce, or has an allocation, is no stranger.
//!
//! A name may come hidden (USERHASH). Fixed users are known by their hash, and so is what the hub
//! has minted lately; who is vouched for by a shared secret is not, because nobody here knows that
//! name before it is used.

use std::borrow::Cow;
use std::sync::Arc;

use super::nonce::{NonceState, offers_password_algorithms};
use super::quota::Payer;
use super::reject::Why;
use super::shared::Shared;
use super::table::Allocation;
use super::{FiveTuple, Options};
use crate::credentials::{Grant, TimeLimited, USERHASH_BYTES, opaque_string, userhash};
use crate::net::Now;
use crate::stun::{
    Integrity, LongTermKeys, Message, Method, PASSWORD_ALGORITHMS_OFFERED, PasswordAlgorithm,
    Signer, attr,
};
use crate::telemetry::Secret;

/// Who sent a request, proven.
pub(super) struct Caller<'a> {
    pub(super) username: Cow<'a, str>,
    /// What the answer is signed with.
    pub(super) key: Signer,
    pub(super) holder: Holder,
}

/// What kind of credential it was.
pub(super) enum Holder {
    /// The one that the allocation of this five-tuple was made with.
    Owner,
    /// A fixed user, or one that another application vouches for.
    User(Arc<str>),
    /// A side of a link of our own hub.
    Grant(Arc<Grant>),
}

/// Why nobody is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unproven {
    /// Answered with a realm and a nonce: 401 and 438.
    Challenge(Why),
    /// Answered with a bare error.
    Refuse(Why),
    /// Not answered: the prefix has had its share.
    RateLimited,
}

/// The longest USERNAME (RFC 8489, section 14.3).
const USERNAME_BYTES_MAX: usize = 508;
/// The longest REALM and NONCE, in characters (RFC 8489, sections 14.9 and 14.10).
const REALM_CHARACTERS_MAX: usize = 127;

impl Holder {
    /// The quota that pays; none for an owner, who has paid already.
    pub(super) fn payer(&self) -> Option<Payer> {
        match self {
            Self::Owner => None,
            Self::User(name) => Some(Payer::User(Arc::clone(name))),
            Self::Grant(grant) => Some(Payer::Grant(Arc::clone(grant.name()))),
        }
    }
}

/// Proves who sent `message`; `own` is the allocation of its five-tuple.
pub(super) fn authenticate<'a>(
    shared: &Shared,
    now: Now,
    five_tuple: &FiveTuple,
    message: &Message<'a>,
    own: Option<&Allocation>,
) -> Result<Caller<'a>, Unproven> {
    let charge = || {
        let free = own.is_some() || shared.strangers.try_take(five_tuple.client.ip(), now.instant);
        if free { Ok(()) } else { Err(Unproven::RateLimited) }
    };
    // §9.2.4 step 1: neither MESSAGE-INTEGRITY nor MESSAGE-INTEGRITY-SHA256 => 401.
    if !message.has_integrity() {
        charge()?;
        return Err(Unproven::Challenge(Why::NoIntegrity));
    }
    // §9.2.4 step 2: USERNAME and USERHASH, REALM or NONCE missing => 400.
    let claim = match Claim::read(message) {
        Ok(claim) => claim,
        Err(why) => {
            charge()?;
            return Err(Unproven::Refuse(why));
        }
    };
    // The nonce is judged last but looked at first: a wrong one pays before the HMAC.
    let nonce = shared.nonces.check(claim.nonce, five_tuple.client, now.unix_secs);
    if nonce != NonceState::Valid {
        charge()?;
    }
    // §9.2.4 step 3: another choice of algorithms than the nonce was sent with => 400.
    let asked = Asked::read(message, claim.nonce).map_err(Unproven::Refuse)?;
    // §9.2.4 steps 4 and 5: unknown user or wrong integrity => 401. Of both integrities the one of
    // SHA-256 is checked.
    let attempt = Attempt { shared, now, message, algorithm: asked.algorithm };
    let own = own.filter(|own| claim.name.is_of(&own.username, &shared.options().realm));
    let proven = match own {
        Some(own) => attempt.prove_owner(claim.name, own),
        None => attempt.prove(claim.name),
    };
    let realm_ok = opaque_string(claim.realm).is_some_and(|realm| realm == shared.options().realm);
    let Some(Proven { username, keys, holder }) = proven.filter(|_| realm_ok) else {
        return Err(Unproven::Challenge(Why::WrongCredential));
    };
    // §9.2.4 step 6: the nonce is no longer valid => 438.
    if nonce != NonceState::Valid {
        return Err(Unproven::Challenge(Why::StaleNonce));
    }
    // A client that names an algorithm is to sign by SHA-256 (§9.2.5). One that does not, and signs
    // by SHA-1 alone, is unlikely to understand an answer that has only what the RFC asks for.
    let also_sha1 = message.integrity() == Some(Integrity::Sha1);
    let Asked { algorithm, integrity } = asked;
    Ok(Caller { username, key: Signer { keys, algorithm, integrity, also_sha1 }, holder })
}

/// What a request says about itself.
struct Claim<'a> {
    name: Name<'a>,
    realm: &'a str,
    nonce: &'a [u8],
}

/// Who sends a request, as it says.
#[derive(Clone, Copy)]
enum Name<'a> {
    /// USERNAME, as it came.
    Open(&'a str),
    /// USERHASH.
    Hidden(&'a [u8; USERHASH_BYTES]),
}

impl<'a> Claim<'a> {
    fn read(message: &Message<'a>) -> Result<Self, Why> {
        let (open, hidden) = (message.first(attr::USERNAME), message.first(attr::USERHASH));
        let name = open.or(hidden).ok_or(Why::IncompleteCredential)?;
        let realm = message.first(attr::REALM).ok_or(Why::IncompleteCredential)?;
        let nonce = message.first(attr::NONCE).ok_or(Why::IncompleteCredential)?;
        let text = |value| std::str::from_utf8(value).map_err(|_| Why::MalformedCredential);
        if [realm, nonce].into_iter().any(|value| characters(value) > REALM_CHARACTERS_MAX) {
            return Err(Why::MalformedCredential);
        }
        // A name in the open counts more than a hidden one: it leaves no doubt.
        let name = match open {
            Some(_) if name.len() > USERNAME_BYTES_MAX => return Err(Why::MalformedCredential),
            Some(_) => Name::Open(bare(text(name)?)),
            None => Name::Hidden(name.try_into().map_err(|_| Why::MalformedCredential)?),
        };
        Ok(Self { name, realm: bare(text(realm)?), nonce })
    }
}

/// How many characters `value` has, if it is UTF-8: one for each byte that continues none.
fn characters(value: &[u8]) -> usize {
    value.iter().filter(|byte| **byte & 0xC0 != 0x80).count()
}

/// A name or realm as it goes into the key: without trailing nulls, which padded it for RFC 3489,
/// and without quotes around it, which SIP has (RFC 8489, section 9.2.2).
fn bare(text: &str) -> &str {
    let text = text.trim_end_matches('\0');
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    inner.unwrap_or(text)
}

impl Name<'_> {
    /// Whether it is `username`, which the allocation was made with.
    fn is_of(self, username: &str, realm: &str) -> bool {
        match self {
            Self::Open(text) => {
                text == username || opaque_string(text).is_some_and(|text| text == username)
            }
            Self::Hidden(hash) => *hash == userhash(username, realm),
        }
    }
}

/// How a request is signed, and how its answer is to be.
struct Asked {
    algorithm: PasswordAlgorithm,
    integrity: Integrity,
}

impl Asked {
    /// Reads PASSWORD-ALGORITHM and PASSWORD-ALGORITHMS of a request with this nonce.
    fn read(message: &Message<'_>, nonce: &[u8]) -> Result<Self, Why> {
        let chosen = message.first(attr::PASSWORD_ALGORITHM);
        let offered = message.first(attr::PASSWORD_ALGORITHMS);
        // Step 3, first check: neither of them => as though it were MD5. The answer has
        // MESSAGE-INTEGRITY then, and MESSAGE-INTEGRITY-SHA256 in any other case.
        if chosen.is_none() && offered.is_none() {
            return Ok(Self { algorithm: PasswordAlgorithm::Md5, integrity: Integrity::Sha1 });
        }
        // Step 3, second check: both are there, the list is the one that we send, and the choice
        // is from it. Somebody on the path who wants a weaker choice cannot repair the list.
        if offers_password_algorithms(nonce)
            && (chosen.is_none() || offered != Some(&PASSWORD_ALGORITHMS_OFFERED[..]))
        {
            return Err(Why::PasswordAlgorithms);
        }
        // Without the bit in its nonce, which then is not ours, a request still says by which key
        // it is signed, so that who holds a credential is told of the nonce (438).
        let algorithm = match chosen {
            Some(value) => PasswordAlgorithm::parse(value).ok_or(Why::PasswordAlgorithms)?,
            None => PasswordAlgorithm::Md5,
        };
        Ok(Self { algorithm, integrity: Integrity::Sha256 })
    }
}

/// One attempt to prove a name.
#[derive(Clone, Copy)]
struct Attempt<'s, 'm, 'a> {
    shared: &'s Shared,
    now: Now,
    message: &'m Message<'a>,
    algorithm: PasswordAlgorithm,
}

/// A name with the keys that prove it.
struct Proven<'a> {
    username: Cow<'a, str>,
    keys: LongTermKeys,
    holder: Holder,
}

impl<'a> Attempt<'_, '_, 'a> {
    fn matches(self, keys: &LongTermKeys) -> bool {
        #[cfg(test)]
        self.shared.effort.checked();
        self.message.integrity_ok_by(keys, self.algorithm) == Some(true)
    }

    /// Whether a credential may not do any more what this request asks for. An expired credential
    /// makes no new allocation; what it has made goes on (RFC 8656 knows no expiry, and a call
    /// must not end in the middle), unless the operator is strict.
    fn is_too_late(self, limited: TimeLimited<'_>, strict: bool) -> bool {
        let asks = match self.message.method() {
            Method::ALLOCATE => true,
            Method::REFRESH => strict,
            _ => false,
        };
        asks && limited.is_expired(self.now.unix_secs)
    }

    /// The holder of an allocation goes on with the keys that made it. A grant is not bound to
    /// the clock here, however strict the operator: the hub revokes it, and that ends the
    /// allocation itself.
    fn prove_owner(self, name: Name<'a>, own: &Allocation) -> Option<Proven<'a>> {
        let username = match name {
            Name::Open(text) if *text == *own.username => Cow::Borrowed(text),
            Name::Open(_) | Name::Hidden(_) => Cow::Owned(own.username.to_string()),
        };
        let strict = self.shared.options().strict_expiry && own.grant.is_none();
        let limited = TimeLimited::parse(&username);
        let too_late = limited.is_some_and(|limited| self.is_too_late(limited, strict));
        let proven = self.matches(&own.key.keys) && !too_late;
        let keys = own.key.keys.clone();
        proven.then_some(Proven { username, keys, holder: Holder::Owner })
    }

    /// Tries every key that the name could have, all of them always. An unknown fixed user costs
    /// one HMAC like a known one; every name of the form `expiry:name` costs the same as any
    /// other, and so does every hash.
    fn prove(self, name: Name<'a>) -> Option<Proven<'a>> {
        let fixed_users = &self.shared.fixed_users;
        match name {
            Name::Open(text) => {
                let prepared = opaque_string(text).unwrap_or_default();
                let fixed = self.prove_fixed(prepared);
                // A time-limited name is what its application has signed, to the byte.
                let Some(limited) = TimeLimited::parse(text) else { return fixed };
                let live = self.shared.grants.live(limited.name);
                let grant = self.prove_grant(Cow::Borrowed(text), live);
                let signed = self.prove_signed(text, limited);
                fixed.or(grant).or(signed)
            }
            Name::Hidden(hash) => {
                let username = fixed_users.by_userhash(hash).map_or("", |name| name);
                let fixed = self.prove_fixed(Cow::Owned(username.to_owned()));
                let minted = self.shared.grants.by_userhash(hash);
                let (username, live) = minted
                    .map_or((Cow::Borrowed(NAME_OF_NO_GRANT), None), |(username, grant)| {
                        (Cow::Owned(username), Some(grant))
                    });
                fixed.or(self.prove_grant(username, live))
            }
        }
    }

    fn prove_fixed(self, username: Cow<'a, str>) -> Option<Proven<'a>> {
        let (keys, known) = self.shared.fixed_users.keys(&username);
        let matched = self.matches(keys);
        let name = known.filter(|_| matched)?;
        Some(Proven { username, keys: keys.clone(), holder: Holder::User(name) })
    }

    fn prove_grant(self, username: Cow<'a, str>, live: Option<Arc<Grant>>) -> Option<Proven<'a>> {
        let keys = self.derive(&username, &self.shared.grants.password(&username));
        let matched = self.matches(&keys);
        let too_late =
            TimeLimited::parse(&username).is_none_or(|limited| self.is_too_late(limited, false));
        let grant = live.filter(|_| matched && !too_late)?;
        Some(Proven { username, keys, holder: Holder::Grant(grant) })
    }

    fn prove_signed(self, username: &'a str, limited: TimeLimited<'_>) -> Option<Proven<'a>> {
        let options = self.shared.options();
        let too_late = self.is_too_late(limited, options.strict_expiry);
        let mut found = None;
        for password in options.shared_secrets.passwords(username) {
            let keys = self.derive(username, &password);
            if self.matches(&keys) && !too_late {
                found = Some(keys);
            }
        }
        let holder = || Holder::User(payer_name(username, limited));
        found.map(|keys| Proven { username: Cow::Borrowed(username), keys, holder: holder() })
    }

    fn derive(self, username: &str, password: &Secret<String>) -> LongTermKeys {
        #[cfg(test)]
        self.shared.effort.derived(username);
        let Options { realm, .. } = self.shared.options();
        LongTermKeys::derive(username, realm, password.expose())
    }
}

/// What it took to judge requests, in steps: a clock would tell of other threads as well.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Effort(std::sync::Mutex<Spent>);

/// An amount of [`Effort`].
#[cfg(test)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spent {
    /// How often the integrity of a message was compared with a key's.
    pub(super) checks: usize,
    /// How many keys were made of a name and a password, and the bytes of the names.
    pub(super) derivations: usize,
    pub(super) name_bytes: usize,
}

#[cfg(test)]
impl Effort {
    fn checked(&self) {
        self.0.lock().expect("one thread").checks += 1;
    }

    fn derived(&self, username: &str) {
        let mut spent = self.0.lock().expect("one thread");
        spent.derivations += 1;
        spent.name_bytes += username.len();
    }

    /// What was spent since the last call.
    pub(super) fn take(&self) -> Spent {
        std::mem::take(&mut *self.0.lock().expect("one thread"))
    }
}

/// As long as a name that the hub has minted, so that it takes as long to be refused.
const NAME_OF_NO_GRANT: &str = "0000000000:----------------------";

/// The part after the first colon. A username without one names nobody, so each is its own user:
/// otherwise all of them together would share one user's quota.
fn payer_name(username: &str, limited: TimeLimited<'_>) -> Arc<str> {
    Arc::from(if limited.name.is_empty() { username } else { limited.name })
}
