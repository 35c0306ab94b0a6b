//! REQUESTED-ADDRESS-FAMILY, ADDITIONAL-ADDRESS-FAMILY and what follows from two families.

use super::super::wire::{
    ADDITIONAL_ADDRESS_FAMILY, ADDRESS_ERROR_CODE, REQUESTED_ADDRESS_FAMILY, XOR_MAPPED_ADDRESS,
    XOR_RELAYED_ADDRESS,
};
use super::*;

const IPV4: [u8; 4] = [1, 0, 0, 0];
const IPV6: [u8; 4] = [2, 0, 0, 0];

fn requested(family: [u8; 4]) -> Out {
    Out::allocate().attribute(REQUESTED_ADDRESS_FAMILY, &family)
}

fn both() -> Out {
    Out::allocate().attribute(ADDITIONAL_ADDRESS_FAMILY, &IPV6)
}

/// Every XOR-RELAYED-ADDRESS of an answer.
#[track_caller]
fn relayed_addresses(answer: &In) -> Vec<SocketAddr> {
    let mut rest = answer.clone();
    let mut found = Vec::new();
    while rest.has(XOR_RELAYED_ADDRESS) {
        found.push(rest.xor_address(XOR_RELAYED_ADDRESS));
        let first = rest.kinds().iter().position(|kind| *kind == XOR_RELAYED_ADDRESS);
        rest.attributes.remove(first.expect("there is one"));
    }
    found
}

/// A dual allocation.
#[track_caller]
fn dual(server: &Server, wire: Wire) -> (Client, SocketAddr, SocketAddr) {
    let mut client = server.client(wire);
    let answer = client.ask_signed(both());
    assert!(!answer.has(ADDRESS_ERROR_CODE));
    let [v4, v6] = relayed_addresses(&answer)[..] else { panic!("two relayed addresses") };
    (client, v4, v6)
}

#[test]
fn the_family_that_is_asked_for_is_given_and_ipv4_without_a_wish() {
    on_each_wire(|server, wire| {
        for (request, is_ipv6) in [
            (Out::allocate(), false),
            (requested(IPV4), false),
            (requested(IPV6), true),
            (requested([2, 9, 9, 9]), true),
        ] {
            let mut client = server.client(wire);
            let answer = client.ask_signed(request);
            assert_eq!(answer.xor_address(XOR_RELAYED_ADDRESS).is_ipv6(), is_ipv6);
            assert_eq!(answer.xor_address(XOR_MAPPED_ADDRESS).is_ipv6(), client.local.is_ipv6());
            assert_eq!(relayed_addresses(&answer).len(), 1);
        }
    });
}

#[test]
fn a_family_that_is_not_relayed_is_440() {
    let config = readme_with("relay_addresses = [\"127.0.0.1\"]");
    on_each_wire_of(&config, |server, wire| {
        for family in [IPV6, [0; 4], [3, 0, 0, 0], [255, 0, 0, 0]] {
            assert_eq!(server.client(wire).signed_code(requested(family)), 440);
        }
        let answer = server.client(wire).ask_signed(both());
        assert_eq!((answer.code(), relayed_addresses(&answer).len()), (0, 1));
        let error = answer.attribute(ADDRESS_ERROR_CODE).expect("why the other one is not there");
        assert_eq!(error[..4], [2, 0, 4, 40]);
    });
    let config = readme_with("relay_addresses = [\"::1\"]");
    on_each_wire_of(&config, |server, wire| {
        assert_eq!(server.client(wire).signed_code(Out::allocate()), 440);
        assert_eq!(server.client(wire).signed_code(requested(IPV4)), 440);
        assert_eq!(server.client(wire).signed_code(requested(IPV6)), 0);
        let answer = server.client(wire).ask_signed(both());
        let error = answer.attribute(ADDRESS_ERROR_CODE).expect("why the other one is not there");
        assert_eq!(error[..4], [1, 0, 4, 40]);
    });
}

#[test]
fn one_family_of_two_may_be_all_that_the_quota_leaves() {
    on_each_wire_anew(&readme().replace("_user = 1000", "_user = 1"), |server, wire| {
        let answer = server.client(wire).ask_signed(both());
        assert_eq!((answer.code(), relayed_addresses(&answer).len()), (0, 1));
        let error = answer.attribute(ADDRESS_ERROR_CODE).expect("why the other one is not there");
        assert_eq!(error[..4], [2, 0, 5, 8]);
    });
}

