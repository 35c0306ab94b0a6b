//! The relay as a library: real sockets on loopback, threads and all, without the daemon.

mod addresses;
pub(crate) mod client;
mod headers;
mod old_kernels;
mod runs;
mod shortcut;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use turncast::credentials::{Entropy, Grants, RoomTag, SharedSecrets};
use turncast::metrics::{DropReason, Heartbeats, Limit, Metrics};
use turncast::relay::{Options, Relay};
use turncast::telemetry::Secret;
use turncast::turn;
use webrtc_turn::client::ClientConfig;
use webrtc_util::Conn;

use crate::harness::{self, free_again, in_network};
use client::{Client, DEADLINE, Relayed};

/// A relay with the fixed user `alice`, whose password is `wonder`.
struct Fixture {
    relay: Relay,
    metrics: Arc<Metrics>,
    heartbeats: Heartbeats,
    grants: Arc<Grants>,
    entropy: Entropy,
    server: SocketAddr,
}

impl Fixture {
    fn start(listen: &[&str], workers: usize) -> Self {
        Self::start_with(listen, workers, engine(), Options::default())
    }

    fn start_with(
        listen: &[&str],
        workers: usize,
        engine: turn::Options,
        options: Options,
    ) -> Self {
        let mut entropy = Entropy::from_seed([3; 32]);
        let metrics = Arc::new(Metrics::default());
        let heartbeats = Heartbeats::default();
        let grants = Arc::new(Grants::new(Secret::new([9; 32])));
        let shared = turn::Shared::new(Arc::new(engine), Arc::clone(&grants), &mut entropy);
        let options = Options {
            listen: listen.iter().map(|text| address(text)).collect(),
            workers,
            ..options
        };
        let started = Relay::start(options, Arc::new(shared), &metrics, &heartbeats, &mut entropy);
        let relay = started.expect("the relay starts");
        let server = relay.local_addresses()[0];
        Self { relay, metrics, heartbeats, grants, entropy, server }
    }

    fn client(&self) -> Client {
        Client::new(self.server, "alice", "wonder")
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.counter(&format!("turn_dropped_total{{reason=\"{}\"}}", reason.text()))
    }

    fn counter(&self, name: &str) -> u64 {
        let text = self.metrics.text();
        let line = format!("turncast_{name} ");
        let value = text.lines().find_map(|found| found.strip_prefix(&line));
        value.and_then(|value| value.parse().ok()).expect("the counter is in the metrics")
    }
}

/// The relay address is the fixture's own, also when these tests run several times at once: nobody
/// else takes a port that has come free.
fn engine() -> turn::Options {
    static FIXTURES: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let own = [127, 64 + high % 64, low, FIXTURES.fetch_add(1, Ordering::Relaxed)];
    let own = IpAddr::from(own).to_string();
    let both = |text: &str| {
        let ip = ip(text);
        turn::RelayAddress { public: ip, local: ip }
    };
    turn::Options {
        realm: "turncast".to_owned(),
        relay_addresses: vec![both(&own), both("::1")],
        relay_ports: (49_152, 65_535),
        users: vec![turn::FixedUser {
            name: "alice".to_owned(),
            password: Secret::new("wonder".to_owned()),
        }],
        shared_secrets: SharedSecrets::default(),
        strict_expiry: false,
        allow_peers: vec!["127.0.0.3/32".parse().expect("a prefix")],
        deny_peers: Vec::new(),
        dont_fragment: true,
        default_family: turn::DefaultFamily::Ipv4,
        alternate_servers: Vec::new(),
        alternate_domain: None,
        examiners: String::new(),
        tcp_relay: None,
        nat_discovery: turn::NatDiscovery::default(),
        host_addresses: vec![ip(&own), ip("127.0.0.1"), ip("127.0.0.3"), ip("::1")],
        limits: turn::Limits {
            allocations_per_user: 1_000,
            allocations_per_link: 16,
            allocations: 10_000,
            permissions_per_allocation: 64,
            channels_per_allocation: 32,
            new_peers_per_min: 0,
            lifetime_secs_max: 3600,
            nonce_secs: 3600,
            bandwidth_per_allocation_bytes_per_sec: 0,
            bandwidth_per_user_bytes_per_sec: 0,
            bandwidth_bytes_per_sec: 0,
            unauthenticated_per_prefix_per_sec: 0,
            unauthenticated_burst: 1,
        },
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a test address")
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a test address")
}

/// A peer on an address of this host that the operator has opened.
fn peer() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.3:0").expect("a peer socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let local = socket.local_addr().expect("an address");
    (socket, local)
}

