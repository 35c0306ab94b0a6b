//! A client that nobody here wrote, `turn-client-proto`, with a TCP allocation over real sockets.
//! It takes a ConnectionAttempt for a request, which RFC 6062 does not know: no peer calls it here.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use turn_client_proto::api::{TransmitBuild, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::prelude::{DelayedTransmitBuild as _, TurnClientApi as _};
use turn_client_proto::stun::Instant;
use turn_client_proto::stun::agent::Transmit;
use turn_client_proto::stun::types::TransportType;
use turn_client_proto::stun::types::message::IntegrityAlgorithm;
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::types::TurnCredentials;

use super::start;
use crate::harness::{DEADLINE, Daemon};

const TCP: TransportType = TransportType::Tcp;

/// Their client, and the connections that it asked for.
struct Call {
    client: TurnClientTcp,
    server: SocketAddr,
    streams: HashMap<SocketAddr, TcpStream>,
    begin: std::time::Instant,
    events: Vec<TurnEvent>,
    received: Vec<u8>,
}

impl Call {
    async fn new(daemon: &Daemon) -> Self {
        let server = daemon.turn_over("tcp");
        let control = TcpStream::connect(server).await.expect("somebody listens");
        let local = control.local_addr().expect("bound");
        let mut config = TurnConfig::new(TurnCredentials::new("alice", "password-of-alice-1"));
        config.set_allocation_transport(TCP);
        config.set_supported_integrity(IntegrityAlgorithm::Sha256);
        let client = TurnClientTcp::allocate(local, server, config);
        let streams = HashMap::from([(local, control)]);
        let begin = std::time::Instant::now();
        Self { client, server, streams, begin, events: Vec::new(), received: Vec::new() }
    }

    fn now(&self) -> Instant {
        Instant::ZERO.checked_add(self.begin.elapsed()).expect("a later time")
    }

    /// Carries on until `done`.
    async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let all = async {
            while !done(self) {
                self.step().await;
            }
        };
        let in_time = timeout(DEADLINE, all).await.is_ok();
        assert!(in_time, "{what}: {:?}", self.events);
    }

    async fn step(&mut self) {
        self.events.extend(std::iter::from_fn(|| self.client.poll_event()));
        let now = self.now();
        let wait = match self.client.poll(now) {
            TurnPollRet::WaitUntil(at) => at.duration_since(now),
            TurnPollRet::AllocateTcpSocket { id, socket, peer_addr } => {
                let stream = TcpStream::connect(socket.to).await.expect("somebody listens");
                let local = stream.local_addr().expect("bound");
                self.streams.insert(local, stream);
                let now = self.now();
                let taken =
                    self.client.allocated_tcp_socket(id, socket, peer_addr, Some(local), now);
                taken.expect("it asked for it");
                Duration::ZERO
            }
            TurnPollRet::TcpClose { local_addr, .. } => {
                self.streams.remove(&local_addr);
                Duration::ZERO
            }
            TurnPollRet::Closed => panic!("the client ended: {:?}", self.events),
        };
        while let Some(sent) = self.client.poll_transmit(self.now()) {
            let stream = self.streams.get_mut(&sent.from).expect("a stream of its own");
            stream.write_all(&sent.data).await.expect("a write");
        }
        self.events.extend(std::iter::from_fn(|| self.client.poll_event()));
        // It may know more before the time is over; this is no sleep that a result hangs on.
        let wait = wait.min(Duration::from_millis(50));
        let Ok((local, bytes)) = timeout(wait, self.read()).await else { return };
        let (from, now) = (self.server, self.now());
        let received = Transmit { data: bytes, transport: TCP, from, to: local };
        match self.client.recv(received, now) {
            TurnRecvRet::PeerData(found) => self.received.extend_from_slice(found.data()),
            TurnRecvRet::Handled => {}
            other => panic!("not for the client: {other:?}"),
        }
        while let Some(found) = self.client.poll_recv(self.now()) {
            self.received.extend_from_slice(found.data());
        }
    }

    /// What comes first on any of the streams.
    async fn read(&mut self) -> (SocketAddr, Vec<u8>) {
        let streams = &self.streams;
        let local = poll_fn(|cx| {
            let mut streams = streams.iter();
            match streams.find(|(_, stream)| stream.poll_read_ready(cx).is_ready()) {
                Some((local, _)) => Poll::Ready(*local),
                None => Poll::Pending,
            }
        });
        let local = local.await;
        let mut bytes = vec![0; 16_384];
        let stream = self.streams.get_mut(&local).expect("it was there");
        let count = stream.read(&mut bytes).await.expect("a read");
        bytes.truncate(count);
        (local, bytes)
    }

    async fn send(&mut self, peer: SocketAddr, bytes: &[u8]) {
        let sent = self.client.send_to(TCP, peer, bytes, self.now()).expect("a way to the peer");
        let sent: TransmitBuild<_> = sent.expect("something to send");
        let stream = self.streams.get_mut(&sent.from).expect("a stream of its own");
        stream.write_all(&sent.data.build()).await.expect("a write");
    }

    fn relayed(&self) -> SocketAddr {
        self.client.relayed_addresses().next().expect("a relayed address").1
    }

    fn is_connected(&self, peer: SocketAddr) -> bool {
        let connected =
            |event: &TurnEvent| matches!(event, TurnEvent::TcpConnected(to) if *to == peer);
        self.events.iter().any(connected)
    }
}

#[tokio::test]
async fn their_client_connects_to_a_peer() {
    let daemon = start("");
    let mut call = Call::new(&daemon).await;
    call.until("an allocation", |call| call.client.relayed_addresses().next().is_some()).await;
    let relayed = call.relayed();
    let listener = TcpListener::bind("127.0.0.3:0").await.expect("a peer");
    let peer = listener.local_addr().expect("bound");
    let now = call.now();
    call.client.create_permission(TCP, peer.ip(), now).expect("a permission");
    call.until("a permission", |call| call.client.have_permission(TCP, peer.ip())).await;

    let now = call.now();
    call.client.tcp_connect(peer, now).expect("a request");
    call.until("a connection", |call| call.is_connected(peer)).await;
    let (mut at_peer, from) = listener.accept().await.expect("a connection");
    assert_eq!(from, relayed);
    call.send(peer, b"to the peer").await;
    let mut read = [0; 11];
    at_peer.read_exact(&mut read).await.expect("bytes");
    assert_eq!(&read, b"to the peer");
    at_peer.write_all(b"to the client").await.expect("a write");
    call.until("bytes of the peer", |call| call.received == b"to the client").await;

    assert_eq!(daemon.metric("turncast_data_connections"), 1);
    daemon.stop();
}
