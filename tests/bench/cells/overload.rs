//! Three times as much as it can bear: what still gets through, and for whom.
//!
//! Fifty clients send bursts that the kernel cuts into single packets for a server that does not
//! take them merged, so one core can offer enough. Another client sends a thousand packets a
//! second, and somebody asks for its address a hundred times a second; neither repeats anything.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::packets::{clients, frame, peer};
use super::{Cell, Runner, Sample, WINDOW, drain};
use crate::client::{self, Client};
use crate::load::{Shape, Sinks, Source, Sources, closed_loop};
use crate::report::Goal;
use crate::target::{Target, Transport};
use crate::wire::{self, Out};

const TARGETS: &[&str] = &["turncast", "coturn", "epoll", "mmsg", "segmented", "server"];
const CLIENTS: usize = 50;
const PAYLOAD: usize = 172;
const FACTOR: f64 = 3.0;

pub(super) fn cell() -> Cell {
    Cell::new("overload 172 B", TARGETS, prepare)
        .goal(Goal::least("delivered %", 60.0))
        .goal(Goal::least("answered %", 1.0))
        .goal(Goal::least("poorest %", 50.0))
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
    elapsed: f64,
}

fn prepare(target: &Target) -> Runner {
    let (socket, address) = peer();
    let clients = clients(target, Transport::Udp, CLIENTS + 1, (&socket, address));
    let source = |client: &Client| Source::connected(client.datagrams(), frame(PAYLOAD));
    let merged = Shape { burst: 16, merged: true };
    let alone = Shape { burst: 1, merged: false };
    let loud = Sources::new(clients[1..].iter().map(source).collect(), merged);
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
        let top = closed_loop(WINDOW, length, || loud.send_next(), || sinks.count());
        let top = top.arrived as f64 / top.elapsed.as_secs_f64();
        drain(&mut || self.sinks.count());
        let mut ports = vec![0u32; 1 << 16];
        let before = target.cpu();
        let brought = self.overload(FACTOR * top, length, &mut ports);
        let cpu = target.cpu().saturating_sub(before);
        drain(&mut || self.sinks.count());
        while self.asker.recv(&mut [0; 64]).is_ok() {}
        ports[usize::from(self.quiet_port)] = 0;
        let shares = || ports.iter().filter(|packets| **packets > 0);
        let fair = f64::from(shares().sum::<u32>()) / CLIENTS as f64;
        let served = shares().count() == CLIENTS;
        let poorest = if served { shares().min().copied().unwrap_or(0) } else { 0 };
        let of = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        let per_sec = |packets: u64| packets as f64 / brought.elapsed;
        Sample::from([
            ("delivered %", 100.0 * per_sec(brought.arrived) / top),
            ("top k/s", top / 1e3),
            ("offered x", per_sec(brought.offered) / top),
            ("answered %", of(brought.answered, brought.asked)),
            ("poorest %", 100.0 * f64::from(poorest) / fair),
            ("quiet one %", of(brought.quiet_arrived, brought.quiet_sent)),
            ("server busy %", 100.0 * cpu.as_secs_f64() / brought.elapsed),
        ])
    }

    fn overload(&mut self, rate: f64, length: Duration, ports: &mut [u32]) -> Brought {
        let mut brought = Brought::default();
        let start = Instant::now();
        loop {
            let elapsed = start.elapsed();
            if elapsed >= length {
                brought.elapsed = elapsed.as_secs_f64();
                return brought;
            }
            let due = |per_sec: f64| (elapsed.as_secs_f64() * per_sec) as u64;
            for _ in 0..4 {
                if brought.offered < due(rate) {
                    brought.offered += self.loud.send_next() as u64;
                }
            }
            if brought.quiet_sent < due(1000.0) {
                brought.quiet_sent += self.quiet.send_next() as u64;
            }
            if brought.asked < due(100.0) {
                brought.asked += 1;
                // What cannot be sent is not answered.
                let _ = self.asker.send(&self.request);
            }
            if self.asker.recv(&mut [0; 64]).is_ok() {
                brought.answered += 1;
            }
            let quiet_port = self.quiet_port;
            let quiet = &mut brought.quiet_arrived;
            brought.arrived += self.sinks.take(|arrived| {
                let port = arrived.from.map_or(0, |from| from.port());
                ports[usize::from(port)] += arrived.packets as u32;
                if port == quiet_port {
                    *quiet += arrived.packets as u64;
                }
            });
        }
    }
}
