//! What bounds connections: how many, how much waits, how fast; and descriptors that run out.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, UdpSocket};
use std::time::Instant;

use super::{Waiting, allocated, bind, call, expect, expect_end, pattern, spliced, start};
use crate::harness::DEADLINE;
use crate::relay::client::Client;
use crate::streams::limit;

#[test]
fn connections_are_counted_per_allocation_and_in_all() {
    let daemon = start(
        "tcp_connections = 4\ntcp_connections_per_allocation = 3\ntcp_pending_per_allocation = 2",
    );
    let ((mut one, relayed), (mut two, _)) = (allocated(&daemon), allocated(&daemon));
    let peers: Vec<Waiting> = (0..4).map(|_| Waiting::new()).collect();
    one.permit(&[peers[0].address]).expect("a permission");
    let id = one.connect(peers[0].address).expect("a connection");
    let _kept = peers[0].accept();
    one.connect(peers[1].address).expect("a connection");
    assert_eq!(one.connect(peers[2].address), Err(508));
    // Peers that come are bounded alike, and closed at once.
    let mut more = call("127.0.0.3", relayed);
    expect_end(&mut more);
    daemon.wait_for_metric(&limit("tcp_pending_per_allocation"), 2);
    let _bound = bind(&daemon, id);
    one.connect(peers[2].address).expect("a connection");
    let id = two.connect(peers[0].address).expect("a connection of another allocation");
    assert_eq!(two.connect(peers[1].address), Err(508));
    assert_eq!(daemon.metric(&limit("tcp_connections")), 1);
    // What ends makes room.
    let bound = bind(&daemon, id);
    drop((bound, peers[0].accept()));
    daemon.wait_for_metric("turncast_data_connections", 1);
    two.connect(peers[1].address).expect("a connection");
    daemon.stop();
}

#[test]
fn an_allocation_has_so_many_connections() {
    let daemon = start("tcp_connections_per_allocation = 1");
    let (mut client, _) = allocated(&daemon);
    let (one, two) = (Waiting::new(), Waiting::new());
    let (_at_client, _at_peer) = spliced(&daemon, &mut client, &one);
    assert_eq!(client.connect(two.address), Err(508));
    assert_eq!(daemon.metric(&limit("tcp_connections_per_allocation")), 1);
    daemon.stop();
}

#[test]
fn peers_are_tried_no_faster_than_allowed() {
    let daemon = start("new_peers_per_min = 3");
    let (mut client, _) = allocated(&daemon);
    let closed = "127.0.0.3:9".parse().expect("an address");
    for _ in 0..3 {
        assert_eq!(client.connect(closed), Err(447));
    }
    assert_eq!(client.connect(closed), Err(508));
    assert_eq!(daemon.metric(&limit("new_peers")), 1);
    daemon.stop();
}

#[test]
fn a_slow_reader_holds_up_its_writer_and_nobody_and_nothing_is_lost() {
    let daemon = start("tcp_buffer_bytes = 65536");
    let (mut client, _) = allocated(&daemon);
    let (slow, quick) = (Waiting::new(), Waiting::new());
    let (at_client, at_peer) = spliced(&daemon, &mut client, &slow);
    let (mut quick_client, mut quick_peer) = spliced(&daemon, &mut client, &quick);
    let large = pattern(40_000_000);
    let before = daemon.memory_kib();
    std::thread::scope(|scope| {
        scope.spawn(|| (&at_peer).write_all(&large).expect("a write"));
        scope.spawn(|| (&at_client).write_all(&large).expect("a write"));
        // Neither end reads: both directions stop, each once.
        daemon.wait_for_metric(&limit("tcp_buffer"), 2);
        for round in 0..200u8 {
            quick_client.write_all(&[round; 100]).expect("a write");
            expect(&mut quick_peer, &[round; 100]);
        }
        let grown = daemon.memory_kib().saturating_sub(before);
        assert!(grown < 4096, "{grown} KiB for what nobody reads");
        scope.spawn(|| expect(&mut &at_peer, &large));
        expect(&mut &at_client, &large);
    });
    assert_eq!(daemon.metric(&limit("tcp_buffer")), 2);
    daemon.stop();
}

