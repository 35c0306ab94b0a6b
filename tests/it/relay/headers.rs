//! What stands in the IP header, and what comes back instead of a datagram.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use turncast::metrics::DropReason;
use turncast::relay::Options;
use turncast::turn;
use webrtc_stun::attributes as attr;

use super::client::{Client, DEADLINE, Relayed, relayed_addresses};
use super::{Fixture, engine, ip, peer, wait_until};
use crate::harness::in_network;

/// A peer that holds its port and is connected elsewhere, so the kernel answers by ICMP.
fn closed_peer() -> (UdpSocket, SocketAddr) {
    let (socket, local) = peer();
    socket.connect(("127.0.0.3", 9)).expect("a peer of its own");
    (socket, local)
}

#[test]
fn a_closed_port_is_told_by_an_indication() {
    let fixture = Fixture::start(&["127.0.0.1:0"], 1);
    let mut client = fixture.client();
    client.allocate().expect("an allocation");
    let (_closed, to) = closed_peer();
    client.permit(&[to]).expect("a permission");
    for _ in 0..20 {
        client.send_indication(to, b"anybody?");
        // Destination unreachable, port unreachable.
        assert_eq!(client.receive(), Relayed::Icmp(to, 3, 3));
    }
    client.bind_channel(0x4000, to).expect("a channel");
    client.send_channel(0x4000, b"anybody?");
    assert_eq!(client.receive(), Relayed::Icmp(to, 3, 3));
    assert_eq!(fixture.dropped(DropReason::SendFailed), 0);
}

/// A loopback of its own with addresses of IPv6 for a relay and a peer. The kernel gives them their
/// routes a little later than it says so.
const OWN_NETWORK_OF_BOTH: &str = "ip link set lo mtu 1500 up && \
     ip address add fd00::1/128 dev lo nodad && ip address add fd00::2/128 dev lo nodad && \
     until [ \"$(ip -6 route show table local | grep -c fd00::)\" = 2 ]; do :; done";

#[test]
fn a_closed_port_of_ipv6_is_told_by_an_indication() {
    let test = "relay::headers::a_closed_port_of_ipv6_is_told_by_an_indication";
    if !in_network(test, OWN_NETWORK_OF_BOTH) {
        return;
    }
    let mut engine = engine();
    let relay = ip("fd00::2");
    engine.relay_addresses = vec![turn::RelayAddress { public: relay, local: relay }];
    engine.allow_peers = vec!["fd00::1/128".parse().expect("a prefix")];
    // Nobody says which family, and the only one is there.
    engine.default_family = turn::DefaultFamily::Client;
    let fixture = Fixture::start_with(&["127.0.0.1:0"], 1, engine, Options::default());
    let mut client = fixture.client();
    assert_eq!(client.allocate().map(|relayed| relayed.ip()), Ok(relay));
    let closed = UdpSocket::bind("[fd00::1]:0").expect("a peer socket");
    let to = closed.local_addr().expect("an address");
    closed.connect("[fd00::1]:9").expect("a peer of its own");
    client.permit(&[to]).expect("a permission");
    for _ in 0..20 {
        client.send_indication(to, b"anybody?");
        // Destination unreachable, port unreachable.
        assert_eq!(client.receive(), Relayed::Icmp(to, 1, 4));
    }
}

#[test]
fn many_errors_at_once_are_told_in_part_and_harm_nobody() {
    let fixture = Fixture::start(&["127.0.0.1:0"], 1);
    let mut client = fixture.client();
    let relayed = client.allocate().expect("an allocation");
    let (live, to_live) = peer();
    let closed: Vec<_> = (0..8).map(|_| closed_peer()).collect();
    client.permit(&[to_live]).expect("a permission");
    client.socket.set_read_timeout(Some(Duration::from_millis(1))).expect("a deadline");
    let mut told = 0;
    for round in 0..200u32 {
        for (_, to) in &closed {
            client.send_indication(*to, &round.to_be_bytes());
        }
        let mut buffer = [0; 256];
        while let Ok(len) = client.socket.recv(&mut buffer) {
            assert!(len < 100, "an indication without payload");
            told += 1;
        }
    }
    assert!(told > 0 && told <= 1_600, "{told} told");
    client.socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    client.send_indication(to_live, b"still here");
    assert_eq!(live.recv_from(&mut [0; 16]).expect("a datagram"), (10, relayed));
    assert_eq!(fixture.dropped(DropReason::SendFailed), 0);
}

