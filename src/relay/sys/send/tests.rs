//! Sending through real sockets: in order, whole, and each error told once.

use super::super::calls::count;
use super::super::recv::RecvBatch;
use super::super::socket::{dead_peer, relay_socket, udp_listener};
use super::*;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Duration;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a test address")
}

fn sent(sent: usize) -> Outcome {
    Outcome { sent, ..Outcome::default() }
}

fn receiver(local: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(local).expect("a receiver");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a deadline");
    let local = socket.local_addr().expect("an address");
    (socket, local)
}

#[test]
fn more_than_a_batch_is_sent_in_order() {
    let (receiver, to) = receiver("127.0.0.1:0");
    let socket = relay_socket(address("127.0.0.1:0"), 1 << 20).expect("a relay socket");
    let payloads: Vec<Vec<u8>> = (0..150u8).map(|i| vec![i; usize::from(i)]).collect();
    let outcome = SendBatch::new().send(socket.as_fd(), payloads.len(), drop, |index| Datagram {
        bytes: &payloads[index],
        to,
        from: None,
        traffic_class: 0,
    });
    assert_eq!(outcome, sent(150));
    let mut buffer = [0; 256];
    for sent in &payloads {
        let (len, _) = receiver.recv_from(&mut buffer).expect("a datagram");
        assert_eq!(&buffer[..len], sent);
    }
}

#[test]
fn a_dead_peer_costs_a_live_one_nothing() {
    for local in ["127.0.0.1:0", "[::1]:0"] {
        let (live, to_live) = receiver(local);
        let (_held, to_dead) = dead_peer(local);
        let socket = relay_socket(address(local), 1 << 20).expect("a relay socket");
        let mut batch = SendBatch::new();
        for _ in 0..20 {
            let outcome = batch.send(socket.as_fd(), 64, drop, |index| Datagram {
                bytes: b"frame",
                to: if index % 3 == 1 { to_live } else { to_dead },
                from: None,
                traffic_class: 0,
            });
            assert_eq!(outcome, sent(64));
            for _ in 0..21 {
                live.recv_from(&mut [0; 16]).expect("the live peer's datagram");
            }
        }
    }
}

#[test]
fn a_refused_datagram_is_counted_and_the_next_one_goes_out() {
    let (receiver, to) = receiver("127.0.0.1:0");
    let socket = relay_socket(address("127.0.0.1:0"), 1 << 20).expect("a relay socket");
    let outcome = SendBatch::new().send(socket.as_fd(), 3, drop, |index| Datagram {
        bytes: &[0x55; 65_508][..if index == 1 { 65_508 } else { 5 }],
        to,
        from: None,
        traffic_class: 0,
    });
    assert_eq!(outcome, Outcome { failed: 1, ..sent(2) });
    for _ in 0..2 {
        assert_eq!(receiver.recv_from(&mut [0; 16]).expect("a datagram").0, 5);
    }
    let other_family =
        |_| Datagram { bytes: b"x", to: address("[::1]:9"), from: None, traffic_class: 0 };
    let outcome = SendBatch::new().send(socket.as_fd(), 1, drop, other_family);
    assert_eq!(outcome, Outcome { failed: 1, ..sent(0) });
}

#[test]
fn a_wildcard_socket_answers_from_the_address_that_it_is_told() {
    for (wildcard, local, from) in [
        ("0.0.0.0:0", "127.0.0.1:0", "127.0.0.2:0"),
        ("0.0.0.0:0", "127.0.0.1:0", "127.0.0.3:0"),
        ("[::]:0", "[::1]:0", "[::1]:0"),
    ] {
        let (receiver, to) = receiver(local);
        let socket = udp_listener(address(wildcard), false, 1 << 20).expect("a listener");
        let from = address(from);
        let outcome = SendBatch::new().send(socket.as_fd(), 1, drop, |_| Datagram {
            bytes: b"answer",
            to,
            from: Some(from),
            traffic_class: 0,
        });
        assert_eq!(outcome.sent, 1);
        let (_, source) = receiver.recv_from(&mut [0; 16]).expect("the answer");
        assert_eq!(source.ip(), from.ip());
    }
}

