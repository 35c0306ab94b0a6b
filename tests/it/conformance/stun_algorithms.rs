//! RFC 8489, sections 9.2.4, 14.4 to 14.6, 14.11 and 14.12: password algorithms, both integrities,
//! and hidden names.

use super::client::{CONFIG, Check, Client, REALM_TEXT, Server, Wire};
use super::stun_credentials::{bad_request, probe, proven, unproven};
use super::wire::{
    ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, LIFETIME, MD5, MESSAGE_INTEGRITY, NONCE, Out,
    PASSWORD_ALGORITHM, PASSWORD_ALGORITHMS, REALM, REFRESH, SHA_256, USERHASH, USERNAME, md5_key,
    userhash,
};

const ALGORITHMS: &[Check] = &[
    ("9.2.4: SHA-256 and MESSAGE-INTEGRITY-SHA256", |client| {
        client.challenge();
        let answer = proven(client, &client.sign_sha256(probe()));
        client.assert_sha256(&answer, &client.sha256_key());
        assert!(!answer.has(MESSAGE_INTEGRITY));
        let answer = client.ask(&client.sign_sha256(Out::allocate()));
        assert_eq!(answer.code(), 0);
        client.assert_sha256(&answer, &client.sha256_key());
    }),
    ("9.2.4: MD5 is a choice, too, and is answered by SHA-256", |client| {
        client.challenge();
        let key = client.md5_key();
        let answer = proven(client, &client.choosing(probe(), MD5).sha256(&key));
        client.assert_sha256(&answer, &key);
    }),
    ("9.2.4: MESSAGE-INTEGRITY under either key", |client| {
        client.challenge();
        for (algorithm, key) in [(MD5, client.md5_key()), (SHA_256, client.sha256_key())] {
            let answer = proven(client, &client.choosing(probe(), algorithm).sha1(&key));
            client.assert_sha256(&answer, &key);
        }
    }),
    ("9.2.4: MESSAGE-INTEGRITY-SHA256 without a choice: as MD5, answered by SHA-1", |client| {
        client.challenge();
        let answer = proven(client, &client.named(probe()).sha256(&client.md5_key()));
        client.assert_sha1(&answer);
        unproven(client, &client.named(probe()).sha256(&client.sha256_key()));
    }),
    ("18.5: the key is by the algorithm that is named", |client| {
        client.challenge();
        let (md5, sha256) = (client.md5_key(), client.sha256_key());
        unproven(client, &client.choosing(probe(), MD5).sha256(&sha256));
        unproven(client, &client.choosing(probe(), SHA_256).sha256(&md5));
        unproven(client, &client.named(probe()).sha1(&sha256));
    }),
    ("9.2.4: PASSWORD-ALGORITHM alone: 400", |client| {
        client.challenge();
        let out = client.named(probe()).attribute(PASSWORD_ALGORITHM, &SHA_256);
        bad_request(client, &out.sha256(&client.sha256_key()));
        let out = client.named(probe()).attribute(PASSWORD_ALGORITHM, &MD5);
        bad_request(client, &out.sha1(&client.md5_key()));
    }),
    ("9.2.4: PASSWORD-ALGORITHMS alone: 400", |client| {
        client.challenge();
        let out = client.named(probe()).attribute(PASSWORD_ALGORITHMS, &client.algorithms);
        bad_request(client, &out.clone().sha1(&client.md5_key()));
        bad_request(client, &out.sha256(&client.sha256_key()));
    }),
    ("9.2.1: another list than was sent: 400", |client| {
        client.challenge();
        let lists = [
            MD5.to_vec(),
            SHA_256.to_vec(),
            [MD5, SHA_256].concat(),
            [SHA_256, MD5, MD5].concat(),
            [SHA_256, MD5, [0, 3, 0, 0]].concat(),
            [SHA_256, [0, 1, 0, 1], [0; 4]].concat(),
            vec![0, 2, 0, 0, 0, 1, 0],
            Vec::new(),
        ];
        for list in lists {
            client.algorithms = list;
            for (algorithm, key) in [(MD5, client.md5_key()), (SHA_256, client.sha256_key())] {
                bad_request(client, &client.choosing(probe(), algorithm).sha256(&key));
                bad_request(client, &client.choosing(probe(), algorithm).sha1(&key));
            }
        }
    }),
    ("9.2.4: a choice that was not offered: 400", |client| {
        client.challenge();
        for choice in [[0, 0, 0, 0], [0, 3, 0, 0], [0xFF, 0xFF, 0, 0], [0, 2, 0, 4], [0, 1, 0, 4]] {
            let out = client.choosing(probe(), choice);
            bad_request(client, &out.sha256(&client.sha256_key()));
        }
    }),
    ("14.12: a choice of another size: 400", |client| {
        client.challenge();
        for value in
            [&[][..], &[0], &[0, 2], &[0, 2, 0], &[0, 2, 0, 0, 0], &[0, 2, 0, 0, 0, 1, 0, 0]]
        {
            let out = client.named(probe()).attribute(PASSWORD_ALGORITHM, value);
            let out = out.attribute(PASSWORD_ALGORITHMS, &client.algorithms);
            bad_request(client, &out.sha256(&client.sha256_key()));
        }
    }),
    ("9.2.4: the choice is looked at before the name: 400", |client| {
        client.challenge();
        client.is_now("nobody", "guess");
        client.algorithms = MD5.to_vec();
        bad_request(client, &client.choosing(probe(), MD5).sha256(&client.md5_key()));
    }),
    ("9.2.4: the attributes in any order, before or behind the name", |client| {
        client.challenge();
        let out = probe().attribute(PASSWORD_ALGORITHMS, &client.algorithms);
        let out = client.named(out.attribute(PASSWORD_ALGORITHM, &SHA_256));
        proven(client, &out.sha256(&client.sha256_key()));
    }),
    ("9.2.4: each request chooses anew", |client| {
        client.challenge();
        assert_eq!(client.code(&client.sign_sha256(Out::allocate())), 0);
        let answer = client.ask(&client.sign(Out::refresh(600)));
        assert_eq!(answer.code(), 0);
        client.assert_sha1(&answer);
        let answer = client.ask(&client.sign_sha256(Out::refresh(0)));
        assert_eq!(answer.code(), 0);
        client.assert_sha256(&answer, &client.sha256_key());
    }),
];

