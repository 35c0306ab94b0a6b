//! What a client over TCP or TLS says in one piece, and what it is sent together: in order, each
//! request at its place, and nobody else waits for it.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Instant;

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use rustls::{ClientConnection, StreamOwned};

use crate::conformance::client::{CONFIG, Client, Server, Wire};
use crate::conformance::wire::{
    ALLOCATE, BINDING, CHANNEL_BIND, CHANNEL_NUMBER, CREATE_PERMISSION, DATA, DONT_FRAGMENT, In,
    Out, REFRESH, SEND, SUCCESS, XOR_PEER_ADDRESS, XOR_RELAYED_ADDRESS,
};
use crate::harness::DEADLINE;
use crate::streams::connect;

/// The channel of the first peer.
const CHANNEL: u16 = 0x4000;

fn peer() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.3:0").expect("a peer");
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let address = socket.local_addr().expect("bound");
    (socket, address)
}

fn channel_bind(number: u16, peer: SocketAddr) -> Out {
    Out::request(CHANNEL_BIND)
        .attribute(CHANNEL_NUMBER, &[(number >> 8) as u8, number as u8, 0, 0])
        .xor_address(XOR_PEER_ADDRESS, peer)
}

/// A client with an allocation and where that is.
fn allocated(server: &Server, wire: Wire) -> (Client, SocketAddr) {
    let mut client = server.client(wire);
    client.challenge();
    let answer = client.ask_signed(Out::allocate());
    assert!(answer.is(SUCCESS, ALLOCATE), "{}", answer.code());
    (client, answer.xor_address(XOR_RELAYED_ADDRESS))
}

/// ChannelData whose payload begins with a number, as long as that wants it.
fn packet(channel: u16, number: u16) -> (Vec<u8>, Vec<u8>) {
    let length = 2 + usize::from(number) * 7 % 301;
    let mut payload = vec![number as u8; length];
    payload[..2].copy_from_slice(&number.to_be_bytes());
    let mut frame = channel.to_be_bytes().to_vec();
    frame.extend((length as u16).to_be_bytes());
    frame.extend(&payload);
    frame.resize(frame.len().next_multiple_of(4), 0);
    (payload, frame)
}

fn frames(channel: u16, numbers: std::ops::Range<u16>) -> Vec<u8> {
    numbers.flat_map(|number| packet(channel, number).1).collect()
}

/// The payloads of these numbers arrive, in this order.
#[track_caller]
fn expect(peer: &UdpSocket, numbers: std::ops::Range<u16>) {
    let mut buffer = [0; 2048];
    for number in numbers {
        let count = peer.recv(&mut buffer).expect("a payload");
        assert!(buffer[..count] == packet(0, number).0, "{number} is not next");
    }
}

#[test]
fn many_messages_of_one_write_leave_in_order_and_half_of_one_waits_for_the_rest() {
    let server = Server::start(CONFIG);
    for wire in Wire::STREAMS {
        let (mut client, _) = allocated(&server, wire);
        let (peer, to) = peer();
        client.ask_signed(channel_bind(CHANNEL, to));
        // More than one round takes, and no border where it ends; as much as a peer has room for.
        let all = frames(CHANNEL, 0..120);
        let (most, rest) = all.split_at(all.len() - 101);
        client.send(most);
        expect(&peer, 0..119);
        // What comes behind the other half is in its order, too.
        client.send(&[rest, &frames(CHANNEL, 120..130)].concat());
        expect(&peer, 119..130);
    }
    server.daemon.stop();
}

#[test]
fn a_request_amid_payloads_takes_effect_at_its_place() {
    let server = Server::start(CONFIG);
    let mut dropped = 0;
    for wire in Wire::STREAMS {
        let (mut client, _) = allocated(&server, wire);
        let (peer, to) = peer();
        client.ask_signed(Out::request(CREATE_PERMISSION).xor_address(XOR_PEER_ADDRESS, to));
        // Without a channel, with one, and without an allocation.
        let bind = client.sign(channel_bind(CHANNEL, to));
        let end = client.sign(Out::refresh(0));
        let before = frames(CHANNEL, 0..3);
        let between = frames(CHANNEL, 3..23);
        let after = frames(CHANNEL, 23..30);
        client.send(&[&before[..], &bind.0, &between, &end.0, &after].concat());
        assert!(client.answer_to(&bind).is(SUCCESS, CHANNEL_BIND));
        assert!(client.answer_to(&end).is(SUCCESS, REFRESH));
        expect(&peer, 3..23);
        dropped += 7;
        let reason = |reason| format!("turncast_turn_dropped_total{{reason=\"{reason}\"}}");
        server.daemon.wait_for_metric(&reason("no_allocation"), dropped);
        peer.set_nonblocking(true).expect("an option");
        assert!(peer.recv(&mut [0; 8]).is_err(), "nothing else was sent");
    }
    server.daemon.stop();
}

#[test]
fn two_peers_and_unfragmented_packets_keep_their_order_each() {
    let server = Server::start(CONFIG);
    for wire in Wire::STREAMS {
        let (mut client, _) = allocated(&server, wire);
        let ((one, to_one), (other, to_other)) = (peer(), peer());
        client.ask_signed(channel_bind(CHANNEL, to_one));
        client.ask_signed(channel_bind(CHANNEL + 1, to_other));
        let both = |number| [packet(CHANNEL, number).1, packet(CHANNEL + 1, number).1].concat();
        let unfragmented = Out::indication(SEND)
            .xor_address(XOR_PEER_ADDRESS, to_one)
            .attribute(DATA, &packet(0, 20).0)
            .attribute(DONT_FRAGMENT, &[]);
        let mut all: Vec<u8> = (0..20).flat_map(both).collect();
        all.extend(unfragmented.0);
        all.extend((21..40).flat_map(both));
        client.send(&all);
        expect(&one, 0..40);
        expect(&other, 0..20);
        expect(&other, 21..40);
    }
    server.daemon.stop();
}

