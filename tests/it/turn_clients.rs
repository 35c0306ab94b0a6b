//! TURN clients that nobody here wrote, through the daemon: Debian's `turnutils_uclient` and the
//! client of the `turn` crate.

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::time::timeout;
use webrtc_turn::client::{Client, ClientConfig};
use webrtc_util::Conn;

use crate::harness::{DEADLINE, Daemon, Setup, text};
use crate::secure::{self, KEYS};

const CONFIG: &str = r#"
[turn]
realm = "example.org"
users = [{ name = "alice", password = "password-of-alice-1" }]
shared_secret = "shared-secret-of-a-test"
allow_peers = ["127.0.0.3"]
"#;

const ALICE: &[&str] = &["-u", "alice", "-w", "password-of-alice-1"];
/// The tool makes the name and the password by itself.
const SECRET: &[&str] = &["-u", "bob", "-W", "shared-secret-of-a-test"];

/// Runs `turnutils_uclient` toward the daemon: two of its own clients talk through the relay.
/// `-c`: without it the tool asks for EVEN-PORT with a reservation.
fn uclient(daemon: &Daemon, credential: &[&str], more: &[&str]) -> Output {
    uclient_to(daemon.turn(), credential, &[&["-c"], more].concat())
}

/// The same with RTP and RTCP: each client asks for a pair of ports, and gets the upper one with
/// the token.
fn uclient_of_pairs(daemon: &Daemon, credential: &[&str], more: &[&str]) -> Output {
    uclient_to(daemon.turn(), credential, more)
}

