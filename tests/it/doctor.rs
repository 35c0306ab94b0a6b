//! `turncast doctor` against a running daemon that is well, and against each way of being ill.

use std::net::{TcpListener, UdpSocket};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;

use crate::harness::{Setup, get, text};

/// What `turncast doctor` says, as JSON and to people; both must end with the same code.
#[track_caller]
fn examine(setup: &Setup) -> (Vec<Value>, String) {
    let output = setup.output(&["doctor", "--json"]);
    let error = text(&output.stderr);
    let found: Value = serde_json::from_str(&text(&output.stdout))
        .unwrap_or_else(|err| panic!("{err}: {}{error}", text(&output.stdout)));
    let is_well = found["ok"] == true;
    assert_eq!(output.status.code(), Some(if is_well { 0 } else { 1 }), "{found}");
    assert_eq!(error.contains("do not work for browsers"), !is_well, "{error}");
    let told = setup.output(&["doctor"]);
    assert_eq!(told.status.code(), output.status.code());
    let told = text(&told.stdout);
    assert!(told.lines().all(|line| !line.starts_with(' ') || line.len() <= 80), "{told}");
    (found["urls"].as_array().expect("a list").clone(), told)
}

/// The finding of the only URL that begins so; for people it must be a line with this word.
#[track_caller]
fn finding(setup: &Setup, url: &str, diagnosis: &str) -> Value {
    let (found, told) = examine(setup);
    let is_it = |found: &&Value| found["url"].as_str().is_some_and(|text| text.starts_with(url));
    let one = found.iter().find(is_it).unwrap_or_else(|| panic!("{url} is not in {found:?}"));
    assert_eq!(one["diagnosis"], diagnosis, "{one:#}");
    let well = diagnosis == "relayed" || diagnosis == "sent_on";
    assert_eq!(one["ok"], well, "{one:#}");
    assert_eq!(one["next_step"].is_null(), well, "{one:#}");
    let word = if well { "ok      " } else { "FAILED  " };
    assert!(told.contains(&format!("{word}{url}")), "{told}");
    assert_eq!(told.contains("        next: "), found.iter().any(|found| found["ok"] == false));
    one.clone()
}

/// Writes a certificate for 127.0.0.1 and its key, signed by an authority in `root.pem`.
fn certificate(setup: &Setup) {
    let write = |name: &str, text: String| {
        std::fs::write(setup.directory().join(name), text).expect("a file");
    };
    let key = KeyPair::generate().expect("a key");
    let mut root = CertificateParams::new(Vec::new()).expect("parameters");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    write("root.pem", root.self_signed(&key).expect("a root").pem());
    let issuer = Issuer::new(root, key);
    let key = KeyPair::generate().expect("a key");
    let names = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]);
    let leaf = names.expect("parameters").signed_by(&key, &issuer).expect("a certificate");
    write("cert.pem", leaf.pem());
    write("key.pem", key.serialize_pem());
}

const FILES: &str = "[tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n";

#[test]
fn a_packet_goes_through_udp_and_tcp() {
    let setup = Setup::new("");
    let daemon = setup.start();
    let (found, told) = examine(&setup);
    assert_eq!(found.len(), 2, "{told}");
    for (found, over) in found.iter().zip(["udp", "tcp"]) {
        let url = found["url"].as_str().expect("a URL");
        assert!(url.ends_with(over), "{url}");
        assert_eq!(found["diagnosis"], "relayed", "{found:#}");
        assert_eq!(found["relayed_address"], "127.0.0.1");
        assert_eq!(found["certificate"], Value::Null);
        assert!(told.contains(&format!("ok      {url}: relayed by 127.0.0.1, ")), "{told}");
    }
    daemon.wait_for_metric("turncast_allocations", 0);
    daemon.stop();
}

#[test]
fn tls_is_judged_by_the_roots_of_the_system() {
    let setup = Setup::new(FILES);
    certificate(&setup);
    let root = setup.directory().join("root.pem").display().to_string();
    let daemon = setup.start();
    let unknown = finding(&setup, "turns:127.0.0.1", "certificate");
    assert_eq!(unknown["certificate"], "unknown-authority");
    assert_eq!(unknown["relayed_address"], "127.0.0.1", "the rest was looked at, too");
    let setup = setup.variable("SSL_CERT_FILE", &root);
    let known = finding(&setup, "turns:127.0.0.1", "relayed");
    assert_eq!(known["certificate"], "trusted");
    let (found, _) = examine(&setup);
    assert_eq!(found.len(), 2, "UDP and TLS: {found:?}");
    daemon.stop();
}

#[test]
fn pages_that_browsers_warn_of_are_noted() {
    let setup = Setup::new("[tls]\nmode = \"self-signed\"\n");
    let daemon = setup.start();
    let (found, told) = examine(&setup);
    assert!(found.iter().all(|found| found["ok"] == true), "the relay is well: {told}");
    assert!(told.contains("note    https://localhost:"), "{told}");
    assert!(told.contains("self-signed"), "{told}");
    daemon.stop();
    let setup = Setup::new("");
    let daemon = setup.start();
    assert!(!examine(&setup).1.contains("note"));
    daemon.stop();
}

#[test]
fn a_self_signed_certificate_is_called_so() {
    let setup = Setup::new(FILES);
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    std::fs::write(setup.directory().join("cert.pem"), own.cert.pem()).expect("a file");
    let key = own.signing_key.serialize_pem();
    std::fs::write(setup.directory().join("key.pem"), key).expect("a file");
    let daemon = setup.start();
    let found = finding(&setup, "turns:127.0.0.1", "certificate");
    assert_eq!(found["certificate"], "self-signed");
    assert!(found["why"].as_str().is_some_and(|why| why.contains("self-signed")), "{found:#}");
    daemon.stop();
}

