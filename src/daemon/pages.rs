//! Wires pages, signaling and the operator's listener: options, listeners, accept loops.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::error;

use super::{Error, options, state};
use crate::acme;
use crate::config::{Config, HostName, Loaded, Publish, Secrets};
use crate::credentials::{Entropy, Grants};
use crate::edge::{self, Gate, Listener};
use crate::metrics::{Heartbeats, Metrics};
use crate::net::port_hint;
use crate::relay;
use crate::signal::{BroadcastKey, Hub};
use crate::tls;
use crate::web::{self, Admin, AdminOptions, HubHandle, HubOptions, TurnListener, Web};

/// Connections of the operator's listener, which has places of its own.
const ADMIN_CONNECTIONS: u32 = 64;

/// What clients say that they speak inside TLS; what they do speak is looked at.
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1", b"stun.turn", b"stun.nat-discovery"];

/// Who has a port of the pages, most likely.
const RIVAL: &str =
    "; is another turncast or web server running? `ss -ltnp` shows who has the port";

/// How long a page waits until it comes back after a restart.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Bound listeners that nobody is accepted on yet.
pub(super) struct Bound {
    web: Vec<Listener>,
    admin: Vec<Listener>,
}

impl Bound {
    /// Binds every listener of pages and metrics.
    ///
    /// # Errors
    /// [`Error::Bind`] names the listener.
    pub(super) fn bind(config: &Config) -> Result<Self, Error> {
        let scheme = |address| options::pages_scheme(config, address);
        let web = config.web.listen.iter().map(|address| bind(scheme(*address), *address, RIVAL));
        let web = web.collect::<Result<_, _>>()?;
        let admin = config.admin.listen.iter().map(|address| bind("http", *address, RIVAL));
        Ok(Self { web, admin: admin.collect::<Result<_, _>>()? })
    }

    /// Where pages are served, with real ports.
    pub(super) fn web(&self) -> Vec<SocketAddr> {
        self.web.iter().map(Listener::local_addr).collect()
    }

    /// Where metrics are served, with real ports.
    pub(super) fn admin(&self) -> Vec<SocketAddr> {
        self.admin.iter().map(Listener::local_addr).collect()
    }
}

/// Binds a listener; `rival` says who may have the port.
///
/// # Errors
/// [`Error::Bind`] names the listener.
pub(super) fn bind(
    scheme: &str,
    address: SocketAddr,
    rival: &'static str,
) -> Result<Listener, Error> {
    Listener::bind(address).map_err(|source| Error::Bind {
        listener: format!("{scheme}://{address}"),
        hint: match source.kind() {
            ErrorKind::AddrInUse => rival.to_owned(),
            ErrorKind::AddrNotAvailable => "; it is no address of this host".to_owned(),
            _ => port_hint(address, &source),
        },
        source,
    })
}

/// What the pages need of the other parts.
pub(super) struct Surroundings<'a> {
    pub(super) loaded: &'a Loaded,
    /// The state directory, for the key of `turncast invite`.
    pub(super) state: PathBuf,
    pub(super) tls: Option<tls::Certificates>,
    /// What an authority asks for by http-01.
    pub(super) challenges: acme::Challenges,
    /// Where browsers reach the relay.
    pub(super) turn: Vec<TurnListener>,
    pub(super) relay: relay::Handle,
    /// The relay's clients over TCP and TLS.
    pub(super) streams: Arc<relay::Streams>,
    /// Where those have their places.
    pub(super) turn_gate: Arc<Gate>,
    pub(super) grants: Arc<Grants>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) heartbeats: Arc<Heartbeats>,
    /// What the doctor has found, for `/healthz`.
    pub(super) diagnosis: watch::Receiver<serde_json::Value>,
    pub(super) entropy: Entropy,
}

/// Pages, hub and metrics, being served.
pub(super) struct Pages {
    hub: Arc<HubHandle>,
    web: Arc<Web>,
    admin: Arc<Admin>,
    stop: watch::Sender<bool>,
    loops: JoinSet<std::io::Result<()>>,
}

