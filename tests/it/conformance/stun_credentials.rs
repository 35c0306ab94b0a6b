//! RFC 8489, section 9.2: the long-term credential mechanism, its challenges, its order of checks,
//! and its nonces.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::client::{CONFIG, Check, Client, REALM_TEXT, Server, Wire};
use super::wire::{
    ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, In, MD5, MESSAGE_INTEGRITY,
    MESSAGE_INTEGRITY_SHA256, NONCE, Out, PASSWORD_ALGORITHMS, REALM, REFRESH, SHA_256, SOFTWARE,
    UNKNOWN_ATTRIBUTES, USERHASH, USERNAME, md5_key,
};

/// A request that tells who is proven: without an allocation its sender reads 437, signed.
pub(super) fn probe() -> Out {
    Out::refresh(600)
}

/// The answer is a 401 or 438 with all that it must have, and nothing that it should not.
#[track_caller]
pub(super) fn challenged(answer: &In, code: u16) {
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
pub(super) fn bad_request(client: &mut Client, request: &Out) {
    let answer = client.ask(request);
    assert_eq!(answer.code(), 400);
    for kind in [USERNAME, USERHASH, REALM, NONCE, MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256] {
        assert!(!answer.has(kind), "{kind:#06x} is there: {answer:02x?}");
    }
}

/// Whoever sends `request` is proven, and reads 437.
#[track_caller]
pub(super) fn proven(client: &mut Client, request: &Out) -> In {
    let answer = client.ask(request);
    assert_eq!(answer.code(), 437, "{answer:02x?}");
    for kind in [USERNAME, USERHASH, REALM, NONCE] {
        assert!(!answer.has(kind), "{kind:#06x} is there: {answer:02x?}");
    }
    answer
}

/// Whoever sends `request` is not proven (401).
#[track_caller]
pub(super) fn unproven(client: &mut Client, request: &Out) {
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

#[test]
fn who_is_not_proven_is_told_what_the_rfc_says() {
    let server = Server::start(CONFIG);
    for checks in [CHALLENGES, MISSING, WRONG, NONCES] {
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
