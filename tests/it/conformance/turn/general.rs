//! Section 5: what holds for every message.

use std::net::{IpAddr, TcpStream, UdpSocket};

use super::super::wire::{
    ALLOCATE, BINDING, CHANNEL_BIND, CREATE_PERMISSION, DATA, DATA_INDICATION, ERROR, INDICATION,
    LIFETIME, NONCE, Out, REALM, REFRESH, REQUEST, REQUESTED_TRANSPORT, SEND, SOFTWARE, SUCCESS,
    XOR_MAPPED_ADDRESS, XOR_PEER_ADDRESS,
};
use super::*;
use crate::harness::Setup;

/// A TCP connection from this very address.
fn bound_stream(from: SocketAddr, to: SocketAddr) -> TcpStream {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&from.into()).expect("the port is free for TCP");
    socket.connect(&to.into()).expect("somebody listens");
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    socket.into()
}

#[test]
fn every_request_but_binding_is_to_be_authenticated() {
    on_each_wire(|server, wire| {
        let (mut client, _) = allocated(server, wire);
        let mut stranger = server.client(wire);
        for method in [ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND] {
            for client in [&mut client, &mut stranger] {
                let answer = client.ask(&Out::request(method));
                assert_eq!(
                    (answer.code(), answer.has(REALM), answer.has(NONCE)),
                    (401, true, true)
                );
                assert!(!answer.has(SOFTWARE), "strangers are told nothing");
            }
        }
        assert!(stranger.ask(&Out::request(BINDING)).is(SUCCESS, BINDING));
    });
}

#[test]
fn without_an_allocation_requests_are_437_and_packets_are_ignored() {
    on_each_wire(|server, wire| {
        let peer = Peer::new();
        let (mut other, relayed) = allocated(server, wire);
        other.permit(peer.address);
        let mut client = server.client(wire);
        let requests = [
            Out::refresh(600),
            Out::refresh(0),
            permission(&[peer.address]),
            permission(&[]),
            channel_bind(0x4000, peer.address),
            channel_bind(0x5000, peer.address),
            Out::request(CHANNEL_BIND),
        ];
        for request in requests {
            assert_eq!(client.signed_code(request), 437);
        }
        client.send(&send_indication(peer.address, b"not relayed").0);
        client.send_channel(0x4000, b"not relayed");
        client.quiet();
        other.send(&send_indication(peer.address, b"relayed").0);
        peer.reads(b"relayed", relayed);
    });
}

#[test]
fn another_transport_is_another_five_tuple() {
    let server = Server::start(readme());
    // No other test is at this address, so a port that is free for UDP is free for TCP.
    let socket = UdpSocket::bind("127.0.0.78:0").expect("a socket");
    let mut datagrams = Client::on(Wire::Udp, socket, server.address(Wire::Udp));
    let to_datagrams = datagrams.allocate();
    // The same address and port of the client, over TCP.
    let stream = bound_stream(datagrams.local, server.address(Wire::Tcp));
    let mut streamed = Client::over(Wire::Tcp, stream, datagrams.local, server.address(Wire::Tcp));
    assert_eq!(streamed.signed_code(Out::refresh(600)), 437);
    assert_ne!(streamed.allocate(), to_datagrams);
    server.daemon.stop();
}

#[test]
fn another_address_of_the_server_is_another_five_tuple() {
    let config = readme_with("relay_addresses = [\"127.0.0.1\"]");
    let daemon = Setup::new(&config).variable("TURNCAST__TURN__LISTEN", "udp://0.0.0.0:0").start();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut clients = ["127.0.0.1", "127.0.0.5"].map(|server| {
        let server = (server.parse::<IpAddr>().expect("an address"), daemon.turn().port()).into();
        // `receive` sees to it that answers come from the address that was asked.
        Client::on(Wire::Udp, socket.try_clone().expect("a descriptor"), server)
    });
    let first = clients[0].allocate();
    assert_eq!(clients[1].signed_code(Out::refresh(600)), 437);
    let second = clients[1].allocate();
    assert_ne!(first, second);
    assert_eq!(clients[0].signed_code(Out::refresh(0)), 0);
    let peer = Peer::new();
    clients[1].bind(0x4000, peer.address);
    peer.send(b"to the second", second);
    assert_eq!(clients[1].relayed(), Relayed::Channel(0x4000, b"to the second".to_vec()));
    daemon.stop();
}