#[test]
fn what_waits_for_the_client_is_bounded_by_the_window_of_the_peer() {
    let daemon = start("tcp_buffer_bytes = 16384");
    let (mut client, _) = allocated(&daemon);
    let peer = Waiting::new();
    let id = client.connect(peer.address).expect("a connection");
    let (mut at_peer, _) = peer.accept();
    let own_buffer = 16 * 1024;
    socket2::SockRef::from(&at_peer).set_send_buffer_size(own_buffer).expect("an option");
    at_peer.set_write_timeout(Some(std::time::Duration::from_millis(300))).expect("a deadline");
    let mut sent = Vec::new();
    let all = pattern(2_000_000);
    loop {
        match at_peer.write(&all[sent.len()..][..1_000]) {
            Ok(count) => sent.extend_from_slice(&all[sent.len()..][..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
        assert!(sent.len() < 300_000, "the window never closes");
    }
    let mut at_client = bind(&daemon, id);
    expect(&mut at_client, &sent);
    daemon.stop();
}

#[test]
fn bandwidth_slows_a_stream_down_and_loses_nothing() {
    for key in [
        "bandwidth_per_allocation_bytes_per_sec",
        "bandwidth_per_user_bytes_per_sec",
        "bandwidth_bytes_per_sec",
    ] {
        let daemon = start(&format!("{key} = 400000"));
        let (mut client, _) = allocated(&daemon);
        let peer = Waiting::new();
        let (at_client, at_peer) = spliced(&daemon, &mut client, &peer);
        let large = pattern(500_000);
        let begin = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| (&at_peer).write_all(&large).expect("a write"));
            scope.spawn(|| (&at_client).write_all(&large).expect("a write"));
            scope.spawn(|| expect(&mut &at_peer, &large));
            expect(&mut &at_client, &large);
        });
        // A million bytes, of which half a second's worth is there from the start, and one read of
        // each direction is not waited for.
        let passed = begin.elapsed().as_secs_f32();
        assert!((1.6..DEADLINE.as_secs_f32()).contains(&passed), "{key}: {passed}");
        let label = key.trim_end_matches("_bytes_per_sec");
        assert!(daemon.metric(&limit(label)) > 0, "{key}");
        daemon.stop();
    }
}

#[test]
fn many_streams_leave_bandwidth_for_packets() {
    let daemon = start("bandwidth_bytes_per_sec = 1000000");
    let (mut control, _) = allocated(&daemon);
    let peer = Waiting::new();
    let streams: Vec<_> = (0..30)
        .map(|_| {
            let one = Waiting::new();
            spliced(&daemon, &mut control, &one)
        })
        .collect();
    let mut packets = Client::new(daemon.turn(), "alice", "password-of-alice-1");
    packets.allocate().expect("a UDP allocation");
    packets.permit(&[peer.address]).expect("a permission");
    let at_peer = UdpSocket::bind("127.0.0.3:0").expect("a peer");
    at_peer.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let to = at_peer.local_addr().expect("bound");
    std::thread::scope(|scope| {
        for (at_client, at_peer) in &streams {
            // Until it is cut below.
            scope.spawn(move || while (&*at_peer).write(&[7; 65_536]).is_ok() {});
            scope.spawn(
                move || {
                    while (&*at_client).read(&mut [0; 65_536]).is_ok_and(|count| count > 0) {}
                },
            );
        }
        let begin = Instant::now();
        while daemon.metric(&limit("bandwidth")) < 60 {
            assert!(begin.elapsed() < DEADLINE, "nobody is slowed down");
        }
        for round in 0..100u8 {
            packets.send_indication(to, &[round; 100]);
            // Its answer comes after the datagram was handled.
            packets.bind();
        }
        for (at_client, at_peer) in &streams {
            for end in [at_client, at_peer] {
                // The other end may have been quicker.
                let _ = end.shutdown(Shutdown::Both);
            }
        }
    });
    for round in 0..100u8 {
        let mut payload = [0; 200];
        assert_eq!(at_peer.recv(&mut payload).expect("every packet"), 100);
        assert_eq!(payload[0], round);
    }
    daemon.stop();
}

#[test]
fn what_rests_for_its_bandwidth_is_not_idle() {
    let daemon = start("bandwidth_per_allocation_bytes_per_sec = 20000\ntcp_idle_secs = 1");
    let (mut client, _) = allocated(&daemon);
    let (mut at_client, at_peer) = spliced(&daemon, &mut client, &Waiting::new());
    // Half of it is over, too.
    at_client.shutdown(Shutdown::Write).expect("no more from here");
    let large = pattern(130_000);
    std::thread::scope(|scope| {
        scope.spawn(|| (&at_peer).write_all(&large).expect("a write"));
        expect(&mut at_client, &large);
    });
    daemon.stop();
}

#[test]
fn without_descriptors_peers_wait_and_come_in_later() {
    let daemon = start("");
    let (mut client, relayed) = allocated(&daemon);
    let peers: Vec<Waiting> = (0..16).map(|_| Waiting::new()).collect();
    client.permit(&[peers[0].address]).expect("a permission");
    daemon.limit_descriptors(0);
    // Something may have been closed meanwhile: the first that fails says that nothing is left.
    let tried: Vec<_> = peers.iter().map(|peer| client.connect(peer.address)).collect();
    assert_eq!(tried.last(), Some(&Err(447)), "{tried:?}");
    let mut at_peer = call("127.0.0.3", relayed);
    client.refresh(600).expect("the relay goes on");
    daemon.limit_descriptors(1000);
    // The kernel has kept the peer, and it is let in now.
    let (id, from) = client.attempt();
    assert_eq!(from, at_peer.local_addr().expect("bound"));
    at_peer.write_all(b"still here").expect("a write");
    expect(&mut bind(&daemon, id), b"still here");
    let (mut at_client, mut at_peer) = spliced(&daemon, &mut client, &Waiting::new());
    at_client.write_all(b"as before").expect("a write");
    expect(&mut at_peer, b"as before");
    assert!(daemon.metric(&limit("descriptors")) >= 1);
    daemon.stop();
}
