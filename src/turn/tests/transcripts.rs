//! Replays `src/turn/transcripts/*.txt`: text in, text out. `UPDATE=1` rewrites the texts.
//!
//! A transcript is read line by line:
//! ```text
//! # what it shows, with the section of the RFC
//! config KEY=VALUE ...            before anything else
//! client NAME ADDRESS:PORT
//! grant NAME room=ROOM [reach=IP]...
//! > NAME METHOD [KEY=VALUE]...    a request or indication; see `Script::build`
//! > NAME channel NUMBER [TEXT]    ChannelData
//! > NAME raw HEX
//! > peer ADDRESS to NAME TEXT     a datagram on NAME's relayed address
//! > peer6 ADDRESS to NAME TEXT    on the IPv6 one of a dual allocation
//! > icmp PEER to NAME TYPE CODE DATA   an ICMP error about a datagram from there to PEER
//! > bound RESULT                  what became of the last bind, when `config bind=manual`
//! > wait SECS, > sweep, > revoke GRANT, > close, > release
//! < what the engine did           written by the test
//! + what it counted               written by the test
//! ```

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::bench::{
    Ask, Bench, Holds, REALM, SECRETS, START_UNIX_SECS, bind_failure, five_tuple, fixed, options,
};
use super::words::{
    Words, append, attribute, class_and_method, credential_hash, describe, from_hex, nat_discovery,
    payload, read_attributes, sent, show, way,
};
use crate::credentials::{password, userhash};
use crate::metrics::{Code, DropReason, Limit, Method as Label};
use crate::stun::{
    Class, Integrity, Message, Method, PASSWORD_ALGORITHMS_OFFERED, PasswordAlgorithm, attr,
};
use crate::turn::reject::Why;
use crate::turn::{
    Action, Actions, DefaultFamily, HEADROOM, HeldSocket, Icmp, Options, RelayAddress, RelayId,
    TAILROOM, Verdict,
};

#[test]
fn every_transcript_is_replayed_to_the_letter_and_sees_every_refusal() {
    let update = std::env::var_os("UPDATE").is_some();
    let (mut seen, mut differing) = (Seen::default(), Vec::new());
    for path in transcripts() {
        let text = std::fs::read_to_string(&path).expect("a transcript");
        let replayed = Script::replay(&path, &text, &mut seen);
        if replayed != text {
            if update {
                std::fs::write(&path, &replayed).expect("a writable transcript");
            } else {
                differing.push(format!("{}:\n{replayed}", path.display()));
            }
        }
    }
    assert!(differing.is_empty(), "UPDATE=1 rewrites:\n{}", differing.join("\n"));
    let missed: Vec<_> = Why::ALL.iter().filter(|why| !seen.refusals.contains(why)).collect();
    assert!(missed.is_empty(), "no transcript shows {missed:?}");
    for reason in DROPS {
        assert!(seen.counted.contains(reason.text()), "no transcript shows {reason:?}");
    }
    for limit in LIMITS {
        assert!(seen.counted.contains(limit.text()), "no transcript shows {limit:?}");
    }
}

/// What a log writer keeps.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("one thread").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_address_name_or_secret_reaches_the_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // With one subscriber alive, a line that another test's thread reaches first counts as
    // unwanted for good, because that thread has none; with two, everybody is asked.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    tracing::subscriber::with_default(subscriber, || {
        for path in transcripts() {
            let text = std::fs::read_to_string(&path).expect("a transcript");
            Script::replay(&path, &text, &mut Seen::default());
        }
    });
    let log = String::from_utf8(log.0.lock().expect("one thread").clone()).expect("text");
    for line in ["allocation created", "allocation ended", "request refused", "peer denied"] {
        assert!(log.contains(line), "{line} is not in the log");
    }
    // Whoever scans us fills no log: a stranger is counted only.
    assert!(!log.contains("code=401"));
    for secret in ["192.0.2.1", "198.51.100.1", "9.9.9.9", ":40001", "alice", "carol", "secret"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is in the log");
    }
}

