//! TURN clients that nobody here wrote, through the daemon: Debian's `turnutils_uclient` and the
//! `turn` crate's client.

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use webrtc_turn::client::{Client, ClientConfig};
use webrtc_util::Conn as _;

use crate::harness::{DEADLINE, Daemon, Setup, text};

const CONFIG: &str = r#"
[turn]
realm = "example.org"
users = [{ name = "alice", password = "password-of-alice-1" }]
shared_secret = "shared-secret-of-a-test"
allow_peers = ["127.0.0.3"]
"#;

/// Runs `turnutils_uclient` toward the daemon. `-c`: without it the tool asks for EVEN-PORT.
fn uclient(daemon: &Daemon, arguments: &[&str]) -> Output {
    let turn = daemon.turn();
    Command::new("timeout")
        .args(["60", "turnutils_uclient", "-c", "-p", &turn.port().to_string()])
        .args(arguments)
        .arg(turn.ip().to_string())
        .stdin(Stdio::null())
        .output()
        .expect("timeout (coreutils) runs")
}

/// The tool's own count: (sent, received, lost packets).
#[track_caller]
fn assert_all_relayed(output: &Output, messages: u64) {
    let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "turnutils_uclient (Debian's coturn): {all}");
    let line = all.lines().rfind(|line| line.contains("tot_send_msgs"));
    let line = line.unwrap_or_else(|| panic!("no totals in:\n{all}"));
    let number = |name: &str| -> u64 {
        let after = line.split(&format!("{name}=")).nth(1).expect("a total");
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a number")
    };
    assert_eq!(number("tot_send_msgs"), messages, "{all}");
    assert_eq!(number("tot_recv_msgs"), messages, "{all}");
}

#[test]
fn uclient_relays_between_two_of_its_own_with_a_long_term_credential() {
    let daemon = Setup::new(CONFIG).start();
    let user = ["-u", "alice", "-w", "password-of-alice-1"];
    let output = uclient(&daemon, &[&user[..], &["-y", "-n", "50", "-m", "2"]].concat());
    assert_all_relayed(&output, 100);
    daemon.wait_for_metric("turncast_allocations", 0);
    daemon.stop();
}