impl Pages {
    /// Accepts on every listener from now on.
    pub(super) fn serve(bound: Bound, around: Surroundings<'_>) -> Self {
        let config = &around.loaded.config;
        let (metrics, heartbeats) = (around.metrics, around.heartbeats);
        let limits = limits(config);
        let relay = around.relay;
        let hub =
            Hub::new(options::signal(config), around.grants, Arc::clone(&metrics), around.entropy);
        let hub_options = HubOptions {
            queue_frames: limits.queue_frames,
            queue_bytes: limits.queue_bytes,
            keys: keys(around.state, &around.loaded.secrets),
            revoke: Box::new(move |name| relay.revoke(name)),
            heartbeat: heartbeats.add("hub", Instant::now()),
        };
        let hub = HubHandle::start(hub, hub_options, Arc::clone(&metrics));
        let web = Web::new(
            web::Options {
                challenges: around.challenges,
                certificates: around.tls.clone(),
                https_port: options::pages_port(config, &bound.web()).unwrap_or(443),
                ..web_options(around.loaded, around.turn)
            },
            Arc::clone(&hub),
            Arc::clone(&metrics),
        );
        let admin_options = AdminOptions {
            allowed_hosts: names(&config.admin.allowed_hosts),
            doctor: Some(around.diagnosis),
            certificates: around.tls.clone(),
            limits,
        };
        let admin = Admin::new(admin_options, Arc::clone(&metrics), Arc::clone(&heartbeats));
        let (stop, stopped) = watch::channel(false);
        let mut loops = JoinSet::new();
        let gate = Gate::new(edge_limits(config), Arc::clone(&metrics));
        let tls = around.tls.map(|certificates| certificates.offer(ALPN));
        for (index, listener) in bound.web.into_iter().enumerate() {
            let acceptor = edge::Acceptor {
                gate: Arc::clone(&gate),
                tls: tls.clone(),
                takes: edge::Takes::Any { turn: Arc::clone(&around.turn_gate) },
                heartbeat: heartbeats.add(format!("web-{index}"), Instant::now()),
                stop: stopped.clone(),
            };
            loops.spawn(edge::serve(listener, acceptor, serve_either(&web, &around.streams)));
        }
        let places = edge::Limits {
            connections: ADMIN_CONNECTIONS,
            connections_per_address: ADMIN_CONNECTIONS,
            ..edge_limits(config)
        };
        let gate = Gate::new(places, Arc::clone(&metrics));
        for (index, listener) in bound.admin.into_iter().enumerate() {
            let acceptor = edge::Acceptor {
                gate: Arc::clone(&gate),
                tls: None,
                takes: edge::Takes::Http,
                heartbeat: heartbeats.add(format!("admin-{index}"), Instant::now()),
                stop: stopped.clone(),
            };
            let admin = Arc::clone(&admin);
            let on_stream = move |stream, peer| Arc::clone(&admin).serve_stream(stream, peer);
            loops.spawn(edge::serve(listener, acceptor, on_stream));
        }
        Self { hub, web, admin, stop, loops }
    }

    /// Waits until an accept loop ends, which none does before [`Pages::stop`].
    pub(super) async fn ended(&mut self) {
        if self.loops.join_next().await.is_none() {
            // Without any listener there is nothing to wait for.
            std::future::pending::<()>().await;
        }
    }

    /// Says `bye` to everybody and waits until all streams have ended.
    pub(super) async fn stop(mut self) {
        self.stop.send_replace(true);
        self.hub.drain(RETRY_AFTER);
        self.web.stop();
        self.admin.stop();
        while self.loops.join_next().await.is_some() {}
    }
}