const INTEGRITY: &[Check] = &[
    ("14.6: no truncation", |client| {
        client.challenge();
        let key = client.sha256_key();
        for len in [0, 4, 12, 15, 16, 17, 20, 24, 28, 30, 31, 33, 36, 64] {
            unproven(client, &client.choosing(probe(), SHA_256).sha256_cut(&key, len));
            unproven(client, &client.named(probe()).sha256_cut(&client.md5_key(), len));
        }
    }),
    ("9.2.4: of both the one of SHA-256 is checked, in either order", |client| {
        client.challenge();
        let (key, wrong) = (client.sha256_key(), b"wrong");
        let out = || client.choosing(probe(), SHA_256);
        let (good, bad) = (
            [out().sha1(&key).sha256(&key), out().sha1(wrong).sha256(&key), out().sha256(&key)],
            [out().sha1(&key).sha256(wrong), out().sha256(wrong).sha1(&key)],
        );
        for request in good {
            let answer = proven(client, &request);
            client.assert_sha256(&answer, &key);
            proven(client, &request.fingerprint());
        }
        bad.iter().for_each(|request| unproven(client, request));
    }),
    ("9.2.4: both without a choice: under the key by MD5, answered by SHA-1", |client| {
        client.challenge();
        let key = client.md5_key();
        let answer = proven(client, &client.named(probe()).sha1(&key).sha256(&key));
        client.assert_sha1(&answer);
    }),
    ("14.5: nothing behind an integrity counts", |client| {
        assert_eq!(client.ask_signed(Out::allocate()).code(), 0);
        for request in [client.sign(probe()), client.sign_sha256(probe())] {
            let request = request.attribute(LIFETIME, &[0; 4]).attribute(0x7FFF, &[]);
            let answer = client.ask(&request.attribute(USERNAME, b"bob").fingerprint());
            assert_eq!((answer.code(), answer.lifetime()), (0, 600));
        }
        let key = client.md5_key();
        let between = client.named(Out::request(REFRESH)).sha1(&key);
        let between = between.attribute(LIFETIME, &[0; 4]).attribute(0x7FFF, &[]).sha256(&key);
        let answer = client.ask(&between);
        assert_eq!((answer.code(), answer.lifetime()), (0, 600));
        assert_eq!(client.ask_signed(Out::refresh(0)).code(), 0);
    }),
    ("14: of several of a kind the first counts", |client| {
        client.challenge();
        let nonce = client.nonce.clone();
        let twice = client.named(probe()).credential("bob", "elsewhere", b"stale");
        proven(client, &twice.sha1(&client.md5_key()));
        let twice = probe().credential("bob", REALM_TEXT, &nonce);
        unproven(client, &client.named(twice).sha1(&client.md5_key()));
        let twice = client.choosing(probe(), SHA_256).attribute(PASSWORD_ALGORITHM, &MD5);
        proven(client, &twice.attribute(PASSWORD_ALGORITHMS, &MD5).sha256(&client.sha256_key()));
        let key = client.md5_key();
        proven(client, &client.sign(probe()).attribute(MESSAGE_INTEGRITY, &[0; 20]));
        let wrong = client.named(probe()).attribute(MESSAGE_INTEGRITY, &[0; 20]);
        unproven(client, &wrong.sha1(&key));
    }),
    ("9.2.4: every refusal of who is proven is signed", |client| {
        client.challenge();
        let bad_attribute = Out::request(ALLOCATE).attribute(0x0019, &[17]);
        let cases = [
            (Out::request(ALLOCATE), 400),
            (bad_attribute, 400),
            (Out::request(ALLOCATE).attribute(0x0019, &[99, 0, 0, 0]), 442),
            (Out::allocate().attribute(0x7FFF, &[]), 420),
            (probe(), 437),
            (Out::request(CREATE_PERMISSION), 437),
            (Out::request(CHANNEL_BIND), 437),
        ];
        for (request, code) in cases {
            let answer = client.ask_signed(request.clone());
            assert_eq!(answer.code(), code, "{request:02x?}");
            let answer = client.ask(&client.sign_sha256(request).fingerprint());
            assert_eq!(answer.code(), code);
            client.assert_sha256(&answer, &client.sha256_key());
        }
    }),
];

