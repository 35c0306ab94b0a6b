//! Hub and pages through the daemon as a process: who may broadcast, and what its end looks like.

use std::sync::Arc;
use std::time::Instant;

use crate::harness::{DEADLINE, Daemon, Setup, get};
use crate::ws::Ws;

const WITH_KEY: &str = "[broadcast]\npublish = \"key\"\n";

fn key_of(link: &str) -> &str {
    link.trim().split_once("/broadcast#key=").expect("a link with a key").1
}

fn publish(daemon: &Daemon, room: &str, key: Option<&str>) -> String {
    let answer = Ws::open(daemon.web()).hello("broadcaster", room, key);
    match answer["t"].as_str() {
        Some("error") => answer["code"].as_str().expect("a code").to_owned(),
        _ => answer["t"].as_str().expect("a type").to_owned(),
    }
}

#[test]
fn a_rotated_key_is_worthless_at_once() {
    let setup = Setup::new(WITH_KEY);
    let daemon = setup.start();
    let link = setup.printed(&["invite"]);
    let pages = format!("http://localhost:{}/broadcast#key=", daemon.web().port());
    assert!(link.starts_with(&pages), "the running daemon's own port: {link}");
    daemon.stdout_with("turncast invite");
    let all = daemon.stdout_with("/healthz");
    assert!(!all.contains(key_of(&link)), "stdout is no terminal here: {all}");
    assert_eq!(setup.printed(&["invite"]), link);
    assert_eq!(publish(&daemon, "one", None), "key-required");
    assert_eq!(publish(&daemon, "one", Some("wrong")), "bad-key");
    assert_eq!(publish(&daemon, "one", Some(key_of(&link))), "welcome");
    let rotated = setup.printed(&["invite", "--rotate"]);
    assert_eq!(publish(&daemon, "two", Some(key_of(&link))), "bad-key");
    assert_eq!(publish(&daemon, "two", Some(key_of(&rotated))), "welcome");
    assert_eq!(setup.printed(&["invite"]), rotated);
    let log = daemon.stop();
    assert!(!log.contains(key_of(&link)) && !log.contains(key_of(&rotated)));
}

#[test]
fn configured_keys_admit_broadcasters_too() {
    let setup = Setup::new(
        "[broadcast]\npublish = \"key\"\n\
         keys = [{ name = \"studio\", key = \"key-of-the-studio\" }]\n",
    );
    let daemon = setup.start();
    assert_eq!(publish(&daemon, "one", Some("key-of-the-studio")), "welcome");
    assert_eq!(publish(&daemon, "two", Some(key_of(&setup.printed(&["invite"])))), "welcome");
    daemon.stop();
}

#[test]
fn auto_is_open_on_this_computer_and_closed_behind_a_proxy() {
    let daemon = Setup::new("").start();
    assert_eq!(publish(&daemon, "one", None), "welcome");
    let mut forwarded = Ws::open_with(daemon.web(), &[("x-forwarded-for", "192.0.2.7")]);
    assert_eq!(forwarded.hello("broadcaster", "two", None)["code"], "key-required");
    daemon.stop();
    let trusting = Setup::new("[web]\ntrusted_proxies = [\"127.0.0.1\"]\n").start();
    assert_eq!(publish(&trusting, "one", None), "key-required");
    trusting.stop();
    let open = Setup::new("[broadcast]\npublish = \"open\"\n").start();
    let mut forwarded = Ws::open_with(open.web(), &[("x-forwarded-for", "192.0.2.7")]);
    assert_eq!(forwarded.hello("broadcaster", "one", None)["t"], "welcome");
    open.stop();
}

#[test]
fn a_watcher_is_given_the_relays_own_address_and_a_credential() {
    let daemon = Setup::new("turn.credential_ttl_secs = 77\n").start();
    let welcome = Ws::open(daemon.web()).hello("watcher", "nobody-here", None);
    assert_eq!(welcome["t"], "welcome", "{welcome}");
    assert_eq!(welcome["room"]["state"], "waiting");
    let server = &welcome["ice"]["servers"][0];
    let udp = format!("turn:{}?transport=udp", daemon.turn());
    let tcp = format!("turn:{}?transport=tcp", daemon.turn_over("tcp"));
    assert_eq!(server["urls"], serde_json::json!([udp, tcp]));
    assert_eq!(welcome["ice"]["ttl_secs"], 77);
    assert!(server["credential"].as_str().expect("a credential").len() >= 20);
    daemon.stop();
}

#[test]
fn sigterm_says_bye_to_clients_and_ends_within_the_deadline() {
    let daemon = Setup::new("shutdown_secs = 5\n").start();
    let mut watcher = Ws::open(daemon.web());
    assert_eq!(watcher.hello("watcher", "room", None)["t"], "welcome");
    // Somebody who connects and never says anything must not hold the daemon up.
    let _silent = std::net::TcpStream::connect(daemon.web()).expect("somebody listens");
    let start = Instant::now();
    daemon.signal("TERM");
    let bye = watcher.wait_for("bye");
    assert_eq!(bye["action"], "resume", "{bye}");
    assert!(bye["retry_after_ms"].is_u64(), "{bye}");
    assert!(watcher.hear().is_none(), "the server closes");
    daemon.wait_for_end_in_order();
    assert!(start.elapsed().as_secs_f32() < 3.5, "{:?}", start.elapsed());
}

#[test]
fn health_names_every_loop_and_metrics_are_on_the_operators_listener_only() {
    let daemon = Setup::new("turn.workers = 2\n").start();
    let (status, body) = get(daemon.admin(), "/healthz");
    let health: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &health["status"]), (200, &"ok".into()), "{body}");
    let names: Vec<_> =
        health["loops"].as_array().expect("loops").iter().map(|l| l["name"].as_str()).collect();
    for name in ["relay-0", "relay-1", "hub", "web-0", "admin-0", "turn-tcp-0"] {
        assert!(names.contains(&Some(name)), "{name} is not in {names:?}");
    }
    let (status, body) = get(daemon.admin(), "/metrics");
    assert_eq!(status, 200);
    for series in ["turncast_allocations 0", "turncast_rooms 0", "turncast_conns 0", "# EOF"] {
        assert!(body.lines().any(|line| line == series), "{series} is not in\n{body}");
    }
    assert_eq!(get(daemon.web(), "/metrics").0, 404);
    assert_eq!(get(daemon.web(), "/healthz").0, 404);
    for page in ["/", "/broadcast", "/watch/some-room"] {
        assert_eq!(get(daemon.web(), page).0, 200, "{page}");
    }
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_the_pages_speak_https() {
    let made = rcgen::generate_simple_self_signed(["live.example.org".to_owned()]);
    let made = made.expect("a certificate");
    let setup = Setup::new(
        "public_host = \"live.example.org\"\n\
         [tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n",
    );
    let write = |name: &str, text: String| {
        std::fs::write(setup.directory().join(name), text).expect("a file");
    };
    write("cert.pem", made.cert.pem());
    write("key.pem", made.signing_key.serialize_pem());
    let daemon = setup.start();
    let link = setup.printed(&["invite"]);
    assert!(link.starts_with("https://live.example.org:"), "{link}");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = tokio::net::TcpStream::connect(daemon.https()).await.expect("somebody listens");
    let name = "live.example.org".try_into().expect("a name");
    let connected = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp);
    tokio::time::timeout(DEADLINE, connected).await.expect("in time").expect("a good certificate");
    daemon.stop();
}
