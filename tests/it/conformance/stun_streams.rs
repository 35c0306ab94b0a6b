//! RFC 8489, sections 6.2.2, 6.2.3 and 6.3.1.2, and RFC 7443: messages on a stream, TLS and its
//! protocol names, and where an answer leaves from.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};

use super::client::{CONFIG, Check, Client, Server, Wire};
use super::wire::{
    ALLOCATE, ALTERNATE_DOMAIN, ALTERNATE_SERVER, BINDING, FINGERPRINT, Out, SOFTWARE,
    XOR_MAPPED_ADDRESS,
};
use crate::harness::Setup;
use crate::streams::connect;

fn binding() -> Out {
    Out::request(BINDING)
}

const STREAMS: &[Check] = &[
    ("6.2.2: many messages at once, each answered in turn here", |client| {
        let requests: Vec<Out> = (0..50).map(|_| binding().attribute(SOFTWARE, b"abc")).collect();
        client.send(&requests.iter().flat_map(|request| request.0.clone()).collect::<Vec<u8>>());
        for request in &requests {
            client.answer_to(request);
        }
    }),
    ("6.2.2: one byte at a time", |client| {
        client.challenge();
        let request = client.sign_sha256(Out::allocate()).fingerprint();
        request.0.iter().for_each(|byte| client.send(&[*byte]));
        assert_eq!(client.answer_to(&request).code(), 0);
    }),
    ("6.2.2: one and a half, then the rest", |client| {
        let (first, second) = (binding(), binding().attribute(SOFTWARE, b"more"));
        client.send(&[&first.0[..], &second.0[..9]].concat());
        client.answer_to(&first);
        client.send(&second.0[9..]);
        client.answer_to(&second);
    }),
    ("6.2.2: what is not answered costs the connection nothing", |client| {
        let mut all = Out::indication(BINDING).0;
        all.extend(Out::new(2, BINDING).0);
        all.extend(Out::new(3, ALLOCATE).attribute(9, &[0, 0, 4, 1]).0);
        all.extend(Out::request(0x0FF).0);
        all.extend(binding().attribute(FINGERPRINT, &[0; 4]).0);
        all.extend(binding().cut_attribute(SOFTWARE, 9, &[], 0).0);
        // ChannelData without a channel, padded.
        all.extend([0x40, 1, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0]);
        client.silence(&all);
    }),
    ("6.2.2: the connection stays open after answers of all kinds", |client| {
        client.challenge();
        for code in [0, 420, 401, 437] {
            let request = match code {
                0 => binding(),
                420 => binding().attribute(0x7FFF, &[]),
                401 => Out::allocate(),
                _ => client.sign(Out::refresh(600)),
            };
            assert_eq!(client.code(&request), code);
        }
    }),
    ("6.3.1.1: XOR-MAPPED-ADDRESS is the connection's", |client| {
        for _ in 0..3 {
            assert_eq!(client.ask(&binding()).xor_address(XOR_MAPPED_ADDRESS), client.local);
        }
    }),
    ("6.2.2: an allocation goes on and off on one connection", |client| {
        for _ in 0..3 {
            assert_eq!(client.ask_signed(Out::allocate()).code(), 0);
            assert_eq!(client.ask_signed(Out::refresh(0)).code(), 0);
        }
    }),
];

#[test]
fn messages_on_a_stream_are_found_however_they_come() {
    let server = Server::start(CONFIG);
    server.run(&Wire::STREAMS, STREAMS);
    server.daemon.stop();
}

// RFC 7443, and RFC 8489, section 6.2.3.
#[test]
fn tls_knows_the_names_of_stun() {
    let server = Server::start(CONFIG);
    let address = server.address(Wire::Tls);
    for (offered, chosen) in [
        (&["stun.turn"][..], Some("stun.turn")),
        (&["stun.nat-discovery"], Some("stun.nat-discovery")),
        (&["h2", "stun.turn"], Some("stun.turn")),
        (&["stun.nat-discovery", "stun.turn"], Some("stun.turn")),
        (&[], None),
    ] {
        let tls = server.handshake(address, offered).expect("TLS");
        let local = tls.sock.local_addr().expect("connected");
        assert_eq!(tls.conn.alpn_protocol(), chosen.map(str::as_bytes), "{offered:?}");
        let mut client = Client::over(Wire::Tls, tls, local, address);
        assert_eq!(client.ask_signed(Out::allocate()).code(), 0);
    }
    // RFC 7301, section 3.2: nothing in common is the end.
    let refused = server.handshake(address, &["h2", "http/1.1"]);
    assert!(refused.is_err_and(|error| error.to_string().contains("NoApplicationProtocol")));
    server.daemon.stop();
}