#[test]
fn another_username_gets_441_and_changes_nothing() {
    on_each_wire(|server, wire| {
        let peer = Peer::new();
        let (mut client, relayed) = allocated(server, wire);
        client.is_now("bob", "password-of-bob-22");
        for request in [
            Out::refresh(0),
            Out::refresh(600),
            permission(&[peer.address]),
            channel_bind(0x4000, peer.address),
        ] {
            assert_eq!(client.signed_code(request), 441);
        }
        assert_eq!(
            client.signed_code(Out::allocate()),
            437,
            "of Allocate the five-tuple counts first"
        );
        client.is_now("alice", "password-of-alice-1");
        client.send(&send_indication(peer.address, b"no permission").0);
        client.permit(peer.address);
        client.send(&send_indication(peer.address, b"permission").0);
        peer.reads(b"permission", relayed);
    });
}

#[test]
fn software_is_named_in_allocate_and_refresh() {
    on_each_wire(|server, wire| {
        let (mut client, _) = allocated(server, wire);
        assert!(client.ask_signed(Out::refresh(600)).has(SOFTWARE));
        assert!(client.ask_signed(Out::allocate()).has(SOFTWARE), "in errors as well");
        assert!(client.ask_signed(Out::refresh(0)).has(SOFTWARE));
        assert!(client.ask_signed(Out::allocate()).has(SOFTWARE));
    });
}

#[test]
fn binding_is_answered_within_an_allocation() {
    on_each_wire(|server, wire| {
        let (mut client, _) = allocated(server, wire);
        let answer = client.ask(&Out::request(BINDING));
        assert_eq!(answer.xor_address(XOR_MAPPED_ADDRESS), client.local);
    });
}

#[test]
fn messages_of_a_class_that_a_method_has_not_are_ignored() {
    on_each_wire(|server, wire| {
        let peer = Peer::new();
        let (mut client, _) = allocated(server, wire);
        for method in [ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND, DATA_INDICATION] {
            let indication = Out::indication(method)
                .attribute(REQUESTED_TRANSPORT, &[17, 0, 0, 0])
                .attribute(LIFETIME, &[0; 4])
                .xor_address(XOR_PEER_ADDRESS, peer.address);
            client.send(&indication.0);
            for class in [SUCCESS, ERROR] {
                client.send(&Out::new(class, method).0);
            }
        }
        for method in [SEND, DATA_INDICATION] {
            let request = client.signed(
                Out::new(REQUEST, method)
                    .xor_address(XOR_PEER_ADDRESS, peer.address)
                    .attribute(DATA, b"x"),
            );
            client.send(&request.0);
        }
        client.quiet();
        assert_eq!(client.signed_code(Out::refresh(600)), 0, "the allocation lives");
    });
}

#[test]
fn methods_and_first_bytes_of_nobody_are_ignored() {
    on_each_wire(|server, wire| {
        let (mut client, _) = allocated(server, wire);
        // On a stream the others have no end that anybody knows.
        let firsts = if wire.is_stream() { 0x50..=0xFF } else { 0x04..=0xFF };
        for first in firsts.filter(|first| !(0x40..0x50).contains(first)) {
            client.send(&[first, 0, 0, 4, 1, 2, 3, 4]);
        }
        client.send(&Out::new(REQUEST, 0x0FF).0);
        client.send(&Out::new(INDICATION, 0x0FF).0);
        client.quiet();
    });
}

#[test]
fn relayed_addresses_are_unique_and_in_the_dynamic_range() {
    on_each_wire(|server, wire| {
        let mut clients: Vec<_> = (0..40).map(|_| allocated(server, wire)).collect();
        let mut ports: Vec<u16> = clients.iter().map(|(_, relayed)| relayed.port()).collect();
        assert!(ports.iter().all(|port| *port >= 49_152));
        assert!(!ports.is_sorted(), "ports are drawn at random");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), clients.len());
        for (client, relayed) in &mut clients {
            assert!(UdpSocket::bind(*relayed).is_err(), "the port is ours");
            assert_eq!(client.signed_code(Out::refresh(0)), 0);
        }
    });
}