/// Serves a stream of either kind: the only place where pages and relay meet.
fn serve_either(
    web: &Arc<Web>,
    streams: &Arc<relay::Streams>,
) -> impl Fn(edge::Stream, edge::Peer) -> Serving + Clone + use<> {
    let (web, streams) = (Arc::clone(web), Arc::clone(streams));
    move |stream, peer| match peer.speaks {
        edge::Speaks::Turn => {
            // A task of its own: who stops the pages does not wait for the relay's clients.
            tokio::spawn(Arc::clone(&streams).serve(stream, peer));
            Box::pin(std::future::ready(()))
        }
        _ => Box::pin(Arc::clone(&web).serve_stream(stream, peer)),
    }
}

type Serving = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// The keys that admit broadcasters: those of the configuration, and the one of
/// `turncast invite`, which is read anew each time because `--rotate` replaces it.
fn keys(state: PathBuf, secrets: &Secrets) -> Box<dyn Fn() -> Vec<BroadcastKey> + Send + Sync> {
    let configured: Vec<BroadcastKey> = secrets
        .broadcast_keys
        .iter()
        .map(|(name, key)| BroadcastKey { name: name.clone(), key: key.clone() })
        .collect();
    Box::new(move || {
        let mut keys = configured.clone();
        match state::broadcast_key(&state) {
            Ok(key) => keys.push(BroadcastKey { name: "invite".to_owned(), key }),
            Err(err) => error!(%err, "the key of turncast invite cannot be read"),
        }
        keys
    })
}

/// What is accepted over TCP.
fn edge_limits(config: &Config) -> edge::Limits {
    let limits = &config.web.limits;
    edge::Limits {
        connections: limits.connections,
        connections_per_address: limits.connections_per_address,
        handshake: secs(limits.handshake_secs),
        write_stall: secs(limits.write_stall_secs),
        trusted_proxies: config.web.trusted_proxies.to_vec(),
        ..edge::Limits::default()
    }
}

/// Pages and WebSockets; `turn` is where the relay listens, with real ports.
fn web_options(loaded: &Loaded, turn: Vec<TurnListener>) -> web::Options {
    let config = &loaded.config;
    web::Options {
        public_host: options::public_host(config),
        allowed_hosts: names(&config.web.allowed_hosts),
        allowed_origins: config.web.allowed_origins.iter().map(|o| o.text().to_owned()).collect(),
        frame_ancestors: config.web.frame_ancestors.iter().map(|o| o.text().to_owned()).collect(),
        trusted_proxies: config.web.trusted_proxies.to_vec(),
        publish: match config.broadcast.publish {
            Publish::Auto => web::Publish::Auto,
            Publish::Open => web::Publish::Open,
            Publish::Key => web::Publish::Key,
        },
        only_loopback_listeners: config.is_loopback_only(),
        turn,
        static_dir: config.web.static_dir.as_deref().map(|path| loaded.locate(path)),
        limits: limits(config),
        hsts: Duration::from_secs(u64::from(config.tls.hsts_secs)),
        ..web::Options::default()
    }
}

fn names(hosts: &[HostName]) -> Vec<String> {
    hosts.iter().map(|host| host.text().to_owned()).collect()
}

fn limits(config: &Config) -> web::Limits {
    let limits = &config.web.limits;
    web::Limits {
        header_bytes: limits.header_bytes as usize,
        streams_per_connection: limits.streams_per_connection,
        bytes_between_requests: limits.bytes_between_requests as usize,
        header: secs(limits.handshake_secs),
        frame_bytes: limits.frame_bytes as usize,
        messages_per_sec: limits.messages_per_sec,
        bytes_per_sec: limits.bytes_per_sec,
        queue_frames: limits.queue_frames as usize,
        queue_bytes: limits.queue_bytes as usize,
        conns: limits.conns,
        conns_per_address: limits.conns_per_address,
        hellos_per_address_per_min: limits.hellos_per_address_per_min,
    }
}

const fn secs(secs: u32) -> Duration {
    Duration::from_secs(secs as u64)
}
