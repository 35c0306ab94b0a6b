//! A TURN client that does one thing at a time: the packets of a test are the ones it asks for.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use webrtc_stun::attributes as attr;
use webrtc_stun::error_code::ErrorCodeAttribute;
use webrtc_stun::integrity::MessageIntegrity;
use webrtc_stun::message as stun;
use webrtc_stun::message::{Getter, Message, Setter};
use webrtc_stun::textattrs::TextAttribute;
use webrtc_stun::xoraddr::XorMappedAddress;

/// Both directions of a TCP connection, whatever is around it.
pub(crate) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A client with one UDP socket, or with a stream instead.
pub(crate) struct Client {
    /// Unused by a client with a stream.
    pub(crate) socket: UdpSocket,
    pub(crate) stream: Option<RefCell<Box<dyn Stream>>>,
    server: SocketAddr,
    username: String,
    password: String,
    challenge: Option<(String, String)>,
}

/// What the relay hands to a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Relayed {
    /// ChannelData: number and payload.
    Channel(u16, Vec<u8>),
    /// A Data indication: peer and payload.
    Indication(SocketAddr, Vec<u8>),
    /// A Data indication of an ICMP error: peer, type and code.
    Icmp(SocketAddr, u8, u8),
}

impl Client {
    /// A client of `server` with a long-term credential; its socket hears nobody but `server`.
    pub(crate) fn new(server: SocketAddr, username: &str, password: &str) -> Self {
        let any = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let socket = UdpSocket::bind(any).expect("a client socket");
        Self::with(socket, server, username, password)
    }

    /// The same with a socket that is bound already.
    pub(crate) fn with(
        socket: UdpSocket,
        server: SocketAddr,
        username: &str,
        password: &str,
    ) -> Self {
        socket.connect(server).expect("a route to the server");
        socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let (username, password) = (username.to_owned(), password.to_owned());
        Self { socket, stream: None, server, username, password, challenge: None }
    }

    /// The same over a stream that is connected to `server`; reads must have a deadline.
    pub(crate) fn over(
        stream: impl Stream + 'static,
        server: SocketAddr,
        username: &str,
        password: &str,
    ) -> Self {
        let stream: Box<dyn Stream> = Box::new(stream);
        Self { stream: Some(RefCell::new(stream)), ..Self::new(server, username, password) }
    }

    /// The name that it signs with.
    pub(crate) fn username(&self) -> &str {
        &self.username
    }

    /// The mapped address that a Binding request is answered with.
    pub(crate) fn bind(&mut self) -> SocketAddr {
        let answer = self.exchange(stun::METHOD_BINDING, |_| ());
        address(&answer, attr::ATTR_XORMAPPED_ADDRESS)
    }

