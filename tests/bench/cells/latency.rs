//! How much later a packet arrives, at a steady rate of 50 clients together.

use std::time::{Duration, Instant};

use super::packets::{clients, frame, peer};
use super::{Cell, Runner, Sample};
use crate::client::Client;
use crate::forwarder::HEADER;
use crate::load::{Shape, Sinks, Source, Sources};
use crate::report::Goal;
use crate::target::{Target, Transport};

const TARGETS: &[&str] = &["turncast", "coturn", "epoll", "mmsg", "server"];
const CLIENTS: usize = 50;
/// After so long without an arrival everything under way counts as lost.
const STALL: Duration = Duration::from_millis(200);

/// Between the packets of each: a quarter of what a worker pauses from on, three quarters of it,
/// and half as much again.
const INTERVALS: [(&str, Duration); 3] = [
    ("20 kpps", Duration::from_micros(50)),
    ("60 kpps", Duration::from_nanos(16_667)),
    ("120 kpps", Duration::from_nanos(8_333)),
];

pub(super) fn cells() -> Vec<Cell> {
    let references = &["epoll", "mmsg"];
    let cell = |(rate, interval)| {
        let name = format!("latency 1200 B at {rate}");
        Cell::new(name, TARGETS, move |target: &Target| prepare(target, interval))
    };
    let [calm, lively, busy] = INTERVALS.map(cell);
    vec![
        calm.goal(Goal::within("p50 us", references, 1.0, 15.0))
            .goal(Goal::within("p99 us", references, 2.0, 0.0))
            .quick(),
        lively.goal(Goal::within("p50 us", references, 1.0, 15.0)),
        // A pause, and what has gathered in it.
        busy.goal(Goal::within("p50 us", references, 1.0, 100.0)),
    ]
}

fn prepare(target: &Target, interval: Duration) -> Runner {
    let (socket, address) = peer();
    let clients = clients(target, Transport::Udp, CLIENTS, (&socket, address));
    let source = |client: &Client| Source::connected(client.datagrams(), frame(1200));
    let shape = Shape { burst: 1, merged: false };
    let mut sources = Sources::new(clients.iter().map(source).collect(), shape);
    let mut sinks = Sinks::new([&socket].into_iter(), 1200);
    Box::new(move |target, length| {
        let _kept = &clients;
        paced(&mut sources, &mut sinks, length / 5, interval);
        let before = target.cpu();
        // One in a hundred is what counts, so many are needed.
        let (sent, mut nanos) = paced(&mut sources, &mut sinks, 2 * length, interval);
        let cpu = target.cpu().saturating_sub(before);
        nanos.sort_unstable();
        let at = |share: f64| {
            let index = (nanos.len() as f64 * share) as usize;
            nanos.get(index).map_or(f64::INFINITY, |nanos| *nanos as f64 / 1e3)
        };
        let lost = sent.saturating_sub(nanos.len() as u64);
        Sample::from([
            ("p50 us", at(0.5)),
            ("p90 us", at(0.9)),
            ("p99 us", at(0.99)),
            (super::COST, cpu.as_secs_f64() * 1e6 / nanos.len().max(1) as f64),
            ("lost %", 100.0 * lost as f64 / sent.max(1) as f64),
        ])
    })
}

/// Sends on time, each packet with the time in it; how many, and how long each took.
fn paced(
    sources: &mut Sources,
    sinks: &mut Sinks,
    length: Duration,
    interval: Duration,
) -> (u64, Vec<u64>) {
    let start = Instant::now();
    let since_start = || start.elapsed().as_nanos() as u64;
    let mut nanos = Vec::with_capacity(1 << 16);
    let mut sent = 0u64;
    let mut take = |nanos: &mut Vec<u64>| {
        sinks.take(|arrived| {
            let head = arrived.head.first_chunk().copied().unwrap_or_default();
            let took = since_start().saturating_sub(u64::from_le_bytes(head));
            // In a merged piece the first is the oldest: the others took no longer.
            nanos.extend(std::iter::repeat_n(took, arrived.packets));
        })
    };
    let mut due = Duration::ZERO;
    while due < length {
        if start.elapsed() >= due {
            sources.mark_next(HEADER, since_start().to_le_bytes());
            sent += sources.send_next() as u64;
            due += interval;
        }
        take(&mut nanos);
    }
    // A server that waits for its core on a busy machine has lost nothing.
    let mut progress = Instant::now();
    while (nanos.len() as u64) < sent && progress.elapsed() < STALL {
        if take(&mut nanos) > 0 {
            progress = Instant::now();
        }
    }
    (sent, nanos)
}
