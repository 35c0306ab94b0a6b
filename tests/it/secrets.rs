//! The secrets with which other applications sign credentials: how they are changed without a
//! moment in which somebody is locked out, and which hash is believed.

use turncast::credentials::{CredentialHash, password};

use crate::harness::{DEADLINE, Daemon, Setup};
use crate::relay::client::Client;

/// What an Allocate says to a credential for `secs` that is signed so.
fn allocate(daemon: &Daemon, hash: CredentialHash, secret: &str, secs: u64) -> Result<Client, u16> {
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let name = format!("{}:bob", now + secs);
    let password = password(hash, secret.as_bytes(), &name);
    let mut client = Client::new(daemon.turn(), &name, password.expose());
    client.allocate().map(|_| client)
}

fn start(lines: &str) -> Daemon {
    Setup::new(&format!("[turn]\n{lines}\n")).start()
}

#[test]
fn two_secrets_are_good_at_once_while_one_is_rotated_out() {
    let (sha1, new, old) =
        (CredentialHash::Sha1, "a-new-secret-of-a-test", "an-old-secret-of-a-test");
    let both = start(&format!("shared_secret = [\"{new}\", \"{old}\"]"));
    for secret in [new, old] {
        allocate(&both, sha1, secret, 600).expect("a credential of either secret");
    }
    assert_eq!(allocate(&both, sha1, "another-secret", 600).err(), Some(401));
    both.stop();
    let after = start(&format!("shared_secret = \"{new}\""));
    allocate(&after, sha1, new, 600).expect("a credential of the new secret");
    assert_eq!(allocate(&after, sha1, old, 600).err(), Some(401));
    after.stop();
}

#[test]
fn a_hash_is_good_when_it_is_named() {
    let secret = "a-shared-secret-of-a-test";
    for (line, sha1, sha256) in [
        ("", true, false),
        ("credential_hash = \"sha256\"", false, true),
        ("credential_hash = [\"sha256\", \"sha1\"]", true, true),
    ] {
        let daemon = start(&format!("shared_secret = \"{secret}\"\n{line}"));
        let good = |hash| allocate(&daemon, hash, secret, 600).is_ok();
        assert_eq!(
            (good(CredentialHash::Sha1), good(CredentialHash::Sha256)),
            (sha1, sha256),
            "{line}"
        );
        daemon.stop();
    }
}

#[test]
fn an_expiry_stops_new_allocations_and_refreshes_when_it_is_strict() {
    let secret = "a-shared-secret-of-a-test";
    for strict in [false, true] {
        let lines = format!("shared_secret = \"{secret}\"\nstrict_expiry = {strict}");
        let daemon = start(&lines);
        let mut client = allocate(&daemon, CredentialHash::Sha1, secret, 2).expect("in time");
        client.refresh(600).expect("in time");
        // Until the clock has passed the expiry, which a new allocation shows.
        let begin = std::time::Instant::now();
        let expiry = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs() + 3;
        while std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs() < expiry {
            std::thread::yield_now();
            assert!(begin.elapsed() < DEADLINE, "the clock stands still");
        }
        assert_eq!(client.refresh(600).is_err(), strict);
        assert_eq!(allocate(&daemon, CredentialHash::Sha1, secret, 0).err(), Some(401));
        daemon.stop();
    }
}
