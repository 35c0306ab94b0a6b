//! Clients over TCP: a panic while one is served, which is a bug, so the tests make one; what
//! becomes of more than a client has read, or can be told; and pauses under load.

use std::cell::Cell;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::pace::Pace;
use super::super::sys::{Datagram, Run, Segmenting, SendBatch, relay_socket};
use super::super::{Options, Relay, turn_options_for_tests};
use super::{PACE, Streams, received};
use crate::credentials::{Entropy, Grants};
use crate::edge::{self, Acceptor, Gate, Listener, Takes};
use crate::metrics::{Heartbeats, Metrics, WorkerMetrics};
use crate::stun::{
    Class, LongTermKeys, Message, Method, PasswordAlgorithm, TransactionId, Writer, attr,
};
use crate::telemetry::Secret;
use crate::turn::{self, FixedUser, RelayAddress, Shared};

/// A message with this transaction id panics.
pub(super) const PANIC: [u8; 12] = *b"panic please";

/// A relay with the user `alice`, who may have one allocation, and where it accepts.
fn start() -> (Relay, Arc<Metrics>, SocketAddr, watch::Sender<bool>) {
    start_with(turn_options_for_tests(), Options::default())
}

fn start_with(
    mut engine: turn::Options,
    options: Options,
) -> (Relay, Arc<Metrics>, SocketAddr, watch::Sender<bool>) {
    let password = Secret::new("wonder".to_owned());
    engine.users = vec![FixedUser { name: "alice".to_owned(), password }];
    let mut entropy = Entropy::from_seed([1; 32]);
    let grants = Arc::new(Grants::new(Secret::new([2; 32])));
    let shared = Arc::new(Shared::new(Arc::new(engine), grants, &mut entropy));
    let (metrics, heartbeats) = (Arc::new(Metrics::default()), Heartbeats::default());
    let relay = Relay::start(options, shared, &metrics, &heartbeats, &mut entropy);
    let relay = relay.expect("a relay");
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let address = listener.local_addr();
    let stop = watch::Sender::new(false);
    let acceptor = Acceptor {
        gate: Gate::new(edge::Limits::default(), Arc::clone(&metrics)),
        tls: None,
        takes: Takes::Turn,
        heartbeat: heartbeats.add("edge", Instant::now()),
        stop: stop.subscribe(),
    };
    let streams = relay.streams();
    let serve = move |stream, peer| Arc::clone(&streams).serve(stream, peer);
    tokio::spawn(edge::serve(listener, acceptor, serve));
    (relay, metrics, address, stop)
}

async fn say(stream: &mut TcpStream, message: &[u8]) -> Vec<u8> {
    stream.write_all(message).await.expect("a write");
    let mut answer = vec![0; 20];
    let read = timeout(DEADLINE, stream.read_exact(&mut answer)).await.expect("in time");
    read.expect("an answer");
    let len = usize::from(u16::from_be_bytes([answer[2], answer[3]]));
    answer.resize(20 + len, 0);
    stream.read_exact(&mut answer[20..]).await.expect("the rest");
    answer
}

fn binding(id: [u8; 12]) -> Vec<u8> {
    Writer::new(Class::Request, Method::BINDING, TransactionId(id)).finish(None, false)
}

fn allocate() -> Writer {
    allocate_for(17)
}

fn allocate_for(transport: u8) -> Writer {
    let writer = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([2; 12]));
    writer.attribute(attr::REQUESTED_TRANSPORT, &[transport, 0, 0, 0])
}

/// A connection with an allocation, or the class of what was answered instead.
async fn allocated(server: SocketAddr) -> Result<TcpStream, Class> {
    let mut stream = TcpStream::connect(server).await.expect("a connection");
    let answer = ask(&mut stream, allocate).await;
    match Message::parse(&answer).expect("an answer").class() {
        Class::Success => Ok(stream),
        other => Err(other),
    }
}

