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
//! > bound RESULT                  what became of the last bind, when `config bind=manual`
//! > wait SECS, > sweep, > revoke GRANT, > close
//! < what the engine did           written by the test
//! + what it counted               written by the test
//! ```

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::bench::{Ask, Bench, Holds, REALM, START_UNIX_SECS, bind_failure, five_tuple, options};
use crate::metrics::{Code, DropReason, Limit, Method as Label};
use crate::stun::{ChannelData, Class, Kind, Message, Method, attr, classify, parse_xor_address};
use crate::turn::reject::Why;
use crate::turn::{Action, Actions, HEADROOM, Options, RelayAddress, RelayId, TAILROOM, Verdict};

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
    to_bind: Option<RelayId>,
    counted: HashMap<String, u64>,
}

struct Client {
    address: SocketAddr,
    key: Option<[u8; 16]>,
    last: Vec<u8>,
}

/// The words of a line behind the first ones: `key=value` and bare ones.
struct Words<'t>(Vec<(&'t str, &'t str)>);

impl<'t> Words<'t> {
    fn parse(words: &[&'t str]) -> Self {
        Self(words.iter().map(|word| word.split_once('=').unwrap_or((word, ""))).collect())
    }

    fn get(&self, key: &str) -> Option<&'t str> {
        self.0.iter().find(|(found, _)| *found == key).map(|(_, value)| *value)
    }

    fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    fn all(&self, key: &str) -> impl Iterator<Item = &'t str> {
        self.0.iter().filter(move |(found, _)| *found == key).map(|(_, value)| *value)
    }
}

