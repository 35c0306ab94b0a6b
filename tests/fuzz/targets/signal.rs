//! The hub, in which a broadcaster and a watcher already share a link.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use turncast::credentials::{Entropy, Grants};
use turncast::metrics::Metrics;
use turncast::net::Now;
use turncast::signal::{BroadcastKey, ConnId, Hub, Opened, Options, Output, Outputs};
use turncast::telemetry::Secret;

const BROADCASTER: ConnId = ConnId(1);
const WATCHER: ConnId = ConnId(2);
const STRANGER: ConnId = ConnId(3);

/// Lines, each a frame: of the watcher behind `w `, of somebody without a membership behind `s `,
/// else of the broadcaster. `$LINK` stands for the name of the link.
pub fn signaling_frame(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut stage = Stage::new(false);
    for line in text.lines().take(32) {
        let line = line.replace("$LINK", &stage.link);
        let (conn, frame) = match line.split_at_checked(2) {
            Some(("w ", frame)) => (WATCHER, frame),
            Some(("s ", frame)) => (STRANGER, frame),
            _ => (BROADCASTER, line.as_str()),
        };
        stage.say(conn, frame);
    }
}

/// A description and a candidate whose text is the input. When only relayed candidates may pass,
/// no other one arrives.
pub fn sdp_candidates(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let candidate = json!({ "candidate": text, "sdpMid": "0", "sdpMLineIndex": 0 });
    for relay_only in [false, true] {
        let mut stage = Stage::new(relay_only);
        let link = stage.link.clone();
        let offer = json!({ "t": "offer", "link": link, "sdp": text });
        let candidates = json!({ "t": "candidates", "link": link, "candidates": [candidate] });
        for message in [offer, candidates] {
            let arrived = stage.say(BROADCASTER, &message.to_string());
            if relay_only {
                arrived.iter().for_each(assert_relayed_only);
            }
        }
    }
}

fn assert_relayed_only(message: &Value) {
    let sdp = message["sdp"].as_str().unwrap_or_default().to_owned();
    let candidates = message["candidates"].as_array().cloned().unwrap_or_default();
    let texts = candidates.iter().filter_map(|one| one["candidate"].as_str().map(str::to_owned));
    for text in std::iter::once(sdp).chain(texts) {
        for line in text.split(['\r', '\n']) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let first = words.first().copied().unwrap_or_default();
            let first = first.strip_prefix("a=").unwrap_or(first).to_lowercase();
            let is_candidate = first.starts_with("candidate:");
            assert!(!is_candidate || words.get(7) == Some(&"relay"), "{line:?} was forwarded");
        }
    }
}

/// A hub with a room.
struct Stage {
    hub: Hub,
    now: Now,
    link: String,
}

impl Stage {
    fn new(relay_only: bool) -> Self {
        let metrics = Arc::new(Metrics::default());
        let grants = Arc::new(Grants::new(Secret::new([6; 32])));
        let entropy = Entropy::from_seed([5; 32]);
        let hub = Hub::new(options(relay_only), grants, metrics, entropy);
        let now = Now { instant: Instant::now(), unix_secs: 1_800_000_000 };
        let mut stage = Self { hub, now, link: String::new() };
        for conn in [BROADCASTER, WATCHER, STRANGER] {
            let ice_urls = Arc::from(["turn:192.0.2.1:3478?transport=udp".to_owned()]);
            let address = IpAddr::from([192, 0, 2, 9]);
            stage.hub.opened(now, conn, Opened { address, may_publish: true, ice_urls });
        }
        let hello = |role| json!({"t": "hello", "versions": [1], "role": role, "room": "fuzz"});
        stage.say(BROADCASTER, &hello("broadcaster").to_string());
        let welcome = stage.say(WATCHER, &hello("watcher").to_string());
        let link = welcome.iter().find_map(|message| message["link"].as_str());
        stage.link = link.expect("a watcher is given a link").to_owned();
        stage
    }

    /// Says a frame and gives the messages that it led to.
    fn say(&mut self, conn: ConnId, frame: &str) -> Vec<Value> {
        let key = Secret::new("the-key-of-the-invitation".to_owned());
        let keys = [BroadcastKey { name: "invite".to_owned(), key }];
        let mut outputs = Outputs::new();
        self.hub.handle(self.now, conn, frame, &keys, &mut outputs);
        let message = |output: Output| match output {
            Output::Send { conn, frame } => {
                assert!([BROADCASTER, WATCHER, STRANGER].contains(&conn));
                Some(serde_json::from_slice(&frame).expect("our own frames are JSON"))
            }
            Output::Close { code, .. } => {
                assert!(code == 1000 || code == 1001 || (4000..4100).contains(&code), "{code}");
                None
            }
            Output::Revoke { .. } => None,
        };
        outputs.into_iter().filter_map(message).collect()
    }
}

fn options(relay_only: bool) -> Options {
    Options {
        viewers_per_room: 8,
        rooms: 4,
        grace_secs: 30,
        credential_ttl_secs: 300,
        relay_only,
        ping_interval_secs: 15,
        ping_timeout_secs: 10,
        kept_messages: 64,
        kept_bytes: 65_536,
        candidates_per_link: 64,
        rebuilds_per_min: 10,
        frame_bytes: 65_536,
        build: "fuzz".to_owned(),
    }
}
