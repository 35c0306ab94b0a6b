//! Replays `src/turn/transcripts/*.txt`: text in, text out. `UPDATE=1` rewrites the texts.
//!
//! A transcript is read line by line:
//! ```text
//! # what it shows, with the section of the RFC
//! config KEY=VALUE ...            before anything else
//! client NAME ADDRESS:PORT
//! grant NAME room=ROOM [reach=IP]...
//! > NAME METHOD [KEY=VALUE]...    a request or indication; see `requests`
//! > NAME channel NUMBER [TEXT]    ChannelData
//! > NAME raw HEX
//! > peer ADDRESS to NAME TEXT     a datagram on NAME's relayed address
//! > peer6 ADDRESS to NAME TEXT    on the IPv6 one of a dual allocation
//! > icmp PEER to NAME TYPE CODE DATA   an ICMP error about a datagram from there to PEER
//! > bound RESULT                  what became of the last bind, when `config bind=manual`
//! > ... about connections         see `tcp`
//! > wait SECS, > sweep, > revoke GRANT, > close, > release
//! > host ADDRESSES               those of this host from now on; > judge ends their permissions
//! < what the engine did           written by the test
//! + what it counted               written by the test
//! ```

mod configure;
mod log;
mod requests;
mod steps;
mod tcp;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::bench::{Bench, five_tuple, options};
use super::words::Words;
use crate::metrics::{Code, DropReason, Limit, Method as Label};
use crate::turn::reject::Why;
use crate::turn::{FiveTuple, Options, RelayId, Transport};

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
    Limit::TcpConnections,
    Limit::TcpConnectionsPerAllocation,
    Limit::TcpPendingPerAllocation,
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
    connections: tcp::Connections,
}

struct Client {
    five_tuple: FiveTuple,
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
            connections: tcp::Connections::default(),
        };
        let mut out = String::new();
        for line in text.lines().filter(|line| !line.starts_with(['<', '+'])) {
            writeln!(out, "{line}").expect("a string takes all");
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [] | ["#", ..] => {}
                ["config", ref rest @ ..] => script.configure(&Words::parse(rest)),
                ["client", name, address, ref scheme @ ..] => {
                    let mut five_tuple = five_tuple(address.parse().expect("an address"));
                    let said = |transport: &Transport| scheme == [transport.scheme()];
                    let transport = Transport::ALL.into_iter().find(said);
                    five_tuple.transport = transport.unwrap_or(Transport::Udp);
                    let client = Client { five_tuple, key: None, last: Vec::new() };
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
