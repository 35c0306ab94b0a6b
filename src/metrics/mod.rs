//! Every number that the daemon counts, with its reasons as closed enums.
//!
//! Two kinds: what a worker counts per packet lives in its own [`WorkerMetrics`], plain integers
//! that only the worker writes and that are summed when somebody scrapes; the rest are ordinary
//! counters and gauges, shared by the tasks of hub, web and edge.

mod heartbeat;
mod labels;

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

pub use heartbeat::{Heartbeat, Heartbeats};
pub use labels::{
    Code, Diagnosis, DropReason, Hello, Limit, Method, Path, ReceiveQueue, Refusal, Renewal,
    RunSwitch, Shortcut, Status,
};

/// A counter with one writer: adding costs a load and a store, no bus lock.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`. Only the owning worker may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The value, from any thread.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The packet and request counters of one worker.
#[derive(Debug)]
pub struct WorkerMetrics {
    requests: Vec<Count>,
    refused: Vec<Count>,
    drops: Vec<Count>,
    queue_drops: Vec<Count>,
    limits: Vec<Count>,
    shortcuts: Vec<Count>,
    /// Packets and bytes of payload relayed from clients to peers.
    pub to_peer: Traffic,
    /// Packets and bytes of payload relayed from peers to clients.
    pub to_client: Traffic,
    /// Datagrams that arrived in one piece.
    pub merged: Runs,
    /// Datagrams that left in one piece.
    pub segmented: Runs,
    /// Datagrams that left by themselves.
    pub sent_alone: Count,
    switches: Vec<Count>,
    /// Pauses of a thread under load, so that packets gather.
    pub pauses: Count,
    /// Allocations made since the start.
    pub allocations_created: Count,
    /// Allocations of this worker that live now.
    pub allocations: Gauge,
    /// Panics caught in this worker's loop; each is a bug.
    pub panics: Count,
}

/// Packets and bytes in one direction.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Datagrams.
    pub packets: Count,
    /// Bytes of payload, without STUN or ChannelData headers.
    pub bytes: Count,
}

impl Traffic {
    /// Counts one datagram.
    #[inline]
    pub fn add(&self, bytes: usize) {
        self.add_run(1, bytes);
    }

    /// Counts `packets` datagrams of `bytes` each.
    #[inline]
    pub fn add_run(&self, packets: usize, bytes: usize) {
        self.packets.add(packets as u64);
        self.bytes.add((packets * bytes) as u64);
    }
}

/// Runs of datagrams: what the kernel has merged, or what it is to cut.
#[derive(Debug, Default)]
pub struct Runs {
    /// System calls' messages.
    pub runs: Count,
    /// Datagrams in them.
    pub packets: Count,
}

