//! Clients over TCP and TLS (RFC 8656, section 3.1): a task for each, with an engine of its own
//! that has this one client, so no packet crosses threads but one to or from another allocation of
//! ours (`relay/hop.rs`).
//!
//! The straight line: `edge` accepts, ends TLS and calls [`Streams::serve`]; the framer finds the
//! messages; the engine decides, as for UDP; the payloads of one read leave through the
//! allocation's socket together, and what a batch of that socket brings gathers in an outbox of
//! bounded size, which is written at once. What a slow client has no room for waits in that socket,
//! and is lost when its receive buffer is full; nobody is held up. The allocation ends with the
//! connection.
//!
//! With a TCP allocation (RFC 6062) peers come and are connected in `peers.rs`; a connection whose
//! client binds one of these is a `splice.rs` from then on, and the framer is asked no more.

mod client;
mod connection;
mod outbox;
mod peers;
mod registry;
mod relays;
mod splice;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use tracing::debug;

use super::hop::Office;
use super::pace::{Pace, Rhythm};
use super::sys::{SocketOptions, sharpen_timers};
use super::worker::guard;
use crate::credentials::Entropy;
use crate::edge;
use crate::metrics::{Metrics, WorkerMetrics};
use crate::telemetry::Addr;
use crate::turn::{FiveTuple, Server, Shared, Transport};
use client::Client;
use connection::{Connection, End};
use outbox::Outbox;
pub(super) use registry::Registry;

/// What one connection may take; how many there may be is for the edge to say.
#[derive(Debug, Clone, Copy)]
pub struct StreamLimits {
    /// How long a connection without an allocation may say nothing.
    pub idle: Duration,
    /// How long a message may take from its first byte to its last.
    pub half_message: Duration,
    /// Bytes that may wait for a client to read them; what peers send beyond waits in the receive
    /// buffer of the relay socket. Of other allocations of ours about as many may wait for the
    /// client's task.
    pub write_queue_bytes: usize,
    /// Receive and send buffer of a TCP allocation's socket for one peer: what waits there for
    /// whoever reads slowly, or for the client to bind the connection (RFC 6062).
    pub tcp_buffer_bytes: usize,
    /// How long a data connection may carry nothing.
    pub tcp_idle: Duration,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(30),
            half_message: Duration::from_secs(10),
            write_queue_bytes: 256 * 1024,
            tcp_buffer_bytes: 256 * 1024,
            tcp_idle: Duration::from_secs(3600),
        }
    }
}

/// Serves the clients of a relay that come over TCP and TLS.
pub struct Streams {
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) registry: Arc<Registry>,
    pub(super) office: Arc<Office>,
    pub(super) limits: StreamLimits,
    pub(super) relay_socket: SocketOptions,
    pub(super) entropy: Mutex<Entropy>,
    /// Counters that nobody writes to now. They are counted on by the next connection, so that
    /// there are as many as there were connections at a time.
    pub(super) spare_metrics: Mutex<Vec<Arc<WorkerMetrics>>>,
}

/// Counters with one writer, for as long as one connection lasts.
struct Lease {
    metrics: Arc<WorkerMetrics>,
    streams: Arc<Streams>,
}

impl Streams {
    /// Serves one client until its connection, or the relay, ends.
    pub async fn serve(self: Arc<Self>, stream: edge::Stream, peer: edge::Peer) {
        let Some(seat) = self.registry.join() else { return };
        let transport = if peer.tls { Transport::Tls } else { Transport::Tcp };
        let five_tuple = FiveTuple { transport, client: peer.remote, server: peer.local };
        let lease = Lease::new(&self);
        let metrics = Arc::clone(&lease.metrics);
        let entropy = super::child(&mut lock(&self.entropy));
        let courier = self.office.stream(seat.place());
        let engine = Server::new(Arc::clone(&self.shared), Arc::clone(&metrics), entropy);
        let engine = engine.named(courier.engine());
        let outbox = Outbox::new(self.limits.write_queue_bytes, peer.tls);
        let client = Client::new(five_tuple, (engine, courier), outbox, lease, self.relay_socket);
        let mut connection = Connection::new(client, stream, seat, self.limits);
        let end = poll_fn(|cx| {
            // As in a worker; but only this client's allocation is lost.
            guard(&metrics, || connection.poll(cx)).unwrap_or(Poll::Ready(End::Panic))
        });
        let end = end.await;
        debug!(client = %Addr::from(peer.remote), why = %end, "connection ended");
        let mut stream = connection.into_stream();
        // The other end may be gone, or not listen; this is a courtesy of TLS.
        let _ = timeout(SHUTDOWN, stream.shutdown()).await;
    }

    /// What a thread of the runtime that serves streams has to do before it waits
    /// (`on_thread_park`): under load it pauses, so that packets gather.
    pub fn before_wait() {
        let pause = PACE.with_borrow_mut(|paced| {
            let pause = paced.pace.pause(Instant::now());
            paced.untold += u64::from(pause.is_some());
            pause
        });
        if let Some(pause) = pause {
            thread::sleep(pause);
        }
    }
}

/// The pace of one thread of the runtime.
struct Paced {
    pace: Pace,
    /// Pauses that are not counted yet.
    untold: u64,
}

impl Paced {
    /// For the thread that it is made in.
    fn new() -> Self {
        sharpen_timers();
        Self { pace: Pace::new(Rhythm::STREAMS, Instant::now()), untold: 0 }
    }
}

/// Notes on this thread what one read has brought. What nobody serves has no counters, so the
/// pauses before it are counted here.
fn received(packets: usize, metrics: &WorkerMetrics) {
    PACE.with_borrow_mut(|paced| {
        paced.pace.received(packets);
        if paced.untold > 0 {
            metrics.pauses.add(std::mem::take(&mut paced.untold));
        }
    });
}

thread_local! {
    static PACE: RefCell<Paced> = RefCell::new(Paced::new());
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Lease {
    fn new(streams: &Arc<Streams>) -> Self {
        let spare = lock(&streams.spare_metrics).pop();
        let metrics = spare.unwrap_or_else(|| streams.metrics.worker());
        streams.metrics.turn_connections.add(1);
        Self { metrics, streams: Arc::clone(streams) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.streams.metrics.turn_connections.add(-1);
        lock(&self.streams.spare_metrics).push(Arc::clone(&self.metrics));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long the end of a stream is waited for.
const SHUTDOWN: Duration = Duration::from_secs(1);
