//! Clients that are set up before anything is measured: allocated, permitted, with a channel.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::forwarder::CHANNEL;
use crate::wire::{self, In, Out};

/// Who the clients are.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    pub(crate) username: String,
    pub(crate) password: String,
}

/// What a client learned from the challenge.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    username: String,
    realm: String,
    nonce: Vec<u8>,
    key: Vec<u8>,
}

impl Account {
    /// Reads a 401 or 438.
    pub(crate) fn challenged(credential: &Credential, challenge: &In) -> Self {
        let attribute = |kind| challenge.attribute(kind).expect("a challenge has it").to_vec();
        let realm = String::from_utf8(attribute(wire::REALM)).expect("UTF-8");
        let Credential { username, password } = credential;
        let key = wire::md5_key(username, &realm, password);
        Self { username: username.clone(), realm, nonce: attribute(wire::NONCE), key }
    }

    /// Adds the credential and the proof.
    pub(crate) fn sign(&self, request: Out) -> Vec<u8> {
        request.credential(&self.username, &self.realm, &self.nonce).sha1(&self.key).0
    }
}

/// How a client reaches the server.
pub(crate) enum Link {
    /// A connected socket.
    Datagrams(UdpSocket),
    /// TCP, or TLS in it.
    Stream(Box<StreamLink>),
}

/// A connection and what is half read and half written.
pub(crate) struct StreamLink {
    tcp: TcpStream,
    tls: Option<ClientConnection>,
    unsent: Vec<u8>,
    unread: Vec<u8>,
}

/// One client.
pub(crate) struct Client {
    pub(crate) link: Link,
    pub(crate) relayed: SocketAddrV4,
    account: Option<Account>,
}

impl Client {
    /// A client without an allocation, which a forwarder does not know.
    pub(crate) fn plain(link: Link, relayed: SocketAddrV4) -> Self {
        Self { link, relayed, account: None }
    }

    /// Allocates: the challenge, then with a credential. `None` when the server still has an
    /// allocation of somebody who had this port before.
    pub(crate) fn allocate(mut link: Link, credential: &Credential) -> Option<Self> {
        let challenge = link.exchange(&Out::allocate().0);
        if challenge.code() == 437 {
            return None;
        }
        assert_eq!(challenge.code(), 401, "an Allocate without a credential");
        let account = Account::challenged(credential, &challenge);
        let answer = link.exchange(&account.sign(Out::allocate()));
        if answer.code() == 437 {
            return None;
        }
        assert!(answer.is(wire::SUCCESS, wire::ALLOCATE), "Allocate: {}", answer.code());
        let SocketAddr::V4(relayed) = answer.xor_address(wire::XOR_RELAYED_ADDRESS) else {
            panic!("a relayed address of IPv6");
        };
        Some(Self { link, relayed, account: Some(account) })
    }

    /// Binds the channel to a peer.
    pub(crate) fn bind(&mut self, peer: SocketAddrV4) {
        let Some(account) = &self.account else {
            register(self.datagrams(), peer);
            return;
        };
        let request = Out::request(wire::CHANNEL_BIND)
            .attribute(wire::CHANNEL_NUMBER, &[CHANNEL[0], CHANNEL[1], 0, 0])
            .xor_address(wire::XOR_PEER_ADDRESS, peer.into());
        let request = account.sign(request);
        let answer = self.link.exchange(&request);
        assert!(answer.is(wire::SUCCESS, wire::CHANNEL_BIND), "ChannelBind: {}", answer.code());
    }

    /// Ends the allocation.
    pub(crate) fn delete(mut self) {
        let account = self.account.take().expect("a client of a TURN server");
        let request = account.sign(Out::refresh(0));
        let answer = self.link.exchange(&request);
        assert!(answer.is(wire::SUCCESS, wire::REFRESH), "Refresh: {}", answer.code());
    }

    /// The socket of a client over UDP.
    pub(crate) fn datagrams(&self) -> &UdpSocket {
        match &self.link {
            Link::Datagrams(socket) => socket,
            Link::Stream(_) => panic!("a client over a stream"),
        }
    }

    /// The connection of a client over TCP or TLS.
    pub(crate) fn stream(&mut self) -> &mut StreamLink {
        match &mut self.link {
            Link::Stream(stream) => stream,
            Link::Datagrams(_) => panic!("a client over UDP"),
        }
    }
}

/// A server that outlives the cell need not keep what belonged to it.
impl Drop for Client {
    fn drop(&mut self) {
        if let (Some(account), Link::Datagrams(socket)) = (&self.account, &self.link) {
            // Nobody waits for the answer.
            let _ = socket.send(&account.sign(Out::refresh(0)));
        }
    }
}

/// Tells a forwarder of a client and its peer; gives the address of the socket in between.
pub(crate) fn register(socket: &UdpSocket, peer: SocketAddrV4) -> SocketAddrV4 {
    let mut request = vec![b'R'];
    request.extend(peer.ip().octets());
    request.extend(peer.port().to_be_bytes());
    let answer = ask(socket, &request);
    String::from_utf8_lossy(&answer).parse().expect("an address")
}

