//! The web side through real sockets: a server on a free port, and clients that share no code
//! with it.

mod admin;
mod edges;
mod http2;
mod pages;
mod socket;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{HubHandle, HubOptions, Options, Publish, Web};
use crate::credentials::{Entropy, Grants};
use crate::edge::{self, Acceptor, Gate, Listener};
use crate::metrics::{Heartbeats, Limit, Metrics};
use crate::signal::{self, Hub};
use crate::telemetry::Secret;

/// A server with everything but a relay.
struct Server {
    address: SocketAddr,
    web: Arc<Web>,
    hub: Arc<HubHandle>,
    metrics: Arc<Metrics>,
    revoked: Arc<Mutex<Vec<String>>>,
    heartbeats: Arc<Heartbeats>,
    /// How often the keys were asked for.
    asked: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    task: JoinHandle<std::io::Result<()>>,
}

/// What a test changes.
#[derive(Default)]
struct Setup {
    web: Options,
    edge: edge::Limits,
    tls: Option<crate::tls::Offer>,
    credential_ttl_secs: Option<u32>,
}

impl Setup {
    /// Everybody may broadcast, and no limit is in the way.
    fn open() -> Self {
        let web = Options {
            publish: Publish::Open,
            turn: vec![crate::web::TurnListener {
                transport: crate::turn::Transport::Udp,
                address: "127.0.0.1:3478".parse().expect("an address"),
            }],
            ..Options::default()
        };
        Self { web, ..Self::default() }
    }

    fn start(self) -> Server {
        let metrics = Arc::new(Metrics::default());
        let heartbeats = Arc::new(Heartbeats::default());
        let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).expect("uptime");
        let revoked = Arc::new(Mutex::new(Vec::new()));
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let keys = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            let (name, key) = ("test".to_owned(), Secret::new("the-broadcast-key".to_owned()));
            vec![signal::BroadcastKey { name, key }]
        };
        let noted = Arc::clone(&revoked);
        let options = HubOptions {
            queue_frames: self.web.limits.queue_frames,
            queue_bytes: self.web.limits.queue_bytes,
            keys: Box::new(keys),
            revoke: Box::new(move |name| noted.lock().expect("no panic").push(name.to_owned())),
            heartbeat: heartbeats.add("hub", long_ago),
        };
        let hub = HubHandle::start(hub(&self, &metrics), options, Arc::clone(&metrics));
        let web = Web::new(self.web, Arc::clone(&hub), Arc::clone(&metrics));
        let listener = Listener::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let address = listener.local_addr();
        let stop = watch::Sender::new(false);
        let turn = Gate::new(edge::Limits::default(), Arc::clone(&metrics));
        let acceptor = Acceptor {
            gate: Gate::new(self.edge, Arc::clone(&metrics)),
            tls: self.tls,
            takes: edge::Takes::Any { turn },
            heartbeat: heartbeats.add("edge", long_ago),
            stop: stop.subscribe(),
        };
        let served = Arc::clone(&web);
        let task = tokio::spawn(edge::serve(listener, acceptor, move |stream, peer| {
            Arc::clone(&served).serve_stream(stream, peer)
        }));
        Server { address, web, hub, metrics, revoked, heartbeats, asked, stop, task }
    }
}

fn hub(setup: &Setup, metrics: &Arc<Metrics>) -> Hub {
    let signal = signal::Options {
        viewers_per_room: 8,
        rooms: 100,
        grace_secs: 30,
        credential_ttl_secs: setup.credential_ttl_secs.unwrap_or(300),
        relay_only: false,
        ping_interval_secs: 15,
        ping_timeout_secs: 10,
        kept_messages: 256,
        kept_bytes: 512 * 1024,
        candidates_per_link: 256,
        rebuilds_per_min: 30,
        frame_bytes: u32::try_from(setup.web.limits.frame_bytes).expect("a small number"),
        build: "test".to_owned(),
    };
    let grants = Arc::new(Grants::new(Secret::new([7; 32])));
    Hub::new(signal, grants, Arc::clone(metrics), Entropy::from_seed([7; 32]))
}

impl Server {
    /// One request on a connection of its own; `lines` are headers beside Host.
    async fn ask(&self, method: &str, path: &str, lines: &str) -> Reply {
        let host = format!("Host: {}\r\n", self.address);
        self.raw(&format!("{method} {path} HTTP/1.1\r\n{host}{lines}Connection: close\r\n\r\n"))
            .await
    }

    async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, "").await
    }

    /// Sends a text as it is and reads to the end.
    async fn raw(&self, request: &str) -> Reply {
        let mut stream = TcpStream::connect(self.address).await.expect("a connection");
        stream.write_all(request.as_bytes()).await.expect("written");
        Reply::read(&mut stream).await
    }
}

/// An HTTP answer, taken apart by hand.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Reply {
    async fn read(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Self {
        let mut bytes = Vec::new();
        // A server that refuses may reset the connection behind its answer.
        let _ = soon(stream.read_to_end(&mut bytes)).await;
        Self::parse(&String::from_utf8_lossy(&bytes))
    }

    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let status = status.and_then(|code| code.parse().ok()).unwrap_or(0);
        Self { status, headers, body: body.to_owned() }
    }

    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map_or("", |(_, value)| value)
    }
}

/// What a test waits for happens within seconds or not at all.
async fn soon<T>(event: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), event).await.expect("it happens within 20 seconds")
}

/// Waits until a number that another task counts has come.
async fn until(what: impl Fn() -> bool) {
    soon(async {
        while !what() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