fn uclient_to(turn: SocketAddr, credential: &[&str], more: &[&str]) -> Output {
    Command::new("timeout")
        .args(["60", "turnutils_uclient", "-y", "-p", &turn.port().to_string()])
        .args(credential)
        .args(more)
        .arg(turn.ip().to_string())
        .stdin(Stdio::null())
        .output()
        .expect("timeout (coreutils) runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn assert_all_relayed(output: &Output, messages: u64) {
    let all = said(output);
    assert!(output.status.success(), "turnutils_uclient (apt-get install coturn): {all}");
    let line = all.lines().rfind(|line| line.contains("tot_send_msgs="));
    let line = line.unwrap_or_else(|| panic!("no totals in:\n{all}"));
    for name in ["tot_send_msgs=", "tot_recv_msgs="] {
        let after = line.split(name).nth(1).expect("a total");
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        assert_eq!(digits, messages.to_string(), "{name} in:\n{all}");
    }
}

#[test]
fn uclient_relays_with_a_long_term_credential() {
    let daemon = Setup::new(CONFIG).start();
    assert_all_relayed(&uclient(&daemon, ALICE, &["-s", "-n", "50"]), 100);
    // The tool deletes two of its allocations, and never the one with which it began.
    daemon.wait_for_metric("turncast_allocations", 1);
    assert!(daemon.metric("turncast_relayed_packets_total{direction=\"to_peer\"}") >= 100);
    assert!(daemon.metric("turncast_relayed_packets_total{direction=\"to_client\"}") >= 100);
    daemon.stop();
}

#[test]
fn uclient_relays_through_pairs_of_ports() {
    let daemon = Setup::new(CONFIG).start();
    assert_all_relayed(&uclient_of_pairs(&daemon, ALICE, &["-s", "-n", "50"]), 200);
    daemon.stop();
}

#[test]
fn uclient_relays_with_the_shared_secret() {
    let daemon = Setup::new(CONFIG).start();
    assert_all_relayed(&uclient(&daemon, SECRET, &["-s", "-n", "50"]), 100);
    daemon.wait_for_metric("turncast_allocations", 1);
    daemon.stop();
}

#[test]
fn uclient_relays_over_tcp() {
    let daemon = Setup::new(CONFIG).start();
    let tcp = daemon.turn_over("tcp");
    assert_all_relayed(&uclient_to(tcp, ALICE, &["-c", "-t", "-s", "-n", "50"]), 100);
    assert!(daemon.metric("turncast_relayed_packets_total{direction=\"to_peer\"}") >= 100);
    // Its connections are gone, and with them all of its allocations.
    daemon.wait_for_metric("turncast_turn_connections", 0);
    assert_eq!(daemon.metric("turncast_allocations"), 0);
    daemon.stop();
}

#[test]
fn uclient_relays_through_pairs_of_ports_over_tcp() {
    let daemon = Setup::new(CONFIG).start();
    let tcp = daemon.turn_over("tcp");
    assert_all_relayed(&uclient_to(tcp, ALICE, &["-t", "-s", "-n", "50"]), 200);
    daemon.stop();
}

/// RFC 6062: two allocations for TCP that connect to each other's relayed addresses. On a data
/// connection over TCP the tool cuts every answer to the length of its messages (100 bytes), and
/// a challenge with a FINGERPRINT is longer.
#[test]
fn uclient_relays_tcp() {
    let daemon = Setup::new(CONFIG).variable("TURNCAST__TURN__TCP_RELAY", "true").start();
    let tcp = daemon.turn_over("tcp");
    assert_all_relayed(&uclient_to(tcp, ALICE, &["-T", "-n", "50", "-l", "200"]), 100);
    daemon.wait_for_metric("turncast_turn_connections", 0);
    assert!(daemon.metric("turncast_relayed_bytes_total{direction=\"to_peer\"}") >= 10_000);
    assert_eq!(daemon.metric("turncast_data_connections"), 0);
    daemon.stop();
}

#[test]
fn uclient_relays_over_tls() {
    let daemon = start_tls();
    let tls = daemon.turn_over("tls");
    assert_all_relayed(&uclient_to(tls, ALICE, &["-c", "-t", "-S", "-s", "-n", "50"]), 100);
    daemon.wait_for_metric("turncast_turn_connections", 0);
    daemon.stop();
}

#[test]
fn uclient_relays_tcp_over_tls() {
    let daemon = start_tls();
    let tls = daemon.turn_over("tls");
    assert_all_relayed(&uclient_to(tls, ALICE, &["-T", "-S", "-n", "50"]), 100);
    daemon.wait_for_metric("turncast_turn_connections", 0);
    daemon.stop();
}

/// A daemon with a certificate that relays TCP, too.
fn start_tls() -> Daemon {
    let setup = Setup::new(&format!("{CONFIG}{KEYS}"))
        .variable("TURNCAST__TURN__LISTEN", "tls://127.0.0.1:0")
        .variable("TURNCAST__TURN__TCP_RELAY", "true");
    secure::certificate(setup.directory());
    setup.start()
}

/// Runs the tool toward one listener; its allocations must be of the family of `relay` alone, and
/// all of its messages relayed in both directions.
#[track_caller]
fn uclient_relays_from(listen: &str, relay: &str, credential: &[&str], flags: &[&str], count: u64) {
    let setup = Setup::new(&format!("{CONFIG}{KEYS}[log]\naddresses = \"full\"\n"))
        .variable("TURNCAST__TURN__LISTEN", listen);
    secure::certificate(setup.directory());
    let daemon = setup.start();
    let transport = listen.split(':').next().expect("a scheme");
    let output = uclient_to(daemon.turn_over(transport), credential, flags);
    assert_all_relayed(&output, count);
    for direction in ["to_peer", "to_client"] {
        let series = format!("turncast_relayed_packets_total{{direction=\"{direction}\"}}");
        assert!(daemon.metric(&series) >= count, "{series}");
    }
    let log = daemon.stop();
    let made: Vec<_> = log.lines().filter(|line| line.contains("\"allocation created\"")).collect();
    assert!(made.len() >= 2, "{log}");
    let relayed = format!("\"relayed\":\"{relay}:");
    assert!(made.iter().all(|line| line.contains(&relayed)), "{relayed} in {made:?}");
}

#[test]
fn uclient_relays_over_ipv6() {
    let flags = ["-c", "-x", "-s", "-n", "50"];
    uclient_relays_from("udp://[::1]:0", "[::1]", SECRET, &flags, 100);
}

#[test]
fn uclient_relays_through_pairs_of_ports_over_ipv6() {
    let flags = ["-x", "-s", "-n", "50"];
    uclient_relays_from("udp://[::1]:0", "[::1]", ALICE, &flags, 200);
}

#[test]
fn uclient_relays_over_ipv6_and_tcp() {
    let flags = ["-c", "-t", "-x", "-s", "-n", "50"];
    uclient_relays_from("tcp://[::1]:0", "[::1]", SECRET, &flags, 100);
}

#[test]
fn uclient_relays_over_ipv6_and_tls() {
    let flags = ["-c", "-t", "-S", "-x", "-s", "-n", "50"];
    uclient_relays_from("tls://[::1]:0", "[::1]", SECRET, &flags, 100);
}

#[test]
fn uclient_relays_between_the_families() {
    let flags = ["-c", "-X", "-s", "-n", "50"];
    uclient_relays_from("udp://[::1]:0", "127.0.0.1", ALICE, &flags, 100);
    let flags = ["-c", "-t", "-S", "-x", "-s", "-n", "50"];
    uclient_relays_from("tls://127.0.0.1:0", "[::1]", ALICE, &flags, 100);
}

/// The tool draws channel numbers from the range of RFC 5766, of which RFC 8656 keeps a quarter;
/// the others are refused, so it is run until both of its numbers are good.
#[test]
fn uclient_relays_over_channels() {
    let daemon = Setup::new(CONFIG).start();
    for attempt in 0..300 {
        let name = format!("carol-{attempt}");
        let secret = ["-u", name.as_str(), "-W", "shared-secret-of-a-test"];
        let output = uclient(&daemon, &secret, &["-n", "50", "-l", "1200"]);
        if said(&output).contains("channel number out of range") {
            continue;
        }
        assert_all_relayed(&output, 100);
        daemon.stop();
        return;
    }
    panic!("no run drew two channel numbers from 0x4000 to 0x4FFF");
}

#[test]
fn a_wrong_password_fails_cleanly() {
    let daemon = Setup::new(CONFIG).start();
    for credential in [
        ["-u", "alice", "-w", "wrong"],
        ["-u", "nobody", "-w", "password-of-alice-1"],
        ["-u", "bob", "-W", "another-secret"],
    ] {
        let output = uclient(&daemon, &credential, &["-s", "-n", "5"]);
        assert!(!output.status.success(), "{credential:?}: {}", said(&output));
        assert!(said(&output).contains("Cannot complete Allocation"), "{}", said(&output));
    }
    assert_eq!(daemon.metric("turncast_allocations_created_total"), 0);
    assert!(daemon.metric("turncast_turn_refused_total{method=\"allocate\",code=\"401\"}") >= 3);
    assert_all_relayed(&uclient(&daemon, ALICE, &["-s", "-n", "5"]), 10);
    daemon.stop();
}

/// A client of the `turn` crate with an allocation.
async fn allocate(daemon: &Daemon, password: &str) -> Result<(Client, impl Conn + use<>), String> {
    let conn = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a client socket"));
    let config = ClientConfig {
        stun_serv_addr: String::new(),
        turn_serv_addr: daemon.turn().to_string(),
        username: "alice".to_owned(),
        password: password.to_owned(),
        realm: String::new(),
        software: String::new(),
        rto_in_ms: 0,
        conn,
        vnet: None,
    };
    let client = Client::new(config).await.expect("a client");
    client.listen().await.expect("it listens");
    match client.allocate().await {
        Ok(relayed) => Ok((client, relayed)),
        Err(why) => Err(why.to_string()),
    }
}

#[tokio::test]
async fn the_turn_crates_client_relays_both_ways() {
    let daemon = Setup::new(CONFIG).start();
    let (client, relayed) = allocate(&daemon, "password-of-alice-1").await.expect("an allocation");
    let peer = UdpSocket::bind("127.0.0.3:0").await.expect("a peer");
    let peer_address = peer.local_addr().expect("bound");
    let mut buffer = [0; 2048];
    // The first packets go as indications until the client has bound its channel.
    for round in 0..20u32 {
        let payload = format!("packet {round}");
        relayed.send_to(payload.as_bytes(), peer_address).await.expect("sent");
        let (read, from) =
            timeout(DEADLINE, peer.recv_from(&mut buffer)).await.expect("in time").expect("there");
        assert_eq!(&buffer[..read], payload.as_bytes());
        assert_eq!(Ok(from), relayed.local_addr().map_err(|_| ()));
        peer.send_to(payload.as_bytes(), from).await.expect("sent");
        let (read, from) = timeout(DEADLINE, relayed.recv_from(&mut buffer))
            .await
            .expect("in time")
            .expect("there");
        assert_eq!((&buffer[..read], from), (payload.as_bytes(), peer_address));
    }
    assert_eq!(daemon.metric("turncast_allocations"), 1);
    relayed.close().await.expect("closed");
    client.close().await.expect("closed");
    daemon.wait_for_metric("turncast_allocations", 0);
    daemon.stop();
}

#[tokio::test]
async fn a_dead_peer_costs_a_live_one_nothing() {
    let daemon = Setup::new(CONFIG).start();
    let (client, relayed) = allocate(&daemon, "password-of-alice-1").await.expect("an allocation");
    let live = UdpSocket::bind("127.0.0.3:0").await.expect("a peer");
    let dead = UdpSocket::bind("127.0.0.3:0").await.expect("a peer").local_addr().expect("bound");
    let live_address = live.local_addr().expect("bound");
    let mut buffer = [0; 2048];
    for round in 0..200u32 {
        // The kernel answers the first one with an ICMP error, which must not hit the second.
        relayed.send_to(b"anybody?", dead).await.expect("sent");
        relayed.send_to(&round.to_be_bytes(), live_address).await.expect("sent");
        let (read, _) = timeout(DEADLINE, live.recv_from(&mut buffer))
            .await
            .unwrap_or_else(|_| panic!("packet {round} was lost"))
            .expect("there");
        assert_eq!(&buffer[..read], round.to_be_bytes());
    }
    assert_eq!(daemon.metric("turncast_allocations"), 1);
    client.close().await.expect("closed");
    daemon.stop();
}

#[tokio::test]
async fn the_turn_crates_client_is_refused_with_a_wrong_password() {
    let daemon = Setup::new(CONFIG).start();
    let Err(why) = allocate(&daemon, "wrong").await else { panic!("a wrong password") };
    assert!(why.contains("401") || why.to_lowercase().contains("unauth"), "{why}");
    assert_eq!(daemon.metric("turncast_allocations_created_total"), 0);
    daemon.stop();
}
