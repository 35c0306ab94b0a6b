//! RFC 8489, sections 5 to 7, 11, 12 and 14: the header, the classes, the attributes, FINGERPRINT,
//! and what is no message.

use super::client::{CONFIG, Check, Client, Server, Wire};
use super::wire::{
    ALLOCATE, BINDING, CHANNEL_BIND, CREATE_PERMISSION, DATA_INDICATION, ERROR, FINGERPRINT,
    INDICATION, NONCE, Out, REALM, REFRESH, REQUEST, SEND, SOFTWARE, SUCCESS, UNKNOWN_ATTRIBUTES,
    USERNAME, XOR_MAPPED_ADDRESS,
};

fn binding() -> Out {
    Out::request(BINDING)
}

/// A Binding request with this attribute is a good one.
#[track_caller]
fn ignored(client: &mut Client, kind: u16, value: &[u8]) {
    assert_eq!(client.code(&binding().attribute(kind, value)), 0, "{kind:#06x} {value:02x?}");
}

/// A Binding request with these attributes is refused for those in `unknown`.
#[track_caller]
fn not_understood(client: &mut Client, kinds: &[u16], unknown: &[u16]) {
    let request = kinds.iter().fold(binding(), |out, kind| out.attribute(*kind, b"value"));
    let answer = client.ask(&request);
    assert_eq!((answer.code(), answer.unknown()), (420, unknown.to_vec()), "{kinds:04x?}");
}

const HEADER: &[Check] = &[
    ("5: the transaction id of the answer is that of the request", |client| {
        for id in [[0; 12], [0xFF; 12], *b"\x21\x12\xA4\x42abcdefgh"] {
            assert_eq!(client.code(&Out::with_id(REQUEST, BINDING, id)), 0);
        }
    }),
    ("5: the first two bits are zero: 10", |client| {
        client.refused(&binding().with_byte(0, 0x80).0);
    }),
    ("5: the first two bits are zero: 11", |client| {
        client.refused(&binding().with_byte(0, 0xC0).0);
    }),
    ("5: the first two bits are zero: 01", |client| {
        client.refused(&binding().with_byte(0, 0x40).0);
    }),
    ("5: the magic cookie: its first byte", |client| client.silence(&binding().with_byte(4, 0).0)),
    ("5: the magic cookie: its last byte", |client| client.silence(&binding().with_byte(7, 0).0)),
    ("5: the magic cookie: its bytes swapped", |client| {
        client.silence(&binding().with_byte(4, 0x42).with_byte(7, 0x21).0);
    }),
    ("11: a client of RFC 3489 is not answered", |client| {
        client.silence(&[&[0, 1, 0, 0][..], &[7; 16]].concat());
    }),
    ("5: a length of 1", |client| client.silence(&[&binding().counted(1).0[..], &[0]].concat())),
    ("5: a length of 2", |client| client.silence(&[&binding().counted(2).0[..], &[0; 2]].concat())),
    ("5: a length of 7", |client| client.silence(&[&binding().counted(7).0[..], &[0; 7]].concat())),
    ("5: a length of 0xFFFF", |client| {
        // More than a datagram has room for.
        let length = if client.wire.is_stream() { 0xFFFF } else { 0 };
        client.silence(&[&binding().counted(0xFFFF).0[..], &vec![0; length]].concat());
    }),
];

const DATAGRAMS: &[Check] = &[
    ("6.3: a length beyond the datagram", |client| {
        for more in [4, 8, 1000, 65_532] {
            client.silence(&binding().counted(more).0);
        }
    }),
    ("6.3: a length short of the datagram", |client| {
        client.silence(&[&binding().0[..], &[0; 4]].concat());
        client.silence(&[&binding().0[..], &binding().0].concat());
        client.silence(&binding().attribute(SOFTWARE, b"text").with_byte(3, 0).0);
    }),
    ("5: no whole header", |client| {
        for len in 0..20 {
            client.silence(&binding().0[..len]);
        }
    }),
    ("6.3: what is no STUN at all", |client| {
        client.silence(&[0xFF; 20]);
        client.silence(&[0; 20]);
        client.silence(b"GET / HTTP/1.1\r\n\r\n");
        client.silence(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]);
    }),
];

