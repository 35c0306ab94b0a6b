//! The long-term credential mechanism (RFC 8489, section 9.2.4) and our three kinds of credential.
//!
//! A stranger learns nothing from the answer or from the time it takes: an unknown name is checked
//! against a key of nobody, every secret is tried even after one has matched, and one answer
//! stands for unknown, wrong, expired and revoked. What strangers cost is charged to their prefix
//! before the HMAC is computed; who sends a valid nonce, or has an allocation, is no stranger.

use std::sync::Arc;

use super::nonce::NonceState;
use super::quota::Payer;
use super::reject::Why;
use super::shared::Shared;
use super::table::Allocation;
use super::{FiveTuple, Options};
use crate::credentials::{Grant, TimeLimited};
use crate::net::Now;
use crate::stun::{Message, Method, attr, long_term_key};
use crate::telemetry::Secret;

/// Who sent a request, proven.
pub(super) struct Caller<'a> {
    pub(super) username: &'a str,
    pub(super) key: [u8; 16],
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
/// The longest REALM and NONCE (RFC 8489, sections 14.9 and 14.10).
const REALM_BYTES_MAX: usize = 763;

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
    // §9.2.4 step 1: no MESSAGE-INTEGRITY => 401.
    if !message.has_integrity() {
        charge()?;
        return Err(Unproven::Challenge(Why::NoIntegrity));
    }
    // §9.2.4 step 2: USERNAME, REALM or NONCE missing => 400.
    let Some(claim) = Claim::read(message) else {
        charge()?;
        return Err(Unproven::Refuse(Why::IncompleteCredential));
    };
    // The nonce is judged last but looked at first: a wrong one pays before the HMAC.
    let nonce = shared.nonces.check(claim.nonce, five_tuple.client, now.unix_secs);
    if nonce != NonceState::Valid {
        charge()?;
    }
    // §9.2.4 steps 4 and 5: unknown user or wrong MESSAGE-INTEGRITY => 401.
    let proven = match own.filter(|own| own.username.as_bytes() == claim.username) {
        Some(own) => prove_owner(own, message),
        None => prove(shared, now, message, claim.username),
    };
    let realm_ok = claim.realm == shared.options().realm.as_bytes();
    let Some(caller) = proven.filter(|_| realm_ok) else {
        return Err(Unproven::Challenge(Why::WrongCredential));
    };
    // §9.2.4 step 6: the nonce is no longer valid => 438.
    if nonce != NonceState::Valid {
        return Err(Unproven::Challenge(Why::StaleNonce));
    }
    Ok(caller)
}

/// What a request says about itself.
struct Claim<'a> {
    username: &'a [u8],
    realm: &'a [u8],
    nonce: &'a [u8],
}

impl<'a> Claim<'a> {
    fn read(message: &Message<'a>) -> Option<Self> {
        let claim = Self {
            username: message.first(attr::USERNAME)?,
            realm: message.first(attr::REALM)?,
            nonce: message.first(attr::NONCE)?,
        };
        let fits = claim.username.len() <= USERNAME_BYTES_MAX
            && claim.realm.len() <= REALM_BYTES_MAX
            && claim.nonce.len() <= REALM_BYTES_MAX;
        fits.then_some(claim)
    }
}

/// The holder of an allocation goes on with the key that made it, also when his credential has
/// expired since: a call is not cut off in the middle. Revocation ends the allocation itself.
fn prove_owner<'a>(own: &Allocation, message: &Message<'a>) -> Option<Caller<'a>> {
    let username = std::str::from_utf8(message.first(attr::USERNAME)?).ok()?;
    let proven = message.integrity_ok(&own.key)?;
    proven.then_some(Caller { username, key: own.key, holder: Holder::Owner })
}

/// Tries every key that the name could have, all of them always. An unknown fixed user costs one
/// HMAC like a known one; every name of the form `expiry:name` costs the same as any other.
fn prove<'a>(
    shared: &Shared,
    now: Now,
    message: &Message<'a>,
    username: &'a [u8],
) -> Option<Caller<'a>> {
    let username = std::str::from_utf8(username).unwrap_or_default();
    let matches = |key: &[u8; 16]| message.integrity_ok(key) == Some(true);
    let mut found = None;

    let (key, fixed) = shared.fixed_users.key(username);
    let matched = matches(&key);
    if let Some(name) = fixed.filter(|_| matched) {
        found = Some((key, Holder::User(name)));
    }
    let Some(limited) = TimeLimited::parse(username) else {
        return found.map(|(key, holder)| Caller { username, key, holder });
    };
    // An expired credential makes no new allocation; what it has made goes on (RFC 8656 knows no
    // expiry, and a call must not end in the middle).
    let expired = limited.is_expired(now.unix_secs) && message.method() == Method::ALLOCATE;

    let grant = shared.grants.live(limited.name);
    let key = derived_key(shared.options(), username, &shared.grants.password(username));
    let matched = matches(&key) && !expired;
    if let Some(grant) = grant.filter(|_| matched) {
        found = found.or(Some((key, Holder::Grant(grant))));
    }
    for password in shared.options().shared_secrets.passwords(username) {
        let key = derived_key(shared.options(), username, &password);
        if matches(&key) && !expired {
            found = found.or_else(|| Some((key, Holder::User(payer_name(username, limited)))));
        }
    }
    found.map(|(key, holder)| Caller { username, key, holder })
}

fn derived_key(options: &Options, username: &str, password: &Secret<String>) -> [u8; 16] {
    long_term_key(username, &options.realm, password.expose())
}

/// The part after the first colon. A username without one names nobody, so each is its own user:
/// otherwise all of them together would share one user's quota.
fn payer_name(username: &str, limited: TimeLimited<'_>) -> Arc<str> {
    Arc::from(if limited.name.is_empty() { username } else { limited.name })
}
