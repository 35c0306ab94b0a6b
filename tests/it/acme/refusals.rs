//! What an authority may refuse, and whom that keeps waiting for how long.

use serde_json::{Value, json};

use super::address::Address;
use super::stub::Stub;
use super::stub_tests::{PAST, asking};
use super::{BOTH, ISSUED, NAME, NOT_FOUND, REFUSED, setup};
use crate::harness::get;
use crate::https;

fn problem(kind: &str) -> Value {
    json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "because" })
}

#[test]
fn a_rate_limit_at_a_renewal_is_not_met_by_a_second_order() {
    let own = Address::new();
    let stub = Stub::start(&own);
    stub.suggest(&[PAST]);
    stub.refuse_orders(1..usize::MAX, 429, problem("rateLimited"), 3600);
    let setup = asking(&own, NAME, &stub);
    let mut daemon = setup.start();
    daemon.wait_for(ISSUED);
    let served = https::served(daemon.https(), NAME);
    let line = daemon.wait_for(REFUSED);
    assert_eq!(line["why"], "because (rateLimited)");
    assert_eq!(line["next_try"], "in 60 minutes");
    let orders = stub.got("/new-order");
    assert_eq!(orders.len(), 2, "{orders:?}");
    assert!(orders[1].payload["replaces"].is_string());
    assert_eq!(https::served(daemon.https(), NAME), served);
    daemon.stop();
}

#[test]
fn what_another_account_has_ordered_is_replaced_without_naming_it() {
    let own = Address::new();
    let stub = Stub::start(&own);
    stub.suggest(&[PAST]);
    stub.refuse_orders(1..2, 403, problem("unauthorized"), 0);
    let setup = asking(&own, NAME, &stub);
    let mut daemon = setup.start();
    daemon.wait_for(ISSUED);
    daemon.wait_for(ISSUED);
    let orders = stub.got("/new-order");
    assert!(orders[1].payload["replaces"].is_string());
    assert_eq!(orders[2].payload["replaces"], Value::Null);
    assert_eq!(stub.got("/account").len(), 1);
    let log = daemon.stop();
    assert!(!log.contains(REFUSED), "{log}");
}

#[test]
fn an_account_that_is_gone_is_replaced() {
    let own = Address::new();
    for (status, kind) in [(400, "accountDoesNotExist"), (401, "unauthorized")] {
        let stub = Stub::start(&own);
        stub.refuse_orders(0..1, status, problem(kind), 0);
        let setup = setup(&own, NAME, &stub.directory(), own.free_port(), BOTH);
        let mut daemon = setup.start();
        let line = daemon.wait_for(REFUSED);
        assert_eq!(line["why"], format!("because ({kind})"));
        let likely = line["likely"].as_str().expect("a cause");
        assert!(likely.contains("our account") && likely.contains("makes a new one"), "{likely}");
        daemon.wait_for(ISSUED);
        assert_eq!(stub.got("/account").len(), 2, "{kind}");
        assert_eq!(stub.got("/new-order").len(), 2, "{kind}");
        daemon.stop();
    }
}

#[test]
fn an_authority_that_is_out_of_service_is_left_alone() {
    let own = Address::new();
    let page = Value::from("<html>We are down for a while</html>");
    let said = ["because (serverInternal)", "503 Service Unavailable (serverInternal)"];
    for (problem, said) in [problem("serverInternal"), page].into_iter().zip(said) {
        let stub = Stub::start(&own);
        stub.refuse(503, problem, 7200);
        let setup = setup(&own, NAME, &stub.directory(), own.free_port(), BOTH);
        let mut daemon = setup.start();
        let line = daemon.wait_for(REFUSED);
        assert!(line["why"].as_str().expect("a reason").ends_with(said), "{line}");
        assert_eq!(line["likely"], "the authority itself has trouble");
        let next_try = line["next_try"].as_str().expect("a time");
        assert!(["in 2 hours", "in 120 minutes"].contains(&next_try), "{next_try}");
        let log = daemon.stop();
        assert!(!log.contains(NOT_FOUND), "{log}");
        assert_eq!(stub.got("/new-order").len(), 1);
    }
}

