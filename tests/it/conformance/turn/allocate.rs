//! Section 7.2: the checks of an Allocate request in their order, and what its success says.

use super::super::wire::{
    ADDITIONAL_ADDRESS_FAMILY, ALLOCATE, ALTERNATE_SERVER, DONT_FRAGMENT, EVEN_PORT, LIFETIME,
    REQUEST, REQUESTED_ADDRESS_FAMILY, REQUESTED_TRANSPORT, RESERVATION_TOKEN, XOR_MAPPED_ADDRESS,
};
use super::*;

/// The code of a request by a client of its own.
#[track_caller]
fn code(server: &Server, wire: Wire, request: Out) -> u16 {
    server.client(wire).signed_code(request)
}

#[test]
fn a_success_says_all_that_it_has_to_and_nothing_twice() {
    on_each_wire(|server, wire| {
        let mut client = server.client(wire);
        let answer = client.ask_signed(Out::allocate());
        assert!(answer.is(SUCCESS, ALLOCATE));
        assert_eq!(answer.xor_address(XOR_MAPPED_ADDRESS), client.local);
        assert_eq!(answer.xor_address(XOR_RELAYED_ADDRESS).ip(), address("127.0.0.1:1").ip());
        assert_eq!(answer.lifetime(), 600);
        let mut kinds = answer.kinds();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), answer.kinds().len());
        assert!(!answer.has(RESERVATION_TOKEN));
    });
}

#[test]
fn the_transport_is_asked_for_and_is_udp() {
    on_each_wire(|server, wire| {
        assert_eq!(code(server, wire, Out::request(ALLOCATE)), 400);
        for malformed in [&[][..], &[17], &[17, 0, 0], &[17, 0, 0, 0, 0]] {
            let request = Out::request(ALLOCATE).attribute(REQUESTED_TRANSPORT, malformed);
            assert_eq!(code(server, wire, request), 400, "{malformed:?}");
        }
        for protocol in [0, 1, 6, 16, 18, 33, 132, 255] {
            let request =
                Out::request(ALLOCATE).attribute(REQUESTED_TRANSPORT, &[protocol, 0, 0, 0]);
            assert_eq!(code(server, wire, request), 442, "protocol {protocol}");
        }
        let reserved = Out::request(ALLOCATE).attribute(REQUESTED_TRANSPORT, &[17, 1, 2, 3]);
        assert_eq!(code(server, wire, reserved), 0, "RFFU is ignored");
    });
}

#[test]
fn a_five_tuple_that_is_in_use_comes_before_every_other_fault() {
    on_each_wire(|server, wire| {
        let (mut client, relayed) = allocated(server, wire);
        for request in [
            Out::allocate(),
            Out::request(ALLOCATE),
            Out::request(ALLOCATE).attribute(REQUESTED_TRANSPORT, &[6, 0, 0, 0]),
            Out::allocate().attribute(RESERVATION_TOKEN, &[1; 8]),
            Out::allocate().attribute(REQUESTED_ADDRESS_FAMILY, &[9, 0, 0, 0]),
        ] {
            assert_eq!(client.signed_code(request), 437);
        }
        let peer = Peer::new();
        client.permit(peer.address);
        peer.send(b"still", relayed);
        assert_eq!(client.relayed(), Relayed::Indication(peer.address, b"still".to_vec()));
    });
}

