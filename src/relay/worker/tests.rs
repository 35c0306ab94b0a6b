//! One worker, round by round, on real sockets.

#[path = "../../../tests/it/relay/client.rs"]
#[allow(dead_code, unreachable_pub, reason = "other tests need more of it")]
mod client;
mod cost;
mod overload;
mod pace;

use super::super::hop::Office;
use super::super::listen::Listeners;
use super::super::shared::Handle;
use super::super::sys::BATCH;
use super::super::{Options, turn_options_for_tests};
use super::round::{CLIENT_BATCHES, FROM_PEERS};
use super::*;
use crate::credentials::{Entropy, Grants};
use crate::metrics::Heartbeats;
use crate::telemetry::Secret;
use crate::turn::{FixedUser, Shared};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use client::Client;
use webrtc_stun::attributes::{ATTR_EVEN_PORT, ATTR_RESERVATION_TOKEN};

/// Panics when a datagram of a test asks for it.
pub(super) fn may_panic(run: &[u8]) {
    assert!(!run.windows(PANIC.len()).any(|found| found == PANIC), "a panic of a test");
}

const PANIC: &[u8] = b"a panic, please";

/// A worker that does one round at a time, and where it listens.
fn worker() -> (Running, SocketAddr) {
    worker_with(Options::default(), turn_options_for_tests())
}

fn worker_with(options: Options, engine: crate::turn::Options) -> (Running, SocketAddr) {
    let listen = vec!["127.0.0.1:0".parse().expect("a test address")];
    let options = Options { listen, ..options };
    let mut listeners = Listeners::bind(&options).expect("a listener");
    let inbox = Arc::new(Inbox::new().expect("an inbox"));
    let own = listeners.per_worker.remove(0);
    let sockets = Sockets::new(inbox.wake.as_fd(), own, options.of_relays());
    let sockets = sockets.expect("sockets");
    let mut entropy = Entropy::from_seed([1; 32]);
    let grants = Arc::new(Grants::new(Secret::new([2; 32])));
    let shared = Arc::new(Shared::new(Arc::new(engine), grants, &mut entropy));
    let metrics = Arc::new(WorkerMetrics::default());
    let courier = Office::new(&[Arc::clone(&inbox)], 0).worker(0);
    let engine = Server::new(shared, Arc::clone(&metrics), entropy).named(courier.engine());
    let heartbeat = Heartbeats::default().add("relay-0", Instant::now());
    let worker = Worker { engine, sockets, inbox, courier, metrics, heartbeat };
    (Running::new(worker), listeners.addresses[0])
}

/// The options of an engine that serves alice, with as many allocations as she likes.
fn with_alice() -> crate::turn::Options {
    let mut engine = turn_options_for_tests();
    let password = Secret::new("wonder".to_owned());
    engine.users = vec![FixedUser { name: "alice".to_owned(), password }];
    engine.limits.unauthenticated_burst = 10;
    (engine.limits.allocations, engine.limits.allocations_per_user) = (10, 10);
    engine
}

/// What a client in a thread of its own comes back with, while the worker does its rounds.
fn serve<T: Send + 'static>(running: &mut Running, ask: impl FnOnce() -> T + Send + 'static) -> T {
    let inbox = Arc::clone(&running.worker.inbox);
    let asking = std::thread::spawn(move || {
        let result = ask();
        inbox.wake.wake();
        result
    });
    while !asking.is_finished() {
        running.round().expect("a round");
    }
    asking.join().expect("the client")
}