const HIDDEN: &[Check] = &[
    ("14.4: USERHASH stands for the name", |client| {
        client.challenge();
        let hash = userhash("alice", REALM_TEXT);
        let out = |out: Out| out.attribute(USERHASH, &hash);
        let rest = |out: Out, client: &Client| {
            let out = out.attribute(REALM, REALM_TEXT.as_bytes()).attribute(NONCE, &client.nonce);
            let out = out.attribute(PASSWORD_ALGORITHM, &SHA_256);
            out.attribute(PASSWORD_ALGORITHMS, &client.algorithms).sha256(&client.sha256_key())
        };
        let answer = proven(client, &rest(out(probe()), client));
        client.assert_sha256(&answer, &client.sha256_key());
        assert_eq!(client.code(&rest(out(Out::allocate()), client)), 0);
        // The same user, by his name.
        assert_eq!(client.ask_signed(Out::refresh(0)).code(), 0);
    }),
    ("14.4: and with MESSAGE-INTEGRITY by MD5", |client| {
        client.challenge();
        let out = probe().attribute(USERHASH, &userhash("alice", REALM_TEXT));
        let out = out.attribute(REALM, REALM_TEXT.as_bytes()).attribute(NONCE, &client.nonce);
        let answer = proven(client, &out.sha1(&client.md5_key()));
        client.assert_sha1(&answer);
    }),
    ("9.2.4: a hash of nobody, of somebody else, of another realm", |client| {
        client.challenge();
        let others = [
            vec![7; 32],
            userhash("nobody", REALM_TEXT),
            userhash("bob", REALM_TEXT),
            userhash("alice", "elsewhere"),
        ];
        for hash in others {
            let out = probe().attribute(USERHASH, &hash).attribute(REALM, REALM_TEXT.as_bytes());
            unproven(client, &out.attribute(NONCE, &client.nonce).sha1(&client.md5_key()));
        }
    }),
    ("14.4: a hash of another size: 400", |client| {
        client.challenge();
        let hash = userhash("alice", REALM_TEXT);
        for len in [0, 16, 20, 31, 33, 36, 64] {
            let mut hash = hash.clone();
            hash.resize(len, 0);
            let out = probe().attribute(USERHASH, &hash).attribute(REALM, REALM_TEXT.as_bytes());
            bad_request(client, &out.attribute(NONCE, &client.nonce).sha1(&client.md5_key()));
        }
    }),
    ("9.2.4: a hash and a name: the name leaves no doubt", |client| {
        client.challenge();
        let out = probe().attribute(USERHASH, &userhash("bob", REALM_TEXT));
        proven(client, &client.sign(out));
        let out = probe().attribute(USERHASH, &userhash("alice", REALM_TEXT));
        proven(client, &client.sign(out));
    }),
    ("9.2.4: another user by his hash is another user: 441", |client| {
        assert_eq!(client.ask_signed(Out::allocate()).code(), 0);
        let out = probe().attribute(USERHASH, &userhash("bob", REALM_TEXT));
        let out = out.attribute(REALM, REALM_TEXT.as_bytes()).attribute(NONCE, &client.nonce);
        let key = md5_key("bob", REALM_TEXT, "password-of-bob-22");
        let answer = client.ask(&out.sha1(&key));
        assert_eq!(answer.code(), 441);
        assert!(answer.is_signed(MESSAGE_INTEGRITY, &key));
        client.is_now("bob", "password-of-bob-22");
        assert_eq!(client.ask_signed(Out::refresh(0)).code(), 441);
        client.is_now("alice", "password-of-alice-1");
        assert_eq!(client.ask_signed(Out::refresh(0)).code(), 0);
    }),
];

#[test]
fn algorithms_integrity_and_hidden_names_are_those_of_the_rfc() {
    let server = Server::start(CONFIG);
    for checks in [ALGORITHMS, INTEGRITY, HIDDEN] {
        server.run(&Wire::ALL, checks);
    }
    server.daemon.stop();
}
