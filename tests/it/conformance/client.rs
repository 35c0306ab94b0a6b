//! The daemon under test, and clients that ask it over each transport.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::wire::{
    ALLOCATE, BINDING, ERROR, FINGERPRINT, In, MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256, NONCE,
    Out, PASSWORD_ALGORITHM, PASSWORD_ALGORITHMS, REALM, SUCCESS, md5_key, message_type,
    sha256_key,
};
use crate::harness::{Daemon, Setup};
use crate::secure::certificate_for;
use crate::streams::{connect, connect_tls};

/// Two users, and peers on loopback.
pub(crate) const CONFIG: &str = r#"
[turn]
realm = "example.org"
users = [
    { name = "alice", password = "password-of-alice-1" },
    { name = "bob", password = "password-of-bob-22" },
]
allow_peers = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
[turn.limits]
allocations_per_user = 1000
"#;

pub(crate) const REALM_TEXT: &str = "example.org";

/// Whoever waits longer waits for nothing.
const DEADLINE: Duration = Duration::from_secs(10);

/// How a client reaches the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    Udp,
    Udp6,
    Tcp,
    Tls,
}

impl Wire {
    pub(crate) const ALL: [Self; 4] = [Self::Udp, Self::Udp6, Self::Tcp, Self::Tls];
    pub(crate) const DATAGRAMS: [Self; 2] = [Self::Udp, Self::Udp6];
    pub(crate) const STREAMS: [Self; 2] = [Self::Tcp, Self::Tls];

    pub(crate) fn is_stream(self) -> bool {
        Self::STREAMS.contains(&self)
    }

    /// How the log begins the address of its listener.
    const fn listener(self) -> (&'static str, bool) {
        match self {
            Self::Udp => ("udp://", false),
            Self::Udp6 => ("udp://", true),
            Self::Tcp => ("tcp://", false),
            Self::Tls => ("tls://", false),
        }
    }
}

/// One rule: its section and words, and what shows that it is kept.
pub(crate) type Check = (&'static str, fn(&mut Client));

/// A daemon that listens everywhere.
pub(crate) struct Server {
    pub(crate) daemon: Daemon,
    trusting: ClientConfig,
    /// The sockets of all clients over UDP. One that is closed leaves its allocation behind, which
    /// the next one would find if the kernel gave it the port.
    sockets: Mutex<Vec<UdpSocket>>,
}

impl Server {
    /// A daemon with `config`, which has no `[tls]`.
    pub(crate) fn start(config: &str) -> Self {
        let config = format!("{config}\n[tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n");
        let listen = "[\"udp://127.0.0.1:0\", \"tcp://127.0.0.1:0\", \"tls://127.0.0.1:0\", \
                      \"udp://[::1]:0\"]";
        let setup = Setup::new(&config).variable("TURNCAST__TURN__LISTEN", listen);
        let trusting = certificate_for(setup.directory(), rustls::ALL_VERSIONS);
        Self { daemon: setup.start(), trusting, sockets: Mutex::default() }
    }

    /// Where it listens.
    pub(crate) fn address(&self, wire: Wire) -> SocketAddr {
        let (scheme, ipv6) = wire.listener();
        self.daemon.turn_on(scheme, ipv6)
    }

    /// A client with a socket or a connection of its own: alice.
    pub(crate) fn client(&self, wire: Wire) -> Client {
        let address = self.address(wire);
        if !wire.is_stream() {
            let socket = UdpSocket::bind(Self::any(wire)).expect("a socket");
            let copy = socket.try_clone().expect("a copy");
            self.sockets.lock().expect("nobody panicked").push(copy);
            return Client::on(wire, socket, address);
        }
        if wire == Wire::Tls {
            let tls = self.handshake(address, &[]).expect("TLS");
            let local = tls.sock.local_addr().expect("connected");
            return Client::over(wire, tls, local, address);
        }
        let stream = connect(address);
        let local = stream.local_addr().expect("connected");
        Client::over(wire, stream, local, address)
    }

    /// A TLS connection that offers these protocols.
    pub(crate) fn handshake(
        &self,
        address: SocketAddr,
        alpn: &[&str],
    ) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
        connect_tls(address, &self.trusting, alpn)
    }

    /// Any port of the loopback address of this family.
    fn any(wire: Wire) -> SocketAddr {
        match wire {
            Wire::Udp6 => (Ipv6Addr::LOCALHOST, 0).into(),
            _ => (Ipv4Addr::LOCALHOST, 0).into(),
        }
    }

    /// Makes every check with a new client over each of these transports, and fails with all that
    /// went wrong. After each, nothing may be left to read.
    #[track_caller]
    pub(crate) fn run(&self, wires: &[Wire], checks: &[Check]) {
        let mut faults = Vec::new();
        for wire in wires {
            for (name, check) in checks {
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    let mut client = self.client(*wire);
                    check(&mut client);
                    if !client.is_closed {
                        client.quiet();
                    }
                }));
                let Err(why) = outcome else { continue };
                let why = why.downcast_ref::<String>().cloned().unwrap_or_else(|| {
                    why.downcast_ref::<&str>().copied().unwrap_or("?").to_owned()
                });
                faults.push(format!("{wire:?}: {name}: {why}"));
            }
        }
        assert!(faults.is_empty(), "{} rules are broken:\n{}", faults.len(), faults.join("\n"));
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

