//! What ends a connection, and what it takes along (RFC 6062, section 5.5).

use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::{
    CONFIG, Waiting, allocated, bind, call, client, expect, expect_end, pattern, spliced, start,
};
use crate::harness::Setup;
use crate::streams::read_to_end;

#[test]
fn with_the_allocation_all_of_its_connections_end() {
    let daemon = start("");
    let peer = Waiting::new();
    for how in ["deleted", "disconnected"] {
        let (mut control, relayed) = allocated(&daemon);
        control.permit(&[peer.address]).expect("a permission");
        let (mut at_client, mut at_peer) = spliced(&daemon, &mut control, &peer);
        let mut waits = call("127.0.0.3", relayed);
        let (id, _) = control.attempt();
        at_client.write_all(b"hello").expect("a write");
        expect(&mut at_peer, b"hello");
        match how {
            "deleted" => control.refresh(0).expect("the end"),
            _ => drop(control),
        }
        expect_end(&mut at_client);
        expect_end(&mut at_peer);
        expect_end(&mut waits);
        assert!(TcpStream::connect(relayed).is_err(), "nobody listens there any more");
        let mut late = client(&daemon);
        assert_eq!(late.bind_connection(id), Err(400));
        daemon.wait_for_metric("turncast_data_connections", 0);
        assert_eq!(daemon.metric("turncast_allocations"), 0);
    }
    daemon.stop();
}

#[test]
fn an_allocation_that_runs_out_takes_its_data_connections_along() {
    let daemon = start("lifetime_secs_max = 2");
    let (mut control, _) = allocated(&daemon);
    let peer = Waiting::new();
    let (mut at_client, mut at_peer) = spliced(&daemon, &mut control, &peer);
    expect_end(&mut at_client);
    expect_end(&mut at_peer);
    daemon.wait_for_metric("turncast_allocations", 0);
    daemon.stop();
}

#[test]
fn either_end_closes_the_other_and_the_allocation_goes_on() {
    let daemon = start("");
    let (mut control, _) = allocated(&daemon);
    let (one, two) = (Waiting::new(), Waiting::new());
    let (at_client, mut at_peer) = spliced(&daemon, &mut control, &one);
    drop(at_client);
    assert!(read_to_end(&mut at_peer).is_empty());
    let (mut at_client, at_peer) = spliced(&daemon, &mut control, &two);
    drop(at_peer);
    assert!(read_to_end(&mut at_client).is_empty());
    control.refresh(600).expect("it lives");
    assert_eq!(daemon.metric("turncast_allocations"), 1);
    daemon.stop();
}

#[test]
fn half_a_connection_goes_on_until_it_is_done() {
    let daemon = start("");
    let (mut control, _) = allocated(&daemon);
    let peer = Waiting::new();
    let (mut at_client, mut at_peer) = spliced(&daemon, &mut control, &peer);
    // A request, its end, and only then the answer.
    at_client.write_all(b"everything, please").expect("a write");
    at_client.shutdown(Shutdown::Write).expect("no more from here");
    assert_eq!(read_to_end(&mut at_peer), b"everything, please");
    let large = pattern(1_000_000);
    at_peer.write_all(&large).expect("a write");
    assert_eq!(daemon.metric("turncast_data_connections"), 1);
    drop(at_peer);
    assert!(read_to_end(&mut at_client) == large, "all of it comes");
    daemon.wait_for_metric("turncast_data_connections", 0);
    daemon.stop();
}

#[test]
fn a_peer_that_ends_before_the_client_comes_is_heard_all_the_same() {
    let daemon = start("");
    let (mut control, _) = allocated(&daemon);
    let peer = Waiting::new();
    let id = control.connect(peer.address).expect("a connection");
    let (mut at_peer, _) = peer.accept();
    at_peer.write_all(b"220 welcome, and goodbye").expect("a write");
    drop(at_peer);
    let mut at_client = bind(&daemon, id);
    assert_eq!(read_to_end(&mut at_client), b"220 welcome, and goodbye");
    daemon.stop();
}

#[test]
fn what_carries_nothing_is_closed_and_counted() {
    let daemon = start("tcp_idle_secs = 1");
    let (mut control, _) = allocated(&daemon);
    let peer = Waiting::new();
    let (mut at_client, mut at_peer) = spliced(&daemon, &mut control, &peer);
    let begin = Instant::now();
    expect_end(&mut at_client);
    expect_end(&mut at_peer);
    assert!(begin.elapsed() > Duration::from_millis(900), "{:?}", begin.elapsed());
    assert_eq!(daemon.metric(&crate::streams::limit("tcp_idle")), 1);
    // Half of a connection is not waited for any longer either.
    let second = Waiting::new();
    let (mut at_client, at_peer) = spliced(&daemon, &mut control, &second);
    at_peer.shutdown(Shutdown::Write).expect("no more from there");
    assert!(read_to_end(&mut at_client).is_empty());
    daemon.wait_for_metric("turncast_data_connections", 0);
    control.refresh(600).expect("the allocation lives");
    daemon.stop();
}

/// RFC 6062, sections 5.2 and 5.3, in real time.
#[test]
fn thirty_seconds_for_a_silent_peer_and_thirty_for_the_client() {
    let daemon = start("");
    // The queue of this listener is full, so nobody answers.
    let silent = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: std::net::SocketAddr = "127.0.0.3:0".parse().expect("an address");
    silent.bind(&any.into()).expect("an address of this host");
    silent.listen(0).expect("a listener");
    let address = silent.local_addr().expect("bound").as_socket().expect("an address");
    let fill = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_nonblocking(true).expect("an option");
        // It goes on by itself, or it does not.
        let _ = socket.connect(&address.into());
        socket
    };
    let _full = [fill(), fill(), fill()];
    let (mut control, relayed) = allocated(&daemon);
    control.permit(&[address]).expect("a permission");
    let mut waits = call("127.0.0.3", relayed);
    waits.set_read_timeout(Some(Duration::from_secs(60))).expect("a deadline");
    let (id, _) = control.attempt();
    let (mut other, _) = allocated(&daemon);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            expect_end(&mut waits);
            let passed = begin.elapsed().as_secs_f32();
            assert!((29.0..45.0).contains(&passed), "{passed}");
        });
        // The client of the tests waits for twenty seconds only, and then again.
        let server = daemon.turn_over("tcp");
        let stream = TcpStream::connect(server).expect("somebody listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a deadline");
        let mut patient =
            crate::relay::client::Client::over(stream, server, "alice", "password-of-alice-1");
        patient.allocate_tcp().expect("a TCP allocation");
        let asked = Instant::now();
        assert_eq!(patient.connect(address), Err(447));
        let passed = asked.elapsed().as_secs_f32();
        assert!((30.0..45.0).contains(&passed), "{passed}");
        patient.refresh(600).expect("the allocation lives");
    });
    assert_eq!(client(&daemon).bind_connection(id), Err(400), "too late");
    other.refresh(600).expect("nobody else was held up");
    daemon.stop();
}

#[test]
fn a_stop_ends_data_connections() {
    let daemon = Setup::new(&format!("shutdown_secs = 5\n{CONFIG}")).start();
    let (mut control, _) = allocated(&daemon);
    let peer = Waiting::new();
    let (mut at_client, mut at_peer) = spliced(&daemon, &mut control, &peer);
    let begin = Instant::now();
    let log = daemon.stop();
    assert!(begin.elapsed().as_secs_f32() < 3.5, "{:?}", begin.elapsed());
    assert!(!log.contains("left behind") && !log.contains("cut at the deadline"), "{log}");
    expect_end(&mut at_client);
    expect_end(&mut at_peer);
}
