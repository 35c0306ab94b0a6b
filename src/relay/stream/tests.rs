//! A panic while a client over TCP is served. It is a bug, so the tests make one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::{Options, Relay, turn_options_for_tests};
use crate::credentials::{Entropy, Grants};
use crate::edge::{self, Acceptor, Gate, Listener, Takes};
use crate::metrics::{Heartbeats, Metrics};
use crate::stun::{
    Class, LongTermKeys, Message, Method, PasswordAlgorithm, TransactionId, Writer, attr,
};
use crate::telemetry::Secret;
use crate::turn::{FixedUser, Shared};

/// A message with this transaction id panics.
pub(super) const PANIC: [u8; 12] = *b"panic please";

/// A relay with the user `alice`, who may have one allocation, and where it accepts.
fn start() -> (Relay, Arc<Metrics>, SocketAddr, watch::Sender<bool>) {
    let mut engine = turn_options_for_tests();
    let password = Secret::new("wonder".to_owned());
    engine.users = vec![FixedUser { name: "alice".to_owned(), password }];
    let mut entropy = Entropy::from_seed([1; 32]);
    let grants = Arc::new(Grants::new(Secret::new([2; 32])));
    let shared = Arc::new(Shared::new(Arc::new(engine), grants, &mut entropy));
    let (metrics, heartbeats) = (Arc::new(Metrics::default()), Heartbeats::default());
    let relay = Relay::start(Options::default(), shared, &metrics, &heartbeats, &mut entropy);
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
    let writer = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([2; 12]));
    writer.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
}

/// A connection with an allocation, or the class of what was answered instead.
async fn allocated(server: SocketAddr) -> Result<TcpStream, Class> {
    let mut stream = TcpStream::connect(server).await.expect("a connection");
    let challenge = say(&mut stream, &allocate().finish(None, false)).await;
    let challenge = Message::parse(&challenge).expect("a challenge");
    let keys = LongTermKeys::derive("alice", "turncast", "wonder");
    let request = allocate()
        .attribute(attr::USERNAME, b"alice")
        .attribute(attr::REALM, b"turncast")
        .attribute(attr::NONCE, challenge.first(attr::NONCE).expect("a nonce"))
        .finish(Some(keys.by(PasswordAlgorithm::Md5)), false);
    let answer = say(&mut stream, &request).await;
    match Message::parse(&answer).expect("an answer").class() {
        Class::Success => Ok(stream),
        other => Err(other),
    }
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

const DEADLINE: Duration = Duration::from_secs(20);
