//! The hub through its public face, in virtual time.

mod links;
mod logs;
mod membership;
mod random;
mod resume;
mod scope;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::credentials::{Entropy, Grant, Grants, TimeLimited};
use crate::metrics::Metrics;
use crate::net::Now;

pub(in crate::signal) fn options() -> Options {
    Options {
        viewers_per_room: 8,
        rooms: 100,
        grace_secs: 30,
        credential_ttl_secs: 300,
        relay_only: false,
        ping_interval_secs: 15,
        ping_timeout_secs: 10,
        kept_messages: 256,
        kept_bytes: 1 << 20,
        candidates_per_link: 100,
        rebuilds_per_min: 10,
        frame_bytes: 65_536,
        build: "test".into(),
    }
}

/// A hub, its clock, and everybody who ever connected to it.
struct World {
    hub: Hub,
    now: Now,
    grants: Arc<Grants>,
    metrics: Arc<Metrics>,
    keys: Vec<BroadcastKey>,
    opened: u64,
    /// What each connection was sent and has not read.
    inboxes: HashMap<ConnId, Vec<Value>>,
    /// How the hub closed a connection.
    ends: BTreeMap<ConnId, (u16, &'static str)>,
    revoked: Vec<String>,
}

/// A member, as its page knows itself.
#[derive(Clone)]
struct Page {
    conn: ConnId,
    member: String,
    room: String,
    link: String,
    /// The whole `welcome`.
    welcome: Value,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    // The start of virtual time; the clock is not read again.
    #[allow(clippy::disallowed_methods)]
    fn with(change: impl FnOnce(&mut Options)) -> Self {
        let mut options = options();
        change(&mut options);
        let grants = Arc::new(Grants::new(Secret::new([7; 32])));
        let metrics = Arc::new(Metrics::default());
        let entropy = Entropy::from_seed([3; 32]);
        let hub = Hub::new(options, Arc::clone(&grants), Arc::clone(&metrics), entropy);
        Self {
            hub,
            now: Now { instant: Instant::now(), unix_secs: 1_800_000_000 },
            grants,
            metrics,
            keys: Vec::new(),
            opened: 0,
            inboxes: HashMap::new(),
            ends: BTreeMap::new(),
            revoked: Vec::new(),
        }
    }

    fn open(&mut self) -> ConnId {
        self.open_as(true)
    }

    fn open_as(&mut self, may_publish: bool) -> ConnId {
        self.opened += 1;
        let conn = ConnId(self.opened);
        let ice_urls = Arc::from([String::from("turn:turn.example:3478?transport=udp")]);
        let address = IpAddr::from([198, 51, 100, 7]);
        self.hub.opened(self.now, conn, Opened { address, may_publish, ice_urls });
        conn
    }

    fn say(&mut self, conn: ConnId, message: Value) {
        self.say_text(conn, &message.to_string());
    }

    fn say_text(&mut self, conn: ConnId, frame: &str) {
        let mut outputs = Outputs::new();
        self.hub.handle(self.now, conn, frame, &self.keys, &mut outputs);
        self.carry_out(outputs);
    }

    fn close(&mut self, conn: ConnId, how: Closed) {
        let mut outputs = Outputs::new();
        self.hub.closed(self.now, conn, how, &mut outputs);
        self.carry_out(outputs);
    }

    fn farewell(&mut self, token: &str) {
        let mut outputs = Outputs::new();
        self.hub.farewell(self.now, token, &mut outputs);
        self.carry_out(outputs);
    }

    fn drain(&mut self) {
        let mut outputs = Outputs::new();
        self.hub.drain(self.now, 2000, &mut outputs);
        self.carry_out(outputs);
    }