    /// Allocates and gives the relayed address, or the error code.
    pub(crate) fn allocate(&mut self) -> Result<SocketAddr, u16> {
        let family: u8 = if self.server.is_ipv4() { 1 } else { 2 };
        let answer = self.request(stun::METHOD_ALLOCATE, |message| {
            message.add(attr::ATTR_REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            if family == 2 {
                message.add(attr::ATTR_REQUESTED_ADDRESS_FAMILY, &[family, 0, 0, 0]);
            }
        })?;
        Ok(address(&answer, attr::ATTR_XOR_RELAYED_ADDRESS))
    }

    /// Allocates with attributes of its own and gives the answer, or the error code.
    pub(crate) fn allocate_with(
        &mut self,
        attributes: &[(attr::AttrType, &[u8])],
    ) -> Result<Message, u16> {
        self.request(stun::METHOD_ALLOCATE, |message| {
            message.add(attr::ATTR_REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            attributes.iter().for_each(|(kind, value)| message.add(*kind, value));
        })
    }

    /// Allocates for TCP (RFC 6062) and gives the relayed address, or the error code.
    pub(crate) fn allocate_tcp(&mut self) -> Result<SocketAddr, u16> {
        let answer = self.request(stun::METHOD_ALLOCATE, |message| {
            message.add(attr::ATTR_REQUESTED_TRANSPORT, &[6, 0, 0, 0]);
        })?;
        Ok(address(&answer, attr::ATTR_XOR_RELAYED_ADDRESS))
    }

    /// Has the relay connect to a peer, and gives the id of the connection.
    pub(crate) fn connect(&mut self, peer: SocketAddr) -> Result<u32, u16> {
        let answer = self.request(stun::METHOD_CONNECT, |message| add_address(message, peer))?;
        Ok(connection_id(&answer))
    }

    /// Turns this connection into the data connection of that id.
    pub(crate) fn bind_connection(&mut self, id: u32) -> Result<(), u16> {
        let id = id.to_be_bytes();
        self.request(stun::METHOD_CONNECTION_BIND, |message| {
            message.add(attr::ATTR_CONNECTION_ID, &id);
        })
        .map(drop)
    }

    /// The id and the peer of the next ConnectionAttempt.
    pub(crate) fn attempt(&self) -> (u32, SocketAddr) {
        loop {
            let message = parse(self.datagram());
            if message.typ.method == stun::METHOD_CONNECTION_ATTEMPT {
                return (connection_id(&message), address(&message, attr::ATTR_XOR_PEER_ADDRESS));
            }
        }
    }

    /// Ends the relayed address of a family: 1 for IPv4, 2 for IPv6.
    pub(crate) fn delete_family(&mut self, family: u8) -> Result<(), u16> {
        self.request(stun::METHOD_REFRESH, |message| {
            message.add(attr::ATTR_LIFETIME, &[0; 4]);
            message.add(attr::ATTR_REQUESTED_ADDRESS_FAMILY, &[family, 0, 0, 0]);
        })
        .map(drop)
    }

    /// Refreshes for `secs`; 0 ends the allocation.
    pub(crate) fn refresh(&mut self, secs: u32) -> Result<(), u16> {
        let lifetime = secs.to_be_bytes();
        self.request(stun::METHOD_REFRESH, |message| message.add(attr::ATTR_LIFETIME, &lifetime))
            .map(drop)
    }

    /// Installs permissions.
    pub(crate) fn permit(&mut self, peers: &[SocketAddr]) -> Result<(), u16> {
        self.request(stun::METHOD_CREATE_PERMISSION, |message| {
            for peer in peers {
                add_address(message, *peer);
            }
        })
        .map(drop)
    }

    /// Binds a channel.
    pub(crate) fn bind_channel(&mut self, number: u16, peer: SocketAddr) -> Result<(), u16> {
        self.request(stun::METHOD_CHANNEL_BIND, |message| {
            let [high, low] = number.to_be_bytes();
            message.add(attr::ATTR_CHANNEL_NUMBER, &[high, low, 0, 0]);
            add_address(message, peer);
        })
        .map(drop)
    }

    /// Sends ChannelData, with padding on a stream only.
    pub(crate) fn send_channel(&self, number: u16, payload: &[u8]) {
        let len = u16::try_from(payload.len()).expect("a payload of at most 65,535 bytes");
        let mut datagram = number.to_be_bytes().to_vec();
        datagram.extend(len.to_be_bytes());
        datagram.extend(payload);
        self.send(&datagram);
    }

    /// Sends a Send indication.
    pub(crate) fn send_indication(&self, peer: SocketAddr, payload: &[u8]) {
        let mut message = message(stun::METHOD_SEND, stun::CLASS_INDICATION);
        add_address(&mut message, peer);
        message.add(attr::ATTR_DATA, payload);
        self.send(&message.raw);
    }

    /// Sends a Send indication with DONT-FRAGMENT.
    pub(crate) fn send_unfragmented(&self, peer: SocketAddr, payload: &[u8]) {
        let mut message = message(stun::METHOD_SEND, stun::CLASS_INDICATION);
        add_address(&mut message, peer);
        message.add(attr::ATTR_DONT_FRAGMENT, &[]);
        message.add(attr::ATTR_DATA, payload);
        self.send(&message.raw);
    }

    /// The next payload that is relayed to this client; ICMP errors are passed over.
    pub(crate) fn receive_payload(&self) -> Relayed {
        let relayed = std::iter::repeat_with(|| self.receive());
        let mut payloads = relayed.filter(|relayed| !matches!(relayed, Relayed::Icmp(..)));
        payloads.next().expect("it never ends")
    }

    /// The next thing that is relayed to this client.
    pub(crate) fn receive(&self) -> Relayed {
        loop {
            let datagram = self.datagram();
            if (0x40..0x50).contains(&datagram[0]) {
                let number = u16::from_be_bytes([datagram[0], datagram[1]]);
                let len = usize::from(u16::from_be_bytes([datagram[2], datagram[3]]));
                return Relayed::Channel(number, datagram[4..4 + len].to_vec());
            }
            let message = parse(datagram);
            if message.typ.method == stun::METHOD_DATA {
                let peer = address(&message, attr::ATTR_XOR_PEER_ADDRESS);
                if let Ok(icmp) = message.get(attr::AttrType(0x8004)) {
                    return Relayed::Icmp(peer, icmp[2], icmp[3]);
                }
                let payload = message.get(attr::ATTR_DATA).expect("a DATA attribute");
                return Relayed::Indication(peer, payload);
            }
        }
    }

    /// One authenticated request, with the challenge answered when there is one.
    fn request(
        &mut self,
        method: stun::Method,
        fill: impl Fn(&mut Message),
    ) -> Result<Message, u16> {
        for _ in 0..3 {
            let answer = self.exchange(method, &fill);
            if answer.typ.class == stun::CLASS_SUCCESS_RESPONSE {
                return Ok(answer);
            }
            let mut code = ErrorCodeAttribute::default();
            code.get_from(&answer).expect("an ERROR-CODE attribute");
            let text = |kind| TextAttribute::get_from_as(&answer, kind).map(|found| found.text);
            match (code.code.0, text(attr::ATTR_REALM), text(attr::ATTR_NONCE)) {
                (401, Ok(realm), Ok(nonce)) if self.challenge.is_none() => {
                    self.challenge = Some((realm, nonce));
                }
                (438, Ok(realm), Ok(nonce)) => self.challenge = Some((realm, nonce)),
                (code, ..) => return Err(code),
            }
        }
        panic!("the server challenges without end");
    }

    fn exchange(&mut self, method: stun::Method, fill: impl Fn(&mut Message)) -> Message {
        let mut request = message(method, stun::CLASS_REQUEST);
        fill(&mut request);
        if let Some((realm, nonce)) = self.challenge.clone() {
            request.add(attr::ATTR_USERNAME, self.username.as_bytes());
            request.add(attr::ATTR_REALM, realm.as_bytes());
            request.add(attr::ATTR_NONCE, nonce.as_bytes());
            let (username, password) = (self.username.clone(), self.password.clone());
            MessageIntegrity::new_long_term_integrity(username, realm, password)
                .add_to(&mut request)
                .expect("an integrity attribute");
        }
        self.send(&request.raw);
        loop {
            let datagram = self.datagram();
            if datagram.starts_with(&[0x40]) {
                continue;
            }
            let answer = parse(datagram);
            if answer.transaction_id == request.transaction_id {
                return answer;
            }
        }
    }

    fn send(&self, message: &[u8]) {
        match &self.stream {
            None => drop(self.socket.send(message).expect("a send to the server")),
            Some(stream) => {
                let mut padded = message.to_vec();
                padded.resize(message.len().next_multiple_of(4), 0);
                stream.borrow_mut().write_all(&padded).expect("a write to the server");
            }
        }
    }

    /// One message; on a stream it ends where its padding does.
    fn datagram(&self) -> Vec<u8> {
        if let Some(stream) = &self.stream {
            let mut message = vec![0; 4];
            let mut stream = stream.borrow_mut();
            stream.read_exact(&mut message).expect("the header of a message in time");
            let len = usize::from(u16::from_be_bytes([message[2], message[3]]));
            let header = if message[0] < 4 { 20 } else { 4 };
            message.resize((header + len).next_multiple_of(4), 0);
            stream.read_exact(&mut message[4..]).expect("the rest of a message");
            return message;
        }
        let mut buffer = vec![0; 65_535];
        let len = self.socket.recv(&mut buffer).expect("a datagram from the server in time");
        buffer.truncate(len);
        buffer
    }
}

fn message(method: stun::Method, class: stun::MessageClass) -> Message {
    let mut message = Message::new();
    message.set_type(stun::MessageType::new(method, class));
    message.new_transaction_id().expect("a transaction id");
    message.write_header();
    message
}

fn parse(datagram: Vec<u8>) -> Message {
    let mut message = Message::new();
    message.raw = datagram;
    message.decode().expect("a STUN message");
    message
}

fn add_address(message: &mut Message, peer: SocketAddr) {
    let peer = XorMappedAddress { ip: peer.ip(), port: peer.port() };
    peer.add_to_as(message, attr::ATTR_XOR_PEER_ADDRESS).expect("an address attribute");
}

fn connection_id(message: &Message) -> u32 {
    let id = message.get(attr::ATTR_CONNECTION_ID).expect("a CONNECTION-ID attribute");
    u32::from_be_bytes(id.try_into().expect("4 bytes"))
}

/// Every relayed address of an answer, in order.
pub(crate) fn relayed_addresses(answer: &Message) -> Vec<SocketAddr> {
    let all = answer.attributes.0.iter();
    let relayed = all.filter(|found| found.typ == attr::ATTR_XOR_RELAYED_ADDRESS);
    let single = |found: &attr::RawAttribute| {
        let mut message = Message::new();
        message.transaction_id = answer.transaction_id;
        message.add(found.typ, &found.value);
        address(&message, found.typ)
    };
    relayed.map(single).collect()
}

fn address(message: &Message, kind: attr::AttrType) -> SocketAddr {
    let mut found = XorMappedAddress { ip: IpAddr::from([0; 4]), port: 0 };
    found.get_from_as(message, kind).expect("an address attribute");
    SocketAddr::new(found.ip, found.port)
}

/// How long a test waits for a datagram that must come.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