/// Waits until `holds`; a test fails when it does not within the deadline.
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "in vain: {what}");
        std::thread::yield_now();
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index % 251) as u8).collect()
}

#[tokio::test]
async fn an_independent_client_allocates_and_relays_both_ways() {
    let fixture = Fixture::start(&["127.0.0.1:0"], 2);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a client socket");
    let client = webrtc_turn::client::Client::new(ClientConfig {
        stun_serv_addr: fixture.server.to_string(),
        turn_serv_addr: fixture.server.to_string(),
        username: "alice".to_owned(),
        password: "wonder".to_owned(),
        realm: "turncast".to_owned(),
        software: String::new(),
        rto_in_ms: 0,
        conn: Arc::new(socket),
        vnet: None,
    });
    let client = client.await.expect("a client");
    client.listen().await.expect("a listening client");
    let mapped = client.send_binding_request().await.expect("a Binding answer");
    assert_eq!(mapped.ip(), ip("127.0.0.1"));
    let relayed = client.allocate().await.expect("an allocation");
    let relayed_address = relayed.local_addr().expect("a relayed address");
    let peer = tokio::net::UdpSocket::bind("127.0.0.3:0").await.expect("a peer");
    let to = peer.local_addr().expect("an address");
    let mut buffer = [0; 2048];
    for round in 0..100u8 {
        let payload = vec![round; usize::from(round) + 1];
        relayed.send_to(&payload, to).await.expect("a send through the relay");
        let (len, from) = peer.recv_from(&mut buffer).await.expect("a datagram at the peer");
        assert_eq!((&buffer[..len], from), (&payload[..], relayed_address));
        peer.send_to(&payload, relayed_address).await.expect("an answer");
        let (len, from) = relayed.recv_from(&mut buffer).await.expect("the answer");
        assert_eq!((&buffer[..len], from), (&payload[..], to));
    }
    relayed.close().await.expect("the end of the allocation");
    client.close().await.expect("the end of the client");
    wait_until("the allocation is gone", || fixture.metrics.allocations() == 0);
    assert!(fixture.relay.stop(DEADLINE));
}

#[test]
fn a_dead_peer_costs_a_live_one_nothing() {
    let fixture = Fixture::start(&["127.0.0.1:0"], 1);
    let mut client = fixture.client();
    let relayed = client.allocate().expect("an allocation");
    let (live, to_live) = peer();
    // It holds its port but is connected elsewhere, so the kernel answers by ICMP.
    let (dead, to_dead) = peer();
    dead.connect(("127.0.0.3", 9)).expect("a peer of its own");
    client.bind_channel(0x4000, to_live).expect("a channel to the live peer");
    client.bind_channel(0x4001, to_dead).expect("a channel to the dead peer");
    let mut buffer = [0; 64];
    for round in 0..500u16 {
        for _ in 0..4 {
            client.send_channel(0x4001, b"anybody?");
        }
        client.send_channel(0x4000, &round.to_be_bytes());
        client.send_channel(0x4001, b"anybody?");
        client.send_indication(to_live, &round.to_be_bytes());
        for _ in 0..2 {
            let (len, from) = live.recv_from(&mut buffer).expect("the live peer's datagram");
            assert_eq!((&buffer[..len], from), (&round.to_be_bytes()[..], relayed));
        }
        live.send_to(&round.to_be_bytes(), relayed).expect("an answer");
        let expected = Relayed::Channel(0x4000, round.to_be_bytes().to_vec());
        assert_eq!(client.receive_payload(), expected);
    }
    assert_eq!(fixture.dropped(DropReason::SendFailed), 0);
    assert_eq!(fixture.metrics.allocations(), 1);
}

