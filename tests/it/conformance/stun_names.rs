//! RFC 8489, sections 9.2.2, 14.3 and 14.9, with RFC 8265, section 4.2 and the vectors of RFC 5769:
//! how long names may be, of what they are made, and what keys they make.

use super::client::{CONFIG, Check, Client, Server, Wire};
use super::wire::{
    ALTERNATE_DOMAIN, BINDING, FINGERPRINT, In, MD5, MESSAGE_INTEGRITY, NONCE, Out, REALM, SHA_256,
    USERHASH, USERNAME, md5_key, sha256_key, userhash,
};

/// Names and passwords that are not ASCII, in a realm that is not.
const PREPARED: &str = r#"
[turn]
realm = "exämple.org"
users = [
    { name = "マトリックス", password = "TheMatrIX-1" },
    { name = "Amélie Poulain", password = "crème brûlée 7" },
    { name = "J\u030Cosef", password = "composed\u00A0a\u0301\u3000x" },
    { name = "ＷｉｄｅΣ", password = "compatibility-Ⅸ" },
]
"#;

fn probe() -> Out {
    Out::refresh(600)
}

/// The code for these values in a request that is right otherwise.
#[track_caller]
fn code_of(client: &mut Client, username: &[u8], realm: &[u8], nonce: &[u8]) -> u16 {
    let out = probe().attribute(USERNAME, username).attribute(REALM, realm);
    client.code(&out.attribute(NONCE, nonce).sha1(&client.md5_key()))
}

const SIZES: &[Check] = &[
    ("14.3: USERNAME has fewer than 509 bytes", |client| {
        client.challenge();
        let nonce = client.nonce.clone();
        for (len, code) in [(1, 401), (508, 401), (509, 400), (763, 400), (764, 400), (5000, 400)] {
            assert_eq!(code_of(client, &vec![b'u'; len], b"example.org", &nonce), code, "{len}");
        }
    }),
    ("14.9: REALM has fewer than 128 characters, of up to 4 bytes", |client| {
        client.challenge();
        let nonce = client.nonce.clone();
        for (len, code) in [(1, 401), (127, 401), (128, 400), (763, 400), (764, 400), (5000, 400)] {
            assert_eq!(code_of(client, b"alice", &vec![b'r'; len], &nonce), code, "{len}");
        }
        for (len, code) in [(127, 401), (128, 400)] {
            let realm = "\u{1F600}".repeat(len);
            assert_eq!(code_of(client, b"alice", realm.as_bytes(), &nonce), code, "{len}");
        }
    }),
    ("14.10: NONCE has fewer than 128 characters", |client| {
        client.challenge();
        for (len, code) in [(1, 438), (127, 438), (128, 400), (763, 400), (764, 400), (5000, 400)] {
            assert_eq!(code_of(client, b"alice", b"example.org", &vec![b'n'; len]), code, "{len}");
        }
    }),
    ("9.2.4: nothing at all is no name, no realm and no nonce of ours", |client| {
        client.challenge();
        let nonce = client.nonce.clone();
        assert_eq!(code_of(client, b"", b"example.org", &nonce), 401);
        assert_eq!(code_of(client, b"alice", b"", &nonce), 401);
        assert_eq!(code_of(client, b"alice", b"example.org", b""), 438);
    }),
    ("14.3, 14.9: what is no UTF-8: 400", |client| {
        client.challenge();
        let nonce = client.nonce.clone();
        for bytes in [&[0xFF][..], b"al\xC3", b"\xED\xA0\x80", b"\xC0\x80", b"\xF5\x80\x80\x80"] {
            assert_eq!(code_of(client, bytes, b"example.org", &nonce), 400, "{bytes:02x?}");
            assert_eq!(code_of(client, b"alice", bytes, &nonce), 400, "{bytes:02x?}");
        }
    }),
    ("9.2.2: trailing nulls and quotes are no part of a name", |client| {
        client.challenge();
        let nonce = client.nonce.clone();
        for name in [&b"alice\0"[..], b"alice\0\0\0", b"\"alice\""] {
            assert_eq!(code_of(client, name, b"example.org", &nonce), 437, "{name:02x?}");
        }
        for realm in [&b"example.org\0"[..], b"\"example.org\"", b"\"example.org\"\0"] {
            assert_eq!(code_of(client, b"alice", realm, &nonce), 437, "{realm:02x?}");
        }
        for name in [&b"\0alice"[..], b"al\0ice", b"\"alice", b"alice\"", b"\"\"", b"\0", b"\""] {
            assert_eq!(code_of(client, name, b"example.org", &nonce), 401, "{name:02x?}");
        }
    }),
    ("14.16: ALTERNATE-DOMAIN of a client means nothing", |client| {
        client.challenge();
        let out = probe().attribute(ALTERNATE_DOMAIN, &[b'x'; 300]);
        assert_eq!(client.code(&client.sign(out)), 437);
    }),
];