const CLASSES: &[Check] = &[
    ("5: a method takes a class: a Binding success is 0x0101, an error 0x0111", |client| {
        assert_eq!(client.ask(&binding()).message_type(), 0x0101);
        assert_eq!(client.ask(&binding().attribute(0x7FFF, &[])).message_type(), 0x0111);
    }),
    ("6.3.2: a Binding indication is not answered", |client| {
        client.silence(&Out::indication(BINDING).0);
        client.silence(&Out::indication(BINDING).fingerprint().0);
    }),
    ("6.3.2: nor one with an unknown attribute", |client| {
        client.silence(&Out::indication(BINDING).attribute(0x7FFF, &[]).0);
    }),
    ("6.3.3: a success response to nothing is not answered", |client| {
        for method in [BINDING, ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND] {
            client.silence(&Out::new(SUCCESS, method).0);
            let mapped = Out::new(SUCCESS, method).xor_address(XOR_MAPPED_ADDRESS, client.local);
            client.silence(&mapped.fingerprint().0);
        }
    }),
    ("6.3.4: an error response to nothing is not answered", |client| {
        for method in [BINDING, ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND] {
            client.silence(&Out::new(ERROR, method).attribute(9, &[0, 0, 4, 0]).0);
            client.silence(&Out::new(ERROR, method).attribute(0x7FFF, &[]).0);
        }
    }),
    ("6.3: indications of methods that have none are not answered", |client| {
        for method in [ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND, DATA_INDICATION, SEND] {
            client.silence(&Out::indication(method).0);
        }
    }),
    ("6.3: requests of methods that have none are not answered", |client| {
        client.silence(&Out::request(SEND).0);
        client.silence(&Out::request(DATA_INDICATION).0);
    }),
    ("6.3: a method that is not supported is not answered, signed or not", |client| {
        client.challenge();
        for method in [0x000, 0x002, 0x005, 0x00D, 0x07F, 0x080, 0x0A5, 0x0FF, 0x100, 0xFFF] {
            for class in [REQUEST, INDICATION, SUCCESS, ERROR] {
                client.silence(&Out::new(class, method).0);
            }
            client.silence(&client.sign(Out::request(method)).0);
            client.silence(&Out::request(method).attribute(0x7FFF, &[]).fingerprint().0);
        }
    }),
];

const BINDINGS: &[Check] = &[
    ("6.3.1.1: XOR-MAPPED-ADDRESS is the source of the request", |client| {
        let answer = client.ask(&binding());
        assert_eq!(answer.code(), 0);
        assert_eq!(answer.xor_address(XOR_MAPPED_ADDRESS), client.local);
    }),
    ("12: no credential is needed, and none is looked at", |client| {
        client.challenge();
        for request in [
            client.sign(binding()),
            client.sign_sha256(binding()),
            client.named(binding()).sha1(b"another key"),
            binding().sha1(b"alone"),
            binding().sha256(b"alone"),
            client.named(binding()),
        ] {
            let answer = client.ask(&request);
            assert_eq!(answer.code(), 0);
            client.assert_unsigned(&answer);
        }
    }),
    ("security 2: the answer is 32 bytes, 44 over IPv6, 8 more with FINGERPRINT", |client| {
        let bytes = if client.local.is_ipv4() { 32 } else { 44 };
        assert_eq!(client.ask(&binding()).bytes.len(), bytes);
        let answer = client.ask(&binding().fingerprint());
        assert_eq!(answer.kinds(), [XOR_MAPPED_ADDRESS, FINGERPRINT]);
        assert_eq!(answer.bytes.len(), bytes + 8);
    }),
    ("6.3.1: a repeated request gets the same answer", |client| {
        let request = binding().fingerprint();
        let first = client.ask(&request);
        assert_eq!(client.ask(&request), first);
        assert_eq!(client.ask(&request), first);
    }),
    ("6.3.1: several requests at once are each answered", |client| {
        let requests: Vec<Out> = (0..20).map(|_| binding()).collect();
        requests.iter().for_each(|request| client.send(&request.0));
        let mut open: Vec<_> = requests.iter().map(Out::id).collect();
        for _ in 0..requests.len() {
            let id = client.message().id();
            open.retain(|open| *open != id);
        }
        assert!(open.is_empty(), "not answered: {open:02x?}");
    }),
    ("14: a long request", |client| {
        // The most that a datagram over IPv4 carries, or the length field on a stream says.
        let len = if client.wire.is_stream() { 0xFFFC - 4 } else { 65_507 - 3 - 24 };
        let request = binding().attribute(SOFTWARE, &vec![b'x'; len]);
        assert_eq!(client.code(&request), 0);
    }),
    ("14: many attributes", |client| {
        let many = (0..2000).fold(binding(), |out, _| out.attribute(SOFTWARE, b"abc"));
        assert_eq!(client.code(&many), 0);
    }),
];

