//! Every byte of what strangers are answered, through the daemon: an amplifier is one byte that
//! nobody needs, many times.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, UdpSocket};

use turncast::stun::{Class, LongTermKeys, Method, PasswordAlgorithm, TransactionId, Writer, attr};

use crate::harness::{DEADLINE, Daemon, Setup};
use crate::secure::{KEYS, certificate_for};
use crate::streams::{connect, connect_tls};

const CONFIG: &str = r#"
[turn]
realm = "example.org"
listen = ["127.0.0.1:0", "udp://[::1]:0", "tls://127.0.0.1:0"]
users = [{ name = "alice", password = "password-of-alice-1" }]
"#;

const ID: [u8; 12] = *b"twelve bytes";

/// The fixed part of every answer: type, length, magic cookie and transaction id (RFC 8489,
/// section 5).
fn header(kind: u16, len: u16) -> Vec<u8> {
    let (kind, len) = (kind.to_be_bytes(), len.to_be_bytes());
    [&kind[..], &len, &[0x21, 0x12, 0xA4, 0x42], &ID].concat()
}

/// XOR-MAPPED-ADDRESS (section 14.2): 12 bytes for IPv4, 24 for IPv6.
fn mapped(client: SocketAddr) -> Vec<u8> {
    let (family, ip, len) = match client.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec(), 8),
        IpAddr::V6(ip) => (2, ip.octets().to_vec(), 20),
    };
    let mask = [&[0x21, 0x12, 0xA4, 0x42][..], &ID].concat();
    let xored: Vec<u8> = ip.iter().zip(&mask).map(|(byte, mask)| byte ^ mask).collect();
    let port = (client.port() ^ 0x2112).to_be_bytes();
    [&[0x00, 0x20, 0, len, 0, family][..], &port, &xored].concat()
}

/// FINGERPRINT (section 14.7) of what stands before it: 8 bytes.
fn fingerprint(before: &[u8]) -> Vec<u8> {
    let crc = !before.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    });
    [&[0x80, 0x28, 0, 4][..], &(crc ^ 0x5354_554E).to_be_bytes()].concat()
}

/// ERROR-CODE without a phrase, REALM, NONCE and PASSWORD-ALGORITHMS: 80 bytes with 11 of realm.
fn challenge(code: u8, nonce: &[u8]) -> Vec<u8> {
    assert_eq!(nonce.len(), 40);
    [
        &[0x00, 0x09, 0, 4, 0, 0, 4, code][..],
        &[0x00, 0x14, 0, 11],
        b"example.org\0",
        &[0x00, 0x15, 0, 40],
        nonce,
        // SHA-256, then MD5, both without parameters.
        &[0x80, 0x02, 0, 8, 0, 2, 0, 0, 0, 1, 0, 0],
    ]
    .concat()
}

/// The nonce of a challenge, which is the one part that cannot be foretold: the nonce cookie, the
/// security features and 27 characters of base64 (section 9.2).
fn nonce(answer: &[u8]) -> &[u8] {
    let nonce = &answer[48..88];
    // Password algorithms and, because there are fixed users, anonymity.
    assert!(nonce.starts_with(b"obMatJos2wAAA"), "{}", String::from_utf8_lossy(nonce));
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(byte);
    assert!(nonce.iter().all(is_base64), "{}", String::from_utf8_lossy(nonce));
    nonce
}

fn binding() -> Writer {
    Writer::new(Class::Request, Method::BINDING, TransactionId(ID))
}

fn allocate() -> Writer {
    let writer = Writer::new(Class::Request, Method::ALLOCATE, TransactionId(ID));
    writer.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
}

/// An Allocate of alice, signed as it has to be, with a nonce of nobody.
fn stale() -> Vec<u8> {
    let keys = LongTermKeys::derive("alice", "example.org", "password-of-alice-1");
    allocate()
        .attribute(attr::USERNAME, b"alice")
        .attribute(attr::REALM, b"example.org")
        .attribute(attr::NONCE, b"obMatJos2wAAAabcdefghijklmnopqrstuvwxyz0")
        .finish(Some(keys.by(PasswordAlgorithm::Md5)), false)
}