enum Link {
    Socket(UdpSocket),
    Stream(Box<dyn Stream>),
}

/// A client that does nothing by itself.
pub(crate) struct Client {
    pub(crate) wire: Wire,
    pub(crate) local: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) username: String,
    pub(crate) password: String,
    /// What the last challenge said; empty before the first.
    pub(crate) realm: String,
    pub(crate) nonce: Vec<u8>,
    pub(crate) algorithms: Vec<u8>,
    /// The server has closed its connection.
    pub(crate) is_closed: bool,
    link: Link,
}

impl Client {
    /// A client with this socket.
    pub(crate) fn on(wire: Wire, socket: UdpSocket, server: SocketAddr) -> Self {
        socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let local = socket.local_addr().expect("bound");
        Self::new(wire, Link::Socket(socket), local, server)
    }

    /// A client with this connection; reads must have a deadline.
    pub(crate) fn over(
        wire: Wire,
        stream: impl Read + Write + 'static,
        local: SocketAddr,
        server: SocketAddr,
    ) -> Self {
        Self::new(wire, Link::Stream(Box::new(stream)), local, server)
    }

    fn new(wire: Wire, link: Link, local: SocketAddr, server: SocketAddr) -> Self {
        Self {
            wire,
            local,
            server,
            username: "alice".to_owned(),
            password: "password-of-alice-1".to_owned(),
            realm: String::new(),
            nonce: Vec::new(),
            algorithms: Vec::new(),
            is_closed: false,
            link,
        }
    }

    /// Becomes somebody else.
    pub(crate) fn is_now(&mut self, username: &str, password: &str) {
        (self.username, self.password) = (username.to_owned(), password.to_owned());
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        match &mut self.link {
            Link::Socket(socket) => {
                let sent = socket.send_to(bytes, self.server).expect("a datagram is sent");
                assert_eq!(sent, bytes.len());
            }
            Link::Stream(stream) => {
                stream.write_all(bytes).and_then(|()| stream.flush()).expect("the stream is open");
            }
        }
    }