#[test]
fn the_largest_datagrams_are_relayed_whole_or_dropped() {
    let fixture = Fixture::start(&["127.0.0.1:0"], 1);
    let mut client = fixture.client();
    let relayed = client.allocate().expect("an allocation");
    let (peer, to) = peer();
    client.bind_channel(0x4000, to).expect("a channel");
    let mut buffer = vec![0; 65_535];
    // 4 bytes of header leave 65,503 of payload in the largest datagram of IPv4.
    for len in [0, 1, 1_200, 1_473, 9_000, 65_503] {
        client.send_channel(0x4000, &pattern(len));
        let (received, _) = peer.recv_from(&mut buffer).expect("a datagram at the peer");
        assert_eq!(buffer[..received], pattern(len));
        peer.send_to(&pattern(len), relayed).expect("an answer");
        assert_eq!(client.receive(), Relayed::Channel(0x4000, pattern(len)));
    }
    for len in [65_504, 65_507] {
        peer.send_to(&pattern(len), relayed).expect("a datagram that fits behind no header");
    }
    let all_dropped =
        || fixture.dropped(DropReason::TooLong) + fixture.dropped(DropReason::SendFailed) == 2;
    wait_until("both are dropped and counted", all_dropped);
    peer.send_to(b"next", relayed).expect("an answer");
    assert_eq!(client.receive(), Relayed::Channel(0x4000, b"next".to_vec()));
}

#[test]
fn a_wildcard_listener_answers_from_the_address_that_was_asked() {
    let fixture = Fixture::start(&["0.0.0.0:0", "[::]:0"], 2);
    let (peer, to) = peer();
    for asked in ["127.0.0.1", "127.0.0.2"] {
        let server = SocketAddr::new(ip(asked), fixture.server.port());
        // The client's socket is connected: it hears nothing that leaves from elsewhere.
        let mut client = Client::new(server, "alice", "wonder");
        assert_eq!(client.bind(), client.socket.local_addr().expect("an address"));
        let relayed = client.allocate().expect("an allocation");
        client.permit(&[to]).expect("a permission");
        peer.send_to(b"hello", relayed).expect("a send");
        assert_eq!(client.receive(), Relayed::Indication(to, b"hello".to_vec()));
    }
    let server = SocketAddr::new(ip("::1"), fixture.relay.local_addresses()[1].port());
    let mut client = Client::new(server, "alice", "wonder");
    assert_eq!(client.bind(), client.socket.local_addr().expect("an address"));
}

#[test]
fn ipv6_clients_relay_to_each_other() {
    let fixture = Fixture::start(&["[::1]:0"], 2);
    let (mut one, mut two) = (fixture.client(), fixture.client());
    let to_one = one.allocate().expect("an IPv6 allocation");
    let to_two = two.allocate().expect("an IPv6 allocation");
    assert!(to_one.is_ipv6() && to_two.is_ipv6());
    one.permit(&[to_two]).expect("a permission");
    two.permit(&[to_one]).expect("a permission");
    one.send_indication(to_two, b"hello");
    assert_eq!(two.receive(), Relayed::Indication(to_one, b"hello".to_vec()));
    two.bind_channel(0x4abc, to_one).expect("a channel");
    two.send_channel(0x4abc, &pattern(9_001));
    assert_eq!(one.receive(), Relayed::Indication(to_two, pattern(9_001)));
}

#[test]
fn every_client_stays_with_its_worker() {
    let fixture = Fixture::start(&["127.0.0.1:0"], 4);
    let (peer, to) = peer();
    let mut clients: Vec<Client> = (0..40).map(|_| fixture.client()).collect();
    let mut relayed = Vec::new();
    for client in &mut clients {
        relayed.push(client.allocate().expect("an allocation"));
        client.bind_channel(0x4fff, to).expect("a channel");
    }
    assert_eq!(fixture.metrics.allocations(), 40);
    for round in 0..10u8 {
        for (client, relayed) in clients.iter_mut().zip(&relayed) {
            client.send_channel(0x4fff, &[round]);
            let mut buffer = [0; 16];
            assert_eq!(peer.recv_from(&mut buffer).expect("a datagram"), (1, *relayed));
            client.refresh(600).expect("a refresh");
        }
    }
    for client in &mut clients {
        client.refresh(0).expect("the end of the allocation");
    }
    assert_eq!(fixture.metrics.allocations(), 0);
    for address in relayed {
        free_again(address);
    }
}