/// What the IP header of a datagram says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) class: u8,
    dont_fragment: bool,
    pub(super) payload: Vec<u8>,
}

/// Sees every datagram to one address as it comes off the wire.
pub(super) struct Wire {
    socket: Socket,
    address: SocketAddr,
}

impl Wire {
    pub(super) fn to(address: SocketAddr) -> Self {
        // A raw socket of IPv6 does not show the header; one below it does, as it arrives.
        let socket = match address {
            SocketAddr::V4(_) => Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)),
            SocketAddr::V6(_) => {
                let ethertype = Protocol::from(i32::from(0x86DD_u16.to_be()));
                Socket::new(Domain::PACKET, Type::DGRAM, Some(ethertype))
            }
        };
        let socket = socket.expect("a raw socket");
        if address.is_ipv4() {
            socket.bind(&SocketAddr::new(address.ip(), 0).into()).expect("an address");
        }
        socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        Self { socket, address }
    }

    /// The next datagram.
    pub(super) fn next(&mut self) -> Packet {
        let mut bytes = [0; 65_536];
        loop {
            let len = self.socket.read(&mut bytes).expect("a packet in time");
            let (header, class) = match self.address {
                SocketAddr::V4(_) => (usize::from(bytes[0] & 0x0F) * 4, bytes[1]),
                SocketAddr::V6(_) => (40, bytes[0] << 4 | bytes[1] >> 4),
            };
            let to = match self.address.ip() {
                IpAddr::V4(ip) => bytes[16..20] == ip.octets(),
                IpAddr::V6(ip) => bytes[6] == 17 && bytes[24..40] == ip.octets(),
            };
            if to && bytes[header + 2..header + 4] == self.address.port().to_be_bytes() {
                let dont_fragment = self.address.is_ipv4() && bytes[6] & 0x40 != 0;
                let payload = bytes[header + 8..len].to_vec();
                return Packet { class, dont_fragment, payload };
            }
        }
    }
}

/// A loopback of its own with a small MTU, and the right to see its packets.
pub(super) const OWN_NETWORK: &str = "ip link set lo mtu 1500 up";

pub(super) fn set_class(socket: &UdpSocket, class: u8) {
    let local = socket.local_addr().expect("bound");
    let socket = SockRef::from(socket);
    let set = match local {
        SocketAddr::V4(_) => socket.set_tos_v4(class.into()),
        SocketAddr::V6(_) => socket.set_tclass_v6(class.into()),
    };
    set.expect("a class");
}

/// Whether what goes from a client of one family over a relayed address of another keeps its
/// class, both ways, in indications and in a channel.
fn keeps_the_class(client: &str, relay: &str, peer: &str) {
    let mut engine = engine();
    engine.relay_addresses = vec![turn::RelayAddress { public: ip(relay), local: ip(relay) }];
    let prefix = if ip(peer).is_ipv4() { 32 } else { 128 };
    engine.allow_peers = vec![format!("{peer}/{prefix}").parse().expect("a prefix")];
    engine.default_family = turn::DefaultFamily::Client;
    let listen = if ip(client).is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let fixture = Fixture::start_with(&[listen], 1, engine, Options::default());
    let server = SocketAddr::new(ip(client), fixture.server.port());
    let mut client = Client::new(server, "alice", "wonder");
    let answer = client.allocate_with(&[]).expect("an allocation");
    let relayed = relayed_addresses(&answer)[0];
    assert_eq!(relayed.ip(), ip(relay));
    let peer = UdpSocket::bind((peer, 0)).expect("a peer socket");
    let (to, here) = (peer.local_addr(), client.socket.local_addr());
    let (to, here) = (to.expect("an address"), here.expect("an address"));
    client.permit(&[to]).expect("a permission");
    let (mut to_peer, mut to_client) = (Wire::to(to), Wire::to(here));
    for channel in [false, true] {
        if channel {
            client.bind_channel(0x4000, to).expect("a channel");
        }
        // Expedited forwarding, ECT(0), congestion experienced, all bits, and nothing again.
        for class in [0xB8, 0x02, 0x03, 0xFF, 0x00] {
            set_class(&client.socket, class);
            set_class(&peer, class);
            match channel {
                false => client.send_indication(to, b"there"),
                true => client.send_channel(0x4000, b"there"),
            }
            let payload = b"there".to_vec();
            assert_eq!(to_peer.next(), Packet { class, dont_fragment: false, payload });
            peer.send_to(b"back", relayed).expect("a send");
            // Answers to requests are ours, and of the default class.
            let found = std::iter::repeat_with(|| to_client.next());
            let mut back = found.filter(|packet| packet.payload.windows(4).any(|at| at == b"back"));
            assert_eq!(back.next().map(|packet| packet.class), Some(class));
        }
    }
}

