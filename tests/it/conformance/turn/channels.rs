//! Section 12: ChannelBind and ChannelData.

use super::*;

/// A client with channel 0x4000 to a peer.
#[track_caller]
fn bound(server: &Server, wire: Wire) -> (Client, SocketAddr, Peer) {
    let (mut client, relayed) = allocated(server, wire);
    let peer = Peer::new();
    client.bind(0x4000, peer.address);
    (client, relayed, peer)
}

#[test]
fn payloads_of_every_length_pass_both_ways() {
    on_each_wire(|server, wire| {
        let (mut client, relayed, peer) = bound(server, wire);
        for len in (0..10).chain([1_200, 9_000, 60_000]) {
            let payload: Vec<u8> = (0..len).map(|at| (at % 253) as u8).collect();
            client.send_channel(0x4000, &payload);
            peer.reads(&payload, relayed);
            peer.send(&payload, relayed);
            assert_eq!(client.relayed(), Relayed::Channel(0x4000, payload));
        }
    });
}

#[test]
fn numbers_from_4000_to_4fff_can_be_bound_and_no_others() {
    on_each_wire(|server, wire| {
        let (mut client, _) = allocated(server, wire);
        let peer = address("127.0.0.3:9");
        for number in [0, 1, 0x3FFF, 0x5000, 0x6000, 0x7FFE, 0x7FFF, 0x8000, 0xFFFF] {
            assert_eq!(client.signed_code(channel_bind(number, peer)), 400, "{number:#06x}");
        }
        assert_eq!(client.signed_code(channel_bind(0x4000, peer)), 0);
        assert_eq!(client.signed_code(channel_bind(0x4FFF, address("127.0.0.3:10"))), 0);
        let with_rffu = Out::request(CHANNEL_BIND)
            .attribute(CHANNEL_NUMBER, &[0x40, 1, 0xFF, 0xFF])
            .xor_address(XOR_PEER_ADDRESS, address("127.0.0.3:11"));
        assert_eq!(client.signed_code(with_rffu), 0, "RFFU is ignored");
    });
}

#[test]
fn number_and_peer_must_both_be_there() {
    on_each_wire(|server, wire| {
        let (mut client, _) = allocated(server, wire);
        let peer = address("127.0.0.3:9");
        let number = |value: &[u8]| Out::request(CHANNEL_BIND).attribute(CHANNEL_NUMBER, value);
        for request in [
            Out::request(CHANNEL_BIND),
            number(&[0x40, 0, 0, 0]),
            Out::request(CHANNEL_BIND).xor_address(XOR_PEER_ADDRESS, peer),
            number(&[0x40, 0]).xor_address(XOR_PEER_ADDRESS, peer),
            number(&[0x40, 0, 0, 0, 0]).xor_address(XOR_PEER_ADDRESS, peer),
            number(&[]).xor_address(XOR_PEER_ADDRESS, peer),
        ] {
            assert_eq!(client.signed_code(request), 400);
        }
    });
}

#[test]
fn a_number_has_one_peer_and_a_peer_one_number() {
    on_each_wire(|server, wire| {
        let (mut client, relayed, peer) = bound(server, wire);
        let second = Peer::new();
        assert_eq!(client.signed_code(channel_bind(0x4000, second.address)), 400);
        assert_eq!(client.signed_code(channel_bind(0x4001, peer.address)), 400);
        assert_eq!(client.signed_code(channel_bind(0x4000, address("[2606:4700::1]:9"))), 400);
        assert_eq!(client.signed_code(channel_bind(0x4000, peer.address)), 0, "a refresh");
        // Another port is another peer, of the same address, too.
        assert_eq!(client.signed_code(channel_bind(0x4001, second.address)), 0);
        for (number, peer) in [(0x4000, &peer), (0x4001, &second)] {
            client.send_channel(number, b"to each his own");
            peer.reads(b"to each his own", relayed);
        }
        // What was refused has bound nothing, and another allocation has its own numbers.
        let (mut other, to_other) = allocated(server, wire);
        other.bind(0x4000, second.address);
        other.send_channel(0x4000, b"of another");
        second.reads(b"of another", to_other);
    });
}

#[test]
fn a_binding_installs_the_permission_for_the_address() {
    on_each_wire(|server, wire| {
        let (mut client, relayed, peer) = bound(server, wire);
        let neighbour = Peer::new();
        neighbour.send(b"another port", relayed);
        let expected = Relayed::Indication(neighbour.address, b"another port".to_vec());
        assert_eq!(client.relayed(), expected, "no channel is bound to this port");
        client.send(&send_indication(neighbour.address, b"hello").0);
        neighbour.reads(b"hello", relayed);
        // The client may mix both; the server may not.
        client.send(&send_indication(peer.address, b"indication").0);
        peer.reads(b"indication", relayed);
        peer.send(b"channel", relayed);
        assert_eq!(client.relayed(), Relayed::Channel(0x4000, b"channel".to_vec()));
    });
}

#[test]
fn a_refused_binding_installs_no_permission() {
    on_each_wire(|server, wire| {
        let (mut client, relayed) = allocated(server, wire);
        let peer = Peer::new();
        assert_eq!(client.signed_code(channel_bind(0x5000, peer.address)), 400);
        client.send(&send_indication(peer.address, b"dropped").0);
        client.permit(peer.address);
        client.send(&send_indication(peer.address, b"passed").0);
        peer.reads(b"passed", relayed);
    });
}

#[test]
fn a_length_that_is_not_there_is_discarded_and_padding_is_cut_off() {
    on_wires(&Wire::DATAGRAMS, |server, wire| {
        let (mut client, relayed, peer) = bound(server, wire);
        for dropped in [
            &[0x40][..],
            &[0x40, 0],
            &[0x40, 0, 0],
            &[0x40, 0, 0, 1],
            &[0x40, 0, 0, 5, 1, 2, 3, 4],
            &[0x40, 0, 0xFF, 0xFF, 1, 2, 3, 4],
            // Not bound, and never to be.
            &[0x40, 1, 0, 4, 1, 2, 3, 4],
            &[0x4F, 0xFF, 0, 4, 1, 2, 3, 4],
            &[0x50, 0, 0, 4, 1, 2, 3, 4],
            &[0x7F, 0xFF, 0, 4, 1, 2, 3, 4],
            &[0xFF, 0xFF, 0, 4, 1, 2, 3, 4],
        ] {
            client.send(dropped);
        }
        for padding in 0..9 {
            client.send(&[&channel_message(0x4000, b"whole")[..], &vec![0xAA; padding]].concat());
            peer.reads(b"whole", relayed);
        }
        client.quiet();
    });
}

#[test]
fn more_channels_than_fit_are_508() {
    on_each_wire_of(&readme_but("channels_per_allocation", 2), |server, wire| {
        let (mut client, _, peer) = bound(server, wire);
        client.bind(0x4001, address("127.0.0.3:1"));
        assert_eq!(client.signed_code(channel_bind(0x4002, address("127.0.0.3:2"))), 508);
        assert_eq!(
            client.signed_code(channel_bind(0x4000, peer.address)),
            0,
            "a refresh needs no room"
        );
    });
}

#[test]
fn a_channel_of_another_five_tuple_is_not_bound() {
    on_each_wire(|server, wire| {
        let (mut client, relayed, peer) = bound(server, wire);
        let (mut other, _) = allocated(server, wire);
        other.send_channel(0x4000, b"dropped");
        other.quiet();
        client.send_channel(0x4000, b"passed");
        peer.reads(b"passed", relayed);
    });
}