#[test]
fn a_datagram_that_is_too_large_is_told_of_once() {
    let (receiver, to) = receiver("127.0.0.1:0");
    let socket = relay_socket(address("127.0.0.1:0"), 1 << 20).expect("a relay socket");
    let mut told = Vec::new();
    let each = |error: SocketError| told.push(error.peer.ip());
    // Between others, so that the call that meets it is not the first one to try it.
    let outcome = SendBatch::new().send(socket.as_fd(), 5, each, |index| Datagram {
        bytes: &[0x55; 65_508][..if index % 2 == 1 { 65_508 } else { 5 }],
        to,
        from: None,
        traffic_class: 0,
    });
    assert_eq!(outcome, Outcome { failed: 2, ..sent(3) });
    assert_eq!(told, [to.ip(), to.ip()]);
    for _ in 0..3 {
        assert_eq!(receiver.recv_from(&mut [0; 16]).expect("a datagram").0, 5);
    }
    assert_eq!(drain_errors(socket.as_fd(), drop), 0);
}

#[test]
fn dscp_and_ecn_arrive_as_they_were_sent() {
    for (wildcard, local) in [("0.0.0.0:0", "127.0.0.1:0"), ("[::]:0", "[::1]:0")] {
        // Beside the address that it leaves from, and without.
        for from in [None, Some(address(local))] {
            let receiver = relay_socket(address(local), 1 << 20).expect("a receiver");
            let to = receiver.local_addr().ok().and_then(|local| local.as_socket());
            let socket = udp_listener(address(wildcard), false, 1 << 20).expect("a listener");
            let classes = [0, 0b1011_1010, 0b0000_0001, 0xFF];
            let mut batch = SendBatch::new();
            let outcome = batch.send(socket.as_fd(), classes.len(), drop, |index| Datagram {
                bytes: b"frame",
                to: to.expect("an address"),
                from,
                traffic_class: classes[index],
            });
            assert_eq!(outcome.sent, classes.len());
            let mut batch = RecvBatch::new();
            assert_eq!(batch.recv(receiver.as_fd()).expect("a batch"), classes.len());
            for (index, class) in classes.into_iter().enumerate() {
                let received = batch.received(index).expect("a datagram");
                assert_eq!(received.traffic_class, class, "{local}");
            }
        }
    }
}

/// One after the other, each of its size and class, for its receiver.
fn datagrams<'a>(
    bytes: &'a [u8],
    what: &'a [(usize, SocketAddr, u8)],
) -> impl Iterator<Item = Run<'a>> {
    let mut at = 0;
    what.iter().map(move |&(len, to, traffic_class)| {
        at += len;
        Run::single(Datagram { bytes: &bytes[at - len..at], to, from: None, traffic_class })
    })
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index % 251) as u8).collect()
}

#[test]
fn only_what_is_alike_leaves_in_one_piece_and_all_of_it_arrives_in_order() {
    for local in ["127.0.0.1:0", "[::1]:0"] {
        let one = relay_socket(address(local), 1 << 20).expect("a receiver");
        let two = relay_socket(address(local), 1 << 20).expect("another");
        let [to, other] = [&one, &two].map(|socket| {
            socket.local_addr().ok().and_then(|local| local.as_socket()).expect("an address")
        });
        let what = [
            (700, to, 0),
            (700, to, 0),
            // Shorter, so it is the last; the next one is longer again.
            (300, to, 0),
            (700, to, 0),
            (700, to, 0),
            (700, to, 0xB8),
            (700, to, 0xB8),
            (700, other, 0xB8),
            // Nothing may follow an empty one, nor it anything.
            (0, to, 0),
            (0, to, 0),
            (1, to, 0),
        ];
        let socket = relay_socket(address(local), 1 << 20).expect("a relay socket");
        let bytes = pattern(what.iter().map(|(len, ..)| len).sum());
        let mut segmenting = Segmenting::new(true);
        let runs = datagrams(&bytes, &what);
        let outcome = SendBatch::new().send_runs(socket.as_fd(), &mut segmenting, runs, drop);
        let cut = Outcome { segmented_sends: 3, segmented: 7, ..sent(what.len()) };
        assert_eq!(outcome, cut, "{local}");
        let mut batch = RecvBatch::new();
        assert_eq!(batch.recv(one.as_fd()).expect("a batch"), what.len() - 1);
        let (mut at, mut slot) = (0, 0);
        for (len, receiver, class) in what {
            at += len;
            if receiver == to {
                let received = batch.received(slot).expect("a datagram");
                assert_eq!((received.len, received.traffic_class), (len, class));
                let start = crate::turn::HEADROOM;
                assert_eq!(batch.bytes(slot, start..start + len), &bytes[at - len..at]);
                slot += 1;
            }
        }
        assert_eq!(batch.recv(two.as_fd()).expect("a batch"), 1);
    }
}