impl Runs {
    /// Counts `runs` of so many `packets` together.
    #[inline]
    pub fn add(&self, runs: usize, packets: usize) {
        self.runs.add(runs as u64);
        self.packets.add(packets as u64);
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Sets the value.
    pub fn set(&self, n: i64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value now.
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for WorkerMetrics {
    fn default() -> Self {
        let counts = |n: usize| (0..n).map(|_| Count::default()).collect();
        Self {
            requests: counts(Method::ALL.len()),
            refused: counts(Method::ALL.len() * Code::ALL.len()),
            drops: counts(DropReason::ALL.len()),
            queue_drops: counts(ReceiveQueue::ALL.len()),
            limits: counts(Limit::ALL.len()),
            shortcuts: counts(Shortcut::ALL.len()),
            to_peer: Traffic::default(),
            to_client: Traffic::default(),
            merged: Runs::default(),
            segmented: Runs::default(),
            sent_alone: Count::default(),
            switches: counts(RunSwitch::ALL.len()),
            pauses: Count::default(),
            allocations_created: Count::default(),
            allocations: Gauge::default(),
            panics: Count::default(),
        }
    }
}

impl WorkerMetrics {
    /// Counts a request, whatever becomes of it.
    pub fn request(&self, method: Method) {
        self.requests[method as usize].add(1);
    }

    /// Counts a request that was answered by an error.
    pub fn refuse(&self, method: Method, code: Code) {
        self.refused[method as usize * Code::ALL.len() + code as usize].add(1);
    }

    /// Counts a packet that was dropped.
    #[inline]
    pub fn dropped(&self, reason: DropReason) {
        self.drops[reason as usize].add(1);
    }

    /// Counts `packets` that the kernel dropped in front of us.
    pub fn queue_dropped(&self, queue: ReceiveQueue, packets: u64) {
        self.queue_drops[queue as usize].add(packets);
    }

    /// Counts a limit that bit.
    pub fn limit(&self, limit: Limit) {
        self.limits[limit as usize].add(1);
    }

    /// Counts packets between two allocations of ours that no socket sees.
    #[inline]
    pub fn shortcut(&self, between: Shortcut, packets: usize) {
        self.shortcuts[between as usize].add(packets as u64);
    }

    /// Counts that it was decided so, so many `times`.
    pub fn switch(&self, switch: RunSwitch, times: usize) {
        self.switches[switch as usize].add(times as u64);
    }

    /// How often it was decided so.
    pub fn switches(&self, switch: RunSwitch) -> u64 {
        self.switches[switch as usize].value()
    }

    /// The requests of `method` so far.
    pub fn requests(&self, method: Method) -> u64 {
        self.requests[method as usize].value()
    }

    /// The refusals of `method` with `code` so far.
    pub fn refusals(&self, method: Method, code: Code) -> u64 {
        self.refused[method as usize * Code::ALL.len() + code as usize].value()
    }

    /// The packets dropped for `reason` so far.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].value()
    }

    /// The packets that went by a shortcut so far.
    pub fn shortcuts(&self, between: Shortcut) -> u64 {
        self.shortcuts[between as usize].value()
    }

    /// The packets that the kernel dropped at `queue` so far.
    pub fn queue_drops(&self, queue: ReceiveQueue) -> u64 {
        self.queue_drops[queue as usize].value()
    }

    /// How often `limit` bit so far.
    pub fn limits(&self, limit: Limit) -> u64 {
        self.limits[limit as usize].value()
    }
}

/// A family of shared counters, one for each value of a closed label.
#[derive(Debug)]
pub struct Counts(Vec<AtomicU64>);

impl Counts {
    fn new(values: usize) -> Self {
        Self((0..values).map(|_| AtomicU64::new(0)).collect())
    }

    fn add(&self, index: usize) {
        self.0[index].fetch_add(1, Ordering::Relaxed);
    }

    fn value(&self, index: usize) -> u64 {
        self.0[index].load(Ordering::Relaxed)
    }
}

/// All metrics of the process. Cheap to share; every method may be called from any thread.
#[derive(Debug)]
pub struct Metrics {
    workers: Mutex<Vec<Arc<WorkerMetrics>>>,
    limits: Counts,
    hellos: Counts,
    paths: Counts,
    responses: Counts,
    refusals: Counts,
    diagnoses: Counts,
    renewals: Counts,
    /// WebSockets that are open now.
    pub conns: Gauge,
    /// Rooms that exist now.
    pub rooms: Gauge,
    /// Broadcasters who are members now, lost sockets within their grace included.
    pub broadcasters: Gauge,
    /// Watchers who are members now, lost sockets within their grace included.
    pub watchers: Gauge,
    /// Grants that are alive now.
    pub grants: Gauge,
    /// TCP connections that are open now.
    pub connections: Gauge,
    /// Clients of the relay that are connected over TCP or TLS now.
    pub turn_connections: Gauge,
    /// Those of them that are data connections of TCP allocations (RFC 6062).
    pub data_connections: Gauge,
    /// Until when the certificate is good, in seconds since 1970; 0 without one.
    pub certificate_not_after: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            workers: Mutex::default(),
            limits: Counts::new(Limit::ALL.len()),
            hellos: Counts::new(Hello::ALL.len()),
            paths: Counts::new(Path::ALL.len()),
            responses: Counts::new(Status::ALL.len()),
            refusals: Counts::new(Refusal::ALL.len()),
            diagnoses: Counts::new(Diagnosis::ALL.len()),
            renewals: Counts::new(Renewal::ALL.len()),
            conns: Gauge::default(),
            rooms: Gauge::default(),
            broadcasters: Gauge::default(),
            watchers: Gauge::default(),
            grants: Gauge::default(),
            connections: Gauge::default(),
            turn_connections: Gauge::default(),
            data_connections: Gauge::default(),
            certificate_not_after: Gauge::default(),
        }
    }
}