#[test]
fn a_dual_allocation_relays_for_both_families() {
    on_each_wire(|server, wire| {
        let (mut one, one_v4, one_v6) = dual(server, wire);
        let (mut two, two_v4, two_v6) = dual(server, wire);
        assert!(one_v4.is_ipv4() && one_v6.is_ipv6());
        assert_eq!(
            one.signed_code(permission(&[two_v4, two_v6])),
            0,
            "both families in one request"
        );
        two.bind(0x4001, one_v4);
        two.bind(0x4002, one_v6);
        for (to, number) in [(two_v4, 0x4001), (two_v6, 0x4002)] {
            one.send(&send_indication(to, b"there").0);
            assert_eq!(two.relayed(), Relayed::Channel(number, b"there".to_vec()));
            two.send_channel(number, b"and back");
            assert_eq!(one.relayed(), Relayed::Indication(to, b"and back".to_vec()));
        }
    });
}

#[test]
fn a_peer_of_the_other_family_is_443() {
    on_each_wire(|server, wire| {
        let (mut four, to_four) = allocated(server, wire);
        let mut six = server.client(wire);
        let to_six = six.ask_signed(requested(IPV6)).xor_address(XOR_RELAYED_ADDRESS);
        for peer in [to_six, address("[2606:4700::1]:9"), address("[::1]:9"), address("[::]:0")] {
            assert_eq!(four.signed_code(permission(&[peer])), 443, "{peer}");
            assert_eq!(four.signed_code(channel_bind(0x4000, peer)), 443, "{peer}");
        }
        let mapped = address("[::ffff:127.0.0.3]:9");
        assert_eq!(four.signed_code(permission(&[mapped])), 443);
        for peer in [to_four, address("9.9.9.9:9"), address("127.0.0.1:9")] {
            assert_eq!(six.signed_code(permission(&[peer])), 443, "{peer}");
            assert_eq!(six.signed_code(channel_bind(0x4000, peer)), 443, "{peer}");
        }
        assert_eq!(six.signed_code(permission(&[mapped])), 403);
    });
}

#[test]
fn the_halves_are_refreshed_and_deleted_one_by_one_or_together() {
    on_each_wire(|server, wire| {
        let (mut client, v4, v6) = dual(server, wire);
        let (mut other, other_v4, other_v6) = dual(server, wire);
        other.bind(0x4004, v4);
        other.bind(0x4006, v6);
        client.bind(0x4004, other_v4);
        client.bind(0x4006, other_v6);
        let refresh =
            |secs, family: [u8; 4]| Out::refresh(secs).attribute(REQUESTED_ADDRESS_FAMILY, &family);
        assert_eq!(client.ask_signed(refresh(900, IPV6)).lifetime(), 900);
        assert_eq!(client.ask_signed(refresh(1200, IPV4)).lifetime(), 1200);
        assert_eq!(client.ask_signed(Out::refresh(1500)).lifetime(), 1500);
        let delete = client.signed(refresh(0, IPV6));
        let answer = client.ask(&delete);
        assert_eq!((answer.code(), answer.lifetime()), (0, 0));
        // What belonged to IPv6 went along, and IPv4 has what it had.
        client.send_channel(0x4006, b"dropped");
        client.send_channel(0x4004, b"passed");
        assert_eq!(other.relayed(), Relayed::Channel(0x4004, b"passed".to_vec()));
        other.send_channel(0x4006, b"dropped");
        other.send_channel(0x4004, b"passed");
        assert_eq!(client.relayed(), Relayed::Channel(0x4004, b"passed".to_vec()));
        assert_eq!(client.ask(&delete).code(), 443, "there is no such half any more");
        assert_eq!(client.signed_code(refresh(600, IPV6)), 443);
        assert_eq!(client.signed_code(permission(&[other_v6])), 443);
        assert_eq!(client.signed_code(channel_bind(0x4006, other_v6)), 443);
        assert_eq!(client.signed_code(channel_bind(0x4004, other_v4)), 0);
        assert_eq!(client.signed_code(refresh(600, IPV4)), 0);
        // Without a family all that is left is meant.
        assert_eq!(client.ask_signed(Out::refresh(0)).lifetime(), 0);
        assert_eq!(client.signed_code(Out::refresh(600)), 437);
        assert_eq!(other.ask_signed(Out::refresh(0)).lifetime(), 0);
        assert_eq!(other.signed_code(refresh(600, IPV4)), 437);
    });
}

#[test]
fn a_repeated_dual_allocate_is_answered_by_the_same_two_addresses() {
    on_each_wire(|server, wire| {
        let mut client = server.client(wire);
        let request = client.signed(both());
        let first = client.ask(&request);
        assert_eq!(relayed_addresses(&first).len(), 2);
        assert_eq!(client.ask(&request), first);
    });
}

#[test]
fn an_even_port_may_be_asked_of_both_families() {
    on_each_wire(|server, wire| {
        let mut client = server.client(wire);
        let answer = client.ask_signed(both().attribute(super::super::wire::EVEN_PORT, &[0]));
        assert_eq!(answer.code(), 0);
        assert!(relayed_addresses(&answer).iter().all(|relayed| relayed.port() % 2 == 0));
    });
}