#[test]
fn a_revoked_grant_ends_its_allocations_on_every_worker_at_once() {
    let mut fixture = Fixture::start(&["127.0.0.1:0"], 3);
    let room = RoomTag::draw(&mut fixture.entropy);
    let grant = fixture.grants.issue(room, &mut fixture.entropy);
    grant.allow(ip("127.0.0.3")).expect("room in the scope");
    let expiry = turncast::net::Now::read().unix_secs + 300;
    let credential = fixture.grants.credential(&grant, expiry);
    let (name, password) = (&credential.username, credential.password.expose());
    let mut client = Client::new(fixture.server, name, password);
    let mut other = fixture.client();
    other.allocate().expect("somebody else's allocation");
    let relayed = client.allocate().expect("an allocation");
    // The kernel chooses the worker: with so many, hardly one of the three is without.
    let mut more: Vec<_> = (0..15).map(|_| Client::new(fixture.server, name, password)).collect();
    for client in &mut more {
        client.allocate().expect("an allocation on any worker");
    }
    let (peer, to) = peer();
    client.permit(&[to]).expect("a permission in the scope");
    client.send_indication(to, b"hello");
    peer.recv_from(&mut [0; 16]).expect("a datagram at the peer");
    assert_eq!(fixture.metrics.allocations(), 17);

    assert!(fixture.grants.revoke(grant.name()));
    fixture.relay.handle().revoke(grant.name());
    wait_until("the allocations are gone", || fixture.metrics.allocations() == 1);
    free_again(relayed);
    assert!(client.refresh(600).is_err());
    assert_eq!(Client::new(fixture.server, name, password).allocate(), Err(401));
    other.refresh(600).expect("somebody else's allocation lives");
}

#[test]
fn a_second_relay_on_the_port_is_refused_in_one_sentence() {
    let fixture = Fixture::start(&["127.0.0.1:0"], 2);
    let mut entropy = Entropy::from_seed([4; 32]);
    let grants = Arc::new(Grants::new(Secret::new([9; 32])));
    let shared = Arc::new(turn::Shared::new(Arc::new(engine()), grants, &mut entropy));
    let options = Options { listen: vec![fixture.server], workers: 2, ..Options::default() };
    let metrics = Arc::new(Metrics::default());
    let refused = Relay::start(options, shared, &metrics, &Heartbeats::default(), &mut entropy);
    let sentence = format!(
        "bind udp://{}: Address already in use; is another turncast or TURN server running? \
         `ss -lunp` shows who has the port",
        fixture.server
    );
    assert_eq!(refused.expect_err("the port is taken").to_string(), sentence);
    fixture.client().bind();
}

#[test]
fn stopping_closes_every_socket_and_ends_every_thread() {
    let fixture = Fixture::start(&["127.0.0.4:0", "127.0.0.5:0"], 3);
    let relayed = fixture.client().allocate().expect("an allocation");
    let names: Vec<String> =
        fixture.heartbeats.ages(Instant::now()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["relay-0", "relay-1", "relay-2"]);
    let addresses = fixture.relay.local_addresses().to_vec();
    assert_eq!(addresses.len(), 2);
    assert!(fixture.relay.stop(DEADLINE));
    assert_eq!(fixture.metrics.allocations(), 0);
    for address in addresses.into_iter().chain([relayed]) {
        free_again(address);
    }
}

#[test]
fn an_idle_worker_beats_every_second() {
    let fixture = Fixture::start(&["127.0.0.1:0"], 1);
    let oldest = || {
        let ages = fixture.heartbeats.ages(Instant::now());
        ages.into_iter().map(|(_, age)| age).max().expect("a heartbeat")
    };
    // It grows old, and then it is young again although nothing arrived.
    wait_until("the beat grows old", || oldest() > Duration::from_millis(500));
    wait_until("the worker beats", || oldest() < Duration::from_millis(400));
}

