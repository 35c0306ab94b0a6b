//! Section 11: Send and Data indications, and ICMP.

use super::super::wire::{
    DONT_FRAGMENT, FINGERPRINT, ICMP, MESSAGE_INTEGRITY, SOFTWARE, USERNAME, xor_address,
};
use super::*;

/// A client with a permission for a peer.
#[track_caller]
fn permitted(server: &Server, wire: Wire) -> (Client, SocketAddr, Peer) {
    let (mut client, relayed) = allocated(server, wire);
    let peer = Peer::new();
    client.permit(peer.address);
    (client, relayed, peer)
}

#[test]
fn payloads_of_every_length_pass_both_ways() {
    on_each_wire(|server, wire| {
        let (mut client, relayed, peer) = permitted(server, wire);
        for len in (0..10).chain([1_200, 1_472, 9_000, 60_000]) {
            let payload: Vec<u8> = (0..len).map(|at| (at % 253) as u8).collect();
            client.send(&send_indication(peer.address, &payload).0);
            peer.reads(&payload, relayed);
            peer.send(&payload, relayed);
            assert_eq!(client.relayed(), Relayed::Indication(peer.address, payload));
        }
    });
}

#[test]
fn a_send_indication_that_is_not_whole_is_discarded() {
    on_each_wire(|server, wire| {
        let (mut client, relayed, peer) = permitted(server, wire);
        let good = || send_indication(peer.address, b"dropped");
        let bare = || Out::indication(SEND);
        let value = |indication: &Out| xor_address(peer.address, indication.id());
        let cut = {
            let indication = bare();
            let value = value(&indication);
            indication.attribute(XOR_PEER_ADDRESS, &value[..7]).attribute(DATA, b"dropped")
        };
        let other_family = {
            let indication = bare();
            let value = [&[0, 3], &value(&indication)[2..]].concat();
            indication.attribute(XOR_PEER_ADDRESS, &value).attribute(DATA, b"dropped")
        };
        for indication in [
            bare(),
            bare().attribute(DATA, b"dropped"),
            bare().xor_address(XOR_PEER_ADDRESS, peer.address),
            cut,
            other_family,
            good().attribute(0x7F00, b"must be understood"),
            good().attribute(0x0010, &[0; 4]),
            send_indication(address("[2606:4700::1]:9"), b"dropped"),
            send_indication(address("127.0.0.3:0"), b"dropped"),
            good().fingerprint().with_byte(38, 0xFF),
        ] {
            client.send(&indication.0);
        }
        if !wire.is_stream() {
            // Longer than the datagram.
            client.send(&good().counted(4).0);
        }
        client.send(&send_indication(peer.address, b"passed").0);
        peer.reads(b"passed", relayed);
        client.quiet();
    });
}

#[test]
fn what_need_not_be_understood_is_no_hindrance() {
    on_each_wire(|server, wire| {
        let (mut client, relayed, peer) = permitted(server, wire);
        let good = || send_indication(peer.address, b"passed");
        let reordered = Out::indication(SEND)
            .attribute(DATA, b"passed")
            .xor_address(XOR_PEER_ADDRESS, peer.address);
        for indication in [
            good().attribute(0xC001, b"optional"),
            good().attribute(SOFTWARE, b"a client"),
            good().fingerprint(),
            good().padded_by(0xC002, b"x", 0xFF),
            reordered,
            // The first of several counts.
            good().attribute(DATA, b"dropped").xor_address(XOR_PEER_ADDRESS, address("9.9.9.9:9")),
            // Nobody checks it, and nobody minds it.
            good().attribute(USERNAME, b"alice").attribute(MESSAGE_INTEGRITY, &[0; 20]),
        ] {
            client.send(&indication.0);
            peer.reads(b"passed", relayed);
        }
    });
}

#[test]
fn dont_fragment_is_obeyed_whichever_length_there_is() {
    on_each_wire(|server, wire| {
        let (mut client, relayed, peer) = permitted(server, wire);
        for payload in [&b""[..], b"x", &[7; 1_400]] {
            let indication = send_indication(peer.address, payload).attribute(DONT_FRAGMENT, &[]);
            client.send(&indication.0);
            peer.reads(payload, relayed);
        }
    });
}

#[test]
fn indications_of_another_five_tuple_are_of_nobody() {
    on_each_wire(|server, wire| {
        let (mut client, relayed, peer) = permitted(server, wire);
        let mut stranger = server.client(wire);
        stranger.send(&send_indication(peer.address, b"dropped").0);
        stranger.quiet();
        client.send(&send_indication(peer.address, b"passed").0);
        peer.reads(b"passed", relayed);
    });
}

#[test]
fn padding_of_a_data_indication_is_zero() {
    on_each_wire(|server, wire| {
        let (mut client, relayed, peer) = permitted(server, wire);
        peer.send(&[0xFF; 64], relayed);
        client.relayed();
        for len in 0..8 {
            peer.send(&vec![0xEE; len], relayed);
            // `In::read` looks at the padding.
            assert_eq!(client.relayed(), Relayed::Indication(peer.address, vec![0xEE; len]));
        }
    });
}

#[test]
fn an_icmp_error_is_told_with_the_peer_and_no_payload() {
    on_each_wire(|server, wire| {
        let (mut client, _, peer) = permitted(server, wire);
        let refusing = peer.address;
        // It holds the port and hears nobody; a closed one could be taken by somebody else.
        peer.socket.connect("127.0.0.3:9").expect("a peer of its own");
        for with_channel in [false, true] {
            if with_channel {
                client.bind(0x4000, refusing);
            }
            client.send(&send_indication(refusing, b"anybody?").0);
            let message = client.message();
            assert!(message.is(INDICATION, DATA_INDICATION), "also when a channel is bound");
            assert_eq!(message.xor_address(XOR_PEER_ADDRESS), refusing);
            assert_eq!(message.attribute(ICMP), Some(&[0, 0, 3, 3, 0, 0, 0, 0][..]));
            assert!(!message.has(DATA) && !message.has(FINGERPRINT));
        }
    });
}
