//! Section 7.2: EVEN-PORT and RESERVATION-TOKEN.

use super::super::wire::{EVEN_PORT, RESERVATION_TOKEN};
use super::*;

fn even(flags: u8) -> Out {
    Out::allocate().attribute(EVEN_PORT, &[flags])
}

#[track_caller]
fn claim(client: &mut Client, token: &[u8]) -> Result<SocketAddr, u16> {
    let answer = client.ask_signed(Out::allocate().attribute(RESERVATION_TOKEN, token));
    match answer.code() {
        0 => Ok(answer.xor_address(XOR_RELAYED_ADDRESS)),
        code => Err(code),
    }
}

#[test]
fn an_even_port_is_even_and_reserves_nothing() {
    on_each_wire(|server, wire| {
        for flags in [0, 0x7F] {
            for _ in 0..8 {
                let answer = server.client(wire).ask_signed(even(flags));
                assert_eq!(answer.xor_address(XOR_RELAYED_ADDRESS).port() % 2, 0);
                assert!(!answer.has(RESERVATION_TOKEN));
            }
        }
    });
}

#[test]
fn a_reserved_port_is_the_next_one_and_its_token_is_good_once() {
    on_each_wire(|server, wire| {
        for _ in 0..4 {
            let mut first = server.client(wire);
            let answer = first.ask_signed(even(0x80));
            let lower = answer.xor_address(XOR_RELAYED_ADDRESS);
            let token = answer.attribute(RESERVATION_TOKEN).expect("a token").to_vec();
            assert_eq!((lower.port() % 2, token.len()), (0, 8));
            let mut second = bob(server, wire);
            let upper = SocketAddr::new(lower.ip(), lower.port() + 1);
            assert_eq!(claim(&mut second, &token), Ok(upper), "whoever has the token");
            let mut third = server.client(wire);
            assert_eq!(claim(&mut third, &token), Err(508));
            // It is an allocation like any other.
            let peer = Peer::new();
            second.bind(0x4000, peer.address);
            second.send_channel(0x4000, b"reserved");
            peer.reads(b"reserved", upper);
            peer.send(b"and back", upper);
            assert_eq!(second.relayed(), Relayed::Channel(0x4000, b"and back".to_vec()));
        }
    });
}

#[test]
fn a_token_outlives_its_allocation_and_changes_the_transport() {
    on_each_wire(|server, wire| {
        let mut first = server.client(wire);
        let answer = first.ask_signed(even(0x80));
        let lower = answer.xor_address(XOR_RELAYED_ADDRESS);
        let token = answer.attribute(RESERVATION_TOKEN).expect("a token").to_vec();
        assert_eq!(first.signed_code(Out::refresh(0)), 0);
        let other = if wire.is_stream() { Wire::Udp } else { Wire::Tls };
        let mut second = server.client(other);
        assert_eq!(claim(&mut second, &token).map(|upper| upper.port()), Ok(lower.port() + 1));
    });
}

#[test]
fn unknown_tokens_are_508() {
    on_each_wire(|server, wire| {
        let mut client = server.client(wire);
        for token in [[0; 8], [0xFF; 8], *b"no token"] {
            assert_eq!(claim(&mut client, &token), Err(508));
        }
        client.allocate();
    });
}

#[test]
fn a_token_of_a_repeated_request_is_the_same_and_one_port_is_reserved() {
    let config = readme_with_ports(4);
    on_each_wire_anew(&config, |server, wire| {
        let mut first = server.client(wire);
        let request = first.signed(even(0x80));
        let answer = first.ask(&request);
        assert_eq!(answer, first.ask(&request));
        // Of four ports the two others are there for somebody else.
        let mut second = server.client(wire);
        assert_eq!(second.signed_code(even(0x80)), 0);
        assert_eq!(server.client(wire).signed_code(even(0)), 508);
    });
}
