//! A hundred thousand datagrams and frames of garbage, after which the daemon serves as before,
//! with memory as before. The seed is fixed, so that a failure repeats.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use turncast::credentials::Entropy;
use webrtc_stun::agent::TransactionId;
use webrtc_stun::message::{
    BINDING_REQUEST, CLASS_INDICATION, CLASS_REQUEST, METHOD_ALLOCATE, METHOD_CHANNEL_BIND,
    METHOD_CREATE_PERMISSION, METHOD_REFRESH, METHOD_SEND, Message, MessageType, Method,
};

use crate::harness::{DEADLINE, Daemon, Setup};
use crate::relay::client::Client;
use crate::ws::Ws;

const COUNT: usize = 100_000;

/// How much more memory the daemon may hold afterwards: caches and allocator slack.
const SLACK_KIB: u64 = 16 * 1024;

const CONFIG: &str = r#"
[turn]
users = [{ name = "alice", password = "password-of-alice-1" }]
allow_peers = ["127.0.0.3"]
[broadcast]
viewers_per_room = 1000
rooms = 100000
grace_secs = 0
[web.limits]
messages_per_sec = 100000
bytes_per_sec = 1073741824
hellos_per_address_per_min = 1000000
"#;

/// Changes a template: some bytes, some bits, its length; or makes something new of its size.
fn mutate(entropy: &mut Entropy, template: &[u8]) -> Vec<u8> {
    let mut bytes = template.to_vec();
    match entropy.below(6) {
        0 => {
            let len = entropy.below(1500) as usize;
            bytes.resize(len, 0);
            entropy.fill(&mut bytes);
        }
        1 => bytes.truncate(entropy.below(bytes.len() as u32 + 1) as usize),
        2 => {
            let mut tail = vec![0; entropy.below(64) as usize];
            entropy.fill(&mut tail);
            bytes.extend(tail);
        }
        _ => {
            for _ in 0..=entropy.below(4) {
                let at = entropy.below(bytes.len() as u32) as usize;
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = entropy.u64() as u8;
                }
            }
        }
    }
    bytes
}

/// Datagrams that are worth mutating.
fn datagrams() -> Vec<Vec<u8>> {
    let message = |method: Method, attributes: &[(u16, &[u8])]| {
        let mut message = Message::new();
        let class = if method == METHOD_SEND { CLASS_INDICATION } else { CLASS_REQUEST };
        message.set_type(MessageType::new(method, class));
        message.new_transaction_id().expect("random numbers");
        message.write_header();
        for (kind, value) in attributes {
            message.add(webrtc_stun::attributes::AttrType(*kind), value);
        }
        message.raw
    };
    let mut binding = Message::new();
    binding.build(&[Box::<TransactionId>::default(), Box::new(BINDING_REQUEST)]).expect("built");
    let peer = [0, 1, 0x21, 0x12, 0x5e, 0x12, 0xa4, 0x41];
    vec![
        binding.raw.clone(),
        message(METHOD_ALLOCATE, &[(0x19, &[17, 0, 0, 0]), (0x0d, &600u32.to_be_bytes())]),
        message(
            METHOD_ALLOCATE,
            &[
                (0x19, &[17, 0, 0, 0]),
                (0x06, b"alice"),
                (0x14, b"turncast"),
                (0x15, b"obMatJos2AAAAabcdefghijklmnopqrstuvwxyz0"),
                (0x08, &[7; 20]),
            ],
        ),
        message(METHOD_CREATE_PERMISSION, &[(0x12, &peer), (0x06, b"alice"), (0x08, &[7; 20])]),
        message(METHOD_CHANNEL_BIND, &[(0x0c, &[0x40, 0, 0, 0]), (0x12, &peer)]),
        message(METHOD_REFRESH, &[(0x0d, &0u32.to_be_bytes())]),
        message(METHOD_SEND, &[(0x12, &peer), (0x13, b"payload")]),
        [&[0x40, 0x00, 0x00, 0x08][..], b"payload!"].concat(),
        vec![0x40, 0x00, 0xff, 0xff],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ]
}

/// Shows that the relay answers, and so that it has read what was sent before.
fn answers(probe: &UdpSocket) -> bool {
    let mut binding = Message::new();
    binding.build(&[Box::<TransactionId>::default(), Box::new(BINDING_REQUEST)]).expect("built");
    probe.send(&binding.raw).expect("sent");
    let mut buffer = [0; 512];
    probe.recv(&mut buffer).is_ok()
}

fn relays(daemon: &Daemon) {
    let mut client = Client::new(daemon.turn(), "alice", "password-of-alice-1");
    let relayed = client.allocate().expect("an allocation");
    let peer = UdpSocket::bind("127.0.0.3:0").expect("a peer");
    peer.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let address = peer.local_addr().expect("bound");
    client.bind_channel(0x4000, address).expect("a channel");
    client.send_channel(0x4000, b"through");
    let mut buffer = [0; 64];
    let (read, from) = peer.recv_from(&mut buffer).expect("relayed");
    assert_eq!((&buffer[..read], from), (&b"through"[..], relayed));
    client.refresh(0).expect("deleted");
}