/// Asks and gets the answers of all, each over the transport, with the client's address; nothing
/// may stand behind an answer.
type Ask<'a> = dyn FnMut(&[u8]) -> (SocketAddr, Vec<u8>) + 'a;

/// What is the same over every transport.
fn every_byte_is_accounted_for(ask: &mut Ask<'_>) {
    let (client, answer) = ask(&binding().finish(None, false));
    let wanted = [header(0x0101, 12), mapped(client)].concat();
    assert_eq!((answer.len(), answer), (32, wanted));
    let (client, answer) = ask(&binding().finish(None, true));
    let before = [header(0x0101, 20), mapped(client)].concat();
    let wanted = [&before[..], &fingerprint(&before)].concat();
    assert_eq!((answer.len(), answer), (40, wanted));
    for (request, code) in [(allocate().finish(None, false), 1), (stale(), 38)] {
        let (_, answer) = ask(&request);
        let wanted = [header(0x0113, 80), challenge(code, nonce(&answer))].concat();
        assert_eq!((answer.len(), answer), (100, wanted));
    }
    let (_, answer) = ask(&allocate().finish(None, true));
    let before = [header(0x0113, 88), challenge(1, nonce(&answer))].concat();
    let wanted = [&before[..], &fingerprint(&before)].concat();
    assert_eq!((answer.len(), answer), (108, wanted));
}

fn start() -> (Daemon, rustls::ClientConfig) {
    let setup = Setup::new(&format!("{CONFIG}{KEYS}")).without("TURNCAST__TURN__LISTEN");
    let trusting = certificate_for(setup.directory(), rustls::ALL_VERSIONS);
    (setup.start(), trusting)
}

fn datagram(server: SocketAddr, request: &[u8]) -> (SocketAddr, Vec<u8>) {
    let any = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(any).expect("a socket");
    socket.connect(server).expect("a route");
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    socket.send(request).expect("a send");
    let mut answer = [0; 512];
    let len = socket.recv(&mut answer).expect("an answer");
    (socket.local_addr().expect("bound"), answer[..len].to_vec())
}

#[test]
fn every_byte_of_an_answer_to_a_stranger_is_accounted_for() {
    let (daemon, trusting) = start();
    every_byte_is_accounted_for(&mut |request| datagram(daemon.turn(), request));
    every_byte_is_accounted_for(&mut |request| {
        let mut stream = connect(daemon.turn_over("tcp"));
        let client = stream.local_addr().expect("connected");
        stream.write_all(request).expect("a write");
        stream.shutdown(Shutdown::Write).expect("no more from here");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the server closes");
        (client, answer)
    });
    every_byte_is_accounted_for(&mut |request| {
        let stream = connect_tls(daemon.turn_over("tls"), &trusting, &["stun.turn"]);
        let mut stream = stream.expect("a handshake");
        let client = stream.sock.local_addr().expect("connected");
        stream.write_all(request).expect("a write");
        stream.conn.send_close_notify();
        stream.flush().expect("no more from here");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the server closes in order");
        (client, answer)
    });
    daemon.stop();
}

#[test]
fn a_binding_answer_over_ipv6_is_twelve_bytes_longer() {
    let (daemon, _) = start();
    let (client, answer) = datagram(daemon.turn_ipv6(), &binding().finish(None, false));
    let wanted = [header(0x0101, 24), mapped(client)].concat();
    assert_eq!((answer.len(), answer), (44, wanted));
    let (client, answer) = datagram(daemon.turn_ipv6(), &binding().finish(None, true));
    let before = [header(0x0101, 32), mapped(client)].concat();
    let wanted = [&before[..], &fingerprint(&before)].concat();
    assert_eq!((answer.len(), answer), (52, wanted));
    daemon.stop();
}