#[test]
fn a_listener_speaks_what_it_is_for_and_nothing_else() {
    let server = Server::start(CONFIG);
    // A request in the clear, to TLS: an alert at most.
    let mut stream = connect(server.address(Wire::Tls));
    stream.write_all(&binding().0).expect("a write");
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.first().is_none_or(|first| *first == 0x15), "{answer:02x?}");
    // TLS to a listener without.
    let refused = server.handshake(server.address(Wire::Tcp), &[]);
    assert!(refused.is_err());
    // They go on.
    server.run(&Wire::ALL, &[("6.3.1", |client| assert_eq!(client.code(&binding()), 0))]);
    server.daemon.stop();
}

// 6.3.1.2: the source of an answer is the destination of its request.
#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    let config = "[turn]\nusers = [{ name = \"alice\", password = \"password-of-alice-1\" }]";
    let setup = Setup::new(config).variable("TURNCAST__TURN__LISTEN", "\"0.0.0.0:0\"");
    let daemon = setup.variable("TURNCAST__TURN__RELAY_ADDRESSES", "127.0.0.1").start();
    let port = daemon.turn().port();
    for asked in ["127.0.0.1", "127.0.0.2", "127.9.9.9"] {
        let server = SocketAddr::new(asked.parse().expect("an address"), port);
        for _ in 0..3 {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            // The client sees to it that answers come from there.
            let mut client = Client::on(Wire::Udp, socket, server);
            assert_eq!(client.ask_signed(Out::allocate()).code(), 0);
            assert_eq!(client.ask_signed(Out::refresh(0)).code(), 0);
            client.quiet();
        }
    }
    daemon.stop();
}

// 10 and 14.8: 300 for who is proven, signed, with an address of the client's family first.
#[test]
fn who_is_sent_elsewhere_is_told_where_by_a_signed_answer() {
    const ELSEWHERE: &[Check] = &[
        ("10: ALTERNATE-SERVER, the client's family first, the other behind it", |client| {
            let answer = client.ask_signed(Out::allocate());
            assert_eq!((answer.code(), answer.has(ALTERNATE_DOMAIN)), (300, false));
            let ipv4 = [0, 1, 0x0D, 0x96, 198, 51, 100, 20].to_vec();
            let mut ipv6 = vec![0, 2, 0x0D, 0x96, 0x20, 0x01, 0x0D, 0xB8];
            ipv6.resize(20, 7);
            let told: Vec<Vec<u8>> = answer
                .attributes
                .iter()
                .filter(|(kind, ..)| *kind == ALTERNATE_SERVER)
                .map(|(_, value, _)| value.clone())
                .collect();
            let expected = if client.local.is_ipv4() { [ipv4, ipv6] } else { [ipv6, ipv4] };
            assert_eq!(told, expected);
            let answer = client.ask(&client.sign_sha256(Out::allocate()).fingerprint());
            assert_eq!(answer.code(), 300);
            client.assert_sha256(&answer, &client.sha256_key());
            let domain = (client.wire == Wire::Tls).then_some(&b"turn2.example.org"[..]);
            assert_eq!(answer.attribute(ALTERNATE_DOMAIN), domain);
        }),
        ("14.8: a stranger is not sent away", |client| {
            assert_eq!(client.code(&Out::allocate()), 401);
            client.challenge();
            client.is_now("alice", "guess");
            assert_eq!(client.code(&client.sign(Out::allocate())), 401);
        }),
        ("12: Binding is answered here", |client| {
            assert_eq!(client.code(&binding()), 0);
        }),
    ];
    let elsewhere = "alternate_server = [\"198.51.100.20:3478\", \
                     \"[2001:db8:707:707:707:707:707:707]:3478\"]\n\
                     alternate_domain = \"turn2.example.org\"\n[turn.limits]";
    let server = Server::start(&CONFIG.replace("[turn.limits]", elsewhere));
    server.run(&Wire::ALL, ELSEWHERE);
    server.daemon.stop();
}