/// The drops that the engine counts; the worker counts the others.
const DROPS: &[DropReason] = &[
    DropReason::Malformed,
    DropReason::Unexpected,
    DropReason::Fingerprint,
    DropReason::NoChannel,
    DropReason::NoAllocation,
    DropReason::NoPermission,
    DropReason::PeerForbidden,
    DropReason::NotRelayed,
    DropReason::Repeated,
    DropReason::TooLong,
    DropReason::Icmp,
];

/// The limits that the engine keeps.
const LIMITS: &[Limit] = &[
    Limit::AllocationsPerUser,
    Limit::AllocationsPerLink,
    Limit::Allocations,
    Limit::PermissionsPerAllocation,
    Limit::ChannelsPerAllocation,
    Limit::Lifetime,
    Limit::BandwidthPerAllocation,
    Limit::Bandwidth,
    Limit::BandwidthPerUser,
    Limit::NewPeers,
    Limit::Unauthenticated,
    Limit::RelayPorts,
    Limit::Descriptors,
];

fn transcripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/turn/transcripts");
    let entries = std::fs::read_dir(folder).expect("the transcripts");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths
}

/// What all transcripts together have shown.
#[derive(Default)]
struct Seen {
    refusals: BTreeSet<Why>,
    counted: BTreeSet<&'static str>,
}

struct Script {
    options: Options,
    bench: Option<Bench>,
    manual_bind: bool,
    clients: HashMap<String, Client>,
    /// Sockets that are being bound, in the order in which they were asked for; with an address
    /// when they will be held.
    to_bind: VecDeque<(RelayId, Option<SocketAddr>)>,
    counted: HashMap<String, u64>,
    /// The last RESERVATION-TOKEN that a client was told.
    token: Vec<u8>,
}

struct Client {
    address: SocketAddr,
    key: Option<Vec<u8>>,
    last: Vec<u8>,
}

