//! RFC 8489, section 9.2: the long-term credential mechanism, its order of checks, nonces, password
//! algorithms, integrity and hidden names.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::client::{CONFIG, Check, Client, REALM_TEXT, Server, Wire};
use super::wire::{
    ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, In, LIFETIME, MD5, MESSAGE_INTEGRITY,
    MESSAGE_INTEGRITY_SHA256, NONCE, Out, PASSWORD_ALGORITHM, PASSWORD_ALGORITHMS, REALM, REFRESH,
    SHA_256, SOFTWARE, UNKNOWN_ATTRIBUTES, USERHASH, USERNAME, md5_key, userhash,
};

/// A request that tells who is proven: without an allocation its sender reads 437, signed.
fn probe() -> Out {
    Out::refresh(600)
}

/// The answer is a 401 or 438 with all that it must have, and nothing that it should not.
#[track_caller]
fn challenged(answer: &In, code: u16) {
    assert_eq!(answer.code(), code);
    for kind in [REALM, NONCE, PASSWORD_ALGORITHMS] {
        assert!(answer.has(kind), "{kind:#06x} is missing: {answer:02x?}");
    }
    for kind in [USERNAME, USERHASH, MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256] {
        assert!(!answer.has(kind), "{kind:#06x} is there: {answer:02x?}");
    }
    assert_eq!(answer.attribute(REALM), Some(REALM_TEXT.as_bytes()));
}

/// The answer is a 400 without any part of a credential.
#[track_caller]
fn bad_request(client: &mut Client, request: &Out) {
    let answer = client.ask(request);
    assert_eq!(answer.code(), 400);
    for kind in [USERNAME, USERHASH, REALM, NONCE, MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256] {
        assert!(!answer.has(kind), "{kind:#06x} is there: {answer:02x?}");
    }
}

/// Whoever sends `request` is proven, and reads 437.
#[track_caller]
fn proven(client: &mut Client, request: &Out) -> In {
    let answer = client.ask(request);
    assert_eq!(answer.code(), 437, "{answer:02x?}");
    for kind in [USERNAME, USERHASH, REALM, NONCE] {
        assert!(!answer.has(kind), "{kind:#06x} is there: {answer:02x?}");
    }
    answer
}

/// Whoever sends `request` is not proven (401).
#[track_caller]
fn unproven(client: &mut Client, request: &Out) {
    challenged(&client.ask(request), 401);
}

const CHALLENGES: &[Check] = &[
    ("9.2.4: without integrity 401, with realm, nonce and algorithms", |client| {
        for method in [ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND] {
            challenged(&client.ask(&Out::request(method)), 401);
        }
    }),
    ("9.2.4: a name without integrity is no credential", |client| {
        client.challenge();
        unproven(client, &client.named(probe()));
        unproven(client, &client.choosing(probe(), SHA_256));
        unproven(client, &probe().attribute(USERNAME, b"alice"));
    }),
    ("18.1: the nonce cookie: both features, all other bits zero", |client| {
        client.challenge();
        let bits = client.nonce.strip_prefix(b"obMatJos2").map(|rest| &rest[..4]);
        let bits = STANDARD.decode(bits.expect("the cookie")).expect("base64");
        assert_eq!(bits, [0b1100_0000, 0, 0]);
    }),
    ("14.10: a nonce is text without quotes, of fewer than 128 characters", |client| {
        client.challenge();
        let good = |byte: &u8| byte.is_ascii_graphic() && !b"\"\\".contains(byte);
        assert!(client.nonce.iter().all(good) && client.nonce.len() < 128);
        assert!(client.nonce.len() > 13);
    }),
    ("14.11: both algorithms are offered, SHA-256 first, without parameters", |client| {
        client.challenge();
        assert_eq!(client.algorithms, [SHA_256, MD5].concat());
    }),
    ("9.2: the nonce of a challenge is good for many requests", |client| {
        client.challenge();
        for _ in 0..5 {
            proven(client, &client.sign(probe()));
        }
    }),
    ("9.2: a client of RFC 5389 needs to know none of this", |client| {
        let answer = client.ask_signed(Out::allocate());
        assert_eq!(answer.code(), 0);
        client.assert_sha1(&answer);
        assert_eq!(client.ask_signed(Out::refresh(0)).code(), 0);
    }),
];

