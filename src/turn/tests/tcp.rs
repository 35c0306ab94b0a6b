//! TCP allocations of several engines, their peers and their data connections, at random: whatever
//! ends first, nothing is left behind, and what has ended is told. A failure prints its seed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use super::bench::{Ask, Bench, Holds, five_tuple, options};
use crate::credentials::Entropy;
use crate::metrics::WorkerMetrics;
use crate::stun::{Class, Message, Method, attr};
use crate::turn::{
    Action, Actions, ConnectFailure, ConnectionId, DataConnection, FiveTuple, HeldSocket, RelayId,
    Server, TcpLimits, Transport,
};

#[test]
fn whatever_ends_first_nothing_is_left_of_a_connection() {
    let mut seen = Seen::default();
    for seed in 0..120 {
        let outcome = std::panic::catch_unwind(|| World::new(seed).run());
        let of_run = outcome.unwrap_or_else(|_| panic!("seed {seed}"));
        seen.bound += of_run.bound;
        seen.cut += of_run.cut;
        seen.abandoned += of_run.abandoned;
        seen.full += of_run.full;
    }
    // The runs reach what they are about.
    let all = [seen.bound, seen.cut, seen.abandoned, seen.full];
    assert!(all.iter().all(|count| *count > 100), "{all:?}");
}

/// The ids that some connections have had.
#[test]
fn ids_cannot_be_guessed_from_one_another() {
    let mut world = World::new(7);
    let mut ids = Vec::new();
    for port in 1..=8 {
        world.allocate(0);
        world.connect(0, port);
        world.connected(Ok(()));
        ids.extend(world.pending.drain(..).map(|ConnectionId(id)| id));
        world.controls[0] = Control::new(&world.bench, 0, 7 + port as u8);
    }
    assert_eq!(ids.len(), 8);
    let mut bits = 0;
    for pair in ids.windows(2) {
        bits += (pair[0] ^ pair[1]).count_ones();
        assert!(pair[0].abs_diff(pair[1]) > 1000, "{ids:?}");
    }
    assert!((70..154).contains(&bits), "{bits} of 224 bits differ");
}

#[derive(Default)]
struct Seen {
    bound: usize,
    cut: usize,
    abandoned: usize,
    full: usize,
}

/// A socket that is counted as long as it is open.
struct Socket(Arc<AtomicUsize>);

