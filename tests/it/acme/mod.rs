//! Certificates by ACME: from Debian's `pebble`, and from a small authority of the tests for what
//! pebble does not know.

mod address;
mod load;
mod pebble;
mod refusals;
mod stub;
mod stub_tests;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use address::Address;
use pebble::Pebble;

use crate::certificates::health;
use crate::harness::{DEADLINE, Daemon, Setup};
use crate::https;

pub(crate) const NAME: &str = "live.example.org";
/// Both challenges, where one is written between quotes.
const BOTH: &str = "tls-alpn-01\", \"http-01";
const ISSUED: &str = "the authority has issued a certificate";
const NOT_FOUND: &str = "the authority did not find its challenge";
const REFUSED: &str = "no certificate from the authority";

/// A daemon that asks the authority at `directory` for a certificate for `host`, and that listens
/// on `port` of an address that is its own.
fn setup(own: &Address, host: &str, directory: &str, port: u16, challenge: &str) -> Setup {
    let config = format!(
        "public_host = \"{host}\"\n[tls]\nmode = \"acme\"\n[acme]\naccept_terms = true\n\
         email = \"admin@example.org\"\ndirectory = \"{directory}\"\n\
         root_certificate = \"authority.pem\"\nchallenges = [\"{challenge}\"]\nretry_secs = 1\n"
    );
    let setup = Setup::new(&config);
    std::fs::write(setup.directory().join("authority.pem"), own.certificate()).expect("a file");
    setup.variable("TURNCAST__WEB__LISTEN", &format!("{}:{port}", own.ip()))
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("a file").permissions().mode() & 0o777
}

/// Waits until the daemon has a certificate that clients trust, and looks at it.
fn wait_until_trusted(daemon: &mut Daemon, pebble: &Pebble, host: &str) {
    daemon.wait_for(ISSUED);
    let client = Arc::new(https::trusting(&[pebble.root()]));
    let mut stream = https::connect(daemon.https(), host, &client).expect("a trusted certificate");
    assert_eq!(https::get(&mut stream, host, "/").expect("an answer").0, 200);
    let told = health(daemon);
    assert_eq!((&told["source"], &told["trusted"]), (&"acme".into(), &true.into()));
    assert_eq!(told["trouble"], serde_json::Value::Null);
}

fn issue(challenge: &str, host: impl Fn(&Address) -> String) {
    let own = Address::new();
    let host = host(&own);
    let port = own.free_port();
    let pebble = Pebble::start(&own, port, &[]);
    let setup = setup(&own, &host, pebble.directory(), port, challenge);
    let mut daemon = setup.start();
    wait_until_trusted(&mut daemon, &pebble, &host);
    let served = https::served(daemon.https(), &host);
    daemon.stop();
    for name in ["acme-account.json", "acme-certificate.json", "self-signed.pem"] {
        assert_eq!(mode(&setup.state().join(name)), 0o600, "{name}");
    }
    // There is nobody whom it could ask now, and it needs nobody.
    drop(pebble);
    let kept = setup.state().join("acme-certificate.json");
    std::fs::set_permissions(&kept, Permissions::from_mode(0o644)).expect("as from a backup");
    let daemon = setup.start();
    assert_eq!(mode(&kept), 0o600);
    assert_eq!(https::served(daemon.https(), &host), served);
    let check = setup.printed(&["check"]);
    assert!(check.contains("good for") && check.contains("renewed in"), "{check}");
    let log = daemon.stop();
    assert!(!log.contains(REFUSED), "{log}");
}

#[test]
fn a_certificate_for_a_name_is_had_by_tls_alpn_01_and_kept() {
    issue("tls-alpn-01", |_| NAME.to_owned());
}

#[test]
fn a_certificate_for_an_address_is_had_by_tls_alpn_01_and_kept() {
    issue("tls-alpn-01", |own| own.ip().to_string());
}

#[test]
fn a_certificate_for_a_name_is_had_by_http_01_and_kept() {
    issue("http-01", |_| NAME.to_owned());
}

#[test]
fn a_certificate_for_an_address_is_had_by_http_01_and_kept() {
    issue("http-01", |own| own.ip().to_string());
}