    /// Does what `web` does, and checks what must hold of every output.
    fn carry_out(&mut self, outputs: Outputs) {
        let mut closed = BTreeSet::new();
        for output in outputs {
            match output {
                Output::Send { conn, frame } => {
                    assert!(!closed.contains(&conn), "nothing is written after the close");
                    let value: Value = serde_json::from_slice(&frame).expect("JSON");
                    self.inboxes.entry(conn).or_default().push(value);
                }
                Output::Close { conn, code, reason } => {
                    closed.insert(conn);
                    self.ends.insert(conn, (code, reason));
                }
                Output::Revoke { name } => {
                    assert!(self.grants.live(&name).is_none(), "the grant is gone first");
                    self.revoked.push(name.to_string());
                }
            }
        }
        // The socket that the hub closed ends a moment later.
        for conn in closed {
            let mut outputs = Outputs::new();
            self.hub.closed(self.now, conn, Closed::Lost, &mut outputs);
            assert_eq!(outputs, []);
        }
    }

    /// Lets time pass, timer by timer.
    fn pass(&mut self, secs: u64) {
        let end = self.now.after(Duration::from_secs(secs));
        let start = self.now;
        while let Some(at) = self.hub.poll_timeout().filter(|at| *at <= end.instant) {
            let passed = at.saturating_duration_since(start.instant);
            self.now = start.after(passed);
            let mut outputs = Outputs::new();
            self.hub.handle_timeout(self.now, &mut outputs);
            self.carry_out(outputs);
        }
        self.now = end;
    }

    /// Lets time pass while these pages ping.
    fn pass_with(&mut self, secs: u64, pages: &[&Page]) {
        for _ in 0..secs / 5 {
            self.pass(5);
            for page in pages {
                self.say(page.conn, json!({"t": "ping"}));
                self.drop_all(page.conn, "pong");
            }
        }
    }

    fn drop_all(&mut self, conn: ConnId, t: &str) {
        self.inboxes.entry(conn).or_default().retain(|message| message["t"] != t);
    }

    /// Takes everything that came to `conn`.
    fn heard(&mut self, conn: ConnId) -> Vec<Value> {
        self.inboxes.remove(&conn).unwrap_or_default()
    }

    /// Takes the first unread message of type `t`.
    fn take(&mut self, conn: ConnId, t: &str) -> Value {
        let inbox = self.inboxes.entry(conn).or_default();
        match inbox.iter().position(|message| message["t"] == t) {
            Some(index) => inbox.remove(index),
            None => panic!("no {t} among {inbox:#?}"),
        }
    }

    /// The code of the first unread error.
    fn error(&mut self, conn: ConnId) -> String {
        text(&self.take(conn, "error")["code"])
    }

    fn hello(&mut self, conn: ConnId, hello: Value) -> Page {
        self.say(conn, hello);
        self.page(conn)
    }

    fn page(&mut self, conn: ConnId) -> Page {
        let welcome = self.take(conn, "welcome");
        Page {
            conn,
            member: text(&welcome["member"]),
            room: text(&welcome["room"]["name"]),
            link: welcome["link"].as_str().unwrap_or_default().to_owned(),
            welcome,
        }
    }

    fn broadcast(&mut self, room: &str) -> Page {
        let conn = self.open();
        self.hello(
            conn,
            json!({"t": "hello", "versions": [1], "role": "broadcaster",
            "room": room}),
        )
    }

    fn watch(&mut self, room: &str) -> Page {
        let conn = self.open();
        self.hello(conn, watcher(room))
    }

    /// A live room whose members have read everything.
    fn live(&mut self, room: &str) -> (Page, Page) {
        let broadcaster = self.broadcast(room);
        let watcher = self.watch(room);
        self.heard(broadcaster.conn);
        self.heard(watcher.conn);
        (broadcaster, watcher)
    }

    /// The live grant behind an `ice` object.
    fn grant(&self, ice: &Value) -> Option<Arc<Grant>> {
        self.grants.live(&grant_name(ice))
    }

