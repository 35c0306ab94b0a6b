//! The life of the daemon as a process: start, state, signals, the service manager, the end.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

use crate::harness::{DEADLINE, Setup, signal, text};

#[test]
fn it_starts_without_a_configuration_and_says_where_the_pages_are() {
    let daemon = Setup::new("").start();
    let pages = format!("http://localhost:{}/", daemon.web().port());
    daemon.stdout_with(&pages);
    daemon.stdout_with(&format!("udp://{}", daemon.turn()));
    let log = daemon.stop();
    assert!(log.ends_with("\n") && log.contains("stopped"), "{log}");
}

#[test]
fn the_state_is_private_and_outlives_the_process() {
    let setup = Setup::new("");
    setup.start().stop();
    let keys = || {
        ["hub.key", "broadcast.key"]
            .map(|name| std::fs::read_to_string(setup.state().join(name)).expect("a generated key"))
    };
    let first = keys();
    setup.start().stop();
    assert_eq!(keys(), first);
    let mode =
        |path: &std::path::Path| path.metadata().expect("it exists").permissions().mode() & 0o777;
    assert_eq!(mode(&setup.state()), 0o700);
    for name in ["version", "lock", "hub.key", "broadcast.key"] {
        assert_eq!(mode(&setup.state().join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_second_daemon_with_the_same_state_is_refused_in_one_sentence() {
    let setup = Setup::new("");
    let running = setup.start();
    let second = setup.output(&["run"]);
    assert_one_sentence(&second, &["another turncast runs with the state directory", "(process"]);
    assert!(setup.output(&["check"]).status.success(), "check needs no lock");
    running.stop();
}

#[test]
fn a_taken_port_is_refused_in_one_sentence_whoever_has_it() {
    let running = Setup::new("").start();
    for (name, scheme, address, parts) in [
        ("TURN", "udp://", running.turn(), ["bind udp://", "in use"]),
        ("TURN", "tcp://", running.turn_over("tcp"), ["bind tcp://", "TURN server running"]),
        ("WEB", "", running.web(), ["bind http://", "in use"]),
        ("ADMIN", "", running.admin(), ["bind http://", "in use"]),
    ] {
        let variable = format!("TURNCAST__{name}__LISTEN");
        let listen = format!("{scheme}{address}");
        let second = Setup::new("").variable(&variable, &listen).output(&["run"]);
        assert_one_sentence(&second, &[parts[0], parts[1], &address.to_string()]);
    }
    running.stop();
    // Another program's port is refused as well.
    let other = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("bound").to_string();
    let listen = format!("udp://{address}");
    let second = Setup::new("").variable("TURNCAST__TURN__LISTEN", &listen).output(&["run"]);
    assert_one_sentence(&second, &["bind udp://", &address, "`ss -lunp` shows who has the port"]);
}

#[track_caller]
fn assert_one_sentence(output: &std::process::Output, parts: &[&str]) {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    let errors: Vec<_> = error.lines().filter(|line| line.starts_with("error:")).collect();
    assert_eq!(errors.len(), 1, "{error}");
    for part in parts {
        assert!(errors[0].contains(part), "{part:?} is not in:\n{error}");
    }
}

#[test]
fn sighup_ends_nothing_and_says_what_it_cannot_do() {
    let mut daemon = Setup::new("").start();
    daemon.signal("HUP");
    daemon.wait_for("SIGHUP: the certificate is looked at; other changes need a restart");
    daemon.signal("INT");
    assert!(daemon.wait().success(), "SIGINT ends in order too");
}

#[test]
fn a_second_interrupt_ends_at_once() {
    let mut daemon = Setup::new("shutdown_secs = 600\n").start();
    // It is told to go, does not hear it, and keeps the daemon waiting.
    let mut deaf = crate::ws::Ws::open(daemon.web());
    assert_eq!(deaf.hello("watcher", "room", None)["t"], "welcome");
    daemon.signal("INT");
    daemon.wait_for("stopping");
    daemon.signal("INT");
    assert_eq!(daemon.wait().code(), Some(1));
    assert!(daemon.log().ends_with("ended at once, without waiting for clients\n"));
}

/// `script` (Debian's bsdutils) gives the daemon a terminal.
#[test]
fn a_terminal_is_shown_the_link_with_the_key() {
    let setup = Setup::new("[broadcast]\npublish = \"key\"\n");
    let daemon = setup.start_on_terminal();
    let link = setup.printed(&["invite"]);
    daemon.stdout_with(link.trim());
    let lock = std::fs::read_to_string(setup.state().join("lock")).expect("a lock");
    let process = lock.lines().next().expect("a process").to_owned();
    signal(&process, "TERM");
    daemon.wait_for_end_in_order();
}

#[test]
fn sigterm_ends_within_the_deadline() {
    let daemon = Setup::new("shutdown_secs = 3\n").start();
    let start = Instant::now();
    daemon.stop();
    assert!(start.elapsed().as_secs_f32() < 3.5, "{:?}", start.elapsed());
}

#[test]
fn the_service_manager_is_told() {
    let setup = Setup::new("");
    let path = setup.directory().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let setup = setup
        .variable("NOTIFY_SOCKET", path.to_str().expect("UTF-8"))
        .variable("WATCHDOG_USEC", "300000");
    let next = || {
        let mut buffer = [0; 512];
        let read = socket.recv(&mut buffer).expect("the service manager is told");
        text(&buffer[..read])
    };
    let daemon = setup.start();
    assert_eq!(next().trim(), "READY=1");
    assert_eq!(next().trim(), "WATCHDOG=1");
    assert_eq!(next().trim(), "WATCHDOG=1");
    daemon.stop();
    let last = std::iter::repeat_with(next).find(|state| state.trim() != "WATCHDOG=1");
    assert_eq!(last.expect("one more").trim(), "STOPPING=1");
}