/// Is `username` when it calls itself `says`, in a realm that is said as `realm`?
#[track_caller]
fn is(client: &mut Client, says: &str, realm: &str, username: &str, password: &str) -> bool {
    client.challenge();
    let own_realm = client.realm.clone();
    let named = |out: Out| out.credential(says, realm, &client.nonce);
    let md5 = md5_key(username, &own_realm, password);
    let sha256 = sha256_key(username, &own_realm, password);
    let chosen = client.choosing(Out(Vec::from([0; 20])), SHA_256).0;
    // PASSWORD-ALGORITHM and PASSWORD-ALGORITHMS close what is chosen: 8 and 12 bytes.
    let chosen = &chosen[chosen.len() - 20..];
    let by_sha256 = Out([&named(probe()).0[..], chosen].concat()).counted(0).sha256(&sha256);
    let by_md5 = named(probe()).sha1(&md5);
    let codes = [client.code(&by_md5), client.code(&by_sha256)];
    assert_eq!(codes[0], codes[1], "by MD5 and by SHA-256");
    assert!([401, 437].contains(&codes[0]), "{codes:?}");
    codes[0] == 437
}

const OPAQUE: &[Check] = &[
    ("14.9: the realm is UTF-8, composed", |client| {
        client.challenge();
        assert_eq!(client.realm, "ex\u{e4}mple.org");
        let (name, password) = ("マトリックス", "TheMatrIX-1");
        assert!(is(client, name, "ex\u{e4}mple.org", name, password));
        assert!(is(client, name, "exa\u{308}mple.org", name, password));
        assert!(!is(client, name, "example.org", name, password));
    }),
    ("8265, 4.2.2: names are compared composed", |client| {
        let (name, password) = ("Amélie Poulain", "crème brûlée 7");
        let realm = "exämple.org";
        assert!(is(client, "Am\u{e9}lie Poulain", realm, name, password));
        assert!(is(client, "Ame\u{301}lie Poulain", realm, name, password));
        assert!(!is(client, "Amelie Poulain", realm, name, password));
    }),
    ("8265, 4.2.2: other spaces are U+0020", |client| {
        let (name, password) = ("Amélie Poulain", "crème brûlée 7");
        let realm = "exämple.org";
        for space in ['\u{a0}', '\u{1680}', '\u{2000}', '\u{2009}', '\u{202f}', '\u{3000}'] {
            assert!(is(client, &format!("Amélie{space}Poulain"), realm, name, password));
        }
        assert!(!is(client, "AméliePoulain", realm, name, password));
        assert!(!is(client, "Amélie  Poulain", realm, name, password));
    }),
    ("8265, 4.2.2: case and compatibility forms stay", |client| {
        let realm = "exämple.org";
        assert!(!is(client, "amélie poulain", realm, "Amélie Poulain", "crème brûlée 7"));
        assert!(is(client, "ＷｉｄｅΣ", realm, "ＷｉｄｅΣ", "compatibility-Ⅸ"));
        assert!(!is(client, "WideΣ", realm, "WideΣ", "compatibility-IX"));
        assert!(!is(client, "ＷｉｄｅΣ", realm, "ＷｉｄｅΣ", "compatibility-IX"));
    }),
    ("8265, 4.2.3: what the profile refuses names nobody", |client| {
        let (name, password) = ("Amélie Poulain", "crème brûlée 7");
        for says in ["Amélie\u{ad} Poulain", "Amélie Poulain\u{200b}", "Amélie\tPoulain", "\u{378}"]
        {
            assert!(!is(client, says, "exämple.org", name, password), "{says:?}");
        }
    }),
    ("9.2.2: names and passwords of the configuration are prepared, too", |client| {
        let realm = "exämple.org";
        assert!(is(client, "J\u{30c}osef", realm, "J\u{30c}osef", "composed \u{e1} x"));
        assert!(!is(
            client,
            "J\u{30c}osef",
            realm,
            "J\u{30c}osef",
            "composed\u{a0}\u{e1}\u{3000}x"
        ));
    }),
    ("14.4: the hash is of the prepared name", |client| {
        client.challenge();
        let realm = client.realm.clone();
        client.is_now("Amélie Poulain", "crème brûlée 7");
        for (name, code) in [("Am\u{e9}lie Poulain", 437), ("Ame\u{301}lie Poulain", 401)] {
            let out = probe().attribute(USERHASH, &userhash(name, &realm));
            let out = out.attribute(REALM, realm.as_bytes()).attribute(NONCE, &client.nonce);
            assert_eq!(client.code(&out.sha1(&client.md5_key())), code, "{name:?}");
        }
    }),
    ("14.8: a reason phrase is UTF-8, and so is the realm of every challenge", |client| {
        client.is_now("マトリックス", "TheMatrIX-1");
        assert_eq!(client.ask_signed(Out::allocate()).code(), 0);
        assert_eq!(client.ask_signed(Out::request(9)).code(), 400);
        assert_eq!(
            client.code(&client.choosing(Out::refresh(0), MD5).sha256(&client.md5_key())),
            0
        );
    }),
];