#[test]
fn no_piece_is_larger_than_a_datagram_may_be_or_has_too_many_in_it() {
    let (receiver, to) = receiver("127.0.0.1:0");
    let socket = relay_socket(address("127.0.0.1:0"), 1 << 22).expect("a relay socket");
    socket2::SockRef::from(&receiver).set_recv_buffer_size(1 << 22).expect("a buffer");
    for (len, count, sends) in [(1, 130, 3), (1200, 64, 2), (30_000, 5, 2)] {
        let bytes = pattern(len * count);
        let what = vec![(len, to, 0); count];
        let mut segmenting = Segmenting::new(true);
        let runs = datagrams(&bytes, &what);
        let outcome = SendBatch::new().send_runs(socket.as_fd(), &mut segmenting, runs, drop);
        assert_eq!((outcome.sent, outcome.segmented_sends), (count, sends), "{len}");
        let mut buffer = vec![0; 65_536];
        for sent in bytes.chunks(len) {
            let (len, _) = receiver.recv_from(&mut buffer).expect("a datagram");
            assert_eq!(&buffer[..len], sent);
        }
    }
}

#[test]
fn heads_and_padding_stand_around_each_payload() {
    let (receiver, to) = receiver("127.0.0.1:0");
    let socket = relay_socket(address("127.0.0.1:0"), 1 << 20).expect("a relay socket");
    for (heads, head_bytes) in [(&b"head"[..], 4), (&b"012345"[..], 2)] {
        for segmenting in [Segmenting::new(true), Segmenting::OFF] {
            let payloads = Datagram { bytes: b"oneXtwoXtri", to, from: None, traffic_class: 0 };
            let run = Run {
                count: 3,
                heads,
                head_bytes,
                payload_bytes: 3,
                stride: 4,
                padding: 1,
                ..Run::single(payloads)
            };
            let runs = std::iter::once(run);
            let mut learns = segmenting;
            let outcome = SendBatch::new().send_runs(socket.as_fd(), &mut learns, runs, drop);
            assert_eq!(outcome.sent, 3);
            for (index, payload) in ["one", "two", "tri"].into_iter().enumerate() {
                let start = if head_bytes == 4 { 0 } else { index * 2 };
                let mut expected = heads[start..start + head_bytes].to_vec();
                expected.extend(payload.as_bytes());
                expected.push(0);
                let mut buffer = [0; 64];
                let (len, _) = receiver.recv_from(&mut buffer).expect("a datagram");
                assert_eq!(buffer[..len], expected);
            }
        }
    }
}

#[test]
fn a_receiver_that_cannot_be_sent_to_costs_the_others_no_run() {
    let (receiver, to) = receiver("127.0.0.1:0");
    let socket = udp_listener(address("127.0.0.1:0"), false, 1 << 20).expect("a listener");
    let (mut batch, mut segmenting) = (SendBatch::new(), Segmenting::new(true));
    let bytes = pattern(4 * 32);
    // Whoever says that this is the port he came from gets nothing, and spoils nothing.
    let nowhere = [(32, SocketAddr::new(to.ip(), 0), 0); 2];
    let runs = datagrams(&bytes, &nowhere);
    let outcome = batch.send_runs(socket.as_fd(), &mut segmenting, runs, drop);
    assert_eq!(outcome, Outcome { failed: 2, refused: 1, ..Outcome::default() });
    let what = [(32, to, 0); 4];
    let runs = datagrams(&bytes, &what);
    let outcome = batch.send_runs(socket.as_fd(), &mut segmenting, runs, drop);
    assert_eq!((outcome.sent, outcome.segmented_sends), (4, 1));
    for sent in bytes.chunks(32) {
        let mut buffer = [0; 64];
        let (len, _) = receiver.recv_from(&mut buffer).expect("a datagram");
        assert_eq!(&buffer[..len], sent);
    }
}

