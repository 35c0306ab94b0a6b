//! Sections 9.2, 21.1 to 21.4: whom a client reaches, which is nobody inside the host or its
//! network, however the address is written.

use super::super::wire::BINDING;
use super::super::wire::{REQUESTED_ADDRESS_FAMILY, xor_address};
use super::*;

/// What nobody may reach who has not been allowed to.
const FORBIDDEN: &[&str] = &[
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.2",
    "127.255.255.255",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
];

const FORBIDDEN_IPV6: &[&str] = &[
    "::",
    "::2",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:0.0.0.0",
    "::ffff:10.0.0.1",
    "::ffff:9.9.9.9",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::9.9.9.9",
    "2002:7f00:1::1",
    "2002:a00:1::1",
    "2002:909:909::1",
    "2001::1",
    "2606:4700::5efe:127.0.0.1",
    "fc00::1",
    "fd00::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "2001:db8::1",
    "100::1",
];

#[test]
fn addresses_inside_are_403_in_every_request() {
    on_each_wire(|server, wire| {
        let (mut client, _) = allocated(server, wire);
        for text in FORBIDDEN {
            let peer = address(&format!("{text}:9"));
            assert_eq!(client.signed_code(permission(&[peer])), 403, "{peer}");
            assert_eq!(client.signed_code(channel_bind(0x4000, peer)), 403, "{peer}");
        }
        let mut six = server.client(wire);
        let request = Out::allocate().attribute(REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]);
        assert_eq!(six.signed_code(request), 0);
        for text in FORBIDDEN_IPV6 {
            let peer = address(&format!("[{text}]:9"));
            assert_eq!(six.signed_code(permission(&[peer])), 403, "{peer}");
            assert_eq!(six.signed_code(channel_bind(0x4000, peer)), 403, "{peer}");
        }
        for (client, peer) in [(&mut client, "9.9.9.9:9"), (&mut six, "[2606:4700::1]:9")] {
            assert_eq!(client.signed_code(permission(&[address(peer)])), 0);
        }
    });
}

#[test]
fn a_port_that_nobody_can_have_is_403_for_a_channel() {
    on_each_wire(|server, wire| {
        let (mut client, _) = allocated(server, wire);
        assert_eq!(client.signed_code(channel_bind(0x4000, address("127.0.0.3:0"))), 403);
        assert_eq!(client.signed_code(permission(&[address("127.0.0.3:0")])), 0);
    });
}

#[test]
fn what_is_denied_stays_so_beside_what_is_allowed() {
    let config = readme_with("deny_peers = [\"9.9.9.0/24\"]");
    let config = config.replace("\"127.0.0.3\"", "\"127.0.0.3\", \"10.1.0.0/16\", \"9.9.0.0/16\"");
    on_each_wire_of(&config, |server, wire| {
        let (mut client, _) = allocated(server, wire);
        for (peer, code) in [
            ("10.1.2.3:9", 0),
            ("10.2.2.3:9", 403),
            ("9.9.9.9:9", 403),
            ("9.9.8.9:9", 0),
            ("127.0.0.3:9", 0),
            ("127.0.0.4:9", 403),
        ] {
            assert_eq!(client.signed_code(permission(&[address(peer)])), code, "{peer}");
        }
    });
}

#[test]
fn of_the_address_that_is_relayed_from_only_relayed_streams_are_reached() {
    on_each_wire(|server, wire| {
        let (mut client, relayed) = allocated(server, wire);
        let (mut other, to_other) = allocated(server, wire);
        let service = Peer::at("127.0.0.1:0");
        // A permission has no port, so it is granted.
        assert_eq!(client.signed_code(permission(&[service.address, to_other])), 0);
        other.permit(relayed);
        client.bind(0x4000, service.address);
        client.bind(0x4001, server.address(Wire::Udp));
        client.send_channel(0x4000, b"dropped");
        client.send_channel(0x4001, &Out::request(BINDING).0);
        client.send(&send_indication(service.address, b"dropped").0);
        let binding = Out::request(BINDING);
        client.send(&send_indication(server.address(Wire::Udp), &binding.0).0);
        service.send(b"dropped", relayed);
        // What comes behind all of that is the first to arrive, in both directions.
        client.send(&send_indication(to_other, b"passed").0);
        assert_eq!(other.relayed(), Relayed::Indication(relayed, b"passed".to_vec()));
        other.send(&send_indication(relayed, b"and back").0);
        assert_eq!(client.relayed(), Relayed::Indication(to_other, b"and back".to_vec()));
        service.socket.set_nonblocking(true).expect("an option of sockets");
        assert!(service.socket.recv(&mut [0; 64]).is_err(), "nothing got to the service");
        // A relayed address that is gone is one of these services.
        assert_eq!(other.signed_code(Out::refresh(0)), 0);
        client.send(&send_indication(to_other, b"dropped").0);
        client.quiet();
    });
}

