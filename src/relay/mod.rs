//! The relay's threads: worker loops with batched UDP around the engine of [`turn`](crate::turn).
//!
//! Each worker is a plain thread with its own listeners (`SO_REUSEPORT`), its own engine and its
//! own sockets of allocations. What spans workers is [`turn::Shared`](crate::turn::Shared). Only a
//! packet from one allocation of ours to another crosses threads, see `hop.rs`; for all else other
//! threads reach the workers by a [`Handle`].
//! The straight line of a packet is in `worker.rs`; system calls are in `sys/`, the only place
//! with `unsafe`. Clients over TCP and TLS are tasks of their own, see `stream/`.
//!
//! Datagrams that come in runs are received, decided about and sent as runs, in one piece each:
//! `outbound.rs` says what belongs together, `sys/send.rs` how it leaves, [`Features`] whether the
//! kernel knows how.

mod hop;
mod listen;
mod outbound;
mod pace;
mod share;
mod shared;
mod stream;
mod sys;
mod udp;
mod worker;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hop::{Courier, Office};
use listen::Listeners;
pub use shared::Handle;
use shared::Inbox;
use stream::Registry;
pub use stream::{StreamLimits, Streams};
pub use sys::{Features, raise_descriptor_limit};
use sys::{SocketOptions, can_set_dont_fragment, cut_buffers};
use udp::Sockets;
use worker::Worker;

use crate::credentials::Entropy;
use crate::metrics::{Heartbeats, Metrics};
use crate::turn::{Server, Shared};

/// How a relay listens and how many threads it has. Plain data, filled by `daemon`.
#[derive(Debug, Clone)]
pub struct Options {
    /// UDP addresses that clients send to; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Threads; at least one is started.
    pub workers: usize,
    /// Receive and send buffer of a listener, which all clients of a worker share. The kernel cuts
    /// it to `net.core.rmem_max` and `net.core.wmem_max`.
    pub client_buffer_bytes: usize,
    /// Receive and send buffer of one allocation's socket.
    pub relay_buffer_bytes: usize,
    /// What one client over TCP or TLS may take.
    pub streams: StreamLimits,
    /// What of newer kernels is made use of, where it is there.
    pub features: Features,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            workers: 1,
            client_buffer_bytes: 4 << 20,
            relay_buffer_bytes: 1 << 20,
            streams: StreamLimits::default(),
            features: Features::ALL,
        }
    }
}

impl Options {
    /// What sockets that clients send to are made with.
    const fn of_clients(&self) -> SocketOptions {
        SocketOptions { buffer_bytes: self.client_buffer_bytes, features: self.features }
    }

    /// What sockets of allocations are made with.
    const fn of_relays(&self) -> SocketOptions {
        SocketOptions { buffer_bytes: self.relay_buffer_bytes, features: self.features }
    }
}

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else has the port.
    #[error(
        "bind udp://{address}: Address already in use; \
         is another turncast or TURN server running? `ss -lunp` shows who has the port"
    )]
    InUse {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// A listener could not be bound for another reason.
    #[error("bind udp://{address}{}", crate::net::port_hint(*address, source))]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system call said.
        #[source]
        source: std::io::Error,
    },
    /// A worker could not be set up.
    #[error("start relay worker {worker}")]
    Worker {
        /// Which one, from 0.
        worker: usize,
        /// What the system call said.
        #[source]
        source: std::io::Error,
    },
}

/// A running relay. Dropping it tells workers and connections to end; [`Relay::stop`] also waits
/// for them.
#[derive(Debug)]
pub struct Relay {
    handle: Handle,
    addresses: Vec<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
    streams: Arc<Streams>,
    /// Disconnected once no worker and no connection is left.
    workers_left: Receiver<Infallible>,
}

impl Relay {
    /// Binds every listener, then starts the workers. `entropy` seeds one generator for each.
    ///
    /// # Errors
    /// An [`Error`] that names the address; nothing is left running then.
    pub fn start(
        mut options: Options,
        shared: Arc<Shared>,
        metrics: &Arc<Metrics>,
        heartbeats: &Heartbeats,
        entropy: &mut Entropy,
    ) -> Result<Self, Error> {
        options.features = options.features.available();
        let relay_socket = options.of_relays();
        let Listeners { addresses, per_worker } = Listeners::bind(&options)?;
        if let Some((socket, _)) = per_worker.iter().flatten().next()
            && let Some(settings) = cut_buffers(socket, options.client_buffer_bytes)
        {
            let why = format!("run: sysctl -w {settings}");
            tracing::warn!(why, "the kernel cuts the buffers of sockets, so bursts lose packets");
        }
        let mut inboxes = Vec::with_capacity(per_worker.len());
        let mut sockets = Vec::with_capacity(per_worker.len());
        for (worker, listeners) in per_worker.into_iter().enumerate() {
            let failed = |source| Error::Worker { worker, source };
            let inbox = Arc::new(Inbox::new().map_err(failed)?);
            let watched = Sockets::new(inbox.wake.as_fd(), listeners, relay_socket);
            sockets.push((watched.map_err(failed)?, Arc::clone(&inbox)));
            inboxes.push(inbox);
        }
        let (alive, workers_left) = channel();
        let registry = Arc::new(Registry::new(alive.clone()));
        let office = Office::new(&inboxes, options.streams.write_queue_bytes);
        let handle = Handle::new(inboxes, Arc::clone(&registry));
        let streams = Arc::new(Streams {
            shared: Arc::clone(&shared),
            metrics: Arc::clone(metrics),
            registry,
            office: Arc::clone(&office),
            limits: options.streams,
            relay_socket,
            entropy: Mutex::new(child(entropy)),
            spare_metrics: Mutex::default(),
        });
        let mut relay = Self { handle, addresses, threads: Vec::new(), streams, workers_left };
        for (index, (sockets, inbox)) in sockets.into_iter().enumerate() {
            let name = format!("relay-{index}");
            let seed = Seed {
                sockets,
                inbox,
                courier: office.worker(index),
                heartbeat: heartbeats.add(name.clone(), Instant::now()),
                metrics: metrics.worker(),
                shared: Arc::clone(&shared),
                entropy: child(entropy),
                alive: alive.clone(),
            };
            let thread = std::thread::Builder::new().name(name).spawn(move || seed.grow());
            let failed = |source| Error::Worker { worker: index, source };
            relay.threads.push(thread.map_err(failed)?);
        }
        Ok(relay)
    }