impl Metrics {
    /// The counters of one more worker, from now on part of every sum.
    pub fn worker(&self) -> Arc<WorkerMetrics> {
        let worker = Arc::new(WorkerMetrics::default());
        self.lock_workers().push(Arc::clone(&worker));
        worker
    }

    /// Counts a limit that bit outside the relay.
    pub fn limit(&self, limit: Limit) {
        self.limits.add(limit as usize);
    }

    /// Counts what became of a `hello`.
    pub fn hello(&self, result: Hello) {
        self.hellos.add(result as usize);
    }

    /// Counts a path that a page reported.
    pub fn path(&self, path: Path) {
        self.paths.add(path as usize);
    }

    /// Counts an HTTP answer.
    pub fn response(&self, status: Status) {
        self.responses.add(status as usize);
    }

    /// Counts something that hub or web refused.
    pub fn refusal(&self, reason: Refusal) {
        self.refusals.add(reason as usize);
    }

    /// Counts what the doctor found of a URL.
    pub fn diagnosis(&self, diagnosis: Diagnosis) {
        self.diagnoses.add(diagnosis as usize);
    }

    /// Counts what became of an attempt at a new certificate.
    pub fn renewal(&self, result: Renewal) {
        self.renewals.add(result as usize);
    }

    /// How often `limit` bit, in the relay and outside.
    pub fn limits(&self, limit: Limit) -> u64 {
        self.limits.value(limit as usize) + self.sum(|worker| worker.limits(limit))
    }

    /// How often `reason` led to a refusal.
    pub fn refusals(&self, reason: Refusal) -> u64 {
        self.refusals.value(reason as usize)
    }

    /// The allocations that live now, on all workers.
    pub fn allocations(&self) -> i64 {
        self.lock_workers().iter().map(|worker| worker.allocations.value()).sum()
    }

    /// The text of `/metrics` in the OpenMetrics format.
    pub fn text(self: &Arc<Self>) -> String {
        let mut registry = Registry::with_prefix("turncast");
        registry.register_collector(Box::new(Scrape(Arc::clone(self))));
        let mut text = String::new();
        // Writing into a string fails only when a label's own encoding does, and ours are texts.
        match prometheus_client::encoding::text::encode(&mut text, &registry) {
            Ok(()) => text,
            Err(_) => String::from("# EOF\n"),
        }
    }

    fn sum(&self, of: impl Fn(&WorkerMetrics) -> u64) -> u64 {
        self.lock_workers().iter().map(|worker| of(worker)).sum()
    }