#[test]
fn what_our_own_kernel_refuses_costs_two_calls_however_many_there_are() {
    let (receiver, to) = receiver("127.0.0.1:0");
    let socket = relay_socket(address("127.0.0.1:0"), 1 << 20).expect("a relay socket");
    let (mut batch, mut segmenting) = (SendBatch::new(), Segmenting::new(true));
    let mut send = |what: &[(usize, SocketAddr, u8)]| {
        let bytes = pattern(what.iter().map(|(len, ..)| len).sum());
        let mut outcome = Outcome::default();
        let calls = count(|| {
            let runs = datagrams(&bytes, what);
            outcome = batch.send_runs(socket.as_fd(), &mut segmenting, runs, drop);
        });
        (outcome.sent, outcome.failed, calls[Call::Send as usize], calls[Call::Other as usize])
    };
    // EINVAL, which is never what an earlier datagram has left.
    let nowhere = SocketAddr::new(to.ip(), 0);
    assert_eq!(send(&[(32, nowhere, 0); 64]), (0, 64, 2, 0), "a run");
    let mut shorter = [(32, nowhere, 0); 64];
    shorter[63].0 = 31;
    assert_eq!(send(&shorter), (0, 64, 3, 0), "a run with a shorter end, which might pass");
    assert_eq!(send(&[(32, nowhere, 0)]), (0, 1, 1, 0), "one");
    // One call for those in front of each, and one that fails.
    let mixed = [(32, nowhere, 0), (32, to, 0), (32, nowhere, 0), (32, to, 0)];
    assert_eq!(send(&mixed), (2, 2, 4, 0), "some");
    for _ in 0..2 {
        assert_eq!(receiver.recv_from(&mut [0; 64]).expect("a datagram").0, 32);
    }
    // An address that is not there may have been an earlier one's: its queue is looked at, once.
    let other_family = address("[::1]:9");
    let unreachable = [(32, address("255.255.255.255:9"), 0)];
    assert_eq!(send(&[(32, other_family, 0)]), (0, 1, 1, 0), "another family");
    let (sent, failed, ..) = send(&unreachable);
    assert_eq!((sent, failed), (0, 1));
}

#[test]
fn what_failed_alone_is_tried_once_more_only_if_an_earlier_one_may_be_why() {
    let (_receiver, to) = receiver("127.0.0.1:0");
    let socket = relay_socket(address("127.0.0.1:0"), 1 << 20).expect("a relay socket");
    let (_held, dead) = dead_peer("127.0.0.1:0");
    assert_eq!(send_alone(socket.as_fd(), b"x", to), Alone::Sent);
    assert_eq!(send_alone(socket.as_fd(), b"x", SocketAddr::new(to.ip(), 0)), Alone::Failed);
    assert_eq!(send_alone(socket.as_fd(), b"x", dead), Alone::Sent);
    // Loopback has answered by ICMP.
    assert_eq!(send_alone(socket.as_fd(), b"x", to), Alone::Again);
}

#[test]
fn what_the_kernel_does_not_cut_is_sent_one_by_one_and_not_tried_again() {
    let (receiver, to) = receiver("127.0.0.1:0");
    let socket = relay_socket(address("127.0.0.1:0"), 1 << 20).expect("a relay socket");
    // Without a checksum nothing is cut.
    let no_check = super::super::socket::set_option;
    no_check(socket.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).expect("an option");
    let (mut batch, mut segmenting) = (SendBatch::new(), Segmenting::new(true));
    let mut refused = 0;
    for round in 0..20u8 {
        let bytes = vec![round; 7 * 1300 + 100];
        let mut what = vec![(1300, to, 0); 7];
        what.push((100, to, 0));
        let runs = datagrams(&bytes, &what);
        let outcome = batch.send_runs(socket.as_fd(), &mut segmenting, runs, drop);
        assert_eq!(Outcome { refused: 0, ..outcome }, sent(8));
        refused += outcome.refused;
        for (len, ..) in what {
            let mut buffer = [0; 2048];
            let (received, _) = receiver.recv_from(&mut buffer).expect("a datagram");
            assert_eq!(buffer[..received], vec![round; len]);
        }
    }
    assert_eq!(refused, 1);
    receiver.set_nonblocking(true).expect("a socket");
    assert!(receiver.recv_from(&mut [0; 16]).is_err(), "nothing is sent twice");
}