    /// The next message, STUN or ChannelData, without the padding of a stream.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Vec<u8> {
        match &mut self.link {
            Link::Socket(socket) => {
                let mut bytes = vec![0; 65_535];
                let (count, from) = socket.recv_from(&mut bytes).expect("a datagram");
                assert_eq!(from, self.server, "an answer comes from where the question went");
                bytes.truncate(count);
                bytes
            }
            Link::Stream(stream) => {
                let mut bytes = vec![0; 4];
                stream.read_exact(&mut bytes).expect("a message");
                let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
                let whole = if bytes[0] < 4 { 20 + length } else { 4 + length };
                bytes.resize(whole.next_multiple_of(4), 0);
                stream.read_exact(&mut bytes[4..]).expect("the rest of a message");
                bytes.truncate(whole);
                bytes
            }
        }
    }

    /// The next message, which must be STUN.
    #[track_caller]
    pub(crate) fn message(&mut self) -> In {
        In::read(&self.receive())
    }

    /// Sends a request and gives its answer, which must be the next message: with the id and the
    /// method of the request, and a FINGERPRINT if it had one.
    #[track_caller]
    pub(crate) fn ask(&mut self, request: &Out) -> In {
        self.send(&request.0);
        self.answer_to(request)
    }

    /// The next message, which must be the answer to `request`.
    #[track_caller]
    pub(crate) fn answer_to(&mut self, request: &Out) -> In {
        let answer = self.message();
        assert_eq!(answer.id(), request.id(), "the transaction id: {answer:02x?}");
        let asked = u16::from_be_bytes([request.0[0], request.0[1]]);
        let of_class = |class| asked | message_type(class, 0);
        let is_answer = [of_class(SUCCESS), of_class(ERROR)].contains(&answer.message_type());
        assert!(is_answer, "the message type: {answer:02x?}");
        let [high, low] = FINGERPRINT.to_be_bytes();
        let tail = &request.0[20..];
        let asks = tail.len() >= 8 && tail[tail.len() - 8..].starts_with(&[high, low, 0, 4]);
        assert_eq!(answer.has(FINGERPRINT), asks, "FINGERPRINT only if the request had one");
        assert!(!asks || answer.is_fingerprinted(), "a FINGERPRINT that is right, and last");
        // Reads the code, if there is one.
        answer.code();
        answer
    }

    /// The code of the answer to `request`; 0 for success.
    #[track_caller]
    pub(crate) fn code(&mut self, request: &Out) -> u16 {
        self.ask(request).code()
    }

    /// Sends what nobody answers: the answer to the next Binding request comes first.
    #[track_caller]
    pub(crate) fn silence(&mut self, bytes: &[u8]) {
        self.send(bytes);
        self.quiet();
    }

    /// As [`Client::silence`] for bytes that do not begin as STUN does: a stream cannot go on
    /// behind them, so it is closed.
    #[track_caller]
    pub(crate) fn refused(&mut self, bytes: &[u8]) {
        if !self.wire.is_stream() {
            return self.silence(bytes);
        }
        self.send(bytes);
        assert_eq!(self.rest(), [0u8; 0], "no answer before the end");
    }

    /// Everything until the server closes the connection.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let Link::Stream(stream) = &mut self.link else { panic!("no stream") };
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the connection is not closed");
            }
            // A reset is an end, too, and so is TLS without a farewell.
            _ => self.is_closed = true,
        }
        rest
    }

    /// Nothing waits to be read.
    #[track_caller]
    pub(crate) fn quiet(&mut self) {
        let probe = Out::request(BINDING);
        self.send(&probe.0);
        let message = self.receive();
        assert_eq!(message.get(8..20), Some(&probe.id()[..]), "an answer: {message:02x?}");
    }

    /// Gets a realm and a nonce.
    #[track_caller]
    pub(crate) fn challenge(&mut self) -> In {
        let answer = self.ask(&Out::request(ALLOCATE));
        assert_eq!(answer.code(), 401);
        self.heed(&answer);
        answer
    }

    /// Takes realm, nonce and algorithms of a challenge.
    #[track_caller]
    pub(crate) fn heed(&mut self, answer: &In) {
        let value = |kind| answer.attribute(kind).expect("a part of the challenge").to_vec();
        self.realm = String::from_utf8(value(REALM)).expect("a realm in UTF-8");
        self.nonce = value(NONCE);
        self.algorithms = value(PASSWORD_ALGORITHMS);
    }

    pub(crate) fn md5_key(&self) -> Vec<u8> {
        md5_key(&self.username, &self.realm, &self.password)
    }

    pub(crate) fn sha256_key(&self) -> Vec<u8> {
        sha256_key(&self.username, &self.realm, &self.password)
    }

    /// USERNAME, REALM and NONCE, without integrity.
    pub(crate) fn named(&self, request: Out) -> Out {
        request.credential(&self.username, &self.realm, &self.nonce)
    }

    /// Signs as a client of RFC 5389 does.
    pub(crate) fn sign(&self, request: Out) -> Out {
        self.named(request).sha1(&self.md5_key())
    }

    /// USERNAME, REALM, NONCE and both attributes of algorithms, without integrity.
    pub(crate) fn choosing(&self, request: Out, algorithm: [u8; 4]) -> Out {
        self.named(request)
            .attribute(PASSWORD_ALGORITHM, &algorithm)
            .attribute(PASSWORD_ALGORITHMS, &self.algorithms)
    }

    /// Signs as RFC 8489 prefers it.
    pub(crate) fn sign_sha256(&self, request: Out) -> Out {
        self.choosing(request, super::wire::SHA_256).sha256(&self.sha256_key())
    }

    /// Signs a request, asks, and sees that the answer is signed alike; takes a challenge first if
    /// there was none.
    #[track_caller]
    pub(crate) fn ask_signed(&mut self, request: Out) -> In {
        if self.nonce.is_empty() {
            self.challenge();
        }
        let request = self.sign(request);
        let answer = self.ask(&request);
        self.assert_sha1(&answer);
        answer
    }

    /// The answer has MESSAGE-INTEGRITY by the MD5 key, and no other integrity.
    #[track_caller]
    pub(crate) fn assert_sha1(&self, answer: &In) {
        assert!(answer.is_signed(MESSAGE_INTEGRITY, &self.md5_key()), "{answer:02x?}");
        assert!(!answer.has(MESSAGE_INTEGRITY_SHA256), "{answer:02x?}");
    }

    /// The answer has MESSAGE-INTEGRITY-SHA256 by `key`.
    #[track_caller]
    pub(crate) fn assert_sha256(&self, answer: &In, key: &[u8]) {
        assert!(answer.is_signed(MESSAGE_INTEGRITY_SHA256, key), "{answer:02x?}");
    }

    /// The answer has no integrity: nobody is proven.
    #[track_caller]
    pub(crate) fn assert_unsigned(&self, answer: &In) {
        let signed = answer.has(MESSAGE_INTEGRITY) || answer.has(MESSAGE_INTEGRITY_SHA256);
        assert!(!signed, "{answer:02x?}");
    }
}
