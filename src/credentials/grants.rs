//! Grants: what a credential of our own hub may do, and the table of those that are alive.
//!
//! A grant belongs to one side of one link. It names the room, outside of which it reaches none
//! of our relayed addresses, and the peers' addresses that were signaled to that side; any other
//! peer is refused. Removing it from the table makes its credentials worthless at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, RwLock};

use super::{Credential, Entropy, password};
use crate::telemetry::Secret;

/// How many addresses a scope holds; more are refused.
pub const SCOPE_ADDRESSES_MAX: usize = 32;

/// The name of a grant: what stands behind the colon in its usernames. Unguessable.
pub type GrantName = Arc<str>;

/// Tells rooms apart on the relay, which knows nothing else of them. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RoomTag(std::num::NonZeroU64);

impl RoomTag {
    /// Draws a tag; 2^64 of them make a collision a matter of theory.
    pub fn draw(entropy: &mut Entropy) -> Self {
        loop {
            if let Some(tag) = std::num::NonZeroU64::new(entropy.u64()) {
                return Self(tag);
            }
        }
    }

    /// The tag as a number that is not 0.
    pub const fn number(self) -> u64 {
        self.0.get()
    }
}

/// The scope of a grant is full: [`SCOPE_ADDRESSES_MAX`] addresses are in it already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the scope of this credential holds {SCOPE_ADDRESSES_MAX} addresses already")]
pub struct ScopeFull;

/// What one hub credential may do.
#[derive(Debug)]
pub struct Grant {
    name: GrantName,
    room: RoomTag,
    scope: RwLock<Vec<IpAddr>>,
}

impl Grant {
    /// The part of the username behind the colon.
    pub fn name(&self) -> &GrantName {
        &self.name
    }

    /// The room outside of which the grant reaches none of our relayed addresses.
    pub const fn room(&self) -> RoomTag {
        self.room
    }

    /// Whether `peer`, in canonical form, was signaled to this side.
    pub fn reaches(&self, peer: IpAddr) -> bool {
        read(&self.scope).contains(&peer)
    }

    /// Adds `peer` to the scope; in force on every worker when this returns.
    ///
    /// # Errors
    /// [`ScopeFull`] when a new address does not fit.
    pub fn allow(&self, peer: IpAddr) -> Result<(), ScopeFull> {
        let mut scope = match self.scope.write() {
            Ok(scope) => scope,
            Err(poisoned) => poisoned.into_inner(),
        };
        if scope.contains(&peer) {
            return Ok(());
        }
        if scope.len() >= SCOPE_ADDRESSES_MAX {
            return Err(ScopeFull);
        }
        scope.push(peer);
        Ok(())
    }
}

/// The table of live grants, shared by the hub, which writes it, and the relay, which reads it.
pub struct Grants {
    key: Secret<[u8; 32]>,
    live: RwLock<HashMap<GrantName, Arc<Grant>>>,
}

impl Grants {
    /// An empty table whose credentials are signed with `key`.
    pub fn new(key: Secret<[u8; 32]>) -> Self {
        Self { key, live: RwLock::new(HashMap::new()) }
    }

    /// Makes a grant with an empty scope.
    pub fn issue(&self, room: RoomTag, entropy: &mut Entropy) -> Arc<Grant> {
        let grant = Arc::new(Grant {
            name: entropy.token(16).into(),
            room,
            scope: RwLock::new(Vec::new()),
        });
        self.write().insert(Arc::clone(&grant.name), Arc::clone(&grant));
        grant
    }

    /// A credential of `grant` that ends at `expiry_unix_secs`.
    pub fn credential(&self, grant: &Grant, expiry_unix_secs: u64) -> Credential {
        let username = format!("{expiry_unix_secs}:{}", grant.name);
        let password = self.password(&username);
        Credential { username, password }
    }

    /// The password that a credential of a grant with this username has, alive or not.
    pub fn password(&self, username: &str) -> Secret<String> {
        password(self.key.expose(), username)
    }

    /// The live grant of that name.
    pub fn live(&self, name: &str) -> Option<Arc<Grant>> {
        read(&self.live).get(name).cloned()
    }

    /// The number of live grants.
    pub fn count(&self) -> usize {
        read(&self.live).len()
    }

    /// Removes the grant: from now on its credentials are refused. The caller then ends its
    /// allocations on every worker. Returns whether it was there.
    pub fn revoke(&self, name: &str) -> bool {
        self.write().remove(name).is_some()
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<GrantName, Arc<Grant>>> {
        match self.live.write() {
            Ok(live) => live,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

/// A panic elsewhere leaves these tables whole, so a poisoned lock is no reason to stop serving.
fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    match lock.read() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::{TimeLimited, verify_password};

    fn table() -> (Grants, Entropy) {
        (Grants::new(Secret::new([9; 32])), Entropy::from_seed([1; 32]))
    }

    #[test]
    fn a_grant_lives_until_it_is_revoked() {
        let (grants, mut entropy) = table();
        let room = RoomTag::draw(&mut entropy);
        let grant = grants.issue(room, &mut entropy);
        let credential = grants.credential(&grant, 500);
        let limited = TimeLimited::parse(&credential.username).expect("a time-limited name");
        assert_eq!(limited.expiry_unix_secs, 500);
        let found = grants.live(limited.name).expect("the grant lives");
        assert_eq!(found.room(), room);
        assert!(verify_password(&[9; 32], &credential.username, credential.password.expose()));
        assert!(grants.revoke(limited.name));
        assert!(grants.live(limited.name).is_none());
        assert!(!grants.revoke(limited.name));
        assert_eq!(grants.count(), 0);
    }

    #[test]
    fn a_scope_holds_32_addresses_and_refuses_more() {
        let (grants, mut entropy) = table();
        let room = RoomTag::draw(&mut entropy);
        let grant = grants.issue(room, &mut entropy);
        for last in 0..32 {
            let peer = IpAddr::from([192, 0, 2, last]);
            assert!(!grant.reaches(peer));
            assert_eq!(grant.allow(peer), Ok(()));
            assert!(grant.reaches(peer));
        }
        assert_eq!(grant.allow(IpAddr::from([192, 0, 2, 0])), Ok(()));
        assert_eq!(grant.allow(IpAddr::from([192, 0, 2, 99])), Err(ScopeFull));
        assert!(!grant.reaches(IpAddr::from([192, 0, 2, 99])));
    }

    #[test]
    fn a_secret_never_prints() {
        let (grants, mut entropy) = table();
        let room = RoomTag::draw(&mut entropy);
        let grant = grants.issue(room, &mut entropy);
        let credential = grants.credential(&grant, 500);
        let printed = format!("{credential:?}");
        assert!(printed.contains("***") && !printed.contains(credential.password.expose()));
    }
}
