//! The certificate of the daemon: from files that change, and of its own making.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::harness::{Daemon, Setup, get, text};
use crate::https;

const NAME: &str = "live.example.org";
const FILES: &str = "public_host = \"live.example.org\"\n\
                     [tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n";

/// Writes a new certificate for `name` and its key; gives the certificate.
fn renew(directory: &Path, name: &str) -> rustls::pki_types::CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).expect("a file");
    std::fs::write(directory.join("cert.pem"), made.cert.pem()).expect("a file");
    made.cert.der().clone()
}

/// The same for a certificate that is valid from so many seconds from now on until then.
fn renew_for(
    directory: &Path,
    from: i64,
    until: i64,
) -> rustls::pki_types::CertificateDer<'static> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec![NAME.to_owned()]).expect("parameters");
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now + time::Duration::seconds(from);
    params.not_after = now + time::Duration::seconds(until);
    let made = params.self_signed(&key).expect("a certificate");
    std::fs::write(directory.join("key.pem"), key.serialize_pem()).expect("a file");
    std::fs::write(directory.join("cert.pem"), made.pem()).expect("a file");
    made.der().clone()
}

/// What `/healthz` says of the certificate.
pub(crate) fn health(daemon: &Daemon) -> Value {
    let (status, body) = get(daemon.admin(), "/healthz");
    assert_eq!(status, 200, "{body}");
    let health: Value = serde_json::from_str(&body).expect("JSON");
    health["certificate"].clone()
}

#[test]
fn files_that_change_are_served_to_new_connections_while_old_ones_go_on() {
    let setup = Setup::new(FILES);
    let first = renew(setup.directory(), NAME);
    let mut daemon = setup.start();
    let client = Arc::new(https::credulous());
    let mut old = https::connect(daemon.https(), NAME, &client).expect("a handshake");
    assert_eq!(https::certificate(&old), first);
    let second = renew(setup.directory(), NAME);
    // Nobody says that they have changed.
    daemon.wait_for("the certificate was read again");
    assert_eq!(https::served(daemon.https(), NAME), second);
    let third = renew(setup.directory(), NAME);
    daemon.signal("HUP");
    daemon.wait_for("the certificate was read again");
    assert_eq!(https::served(daemon.https(), NAME), third);
    assert_eq!(https::get(&mut old, NAME, "/").expect("an answer").0, 200);
    assert_eq!(https::certificate(&old), first);
    assert_eq!(daemon.metric("turncast_certificate_renewals_total{result=\"installed\"}"), 2);
    daemon.stop();
}

#[test]
fn a_bad_pair_changes_nothing_but_is_told() {
    let setup = Setup::new(FILES);
    let first = renew(setup.directory(), NAME);
    let mut daemon = setup.start();
    assert_eq!(health(&daemon)["trouble"], Value::Null);
    renew(setup.directory(), "other.example.org");
    daemon.signal("HUP");
    let line = daemon.wait_for("the new certificate cannot be used; the old one stays");
    let why = line["why"].as_str().expect("a reason");
    assert!(why.contains("is not for live.example.org"), "{why}");
    assert_eq!(https::served(daemon.https(), NAME), first);
    assert_eq!(health(&daemon)["trouble"]["reason"], why);
    assert_eq!(daemon.metric("turncast_certificate_renewals_total{result=\"failed\"}"), 1);
    let second = renew(setup.directory(), NAME);
    daemon.signal("HUP");
    daemon.wait_for("the certificate was read again");
    assert_eq!(https::served(daemon.https(), NAME), second);
    assert_eq!(health(&daemon)["trouble"], Value::Null);
    daemon.stop();
}

#[test]
fn a_pair_that_comes_too_early_is_served_when_its_time_has_come() {
    let setup = Setup::new(FILES);
    let first = renew(setup.directory(), NAME);
    let mut daemon = setup.start();
    let early = renew_for(setup.directory(), 6, 3600);
    daemon.signal("HUP");
    let line = daemon.wait_for("the new certificate cannot be used; the old one stays");
    assert!(line["why"].as_str().expect("a reason").contains("is valid only in"), "{line}");
    assert_eq!(https::served(daemon.https(), NAME), first);
    assert!(health(&daemon)["trouble"]["next_try"].is_u64());
    // Nobody says anything.
    daemon.wait_for("the certificate was read again");
    assert_eq!(https::served(daemon.https(), NAME), early);
    assert_eq!(health(&daemon)["trouble"], Value::Null);
    daemon.stop();
}

#[test]
fn a_certificate_that_nobody_renews_is_told_of_before_its_end_and_after() {
    let setup = Setup::new(FILES);
    renew_for(setup.directory(), -3600, 9);
    let check = setup.printed(&["check"]);
    assert!(check.contains("warning: the certificate ends in a minute"), "{check}");
    let mut daemon = setup.start();
    let line = daemon.wait_for("the certificate was not renewed");
    assert_eq!(line["why"], "the certificate ends in a minute");
    let told = health(&daemon);
    assert_eq!(told["trusted"], true);
    assert_eq!(told["trouble"]["reason"], "the certificate ends in a minute");
    let line = daemon.wait_for("the certificate was not renewed");
    assert_eq!(line["why"], "the certificate has expired");
    let told = health(&daemon);
    assert_eq!(told["trusted"], false);
    assert_eq!(told["trouble"]["reason"], "the certificate has expired");
    renew(setup.directory(), NAME);
    daemon.signal("HUP");
    daemon.wait_for("the certificate was read again");
    assert_eq!(health(&daemon)["trusted"], true);
    daemon.stop();
    let check = setup.printed(&["check"]);
    assert!(!check.contains("warning: the certificate"), "{check}");
}

#[test]
fn files_that_cannot_be_used_are_refused_at_start_in_a_sentence() {
    let setup = Setup::new(FILES);
    renew(setup.directory(), "other.example.org");
    let refusal = || {
        let output = setup.output(&[]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    assert!(refusal().contains("cert.pem is not for live.example.org, which public_host says"));
    renew(setup.directory(), NAME);
    let other = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    std::fs::write(setup.directory().join("key.pem"), other).expect("a file");
    assert!(refusal().contains("key.pem does not belong to the certificate in"));
    std::fs::remove_file(setup.directory().join("key.pem")).expect("removed");
    assert!(refusal().contains("check the path"));
}

#[test]
fn a_certificate_of_our_own_is_kept_and_explained() {
    let config = "public_host = \"live.example.org\"\n[tls]\nmode = \"self-signed\"\n";
    let setup = Setup::new(config);
    let daemon = setup.start();
    let served = https::served(daemon.https(), NAME);
    let told = health(&daemon);
    assert_eq!((&told["source"], &told["trusted"]), (&"self-signed".into(), &false.into()));
    let kept = setup.state().join("self-signed.pem");
    assert_eq!(kept.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
    // It names the host, and nobody pins a browser to it.
    let client = Arc::new(https::trusting(std::slice::from_ref(&served)));
    https::connect(daemon.https(), NAME, &client).expect("a handshake");
    let log = daemon.stop();
    let fingerprint = told["fingerprint"].as_str().expect("a fingerprint");
    assert!(log.contains(fingerprint), "{log}");
    assert!(log.contains("browsers show a full-page warning"), "{log}");
    let check = setup.printed(&["check"]);
    assert!(check.contains(fingerprint) && check.contains("full-page warning"), "{check}");
    let daemon = setup.start();
    assert_eq!(https::served(daemon.https(), NAME), served);
    daemon.stop();
}
