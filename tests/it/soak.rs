//! The daemon at work for a long time: allocate, permit, relay, refresh, expire and delete, over
//! UDP, TCP and TLS, and connections to peers, while its memory and its descriptors are watched.
//!
//! A plain `cargo test` gives it ten seconds, `tests/run soak` a minute. For longer:
//! ```text
//! TURNCAST_SOAK_SECS=1200 cargo test --test it -- --nocapture soak
//! ```

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use turncast::credentials::{CredentialHash, password};
use webrtc_stun::attributes::{ATTR_EVEN_PORT, ATTR_RESERVATION_TOKEN, AttrType};

use crate::harness::{DEADLINE, Daemon, Setup};
use crate::relay::client::{Client, Relayed};
use crate::secure::{KEYS, certificate_for};
use crate::streams::{connect, connect_tls, read_to_end};

const SECRET: &str = "shared-secret-of-a-test";

/// Everything ends soon, so that everything ends often; but not before clients that share two
/// cores with other tests have done what they want.
const CONFIG: &str = r#"
[turn]
tcp_relay = true
shared_secret = "shared-secret-of-a-test"
allow_peers = ["127.0.0.3"]
[turn.limits]
lifetime_secs_max = 12
nonce_secs = 3
idle_secs = 5
allocations_per_user = 100
bandwidth_per_user_bytes_per_sec = 100000000
"#;

/// How long without `TURNCAST_SOAK_SECS`.
const SECS: u64 = 10;

/// From here on some ports in reserve are claimed by nobody, which takes half a minute to settle.
const LONG: Duration = Duration::from_secs(60);

/// How long nobody claims a port in reserve until it is let go of, and a little more.
const RESERVED: Duration = Duration::from_secs(33);

/// How many allocations a client has.
const ROUNDS: u32 = 8;

/// How often memory and descriptors are read.
const INTERVAL: Duration = Duration::from_millis(250);

/// What memory may grow by over the whole watch, as the fitted line says.
const MEMORY_KIB_MAX: f64 = 1024.0;

/// The same of descriptors, whose number goes up and down with the clients that there are. It is
/// at rest that not one may be left.
const DESCRIPTORS_MAX: f64 = 50.0;

#[test]
fn memory_and_descriptors_stay_flat_in_a_soak() {
    let secs = match std::env::var("TURNCAST_SOAK_SECS") {
        Ok(secs) => secs.parse().expect("TURNCAST_SOAK_SECS is a number of seconds"),
        Err(_) => SECS,
    };
    let listen = ["udp", "tcp", "tls"].map(|scheme| format!("\"{scheme}://127.0.0.1:0\""));
    let setup = Setup::new(&format!("{CONFIG}{KEYS}"))
        .variable("TURNCAST__TURN__LISTEN", &format!("[{}]", listen.join(",")));
    let trusting = certificate_for(setup.directory(), rustls::ALL_VERSIONS);
    let daemon = setup.start();
    let at_rest = daemon.descriptors();
    let length = Duration::from_secs(secs);
    let load = Load::new(&daemon, trusting, length);
    let samples = std::thread::scope(|peer| {
        // The peer answers until the last client is done.
        let _end = Done(&load.peer_done);
        peer.spawn(|| load.echo());
        std::thread::scope(|scope| {
            let _end = Done(&load.done);
            watch(&daemon, length, &load.start(scope))
        })
    });
    // Whatever went away unsaid is gone by now, too.
    daemon.wait_for_metric("turncast_allocations", 0);
    daemon.wait_for_metric("turncast_turn_connections", 0);
    daemon.wait_for_metric("turncast_data_connections", 0);
    let (memory, descriptors) = report(&daemon, &load, &samples);
    let end = Instant::now();
    while daemon.descriptors() != at_rest {
        let left = daemon.descriptors();
        assert!(end.elapsed() < RESERVED, "{left} descriptors are left of {at_rest}");
    }
    assert!(memory < MEMORY_KIB_MAX, "memory grows by {memory:.0} KiB");
    assert!(descriptors < DESCRIPTORS_MAX, "descriptors grow by {descriptors:.1}");
    daemon.stop();
}

/// What was read at a moment.
struct Sample {
    secs: f64,
    memory_kib: f64,
    descriptors: f64,
}

