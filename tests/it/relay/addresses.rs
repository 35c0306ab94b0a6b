//! Relayed addresses of more than one kind: dual allocations and ports in reserve.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use turncast::relay::Options;
use turncast::turn;
use webrtc_stun::attributes as attr;

use super::client::{Client, DEADLINE, Relayed, relayed_addresses};
use super::{Fixture, engine, peer, wait_until};
use crate::harness::free_again;

const ADDITIONAL_ADDRESS_FAMILY: attr::AttrType = attr::AttrType(0x8000);

/// A peer on the IPv6 loopback address. Tests of this host relay from there, so it cannot be
/// opened; it is another allocation's relayed address.
fn ipv6_peer(fixture: &Fixture) -> (Client, SocketAddr) {
    let mut client = fixture.client();
    let ipv6 = (attr::ATTR_REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0][..]);
    let answer = client.allocate_with(&[ipv6]).expect("an IPv6 allocation");
    let relayed = relayed_addresses(&answer)[0];
    (client, relayed)
}

#[test]
fn a_dual_allocation_relays_both_families_until_one_is_deleted() {
    let fixture = Fixture::start(&["127.0.0.1:0"], 2);
    let mut client = fixture.client();
    let both = (ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0][..]);
    let answer = client.allocate_with(&[both]).expect("a dual allocation");
    let [v4, v6] = relayed_addresses(&answer)[..] else { panic!("two relayed addresses") };
    assert!(v4.is_ipv4() && v6.is_ipv6());
    let (four, to_four) = peer();
    let (mut six, to_six) = ipv6_peer(&fixture);
    six.permit(&[v6]).expect("a permission");
    client.permit(&[to_four, to_six]).expect("permissions of both families");
    for round in 0..50u8 {
        client.send_indication(to_four, &[4, round]);
        client.send_indication(to_six, &[6, round]);
        let mut buffer = [0; 16];
        assert_eq!(four.recv_from(&mut buffer).expect("a datagram"), (2, v4));
        assert_eq!(buffer[..2], [4, round]);
        assert_eq!(six.receive(), Relayed::Indication(v6, vec![6, round]));
        four.send_to(&[round], v4).expect("an answer");
        assert_eq!(client.receive(), Relayed::Indication(to_four, vec![round]));
        six.send_indication(v6, &[round]);
        assert_eq!(client.receive(), Relayed::Indication(to_six, vec![round]));
    }
    client.delete_family(2).expect("the end of the IPv6 half");
    free_again(v6);
    assert_eq!(client.permit(&[to_six]), Err(443));
    client.send_indication(to_four, b"on");
    assert_eq!(four.recv_from(&mut [0; 16]).expect("a datagram"), (2, v4));
    client.delete_family(1).expect("the end of the IPv4 half");
    free_again(v4);
    assert_eq!(client.refresh(600), Err(437));
}

fn reserve(client: &mut Client) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let answer = client.allocate_with(&[(attr::ATTR_EVEN_PORT, &[0x80])]).expect("a pair");
    let lower = relayed_addresses(&answer)[0];
    assert_eq!(lower.port() % 2, 0);
    let token = answer.get(attr::ATTR_RESERVATION_TOKEN).expect("a token");
    (lower, SocketAddr::new(lower.ip(), lower.port() + 1), token)
}

#[test]
fn a_reserved_port_is_bound_and_goes_to_whoever_has_the_token_on_any_worker() {
    let fixture = Fixture::start(&["127.0.0.1:0"], 4);
    let (peer, to) = peer();
    // The kernel picks a worker for each client: of so many pairs, some are on different ones.
    for _ in 0..24 {
        let (mut one, mut two) = (fixture.client(), fixture.client());
        let (_, upper, token) = reserve(&mut one);
        let taken = UdpSocket::bind(upper).expect_err("the upper port is bound");
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        // What arrives before anybody asked for it is for nobody.
        peer.send_to(b"too early", upper).expect("a send");
        let token = (attr::ATTR_RESERVATION_TOKEN, &token[..]);
        let answer = two.allocate_with(&[token]).expect("the reserved address");
        assert_eq!(relayed_addresses(&answer), [upper]);
        assert_eq!(fixture.client().allocate_with(&[token]).err(), Some(508));
        two.permit(&[to]).expect("a permission");
        two.send_indication(to, b"hello");
        let mut buffer = [0; 16];
        assert_eq!(peer.recv_from(&mut buffer).expect("a datagram"), (5, upper));
        peer.send_to(b"back", upper).expect("an answer");
        assert_eq!(two.receive(), Relayed::Indication(to, b"back".to_vec()));
        // Another client may get this one's port, and with it the five-tuple.
        one.refresh(0).expect("the end");
        two.refresh(0).expect("the end");
        free_again(upper);
    }
    assert!(fixture.relay.stop(DEADLINE));
}

#[test]
fn a_stop_closes_what_is_in_reserve() {
    let fixture = Fixture::start(&["127.0.0.1:0"], 3);
    // They stay, so that none gets the port of another, and with it the five-tuple.
    let mut clients: Vec<Client> = (0..10).map(|_| fixture.client()).collect();
    let uppers: Vec<SocketAddr> = clients.iter_mut().map(|client| reserve(client).1).collect();
    assert!(fixture.relay.stop(DEADLINE));
    for upper in uppers {
        free_again(upper);
    }
}

#[test]
fn a_pair_steers_clear_of_ports_that_others_have() {
    let mut engine = engine();
    engine.relay_ports = (50_000, 50_005);
    let own = engine.relay_addresses[0].local;
    // Of the three pairs only the last one is whole.
    let _others = [50_001, 50_002].map(|port| UdpSocket::bind((own, port)).expect("a port"));
    let fixture = Fixture::start_with(&["127.0.0.1:0"], 1, engine, Options::default());
    let mut client = fixture.client();
    let (lower, _, _) = reserve(&mut client);
    assert_eq!(lower.port(), 50_004);
    assert_eq!(fixture.client().allocate_with(&[(attr::ATTR_EVEN_PORT, &[0x80])]).err(), Some(508));
    client.refresh(0).expect("the end");
    wait_until("the allocation is gone", || fixture.metrics.allocations() == 0);
}

#[test]
fn a_family_that_is_not_relayed_is_told_beside_the_other() {
    let mut engine: turn::Options = engine();
    engine.relay_addresses.truncate(1);
    let fixture = Fixture::start_with(&["127.0.0.1:0"], 1, engine, Options::default());
    let both = (ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0][..]);
    let answer = fixture.client().allocate_with(&[both]).expect("half a dual allocation");
    assert_eq!(relayed_addresses(&answer).len(), 1);
    let error = answer.get(attr::AttrType(0x8001)).expect("ADDRESS-ERROR-CODE");
    assert_eq!(error[..4], [2, 0, 4, 40]);
}