const MISSING: &[Check] = &[
    ("9.2.4: integrity without USERNAME: 400", |client| {
        client.challenge();
        let out = probe().attribute(REALM, REALM_TEXT.as_bytes()).attribute(NONCE, &client.nonce);
        bad_request(client, &out.clone().sha1(&client.md5_key()));
        bad_request(client, &out.sha256(&client.md5_key()));
    }),
    ("9.2.4: integrity without REALM: 400", |client| {
        client.challenge();
        let out = probe().attribute(USERNAME, b"alice").attribute(NONCE, &client.nonce);
        bad_request(client, &out.clone().sha1(&client.md5_key()));
        bad_request(client, &out.sha256(&client.md5_key()));
    }),
    ("9.2.4: integrity without NONCE: 400", |client| {
        client.challenge();
        let out = probe().attribute(USERNAME, b"alice").attribute(REALM, REALM_TEXT.as_bytes());
        bad_request(client, &out.clone().sha1(&client.md5_key()));
        bad_request(client, &out.sha256(&client.md5_key()));
    }),
    ("9.2.4: integrity alone: 400", |client| {
        bad_request(client, &probe().sha1(b"key"));
        bad_request(client, &probe().sha256(b"key"));
        bad_request(client, &Out::allocate().sha1(b"key").fingerprint());
    }),
    ("9.2.4: what is missing counts before what is wrong", |client| {
        let out = probe().attribute(USERNAME, b"nobody").attribute(REALM, b"elsewhere");
        bad_request(client, &out.sha1(b"key"));
    }),
    ("9.2.4: what stands behind the integrity is missing", |client| {
        client.challenge();
        let request = client.sign(probe());
        let signed = probe().sha1(&client.md5_key());
        bad_request(client, &Out([&signed.0[..], &request.0[28..]].concat()).counted(0));
    }),
];