#[test]
fn dscp_and_ecn_are_handed_on_both_ways() {
    if !in_network("relay::headers::dscp_and_ecn_are_handed_on_both_ways", OWN_NETWORK) {
        return;
    }
    keeps_the_class("127.0.0.1", "127.0.0.2", "127.0.0.3");
}

#[test]
fn dscp_and_ecn_are_handed_on_over_ipv6() {
    if !in_network("relay::headers::dscp_and_ecn_are_handed_on_over_ipv6", OWN_NETWORK_OF_BOTH) {
        return;
    }
    keeps_the_class("::1", "fd00::2", "fd00::1");
}

#[test]
fn dscp_and_ecn_are_handed_on_between_the_families() {
    if !in_network(
        "relay::headers::dscp_and_ecn_are_handed_on_between_the_families",
        OWN_NETWORK_OF_BOTH,
    ) {
        return;
    }
    keeps_the_class("::1", "127.0.0.2", "127.0.0.3");
    keeps_the_class("127.0.0.1", "fd00::2", "fd00::1");
}

#[test]
fn dont_fragment_is_set_for_the_datagram_that_asks_for_it() {
    if !in_network(
        "relay::headers::dont_fragment_is_set_for_the_datagram_that_asks_for_it",
        OWN_NETWORK,
    ) {
        return;
    }
    let fixture = Fixture::start(&["127.0.0.1:0"], 1);
    let mut client = fixture.client();
    let asks = (attr::ATTR_DONT_FRAGMENT, &[][..]);
    let answer = client.allocate_with(&[asks]).expect("an allocation");
    assert_eq!(relayed_addresses(&answer).len(), 1);
    let (peer, to) = peer();
    client.permit(&[to]).expect("a permission");
    client.bind_channel(0x4000, to).expect("a channel");
    let mut wire = Wire::to(to);
    for _ in 0..20 {
        client.send_indication(to, b"parts");
        client.send_unfragmented(to, b"whole");
        client.send_channel(0x4000, b"channel");
        client.send_unfragmented(to, b"whole");
        for (text, dont_fragment) in
            [("parts", false), ("whole", true), ("channel", false), ("whole", true)]
        {
            let payload = text.as_bytes().to_vec();
            assert_eq!(wire.next(), Packet { class: 0, dont_fragment, payload });
        }
    }
    // What is too large for the link goes in parts, or is told of.
    let mut buffer = [0; 4096];
    while peer.set_nonblocking(true).is_ok() && peer.recv(&mut buffer).is_ok() {}
    peer.set_nonblocking(false).expect("a blocking socket");
    client.send_indication(to, &[7; 3000]);
    assert_eq!(peer.recv(&mut buffer).expect("a datagram in parts"), 3000);
    client.send_unfragmented(to, &[7; 3000]);
    // The kernel does not say which port it was for.
    assert_eq!(client.receive(), Relayed::Icmp(SocketAddr::new(to.ip(), 0), 3, 4));
    wait_until("it is counted", || fixture.dropped(DropReason::SendFailed) == 1);
    client.send_indication(to, b"still here");
    assert_eq!(peer.recv(&mut buffer).expect("a datagram"), 10);
}