#[test]
fn an_authority_that_is_down_or_refuses_nonces_is_survived() {
    let own = Address::new();
    let port = own.free_port();
    let mut pebble = Pebble::prepare(&own, port, &[("PEBBLE_WFE_NONCEREJECT", "30")]);
    let setup = setup(&own, NAME, pebble.directory(), port, "tls-alpn-01");
    let mut daemon = setup.start();
    let own_certificate = https::served(daemon.https(), NAME);
    daemon.wait_for(REFUSED);
    assert_eq!(https::served(daemon.https(), NAME), own_certificate);
    let trouble = health(&daemon)["trouble"].clone();
    let reason = trouble["reason"].as_str().expect("a reason").to_owned();
    assert!(reason.to_lowercase().contains("connect"), "{reason}");
    assert!(trouble["likely_cause"].as_str().expect("a cause").contains("does not reach"));
    assert!(trouble["next_try"].is_u64(), "{trouble}");
    let check = setup.printed(&["check"]);
    for part in ["the last attempt failed", "likely: this host does not reach", "next try"] {
        assert!(check.contains(part), "{check}");
    }
    pebble.run();
    wait_until_trusted(&mut daemon, &pebble, NAME);
    assert!(!setup.state().join("acme-failure.json").exists());
    assert_ne!(daemon.metric("turncast_certificate_renewals_total{result=\"failed\"}"), 0);
    daemon.stop();
}

#[test]
fn a_host_that_leads_elsewhere_is_named_as_the_likely_cause() {
    let own = Address::new();
    let (port, elsewhere) = (own.free_port(), own.free_port());
    // The authority looks at a port where nobody is.
    let pebble = Pebble::start(&own, elsewhere, &[]);
    let setup = setup(&own, NAME, pebble.directory(), port, "http-01");
    let mut daemon = setup.start();
    let line = daemon.wait_for(REFUSED);
    let (why, likely) = (line["why"].to_string(), line["likely"].to_string());
    assert!(why.contains("refused") && why.contains("(connection)"), "{why}");
    assert!(likely.contains("TCP port 80 of live.example.org is closed"), "{likely}");
    daemon.stop();
}

#[test]
fn a_failure_about_something_else_costs_no_challenge() {
    let own = Address::new();
    let (port, closed) = (own.free_port(), own.free_port());
    let mut pebble = Pebble::prepare(&own, port, &[]);
    pebble.looks_for("http", closed);
    let setup = setup(&own, NAME, pebble.directory(), port, BOTH)
        .variable("TURNCAST__ACME__RETRY_SECS", "86400");
    let mut daemon = setup.start();
    // The authority is down.
    daemon.wait_for(REFUSED);
    pebble.run();
    daemon.signal("HUP");
    wait_until_trusted(&mut daemon, &pebble, NAME);
    let log = daemon.stop();
    assert!(!log.contains("port 80 of") && !log.contains(NOT_FOUND), "{log}");
}

#[test]
fn the_challenge_that_was_passed_is_the_first_at_the_renewal() {
    let own = Address::new();
    let (port, closed) = (own.free_port(), own.free_port());
    // It forgets what it has seen, and has to look again.
    let mut pebble = Pebble::prepare(&own, port, &[("PEBBLE_AUTHZREUSE", "0")]);
    pebble.looks_for("tls", closed);
    pebble.certificates_last(12);
    pebble.run();
    let setup = setup(&own, NAME, pebble.directory(), port, BOTH);
    let mut daemon = setup.start();
    assert_eq!(daemon.wait_for(NOT_FOUND)["method"], "tls-alpn-01");
    daemon.wait_for(ISSUED);
    daemon.wait_for(ISSUED);
    let log = daemon.stop();
    assert_eq!(log.matches(NOT_FOUND).count(), 1, "{log}");
}

#[test]
fn a_renewal_drops_no_connection() {
    let own = Address::new();
    let port = own.free_port();
    let mut pebble = Pebble::prepare(&own, port, &[]);
    pebble.certificates_last(12);
    pebble.run();
    let setup = setup(&own, NAME, pebble.directory(), port, "tls-alpn-01");
    let mut daemon = setup.start();
    daemon.wait_for(ISSUED);
    // Short-lived certificates may end while a busy computer renews them.
    let client = Arc::new(https::credulous());
    let first = https::served(daemon.https(), NAME);
    let mut old = https::connect(daemon.https(), NAME, &client).expect("a handshake");
    let deadline = Instant::now() + DEADLINE;
    let mut requests = 0;
    loop {
        let mut new = https::connect(daemon.https(), NAME, &client).expect("never refused");
        for stream in [&mut new, &mut old] {
            let (status, _) = https::get(stream, NAME, "/").expect("never dropped");
            assert_eq!(status, 200);
            requests += 1;
        }
        if https::certificate(&new) != first {
            break;
        }
        assert!(Instant::now() < deadline, "no renewal:\n{}", daemon.log());
    }
    assert_eq!(https::certificate(&old), first);
    assert!(requests > 100, "{requests} requests are no load");
    daemon.stop();
}
