//! What stands in the IP header, and what comes back instead of a datagram.

use std::io::Read;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use turncast::metrics::DropReason;
use turncast::relay::Options;
use turncast::turn;
use webrtc_stun::attributes as attr;

use super::client::{DEADLINE, Relayed, relayed_addresses};
use super::{Fixture, engine, in_child, ip, peer, wait_until};

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

#[test]
fn a_closed_port_of_ipv6_is_told_by_an_indication() {
    let network = "own=; [ \"$(id -u)\" = 0 ] || own=--map-root-user; exec unshare --net $own \
         sh -c 'ip link set lo up && ip address add fd00::1/128 dev lo nodad && \
         ip address add fd00::2/128 dev lo nodad && exec \"$@\"' sh \"$@\"";
    if !in_child("headers::a_closed_port_of_ipv6_is_told_by_an_indication", network) {
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
struct Packet {
    class: u8,
    dont_fragment: bool,
    payload: Vec<u8>,
}

/// Sees every datagram to one address as it comes off the wire.
struct Wire(Socket);

impl Wire {
    fn to(address: SocketAddr) -> Self {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).expect("a raw socket");
        raw.bind(&SocketAddr::new(address.ip(), 0).into()).expect("an address");
        raw.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        Self(raw)
    }

    /// The next datagram to `port`.
    fn next(&mut self, port: u16) -> Packet {
        let mut bytes = [0; 65_536];
        loop {
            let len = self.0.read(&mut bytes).expect("a packet in time");
            let header = usize::from(bytes[0] & 0x0F) * 4;
            if bytes[header + 2..header + 4] == port.to_be_bytes() {
                let dont_fragment = bytes[6] & 0x40 != 0;
                let payload = bytes[header + 8..len].to_vec();
                return Packet { class: bytes[1], dont_fragment, payload };
            }
        }
    }
}

/// A loopback of its own with a small MTU, and the right to see its packets.
const OWN_NETWORK: &str = "own=; [ \"$(id -u)\" = 0 ] || own=--map-root-user; exec unshare --net \
     $own sh -c 'ip link set lo mtu 1500 up && exec \"$@\"' sh \"$@\"";

#[test]
fn dscp_and_ecn_are_handed_on_both_ways() {
    if !in_child("headers::dscp_and_ecn_are_handed_on_both_ways", OWN_NETWORK) {
        return;
    }
    let fixture = Fixture::start(&["0.0.0.0:0"], 1);
    let server = SocketAddr::from(([127, 0, 0, 1], fixture.server.port()));
    let mut client = super::Client::new(server, "alice", "wonder");
    let relayed = client.allocate().expect("an allocation");
    let (peer, to) = peer();
    client.permit(&[to]).expect("a permission");
    let here = client.socket.local_addr().expect("an address");
    let (mut to_peer, mut to_client) = (Wire::to(to), Wire::to(here));
    // Expedited forwarding, ECT(0), congestion experienced, all bits, and nothing again.
    for (round, class) in [0xB8, 0x02, 0x03, 0xFF, 0x00].into_iter().enumerate() {
        if round == 3 {
            client.bind_channel(0x4000, to).expect("a channel");
        }
        SockRef::from(&client.socket).set_tos_v4(class.into()).expect("a class");
        SockRef::from(&peer).set_tos_v4(class.into()).expect("a class");
        client.send_indication(to, b"there");
        let payload = b"there".to_vec();
        let expected = Packet { class, dont_fragment: false, payload };
        assert_eq!(to_peer.next(to.port()), expected);
        peer.send_to(b"back", relayed).expect("a send");
        // Answers to requests are ours, and of the default class.
        let found = std::iter::repeat_with(|| to_client.next(here.port()));
        let mut relayed = found.filter(|packet| packet.payload.windows(4).any(|at| at == b"back"));
        assert_eq!(relayed.next().map(|packet| packet.class), Some(class));
    }
}

#[test]
fn dont_fragment_is_set_for_the_datagram_that_asks_for_it() {
    if !in_child("headers::dont_fragment_is_set_for_the_datagram_that_asks_for_it", OWN_NETWORK) {
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
            assert_eq!(wire.next(to.port()), Packet { class: 0, dont_fragment, payload });
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