fn binding_is_answered(running: &mut Running, server: SocketAddr) {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("a deadline");
    let mut request = [7; 20];
    request[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
    client.send_to(&request, server).expect("a request");
    running.round().expect("a round");
    let (len, from) = client.recv_from(&mut [0; 64]).expect("an answer");
    assert_eq!((len, from), (32, server));
}

#[test]
fn a_panic_is_counted_and_ends_nothing() {
    let (mut running, server) = worker();
    assert!(!running.ask(|_, _, _| panic!("a panic of a test")));
    assert_eq!(running.worker.metrics.panics.value(), 1);
    binding_is_answered(&mut running, server);
    assert!(running.ask(|_, _, _| ()));
    assert_eq!(running.worker.metrics.panics.value(), 1);
}

#[test]
fn what_the_engine_asked_for_before_a_panic_is_carried_out() {
    let (mut running, _) = worker();
    // An address of this test alone: nobody takes the port in between.
    let free = UdpSocket::bind("127.0.0.82:0").expect("a socket").local_addr();
    let (relay, local) = (RelayId(7), free.expect("an address"));
    running.ask(|_, _, actions| {
        actions.push(Action::Bind { relay, local });
        panic!("a panic of a test");
    });
    assert!(running.worker.sockets.port_mut(Token::Relay(7)).is_some());
    running.ask(|_, _, actions| {
        actions.push(Action::Close { relay });
        panic!("a panic of a test");
    });
    assert!(running.worker.sockets.port_mut(Token::Relay(7)).is_none());
    UdpSocket::bind(local).expect("the port is free again");
}

#[test]
fn a_listener_gets_no_more_than_its_share_of_a_round() {
    let (mut running, server) = worker();
    let flooder = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for _ in 0..600 {
        flooder.send_to(b"\xffrubbish", server).expect("a send");
    }
    let handled = |running: &Running| running.worker.metrics.drops(DropReason::Malformed);
    let share = (CLIENT_BATCHES * BATCH) as u64;
    for round in 1..=2 {
        running.round().expect("a round");
        assert_eq!(handled(&running), round * share);
    }
    running.round().expect("a round");
    assert_eq!(handled(&running), 600);
}

#[test]
fn too_many_revocations_end_everything_and_are_counted() {
    let (mut running, server) = worker_with(Options::default(), with_alice());
    // A port in reserve as well: whose it is goes unsaid, too.
    let (client, token) = serve(&mut running, move || {
        let mut client = Client::new(server, "alice", "wonder");
        let reserve = (ATTR_EVEN_PORT, &[0x80][..]);
        let answer = client.allocate_with(&[reserve]).expect("an allocation and its pair");
        let token = answer.get(ATTR_RESERVATION_TOKEN).expect("a token");
        (client.socket.local_addr().expect("an address"), token)
    });
    let five_tuple = FiveTuple { transport: Transport::Udp, client, server };
    let Some(RelayId(relay)) = running.worker.engine.relay_of(&five_tuple) else {
        panic!("no allocation");
    };
    let handle = Handle::new(vec![Arc::clone(&running.worker.inbox)], Arc::default());
    handle.revoke("a grant");
    running.round().expect("a round");
    assert_eq!(running.worker.metrics.limits(Limit::Revocations), 0);
    assert_eq!(running.worker.metrics.allocations.value(), 1);
    assert!(running.worker.sockets.port_mut(Token::Relay(relay)).is_some());
    for _ in 0..=super::super::shared::REVOKED_MAX {
        handle.revoke("a grant");
    }
    running.round().expect("a round");
    assert_eq!(running.worker.metrics.limits(Limit::Revocations), 1);
    assert_eq!(running.worker.metrics.allocations.value(), 0);
    assert!(running.worker.sockets.port_mut(Token::Relay(relay)).is_none(), "closed");
    let claimed = serve(&mut running, move || {
        let mut client = Client::new(server, "alice", "wonder");
        client.allocate_with(&[(ATTR_RESERVATION_TOKEN, &token)]).map(drop)
    });
    assert_eq!(claimed, Err(508), "nothing is in reserve");
    binding_is_answered(&mut running, server);
    handle.stop();
    running.round().expect("a round");
    assert!(running.stop);
}

#[test]
fn a_panic_in_a_run_costs_only_the_datagram_that_it_came_of() {
    use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
    use std::os::fd::AsRawFd;
    let (mut running, server) = worker();
    let port = running.worker.sockets.port_mut(Token::Client(0)).expect("the listener");
    assert!(port.learn(16, 0, true), "UDP_GRO");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
    let mut run = [0xFF; 5 * 20];
    run[2 * 20..2 * 20 + PANIC.len()].copy_from_slice(PANIC);
    let (slices, segment) = ([std::io::IoSlice::new(&run)], 20u16);
    let control = [ControlMessage::UdpGsoSegments(&segment)];
    let to = SockaddrStorage::from(server);
    let sent = sendmsg(client.as_raw_fd(), &slices, &control, MsgFlags::empty(), Some(&to));
    assert_eq!(sent, Ok(100));
    running.round().expect("a round");
    let metrics = &running.worker.metrics;
    assert_eq!((metrics.merged.runs.value(), metrics.merged.packets.value()), (1, 5));
    // Once for all of them, once for the one alone.
    assert_eq!(metrics.panics.value(), 2);
    assert_eq!(metrics.drops(DropReason::Malformed), 4);
    binding_is_answered(&mut running, server);
}