const WRONG: &[Check] = &[
    ("9.2.4: an unknown name", |client| {
        client.challenge();
        client.is_now("nobody", "password-of-alice-1");
        unproven(client, &client.sign(probe()));
        unproven(client, &client.sign_sha256(probe()));
    }),
    ("9.2.4: a wrong password", |client| {
        client.challenge();
        client.is_now("alice", "password-of-bob-22");
        unproven(client, &client.sign(probe()));
        unproven(client, &client.sign_sha256(probe()));
    }),
    ("9.2.4: the next request may be right", |client| {
        client.challenge();
        client.is_now("alice", "guess");
        let answer = client.ask(&client.sign(Out::allocate()));
        challenged(&answer, 401);
        client.heed(&answer);
        client.is_now("alice", "password-of-alice-1");
        proven(client, &client.sign(probe()));
    }),
    ("9.2.4: another realm", |client| {
        client.challenge();
        for realm in ["elsewhere.org", "Example.org", "example.org.", "example.or"] {
            let key = md5_key("alice", realm, "password-of-alice-1");
            let right_key = client.md5_key();
            let out = probe().credential("alice", realm, &client.nonce);
            unproven(client, &out.clone().sha1(&key));
            unproven(client, &out.sha1(&right_key));
        }
    }),
    ("security 3: unknown name and wrong password get the same answer", |client| {
        client.challenge();
        client.is_now("alice", "guess");
        let wrong = client.ask(&client.sign(probe()));
        client.is_now("nobody", "guess");
        let unknown = client.ask(&client.sign(probe()));
        assert_eq!(wrong.kinds(), unknown.kinds());
        assert_eq!(wrong.attribute(9), unknown.attribute(9));
        assert_eq!(wrong.bytes.len(), unknown.bytes.len());
    }),
    ("9.2.2: names are compared with their case", |client| {
        client.challenge();
        client.is_now("Alice", "password-of-alice-1");
        unproven(client, &client.sign(probe()));
    }),
    ("14.5: a changed bit, in the message or in the HMAC", |client| {
        client.challenge();
        let good = client.sign(probe());
        for at in [27, good.0.len() - 1, good.0.len() - 20] {
            unproven(client, &good.clone().with_byte(at, good.0[at] ^ 1));
        }
    }),
    ("14.5: MESSAGE-INTEGRITY of another size", |client| {
        client.challenge();
        let good = client.sign(probe());
        let tag = good.0[good.0.len() - 20..].to_vec();
        for len in [0, 4, 16, 19, 21, 24, 32] {
            let mut tag = tag.clone();
            tag.resize(len, 0);
            unproven(client, &client.named(probe()).attribute(MESSAGE_INTEGRITY, &tag));
        }
    }),
    ("14.5: the length in the HMAC ends with the attribute", |client| {
        client.challenge();
        proven(client, &client.sign(probe()).attribute(SOFTWARE, b"behind"));
        proven(client, &client.sign(probe()).fingerprint());
        proven(client, &client.sign_sha256(probe()).attribute(SOFTWARE, b"behind").fingerprint());
    }),
    ("14: the padding of names is covered, and may be anything", |client| {
        client.challenge();
        let out = probe().padded_by(SOFTWARE, b"12345", 0x55).padded_by(USERNAME, b"alice", 0xEE);
        let out = out.padded_by(REALM, REALM_TEXT.as_bytes(), b' ').attribute(NONCE, &client.nonce);
        proven(client, &out.sha1(&client.md5_key()));
    }),
    ("6.3: unknown attributes are looked for after the credential", |client| {
        let answer = client.ask(&Out::allocate().attribute(0x7FFF, &[]));
        challenged(&answer, 401);
        assert!(!answer.has(UNKNOWN_ATTRIBUTES));
        client.heed(&answer);
        client.is_now("alice", "guess");
        unproven(client, &client.sign(Out::allocate().attribute(0x7FFF, &[])));
        client.is_now("alice", "password-of-alice-1");
        let nonce = std::mem::replace(&mut client.nonce, b"stale".to_vec());
        challenged(&client.ask(&client.sign(probe().attribute(0x7FFF, &[]))), 438);
        client.nonce = nonce;
        let answer = client.ask_signed(Out::allocate().attribute(0x7FFF, &[]).attribute(3, &[]));
        assert_eq!((answer.code(), answer.unknown()), (420, vec![0x7FFF, 3]));
        proven(client, &client.sign(probe()));
    }),
];