#[test]
fn a_hundred_thousand_bad_datagrams_change_nothing() {
    let daemon = Setup::new(CONFIG).start();
    let mut entropy = Entropy::from_seed([41; 32]);
    let templates = datagrams();
    // A live allocation, so that mutated indications and ChannelData meet one.
    let mut client = Client::new(daemon.turn(), "alice", "password-of-alice-1");
    client.allocate().expect("an allocation");
    client.bind_channel(0x4000, "127.0.0.3:9".parse().expect("an address")).expect("a channel");
    let strangers: Vec<UdpSocket> = (0..4).map(|_| connected(daemon.turn())).collect();
    let probe = connected(daemon.turn());
    probe.set_read_timeout(Some(Duration::from_secs(2))).expect("a deadline");
    let mut memory = 0;
    for sent in 0..COUNT {
        if sent % 64 == 0 {
            // A datagram that was lost to a full buffer is no fault; silence is.
            assert!((0..10).any(|_| answers(&probe)), "no answer after {sent} datagrams");
        }
        if sent == COUNT / 10 {
            memory = daemon.memory_kib();
        }
        let template = &templates[entropy.below(templates.len() as u32) as usize];
        let datagram = mutate(&mut entropy, template);
        let from = entropy.below(5) as usize;
        let socket = strangers.get(from).unwrap_or(&client.socket);
        // The kernel may say that an earlier one was refused; that is between it and us.
        let _ = socket.send(&datagram);
    }
    assert!((0..10).any(|_| answers(&probe)), "no answer at the end");
    assert!(daemon.metric("turncast_turn_dropped_total{reason=\"malformed\"}") > 1000);
    assert_eq!(daemon.metric("turncast_panics_total"), 0);
    relays(&daemon);
    let after = daemon.memory_kib();
    assert!(after < memory + SLACK_KIB, "{memory} KiB before, {after} KiB after");
    daemon.stop();
}

fn connected(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.connect(server).expect("a route");
    socket
}

/// Messages that are worth mutating.
const MESSAGES: &[&str] = &[
    r#"{"t":"hello","versions":[1],"role":"watcher","room":"abuse"}"#,
    r#"{"t":"hello","versions":[1],"role":"broadcaster","name":"x"}"#,
    r#"{"t":"hello","versions":[1],"role":"watcher","resume":{"token":"x","last_seq":1}}"#,
    r#"{"t":"offer","link":"l","sdp":"v=0\r\na=candidate:1 1 udp 1 192.0.2.1 9 typ host"}"#,
    r#"{"t":"candidates","link":"l","candidates":[{"candidate":"candidate:1 1 udp"}]}"#,
    r#"{"t":"restart","link":"l","rebuild":true}"#,
    r#"{"t":"report","link":"l","state":"connected","path":"udp"}"#,
    r#"{"t":"ping","id":"1"}"#,
    r#"{"t":"end"}"#,
];

/// A client's frame around `payload`; the first byte is FIN and the type.
pub(crate) fn frame(first: u8, payload: &[u8], entropy: &mut Entropy) -> Vec<u8> {
    let mut mask = [0; 4];
    entropy.fill(&mut mask);
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Opens a WebSocket by hand, writes these bytes and reads until the server closes or is done.
pub(crate) fn pour(web: SocketAddr, frames: &[u8]) {
    let mut stream = TcpStream::connect(web).expect("somebody listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {web}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    // Writing fails when the server has closed already, which is its good right.
    let _ = stream.write_all(request.as_bytes()).and_then(|()| stream.write_all(frames));
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut sink = [0; 16 * 1024];
    while matches!(stream.read(&mut sink), Ok(1..)) {}
}

#[test]
fn a_hundred_thousand_bad_frames_change_nothing() {
    let daemon = Setup::new(CONFIG).start();
    let mut entropy = Entropy::from_seed([42; 32]);
    let (mut sent, mut memory) = (0, 0);
    while sent < COUNT {
        // A hello that lets the others in, and about as many as the server bears of one socket.
        let mut frames = Vec::new();
        if entropy.below(10) > 0 {
            frames = frame(0x81, MESSAGES[entropy.below(2) as usize].as_bytes(), &mut entropy);
        }
        for _ in 0..14 {
            let template = MESSAGES[entropy.below(MESSAGES.len() as u32) as usize].as_bytes();
            let good = entropy.below(3) == 0;
            let mut payload = if good { template.to_vec() } else { mutate(&mut entropy, template) };
            if entropy.below(40) > 0 {
                // What is no UTF-8 ends the socket at once, and the rest would go unread.
                payload = String::from_utf8_lossy(&payload).into_owned().into_bytes();
            }
            let first = if entropy.below(200) == 0 { entropy.u64() as u8 } else { 0x81 };
            let mut whole = frame(first, &payload, &mut entropy);
            if entropy.below(200) == 0 {
                whole = mutate(&mut entropy, &whole);
            }
            frames.extend(whole);
            sent += 1;
        }
        pour(daemon.web(), &frames);
        if memory == 0 && sent > COUNT / 10 {
            memory = daemon.memory_kib();
        }
    }
    assert!(daemon.metric("turncast_refusals_total{reason=\"bad_message\"}") > 40_000);
    let welcome = Ws::open(daemon.web()).hello("watcher", "afterwards", None);
    assert_eq!(welcome["t"], "welcome", "{welcome}");
    relays(&daemon);
    daemon.wait_for_metric("turncast_conns", 0);
    let after = daemon.memory_kib();
    assert!(after < memory + SLACK_KIB, "{memory} KiB before, {after} KiB after");
    daemon.stop();
}
