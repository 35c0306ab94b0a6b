//! Instructions instead of time: how many our own code executes for a packet or a request. The
//! kernel's are not among them, and the figure is the same on a busy machine.
//!
//! Valgrind counts a whole run of the daemon, set-up and all. So each load runs twice, with few and
//! with many units, and the difference is theirs alone.

use std::collections::BTreeMap;
use std::net::UdpSocket;

use crate::cells::packets;
use crate::client::{self, Client};
use crate::forwarder::HEADER;
use crate::load::{Shape, Sinks, Source, Sources};
use crate::process::Cores;
use crate::target::{Target, Transport};
use crate::wire::{self, Out};

/// Instructions by function, without those that it calls.
type Counts = BTreeMap<String, i64>;

/// What is counted, and how it is brought to the server so many times.
type Load = (&'static str, fn(&Target, u64));

/// Prints a line and the most expensive functions for each load.
pub(crate) fn run(cores: Cores) {
    let loads: [Load; 5] = [
        ("ChannelData 1200 B x 50, to the peer", up),
        ("ChannelData 1200 B x 50, to the client", down),
        ("ChannelData 1200 B x 50, client to client", across),
        ("Binding", binding),
        ("Allocate, 401, Allocate, Refresh 0", allocation),
    ];
    for (name, load) in loads {
        let [few, many] = [UNITS, 3 * UNITS].map(|units| {
            let (target, profile) = Target::under_valgrind(cores);
            load(&target, units);
            target.end();
            counts(&std::fs::read_to_string(profile.path()).expect("a profile"))
        });
        let units = 2.0 * UNITS as f64;
        let mut each: Vec<(f64, &String)> = many
            .iter()
            .map(|(name, count)| ((count - few.get(name).unwrap_or(&0)) as f64 / units, name))
            .collect();
        each.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        let total: f64 = each.iter().map(|(count, _)| count).sum();
        println!("\n{name}: {total:.0} instructions");
        for (count, function) in each.iter().take(15).filter(|(count, _)| *count >= 1.0) {
            let function: String = function.chars().take(90).collect();
            println!("{count:>10.1}  {function}");
        }
    }
}

/// Adds up the cost lines below each `fn=`. A line behind `calls=` is the cost of what is called,
/// which has lines of its own.
fn counts(profile: &str) -> Counts {
    let mut counts = Counts::new();
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut function, mut called) = ("", false);
    for line in profile.lines() {
        let known = ["fn=", "cfn="].iter().find_map(|key| line.strip_prefix(key));
        if let Some((id, name)) = known.and_then(|rest| rest.split_once(')')) {
            if !name.is_empty() {
                names.insert(id, name.trim());
            }
            if line.starts_with("fn=") {
                function = names.get(id).copied().unwrap_or("?");
            }
        } else if line.starts_with("calls=") {
            called = true;
        } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
            let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<i64>().ok());
            if !std::mem::take(&mut called) {
                *counts.entry(function.to_owned()).or_default() += cost.unwrap_or(0);
            }
        }
    }
    counts
}

fn up(target: &Target, units: u64) {
    let (socket, address) = packets::peer();
    let clients = packets::clients(target, Transport::Udp, CLIENTS, (&socket, address));
    let source = |client: &Client| Source::connected(client.datagrams(), packets::frame(1200));
    let sources = Sources::new(clients.iter().map(source).collect(), SINGLE);
    exchange(sources, Sinks::new([&socket].into_iter(), 1200), units);
}

fn down(target: &Target, units: u64) {
    let (socket, address) = packets::peer();
    let clients = packets::clients(target, Transport::Udp, CLIENTS, (&socket, address));
    let bytes = packets::frame(1200)[HEADER..].to_vec();
    let source = |client: &Client| Source::to(&socket, client.relayed, bytes.clone());
    let sources = Sources::new(clients.iter().map(source).collect(), SINGLE);
    let sinks = Sinks::new(clients.iter().map(Client::datagrams), 1200 + HEADER);
    exchange(sources, sinks, units);
}

fn across(target: &Target, units: u64) {
    let clients = packets::pairs(target, CLIENTS);
    let source = |client: &Client| Source::connected(client.datagrams(), packets::frame(1200));
    let sources = Sources::new(clients.iter().map(source).collect(), SINGLE);
    exchange(sources, Sinks::new(clients.iter().map(Client::datagrams), 1200 + HEADER), units);
}

fn binding(target: &Target, units: u64) {
    let clients: Vec<UdpSocket> = (0..CLIENTS).map(|_| client::socket(target.udp())).collect();
    let request = Out::request(wire::BINDING).0;
    let size = client::ask(&clients[0], &request).len();
    let source = |client: &UdpSocket| Source::connected(client, request.clone());
    let sources = Sources::new(clients.iter().map(source).collect(), SINGLE);
    exchange(sources, Sinks::new(clients.iter(), size), units);
}

fn allocation(target: &Target, units: u64) {
    for _ in 0..units {
        target.client(Transport::Udp).delete();
    }
}

/// So many, one batch after the other.
fn exchange(mut sources: Sources, mut sinks: Sinks, units: u64) {
    for _ in 0..units / BATCH {
        let sent: usize = (0..BATCH).map(|_| sources.send_next()).sum();
        let mut left = sent as u64;
        while left > 0 {
            left -= sinks.count();
        }
    }
}

const SINGLE: Shape = Shape { burst: 1, merged: false };
const CLIENTS: usize = 50;
const UNITS: u64 = 1920;
const BATCH: u64 = 32;