    /// Whether the kernel sends datagrams of IPv4 with the DF bit when it is asked to: what
    /// [`Options::dont_fragment`](crate::turn::Options::dont_fragment) wants to know.
    pub fn can_set_dont_fragment() -> bool {
        can_set_dont_fragment()
    }

    /// What is listened on, with real ports, in the order of the options.
    pub fn local_addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves clients whose streams somebody else has accepted.
    pub fn streams(&self) -> Arc<Streams> {
        Arc::clone(&self.streams)
    }

    /// Reaches the workers from any thread.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// See [`Handle::revoke`].
    pub fn revoke(&self, name: &str) {
        self.handle.revoke(name);
    }

    /// Closes every allocation and ends the workers and the connections; returns whether all have
    /// ended within `deadline`. One that has not is left alone.
    pub fn stop(mut self, deadline: Duration) -> bool {
        self.handle.stop();
        let ended = self.workers_left.recv_timeout(deadline);
        let all_ended = matches!(ended, Err(RecvTimeoutError::Disconnected));
        if all_ended {
            for thread in std::mem::take(&mut self.threads) {
                // A panic outside the guarded part was told by the panic hook.
                let _ = thread.join();
            }
        }
        all_ended
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.handle.stop();
    }
}

/// What a worker is made from within its thread.
struct Seed {
    sockets: Sockets,
    inbox: Arc<Inbox>,
    courier: Courier,
    heartbeat: Arc<crate::metrics::Heartbeat>,
    metrics: Arc<crate::metrics::WorkerMetrics>,
    shared: Arc<Shared>,
    entropy: Entropy,
    alive: Sender<Infallible>,
}

impl Seed {
    fn grow(self) {
        let Self { sockets, inbox, courier, heartbeat, metrics, shared, entropy, alive } = self;
        let engine = Server::new(shared, Arc::clone(&metrics), entropy).named(courier.engine());
        Worker { engine, sockets, inbox, courier, metrics, heartbeat }.run();
        drop(alive);
    }
}

/// A generator of its own for one worker.
fn child(entropy: &mut Entropy) -> Entropy {
    let mut seed = [0; 32];
    entropy.fill(&mut seed);
    Entropy::from_seed(seed)
}

/// The engine's options in the tests of this room: one relay address, and nobody who may use it.
#[cfg(test)]
fn turn_options_for_tests() -> crate::turn::Options {
    let local = std::net::IpAddr::from([127, 0, 0, 1]);
    crate::turn::Options {
        realm: "turncast".to_owned(),
        relay_addresses: vec![crate::turn::RelayAddress { public: local, local }],
        relay_ports: (49_152, 65_535),
        users: Vec::new(),
        shared_secrets: crate::credentials::SharedSecrets::default(),
        strict_expiry: false,
        allow_peers: Vec::new(),
        deny_peers: Vec::new(),
        dont_fragment: true,
        default_family: crate::turn::DefaultFamily::Ipv4,
        alternate_servers: Vec::new(),
        alternate_domain: None,
        examiners: String::new(),
        tcp_relay: None,
        nat_discovery: crate::turn::NatDiscovery::default(),
        host_addresses: Vec::new(),
        limits: crate::turn::Limits {
            allocations_per_user: 1,
            allocations_per_link: 1,
            allocations: 1,
            permissions_per_allocation: 1,
            channels_per_allocation: 1,
            new_peers_per_min: 0,
            lifetime_secs_max: 600,
            nonce_secs: 600,
            bandwidth_per_allocation_bytes_per_sec: 0,
            bandwidth_per_user_bytes_per_sec: 0,
            bandwidth_bytes_per_sec: 0,
            unauthenticated_per_prefix_per_sec: 0,
            unauthenticated_burst: 0,
        },
    }
}

#[cfg(test)]
mod tests;