#[test]
fn what_was_refused_for_one_host_keeps_no_other_waiting() {
    let own = Address::new();
    let (stub, other) = (Stub::start(&own), Stub::start(&own));
    let changes = [
        ("TURNCAST__PUBLIC_HOST", "corrected.example.org".to_owned()),
        ("TURNCAST__ACME__DIRECTORY", other.directory()),
    ];
    for (variable, value) in changes {
        stub.refuse(429, problem("rateLimited"), 7200);
        let setup = asking(&own, NAME, &stub);
        let mut daemon = setup.start();
        daemon.wait_for(REFUSED);
        daemon.stop();
        assert!(setup.printed(&["check"]).contains("the last attempt failed"));
        stub.accept();
        let setup = setup.variable(variable, &value);
        let check = setup.printed(&["check"]);
        assert!(!check.contains("the last attempt failed"), "{check}");
        let mut daemon = setup.start();
        daemon.wait_for(ISSUED);
        daemon.stop();
    }
}

#[test]
fn a_damaged_account_is_replaced() {
    let own = Address::new();
    let stub = Stub::start(&own);
    let setup = asking(&own, NAME, &stub);
    let mut daemon = setup.start();
    daemon.wait_for(ISSUED);
    daemon.stop();
    let (account, certificate) = ("acme-account.json", "acme-certificate.json");
    let file = setup.state().join(account);
    let text = std::fs::read_to_string(&file).expect("an account");
    for (count, (key, value)) in
        [("id", Value::Null), ("key_pkcs8", "AAAA".into())].into_iter().enumerate()
    {
        let mut kept: Value = serde_json::from_str(&text).expect("JSON");
        assert!(!kept["credentials"][key].is_null(), "{kept}");
        kept["credentials"][key] = value;
        std::fs::write(&file, kept.to_string()).expect("written");
        std::fs::remove_file(setup.state().join(certificate)).expect("removed");
        let mut daemon = setup.start();
        daemon.wait_for("the kept account is damaged; a new one is made");
        daemon.wait_for(ISSUED);
        let log = daemon.stop();
        assert!(!log.contains(REFUSED), "{log}");
        assert_eq!(stub.got("/account").len(), count + 2);
    }
}

#[test]
fn a_time_to_renew_after_the_end_is_not_believed() {
    let own = Address::new();
    let stub = Stub::start(&own);
    let setup = asking(&own, NAME, &stub);
    let mut daemon = setup.start();
    daemon.wait_for(ISSUED);
    daemon.stop();
    let file = setup.state().join("acme-certificate.json");
    let text = std::fs::read_to_string(&file).expect("a certificate");
    let mut kept: Value = serde_json::from_str(&text).expect("JSON");
    // As a clock would have it that is far ahead.
    kept["renew_at"] = 9_971_510_400_u64.into();
    std::fs::write(&file, kept.to_string()).expect("written");
    let check = setup.printed(&["check"]);
    let two_thirds = ["renewed in 59 days", "renewed in 60 days"];
    assert!(two_thirds.iter().any(|when| check.contains(when)), "{check}");
    let mut daemon = setup.start();
    daemon.signal("HUP");
    let line = daemon.wait_for("the certificate is not due yet");
    let renew_at = line["renew_at"].as_str().expect("a time");
    assert!(["in 59 days", "in 60 days", "in 61 days", "in 62 days"].contains(&renew_at), "{line}");
    daemon.stop();
}

#[test]
fn the_doctor_looks_again_when_browsers_are_told_tls() {
    let own = Address::new();
    let stub = Stub::start(&own);
    stub.refuse(503, problem("serverInternal"), 0);
    let setup =
        asking(&own, &own.ip().to_string(), &stub).variable("TURNCAST__DOCTOR_AT_START", "true");
    let mut daemon = setup.start();
    daemon.wait_for(SEEN);
    let doctor = |daemon: &crate::harness::Daemon| {
        let health: Value = serde_json::from_str(&get(daemon.admin(), "/healthz").1).expect("JSON");
        health["doctor"].clone()
    };
    let tells_tls = |doctor: &Value| {
        let urls = doctor["urls"].as_array().expect("a list");
        urls.iter().any(|url| url["url"].as_str().expect("a URL").starts_with("turns:"))
    };
    let first = doctor(&daemon);
    assert!(!tells_tls(&first), "{first}");
    assert!(first["note"].as_str().expect("a note").contains("self-signed"), "{first}");
    stub.accept();
    daemon.wait_for(SEEN);
    let second = doctor(&daemon);
    assert!(tells_tls(&second), "{second}");
    assert_eq!(second["note"], Value::Null);
    daemon.stop();
}

const SEEN: &str = "the doctor has seen every URL";
