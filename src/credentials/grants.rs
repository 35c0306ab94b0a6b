//! Grants: what a credential of our own hub may do, and the table of those that are alive.
//!
//! A grant belongs to one side of one link. It names the room, outside of which it reaches none
//! of our relayed addresses, and the peers' addresses that were signaled to that side; any other
//! peer is refused. Removing it from the table makes its credentials worthless at once.
//!
//! A client that hides its name sends a hash of the username (USERHASH), expiry included, from
//! which neither can be computed. So the table remembers which usernames were minted: the latest
//! [`USERHASHES_MAX`] of each live grant.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock, RwLock};

use super::{Credential, CredentialHash, Entropy, USERHASH_BYTES, password, userhash};
use crate::telemetry::Secret;

/// How many addresses a scope holds; more are refused.
pub const SCOPE_ADDRESSES_MAX: usize = 32;

/// How many usernames of one grant are remembered by their hash: a side of a link has one in use
/// and one that is about to replace it, so older ones are nobody's; by name they still work.
pub const USERHASHES_MAX: usize = 4;

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
    /// The realm of the relay, as soon as there is one: usernames are hashed with it.
    realm: OnceLock<String>,
    table: RwLock<Table>,
}

#[derive(Default)]
struct Table {
    live: HashMap<GrantName, Live>,
    /// The grant and the expiry behind each hash of [`Live::minted`], and no other.
    by_userhash: HashMap<Userhash, (GrantName, u64)>,
}

struct Live {
    grant: Arc<Grant>,
    /// The hashes of the latest usernames, the oldest first.
    minted: Vec<Userhash>,
}

type Userhash = [u8; USERHASH_BYTES];

impl Grants {
    /// An empty table whose credentials are signed with `key`.
    pub fn new(key: Secret<[u8; 32]>) -> Self {
        Self { key, realm: OnceLock::new(), table: RwLock::default() }
    }

    /// Usernames that are minted from now on are known by their hash in `realm`, too. The relay
    /// says this once, before the hub mints; a second realm is ignored.
    pub fn hash_usernames(&self, realm: &str) {
        self.realm.get_or_init(|| realm.to_owned());
    }

    /// Makes a grant with an empty scope.
    pub fn issue(&self, room: RoomTag, entropy: &mut Entropy) -> Arc<Grant> {
        let grant = Arc::new(Grant {
            name: entropy.token(16).into(),
            room,
            scope: RwLock::new(Vec::new()),
        });
        let live = Live { grant: Arc::clone(&grant), minted: Vec::new() };
        self.write().live.insert(Arc::clone(&grant.name), live);
        grant
    }

    /// A credential of `grant` that ends at `expiry_unix_secs`.
    pub fn credential(&self, grant: &Grant, expiry_unix_secs: u64) -> Credential {
        let username = username(expiry_unix_secs, &grant.name);
        if let Some(realm) = self.realm.get() {
            let hash = userhash(&username, realm);
            self.write().remember(&grant.name, expiry_unix_secs, hash);
        }
        let password = self.password(&username);
        Credential { username, password }
    }

    /// The password that a credential of a grant with this username has, alive or not.
    pub fn password(&self, username: &str) -> Secret<String> {
        password(CredentialHash::Sha256, self.key.expose(), username)
    }

    /// The live grant of that name.
    pub fn live(&self, name: &str) -> Option<Arc<Grant>> {
        read(&self.table).live.get(name).map(|live| Arc::clone(&live.grant))
    }

    /// The username behind `hash` and its live grant, if it is one of the latest minted.
    pub fn by_userhash(&self, hash: &[u8; USERHASH_BYTES]) -> Option<(String, Arc<Grant>)> {
        let table = read(&self.table);
        let (name, expiry_unix_secs) = table.by_userhash.get(hash)?;
        let grant = Arc::clone(&table.live.get(name)?.grant);
        Some((username(*expiry_unix_secs, name), grant))
    }

    /// The number of live grants.
    pub fn count(&self) -> usize {
        read(&self.table).live.len()
    }

    /// Removes the grant: from now on its credentials are refused. The caller then ends its
    /// allocations on every worker. Returns whether it was there.
    pub fn revoke(&self, name: &str) -> bool {
        let mut table = self.write();
        let Some(live) = table.live.remove(name) else { return false };
        for hash in live.minted {
            table.by_userhash.remove(&hash);
        }
        true
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        match self.table.write() {
            Ok(table) => table,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

impl Table {
    /// Notes a username of a live grant; the oldest one makes room.
    fn remember(&mut self, name: &str, expiry_unix_secs: u64, hash: Userhash) {
        let Some(live) = self.live.get_mut(name) else { return };
        if live.minted.contains(&hash) {
            return;
        }
        if live.minted.len() == USERHASHES_MAX {
            let oldest = live.minted.remove(0);
            self.by_userhash.remove(&oldest);
        }
        live.minted.push(hash);
        self.by_userhash.insert(hash, (Arc::clone(&live.grant.name), expiry_unix_secs));
    }
}

fn username(expiry_unix_secs: u64, name: &str) -> String {
    format!("{expiry_unix_secs}:{name}")
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
        let (username, password) = (&credential.username, credential.password.expose());
        assert!(verify_password(CredentialHash::Sha256, &[9; 32], username, password));
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
    fn the_latest_usernames_of_a_live_grant_are_known_by_their_hash() {
        let (grants, mut entropy) = table();
        let room = RoomTag::draw(&mut entropy);
        let grant = grants.issue(room, &mut entropy);
        let hash = |expiry: u64| userhash(&username(expiry, &grant.name), "example.org");
        // Without a realm there is nothing to hash with.
        grants.credential(&grant, 99);
        grants.hash_usernames("example.org");
        grants.hash_usernames("elsewhere");
        assert!(grants.by_userhash(&hash(99)).is_none());

        for expiry in 100..110 {
            for _ in 0..2 {
                let credential = grants.credential(&grant, expiry);
                let (name, found) = grants.by_userhash(&hash(expiry)).expect("just minted");
                assert_eq!(name, credential.username);
                assert_eq!(found.name(), grant.name());
            }
        }
        let known = (0..200).filter(|expiry| grants.by_userhash(&hash(*expiry)).is_some());
        assert!(known.eq(106..110));
        let sizes = || (read(&grants.table).live.len(), read(&grants.table).by_userhash.len());
        assert_eq!(sizes(), (1, USERHASHES_MAX));

        assert!(grants.revoke(&grant.name));
        assert!(grants.by_userhash(&hash(109)).is_none());
        grants.credential(&grant, 200);
        assert_eq!(sizes(), (0, 0));
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