/// Sends until something comes back.
pub(crate) fn ask(socket: &UdpSocket, request: &[u8]) -> Vec<u8> {
    let mut buffer = [0; 2048];
    for _ in 0..20 {
        // A server that does not listen yet answers with an ICMP error, which is taken here.
        let _ = socket.send(request);
        match socket.recv(&mut buffer) {
            Ok(len) => return buffer[..len].to_vec(),
            Err(err) if err.kind() == ErrorKind::WouldBlock => {}
            Err(_) => std::thread::sleep(RETRY),
        }
    }
    panic!("no answer from {:?}", socket.peer_addr());
}

/// A socket for a client, connected.
pub(crate) fn socket(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.connect(server).expect("a route");
    socket.set_read_timeout(Some(RETRY)).expect("a deadline");
    widen(&socket);
    socket
}

/// Large buffers, and runs of datagrams in one piece, so that whoever receives is not what is
/// measured. Whether a server sends runs is its own affair.
pub(crate) fn widen(socket: &UdpSocket) {
    setsockopt(socket, sockopt::RcvBuf, &(4 << 20)).expect("a receive buffer");
    setsockopt(socket, sockopt::SndBuf, &(4 << 20)).expect("a send buffer");
    setsockopt(socket, sockopt::UdpGroSegment, &true).expect("UDP_GRO");
}

impl Link {
    /// Asks once and waits for the answer.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> In {
        match self {
            Self::Datagrams(socket) => In::read(&ask(socket, request)),
            Self::Stream(stream) => stream.exchange(request),
        }
    }
}

impl StreamLink {
    /// Connects; with a certificate to trust, over TLS.
    pub(crate) fn connect(server: SocketAddr, trust: Option<&CertificateDer<'static>>) -> Self {
        let tcp = TcpStream::connect(server).expect("a connection");
        tcp.set_nodelay(true).expect("no delay");
        tcp.set_nonblocking(true).expect("a connection that does not block");
        let tls = trust.map(tls);
        Self { tcp, tls, unsent: Vec::new(), unread: Vec::new() }
    }

    /// The connection, to wait for.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Writes a message; what does not fit now is kept and leaves first next time.
    pub(crate) fn send(&mut self, message: &[u8]) {
        self.send_burst(message, 1);
    }

    /// Writes a message so many times by one call; over TLS each is a record.
    pub(crate) fn send_burst(&mut self, message: &[u8], count: usize) {
        for _ in 0..count {
            match &mut self.tls {
                None => self.unsent.extend_from_slice(message),
                Some(tls) => {
                    tls.writer().write_all(message).expect("memory for a record");
                }
            }
        }
        self.flush();
    }

    fn flush(&mut self) {
        let blocked = |err: &std::io::Error| err.kind() == ErrorKind::WouldBlock;
        while let Some(tls) = self.tls.as_mut().filter(|tls| tls.wants_write()) {
            match tls.write_tls(&mut self.tcp) {
                Ok(_) => {}
                Err(err) if blocked(&err) => return,
                Err(err) => panic!("the server has closed: {err}"),
            }
        }
        while !self.unsent.is_empty() {
            match self.tcp.write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(err) if blocked(&err) => return,
                Err(err) => panic!("the server has closed: {err}"),
            }
        }
    }

    /// Reads what is there into `buffer`; 0 when nothing is.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> usize {
        if self.tls.is_none() {
            return taken(self.tcp.read(buffer));
        }
        let tls = self.tls.as_mut().expect("it was there");
        let have = taken(tls.reader().read(buffer));
        if have > 0 {
            return have;
        }
        if let Ok(1..) = tls.read_tls(&mut self.tcp) {
            tls.process_new_packets().expect("good records");
        }
        let have = taken(tls.reader().read(buffer));
        self.flush();
        have
    }

    fn exchange(&mut self, request: &[u8]) -> In {
        self.send(request);
        let mut buffer = [0; 4096];
        let deadline = std::time::Instant::now() + 20 * RETRY;
        loop {
            let len = self.receive(&mut buffer);
            self.unread.extend_from_slice(&buffer[..len]);
            if let [_, _, high, low, ..] = self.unread[..] {
                let whole = 20 + usize::from(u16::from_be_bytes([high, low]));
                if self.unread.len() >= whole {
                    return In::read(&self.unread.drain(..whole).collect::<Vec<_>>());
                }
            }
            self.flush();
            assert!(std::time::Instant::now() < deadline, "no answer over a stream");
        }
    }
}

/// The client's side of TLS.
pub(crate) fn tls(trust: &CertificateDer<'static>) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(trust.clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(crate::target::NAME).expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a client of TLS")
}

fn taken(result: std::io::Result<usize>) -> usize {
    match result {
        Ok(0) => panic!("the server has closed a connection"),
        Ok(len) => len,
        Err(err) if err.kind() == ErrorKind::WouldBlock => 0,
        Err(err) => panic!("a connection: {err}"),
    }
}

/// How long an answer may take before it is asked for again.
const RETRY: Duration = Duration::from_millis(500);
