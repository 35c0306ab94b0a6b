//! What pebble does not know: profiles, ARI, and how long to wait.

use serde_json::{Value, json};

use super::address::Address;
use super::stub::Stub;
use super::{ISSUED, NAME, REFUSED, setup};
use crate::certificates::health;
use crate::harness::Setup;
use crate::https;

pub(super) const PAST: (&str, &str) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
pub(super) const FUTURE: (&str, &str) = ("2099-01-01T00:00:00Z", "2099-01-02T00:00:00Z");

pub(super) fn asking(own: &Address, host: &str, stub: &Stub) -> Setup {
    setup(own, host, &stub.directory(), own.free_port(), "tls-alpn-01")
}

#[test]
fn an_address_is_ordered_with_the_profile_for_short_lives_and_a_name_is_not() {
    let own = Address::new();
    let address = own.ip().to_string();
    for (host, profile) in [(address.as_str(), json!("shortlived")), (NAME, Value::Null)] {
        let stub = Stub::start(&own);
        let setup = asking(&own, host, &stub);
        let mut daemon = setup.start();
        daemon.wait_for(ISSUED);
        let order = &stub.got("/new-order")[0].payload;
        assert_eq!(order["profile"], profile, "{order}");
        assert_eq!(order["identifiers"][0]["value"], host);
        let account = &stub.got("/account")[0].payload;
        assert_eq!(account["termsOfServiceAgreed"], true);
        assert_eq!(account["contact"][0], "mailto:admin@example.org");
        daemon.stop();
    }
}

#[test]
fn the_authority_says_when_to_renew_and_a_restart_asks_nothing() {
    let own = Address::new();
    let stub = Stub::start(&own);
    stub.suggest(&[PAST, FUTURE]);
    let setup = asking(&own, NAME, &stub);
    let mut daemon = setup.start();
    daemon.wait_for(ISSUED);
    let first = https::served(daemon.https(), NAME);
    daemon.wait_for(ISSUED);
    let second = https::served(daemon.https(), NAME);
    assert_ne!(first, second);
    let orders = stub.got("/new-order");
    assert_eq!(orders.len(), 2);
    assert_eq!(orders[0].payload["replaces"], Value::Null);
    // It names the first certificate as the question after its window did.
    let asked = stub.got("/renewal/");
    let replaced = orders[1].payload["replaces"].as_str().expect("a certificate").to_owned();
    assert_eq!(asked[0].path, format!("/renewal/{replaced}"));
    assert_ne!(asked[1].path, asked[0].path);
    daemon.stop();
    let before = stub.got("").len();
    let daemon = setup.start();
    assert_eq!(https::served(daemon.https(), NAME), second);
    daemon.stop();
    assert_eq!(stub.got("").len(), before);
}

#[test]
fn an_absurd_time_to_ask_again_is_survived() {
    let own = Address::new();
    let stub = Stub::start(&own);
    stub.suggest(&[PAST, FUTURE]);
    stub.ask_again(u64::MAX);
    let setup = asking(&own, NAME, &stub);
    let mut daemon = setup.start();
    daemon.wait_for(ISSUED);
    daemon.wait_for(ISSUED);
    daemon.stop();
}

#[test]
fn a_rate_limit_is_respected_even_by_a_restart() {
    let own = Address::new();
    let stub = Stub::start(&own);
    let problem = json!({
        "type": "urn:ietf:params:acme:error:rateLimited",
        "detail": "too many certificates already issued",
    });
    stub.refuse(429, problem, 7200);
    let setup = asking(&own, NAME, &stub);
    let mut daemon = setup.start();
    let line = daemon.wait_for(REFUSED);
    assert_eq!(line["why"], "too many certificates already issued (rateLimited)");
    let next_try = health(&daemon)["trouble"]["next_try"].as_u64().expect("a time");
    assert!(line["next_try"].to_string().starts_with("\"in "), "{}", line["next_try"]);
    // A reload does not make it impatient.
    daemon.signal("HUP");
    daemon.wait_for("SIGHUP: the certificate is looked at; other changes need a restart");
    let line = daemon.wait_for("the authority has told us to wait; it is not asked before that");
    assert!(line["next_try"].as_str().expect("a time").starts_with("in "), "{line}");
    daemon.stop();
    let check = setup.printed(&["check"]);
    assert!(check.contains("too many certificates already issued"), "{check}");
    assert!(check.contains("next try: in 120 minutes") || check.contains("in 2 hours"), "{check}");
    let before = stub.got("").len();
    let daemon = setup.start();
    assert_eq!(health(&daemon)["trouble"]["next_try"], next_try);
    daemon.stop();
    assert_eq!(stub.got("").len(), before);
}

#[test]
fn a_reload_tries_again_at_once_when_only_we_wanted_to_wait() {
    let own = Address::new();
    let stub = Stub::start(&own);
    let problem = json!({ "type": "urn:ietf:params:acme:error:caa", "detail": "not us" });
    stub.refuse(403, problem, 0);
    let setup = asking(&own, NAME, &stub).variable("TURNCAST__ACME__RETRY_SECS", "86400");
    let mut daemon = setup.start();
    let line = daemon.wait_for(REFUSED);
    assert!(line["likely"].as_str().expect("a cause").contains("CAA record"), "{line}");
    daemon.signal("HUP");
    stub.wait_for("/new-order", 2);
    daemon.wait_for(REFUSED);
    daemon.stop();
}

#[test]
fn nobody_is_asked_before_the_terms_are_accepted() {
    let own = Address::new();
    let stub = Stub::start(&own);
    let config = |accept: bool| {
        format!(
            "public_host = \"live.example.org\"\n[acme]\naccept_terms = {accept}\n\
             directory = \"{}\"\nroot_certificate = \"authority.pem\"\n",
            stub.directory()
        )
    };
    let setup = |accept: bool| {
        let setup = Setup::new(&config(accept));
        let file = setup.directory().join("authority.pem");
        std::fs::write(file, own.certificate()).expect("a file");
        setup
    };
    let without = setup(false);
    let daemon = without.start();
    assert_eq!(health(&daemon), Value::Null);
    daemon.stop();
    assert_eq!(stub.got("").len(), 0);
    // With them, and a public name, this is all that it takes.
    let with = setup(true);
    let mut daemon = with.start();
    daemon.wait_for(ISSUED);
    daemon.stop();
}