impl Script {
    fn replay(path: &Path, text: &str, seen: &mut Seen) -> String {
        let mut script = Self {
            options: options(),
            bench: None,
            manual_bind: false,
            clients: HashMap::new(),
            to_bind: VecDeque::new(),
            counted: HashMap::new(),
            token: Vec::new(),
        };
        let mut out = String::new();
        for line in text.lines().filter(|line| !line.starts_with(['<', '+'])) {
            writeln!(out, "{line}").expect("a string takes all");
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [] | ["#", ..] => {}
                ["config", ref rest @ ..] => script.configure(&Words::parse(rest)),
                ["client", name, address] => {
                    let address = address.parse().expect("an address");
                    let client = Client { address, key: None, last: Vec::new() };
                    script.clients.insert(name.to_owned(), client);
                }
                ["grant", name, ref rest @ ..] => script.grant(name, &Words::parse(rest)),
                [">", ref rest @ ..] => script.step(rest, &mut out),
                _ => panic!("{}: {line}", path.display()),
            }
            script.counts(&mut out, seen);
        }
        if let Some(bench) = &script.bench {
            seen.refusals.extend(&bench.server.marks);
        }
        out
    }

    fn bench(&mut self) -> &mut Bench {
        self.bench.get_or_insert_with(|| Bench::new(self.options.clone(), 1))
    }

    fn configure(&mut self, words: &Words<'_>) {
        assert!(self.bench.is_none(), "configuration comes first");
        let options = &mut self.options;
        let limits = &mut options.limits;
        let mut relays = Vec::new();
        for &(key, value) in &words.0 {
            let number = || value.parse().expect("a number");
            match key {
                "allocations_per_user" => limits.allocations_per_user = number(),
                "allocations_per_link" => limits.allocations_per_link = number(),
                "allocations" => limits.allocations = number(),
                "permissions" => limits.permissions_per_allocation = number(),
                "channels" => limits.channels_per_allocation = number(),
                "lifetime" => limits.lifetime_secs_max = number(),
                "new_peers" => limits.new_peers_per_min = number(),
                "bandwidth_of_user" => limits.bandwidth_per_user_bytes_per_sec = number().into(),
                "dont_fragment" => options.dont_fragment = value == "yes",
                "default_family" => options.default_family = DefaultFamily::Client,
                "alternate" => options.alternate_servers.push(value.parse().expect("a server")),
                "discovery" => options.nat_discovery = nat_discovery(value),
                "nonce" => limits.nonce_secs = number(),
                "bandwidth" => limits.bandwidth_per_allocation_bytes_per_sec = number().into(),
                "bandwidth_in_all" => limits.bandwidth_bytes_per_sec = number().into(),
                "strangers" => {
                    limits.unauthenticated_per_prefix_per_sec = number();
                    limits.unauthenticated_burst = number();
                }
                "ports" => {
                    let (first, last) = value.split_once('-').expect("a range");
                    let port = |text: &str| text.parse().expect("a port");
                    options.relay_ports = (port(first), port(last));
                }
                "allow" => options.allow_peers.push(value.parse().expect("a prefix")),
                "deny" => options.deny_peers.push(value.parse().expect("a prefix")),
                "host" => options.host_addresses.push(value.parse().expect("an address")),
                "relay" => {
                    let (public, local) = value.split_once('/').unwrap_or((value, value));
                    let ip = |text: &str| text.parse().expect("an address");
                    relays.push(RelayAddress { public: ip(public), local: ip(local) });
                }
                "bind" => self.manual_bind = value == "manual",
                "users" => {
                    let names = value.split(',').filter(|name| !name.is_empty());
                    options.users = names.map(fixed).collect();
                }
                "strict_expiry" => options.strict_expiry = value == "true",
                "hash" => {
                    let hashes = value.split(',').map(credential_hash).collect();
                    options.shared_secrets = options.shared_secrets.clone().hashed_by(hashes);
                }
                other => panic!("no such key: {other}"),
            }
        }
        if !relays.is_empty() {
            options.relay_addresses = relays;
        }
    }

    fn grant(&mut self, name: &str, words: &Words<'_>) {
        let room = words.get("room").expect("a room");
        let grant = self.bench().grant(name, room);
        for peer in words.all("reach") {
            grant.allow(peer.parse().expect("an address")).expect("room in the scope");
        }
    }

    fn step(&mut self, words: &[&str], out: &mut String) {
        let mut actions = Actions::new();
        match *words {
            ["wait", secs] => self.bench().wait(secs.parse().expect("seconds")),
            ["sweep"] => {
                let bench = self.bench();
                bench.server.handle_timeout(bench.now, &mut actions);
            }
            ["revoke", name] => {
                let bench = self.bench();
                let name = bench.grants[name].name().clone();
                bench.shared.grants.revoke(&name);
                bench.server.revoke(&name, &mut actions);
            }
            ["close"] => self.bench().server.close_all(&mut actions),
            ["release"] => self.bench().server.release_reservations(),
            ["bound", result] => {
                let (relay, held) = self.to_bind.pop_front().expect("a bind is pending");
                let bench = self.bench();
                let (now, result) = (bench.now, bind_failure(result));
                match held {
                    None => bench.server.bound(now, relay, result, &mut actions),
                    Some(local) => {
                        let held = result.map(|()| HeldSocket::new(local));
                        bench.server.reserved(now, relay, held, &mut actions);
                    }
                }
            }
            ["icmp", peer, "to", name, ref numbers @ ..] => {
                self.icmp(peer, name, numbers, &mut actions);
            }
            ["peer", peer, "to", name, text] => self.peer(peer, name, text, false, out),
            ["peer6", peer, "to", name, text] => self.peer(peer, name, text, true, out),
            [name, ref rest @ ..] => {
                let datagram = self.datagram(name, rest);
                let client = self.clients.get_mut(name).expect("a client");
                client.last.clone_from(&datagram);
                let from = sent(rest, five_tuple(client.address));
                let bench = self.bench();
                let now = bench.now;
                let verdict = bench.server.handle_client(now, from, &datagram, &mut actions);
                match verdict {
                    Verdict::Done => {}
                    Verdict::ToPeer { peer, payload, dont_fragment, .. } => {
                        let payload = show(&datagram[payload]);
                        let whole = if dont_fragment { " unfragmented" } else { "" };
                        writeln!(out, "< to {peer} {payload}{whole}").expect("a string takes all");
                    }
                    Verdict::ToClient { .. } => panic!("a client's packet went to a client"),
                }
            }
            [] => panic!("an empty step"),
        }
        self.work(actions, out);
    }

    fn work(&mut self, actions: Actions, out: &mut String) {
        let mut more = Actions::new();
        for action in actions {
            match action {
                Action::Answer { five_tuple: taken, bytes } => {
                    let message = Message::parse(&bytes).expect("a message");
                    if let Some(token) = message.first(attr::RESERVATION_TOKEN) {
                        self.token = token.to_vec();
                    }
                    let address = taken.client;
                    let is = |other: SocketAddr| (other != address, other.ip() != address.ip());
                    let known = self.clients.iter().min_by_key(|(_, known)| is(known.address));
                    let (name, client) = known.expect("known");
                    let answer = describe(&bytes, client.key.as_deref());
                    let way = way(five_tuple(client.address), taken);
                    writeln!(out, "< {name} {answer}{way}").expect("a string takes all");
                }
                Action::Bind { relay, local } => {
                    writeln!(out, "< bind {local}").expect("a string takes all");
                    if self.manual_bind {
                        self.to_bind.push_back((relay, None));
                    } else {
                        let bench = self.bench();
                        bench.server.bound(bench.now, relay, Ok(()), &mut more);
                    }
                }
                Action::Reserve { relay, local } => {
                    writeln!(out, "< reserve {local}").expect("a string takes all");
                    if self.manual_bind {
                        self.to_bind.push_back((relay, Some(local)));
                    } else {
                        let bench = self.bench();
                        let held = Ok(HeldSocket::new(local));
                        bench.server.reserved(bench.now, relay, held, &mut more);
                    }
                }
                Action::Adopt { relay, socket } => {
                    let local = socket.into_socket::<SocketAddr>().expect("as it was held");
                    writeln!(out, "< adopt {local}").expect("a string takes all");
                    let bench = self.bench();
                    bench.server.bound(bench.now, relay, Ok(()), &mut more);
                }
                Action::Close { relay } => {
                    let (place, family) = (relay.0 >> 1, relay.0 & 1);
                    let family = if family == 0 { "" } else { " ipv6" };
                    writeln!(out, "< close {place}{family}").expect("a string takes all");
                }
            }
        }
        if !more.is_empty() {
            self.work(more, out);
        }
    }

    fn peer(&mut self, peer: &str, name: &str, text: &str, second: bool, out: &mut String) {
        let payload = payload(text);
        let address = self.clients[name].address;
        let peer = peer.parse().expect("an address");
        let bench = self.bench();
        let relay = bench.server.relay_of(&five_tuple(address)).expect("an allocation");
        let relay = if second { RelayId(relay.0 | 1) } else { relay };
        let mut buffer = vec![0xEE; HEADROOM + payload.len() + TAILROOM];
        let range = HEADROOM..HEADROOM + payload.len();
        buffer[range.clone()].copy_from_slice(&payload);
        let verdict = bench.server.handle_peer(bench.now, relay, peer, &mut buffer, range);
        if let Verdict::ToClient { datagram, .. } = verdict {
            let told = describe(&buffer[datagram], None);
            writeln!(out, "< {name} {told}").expect("a string takes all");
        }
    }

    fn icmp(&mut self, peer: &str, name: &str, numbers: &[&str], actions: &mut Actions) {
        let numbers: Vec<u32> = numbers.iter().map(|n| n.parse().expect("a number")).collect();
        let [kind, code, data] = numbers[..] else { panic!("type, code and data") };
        let icmp = Icmp { kind: kind as u8, code: code as u8, data };
        let peer: SocketAddr = peer.parse().expect("an address");
        let address = self.clients[name].address;
        let bench = self.bench();
        let relay = bench.server.relay_of(&five_tuple(address)).expect("an allocation");
        let relay = RelayId(relay.0 & !1 | u32::from(peer.is_ipv6()));
        bench.server.handle_icmp(bench.now, relay, peer, icmp, actions);
    }

    /// The bytes of a client's line.
    fn datagram(&mut self, name: &str, words: &[&str]) -> Vec<u8> {
        match *words {
            ["again"] => self.clients[name].last.clone(),
            ["raw", hex] => from_hex(hex),
            ["channel", number, text] => {
                let payload = payload(text);
                let number = from_hex(number.trim_start_matches("0x"));
                let mut datagram = number;
                datagram.extend_from_slice(&(payload.len() as u16).to_be_bytes());
                datagram.extend_from_slice(&payload);
                datagram
            }
            [method, ref rest @ ..] => self.build(name, method, &Words::parse(rest)),
            [] => panic!("a client says nothing"),
        }
    }

    /// Builds a STUN message. `user=` NAME of a fixed user or grant, or a time-limited username
    /// (`secret=2`: signed with the second secret, `hash=sha256`); `says=` what USERNAME is all
    /// the same; `hidden`: USERHASH instead; `password=`, `realm=`, `nonce=stale|wrong|other|TEXT`,
    /// `without=ATTR`; `algorithm=md5|sha256` with PASSWORD-ALGORITHMS, which `algorithms=HEX`
    /// replaces; `integrity=sha1|sha256|both`, `cut=BYTES` of it; `tx=` a transaction id; `peer=`,
    /// `at=` another address of ours, `over=tcp`; `change=`, `port=`, `padding=` (RFC 5780);
    /// `channel=`, `transport=`, `family=`, `additional=`, `lifetime=`, `text=`, `even`, `reserve`
    /// (EVEN-PORT), `token` (the last one told), `attr=KIND:HEX`, `behind=KIND:HEX` (after the
    /// integrity); `fingerprint`, `fingerprint=wrong`.
    fn build(&mut self, name: &str, method: &str, words: &Words<'_>) -> Vec<u8> {
        let (class, method) = class_and_method(method);
        let mut ask = self.bench().ask(method);
        if let Some(tx) = words.get("tx") {
            ask.transaction.0.fill(tx.parse().expect("a number"));
        }
        if words.get("token") == Some("") {
            ask.attributes.push((attr::RESERVATION_TOKEN, self.token.clone()));
        }
        read_attributes(words, &mut ask);
        let has_transport = words.has("transport") || words.get("without") == Some("transport");
        if method == Method::ALLOCATE && !has_transport {
            ask.attributes.push((attr::REQUESTED_TRANSPORT, vec![17, 0, 0, 0]));
        }
        let claims = class == Class::Request && method != Method::BINDING;
        let anonymous = !(claims && words.has("user"));
        let mut datagram = if anonymous {
            ask.writer(class).finish(None, words.has("fingerprint"))
        } else {
            self.signed(name, words, &ask)
        };
        if words.get("fingerprint") == Some("wrong") {
            let last = datagram.len() - 1;
            datagram[last] ^= 1;
        }
        datagram
    }

    fn signed(&mut self, name: &str, words: &Words<'_>, ask: &Ask) -> Vec<u8> {
        let holds = self.holds(words);
        let algorithm = match words.get("algorithm") {
            None | Some("md5") => PasswordAlgorithm::Md5,
            _ => PasswordAlgorithm::Sha256,
        };
        let key = Bench::keys(&holds).by(algorithm).to_vec();
        let client = self.clients.get_mut(name).expect("a client");
        client.key = Some(key.clone());
        let address = client.address;
        let nonce = self.nonce(address, words);
        let says = words.get("says").map(payload);
        let username = says.unwrap_or_else(|| holds.username.clone().into_bytes());
        let hash = userhash(&holds.username, REALM);
        let realm = words.get("realm").map_or(REALM.as_bytes().to_vec(), payload);
        let hidden = words.has("hidden");
        let choice = algorithm.value();
        let list = words.get("algorithms").map(from_hex);
        let list = list.unwrap_or_else(|| PASSWORD_ALGORITHMS_OFFERED.to_vec());
        let modern = words.has("algorithm");
        let without: Vec<&str> = words.all("without").collect();
        let mut writer = ask.writer(Class::Request);
        for (kind, text, there, value) in [
            (attr::USERNAME, "username", !hidden || words.has("says"), &username[..]),
            (attr::USERHASH, "userhash", hidden, &hash),
            (attr::REALM, "realm", true, &realm),
            (attr::NONCE, "nonce", true, &nonce),
            (attr::PASSWORD_ALGORITHM, "algorithm", modern, &choice),
            (attr::PASSWORD_ALGORITHMS, "algorithms", modern, &list),
        ] {
            if there && !without.contains(&text) {
                writer = writer.attribute(kind, value);
            }
        }
        let usual = if modern { "sha256" } else { "sha1" };
        let integrity: &[Integrity] = match words.get("integrity").unwrap_or(usual) {
            "sha1" => &[Integrity::Sha1],
            "sha256" => &[Integrity::Sha256],
            _ => &[Integrity::Sha1, Integrity::Sha256],
        };
        for integrity in integrity {
            writer = writer.integrity(*integrity, &key);
        }
        let mut message = writer.finish(None, words.has("fingerprint"));
        if let Some(cut) = words.get("cut") {
            let kept = 32 - cut.parse::<usize>().expect("a number");
            message.truncate(message.len() - 32 + kept);
            let at = message.len() - kept;
            message[at - 2..at].copy_from_slice(&(kept as u16).to_be_bytes());
        }
        append(message, words.all("behind").map(attribute))
    }

    fn nonce(&mut self, mut address: SocketAddr, words: &Words<'_>) -> Vec<u8> {
        let bench = self.bench();
        let mut at = bench.now.unix_secs;
        match words.get("nonce") {
            None => {}
            Some("stale") => at -= u64::from(bench.shared.options().limits.nonce_secs),
            Some("other") => address.set_port(address.port() + 1),
            Some("wrong") => return b"obMatJos2AAAAwrongwrongwrongwrongwrongw".to_vec(),
            Some(text) => return payload(text),
        }
        bench.shared.nonces.make(address, at).to_vec()
    }

    fn holds(&mut self, words: &Words<'_>) -> Holds {
        let name = words.get("user").expect("a user");
        let bench = self.bench();
        let expiry = START_UNIX_SECS + 300;
        let expiry = words.get("expiry").map_or(expiry, |text| text.parse().expect("seconds"));
        let mut holds = if bench.grants.contains_key(name) {
            bench.granted(name, expiry)
        } else if name.as_bytes()[0].is_ascii_digit() {
            let secret = words.get("secret").map_or(1, |text| text.parse().expect("a number"));
            let hash = credential_hash(words.get("hash").unwrap_or("sha1"));
            let password = password(hash, SECRETS[secret - 1].as_bytes(), name);
            Holds { username: name.to_owned(), password: password.expose().clone() }
        } else {
            bench.fixed(name)
        };
        if let Some(password) = words.get("password") {
            holds.password = password.to_owned();
        }
        holds
    }

    /// Writes what was counted since the last line.
    fn counts(&mut self, out: &mut String, seen: &mut Seen) {
        let Some(bench) = &self.bench else { return };
        let m = &bench.metrics;
        let mut all = Vec::new();
        for &method in Label::ALL {
            for &code in Code::ALL {
                let text = format!("refused {} {}", method.text(), code.text());
                all.push((text, code.text(), m.refusals(method, code)));
            }
        }
        for &reason in DropReason::ALL {
            all.push((format!("dropped {}", reason.text()), reason.text(), m.drops(reason)));
        }
        for &limit in Limit::ALL {
            all.push((format!("limit {}", limit.text()), limit.text(), m.limits(limit)));
        }
        for (text, label, value) in all {
            let before = self.counted.insert(text.clone(), value).unwrap_or(0);
            match value - before {
                0 => continue,
                1 => writeln!(out, "+ {text}"),
                n => writeln!(out, "+ {text} {n} times"),
            }
            .expect("a string takes all");
            seen.counted.insert(label);
        }
    }
}