const ATTRIBUTES: &[Check] = &[
    ("14: padding is ignored whatever it is", |client| {
        for len in 1..8 {
            let request = binding().padded_by(SOFTWARE, &vec![b'x'; len], 0xEE);
            assert_eq!(client.code(&request), 0, "{len}");
            assert_eq!(client.code(&request.fingerprint()), 0, "{len} with FINGERPRINT");
        }
    }),
    ("14: an attribute over the end is not answered", |client| {
        for len in [1, 4, 8, 0xFFFF] {
            client.silence(&binding().cut_attribute(SOFTWARE, len, &[], 0).0);
            client.silence(&binding().cut_attribute(0x7FFF, len, &[], 0).0);
        }
        client.silence(&binding().cut_attribute(SOFTWARE, 5, b"four", 0).0);
    }),
    ("14: unknown attributes that may be ignored are", |client| {
        for kind in [0x8004, 0x8005, 0x8FFF, 0xBFFF, 0xC000, 0xC001, 0xFFFF] {
            ignored(client, kind, &[]);
            ignored(client, kind, b"odd");
        }
    }),
    ("14.14: SOFTWARE has no impact, however long, text or not", |client| {
        ignored(client, SOFTWARE, &[]);
        ignored(client, SOFTWARE, &[0xFF; 5]);
        ignored(client, SOFTWARE, &[b'x'; 764]);
    }),
    ("6.3: known but unexpected attributes are ignored, whatever they hold", |client| {
        for kind in [
            0x0001, 0x0006, 0x0008, 0x0009, 0x000A, 0x000C, 0x000D, 0x0012, 0x0013, 0x0014, 0x0015,
            0x0016, 0x0017, 0x0018, 0x0019, 0x001A, 0x001C, 0x001D, 0x001E, 0x0020, 0x0022, 0x8000,
            0x8001, 0x8002, 0x8003, 0x8023,
        ] {
            ignored(client, kind, &[]);
            ignored(client, kind, &[0; 3]);
        }
    }),
    ("14: 420 names what is not understood", |client| {
        not_understood(client, &[0x7FFF], &[0x7FFF]);
        not_understood(client, &[0x0021], &[0x0021]);
        not_understood(client, &[0x4000, 0x7000], &[0x4000, 0x7000]);
        not_understood(client, &[0x3FFF, SOFTWARE, 0x7FFE, USERNAME], &[0x3FFF, 0x7FFE]);
        not_understood(client, &[0x7FFF, 0x7FFE, 0x7FFF], &[0x7FFF, 0x7FFE]);
    }),
    ("18.3.1: what RFC 3489 had and this RFC has not is unknown", |client| {
        for kind in [0x0000, 0x0002, 0x0004, 0x0005, 0x0007, 0x000B] {
            not_understood(client, &[kind], &[kind]);
        }
    }),
    ("14.13: an odd number of attributes is padded, not repeated", |client| {
        let answer = client.ask(&binding().attribute(0x7FFF, &[]));
        assert_eq!(answer.attribute(UNKNOWN_ATTRIBUTES).map(<[u8]>::len), Some(2));
        let three = [0x7001, 0x7002, 0x7003];
        not_understood(client, &three, &three);
    }),
    ("14: a request with a great many unknown attributes is answered", |client| {
        let many = (0x6000..0x7000).fold(binding(), |out, kind| out.attribute(kind, &[]));
        let answer = client.ask(&many);
        assert_eq!(answer.code(), 420);
        assert_eq!(answer.unknown()[..3], [0x6000, 0x6001, 0x6002]);
    }),
    ("9.2.4: what stands behind an integrity is not there", |client| {
        assert_eq!(client.code(&binding().sha1(b"any").attribute(0x7FFF, &[])), 0);
        assert_eq!(client.code(&binding().sha256(b"any").attribute(0x7FFF, &[])), 0);
    }),
];