    fn lock_workers(&self) -> std::sync::MutexGuard<'_, Vec<Arc<WorkerMetrics>>> {
        match self.workers.lock() {
            Ok(workers) => workers,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

#[derive(Debug)]
struct Scrape(Arc<Metrics>);

impl Collector for Scrape {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        self.relay(&mut out)?;
        self.hub_and_web(&mut out)
    }
}

/// One series: its labels, and its value.
type Series<const N: usize> = ([(&'static str, &'static str); N], u64);

impl Scrape {
    fn relay(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let m = &self.0;
        let requests = Method::ALL
            .iter()
            .map(|&method| ([(Method::KEY, method.text())], m.sum(|w| w.requests(method))));
        counters(out, "turn_requests", "STUN and TURN requests received", requests)?;
        let refused = Method::ALL.iter().flat_map(|&method| {
            Code::ALL.iter().map(move |&code| {
                let labels = [(Method::KEY, method.text()), (Code::KEY, code.text())];
                (labels, m.sum(|w| w.refusals(method, code)))
            })
        });
        let refused = refused.filter(|(_, n)| *n > 0);
        counters(out, "turn_refused", "Requests answered by an error", refused)?;
        let drops = DropReason::ALL
            .iter()
            .map(|&reason| ([(DropReason::KEY, reason.text())], m.sum(|w| w.drops(reason))));
        counters(out, "turn_dropped", "Packets dropped without an answer", drops)?;
        let lost = ReceiveQueue::ALL
            .iter()
            .map(|&queue| ([(ReceiveQueue::KEY, queue.text())], m.sum(|w| w.queue_drops(queue))));
        let help = "Packets that the kernel dropped before the relay read them";
        counters(out, "receive_queue_drops", help, lost)?;
        let direction = |text| [("direction", text)];
        let packets = [
            (direction("to_peer"), m.sum(|w| w.to_peer.packets.value())),
            (direction("to_client"), m.sum(|w| w.to_client.packets.value())),
        ];
        counters(out, "relayed_packets", "Datagrams relayed", packets.into_iter())?;
        let bytes = [
            (direction("to_peer"), m.sum(|w| w.to_peer.bytes.value())),
            (direction("to_client"), m.sum(|w| w.to_client.bytes.value())),
        ];
        counters(out, "relayed_bytes", "Bytes of payload relayed", bytes.into_iter())?;
        let shortcuts = Shortcut::ALL
            .iter()
            .map(|&between| ([(Shortcut::KEY, between.text())], m.sum(|w| w.shortcuts(between))));
        let help = "Datagrams between allocations of this relay, by no socket";
        counters(out, "shortcut_packets", help, shortcuts)?;
        self.runs(out)?;
        let created = m.sum(|w| w.allocations_created.value());
        counter(out, "allocations_created", "Allocations made since the start", created)?;
        gauge(out, "allocations", "Allocations that live now", m.allocations())?;
        counter(out, "panics", "Panics caught; each is a bug", m.sum(|w| w.panics.value()))
    }

    /// How datagrams come and go: merged and segmented, or by themselves.
    fn runs(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let m = &self.0;
        let run = |text| [("run", text)];
        let runs = [
            (run("merged"), m.sum(|w| w.merged.runs.value())),
            (run("segmented"), m.sum(|w| w.segmented.runs.value())),
        ];
        let help = "Receives that brought several datagrams, sends that took several";
        counters(out, "udp_runs", help, runs.into_iter())?;
        let packets = [
            (run("merged"), m.sum(|w| w.merged.packets.value())),
            (run("segmented"), m.sum(|w| w.segmented.packets.value())),
        ];
        counters(out, "udp_run_packets", "Datagrams in such runs", packets.into_iter())?;
        let alone = m.sum(|w| w.sent_alone.value());
        counter(out, "udp_sent_alone", "Datagrams that left by themselves", alone)?;
        let switches = RunSwitch::ALL
            .iter()
            .map(|&switch| ([(RunSwitch::KEY, switch.text())], m.sum(|w| w.switches(switch))));
        counters(out, "udp_run_switches", "Decisions about runs, of one socket each", switches)?;
        let pauses = m.sum(|w| w.pauses.value());
        counter(out, "relay_pauses", "Pauses under load that let packets gather", pauses)
    }

