//! RFC 8656, section by section, over each transport. The configuration is the one that the README
//! has for testers.

mod allocate;
mod channels;
mod example;
mod families;
mod general;
mod peers;
mod permissions;
mod rebound;
mod refresh;
mod reservations;
mod send;
mod streams;

use std::net::{SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::client::{CONFIG, Client, Server, Wire};
use super::wire::{
    CHANNEL_BIND, CHANNEL_NUMBER, CREATE_PERMISSION, DATA, DATA_INDICATION, INDICATION, In, Out,
    SEND, SUCCESS, XOR_PEER_ADDRESS, XOR_RELAYED_ADDRESS,
};
use crate::harness::DEADLINE;

/// What the relay hands to a client.
#[derive(Debug, PartialEq, Eq)]
enum Relayed {
    Channel(u16, Vec<u8>),
    Indication(SocketAddr, Vec<u8>),
}

impl Client {
    /// Signs a request, after a challenge when there was none.
    #[track_caller]
    fn signed(&mut self, request: Out) -> Out {
        if self.nonce.is_empty() {
            self.challenge();
        }
        self.sign(request)
    }

    /// The code of the answer to a request that is signed here; 0 for success.
    #[track_caller]
    fn signed_code(&mut self, request: Out) -> u16 {
        self.ask_signed(request).code()
    }

    /// Makes an allocation, and gives its relayed address.
    #[track_caller]
    fn allocate(&mut self) -> SocketAddr {
        let answer = self.ask_signed(Out::allocate());
        assert_eq!(answer.code(), 0);
        answer.xor_address(XOR_RELAYED_ADDRESS)
    }

    #[track_caller]
    fn permit(&mut self, peer: SocketAddr) {
        assert_eq!(self.signed_code(permission(&[peer])), 0);
    }

    #[track_caller]
    fn bind(&mut self, number: u16, peer: SocketAddr) {
        assert_eq!(self.signed_code(channel_bind(number, peer)), 0);
    }

    fn send_channel(&mut self, number: u16, payload: &[u8]) {
        let mut message = channel_message(number, payload);
        if self.wire.is_stream() {
            // Section 12.5: padded, and what the padding is nobody looks at.
            message.resize(message.len().next_multiple_of(4), 0xAA);
        }
        self.send(&message);
    }

    /// The next message, which must be ChannelData or a Data indication.
    #[track_caller]
    fn relayed(&mut self) -> Relayed {
        let message = self.receive();
        if message[0] >= 4 {
            let number = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
            assert_eq!(message.len(), 4 + usize::from(number(2)), "the length field");
            return Relayed::Channel(number(0), message[4..].to_vec());
        }
        let message = In::read(&message);
        assert!(message.is(INDICATION, DATA_INDICATION), "{message:02x?}");
        assert_eq!(message.kinds(), [XOR_PEER_ADDRESS, DATA], "what section 11.3 asks for");
        let payload = message.attribute(DATA).expect("DATA").to_vec();
        Relayed::Indication(message.xor_address(XOR_PEER_ADDRESS), payload)
    }
}

/// A peer whose port is its own.
struct Peer {
    socket: UdpSocket,
    address: SocketAddr,
}

impl Peer {
    fn new() -> Self {
        Self::at("127.0.0.3:0")
    }

    fn at(address: &str) -> Self {
        let socket = UdpSocket::bind(address).expect("a peer");
        socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let address = socket.local_addr().expect("bound");
        Self { socket, address }
    }

    fn send(&self, payload: &[u8], to: SocketAddr) {
        self.socket.send_to(payload, to).expect("sent");
    }

    /// The next datagram is this one.
    #[track_caller]
    fn reads(&self, payload: &[u8], from: SocketAddr) {
        let mut buffer = vec![0; 65_535];
        let (len, source) = self.socket.recv_from(&mut buffer).expect("a datagram in time");
        assert_eq!((&buffer[..len], source), (payload, from));
    }
}

/// Shows a rule over each transport, at one daemon with the configuration of the README.
fn on_each_wire(rule: impl Fn(&Server, Wire)) {
    on_wires(&Wire::ALL, rule);
}

/// The same over some of them.
fn on_wires(wires: &[Wire], rule: impl Fn(&Server, Wire)) {
    on_wires_of(readme(), wires, rule);
}

/// The same with another configuration.
fn on_each_wire_of(config: &str, rule: impl Fn(&Server, Wire)) {
    on_wires_of(config, &Wire::ALL, rule);
}

/// The same with a daemon of its own for each transport, because what it has is used up.
fn on_each_wire_anew(config: &str, rule: impl Fn(&Server, Wire)) {
    for wire in Wire::ALL {
        on_wires_of(config, &[wire], &rule);
    }
}

fn on_wires_of(config: &str, wires: &[Wire], rule: impl Fn(&Server, Wire)) {
    let server = Server::start(config);
    for wire in wires {
        // What went wrong has been said by then.
        let kept = catch_unwind(AssertUnwindSafe(|| rule(&server, *wire)));
        assert!(kept.is_ok(), "over {wire:?}");
    }
    server.daemon.stop();
}

/// The configuration in the README.
fn readme() -> &'static str {
    let text = include_str!("../../../../README.md");
    let (_, section) = text.split_once("### Test it with other clients").expect("the section");
    let (_, block) = section.split_once("```toml\n").expect("a configuration");
    block.split_once("```").expect("its end").0
}