/// What a request of alice is answered, once the challenge is.
async fn ask(stream: &mut TcpStream, request: impl Fn() -> Writer) -> Vec<u8> {
    let challenge = say(stream, &request().finish(None, false)).await;
    let challenge = Message::parse(&challenge).expect("a challenge");
    let keys = LongTermKeys::derive("alice", "turncast", "wonder");
    let request = request()
        .attribute(attr::USERNAME, b"alice")
        .attribute(attr::REALM, b"turncast")
        .attribute(attr::NONCE, challenge.first(attr::NONCE).expect("a nonce"))
        .finish(Some(keys.by(PasswordAlgorithm::Md5)), false);
    say(stream, &request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_costs_one_connection_with_its_allocation_and_is_counted() {
    let (relay, metrics, server, _stop) = start();
    let mut other = TcpStream::connect(server).await.expect("a connection");
    say(&mut other, &binding([1; 12])).await;
    let mut unlucky = allocated(server).await.expect("an allocation");
    assert!(allocated(server).await.is_err(), "the quota is one");
    unlucky.write_all(&binding(PANIC)).await.expect("a write");
    let mut rest = Vec::new();
    timeout(DEADLINE, unlucky.read_to_end(&mut rest)).await.expect("in time").expect("an end");
    assert!(rest.is_empty());
    assert!(metrics.text().contains("turncast_panics_total 1\n"), "{}", metrics.text());
    // The other one is served as before, and nothing of the unlucky one is left: neither in the
    // quota, nor in the counts.
    say(&mut other, &binding([3; 12])).await;
    assert_eq!(metrics.allocations(), 0);
    drop(allocated(server).await.expect("an allocation with the unit that came back"));
    drop(other);
    assert!(relay.stop(DEADLINE), "no task hangs");
    assert_eq!((metrics.allocations(), metrics.turn_connections.value()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_client_cannot_be_told_of_is_closed_at_once() {
    let mut engine = turn_options_for_tests();
    engine.allow_peers = vec!["127.0.0.3".parse().expect("an address")];
    engine.tcp_relay = Some(turn::TcpLimits {
        connections: 1,
        connections_per_allocation: 1,
        pending_per_allocation: 1,
    });
    // No indication fits; answers have room of their own.
    let mut options = Options::default();
    options.streams.write_queue_bytes = 8;
    let (relay, metrics, server, _stop) = start_with(engine, options);
    let mut client = TcpStream::connect(server).await.expect("a connection");
    let answer = ask(&mut client, || allocate_for(6)).await;
    let answer = Message::parse(&answer).expect("an answer");
    let relayed = answer.first(attr::XOR_RELAYED_ADDRESS).expect("a relayed address");
    let port = u16::from_be_bytes([relayed[2], relayed[3]]) ^ 0x2112;
    let peer = SocketAddr::from(([127, 0, 0, 3], 9));
    let permit = || {
        let id = TransactionId([4; 12]);
        let writer = Writer::new(Class::Request, Method::CREATE_PERMISSION, id);
        writer.xor_address(attr::XOR_PEER_ADDRESS, peer)
    };
    let permitted = ask(&mut client, permit).await;
    assert_eq!(Message::parse(&permitted).expect("an answer").class(), Class::Success);
    // There is room for one, so the first of them is gone when the second is refused in this way.
    for count in 1..=2 {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(peer.ip(), 0)).expect("an address of this host");
        let relayed = SocketAddr::from(([127, 0, 0, 1], port));
        let mut at_peer = socket.connect(relayed).await.expect("somebody listens");
        let mut rest = Vec::new();
        timeout(DEADLINE, at_peer.read_to_end(&mut rest)).await.expect("in time").expect("an end");
        let hits = format!("turncast_limit_hits_total{{limit=\"write_queue\"}} {count}\n");
        assert!(metrics.text().contains(&hits), "{}", metrics.text());
    }
    drop(client);
    assert!(relay.stop(DEADLINE), "no task hangs");
}

#[test]
fn a_thread_that_serves_streams_pauses_and_the_next_connection_counts_it() {
    let metrics = WorkerMetrics::default();
    Streams::before_wait();
    received(1, &metrics);
    Streams::before_wait();
    received(1, &metrics);
    assert_eq!(metrics.pauses.value(), 0, "it is a quiet thread");
    PACE.with_borrow_mut(|paced| paced.pace = Pace::eager());
    received(1, &metrics);
    Streams::before_wait();
    Streams::before_wait();
    received(1, &metrics);
    assert_eq!(metrics.pauses.value(), 1);
}

const CHANNEL: u16 = 0x4000;
const PAYLOAD: usize = 1200;
/// Datagrams of a burst, more than the shortest queue takes; and of each run in it.
const BURST: usize = 160;
const RUN: usize = 16;

/// A peer that sends bursts to a client.
struct Bursts {
    peer: socket2::Socket,
    relayed: SocketAddr,
    segmenting: Segmenting,
    sent: usize,
}

impl Bursts {
    /// Sends another burst, in runs; the payloads are numbered.
    fn send(&mut self) {
        for _ in 0..BURST / RUN {
            let numbers = self.sent..self.sent + RUN;
            let bytes: Vec<u8> = numbers.flat_map(payload).collect();
            let whole = Datagram { bytes: &bytes, to: self.relayed, from: None, traffic_class: 0 };
            let (count, payload_bytes, stride) = (RUN, PAYLOAD, PAYLOAD);
            let run = Run { count, payload_bytes, stride, ..Run::single(whole) };
            let (socket, runs) = (self.peer.as_fd(), std::iter::once(run));
            let outcome = SendBatch::new().send_runs(socket, &mut self.segmenting, runs, drop);
            assert_eq!(outcome.sent, RUN);
            self.sent += RUN;
        }
    }
}

fn payload(number: usize) -> Vec<u8> {
    let mut payload = vec![number as u8; PAYLOAD];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload
}

/// A client with a channel to a peer that sends bursts.
async fn bursts(server: SocketAddr) -> (TcpStream, Bursts) {
    bursts_of(server, allocate).await
}

/// The same with an allocation by another request.
async fn bursts_of(server: SocketAddr, request: impl Fn() -> Writer) -> (TcpStream, Bursts) {
    let peer = relay_socket(SocketAddr::from(([127, 0, 0, 3], 0)), 1 << 20).expect("a peer");
    let from = peer.local_addr().ok().and_then(|local| local.as_socket()).expect("an address");
    let mut client = TcpStream::connect(server).await.expect("a connection");
    let answer = ask(&mut client, request).await;
    let answer = Message::parse(&answer).expect("an answer");
    assert_eq!(answer.first(attr::ADDRESS_ERROR_CODE), None, "each family that was asked for");
    let relayed = answer.first(attr::XOR_RELAYED_ADDRESS).expect("a relayed address");
    let port = u16::from_be_bytes([relayed[2], relayed[3]]) ^ 0x2112;
    let bind = || {
        let writer = Writer::new(Class::Request, Method::CHANNEL_BIND, TransactionId([5; 12]));
        let number = [CHANNEL.to_be_bytes(), [0; 2]].concat();
        writer.attribute(attr::CHANNEL_NUMBER, &number).xor_address(attr::XOR_PEER_ADDRESS, from)
    };
    let bound = ask(&mut client, bind).await;
    assert_eq!(Message::parse(&bound).expect("an answer").class(), Class::Success);
    let relayed = SocketAddr::from(([127, 0, 0, 1], port));
    let segmenting = Segmenting::new(true);
    (client, Bursts { peer, relayed, segmenting, sent: 0 })
}

/// The payloads of these numbers come, in this order.
async fn expect(client: &mut TcpStream, numbers: std::ops::Range<usize>) {
    let mut frame = vec![0; 4 + PAYLOAD];
    for number in numbers {
        let read = timeout(DEADLINE, client.read_exact(&mut frame)).await;
        read.unwrap_or_else(|_| panic!("{number} was lost")).expect("a message");
        assert_eq!(frame[..4], [CHANNEL.to_be_bytes(), (PAYLOAD as u16).to_be_bytes()].concat());
        assert!(frame[4..] == payload(number), "{number} is not next");
    }
}

/// Stops the relay beside its tasks.
async fn stop(relay: Relay) {
    let stopped = tokio::task::spawn_blocking(move || relay.stop(DEADLINE));
    assert!(stopped.await.expect("no panic"), "no task hangs");
}

/// A relay whose clients have the shortest queue there is.
fn with_short_queues(merge: bool) -> (Relay, Arc<Metrics>, SocketAddr, watch::Sender<bool>) {
    let (engine, options) = short_queues(merge);
    start_with(engine, options)
}

fn short_queues(merge: bool) -> (turn::Options, Options) {
    let mut engine = turn_options_for_tests();
    engine.allow_peers = vec!["127.0.0.3".parse().expect("an address")];
    let mut options = Options::default();
    options.streams.write_queue_bytes = 128 * 1024;
    options.features.merge &= merge;
    (engine, options)
}

/// Sends until something waits in the relay socket, because the client reads nothing.
async fn until_held(metrics: &Arc<Metrics>, bursts: &mut Bursts) {
    let held = || !metrics.text().contains("turncast_limit_hits_total{limit=\"write_queue\"} 0\n");
    let begin = Instant::now();
    // What the kernel takes for the client is full before this ends.
    while !held() {
        assert!(begin.elapsed() < DEADLINE, "the queue is never full");
        bursts.send();
        // The relay has taken all of it, or takes no more.
        let passed = || {
            metrics.text().contains(&format!(
                "turncast_relayed_packets_total{{direction=\"to_client\"}} {}\n",
                bursts.sent,
            ))
        };
        while !held() && !passed() {
            assert!(begin.elapsed() < DEADLINE, "a burst is lost");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_burst_that_is_longer_than_the_queue_reaches_who_reads() {
    for merge in [true, false] {
        let (relay, metrics, server, _stop) = with_short_queues(merge);
        let (mut client, mut bursts) = bursts(server).await;
        // One thread runs all of this, so a whole burst is there before the relay looks. The first
        // one tells it that runs come.
        for round in 0..4 {
            bursts.send();
            expect(&mut client, round * BURST..bursts.sent).await;
        }
        let merged = metrics.text().contains("turncast_udp_run_packets_total{run=\"merged\"} 0\n");
        assert_eq!(!merged, merge && Options::default().features.merge);
        drop(client);
        stop(relay).await;
    }
}

#[tokio::test]
async fn what_a_full_queue_has_no_room_for_waits_and_comes_when_the_client_reads() {
    for merge in [true, false] {
        let (relay, metrics, server, _stop) = with_short_queues(merge);
        let (mut client, mut bursts) = bursts(server).await;
        until_held(&metrics, &mut bursts).await;
        let sent = bursts.sent;
        expect(&mut client, 0..sent).await;
        // And it goes on as before.
        bursts.send();
        expect(&mut client, sent..bursts.sent).await;
        drop(client);
        stop(relay).await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_keeps_nobody_busy_with_another_family_either() {
    let (mut engine, options) = short_queues(true);
    let local = IpAddr::from(Ipv6Addr::LOCALHOST);
    engine.relay_addresses.push(RelayAddress { public: local, local });
    (engine.limits.allocations, engine.limits.allocations_per_user) = (2, 2);
    let (relay, _, server, _stop) = start_with(engine, options);
    let both = || allocate().attribute(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    let (client, mut bursts) = bursts_of(server, both).await;
    // More than the kernel takes for the client, and the relay socket for the relay.
    for _ in 0..100 {
        bursts.send();
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    // The task is on this thread as well, and would be polled as often as this one.
    let before = POLLS.get();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    let polls = POLLS.get() - before;
    assert!(polls < 100, "{polls} polls of a task that has nothing to do");
    drop(client);
    stop(relay).await;
}

thread_local! {
    /// How often a connection was polled on this thread.
    pub(super) static POLLS: Cell<u64> = const { Cell::new(0) };
}

const DEADLINE: Duration = Duration::from_secs(20);
