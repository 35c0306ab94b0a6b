//! Three times as much as it can bear: what still gets through, and for whom.
//!
//! One core can send single packets hardly faster than a good server relays them. So the server
//! shares its core with some programs that compute all the time: the scheduler leaves it a fixed
//! part, and three times what it relays with that can be offered, in packets that nobody has
//! merged. What it could relay in its part follows from what a packet costs it when the load waits
//! for it. Fifty clients do so; another one sends two hundred packets a second, and somebody asks
//! for its address as often; neither repeats anything.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::packets::{clients, frame, peer};
use super::{Cell, Runner, Sample, WINDOW, drain, measure};
use crate::client::{self, Client};
use crate::load::{Shape, Sinks, Source, Sources};
use crate::report::Goal;
use crate::target::{Target, Transport};
use crate::wire::{self, Out};

const TARGETS: &[&str] = &["turncast", "coturn", "epoll", "mmsg", "segmented", "server"];
const CLIENTS: usize = 50;
const PAYLOAD: usize = 172;
const FACTOR: f64 = 3.0;
/// Programs that the server shares its core with.
const NEIGHBOURS: usize = 4;
/// Packets between two looks at what has arrived.
const ROUND: usize = 16;
/// Packets at the beginning, while nobody knows what the server can bear.
const FIRST: f64 = 2000.0;
/// How often its processor time is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// What the quiet one sends, and how often somebody asks.
const QUIET_PER_SEC: f64 = 200.0;
const ASKED_PER_SEC: f64 = 200.0;

pub(super) fn cell() -> Cell {
    Cell::new("overload 172 B", TARGETS, prepare)
        .goal(Goal::least("delivered %", 60.0))
        .goal(Goal::least("answered %", 10.0))
        .goal(Goal::least("poorest %", 50.0))
        .goal(Goal::told("quiet one %"))
        .goal(Goal::least("offered x", 2.5))
        .quick()
}

/// Everybody who takes part.
struct Crowd {
    _clients: Vec<Client>,
    loud: Sources,
    quiet: Sources,
    asker: UdpSocket,
    request: Vec<u8>,
    sinks: Sinks,
    /// The port of the quiet one's relayed address.
    quiet_port: u16,
}

/// What one overload brought.
#[derive(Default)]
struct Brought {
    offered: u64,
    arrived: u64,
    quiet_sent: u64,
    quiet_arrived: u64,
    asked: u64,
    answered: u64,
    /// From each of the relayed addresses of the loud ones, by its port.
    ports: Vec<u32>,
    /// What the server could have relayed of single packets at its best, in the time that it had.
    bearable: f64,
    cpu: Duration,
    elapsed: Duration,
}

fn prepare(target: &Target) -> Runner {
    let (socket, address) = peer();
    let clients = clients(target, Transport::Udp, CLIENTS + 1, (&socket, address));
    let source = |client: &Client| Source::connected(client.datagrams(), frame(PAYLOAD));
    let alone = Shape { burst: 1, merged: false };
    let loud = Sources::new(clients[1..].iter().map(source).collect(), alone);
    let quiet = Sources::new(vec![source(&clients[0])], alone);
    let asker = client::socket(target.udp());
    asker.set_nonblocking(true).expect("a socket that does not block");
    let (sinks, request) =
        (Sinks::new([&socket].into_iter(), PAYLOAD), Out::request(wire::BINDING).0);
    let quiet_port = clients[0].relayed.port();
    let mut crowd = Crowd { _clients: clients, loud, quiet, asker, request, sinks, quiet_port };
    Box::new(move |target, length| crowd.run(target, length))
}

impl Crowd {
    fn run(&mut self, target: &Target, length: Duration) -> Sample {
        let Self { loud, sinks, .. } = self;
        let best = measure(target, length, WINDOW, || loud.send_next(), || sinks.count());
        let (cost, rate) = (best[0].1 / 1e6, best[1].1 * 1e3);
        // Of a server whose process is not known there is the rate alone.
        let neighbours = if cost > 0.0 { NEIGHBOURS } else { 0 };
        let neighbours: Vec<_> = (0..neighbours).map(|_| target.neighbour()).collect();
        let bearable = |cpu: Duration, elapsed: Duration| {
            if cost > 0.0 { cpu.as_secs_f64() / cost } else { elapsed.as_secs_f64() * rate }
        };
        // Until the queues are full.
        self.overload(target, length / 5, bearable);
        let brought = self.overload(target, length, bearable);
        drop(neighbours);
        drain(&mut || self.sinks.count());
        while self.asker.recv(&mut [0; 64]).is_ok() {}
        let shares = || brought.ports.iter().filter(|packets| **packets > 0);
        let fair = f64::from(shares().sum::<u32>()) / CLIENTS as f64;
        let served = shares().count() == CLIENTS;
        let poorest = if served { shares().min().copied().unwrap_or(0) } else { 0 };
        let of = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        let Brought { bearable: top, elapsed, .. } = brought;
        Sample::from([
            ("delivered %", 100.0 * brought.arrived as f64 / top),
            ("top k/s", top / elapsed.as_secs_f64() / 1e3),
            ("offered x", brought.offered as f64 / top),
            ("answered %", of(brought.answered, brought.asked)),
            ("poorest %", 100.0 * f64::from(poorest) / fair),
            ("quiet one %", of(brought.quiet_arrived, brought.quiet_sent)),
            ("server busy %", 100.0 * brought.cpu.as_secs_f64() / elapsed.as_secs_f64()),
        ])
    }

    /// Offers so many times what the server could bear of late: `bearable` says how much that is
    /// for so much processor time and for so long.
    fn overload(
        &mut self,
        target: &Target,
        length: Duration,
        bearable: impl Fn(Duration, Duration) -> f64,
    ) -> Brought {
        let mut brought = Brought { ports: vec![0; 1 << 16], ..Brought::default() };
        let (start, before) = (Instant::now(), target.cpu());
        let mut looked = Duration::ZERO;
        loop {
            let elapsed = start.elapsed();
            if elapsed >= looked + LOOK || elapsed >= length {
                looked = elapsed;
                brought.cpu = target.cpu().saturating_sub(before);
                brought.bearable = bearable(brought.cpu, elapsed);
            }
            if elapsed >= length {
                brought.elapsed = elapsed;
                return brought;
            }
            for _ in 0..ROUND {
                if (brought.offered as f64) < FIRST + FACTOR * brought.bearable {
                    brought.offered += self.loud.send_next() as u64;
                }
            }
            let due = |per_sec: f64| (elapsed.as_secs_f64() * per_sec) as u64;
            if brought.quiet_sent < due(QUIET_PER_SEC) {
                brought.quiet_sent += self.quiet.send_next() as u64;
            }
            if brought.asked < due(ASKED_PER_SEC) {
                brought.asked += 1;
                // What cannot be sent is not answered.
                let _ = self.asker.send(&self.request);
            }
            if self.asker.recv(&mut [0; 64]).is_ok() {
                brought.answered += 1;
            }
            let quiet_port = self.quiet_port;
            let Brought { quiet_arrived, ports, .. } = &mut brought;
            brought.arrived += self.sinks.take(|arrived| {
                let port = arrived.from.map_or(0, |from| from.port());
                if port == quiet_port {
                    *quiet_arrived += arrived.packets as u64;
                } else {
                    ports[usize::from(port)] += arrived.packets as u32;
                }
            });
        }
    }
}