/// Reads memory and descriptors for so long. The first quarter is for warming up, and so is the
/// time until ports in reserve go as often as they come.
fn watch(daemon: &Daemon, length: Duration, clients: &[ScopedJoinHandle<'_, ()>]) -> Vec<Sample> {
    // Nobody ever sends: this is a clock that ticks.
    let (_keep, clock) = channel::<()>();
    let begin = Instant::now();
    let warm = if length < LONG { length / 4 } else { RESERVED.max(length / 4) };
    let mut samples = Vec::new();
    while begin.elapsed() < length {
        assert_eq!(clock.recv_timeout(INTERVAL), Err(RecvTimeoutError::Timeout));
        assert!(clients.iter().all(|client| !client.is_finished()), "a client has failed");
        if begin.elapsed() > warm {
            samples.push(Sample {
                secs: begin.elapsed().as_secs_f64(),
                memory_kib: daemon.memory_kib() as f64,
                descriptors: daemon.descriptors() as f64,
            });
        }
    }
    samples
}

/// The slope of the line that fits best: by how much `value` grows in a second.
fn slope(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> f64 {
    let count = samples.len() as f64;
    let mean = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (time, level) = (mean(&|sample| sample.secs), mean(&|sample| value(sample)));
    let both = mean(&|sample| (sample.secs - time) * (value(sample) - level));
    both / mean(&|sample| (sample.secs - time).powi(2))
}

#[test]
fn the_slope_of_a_line_is_found() {
    let sample = |secs: f64| Sample { secs, memory_kib: 7.0 + 3.0 * secs, descriptors: 5.0 };
    let samples: Vec<Sample> = [1.0, 2.0, 4.0, 8.0].map(sample).into();
    assert!((slope(&samples, |sample| sample.memory_kib) - 3.0).abs() < 1e-9);
    assert!(slope(&samples, |sample| sample.descriptors).abs() < 1e-9);
}

/// Says what was seen, and by how much memory and descriptors have grown over the whole watch.
#[expect(clippy::print_stderr, reason = "the slopes are what one wants to see")]
fn report(daemon: &Daemon, load: &Load, samples: &[Sample]) -> (f64, f64) {
    let (first, last) = (samples.first().expect("a sample"), samples.last().expect("a sample"));
    let secs = last.secs - first.secs;
    let created = daemon.metric("turncast_allocations_created_total");
    let packets = daemon.metric("turncast_relayed_packets_total{direction=\"to_peer\"}");
    let connections = load.connections.load(Ordering::Relaxed);
    eprintln!(
        "soak: {:.0} s, {created} allocations, {connections} connections, {packets} packets there \
         and as many back; the last {secs:.0} s were watched",
        last.secs
    );
    let grown = |name: &str, value: &dyn Fn(&Sample) -> f64| {
        let slope = slope(samples, value);
        let values = || samples.iter().map(value);
        eprintln!(
            "soak: {name}: {} to {} (least {}, most {}), slope {:+.3} a minute",
            value(first),
            value(last),
            values().fold(f64::MAX, f64::min),
            values().fold(0.0, f64::max),
            slope * 60.0
        );
        slope * secs
    };
    let memory = grown("KiB of resident memory", &|sample| sample.memory_kib);
    (memory, grown("descriptors", &|sample| sample.descriptors))
}

/// Ends a part of the load, also when the watch fails.
struct Done<'l>(&'l AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Clients and a peer.
struct Load {
    udp: SocketAddr,
    tcp: SocketAddr,
    tls: SocketAddr,
    trusting: ClientConfig,
    peer: UdpSocket,
    expiry: u64,
    leaves_reservations: bool,
    done: AtomicBool,
    peer_done: AtomicBool,
    names: AtomicU64,
    lives: AtomicU64,
    connections: AtomicU64,
}

#[derive(Clone, Copy)]
enum Transport {
    Udp,
    Tcp,
    Tls,
}

impl Load {
    fn new(daemon: &Daemon, trusting: ClientConfig, length: Duration) -> Self {
        let peer = UdpSocket::bind("127.0.0.3:0").expect("a peer");
        peer.set_read_timeout(Some(INTERVAL)).expect("a deadline");
        let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
        Self {
            udp: daemon.turn(),
            tcp: daemon.turn_over("tcp"),
            tls: daemon.turn_over("tls"),
            trusting,
            peer,
            expiry: now + 86_400,
            leaves_reservations: length >= LONG,
            done: AtomicBool::new(false),
            peer_done: AtomicBool::new(false),
            names: AtomicU64::new(0),
            lives: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        }
    }

    /// Starts the clients; each goes on until it is done.
    fn start<'s>(&'s self, scope: &'s Scope<'s, '_>) -> Vec<ScopedJoinHandle<'s, ()>> {
        let mut threads = Vec::new();
        for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
            threads.push(scope.spawn(move || self.work(transport)));
            threads.push(scope.spawn(move || self.work(transport)));
            threads.push(scope.spawn(move || self.linger(transport)));
        }
        threads
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// The peer: what comes goes back.
    fn echo(&self) {
        let mut buffer = [0; 2048];
        while !self.peer_done.load(Ordering::Relaxed) {
            if let Ok((len, from)) = self.peer.recv_from(&mut buffer) {
                self.peer.send_to(&buffer[..len], from).expect("a send");
            }
        }
    }

    /// A client with one of a thousand names.
    fn client(&self, transport: Transport) -> Client {
        let number = self.names.fetch_add(1, Ordering::Relaxed) % 1000;
        self.named(transport, &format!("{}:soak-{number}", self.expiry))
    }

    fn named(&self, transport: Transport, name: &str) -> Client {
        let password = password(CredentialHash::Sha1, SECRET.as_bytes(), name);
        let password = password.expose();
        if !matches!(transport, Transport::Udp) {
            self.connections.fetch_add(1, Ordering::Relaxed);
        }
        match transport {
            Transport::Udp => Client::new(self.udp, name, password),
            Transport::Tcp => Client::over(connect(self.tcp), self.tcp, name, password),
            Transport::Tls => {
                let stream = connect_tls(self.tls, &self.trusting, &["stun.turn"]);
                Client::over(stream.expect("a handshake"), self.tls, name, password)
            }
        }
    }

    /// Clients one after the other, each with several allocations one after the other. Over TCP
    /// and TLS the last one is left to end with its connection. Over UDP it is deleted, too, for
    /// the next client may well get the same port.
    fn work(&self, transport: Transport) {
        while !self.is_done() {
            let mut client = self.client(transport);
            client.bind();
            if !matches!(transport, Transport::Udp) {
                self.connect(transport);
            }
            for round in 0..ROUNDS {
                self.allocate(&mut client, round);
                self.relay(&mut client);
                client.refresh(600).expect("a longer life");
                if round + 1 < ROUNDS || matches!(transport, Transport::Udp) {
                    client.refresh(0).expect("the end");
                }
            }
        }
    }

    /// A plain allocation, both families, or one with the next port in reserve, which a second
    /// client claims mostly.
    fn allocate(&self, client: &mut Client, round: u32) {
        match round {
            0 => {
                let additional_family = (AttrType(0x8000), &[2, 0, 0, 0][..]);
                client.allocate_with(&[additional_family]).expect("both families");
            }
            1 => {
                let answer = client.allocate_with(&[(ATTR_EVEN_PORT, &[0x80])]).expect("a pair");
                let rarely = self.lives.fetch_add(1, Ordering::Relaxed).is_multiple_of(64);
                if !(self.leaves_reservations && rarely) {
                    let token = answer.get(ATTR_RESERVATION_TOKEN).expect("a token");
                    let token = (ATTR_RESERVATION_TOKEN, &token[..]);
                    let mut second = self.named(Transport::Udp, client.username());
                    second.allocate_with(&[token]).expect("the upper port of the pair");
                    self.relay(&mut second);
                    second.refresh(0).expect("the end");
                }
            }
            _ => drop(client.allocate().expect("an allocation")),
        }
    }

    fn relay(&self, client: &mut Client) {
        let peer = self.peer.local_addr().expect("bound");
        client.permit(&[peer]).expect("a permission");
        client.send_indication(peer, b"hello");
        assert_eq!(client.receive(), Relayed::Indication(peer, b"hello".to_vec()));
        client.bind_channel(0x4000, peer).expect("a channel");
        for len in (0..12).map(|step| step * 100) {
            let payload = vec![7; len];
            client.send_channel(0x4000, &payload);
            assert_eq!(client.receive(), Relayed::Channel(0x4000, payload));
        }
    }

    /// A TCP allocation with a connection to a peer that carries something, and one that nobody
    /// fetches. By turns it is deleted, or ends with its connection.
    fn connect(&self, transport: Transport) {
        let mut control = self.client(transport);
        control.allocate_tcp().expect("a TCP allocation");
        let peer = TcpListener::bind("127.0.0.3:0").expect("a peer");
        let other = TcpListener::bind("127.0.0.3:0").expect("another one");
        let mut connect = |peer: &TcpListener| {
            let id = control.connect(peer.local_addr().expect("bound")).expect("a connection");
            (id, peer.accept().expect("a connection").0)
        };
        let ((id, mut at_peer), _unfetched) = (connect(&peer), connect(&other));
        let mut data = self.named(transport, control.username());
        data.bind_connection(id).expect("a data connection");
        let mut at_client = data.stream.take().expect("a stream").into_inner();
        at_peer.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let mut carried = [0; 3000];
        at_client.write_all(&[7; 3000]).expect("a write");
        at_peer.read_exact(&mut carried).expect("what the client said");
        at_peer.write_all(&carried).expect("a write");
        at_client.read_exact(&mut carried).expect("what the peer said");
        assert_eq!(carried, [7; 3000]);
        if self.lives.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            control.refresh(0).expect("the end");
        }
    }

    /// Clients that fall silent: over UDP the allocation expires, over TCP and TLS the connection
    /// is closed after that, too.
    fn linger(&self, transport: Transport) {
        while !self.is_done() {
            let client = |_| {
                let mut client = self.client(transport);
                client.allocate().expect("an allocation");
                client
            };
            let mut clients: Vec<Client> = (0..8).map(client).collect();
            match transport {
                Transport::Udp => {
                    // Its expiry is the first moment that it is told so; asking prolongs nothing.
                    let peer = self.peer.local_addr().expect("bound");
                    let has_expired = |client: &mut Client| client.permit(&[peer]) == Err(437);
                    let live = |client: &mut Client| !has_expired(client);
                    let (_keep, clock) = channel::<()>();
                    while clients.iter_mut().any(live) && !self.is_done() {
                        let _ = clock.recv_timeout(INTERVAL);
                    }
                }
                Transport::Tcp | Transport::Tls => {
                    for client in clients {
                        let stream = client.stream.expect("a stream");
                        read_to_end(&mut stream.into_inner());
                    }
                }
            }
        }
    }
}
