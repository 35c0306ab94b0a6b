//! The relay without what newer kernels offer: each option of sockets alone is left out, then all.

use turncast::relay::Features;

use super::*;

#[test]
fn the_relay_works_without_any_of_what_newer_kernels_offer() {
    let all = [("none of them", Features::NONE), ("all of them", Features::ALL)];
    for (without, features) in Features::all_but_one().chain(all) {
        let engine = turn::Options { dont_fragment: features.dont_fragment, ..engine() };
        let options = Options { features, ..Options::default() };
        let listen = &["0.0.0.0:0", "[::1]:0"];
        let fixture = Fixture::start_with(listen, 2, engine, options);
        let server = SocketAddr::new(ip("127.0.0.1"), fixture.server.port());
        let mut client = Client::new(server, "alice", "wonder");
        relays_both_ways(&mut client);
        hears_of_a_dead_peer(&mut client, features.icmp_errors);
        let asks = (webrtc_stun::attributes::ATTR_DONT_FRAGMENT, &[][..]);
        let answer = Client::new(server, "alice", "wonder").allocate_with(&[asks]).map(drop);
        assert_eq!(answer, if features.dont_fragment { Ok(()) } else { Err(420) });
        let server = fixture.relay.local_addresses()[1];
        Client::new(server, "alice", "wonder").allocate().expect("an allocation of IPv6");
        assert_eq!(fixture.dropped(DropReason::SendFailed), 0, "without {without}");
        assert!(fixture.relay.stop(DEADLINE));
    }
}

/// Packets alone, and in bursts that are received and sent in one piece where that is possible.
fn relays_both_ways(client: &mut Client) {
    let relayed = client.allocate().expect("an allocation");
    let (peer, to) = peer();
    client.bind_channel(0x4000, to).expect("a channel");
    let mut buffer = [0; 2048];
    for burst in [1u8, 1, 40, 40, 40, 1] {
        for index in 0..burst {
            client.send_channel(0x4000, &[index; 600]);
        }
        for index in 0..burst {
            let (len, from) = peer.recv_from(&mut buffer).expect("a datagram at the peer");
            assert_eq!((&buffer[..len], from), (&[index; 600][..], relayed));
        }
        for index in 0..burst {
            peer.send_to(&[index; 600], relayed).expect("an answer");
        }
        for index in 0..burst {
            assert_eq!(client.receive(), Relayed::Channel(0x4000, vec![index; 600]));
        }
    }
}

/// An ICMP error is told to the client, or it is not; either way packets go on.
fn hears_of_a_dead_peer(client: &mut Client, is_told: bool) {
    let (dead, to_dead) = peer();
    dead.connect(("127.0.0.3", 9)).expect("a peer of its own");
    let (live, to_live) = peer();
    client.permit(&[to_dead]).expect("a permission");
    for _ in 0..3 {
        client.send_indication(to_dead, b"anybody?");
        if is_told {
            assert_eq!(client.receive(), Relayed::Icmp(to_dead, 3, 3));
        }
        client.send_indication(to_live, b"hello");
        assert_eq!(live.recv(&mut [0; 64]).expect("a datagram"), 5);
    }
    // Nothing has come in between, for an answer to a request is next.
    client.bind();
}
