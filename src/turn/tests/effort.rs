//! Whether a name is known cannot be told from the time that a refusal takes: it takes the same
//! steps. What takes time is counted, for clocks tell more of other threads than of a key.

use std::net::SocketAddr;

use super::bench::{Bench, Holds, REALM, START_UNIX_SECS, options};
use crate::credentials::userhash;
use crate::stun::{
    Class, Integrity, Message, Method, PASSWORD_ALGORITHMS_OFFERED, PasswordAlgorithm, attr,
};
use crate::turn::authenticate::Spent;

/// How a request is signed.
const WAYS: [Option<PasswordAlgorithm>; 3] =
    [None, Some(PasswordAlgorithm::Md5), Some(PasswordAlgorithm::Sha256)];

impl Bench {
    /// What it takes to judge a request of `holds`, and whether it is refused as unproven.
    fn effort(
        &mut self,
        method: Method,
        holds: &Holds,
        hidden: bool,
        way: Option<PasswordAlgorithm>,
    ) -> (Spent, bool) {
        // Each of them is a client of its own, so that none has an allocation yet.
        let ask = self.ask(method);
        let port = u16::from_be_bytes([ask.transaction.0[10], ask.transaction.0[11]]);
        let client = SocketAddr::from(([198, 51, 100, 1], 10_000 + port));
        let nonce = self.nonce(client);
        let hash = userhash(&holds.username, REALM);
        let (kind, name) = match hidden {
            false => (attr::USERNAME, holds.username.as_bytes()),
            true => (attr::USERHASH, &hash[..]),
        };
        let mut writer = ask
            .writer(Class::Request)
            .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            .attribute(kind, name)
            .attribute(attr::REALM, REALM.as_bytes())
            .attribute(attr::NONCE, &nonce);
        let keys = Self::keys(holds);
        writer = match way {
            None => writer.integrity(Integrity::Sha1, keys.by(PasswordAlgorithm::Md5)),
            Some(algorithm) => writer
                .attribute(attr::PASSWORD_ALGORITHM, &algorithm.value())
                .attribute(attr::PASSWORD_ALGORITHMS, &PASSWORD_ALGORITHMS_OFFERED)
                .integrity(Integrity::Sha256, keys.by(algorithm)),
        };
        self.shared.effort.take();
        let (_, answers) = self.client(client, &writer.finish(None, false));
        let answer = Message::parse(&answers[0]).expect("an answer");
        let code = answer.first(attr::ERROR_CODE).map(|code| (code[2], code[3]));
        (self.shared.effort.take(), code == Some((4, 1)))
    }

    /// Asserts that all of `names` are refused, and at the same cost.
    fn assert_alike(&mut self, names: &[(&str, Holds)], hidden: bool) {
        for way in WAYS {
            let mut usual = None;
            for (what, holds) in names {
                let (spent, refused) = self.effort(Method::ALLOCATE, holds, hidden, way);
                assert!(refused, "{what}, hidden: {hidden}");
                assert!(spent.checks > 0);
                let usual = *usual.get_or_insert(spent);
                assert_eq!(spent, usual, "{what}, hidden: {hidden}, {way:?}");
            }
        }
    }
}

fn guess(username: &str) -> Holds {
    Holds { username: username.to_owned(), password: "a guess".to_owned() }
}

/// A bench with a live grant and a revoked one, and names as the hub mints them: theirs, that of
/// nobody, and one that has expired.
fn bench() -> (Bench, [(&'static str, Holds); 4]) {
    let mut bench = Bench::new(options(), 3);
    let expiry = START_UNIX_SECS + 300;
    let mut minted = |name| {
        bench.grant(name, "red");
        bench.granted(name, expiry).username
    };
    let (live, revoked) = (minted("live"), minted("revoked"));
    bench.shared.grants.revoke(&bench.grants["revoked"].name().clone());
    let (_, tag) = live.split_once(':').expect("expiry:name");
    let names = [
        ("a live grant", guess(&live)),
        ("a revoked grant", guess(&revoked)),
        ("no grant", guess(&format!("{expiry}:{}", "x".repeat(tag.len())))),
        ("an expired one", guess(&format!("{START_UNIX_SECS}:{tag}"))),
    ];
    (bench, names)
}

#[test]
fn a_wrong_password_costs_the_same_whoever_is_known() {
    let (mut bench, minted) = bench();
    let known = bench.fixed("alice");
    let fixed = [
        ("a fixed user", guess("alice")),
        ("another one", guess("bob")),
        ("nobody", guess("mallory")),
        ("nobody, with the password of somebody", Holds { username: "carol".to_owned(), ..known }),
        // Names of which no key can be made.
        ("no name", guess("")),
        ("no text", guess("\u{1}")),
    ];
    bench.assert_alike(&fixed, false);
    bench.assert_alike(&minted, false);
    // What the name says is nobody's word, the length of it the client's own.
    let expiry = START_UNIX_SECS + 300;
    let signed = ["alice", "carol"].map(|name| ("expiry:name", guess(&format!("{expiry}:{name}"))));
    bench.assert_alike(&signed, false);
    let spent = |bench: &mut Bench, holds| bench.effort(Method::ALLOCATE, holds, false, None).0;
    let [of_grant, of_user] = [&minted[0].1, &signed[0].1].map(|holds| spent(&mut bench, holds));
    assert_eq!((of_grant.checks, of_grant.derivations), (of_user.checks, of_user.derivations));
}

#[test]
fn a_hidden_name_costs_the_same_whoever_is_known() {
    let (mut bench, minted) = bench();
    let mut names = vec![("a fixed user", guess("alice")), ("nobody", guess("mallory"))];
    names.extend(minted);
    bench.assert_alike(&names, true);
}

#[test]
fn every_key_is_tried_even_after_one_has_matched() {
    use crate::credentials::{CredentialHash, password};
    use crate::turn::tests::bench::SECRETS;
    let (mut bench, _) = bench();
    let live = bench.granted("live", START_UNIX_SECS + 300);
    let username = format!("{}:carol", START_UNIX_SECS + 300);
    let signed = SECRETS.map(|secret| {
        let password = password(CredentialHash::Sha1, secret.as_bytes(), &username);
        Holds { username: username.clone(), password: password.expose().clone() }
    });
    let alice = bench.fixed("alice");
    for right in [&alice, &live, &signed[0], &signed[1]] {
        let wrong = guess(&right.username);
        // What follows is that there is no allocation, not that nobody is proven.
        let (spent, refused) = bench.effort(Method::REFRESH, right, false, None);
        assert!(!refused, "{right:?}", right = right.username);
        assert_eq!((spent, true), bench.effort(Method::REFRESH, &wrong, false, None));
    }
}
