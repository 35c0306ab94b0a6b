//! Sections 3.1, 12.5 and 12.6 over TCP and TLS.

use super::super::wire::BINDING;
use super::*;
use crate::harness::free_again;

#[test]
fn messages_come_in_any_pieces_and_any_number_at_once() {
    on_wires(&Wire::STREAMS, |server, wire| {
        let (mut client, relayed) = allocated(server, wire);
        let peer = Peer::new();
        client.bind(0x4000, peer.address);
        let mut all = Vec::new();
        for len in 0..9u8 {
            let mut message = channel_message(0x4000, &vec![len; len.into()]);
            message.resize(message.len().next_multiple_of(4), 0xAA);
            all.extend(message);
            all.extend(send_indication(peer.address, &vec![len; len.into()]).0);
            all.extend(Out::request(BINDING).0);
        }
        for size in [1, 3, 64, all.len()] {
            for piece in all.chunks(size) {
                client.send(piece);
            }
            for len in 0..9u8 {
                peer.reads(&vec![len; len.into()], relayed);
                peer.reads(&vec![len; len.into()], relayed);
                assert!(client.message().is(SUCCESS, BINDING));
            }
        }
    });
}

#[test]
fn what_is_relayed_to_a_stream_is_padded_and_aligned() {
    on_wires(&Wire::STREAMS, |server, wire| {
        let (mut client, relayed) = allocated(server, wire);
        let (peer, neighbour) = (Peer::new(), Peer::new());
        client.bind(0x4000, peer.address);
        for len in (0..9).chain([1_199, 65_507]) {
            // `receive` takes the padding that section 12.5 asks for; without it the next message
            // would not begin where it is looked for.
            peer.send(&vec![1; len], relayed);
            assert_eq!(client.relayed(), Relayed::Channel(0x4000, vec![1; len]));
            neighbour.send(&vec![2; len], relayed);
            assert_eq!(client.relayed(), Relayed::Indication(neighbour.address, vec![2; len]));
        }
        client.quiet();
    });
}

#[test]
fn reserved_and_unbound_channels_are_discarded_and_the_stream_goes_on() {
    on_wires(&Wire::STREAMS, |server, wire| {
        let (mut client, relayed) = allocated(server, wire);
        let peer = Peer::new();
        client.bind(0x4000, peer.address);
        for number in [0x4001, 0x4FFF, 0x5000, 0x6ABC, 0x7FFF, 0x8000, 0xFFFF] {
            for payload in [&b""[..], b"dropped"] {
                client.send_channel(number, payload);
            }
        }
        client.send_channel(0x4000, b"passed");
        peer.reads(b"passed", relayed);
        client.quiet();
    });
}

#[test]
fn the_end_of_a_connection_is_the_end_of_its_allocation() {
    let config = readme().replace("_user = 1000", "_user = 1");
    let server = Server::start(&config);
    for wire in Wire::STREAMS {
        let (client, relayed) = allocated(&server, wire);
        assert_eq!(server.client(wire).signed_code(Out::allocate()), 486);
        drop(client);
        // Both the port and the unit of the quota are free again.
        server.daemon.wait_for_metric("turncast_allocations", 0);
        free_again(relayed);
        let (mut next, _) = allocated(&server, wire);
        assert_eq!(next.signed_code(Out::refresh(0)), 0);
    }
    server.daemon.stop();
}

#[test]
fn a_connection_may_have_one_allocation_after_another() {
    on_wires(&Wire::STREAMS, |server, wire| {
        let mut client = server.client(wire);
        for _ in 0..3 {
            client.allocate();
            assert_eq!(client.signed_code(Out::allocate()), 437);
            assert_eq!(client.signed_code(Out::refresh(0)), 0);
            assert_eq!(client.signed_code(Out::refresh(0)), 437);
        }
    });
}
