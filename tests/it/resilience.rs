//! What the operating system may refuse: descriptors, ports, routes, room in a queue. The relay
//! says so to whom it concerns, works on for everybody else, and recovers; over UDP, TCP and TLS
//! alike.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::harness::{DEADLINE, Daemon, Setup, get, in_network};
use crate::limits::hits;
use crate::relay::client::{Client, Relayed};
use crate::secure::{KEYS, certificate_for};
use crate::streams::{connect, connect_tls};

const CONFIG: &str = r#"
[turn]
workers = 1
users = [{ name = "alice", password = "password-of-alice-1" }]
"#;

const LIMITS: &str = "[turn.limits]\nallocations_per_user = 1000\nallocations = 1000\n";

const LISTEN: &str = r#"["127.0.0.1:0", "tls://127.0.0.1:0"]"#;

fn udp(daemon: &Daemon) -> Client {
    Client::new(daemon.turn(), "alice", "password-of-alice-1")
}

fn tcp(daemon: &Daemon) -> Client {
    let server = daemon.turn_over("tcp");
    Client::over(connect(server), server, "alice", "password-of-alice-1")
}

/// A relay address of the test's own, whose ports nobody else takes.
fn relay_address() -> IpAddr {
    static TESTS: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    IpAddr::from([127, 32 + high % 32, low, TESTS.fetch_add(1, Ordering::Relaxed)])
}

/// Both ways between a client, whose relayed address this is, and a peer.
#[track_caller]
fn assert_relays(client: &mut Client, relayed: SocketAddr, peer: &UdpSocket) {
    let address = peer.local_addr().expect("bound");
    peer.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    client.permit(&[address]).expect("a permission");
    client.send_indication(address, b"still here");
    assert_eq!(peer.recv_from(&mut [0; 16]).expect("a datagram"), (10, relayed));
    peer.send_to(b"and here", relayed).expect("a send");
    assert_eq!(client.receive_payload(), Relayed::Indication(address, b"and here".to_vec()));
}

