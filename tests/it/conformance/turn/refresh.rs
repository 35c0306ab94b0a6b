//! Section 8.2.

use super::super::wire::{LIFETIME, REFRESH, REQUESTED_ADDRESS_FAMILY};
use super::*;

#[test]
fn a_refresh_sets_the_lifetime_as_allocate_does() {
    on_each_wire(|server, wire| {
        let (mut client, _) = allocated(server, wire);
        for (asked, given) in [(1, 600), (600, 600), (1800, 1800), (u32::MAX, 3600)] {
            let answer = client.ask_signed(Out::refresh(asked));
            assert!(answer.is(SUCCESS, REFRESH));
            assert_eq!(answer.lifetime(), given, "asked for {asked}");
        }
        assert_eq!(
            client.ask_signed(Out::request(REFRESH)).lifetime(),
            600,
            "the default without a wish"
        );
        for malformed in [&[][..], &[0; 3], &[0; 5]] {
            assert_eq!(
                client.signed_code(Out::request(REFRESH).attribute(LIFETIME, malformed)),
                400
            );
        }
        assert_eq!(client.signed_code(Out::refresh(600)), 0, "a refused one ends nothing");
    });
}

#[test]
fn lifetime_zero_deletes_and_a_repeated_one_is_437() {
    on_each_wire(|server, wire| {
        let peer = Peer::new();
        let (mut client, relayed) = allocated(server, wire);
        client.bind(0x4000, peer.address);
        let request = client.signed(Out::refresh(0));
        let answer = client.ask(&request);
        assert!(answer.is(SUCCESS, REFRESH));
        assert_eq!(answer.lifetime(), 0);
        assert_eq!(client.ask(&request).code(), 437, "section 8.2 on retransmissions");
        client.send_channel(0x4000, b"into the void");
        peer.send(b"to nobody", relayed);
        client.quiet();
        // The same five-tuple begins anew, without what the old allocation had.
        let relayed = client.allocate();
        client.send_channel(0x4000, b"into the void");
        client.send(&send_indication(peer.address, b"without permission").0);
        client.permit(peer.address);
        client.send(&send_indication(peer.address, b"with permission").0);
        peer.reads(b"with permission", relayed);
    });
}

#[test]
fn a_repeated_refresh_is_a_refresh() {
    on_each_wire(|server, wire| {
        let (mut client, _) = allocated(server, wire);
        let request = client.signed(Out::refresh(900));
        for _ in 0..3 {
            assert_eq!(client.ask(&request).lifetime(), 900);
        }
    });
}

#[test]
fn another_family_than_that_of_the_allocation_is_443() {
    on_each_wire(|server, wire| {
        let (mut client, _) = allocated(server, wire);
        let refresh =
            |family| Out::refresh(0).attribute(REQUESTED_ADDRESS_FAMILY, &[family, 0, 0, 0]);
        assert_eq!(client.signed_code(refresh(2)), 443);
        assert_eq!(
            client.signed_code(Out::refresh(0).attribute(REQUESTED_ADDRESS_FAMILY, &[1])),
            400
        );
        assert_eq!(client.signed_code(refresh(1)), 0, "its own family, and it is deleted");
        assert_eq!(client.signed_code(refresh(1)), 437);
    });
}

#[test]
fn only_an_authenticated_request_deletes() {
    on_each_wire(|server, wire| {
        let (mut client, _) = allocated(server, wire);
        assert_eq!(client.ask(&Out::refresh(0)).code(), 401);
        let mut forged = client.signed(Out::refresh(0)).0;
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert_eq!(client.ask(&Out(forged)).code(), 401);
        assert_eq!(client.signed_code(Out::refresh(600)), 0);
    });
}