#[test]
fn relayed_streams_reach_each_other_through_channels() {
    on_each_wire(|server, wire| {
        let (mut one, to_one) = allocated(server, wire);
        let (mut two, to_two) = allocated(server, Wire::Udp);
        one.bind(0x4000, to_two);
        two.bind(0x4FFF, to_one);
        for payload in [&b""[..], b"x", &[7; 1_200]] {
            one.send_channel(0x4000, payload);
            assert_eq!(two.relayed(), Relayed::Channel(0x4FFF, payload.to_vec()));
            two.send_channel(0x4FFF, payload);
            assert_eq!(one.relayed(), Relayed::Channel(0x4000, payload.to_vec()));
        }
        // To itself as well: it is a relayed address like any other.
        one.permit(to_one);
        one.send(&send_indication(to_one, b"round").0);
        assert_eq!(one.relayed(), Relayed::Indication(to_one, b"round".to_vec()));
    });
}

#[test]
fn loopback_is_closed_until_it_is_opened() {
    let config = readme().replace("allow_peers = [\"127.0.0.3\"]\n", "");
    on_each_wire_of(&config, |server, wire| {
        let (mut client, relayed) = allocated(server, wire);
        let peer = Peer::new();
        assert_eq!(client.signed_code(permission(&[peer.address])), 403);
        assert_eq!(client.signed_code(channel_bind(0x4000, peer.address)), 403);
        client.send(&send_indication(peer.address, b"dropped").0);
        client.send_channel(0x4000, b"dropped");
        peer.send(b"dropped", relayed);
        client.quiet();
        peer.socket.set_nonblocking(true).expect("an option of sockets");
        assert!(peer.socket.recv(&mut [0; 64]).is_err());
    });
}

#[test]
fn peers_on_the_first_address_of_loopback_work_with_another_to_relay_from() {
    let config = readme_with("relay_addresses = [\"127.0.0.2\", \"::1\"]");
    let config = config.replace("\"127.0.0.3\"", "\"127.0.0.1\"");
    on_each_wire_of(&config, |server, wire| {
        let (mut client, relayed) = allocated(server, wire);
        assert_eq!(relayed.ip(), address("127.0.0.2:1").ip());
        let peer = Peer::at("127.0.0.1:0");
        client.bind(0x4000, peer.address);
        client.send_channel(0x4000, b"there");
        peer.reads(b"there", relayed);
        peer.send(b"and back", relayed);
        assert_eq!(client.relayed(), Relayed::Channel(0x4000, b"and back".to_vec()));
    });
}

#[test]
fn a_forbidden_peer_hides_behind_nobody() {
    on_each_wire(|server, wire| {
        let (mut client, _) = allocated(server, wire);
        let request = permission(&[address("9.9.9.9:9")]);
        // The address counts as it is after the XOR, whatever the first byte is.
        let mut value = xor_address(address("127.0.0.2:9"), request.id());
        value[0] = 0x7F;
        assert_eq!(client.signed_code(request.attribute(XOR_PEER_ADDRESS, &value)), 403);
        client.send(&send_indication(address("9.9.9.9:9"), b"dropped").0);
        // Nor does what stands behind the integrity.
        let request = client.signed(permission(&[address("9.9.9.9:9")]));
        let request = request.xor_address(XOR_PEER_ADDRESS, address("127.0.0.2:9"));
        assert_eq!(client.ask(&request).code(), 0);
        client.send(&send_indication(address("127.0.0.2:9"), b"dropped").0);
        client.quiet();
    });
}