impl Script {
    fn replay(path: &Path, text: &str, seen: &mut Seen) -> String {
        let mut script = Self {
            options: options(),
            bench: None,
            manual_bind: false,
            clients: HashMap::new(),
            to_bind: None,
            counted: HashMap::new(),
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
            ["bound", result] => {
                let relay = self.to_bind.take().expect("a bind is pending");
                let bench = self.bench();
                bench.server.bound(bench.now, relay, bind_failure(result), &mut actions);
            }
            ["peer", peer, "to", name, text] => self.peer(peer, name, text, out),
            [name, ref rest @ ..] => {
                let datagram = self.datagram(name, rest);
                let client = self.clients.get_mut(name).expect("a client");
                client.last.clone_from(&datagram);
                let from = five_tuple(client.address);
                let bench = self.bench();
                let now = bench.now;
                let verdict = bench.server.handle_client(now, from, &datagram, &mut actions);
                match verdict {
                    Verdict::Done => {}
                    Verdict::ToPeer { peer, payload, .. } => {
                        let payload = show(&datagram[payload]);
                        writeln!(out, "< to {peer} {payload}").expect("a string takes all");
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
                Action::Answer { five_tuple, bytes } => {
                    let address = five_tuple.client;
                    let mut clients = self.clients.iter();
                    let (name, client) =
                        clients.find(|(_, client)| client.address == address).expect("known");
                    let answer = describe(&bytes, client.key.as_ref());
                    writeln!(out, "< {name} {answer}").expect("a string takes all");
                }
                Action::Bind { relay, local } => {
                    writeln!(out, "< bind {local}").expect("a string takes all");
                    if self.manual_bind {
                        self.to_bind = Some(relay);
                    } else {
                        let bench = self.bench();
                        bench.server.bound(bench.now, relay, Ok(()), &mut more);
                    }
                }
                Action::Close { relay } => {
                    writeln!(out, "< close {}", relay.0).expect("a string takes all");
                }
            }
        }
        if !more.is_empty() {
            self.work(more, out);
        }
    }

    fn peer(&mut self, peer: &str, name: &str, text: &str, out: &mut String) {
        let payload = payload(text);
        let address = self.clients[name].address;
        let peer = peer.parse().expect("an address");
        let bench = self.bench();
        let relay = bench.server.relay_of(&five_tuple(address)).expect("an allocation");
        let mut buffer = vec![0xEE; HEADROOM + payload.len() + TAILROOM];
        let range = HEADROOM..HEADROOM + payload.len();
        buffer[range.clone()].copy_from_slice(&payload);
        let verdict = bench.server.handle_peer(bench.now, relay, peer, &mut buffer, range);
        if let Verdict::ToClient { datagram, .. } = verdict {
            let told = describe(&buffer[datagram], None);
            writeln!(out, "< {name} {told}").expect("a string takes all");
        }
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
    /// (`secret=2`: signed with the second secret); `password=`, `realm=`, `nonce=stale|wrong|other`,
    /// `anonymous`, `without=ATTR`; `tx=` a transaction id; `peer=`, `channel=`, `transport=`,
    /// `family=`, `lifetime=`, `attr=KIND:HEX`, `behind=KIND:HEX` (after the integrity), `text=`;
    /// `fingerprint`, `fingerprint=wrong`.
    fn build(&mut self, name: &str, method: &str, words: &Words<'_>) -> Vec<u8> {
        let (class, method) = match method {
            "binding" => (Class::Request, Method::BINDING),
            "allocate" => (Class::Request, Method::ALLOCATE),
            "refresh" => (Class::Request, Method::REFRESH),
            "permit" => (Class::Request, Method::CREATE_PERMISSION),
            "bind" => (Class::Request, Method::CHANNEL_BIND),
            "send" => (Class::Indication, Method::SEND),
            "keepalive" => (Class::Indication, Method::BINDING),
            "success" => (Class::Success, Method::BINDING),
            "connect" => (Class::Request, Method::new(0x00A)),
            other => panic!("no such method: {other}"),
        };
        let mut ask = self.bench().ask(method);
        if let Some(tx) = words.get("tx") {
            ask.transaction.0.fill(tx.parse().expect("a number"));
        }
        read_attributes(words, &mut ask);
        let has_transport = words.has("transport") || words.get("without") == Some("transport");
        if method == Method::ALLOCATE && !has_transport {
            ask.attributes.push((attr::REQUESTED_TRANSPORT, vec![17, 0, 0, 0]));
        }
        let user = words.get("user");
        let anonymous = class != Class::Request || method == Method::BINDING || user.is_none();
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
        let key = Bench::key(&holds);
        let client = self.clients.get_mut(name).expect("a client");
        client.key = Some(key);
        let mut address = client.address;
        let bench = self.bench();
        let mut at = bench.now.unix_secs;
        match words.get("nonce") {
            Some("stale") => at -= u64::from(bench.shared.options().limits.nonce_secs),
            Some("other") => address.set_port(address.port() + 1),
            _ => {}
        }
        let nonce = match words.get("nonce") {
            Some("wrong") => b"obMatJos2AAAAwrongwrongwrongwrongwrongw".to_vec(),
            _ => bench.shared.nonces.make(address, at).to_vec(),
        };
        let without: Vec<&str> = words.all("without").collect();
        let mut writer = ask.writer(Class::Request);
        for (kind, text, value) in [
            (attr::USERNAME, "username", holds.username.as_bytes()),
            (attr::REALM, "realm", words.get("realm").unwrap_or(REALM).as_bytes()),
            (attr::NONCE, "nonce", &nonce),
        ] {
            if !without.contains(&text) {
                writer = writer.attribute(kind, value);
            }
        }
        let integrity = writer.finish(Some(&key), words.has("fingerprint"));
        append(integrity, words.all("behind").map(attribute))
    }

    fn holds(&mut self, words: &Words<'_>) -> Holds {
        let user = words.get("user").expect("a user");
        let bench = self.bench();
        let expiry = START_UNIX_SECS + 300;
        let expiry = words.get("expiry").map_or(expiry, |text| text.parse().expect("seconds"));
        let mut holds = if bench.grants.contains_key(user) {
            bench.granted(user, expiry)
        } else if user.as_bytes()[0].is_ascii_digit() {
            let secret = words.get("secret").map_or(1, |text| text.parse().expect("a number"));
            bench.signed(user, secret - 1)
        } else {
            bench.fixed(user)
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

fn read_attributes(words: &Words<'_>, ask: &mut Ask) {
    ask.fingerprint = words.has("fingerprint");
    for &(key, value) in &words.0 {
        let number = || value.parse::<u32>().expect("a number").to_be_bytes().to_vec();
        let byte = || vec![value.parse::<u8>().expect("a byte"), 0, 0, 0];
        ask.attributes.push(match key {
            "peer" => {
                ask.peers.push(value.parse().expect("an address"));
                continue;
            }
            "channel" => {
                let mut bytes = from_hex(value.trim_start_matches("0x"));
                bytes.extend_from_slice(&[0, 0]);
                (attr::CHANNEL_NUMBER, bytes)
            }
            "transport" => (attr::REQUESTED_TRANSPORT, byte()),
            "family" => (attr::REQUESTED_ADDRESS_FAMILY, byte()),
            "lifetime" => (attr::LIFETIME, number()),
            "text" => (attr::DATA, payload(value)),
            "attr" => attribute(value),
            _ => continue,
        });
    }
}

/// Appends attributes behind everything else and corrects the length of the message.
fn append(mut message: Vec<u8>, attributes: impl Iterator<Item = (u16, Vec<u8>)>) -> Vec<u8> {
    for (kind, value) in attributes {
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&(value.len() as u16).to_be_bytes());
        message.extend_from_slice(&value);
        message.resize(message.len().next_multiple_of(4), 0);
    }
    let length = (message.len() - 20) as u16;
    message[2..4].copy_from_slice(&length.to_be_bytes());
    message
}

/// `KIND:HEX`, KIND as four hexadecimal digits.
fn attribute(text: &str) -> (u16, Vec<u8>) {
    let (kind, value) = text.split_once(':').expect("KIND:HEX");
    (u16::from_str_radix(kind, 16).expect("hexadecimal"), from_hex(value))
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(digits).collect()
}

/// The text itself, or so many bytes for `@NUMBER`.
fn payload(text: &str) -> Vec<u8> {
    match text.strip_prefix('@') {
        Some(bytes) => vec![b'x'; bytes.parse().expect("a number")],
        None => text.as_bytes().to_vec(),
    }
}

fn show(payload: &[u8]) -> String {
    match payload.len() {
        0..=40 => format!("{:?}", String::from_utf8_lossy(payload)),
        bytes => format!("@{bytes}"),
    }
}

/// A message to a client in words.
fn describe(bytes: &[u8], key: Option<&[u8; 16]>) -> String {
    if classify(bytes) == Kind::ChannelData {
        let message = ChannelData::parse(bytes).expect("ChannelData");
        return format!("channel {:#06x} {}", message.number, show(&bytes[message.payload]));
    }
    let message = Message::parse(bytes).expect("a message");
    let mut text = format!("{:?} {:?}", message.method(), message.class());
    let id = message.transaction_id();
    for attribute in message.attributes() {
        let value = attribute.value;
        let address = || parse_xor_address(value, &id).expect("an address");
        let word = match attribute.kind {
            attr::ERROR_CODE => {
                let code = u16::from(value[2]) * 100 + u16::from(value[3]);
                let phrase = String::from_utf8_lossy(&value[4..]).into_owned();
                if phrase.is_empty() { code.to_string() } else { format!("{code} {phrase:?}") }
            }
            attr::UNKNOWN_ATTRIBUTES => {
                let kinds = value.chunks(2).map(|kind| format!("{:02x}{:02x}", kind[0], kind[1]));
                format!("unknown={}", kinds.collect::<Vec<_>>().join(","))
            }
            attr::XOR_RELAYED_ADDRESS => format!("relayed={}", address()),
            attr::XOR_MAPPED_ADDRESS => format!("mapped={}", address()),
            attr::XOR_PEER_ADDRESS => format!("peer={}", address()),
            attr::DATA => show(value),
            attr::LIFETIME => {
                let secs: [u8; 4] = value.try_into().expect("4 bytes");
                format!("lifetime={}", u32::from_be_bytes(secs))
            }
            attr::REALM => format!("realm={}", String::from_utf8_lossy(value)),
            attr::NONCE => format!("nonce({})", value.len()),
            attr::MESSAGE_INTEGRITY => {
                let right = key.and_then(|key| message.integrity_ok(key));
                String::from(if right == Some(true) { "signed" } else { "WRONGLY SIGNED" })
            }
            attr::FINGERPRINT => {
                assert_eq!(message.fingerprint_ok(), Some(true));
                "fingerprint".to_owned()
            }
            other => format!("{other:04x}"),
        };
        write!(text, " {word}").expect("a string takes all");
    }
    if message.class() != Class::Indication {
        write!(text, " ({} bytes)", bytes.len()).expect("a string takes all");
    }
    text
}
