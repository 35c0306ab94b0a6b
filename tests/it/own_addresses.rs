//! The addresses of the daemon's own host: which one is relayed from, and that none is a peer.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use crate::harness::{DEADLINE, Daemon, Setup, in_network};
use crate::relay::client::{Client, relayed_addresses};
use crate::streams::connect;

const CONFIG: &str = r#"
[turn]
users = [{ name = "alice", password = "password-of-alice-1" }]
"#;

fn client(server: SocketAddr) -> Client {
    Client::new(server, "alice", "password-of-alice-1")
}

fn over_tcp(daemon: &Daemon) -> Client {
    let server = daemon.turn_over("tcp");
    Client::over(connect(server), server, "alice", "password-of-alice-1")
}

/// Whoever may be a peer by default, were it another host's.
fn peer(last: u8) -> SocketAddr {
    SocketAddr::from(([20, 0, 0, last], 9))
}

#[test]
fn no_address_of_this_host_is_a_peer_and_none_that_comes_stays_one() {
    let test = "own_addresses::no_address_of_this_host_is_a_peer_and_none_that_comes_stays_one";
    if !in_network(test, "ip link set lo up && ip address add 20.0.0.5/32 dev lo") {
        return;
    }
    let mut daemon = Setup::new(CONFIG).start();
    let mut clients = [client(daemon.turn()), over_tcp(&daemon)];
    for client in &mut clients {
        client.allocate().expect("an allocation");
        assert_eq!(client.permit(&[peer(5)]), Err(403), "an address of this host");
        client.permit(&[peer(6)]).expect("an address of nobody here");
        client.bind_channel(0x4000, peer(6)).expect("a channel");
        client.bind_channel(0x4001, peer(7)).expect("a channel");
    }
    let no_channel = "turncast_turn_dropped_total{reason=\"no_channel\"}";
    assert_eq!(daemon.metric(no_channel), 0);
    let line = ["address", "add", "20.0.0.6/32", "dev", "lo"];
    assert!(Command::new("ip").args(line).status().expect("ip runs").success());
    daemon.wait_for("the addresses of this host have changed");
    for client in &mut clients {
        assert_eq!(client.permit(&[peer(6)]), Err(403), "it is one of this host by now");
        assert_eq!(client.bind_channel(0x4000, peer(6)), Err(403));
        // What was permitted before ends as soon as its worker or its task hears of it.
        let (before, begin) = (daemon.metric(no_channel), Instant::now());
        while daemon.metric(no_channel) == before {
            assert!(begin.elapsed() < DEADLINE, "the channel lives on");
            client.send_channel(0x4000, b"hello");
        }
        client.bind();
        let before = daemon.metric(no_channel);
        client.send_channel(0x4001, b"hello");
        client.bind();
        assert_eq!(daemon.metric(no_channel), before, "another peer's channel stays");
    }
    daemon.stop();
}

#[test]
fn a_client_who_names_no_family_is_relayed_by_the_default_one() {
    for (default, of_ipv6_client_is_ipv4) in [("ipv4", true), ("client", false)] {
        let daemon = Setup::new(&format!("{CONFIG}default_family = \"{default}\"\n"))
            .variable("TURNCAST__TURN__LISTEN", "[\"udp://127.0.0.1:0\", \"udp://[::1]:0\"]")
            .start();
        let is_ipv4 = |server| {
            let answer = client(server).allocate_with(&[]).expect("an allocation");
            relayed_addresses(&answer)[0].is_ipv4()
        };
        assert!(is_ipv4(daemon.turn()));
        assert_eq!(is_ipv4(daemon.turn_ipv6()), of_ipv6_client_is_ipv4, "{default}");
        daemon.stop();
    }
}
