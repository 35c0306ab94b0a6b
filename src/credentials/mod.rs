//! What lets a client in, and what it may do then.
//!
//! Three kinds of credential meet here: *fixed users* of the configuration, *time-limited* ones
//! that another application signs with a shared secret (`expiry:name`, base64 of an HMAC), and
//! *grants*: time-limited ones of our own hub, one per side of a link, signed with a key of their
//! own and narrowed to the addresses that were signaled to that side. The hub mints grants, the
//! relay honours them; neither knows the other. No clock, no randomness and no I/O of its own.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod entropy;
mod grants;
mod text;
mod time_limited;

pub use entropy::Entropy;
pub use grants::{
    Grant, GrantName, Grants, RoomTag, SCOPE_ADDRESSES_MAX, ScopeFull, USERHASHES_MAX,
};
pub use text::{USERHASH_BYTES, opaque_string, userhash};
pub use time_limited::{CredentialHash, SharedSecrets, TimeLimited, password, verify_password};

use crate::telemetry::Secret;

/// A TURN credential as it is handed to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// `expiry:name`, where expiry is in Unix seconds.
    pub username: String,
    /// Base64 of the HMAC of the username.
    pub password: Secret<String>,
}
