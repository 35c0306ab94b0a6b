//! What must never reach the log: secrets and raw addresses, at the most talkative level.

use std::net::SocketAddr;

use serde_json::json;

use crate::harness::Setup;
use crate::relay::client::Client;
use crate::ws::Ws;

const PASSWORD: &str = "password-of-alice-1";
const SECRET: &str = "shared-secret-of-a-test";
const STUDIO: &str = "key-of-the-studio-1";

fn config() -> String {
    format!(
        "[turn]\nusers = [{{ name = \"alice\", password = \"{PASSWORD}\" }}]\n\
         shared_secret = \"{SECRET}\"\nallow_peers = [\"127.0.0.3\"]\n\
         [broadcast]\npublish = \"key\"\nkeys = [{{ name = \"studio\", key = \"{STUDIO}\" }}]\n\
         [log]\nlevel = \"trace\"\n"
    )
}

#[test]
fn no_secret_and_no_raw_address_reaches_the_log() {
    let setup = Setup::new(&config());
    let daemon = setup.start();
    let mut secrets = vec![PASSWORD.to_owned(), SECRET.to_owned(), STUDIO.to_owned()];
    for name in ["hub.key", "broadcast.key"] {
        let key = std::fs::read_to_string(setup.state().join(name)).expect("a generated key");
        secrets.push(key.trim().to_owned());
    }

    // Everything that has an address or a secret in it, right and wrong.
    let mut client = Client::new(daemon.turn(), "alice", PASSWORD);
    client.bind();
    client.allocate().expect("an allocation");
    let peer: SocketAddr = "127.0.0.3:9".parse().expect("an address");
    client.permit(&[peer]).expect("a permission");
    assert_eq!(client.permit(&["10.1.2.3:9".parse().expect("an address")]), Err(403));
    client.bind_channel(0x4000, peer).expect("a channel");
    client.send_channel(0x4000, b"into the void");
    client.refresh(0).expect("deleted");
    assert_eq!(Client::new(daemon.turn(), "alice", "wrong-password").allocate(), Err(401));

    let mut broadcaster = Ws::open(daemon.web());
    let welcome = broadcaster.hello("broadcaster", "studio", Some(STUDIO));
    assert_eq!(welcome["t"], "welcome", "{welcome}");
    let mut watcher = Ws::open(daemon.web());
    let watching = watcher.hello("watcher", "studio", None);
    for welcome in [&welcome, &watching] {
        let credential = welcome["ice"]["servers"][0]["credential"].as_str();
        secrets.push(credential.expect("a credential").to_owned());
        secrets.push(welcome["resume"].as_str().expect("a token").to_owned());
    }
    secrets.push(welcome["room_key"].as_str().expect("a room key").to_owned());
    let joined = broadcaster.wait_for("member");
    let candidate = "candidate:1 1 udp 1 192.0.2.99 9 typ host";
    broadcaster.say(&json!({
        "t": "candidates", "link": joined["link"],
        "candidates": [{ "candidate": candidate, "sdpMid": "0", "sdpMLineIndex": 0 }]
    }));
    watcher.wait_for("candidates");
    let mut wrong = Ws::open(daemon.web());
    assert_eq!(wrong.hello("broadcaster", "x", Some("wrong-key-of-somebody"))["t"], "error");
    secrets.extend(["wrong-password", "wrong-key-of-somebody"].map(str::to_owned));

    let log = daemon.stop();
    assert!(log.lines().count() > 10, "the level is trace:\n{log}");
    for secret in &secrets {
        assert!(!log.contains(secret.as_str()), "{secret} is in\n{log}");
    }
    for line in log.lines() {
        let mut line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        // Our own listeners are no visitors.
        line.as_object_mut().expect("an object").remove("listener");
        let line = line.to_string();
        for address in ["127.0.0.1", "127.0.0.3", "10.1.2.3", "192.0.2.99"] {
            assert!(!line.contains(address), "{address} is in {line}");
        }
    }
    assert!(log.contains("127.0.0.0/24"), "addresses are there, cut to their prefix:\n{log}");
}