/// RFC 5769, sections 2.1 and 2.4.
const SHORT_TERM: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c\
    69656e74002400046e0001ff80290008932ff9b151263b36000600096576746a3a6836765920202000080014\
    9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";
const LONG_TERM: &str = "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383\
    e382afe382b900000015001c662f2f3439396b39353464364f4c33346f4c39465354767936347341\
    0014000b6578616d706c652e6f72670000080014f67024656dd64a3e02b8e0712e85c9a28ca89666";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().collect();
    let byte = |two: &[u8]| std::str::from_utf8(two).map(|two| u8::from_str_radix(two, 16));
    digits.chunks(2).map(|two| byte(two).expect("ASCII").expect("two digits")).collect()
}

const VECTORS: &[Check] = &[
    ("5769, 2.4: a request with a credential asks for its address all the same", |client| {
        let answer = client.ask(&Out(bytes(LONG_TERM)));
        assert_eq!(
            (answer.code(), answer.id()),
            (0, *b"\x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e")
        );
    }),
    ("5769, 2.1: an attribute of ICE is not understood", |client| {
        let answer = client.ask(&Out(bytes(SHORT_TERM)));
        assert_eq!((answer.code(), answer.unknown()), (420, vec![0x0024]));
        assert!(answer.is_fingerprinted());
    }),
];

#[test]
fn names_are_as_long_as_the_rfc_lets_them_be() {
    let server = Server::start(CONFIG);
    server.run(&Wire::ALL, SIZES);
    server.run(&Wire::ALL, VECTORS);
    server.daemon.stop();
}

#[test]
fn names_and_passwords_are_prepared_as_rfc_8265_says() {
    let server = Server::start(PREPARED);
    server.run(&Wire::ALL, OPAQUE);
    server.daemon.stop();
}

#[test]
fn the_client_of_these_tests_agrees_with_the_vectors() {
    let key = md5_key("user", "realm", "pass");
    assert_eq!(key, bytes("8493fbc53ba582fb4c044c456bdc40eb"), "RFC 8489, section 9.2.2");
    let name = "マトリックス";
    let whole = Out(bytes(LONG_TERM));
    let own = Out::with_id(0, BINDING, whole.id())
        .attribute(USERNAME, name.as_bytes())
        .attribute(NONCE, b"f//499k954d6OL34oL9FSTvy64sA")
        .attribute(REALM, b"example.org")
        .sha1(&md5_key(name, "example.org", "TheMatrIX"));
    assert_eq!(own.0, whole.0, "RFC 5769, section 2.4");
    let mut short = Out(bytes(SHORT_TERM));
    short.0.truncate(short.0.len() - 32);
    let own = short.counted(0).sha1(b"VOkJxbRl1RmTxUk/WvJxBt").fingerprint();
    assert_eq!(own.0, bytes(SHORT_TERM), "RFC 5769, section 2.1");
    let userhash = userhash(name, "example.org");
    let start = bytes("4a3cf38fef6992bda952c6780417da0f");
    assert_eq!(userhash[..16], start, "RFC 8489, appendix B.1");
    let read = In::read(&Out::request(BINDING).sha1(b"key").fingerprint().0);
    assert!(read.is_signed(MESSAGE_INTEGRITY, b"key") && read.is_fingerprinted());
    assert_eq!(read.kinds(), [MESSAGE_INTEGRITY, FINGERPRINT]);
}