#[test]
fn without_descriptors_everybody_who_is_there_is_served_and_the_next_ones_wait() {
    let setup = Setup::new(&format!("{CONFIG}allow_peers = [\"127.0.0.3\"]\n{LIMITS}{KEYS}"))
        .variable("TURNCAST__TURN__LISTEN", LISTEN);
    let trusting = certificate_for(setup.directory(), rustls::ALL_VERSIONS);
    let daemon = setup.start_with_descriptors(80);
    let tls = |daemon: &Daemon| {
        let server = daemon.turn_over("tls");
        let stream = connect_tls(server, &trusting, &["stun.turn"]).expect("a handshake");
        Client::over(stream, server, "alice", "password-of-alice-1")
    };
    let mut served = [udp(&daemon), tcp(&daemon), tls(&daemon)];
    let relayed = served.each_mut().map(|client| client.allocate().expect("an allocation"));
    // Connected, but without an allocation when descriptors run out.
    let mut early = [tcp(&daemon), tls(&daemon)];
    for client in &mut early {
        client.bind();
    }
    let mut greedy: Vec<Client> = (0..80).map(|_| udp(&daemon)).collect();
    let outcomes: Vec<_> = greedy.iter_mut().map(|client| client.allocate().err()).collect();
    let got = outcomes.iter().position(Option::is_some).expect("descriptors run out");
    assert!(got > 20 && outcomes[got..].iter().all(|code| *code == Some(508)), "{outcomes:?}");
    for client in &mut early {
        assert_eq!(client.allocate(), Err(508));
        client.bind();
    }
    let peer = UdpSocket::bind("127.0.0.3:0").expect("a peer");
    for (client, relayed) in served.iter_mut().zip(relayed) {
        assert_relays(client, relayed, &peer);
    }
    // The kernel takes these connections; the daemon cannot yet.
    let binding = [0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    let mut late: Vec<_> = (0..3).map(|_| connect(daemon.turn_over("tcp"))).collect();
    for stream in &mut late {
        stream.write_all(&binding).expect("a write");
    }
    for client in &mut greedy[..got] {
        client.refresh(0).expect("the end");
    }
    for mut stream in late {
        stream.read_exact(&mut [0; 32]).expect("an answer, once there are descriptors");
    }
    for client in early.iter_mut().chain(&mut greedy[..8]) {
        client.allocate().expect("an allocation");
    }
    assert!(hits(&daemon, "descriptors") >= 80 - got as u64 + 2);
    assert_eq!(get(daemon.admin(), "/healthz").0, 200);
    assert_eq!(daemon.metric("turncast_panics_total"), 0);
    daemon.stop();
}

#[test]
fn a_full_range_of_ports_is_told_to_clients_of_every_transport_and_ports_come_back() {
    let own = relay_address();
    let relay = format!("relay_addresses = [\"{own}\"]\nrelay_ports = \"50000-50003\"\n");
    let daemon = Setup::new(&format!("{CONFIG}{relay}{LIMITS}")).start();
    let mut clients = [udp(&daemon), tcp(&daemon), udp(&daemon), tcp(&daemon)];
    let mut ports = clients.each_mut().map(|client| client.allocate().expect("one").port());
    ports.sort_unstable();
    assert_eq!(ports, [50_000, 50_001, 50_002, 50_003]);
    let (mut by_udp, mut by_tcp) = (udp(&daemon), tcp(&daemon));
    assert_eq!((by_udp.allocate(), by_tcp.allocate()), (Err(508), Err(508)));
    assert_eq!(hits(&daemon, "relay_ports"), 2);
    // What the one transport gives back is good for the other.
    let [first_udp, first_tcp, ..] = &mut clients;
    first_udp.refresh(0).expect("the end");
    by_tcp.allocate().expect("the port of a client over UDP");
    assert_eq!(by_udp.allocate(), Err(508));
    first_tcp.refresh(0).expect("the end");
    by_udp.allocate().expect("the port of a client over TCP");
    daemon.stop();
}

#[test]
fn ports_that_others_have_are_passed_over_until_none_is_left_and_tried_again_later() {
    let own = relay_address();
    let relay = format!("relay_addresses = [\"{own}\"]\nrelay_ports = \"50000-50003\"\n");
    let daemon = Setup::new(&format!("{CONFIG}{relay}{LIMITS}")).start();
    let take = |port: u16| UdpSocket::bind((own, port)).expect("a free port");
    let mut others: Vec<_> = (50_000..50_003).map(take).collect();
    for mut client in [udp(&daemon), tcp(&daemon)] {
        assert_eq!(client.allocate(), Ok(SocketAddr::new(own, 50_003)));
        client.refresh(0).expect("the end");
    }
    others.push(take(50_003));
    for mut client in [udp(&daemon), tcp(&daemon)] {
        assert_eq!(client.allocate(), Err(508));
        client.bind();
        let freed = others.pop().expect("one of them").local_addr().expect("bound");
        assert_eq!(client.allocate(), Ok(freed), "the same client asks again");
        client.refresh(0).expect("the end");
        others.push(take(freed.port()));
    }
    daemon.stop();
}

#[test]
fn a_missing_route_and_a_full_queue_cost_the_packets_that_meet_them_and_no_others() {
    // One neighbour behind a line of 8 kbit/s, one address that is here, and no default route.
    let network = "ip link set lo up && ip address add 198.51.100.3/32 dev lo && \
                   ip link add here type veth peer name there && \
                   ip address add 203.0.113.1/24 dev here && ip link set here up && \
                   ip link set there up && \
                   ip neighbour add 203.0.113.2 lladdr 02:00:00:00:00:02 dev here && \
                   tc qdisc add dev here root tbf rate 8kbit burst 1600 limit 3000";
    let test = "resilience::\
                a_missing_route_and_a_full_queue_cost_the_packets_that_meet_them_and_no_others";
    if !in_network(test, network) {
        return;
    }
    let config = format!(
        "{CONFIG}relay_addresses = [\"203.0.113.1\"]\n\
         allow_peers = [\"203.0.113.0/24\", \"198.51.100.3/32\"]\n{LIMITS}"
    );
    let daemon = Setup::new(&config).start();
    let reason = |why: &str| format!("turncast_turn_dropped_total{{reason=\"{why}\"}}");
    let dropped = |why: &str| daemon.metric(&reason(why));
    let address = |text: &str| -> SocketAddr { text.parse().expect("an address") };
    let (slow, nowhere) = (address("203.0.113.2:9"), address("1.2.3.4:9"));
    let peer = UdpSocket::bind("198.51.100.3:0").expect("a peer");
    for mut client in [udp(&daemon), tcp(&daemon)] {
        let relayed = client.allocate().expect("an allocation");
        client.permit(&[slow, nowhere]).expect("permissions");
        let (full, failed) = (dropped("send_buffer_full"), dropped("send_failed"));
        for _ in 0..20 {
            client.send_indication(slow, &[0; 1000]);
            client.send_indication(nowhere, &[0; 1000]);
        }
        // The last one goes nowhere, and in one round answers leave before what is relayed.
        daemon.wait_for_metric(&reason("send_failed"), failed + 20);
        assert!(dropped("send_buffer_full") >= full + 10, "the queue holds three of them");
        assert_relays(&mut client, relayed, &peer);
        client.refresh(600).expect("the allocation lives");
    }
    daemon.stop();
}