#[test]
fn a_repeated_request_gets_the_same_answer_and_makes_nothing_new() {
    on_each_wire(|server, wire| {
        let mut client = server.client(wire);
        let request = client.signed(Out::allocate().attribute(EVEN_PORT, &[0x80]));
        let first = client.ask(&request);
        assert!(first.has(RESERVATION_TOKEN));
        for _ in 0..3 {
            assert_eq!(client.ask(&request), first);
        }
        // The id of one request is nobody else's.
        let mut other = server.client(wire);
        let id = request.id();
        let again =
            Out::with_id(REQUEST, ALLOCATE, id).attribute(REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        let answer = other.ask_signed(again);
        assert_ne!(answer.xor_address(XOR_RELAYED_ADDRESS), first.xor_address(XOR_RELAYED_ADDRESS));
    });
}

#[test]
fn a_repeated_request_does_not_outlive_its_allocation() {
    on_each_wire(|server, wire| {
        let mut client = server.client(wire);
        let request = client.signed(Out::allocate());
        let first = client.ask(&request).xor_address(XOR_RELAYED_ADDRESS);
        assert_eq!(client.signed_code(Out::refresh(0)), 0);
        // Nobody remembers it: this is a new allocation, with a port of its own.
        let second = client.ask(&request);
        assert_eq!(second.code(), 0);
        assert_ne!(
            second.xor_address(XOR_RELAYED_ADDRESS),
            first,
            "ports are not used again at once"
        );
    });
}

#[test]
fn lifetimes_are_at_least_the_default_and_at_most_an_hour() {
    on_each_wire(|server, wire| {
        for (asked, given) in
            [(0, 600), (1, 600), (599, 600), (600, 600), (601, 601), (3600, 3600), (3601, 3600)]
        {
            let mut client = server.client(wire);
            let request = Out::allocate().attribute(LIFETIME, &u32::to_be_bytes(asked));
            assert_eq!(client.ask_signed(request).lifetime(), given, "asked for {asked}");
        }
        let longest = Out::allocate().attribute(LIFETIME, &[0xFF; 4]);
        assert_eq!(server.client(wire).ask_signed(longest).lifetime(), 3600);
        for malformed in [&[][..], &[0; 3], &[0; 8]] {
            assert_eq!(code(server, wire, Out::allocate().attribute(LIFETIME, malformed)), 400);
        }
    });
}

#[test]
fn dont_fragment_is_understood() {
    on_each_wire(|server, wire| {
        assert_eq!(code(server, wire, Out::allocate().attribute(DONT_FRAGMENT, &[])), 0);
    });
}

#[test]
fn attributes_that_must_be_understood_and_are_not_are_listed() {
    on_each_wire(|server, wire| {
        let request = Out::allocate()
            .attribute(0x0010, &[0; 4])
            .attribute(0x7F01, b"odd")
            .attribute(0x0021, &[0; 4])
            .attribute(0xC001, b"nobody cares");
        let answer = server.client(wire).ask_signed(request);
        assert_eq!((answer.code(), answer.unknown()), (420, vec![0x0010, 0x7F01, 0x0021]));
        assert_eq!(code(server, wire, Out::allocate().attribute(0xC001, b"nobody cares")), 0);
    });
}

#[test]
fn attributes_that_exclude_each_other_are_400() {
    on_each_wire(|server, wire| {
        let token = || Out::allocate().attribute(RESERVATION_TOKEN, &[7; 8]);
        let family = |family| [family, 0, 0, 0];
        for request in [
            token().attribute(EVEN_PORT, &[0]),
            token().attribute(EVEN_PORT, &[0x80]),
            token().attribute(REQUESTED_ADDRESS_FAMILY, &family(1)),
            token().attribute(REQUESTED_ADDRESS_FAMILY, &family(2)),
            token().attribute(ADDITIONAL_ADDRESS_FAMILY, &family(2)),
            Out::allocate()
                .attribute(REQUESTED_ADDRESS_FAMILY, &family(1))
                .attribute(ADDITIONAL_ADDRESS_FAMILY, &family(2)),
            Out::allocate()
                .attribute(EVEN_PORT, &[0x80])
                .attribute(ADDITIONAL_ADDRESS_FAMILY, &family(2)),
            Out::allocate().attribute(ADDITIONAL_ADDRESS_FAMILY, &family(1)),
            Out::allocate().attribute(ADDITIONAL_ADDRESS_FAMILY, &family(0)),
        ] {
            assert_eq!(code(server, wire, request), 400);
        }
        for (kind, malformed) in [
            (EVEN_PORT, &[][..]),
            (EVEN_PORT, &[0x80, 0, 0, 0]),
            (RESERVATION_TOKEN, &[7; 4]),
            (RESERVATION_TOKEN, &[7; 9]),
            (REQUESTED_ADDRESS_FAMILY, &[1]),
            (ADDITIONAL_ADDRESS_FAMILY, &[2]),
        ] {
            assert_eq!(
                code(server, wire, Out::allocate().attribute(kind, malformed)),
                400,
                "{kind:#06x}"
            );
        }
    });
}

#[test]
fn more_allocations_than_the_quota_are_486_for_this_username_only() {
    let config = readme().replace("_user = 1000", "_user = 2");
    on_each_wire_anew(&config, |server, wire| {
        let (mut first, _) = allocated(server, wire);
        let (_second, _) = allocated(server, wire);
        let mut third = server.client(wire);
        assert_eq!(third.signed_code(Out::allocate()), 486);
        bob(server, wire).allocate();
        // What is over makes room, and the one that was refused may try again.
        assert_eq!(first.signed_code(Out::refresh(0)), 0);
        third.allocate();
    });
}

#[test]
fn without_a_free_port_it_is_508() {
    let config = readme_with_ports(2);
    on_each_wire_anew(&config, |server, wire| {
        let (mut first, _) = allocated(server, wire);
        let (_second, _) = allocated(server, wire);
        assert_eq!(code(server, wire, Out::allocate()), 508);
        assert_eq!(first.signed_code(Out::refresh(0)), 0);
        assert_eq!(code(server, wire, Out::allocate()), 0);
    });
}

#[test]
fn another_server_is_named_by_300() {
    let config =
        readme_with("alternate_server = [\"198.51.100.20:3478\", \"[2001:db8::20]:3478\"]");
    on_each_wire_of(&config, |server, wire| {
        let answer = server.client(wire).ask_signed(Out::allocate());
        assert_eq!(answer.code(), 300);
        let other = answer.attribute(ALTERNATE_SERVER).expect("ALTERNATE-SERVER");
        let family = if wire == Wire::Udp6 { 2 } else { 1 };
        assert_eq!(other[..4], [0, family, 0x0D, 0x96]);
    });
}