const FINGERPRINTS: &[Check] = &[
    ("14.7: an answer has one if the request had one, success or error", |client| {
        assert_eq!(client.code(&binding().fingerprint()), 0);
        assert_eq!(client.code(&binding().attribute(0x7FFF, &[]).fingerprint()), 420);
        assert_eq!(client.code(&Out::request(ALLOCATE).fingerprint()), 401);
        client.challenge();
        assert_eq!(client.code(&client.sign(Out::refresh(600)).fingerprint()), 437);
        assert_eq!(client.code(&client.sign_sha256(Out::allocate()).fingerprint()), 0);
        assert_eq!(client.code(&client.sign_sha256(Out::refresh(0))), 0);
    }),
    ("7: one that is wrong is not answered", |client| {
        for at in [-1, -4] {
            let mut request = binding().fingerprint();
            let at = request.0.len().checked_add_signed(at).expect("a byte of the CRC");
            request.0[at] ^= 1;
            client.silence(&request.0);
        }
        client.silence(&binding().attribute(FINGERPRINT, &[0; 4]).0);
    }),
    ("7: one that is wrong spoils what is signed, too", |client| {
        client.challenge();
        let request = client.sign(Out::allocate()).attribute(FINGERPRINT, &[1, 2, 3, 4]);
        client.silence(&request.0);
        assert_eq!(client.code(&client.sign(Out::refresh(600))), 437, "nothing was allocated");
    }),
    ("7: one without the XOR is wrong", |client| {
        let mut request = binding().fingerprint();
        let start = request.0.len() - 4;
        request.0[start..].iter_mut().zip(b"STUN").for_each(|(byte, mask)| *byte ^= mask);
        client.silence(&request.0);
    }),
    ("14.7: one of another size is wrong", |client| {
        client.silence(&binding().attribute(FINGERPRINT, &[]).0);
        client.silence(&binding().attribute(FINGERPRINT, &[0; 8]).0);
    }),
    ("14.7: it is the last attribute", |client| {
        client.silence(&binding().fingerprint().attribute(SOFTWARE, b"late").0);
        client.silence(&binding().fingerprint().sha1(b"key").0);
    }),
    ("14.7: it covers a changed bit anywhere", |client| {
        let mut request = binding().attribute(SOFTWARE, b"text").fingerprint();
        request.0[24] ^= 0x20;
        client.silence(&request.0);
        client.silence(&binding().fingerprint().with_byte(19, 0xA5).with_byte(18, 0x5A).0);
    }),
];

const ERRORS: &[Check] = &[
    ("6.3.1.1: an error has ERROR-CODE, and 420 the attributes", |client| {
        let answer = client.ask(&binding().attribute(0x7FFF, &[]));
        assert_eq!(answer.attribute(9).map(|value| value[..4].to_vec()), Some(vec![0, 0, 4, 20]));
    }),
    ("14.8: class and number are apart", |client| {
        let answer = client.ask(&Out::allocate());
        assert_eq!(answer.attribute(9).map(|value| value[..4].to_vec()), Some(vec![0, 0, 4, 1]));
    }),
    ("security 2: a 401 is 100 bytes with a realm of 11", |client| {
        let answer = client.ask(&Out::allocate());
        assert_eq!((answer.bytes.len(), answer.has(REALM), answer.has(NONCE)), (100, true, true));
        assert!(!answer.has(SOFTWARE));
    }),
    ("14.8: who is proven reads a reason", |client| {
        let answer = client.ask_signed(Out::refresh(600));
        assert_eq!(answer.code(), 437);
        assert!(answer.attribute(9).is_some_and(|value| value.len() > 4));
    }),
];

#[test]
fn the_header_and_the_classes_are_those_of_the_rfc() {
    let server = Server::start(CONFIG);
    server.run(&Wire::ALL, HEADER);
    server.run(&Wire::DATAGRAMS, DATAGRAMS);
    server.run(&Wire::ALL, CLASSES);
    server.daemon.stop();
}

#[test]
fn bindings_attributes_and_errors_are_those_of_the_rfc() {
    let server = Server::start(CONFIG);
    server.run(&Wire::ALL, BINDINGS);
    server.run(&Wire::ALL, ATTRIBUTES);
    server.run(&Wire::ALL, FINGERPRINTS);
    server.run(&Wire::ALL, ERRORS);
    server.daemon.stop();
}
