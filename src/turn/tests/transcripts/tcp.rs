//! The lines of RFC 6062: connections to and from peers, and what a worker says about them.
//!
//! ```text
//! client NAME ADDRESS:PORT tcp    or tls
//! > connected RESULT              what became of the oldest attempt: ok, refused or exhausted
//! > incoming ADDRESS to NAME      a connection to NAME's relayed address
//! > incoming6 ADDRESS to NAME     to the IPv6 one of a dual allocation
//! > hang-up N                     the end of the data connection of the Nth id
//! < connect, abandon, splice      what the engine asked for; an id is told by its number
//! < closed ADDRESS                the engine let go of the connection to that peer
//! < cut N                         the data connection of the Nth id is over
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use super::Script;
use crate::stun::{Message, attr};
use crate::turn::{
    Action, Actions, ConnectFailure, ConnectionId, DataConnection, HeldSocket, RelayId,
};

/// What a script knows of connections.
#[derive(Default)]
pub(super) struct Connections {
    /// In the order in which they were asked for.
    attempts: VecDeque<(RelayId, ConnectionId, SocketAddr)>,
    /// Every CONNECTION-ID in the order in which they were seen; the first is number 1.
    ids: Vec<u32>,
    bound: BTreeMap<usize, (DataConnection, Socket)>,
    /// Which id was bound last.
    binding: usize,
    closed: Arc<Mutex<Vec<SocketAddr>>>,
}

/// A connection to a peer; it tells of its end.
struct Socket {
    peer: SocketAddr,
    closed: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.closed.lock().expect("one thread").push(self.peer);
    }
}

impl Connections {
    fn socket(&self, peer: SocketAddr) -> HeldSocket {
        HeldSocket::new(Socket { peer, closed: Arc::clone(&self.closed) })
    }

    fn number(&mut self, id: u32) -> usize {
        let known = self.ids.iter().position(|known| *known == id);
        known.unwrap_or_else(|| {
            self.ids.push(id);
            self.ids.len() - 1
        }) + 1
    }

    /// The value of `id=`: the number of one that was seen.
    pub(super) fn id(&mut self, number: &str) -> [u8; 4] {
        self.binding = number.parse().expect("a number");
        self.ids[self.binding - 1].to_be_bytes()
    }

    /// What a message is in words, its CONNECTION-ID by its number.
    pub(super) fn describe(&mut self, bytes: &[u8], words: String) -> String {
        let message = Message::parse(bytes).expect("a message");
        let Some(id) = message.first(attr::CONNECTION_ID) else { return words };
        let number = self.number(u32::from_be_bytes(id.try_into().expect("4 bytes")));
        words.replace(" 002a", &format!(" id={number}"))
    }
}

impl Script {
    /// A step about connections; false when it is none.
    pub(super) fn tcp_step(&mut self, words: &[&str], actions: &mut Actions) -> bool {
        match *words {
            ["connected", result] => {
                let attempt = self.connections.attempts.pop_front().expect("an attempt");
                let (relay, connection, peer) = attempt;
                let result = match result {
                    "ok" => Ok(self.connections.socket(peer)),
                    "refused" => Err(ConnectFailure::Refused),
                    "exhausted" => Err(ConnectFailure::Exhausted),
                    other => panic!("no result of a connection: {other}"),
                };
                let bench = self.bench();
                bench.server.connected(bench.now, relay, connection, result, actions);
            }
            ["incoming", peer, "to", name] => self.incoming(peer, name, 0, actions),
            ["incoming6", peer, "to", name] => self.incoming(peer, name, 1, actions),
            ["hang-up", number] => {
                let number = number.parse().expect("a number");
                self.connections.bound.remove(&number).expect("a data connection");
            }
            _ => return false,
        }
        true
    }

    fn incoming(&mut self, peer: &str, name: &str, family: u32, actions: &mut Actions) {
        let peer = peer.parse().expect("an address");
        let five_tuple = self.clients[name].five_tuple;
        let socket = self.connections.socket(peer);
        let bench = self.bench();
        let relay = bench.server.relay_of(&five_tuple).expect("an allocation");
        let relay = RelayId(relay.0 & !1 | family);
        bench.server.handle_incoming(bench.now, relay, peer, socket, actions);
    }

    /// Carries out what is asked for about connections.
    pub(super) fn tcp_work(&mut self, action: Action, more: &mut Actions, out: &mut String) {
        let connections = &mut self.connections;
        let text = match action {
            Action::Listen { relay, local } => {
                if self.manual_bind {
                    self.to_bind.push_back((relay, None));
                } else {
                    let bench = self.bench();
                    bench.server.bound(bench.now, relay, Ok(()), more);
                }
                format!("listen {local}")
            }
            Action::Connect { relay, connection, local, peer } => {
                connections.attempts.push_back((relay, connection, peer));
                let number = connections.number(connection.0);
                format!("connect {local} to {peer} id={number}")
            }
            Action::Abandon { connection } => {
                connections.attempts.retain(|(_, id, _)| *id != connection);
                format!("abandon id={}", connections.number(connection.0))
            }
            Action::Splice { socket, connection } => {
                let socket: Socket = socket.into_socket().expect("as it was held");
                let text = format!("splice {}", socket.peer);
                connections.bound.insert(connections.binding, (connection, socket));
                text
            }
            other => panic!("not about connections: {other:?}"),
        };
        writeln!(out, "< {text}").expect("a string takes all");
    }

    /// What has ended in this step without an action.
    pub(super) fn tcp_ends(&mut self, out: &mut String) {
        let connections = &mut self.connections;
        let mut cx = Context::from_waker(Waker::noop());
        let is_cut = |_: &usize, bound: &mut (DataConnection, Socket)| {
            bound.0.poll_ended(&mut cx).is_ready()
        };
        for (number, _) in connections.bound.extract_if(.., is_cut) {
            writeln!(out, "< cut {number}").expect("a string takes all");
        }
        for peer in connections.closed.lock().expect("one thread").drain(..) {
            writeln!(out, "< closed {peer}").expect("a string takes all");
        }
    }
}