#[test]
fn over_tls_each_message_is_a_record_also_when_many_are_sent_at_once() {
    let server = Server::start(CONFIG);
    let (peer, from) = peer();
    let tls = server.handshake(server.address(Wire::Tls), &[]).expect("TLS");
    let local = tls.sock.local_addr().expect("connected");
    let records = Records(Rc::new(RefCell::new(tls)));
    let mut client = Client::over(Wire::Tls, records.clone(), local, server.address(Wire::Tls));
    client.challenge();
    let relayed = client.ask_signed(Out::allocate()).xor_address(XOR_RELAYED_ADDRESS);
    client.ask_signed(channel_bind(CHANNEL, from));
    for number in 0..100 {
        peer.send_to(&packet(0, number).0, relayed).expect("a send");
    }
    for number in 0..100 {
        assert!(records.next() == packet(CHANNEL, number).1, "{number} is no record alone");
    }
    server.daemon.stop();
}

/// A connection whose records are read one by one.
#[derive(Clone)]
struct Records(Rc<RefCell<StreamOwned<ClientConnection, TcpStream>>>);

impl Records {
    /// What the next record says that has anything for us.
    fn next(&self) -> Vec<u8> {
        let StreamOwned { conn, sock } = &mut *self.0.borrow_mut();
        loop {
            let mut record = vec![0; 5];
            sock.read_exact(&mut record).expect("the header of a record");
            let length = u16::from_be_bytes([record[3], record[4]]);
            record.resize(5 + usize::from(length), 0);
            sock.read_exact(&mut record[5..]).expect("the rest of a record");
            let mut rest = &record[..];
            while !rest.is_empty() {
                conn.read_tls(&mut rest).expect("room for a record");
            }
            let state = conn.process_new_packets().expect("a good record");
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            conn.reader().read_exact(&mut plain).expect("what is there");
            if !plain.is_empty() {
                return plain;
            }
        }
    }
}

impl Read for Records {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().read(buffer)
    }
}

impl Write for Records {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.borrow_mut().flush()
    }
}

#[test]
fn whoever_never_stops_holds_up_nobody() {
    let server = Server::start(CONFIG);
    let busy: Vec<TcpStream> = (0..4).map(|_| connect(server.address(Wire::Tcp))).collect();
    // Nobody waits for these; the daemon reads, and drops them.
    let flood = [0x40, 0, 0, 0].repeat(64 * 1024);
    std::thread::scope(|scope| {
        for mut stream in &busy {
            let flood = &flood;
            scope.spawn(move || while stream.write_all(flood).is_ok() {});
        }
        let mut other = server.client(Wire::Tcp);
        for _ in 0..50 {
            let request = Out::request(BINDING);
            assert!(other.ask(&request).is(SUCCESS, BINDING));
        }
        for stream in &busy {
            stream.shutdown(std::net::Shutdown::Both).expect("connected");
        }
    });
    server.daemon.stop();
}

/// Sends datagrams of `segment` bytes in one piece, the last one shorter.
fn send_run(peer: &UdpSocket, to: SocketAddr, bytes: &[u8], segment: u16) {
    let control = [ControlMessage::UdpGsoSegments(&segment)];
    let (slices, to) = ([IoSlice::new(bytes)], SockaddrStorage::from(to));
    let sent = sendmsg(peer.as_raw_fd(), &slices, &control, MsgFlags::empty(), Some(&to));
    assert_eq!(sent, Ok(bytes.len()));
}

#[test]
fn bursts_of_peers_are_taken_merged_and_arrive_one_by_one() {
    let server = Server::start(CONFIG);
    let merged = "turncast_udp_run_packets_total{run=\"merged\"}";
    for wire in Wire::STREAMS {
        let (mut client, relayed) = allocated(&server, wire);
        let (peer, from) = peer();
        client.ask_signed(Out::request(CREATE_PERMISSION).xor_address(XOR_PEER_ADDRESS, from));
        for has_channel in [false, true] {
            if has_channel {
                client.ask_signed(channel_bind(CHANNEL, from));
            }
            // The socket begins to take runs whole when it has seen one.
            let (before, began) = (server.daemon.metric(merged), Instant::now());
            for round in 0u8.. {
                let bytes: Vec<u8> = (0..13 * 501 + 77).map(|at: usize| at as u8 ^ round).collect();
                send_run(&peer, relayed, &bytes, 501);
                for payload in bytes.chunks(501) {
                    let message = client.receive();
                    if has_channel {
                        assert_eq!(message[..2], CHANNEL.to_be_bytes());
                        assert!(&message[4..] == payload, "ChannelData is not as it was sent");
                    } else {
                        let indication = In::read(&message);
                        assert!(indication.attribute(DATA) == Some(payload), "nor is DATA");
                        assert_eq!(indication.xor_address(XOR_PEER_ADDRESS), from);
                    }
                }
                if server.daemon.metric(merged) >= before + 14 {
                    break;
                }
                assert!(began.elapsed() < DEADLINE, "no run was taken whole");
            }
        }
    }
    server.daemon.stop();
}