impl Socket {
    fn open(count: &Arc<AtomicUsize>) -> HeldSocket {
        count.fetch_add(1, Ordering::Relaxed);
        HeldSocket::new(Self(Arc::clone(count)))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client with a control connection.
struct Control {
    five_tuple: FiveTuple,
    holds: Holds,
    server: Server,
    relay: Option<RelayId>,
}

impl Control {
    fn new(bench: &Bench, number: u8, seed: u8) -> Self {
        let address = SocketAddr::from(([198, 51, 100, 1], 40_000 + u16::from(number)));
        let name = if number.is_multiple_of(2) { "alice" } else { "bob" };
        Self {
            five_tuple: FiveTuple { transport: Transport::Tcp, ..five_tuple(address) },
            holds: bench.fixed(name),
            server: server(bench, seed ^ number),
            relay: None,
        }
    }
}

fn server(bench: &Bench, seed: u8) -> Server {
    let metrics = Arc::new(WorkerMetrics::default());
    Server::new(Arc::clone(&bench.shared), metrics, Entropy::from_seed([seed; 32]))
}

struct World {
    bench: Bench,
    entropy: Entropy,
    sockets: Arc<AtomicUsize>,
    controls: Vec<Control>,
    /// Which control connection asked for it.
    attempts: Vec<(usize, RelayId, ConnectionId)>,
    /// Ids that clients were told, bound or not, and perhaps over.
    pending: Vec<ConnectionId>,
    bound: Vec<(DataConnection, Socket)>,
    next_port: u16,
    seen: Seen,
}

impl World {
    fn new(seed: u8) -> Self {
        let mut options = options();
        options.tcp_relay = Some(TcpLimits {
            connections: 9,
            connections_per_allocation: 5,
            pending_per_allocation: 3,
        });
        let bench = Bench::new(options, seed);
        let controls = (0..3).map(|number| Control::new(&bench, number, seed)).collect();
        Self {
            bench,
            entropy: Entropy::from_seed([seed; 32]),
            sockets: Arc::default(),
            controls,
            attempts: Vec::new(),
            pending: Vec::new(),
            bound: Vec::new(),
            next_port: 1,
            seen: Seen::default(),
        }
    }

    fn run(mut self) -> Seen {
        for _ in 0..150 {
            let control = self.entropy.below(3) as usize;
            match self.entropy.below(16) {
                0 | 1 => self.allocate(control),
                2..=4 => {
                    let port = self.port();
                    self.connect(control, port);
                }
                5 | 6 => self.connected(Ok(())),
                7 => self.connected(Err(ConnectFailure::Refused)),
                8 | 9 => self.incoming(control),
                10..=12 => self.bind(),
                13 => self.hang_up(),
                14 => self.end(control),
                _ => self.wait(),
            }
            self.check();
        }
        self.finish()
    }

    /// A new peer's port, or sometimes that of the last one.
    fn port(&mut self) -> u16 {
        self.next_port += u16::from(self.entropy.below(4) > 0);
        self.next_port
    }

    fn ask(&mut self, control: usize, ask: &Ask) {
        let Control { five_tuple, ref holds, .. } = self.controls[control];
        let datagram = self.bench.request(five_tuple.client, holds, ask);
        let mut actions = Actions::new();
        let own = &mut self.controls[control];
        own.server.handle_client(self.bench.now, five_tuple, &datagram, &mut actions);
        self.work(control, actions);
    }

    fn allocate(&mut self, control: usize) {
        let mut ask = self.bench.ask(Method::ALLOCATE);
        ask.attributes.push((attr::REQUESTED_TRANSPORT, vec![6, 0, 0, 0]));
        self.ask(control, &ask);
        let mut ask = self.bench.ask(Method::CREATE_PERMISSION);
        ask.peers.push(SocketAddr::from(([9, 9, 9, 9], 1)));
        self.ask(control, &ask);
    }

    fn connect(&mut self, control: usize, port: u16) {
        let mut ask = self.bench.ask(Method::CONNECT);
        ask.peers.push(SocketAddr::from(([9, 9, 9, 9], port)));
        self.ask(control, &ask);
    }

    /// Whatever comes of a random attempt, in time or not.
    fn connected(&mut self, result: Result<(), ConnectFailure>) {
        if self.attempts.is_empty() {
            return;
        }
        let index = self.entropy.below(self.attempts.len() as u32) as usize;
        let (control, relay, connection) = self.attempts.swap_remove(index);
        let result = result.map(|()| Socket::open(&self.sockets));
        let mut actions = Actions::new();
        let own = &mut self.controls[control];
        own.server.connected(self.bench.now, relay, connection, result, &mut actions);
        self.work(control, actions);
    }

    fn incoming(&mut self, control: usize) {
        let Some(relay) = self.controls[control].relay else { return };
        let peer = SocketAddr::from(([9, 9, 9, 9], 10_000 + self.port()));
        let (socket, mut actions) = (Socket::open(&self.sockets), Actions::new());
        let own = &mut self.controls[control];
        own.server.handle_incoming(self.bench.now, relay, peer, socket, &mut actions);
        self.work(control, actions);
    }

    /// One of the two names, perhaps the wrong one, tries one of the ids by an engine of its own.
    fn bind(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let index = self.entropy.below(self.pending.len() as u32) as usize;
        let ConnectionId(id) = self.pending[index];
        let name = if self.entropy.below(2) == 0 { "alice" } else { "bob" };
        let mut ask = self.bench.ask(Method::CONNECTION_BIND);
        ask.attributes.push((attr::CONNECTION_ID, id.to_be_bytes().to_vec()));
        let client = SocketAddr::from(([198, 51, 100, 2], 40_000));
        let datagram = self.bench.request(client, &self.bench.fixed(name), &ask);
        let five_tuple = FiveTuple { transport: Transport::Tls, ..five_tuple(client) };
        let (mut server, mut actions) = (server(&self.bench, 9), Actions::new());
        server.handle_client(self.bench.now, five_tuple, &datagram, &mut actions);
        for action in actions {
            match action {
                Action::Splice { socket, connection } => {
                    self.pending.remove(index);
                    let socket = socket.into_socket().expect("as it was held");
                    self.bound.push((connection, socket));
                    self.seen.bound += 1;
                    return;
                }
                Action::Answer { bytes, .. } => {
                    let answer = Message::parse(&bytes).expect("an answer");
                    assert_eq!(answer.class(), Class::Error, "success comes with a connection");
                }
                other => panic!("unasked for: {other:?}"),
            }
        }
    }

    fn hang_up(&mut self) {
        if !self.bound.is_empty() {
            let index = self.entropy.below(self.bound.len() as u32) as usize;
            self.bound.swap_remove(index);
        }
    }

    /// The allocation ends in one of three ways.
    fn end(&mut self, control: usize) {
        let mut actions = Actions::new();
        match self.entropy.below(3) {
            0 => {
                let mut ask = self.bench.ask(Method::REFRESH);
                ask.attributes.push((attr::LIFETIME, vec![0; 4]));
                self.ask(control, &ask);
            }
            1 => self.controls[control].server.hang_up(&mut actions),
            // After a panic the engine is dropped as it is.
            _ => {
                let seed = self.entropy.below(256) as u8;
                self.controls[control] = Control::new(&self.bench, control as u8, seed);
                self.attempts.retain(|(own, ..)| *own != control);
            }
        }
        self.work(control, actions);
    }

    fn wait(&mut self) {
        let secs = [1, 10, 31, 700][self.entropy.below(4) as usize];
        self.bench.now = self.bench.now.after(Duration::from_secs(secs));
        for control in 0..self.controls.len() {
            let mut actions = Actions::new();
            self.controls[control].server.handle_timeout(self.bench.now, &mut actions);
            self.work(control, actions);
        }
    }

    fn work(&mut self, control: usize, mut actions: Actions) {
        while !actions.is_empty() {
            for action in std::mem::take(&mut actions) {
                let own = &mut self.controls[control];
                match action {
                    Action::Listen { relay, .. } => {
                        own.relay = Some(relay);
                        own.server.bound(self.bench.now, relay, Ok(()), &mut actions);
                    }
                    Action::Close { relay } => {
                        own.relay = None;
                        self.attempts.retain(|(of, from, _)| *of != control || *from != relay);
                    }
                    Action::Connect { relay, connection, .. } => {
                        self.attempts.push((control, relay, connection));
                    }
                    Action::Abandon { connection } => {
                        self.seen.abandoned += 1;
                        self.attempts.retain(|(.., id)| *id != connection);
                    }
                    Action::Answer { bytes, .. } => {
                        let message = Message::parse(&bytes).expect("a message");
                        if let Some(id) = message.first(attr::CONNECTION_ID) {
                            let id = u32::from_be_bytes(id.try_into().expect("4 bytes"));
                            self.pending.push(ConnectionId(id));
                        }
                        let code = message.first(attr::ERROR_CODE);
                        self.seen.full +=
                            usize::from(code.is_some_and(|code| code[2..4] == [5, 8]));
                    }
                    other => panic!("unasked for: {other:?}"),
                }
            }
        }
    }

    /// Everything that is open belongs to somebody who lives, and every end was told.
    fn check(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let before = self.bound.len();
        self.bound.retain(|(connection, _)| connection.poll_ended(&mut cx).is_pending());
        self.seen.cut += before - self.bound.len();
        let connections = self.bench.shared.connections.as_ref().expect("TCP is relayed");
        let (entries, owners) = connections.len();
        let live = self.controls.iter().filter(|control| control.relay.is_some()).count();
        assert_eq!(owners, live);
        assert!(entries <= 9);
        let open = self.sockets.load(Ordering::Relaxed);
        assert_eq!(open, entries - self.attempts.len(), "attempts have no socket yet");
    }

    fn finish(mut self) -> Seen {
        // In either order.
        if self.entropy.below(2) == 0 {
            self.bound.clear();
        }
        for control in 0..self.controls.len() {
            let mut actions = Actions::new();
            self.controls[control].server.hang_up(&mut actions);
            self.work(control, actions);
        }
        self.check();
        assert!(self.bound.is_empty() && self.attempts.is_empty());
        let connections = self.bench.shared.connections.as_ref().expect("TCP is relayed");
        assert_eq!(connections.len(), (0, 0));
        assert_eq!(self.sockets.load(Ordering::Relaxed), 0);
        assert_eq!(self.bench.shared.quota.taken(), (0, 0));
        assert_eq!(self.bench.shared.ports(0).available(), 1000);
        self.seen
    }
}