    fn hub_and_web(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let m = &self.0;
        let limits =
            Limit::ALL.iter().map(|&limit| ([(Limit::KEY, limit.text())], m.limits(limit)));
        counters(out, "limit_hits", "How often each limit bit", limits)?;
        let one = |key, text, counts: &Counts, index| ([(key, text)], counts.value(index));
        let hellos = Hello::ALL.iter().map(|&v| one(Hello::KEY, v.text(), &m.hellos, v as usize));
        counters(out, "hellos", "What became of each hello", hellos)?;
        let paths = Path::ALL.iter().map(|&v| one(Path::KEY, v.text(), &m.paths, v as usize));
        counters(out, "link_reports", "Paths of links as the pages report them", paths)?;
        let responses =
            Status::ALL.iter().map(|&v| one(Status::KEY, v.text(), &m.responses, v as usize));
        counters(out, "http_responses", "HTTP answers", responses)?;
        let refusals =
            Refusal::ALL.iter().map(|&v| one(Refusal::KEY, v.text(), &m.refusals, v as usize));
        counters(out, "refusals", "Requests and messages refused", refusals)?;
        let diagnoses =
            Diagnosis::ALL.iter().map(|&v| one(Diagnosis::KEY, v.text(), &m.diagnoses, v as usize));
        counters(out, "doctor_urls", "What the doctor found of the URLs at start", diagnoses)?;
        let renewals =
            Renewal::ALL.iter().map(|&v| one(Renewal::KEY, v.text(), &m.renewals, v as usize));
        counters(out, "certificate_renewals", "Attempts at a new certificate", renewals)?;
        let not_after = m.certificate_not_after.value();
        if not_after > 0 {
            let help = "Until when the certificate is good";
            gauge(out, "certificate_not_after_seconds", help, not_after)?;
        }
        gauge(out, "conns", "WebSockets open now", m.conns.value())?;
        gauge(out, "connections", "TCP connections open now", m.connections.value())?;
        let of_relay = m.turn_connections.value();
        gauge(out, "turn_connections", "Clients of the relay over TCP and TLS now", of_relay)?;
        let bound = m.data_connections.value();
        gauge(out, "data_connections", "Data connections of TCP allocations now", bound)?;
        gauge(out, "rooms", "Rooms that exist now", m.rooms.value())?;
        gauge(out, "broadcasters", "Broadcasters who are members now", m.broadcasters.value())?;
        gauge(out, "watchers", "Watchers who are members now", m.watchers.value())?;
        gauge(out, "grants", "Hub credentials' grants alive now", m.grants.value())
    }
}

fn counters<const N: usize>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl Iterator<Item = Series<N>>,
) -> fmt::Result {
    let kind = ConstCounter::new(0u64).metric_type();
    let mut family = out.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in series {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn counter(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = ConstCounter::new(value);
    metric.encode(out.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn gauge(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: i64) -> fmt::Result {
    let metric = ConstGauge::new(value);
    metric.encode(out.encode_descriptor(name, help, None, metric.metric_type())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_summed_and_reasons_are_labels() {
        let metrics = Arc::new(Metrics::default());
        let (one, two) = (metrics.worker(), metrics.worker());
        one.dropped(DropReason::NoPermission);
        one.pauses.add(2);
        two.pauses.add(3);
        two.dropped(DropReason::NoPermission);
        one.refuse(Method::Allocate, Code::QuotaReached);
        two.to_peer.add(1200);
        two.allocations.add(3);
        metrics.limit(Limit::Viewers);
        let text = metrics.text();
        for line in [
            "turncast_turn_dropped_total{reason=\"no_permission\"} 2",
            "turncast_turn_refused_total{method=\"allocate\",code=\"486\"} 1",
            "turncast_relayed_bytes_total{direction=\"to_peer\"} 1200",
            "turncast_allocations 3",
            "turncast_relay_pauses_total 5",
            "turncast_limit_hits_total{limit=\"viewers\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
