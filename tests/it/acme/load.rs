//! Renewals under load: whoever is connected stays, and nobody is turned away.

use std::io::Write as _;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::json;

use super::address::Address;
use super::stub::Stub;
use super::stub_tests::{FUTURE, PAST, asking};
use super::{ISSUED, NAME};
use crate::harness::{DEADLINE, text};
use crate::https;
use crate::relay::client::{Client, Relayed};
use crate::ws::Ws;

const MORE: &str = r#"
[turn]
users = [{ name = "alice", password = "password-of-alice-1" }]
allow_peers = ["127.0.0.3"]
[broadcast]
publish = "open"
"#;

/// With the self-signed certificate that comes before the first, so many are served one after the
/// other.
const RENEWALS: usize = 5;

#[test]
fn renewals_under_load_cut_nobody_off() {
    let own = Address::new();
    let stub = Stub::start(&own);
    stub.suggest(&[PAST, PAST, PAST, PAST, FUTURE]);
    let setup = asking(&own, NAME, &stub);
    let file = std::fs::File::options().append(true).open(setup.directory().join("turncast.toml"));
    file.and_then(|mut file| file.write_all(MORE.as_bytes())).expect("a configuration");
    let mut daemon = setup.start();
    let web = daemon.https();
    let wrk = Command::new("timeout")
        .args(["60", "wrk", "-t1", "-c8", "-d8s", "-H", &format!("Host: {NAME}")])
        .arg(format!("https://{web}/watch/room"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("timeout (coreutils) runs");
    let trusting_all = Arc::new(https::credulous());
    let connect = || https::connect(web, NAME, &trusting_all).expect("never refused");
    let mut socket = Ws::try_over(connect(), NAME, &[]).expect("a WebSocket");
    assert_eq!(socket.hello("broadcaster", "room", None)["t"], "welcome");
    let mut client = Client::over(connect(), web, "alice", "password-of-alice-1");
    let relayed_address = client.allocate().expect("an allocation");
    let peer = UdpSocket::bind("127.0.0.3:0").expect("a peer");
    peer.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    client.bind_channel(0x4000, peer.local_addr().expect("bound")).expect("a channel");
    let mut served = vec![https::served(web, NAME)];
    for renewal in 0..RENEWALS {
        daemon.wait_for(ISSUED);
        let mut fresh = connect();
        assert_eq!(https::get(&mut fresh, NAME, "/").expect("an answer").0, 200);
        served.push(https::certificate(&fresh));
        client.send_channel(0x4000, &[renewal as u8]);
        let mut payload = [0; 16];
        let (len, from) = peer.recv_from(&mut payload).expect("it is relayed");
        assert_eq!((&payload[..len], from), (&[renewal as u8][..], relayed_address));
        peer.send_to(b"back", relayed_address).expect("sent");
        assert!(
            matches!(client.receive_payload(), Relayed::Channel(0x4000, back) if back == b"back")
        );
        client.refresh(600).expect("the allocation lives");
        let id = renewal.to_string();
        socket.say(&json!({ "t": "ping", "id": id }));
        assert_eq!(socket.wait_for("pong")["re"], id);
    }
    served.dedup();
    assert!(served.len() > 2, "they were not renewed while this looked");
    let output = wrk.wait_with_output().expect("wrk (apt-get install wrk)");
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && said.contains("Requests/sec"), "{said}");
    assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "{said}");
    let installed = "turncast_certificate_renewals_total{result=\"installed\"}";
    assert_eq!(daemon.metric(installed), RENEWALS as u64);
    daemon.stop();
}