#[test]
fn without_a_daemon_it_says_so() {
    let setup = Setup::new("");
    let check = |setup: &Setup| {
        for arguments in [&["doctor"][..], &["doctor", "--json"]] {
            let output = setup.output(arguments);
            assert_eq!(output.status.code(), Some(1));
            assert!(output.stdout.is_empty());
            let error = text(&output.stderr);
            assert!(error.starts_with("error: no daemon runs with the state directory"), "{error}");
        }
    };
    check(&setup);
    setup.start().stop();
    check(&setup);
}

#[test]
fn a_name_without_an_address_is_told() {
    let setup = Setup::new("public_host = \"no-such-name.invalid\"\n");
    let daemon = setup.start();
    let found = finding(&setup, "turn:no-such-name.invalid", "unresolved");
    assert_eq!(found["address"], Value::Null);
    assert!(
        found["next_step"]
            .as_str()
            .is_some_and(|next| next.contains("public_host") || next.contains("resolv.conf")),
        "{found:#}"
    );
    daemon.stop();
}

#[test]
fn a_port_where_nothing_listens_and_one_that_is_silent_are_told_apart() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let closed = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let (udp, tcp) = (silent.local_addr().expect("bound"), closed.local_addr().expect("bound"));
    drop(closed);
    let setup =
        Setup::new(&format!("[public_ports]\nudp = {}\ntcp = {}\n", udp.port(), tcp.port()));
    let daemon = setup.start();
    let (found, told) = examine(&setup);
    let why = |index: usize| found[index]["why"].as_str().expect("a sentence").to_owned();
    assert!(found.iter().all(|found| found["diagnosis"] == "unreachable"), "{told}");
    assert_eq!(why(0), format!("no answer from {udp}"));
    assert_eq!(why(1), format!("nothing listens at {tcp}"));
    assert!(told.contains("firewall of this machine"), "{told}");
    daemon.stop();
}

#[test]
fn another_server_at_the_port_is_told() {
    let other = Setup::new("[turn]\nshared_secret = \"secret-of-another-server\"\n").start();
    let port = other.turn().port();
    let setup = Setup::new(&format!("[public_ports]\nudp = {port}\n"));
    let daemon = setup.start();
    let found = finding(&setup, &format!("turn:127.0.0.1:{port}?transport=udp"), "refused");
    assert!(found["why"].as_str().is_some_and(|why| why.contains("(401)")), "{found:#}");
    daemon.stop();
    other.stop();
}

#[test]
fn a_relay_without_free_ports_is_told() {
    let setup = Setup::new("[turn.limits]\nallocations = 1\n");
    let daemon = setup.start();
    let (found, told) = examine(&setup);
    assert!(found.iter().any(|found| found["diagnosis"] == "refused"), "{told}");
    assert!(told.contains("turn.limits.allocations"), "{told}");
    daemon.stop();
}

/// Others would send to an address that is neither this machine's nor that of the URL.
#[test]
fn a_wrong_relay_address_is_told() {
    let setup = Setup::new("[turn]\nrelay_addresses = [\"198.51.100.1/127.0.0.1\"]\n");
    let daemon = setup.start();
    let found = finding(&setup, "turn:127.0.0.1", "relay_address");
    assert_eq!(found["relayed_address"], "198.51.100.1");
    let next = found["next_step"].as_str().expect("a sentence");
    assert!(next.contains("relay_addresses = [\"127.0.0.1/LOCAL_IP\"]"), "{next}");
    daemon.stop();
}

#[test]
fn a_small_quota_and_another_server_for_others_are_no_illness() {
    let setup = Setup::new("[turn.limits]\nallocations_per_user = 1\n");
    let daemon = setup.start();
    finding(&setup, "turn:127.0.0.1", "relayed");
    daemon.stop();
    let setup = Setup::new("[turn]\nalternate_server = \"198.51.100.20:3478\"\n");
    let daemon = setup.start();
    finding(&setup, "turn:127.0.0.1", "sent_on");
    daemon.stop();
}

#[test]
fn the_daemon_looks_once_after_its_start_and_tells_log_health_and_metrics() {
    let wrong = "[turn]\nrelay_addresses = [\"198.51.100.1/127.0.0.1\"]\n";
    for (config, diagnosis, ok) in [("", "relayed", true), (wrong, "relay_address", false)] {
        let setup = Setup::new(config).variable("TURNCAST__DOCTOR_AT_START", "true");
        let mut daemon = setup.start();
        daemon.wait_for("the doctor has seen every URL");
        let (status, body) = get(daemon.admin(), "/healthz");
        let health: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((status, &health["status"]), (200, &Value::from("ok")), "no reason to restart");
        assert_eq!(health["doctor"]["state"], "done", "{body}");
        assert_eq!(health["doctor"]["ok"], ok, "{body}");
        assert_eq!(health["doctor"]["urls"][0]["diagnosis"], diagnosis, "{body}");
        let series = format!("turncast_doctor_urls_total{{diagnosis=\"{diagnosis}\"}}");
        assert_eq!(daemon.metric(&series), 2);
        assert_eq!(daemon.log().contains("turncast doctor says what to do"), !ok);
        daemon.stop();
    }
    let daemon = Setup::new("").start();
    let (_, body) = get(daemon.admin(), "/healthz");
    let health: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(health["doctor"], Value::Null, "{body}");
    daemon.stop();
}