#[test]
fn a_flood_of_rubbish_starves_nobody() {
    let fixture = Fixture::start(&["127.0.0.1:0"], 1);
    let mut client = fixture.client();
    let relayed = client.allocate().expect("an allocation");
    let (peer, to) = peer();
    client.bind_channel(0x4000, to).expect("a channel");
    let (server, flooder) = (fixture.server, UdpSocket::bind("127.0.0.1:0").expect("a socket"));
    let done = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&done);
    let mut entropy = Entropy::from_seed([5; 32]);
    let flood = std::thread::spawn(move || {
        let mut sent = 0;
        let mut rubbish = [0; 256];
        while !ends.load(Ordering::Relaxed) && sent < 2_000_000 {
            entropy.fill(&mut rubbish);
            let len = entropy.below(256) as usize;
            sent += u32::from(flooder.send_to(&rubbish[..len], server).is_ok());
        }
    });
    // The peer's way is a socket of its own: its turn comes in every round.
    for round in 0..2_000u16 {
        peer.send_to(&round.to_be_bytes(), relayed).expect("a send");
        let expected = Relayed::Channel(0x4000, round.to_be_bytes().to_vec());
        assert_eq!(client.receive(), expected);
    }
    done.store(true, Ordering::Relaxed);
    flood.join().expect("the flood ends");
    assert_eq!(fixture.counter("panics_total"), 0);
}

#[test]
fn a_worker_without_descriptors_refuses_and_recovers() {
    let test = "a_worker_without_descriptors_refuses_and_recovers";
    if !in_child(test, "ulimit -n 100 && exec \"$@\"") {
        return;
    }
    let fixture = Fixture::start(&["127.0.0.1:0"], 1);
    let (peer, to) = peer();
    let mut clients: Vec<Client> = (0..60).map(|_| fixture.client()).collect();
    let outcomes: Vec<_> = clients.iter_mut().map(Client::allocate).collect();
    let first_refused = outcomes.iter().position(Result::is_err).expect("descriptors run out");
    assert!(first_refused > 2);
    assert!(outcomes[first_refused..].iter().all(|outcome| *outcome == Err(508)), "{outcomes:?}");
    assert!(fixture.metrics.limits(Limit::Descriptors) > 0);
    // Who has an allocation does not notice.
    let relayed = *outcomes[0].as_ref().expect("the first allocation");
    clients[0].permit(&[to]).expect("a permission");
    clients[0].send_indication(to, b"still here");
    assert_eq!(peer.recv_from(&mut [0; 16]).expect("a datagram"), (10, relayed));
    // One goes, one comes.
    clients[1].refresh(0).expect("the end of an allocation");
    clients[first_refused].allocate().expect("an allocation with the free descriptor");
    assert_eq!(clients[first_refused + 1].allocate(), Err(508));
}

#[test]
fn a_failed_send_is_counted_and_ends_nothing() {
    // A network with one silent neighbour and no default route.
    let network = "ip link set lo up && ip link add here type veth peer name there && \
                   ip address add 203.0.113.1/24 dev here && ip link set here up && \
                   ip link set there up";
    if !in_network("relay::a_failed_send_is_counted_and_ends_nothing", network) {
        return;
    }
    let here = ip("203.0.113.1");
    let engine = turn::Options {
        relay_addresses: vec![turn::RelayAddress { public: here, local: here }],
        allow_peers: vec!["203.0.113.0/24".parse().expect("a prefix")],
        ..engine()
    };
    let options = Options { relay_buffer_bytes: 4_096, ..Options::default() };
    let fixture = Fixture::start_with(&["127.0.0.1:0"], 1, engine, options);
    let mut client = fixture.client();
    client.allocate().expect("an allocation");
    let (silent, nowhere) = (address("203.0.113.2:9"), address("1.2.3.4:9"));
    client.permit(&[silent, nowhere]).expect("permissions");
    // What waits for the neighbour's address fills the send buffer; a run is let in as a whole.
    for _ in 0..100 {
        client.send_indication(silent, &[0; 1_000]);
    }
    wait_until("the full buffer is counted", || fixture.dropped(DropReason::SendBufferFull) > 10);
    let mut other = fixture.client();
    other.allocate().expect("an allocation");
    other.permit(&[nowhere]).expect("a permission");
    for _ in 0..20 {
        other.send_indication(nowhere, &[0; 1_000]);
    }
    wait_until("no route is counted", || fixture.dropped(DropReason::SendFailed) == 20);
    assert_eq!(fixture.metrics.allocations(), 2);
    client.refresh(600).expect("the allocation lives");
    other.refresh(600).expect("the allocation lives");
}

/// See [`harness::in_child`]; `test` is a test of this module.
fn in_child(test: &str, shell: &str) -> bool {
    harness::in_child(&format!("relay::{test}"), shell)
}