const NONCES: &[Check] = &[
    ("9.2.4: a nonce that is not ours: 438, with one that is good", |client| {
        for nonce in [&b"x"[..], b"f//499k954d6OL34oL9FSTvy64sA", b"obMatJos2", b"obMatJos2wAAA"] {
            client.challenge();
            client.nonce = nonce.to_vec();
            let answer = client.ask(&client.sign(probe()));
            challenged(&answer, 438);
            client.heed(&answer);
            proven(client, &client.sign(probe()));
        }
    }),
    ("9.2.4: 401 comes before 438", |client| {
        client.challenge();
        client.nonce = b"obMatJos2wAAAsomething".to_vec();
        client.is_now("alice", "guess");
        unproven(client, &client.sign(probe()));
        unproven(client, &client.sign_sha256(probe()));
    }),
    ("9.2.1: without a feature bit it is another nonce", |client| {
        for bits in [b"AAAA", b"gAAA", b"QAAA", b"wAAB", b"4AAA"] {
            client.challenge();
            client.nonce[9..13].copy_from_slice(bits);
            challenged(&client.ask(&client.sign(probe())), 438);
        }
    }),
    ("9.2.1: any changed character makes another nonce", |client| {
        client.challenge();
        let good = client.nonce.clone();
        for at in 0..good.len() {
            client.nonce.clone_from(&good);
            client.nonce[at] = if good[at] == b'A' { b'B' } else { b'A' };
            challenged(&client.ask(&client.sign(probe())), 438);
        }
        client.nonce = [&good[..], b"A"].concat();
        challenged(&client.ask(&client.sign(probe())), 438);
    }),
    ("9.2.4: an empty nonce", |client| {
        client.challenge();
        client.nonce.clear();
        challenged(&client.ask(&client.sign(probe())), 438);
    }),
];

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
fn who_is_not_proven_is_told_what_the_rfc_says() {
    let server = Server::start(CONFIG);
    for checks in [CHALLENGES, MISSING, WRONG, NONCES] {
        server.run(&Wire::ALL, checks);
    }
    server.daemon.stop();
}

#[test]
fn algorithms_integrity_and_hidden_names_are_those_of_the_rfc() {
    let server = Server::start(CONFIG);
    for checks in [ALGORITHMS, INTEGRITY, HIDDEN] {
        server.run(&Wire::ALL, checks);
    }
    server.daemon.stop();
}

// 9.2.4: the server must not choose the same nonce for two addresses.
#[test]
fn a_nonce_is_good_for_its_client_only() {
    let server = Server::start(CONFIG);
    for wire in Wire::ALL {
        let (mut one, mut other) = (server.client(wire), server.client(wire));
        one.challenge();
        other.challenge();
        assert_ne!(one.nonce, other.nonce);
        let own = std::mem::replace(&mut one.nonce, other.nonce.clone());
        challenged(&one.ask(&one.sign(Out::allocate())), 438);
        challenged(&one.ask(&one.sign_sha256(Out::allocate())), 438);
        one.nonce = own;
        let request = one.sign(probe());
        proven(&mut one, &request);
    }
    server.daemon.stop();
}

// 9.2.4, the last check: a nonce that is too old touches nothing, and the next one goes on.
#[test]
fn a_stale_nonce_is_replaced_and_touches_nothing() {
    let config = CONFIG.replace("[turn.limits]", "[turn.limits]\nnonce_secs = 1");
    let server = Server::start(&config);
    for wire in Wire::ALL {
        let mut client = server.client(wire);
        // The nonce may age between two answers.
        while {
            client.challenge();
            client.code(&client.sign(Out::allocate())) == 438
        } {}
        // An answer to Binding is all that happens until it is too old.
        let stale = loop {
            let answer = client.ask(&client.sign(Out::refresh(600)));
            if answer.code() != 0 {
                break answer;
            }
        };
        challenged(&stale, 438);
        for request in [client.sign(Out::refresh(0)), client.sign_sha256(Out::refresh(0))] {
            challenged(&client.ask(&request), 438);
        }
        assert_ne!(stale.attribute(NONCE), Some(&client.nonce[..]));
        let answer = loop {
            client.challenge();
            let answer = client.ask(&client.sign(Out::refresh(0)));
            if answer.code() != 438 {
                break answer;
            }
        };
        assert_eq!((answer.code(), answer.lifetime()), (0, 0), "the allocation was there");
    }
    server.daemon.stop();
}

// 9.2.4: anonymity is offered where it can be kept.
#[test]
fn the_feature_bit_of_hidden_names_is_set_with_fixed_users_only() {
    let server = Server::start(
        "[turn]\nrealm = \"example.org\"\nshared_secret = \"a-secret-of-24-letters\"",
    );
    let mut client = server.client(Wire::Udp);
    client.challenge();
    assert_eq!(client.nonce[..13], *b"obMatJos2gAAA");
    server.daemon.stop();
}