/// The same with one more line in `[turn]`.
fn readme_with(line: &str) -> String {
    readme().replace("[turn]\n", &format!("[turn]\n{line}\n"))
}

/// The same with another value of a key that is set there.
fn readme_but(key: &str, value: u32) -> String {
    let text = readme();
    let (before, line) = text.split_once(&format!("\n{key} = ")).expect("the key");
    let (_, after) = line.split_once('\n').expect("the end of the line");
    format!("{before}\n{key} = {value}\n{after}")
}

/// The same with so many relay ports, on an address where no other test relays.
fn readme_with_ports(count: u16) -> String {
    let [.., high, low] = std::process::id().to_be_bytes();
    let range = format!("61200-{}", 61199 + count);
    readme_with(&format!(
        "relay_addresses = [\"127.{count}.{high}.{low}\"]\nrelay_ports = \"{range}\""
    ))
}

/// A client that has an allocation, and its relayed address.
#[track_caller]
fn allocated(server: &Server, wire: Wire) -> (Client, SocketAddr) {
    let mut client = server.client(wire);
    let relayed = client.allocate();
    (client, relayed)
}

/// A client who is the other user.
fn bob(server: &Server, wire: Wire) -> Client {
    let mut client = server.client(wire);
    client.is_now("bob", "password-of-bob-22");
    client
}

/// A CreatePermission request.
fn permission(peers: &[SocketAddr]) -> Out {
    let request = Out::request(CREATE_PERMISSION);
    peers.iter().fold(request, |request, peer| request.xor_address(XOR_PEER_ADDRESS, *peer))
}

/// A ChannelBind request.
fn channel_bind(number: u16, peer: SocketAddr) -> Out {
    let [high, low] = number.to_be_bytes();
    Out::request(CHANNEL_BIND)
        .attribute(CHANNEL_NUMBER, &[high, low, 0, 0])
        .xor_address(XOR_PEER_ADDRESS, peer)
}

/// A Send indication.
fn send_indication(peer: SocketAddr, payload: &[u8]) -> Out {
    Out::indication(SEND).xor_address(XOR_PEER_ADDRESS, peer).attribute(DATA, payload)
}

/// A ChannelData message, without padding.
fn channel_message(number: u16, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u16;
    [&number.to_be_bytes()[..], &len.to_be_bytes(), payload].concat()
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}