    /// Ends every connection and waits until nothing can be left.
    fn end(&mut self, conns: &[ConnId]) {
        for conn in conns {
            self.close(*conn, Closed::Lost);
        }
        self.pass(120);
        self.check();
        assert_eq!(self.hub.rooms.by_name.len(), 0);
        assert_eq!(self.grants.count(), 0);
        assert_eq!(self.hub.env.timers.len(), 0);
        assert_eq!(self.hub.env.members.len(), 0);
        assert_eq!(self.hub.poll_timeout(), None);
    }

    /// What holds at any moment.
    fn check(&self) {
        let (mut grants, mut broadcasters, mut watchers, mut timers) = (0, 0, 0, 0);
        let mut seated = BTreeMap::new();
        for (name, room) in &self.hub.rooms.by_name {
            assert!(!room.is_empty() && room.watchers.len() <= 8);
            timers += usize::from(room.reserved);
            let mut members = Vec::new();
            if let Some(broadcaster) = &room.broadcaster {
                assert!(room.key.is_some() && !room.reserved);
                assert!(self.grants.live(broadcaster.grant.name()).is_some());
                (grants, broadcasters) = (grants + 1, broadcasters + 1);
                members.push(&broadcaster.member);
            }
            for watcher in &room.watchers {
                let link = &watcher.link;
                assert_eq!(link.broadcaster.is_some(), room.broadcaster.is_some());
                for side in [Some(&link.watcher), link.broadcaster.as_ref()].into_iter().flatten() {
                    assert!(self.grants.live(side.grant.name()).is_some());
                    grants += 1;
                }
                watchers += 1;
                members.push(&watcher.member);
            }
            for member in members {
                assert_eq!(self.hub.env.members.get(&member.id), Some(name));
                timers += 1 + usize::from(member.conn.is_none());
                if let Some(conn) = member.conn {
                    assert!(seated.insert(conn, member.id.clone()).is_none(), "one seat a conn");
                }
            }
        }
        assert_eq!(self.grants.count(), grants);
        assert_eq!(self.hub.env.members.len(), broadcasters + watchers);
        for (conn, state) in &self.hub.env.conns {
            let place = state.place.as_ref().map(|place| &place.member);
            assert_eq!(place, seated.remove(conn).as_ref());
        }
        assert!(seated.is_empty(), "a member speaks through an open connection: {seated:?}");
        assert_eq!(self.hub.env.timers.len(), timers + self.hub.env.conns.len());
        let gauge = |count: usize| i64::try_from(count).expect("a small number");
        assert_eq!(self.metrics.grants.value(), gauge(grants));
        assert_eq!(self.metrics.broadcasters.value(), gauge(broadcasters));
        assert_eq!(self.metrics.watchers.value(), gauge(watchers));
        assert_eq!(self.metrics.rooms.value(), gauge(self.hub.rooms.by_name.len()));
    }
}

impl Page {
    fn offer(&self, link: &str) -> Value {
        let _ = self;
        json!({"t": "offer", "link": link, "sdp": "v=0\r\n"})
    }

    /// The `hello` that resumes.
    fn back(&self, last_seq: u64) -> Value {
        json!({"t": "hello", "versions": [1], "role": self.welcome["role"], "room": self.room,
            "resume": {"token": self.welcome["resume"], "last_seq": last_seq}})
    }

    fn room_key(&self) -> String {
        text(&self.welcome["room_key"])
    }

    fn token(&self) -> String {
        text(&self.welcome["resume"])
    }
}

fn watcher(room: &str) -> Value {
    json!({"t": "hello", "versions": [1], "role": "watcher", "room": room})
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// The name of the grant behind an `ice` object.
fn grant_name(ice: &Value) -> String {
    let username = text(&ice["servers"][0]["username"]);
    TimeLimited::parse(&username).expect("a time-limited username").name.to_owned()
}

fn candidate(address: &str, kind: &str) -> Value {
    json!({"candidate": format!("candidate:1 1 udp 1 {address} 4000 typ {kind}"),
        "sdpMid": "0", "sdpMLineIndex": 0, "usernameFragment": "ab"})
}

fn types(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["t"].as_str().unwrap_or("?")).collect()
}
