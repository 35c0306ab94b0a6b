//! Sections 9 and 10: permissions, and CreatePermission.

use super::super::wire::xor_address;
use super::*;

#[test]
fn a_permission_lets_an_address_through_whatever_the_port() {
    on_each_wire(|server, wire| {
        let (mut client, relayed) = allocated(server, wire);
        let peers = [Peer::new(), Peer::new()];
        let answer = client.ask_signed(permission(&[address("127.0.0.3:0")]));
        assert!(answer.is(SUCCESS, CREATE_PERMISSION));
        for (round, peer) in peers.iter().enumerate() {
            let payload = vec![round as u8; 5 + round];
            peer.send(&payload, relayed);
            assert_eq!(client.relayed(), Relayed::Indication(peer.address, payload.clone()));
            client.send(&send_indication(peer.address, &payload).0);
            peer.reads(&payload, relayed);
        }
    });
}

#[test]
fn without_a_permission_nothing_passes_in_either_direction() {
    let config = readme().replace("\"127.0.0.3\"", "\"127.0.0.3\", \"127.0.0.4\"");
    on_each_wire_of(&config, |server, wire| {
        let (mut client, relayed) = allocated(server, wire);
        let (known, unknown) = (Peer::new(), Peer::at("127.0.0.4:0"));
        client.permit(known.address);
        unknown.send(b"dropped", relayed);
        known.send(b"passed", relayed);
        assert_eq!(client.relayed(), Relayed::Indication(known.address, b"passed".to_vec()));
        client.send(&send_indication(unknown.address, b"dropped").0);
        client.permit(unknown.address);
        client.send(&send_indication(unknown.address, b"passed").0);
        unknown.reads(b"passed", relayed);
        unknown.send(b"passed", relayed);
        assert_eq!(client.relayed(), Relayed::Indication(unknown.address, b"passed".to_vec()));
    });
}

#[test]
fn permissions_of_one_allocation_are_none_of_another() {
    let config = readme().replace("\"127.0.0.3\"", "\"127.0.0.3\", \"127.0.0.4\"");
    on_each_wire_of(&config, |server, wire| {
        let [(mut one, to_one), (mut two, to_two)] =
            [allocated(server, wire), allocated(server, wire)];
        let [of_one, of_two] = [Peer::new(), Peer::at("127.0.0.4:0")];
        one.permit(of_one.address);
        two.permit(of_two.address);
        of_one.send(b"dropped", to_two);
        of_two.send(b"passed", to_two);
        assert_eq!(two.relayed(), Relayed::Indication(of_two.address, b"passed".to_vec()));
        two.send(&send_indication(of_one.address, b"dropped").0);
        two.quiet();
        one.send(&send_indication(of_one.address, b"passed").0);
        of_one.reads(b"passed", to_one);
    });
}

#[test]
fn several_peers_are_all_permitted_or_none() {
    let config = readme().replace("\"127.0.0.3\"", "\"127.0.0.3\", \"127.0.0.4\"");
    on_each_wire_of(&config, |server, wire| {
        let (mut client, relayed) = allocated(server, wire);
        let peers = [Peer::new(), Peer::at("127.0.0.4:0")];
        let [a, b] = [peers[0].address, peers[1].address];
        for (refused, code) in [
            (permission(&[a, address("10.0.0.1:1"), b]), 403),
            (permission(&[a, b, address("[2606:4700::1]:1")]), 443),
            (permission(&[a, b]).attribute(XOR_PEER_ADDRESS, &[0, 1, 0, 0]), 400),
        ] {
            assert_eq!(client.signed_code(refused), code);
        }
        client.send(&send_indication(a, b"dropped").0);
        client.send(&send_indication(b, b"dropped").0);
        assert_eq!(client.signed_code(permission(&[a, b, a])), 0);
        for peer in &peers {
            client.send(&send_indication(peer.address, b"passed").0);
            peer.reads(b"passed", relayed);
        }
    });
}

#[test]
fn a_missing_or_malformed_peer_is_400() {
    on_each_wire(|server, wire| {
        let (mut client, _) = allocated(server, wire);
        assert_eq!(client.signed_code(permission(&[])), 400);
        let request = permission(&[]);
        let good = xor_address(address("127.0.0.3:9"), request.id());
        let malformed = [
            Vec::new(),
            vec![0, 1],
            good[..7].to_vec(),
            [&good[..], &[0]].concat(),
            [&[0, 2], &good[2..]].concat(),
            [&[0, 3], &good[2..]].concat(),
            [&[0, 0], &good[2..]].concat(),
            [&[0, 1], &[0; 18][..]].concat(),
            [&[0, 2], &[0; 19][..]].concat(),
        ];
        for value in malformed {
            let request = permission(&[]).attribute(XOR_PEER_ADDRESS, &value);
            assert_eq!(client.signed_code(request), 400, "{value:02x?}");
            let request = channel_bind(0x4000, address("127.0.0.3:9"));
            let request = Out(request.0[..28].to_vec()).attribute(XOR_PEER_ADDRESS, &value);
            assert_eq!(client.signed_code(request), 400, "{value:02x?}");
        }
    });
}

#[test]
fn the_reserved_byte_of_an_address_is_ignored() {
    on_each_wire(|server, wire| {
        let (mut client, _) = allocated(server, wire);
        let request = permission(&[]);
        let mut value = xor_address(address("127.0.0.3:9"), request.id());
        value[0] = 0xFF;
        assert_eq!(client.signed_code(request.attribute(XOR_PEER_ADDRESS, &value)), 0);
    });
}

#[test]
fn more_permissions_than_fit_are_508_and_none_is_installed() {
    on_each_wire_of(&readme_but("permissions_per_allocation", 2), |server, wire| {
        let (mut client, relayed) = allocated(server, wire);
        let peer = Peer::new();
        let far = [address("9.9.9.9:1"), address("8.8.8.8:1")];
        assert_eq!(client.signed_code(permission(&[peer.address, far[0], far[1]])), 508);
        client.send(&send_indication(peer.address, b"dropped").0);
        assert_eq!(client.signed_code(permission(&[peer.address, far[0]])), 0);
        assert_eq!(client.signed_code(permission(&far[1..])), 508);
        assert_eq!(
            client.signed_code(permission(&[peer.address, far[0]])),
            0,
            "known ones are refreshed"
        );
        client.send(&send_indication(peer.address, b"passed").0);
        peer.reads(b"passed", relayed);
    });
}

#[test]
fn a_repeated_request_succeeds_again() {
    on_each_wire(|server, wire| {
        let (mut client, _) = allocated(server, wire);
        for request in
            [permission(&[Peer::new().address]), channel_bind(0x4000, Peer::new().address)]
        {
            let request = client.signed(request);
            let first = client.ask(&request);
            assert_eq!(first.code(), 0);
            assert_eq!(client.ask(&request), first);
        }
    });
}
