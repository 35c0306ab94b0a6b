//! Runs of datagrams through real sockets: merged on their way in, segmented on their way out, and
//! byte for byte what was sent, whatever the kernel can do.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use socket2::SockRef;
use turncast::metrics::DropReason;
use turncast::relay::{Features, Options};

use super::client::{Client, Relayed};
use super::{Fixture, engine, ip, peer, wait_until};
use crate::harness::in_network;

const CHANNEL: u16 = 0x4000;

/// Datagrams of `len` bytes and a last one of `last`, no two alike.
fn burst(round: usize, count: usize, len: usize, last: usize) -> Vec<Vec<u8>> {
    let payload = |index: usize, len: usize| {
        (0..len).map(|at| (at * 7 + index * 31 + round) as u8).collect::<Vec<u8>>()
    };
    let mut burst: Vec<_> = (0..count).map(|index| payload(index, len)).collect();
    burst.push(payload(count, last));
    burst
}

fn frames(burst: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let frame = |payload: &Vec<u8>| {
        let len = u16::try_from(payload.len()).expect("a datagram");
        [&CHANNEL.to_be_bytes()[..], &len.to_be_bytes(), payload].concat()
    };
    burst.iter().map(frame).collect()
}

/// Sends datagrams of the same size, but for the last one, in one piece.
fn send_run(socket: &UdpSocket, to: SocketAddr, run: &[Vec<u8>]) {
    let slices: Vec<_> = run.iter().map(|datagram| IoSlice::new(datagram)).collect();
    let segment = u16::try_from(run[0].len()).expect("a datagram");
    let control = [ControlMessage::UdpGsoSegments(&segment)];
    let to = SockaddrStorage::from(to);
    let flags = MsgFlags::empty();
    sendmsg(socket.as_raw_fd(), &slices, &control, flags, Some(&to)).expect("a segmented send");
}

/// A relay with one client, its channel to a peer, and that peer.
struct Ends {
    fixture: Fixture,
    client: Client,
    relayed: SocketAddr,
    peer: UdpSocket,
    to: SocketAddr,
}

impl Ends {
    fn start(listen: &str, features: Features) -> Self {
        let options = Options { features, ..Options::default() };
        let fixture = Fixture::start_with(&[listen], 1, engine(), options);
        let server = SocketAddr::new(ip("127.0.0.1"), fixture.server.port());
        let mut client = Client::new(server, "alice", "wonder");
        let relayed = client.allocate().expect("an allocation");
        let (peer, to) = peer();
        for socket in [&peer, &client.socket] {
            SockRef::from(socket).set_recv_buffer_size(1 << 22).expect("a buffer");
        }
        client.permit(&[to]).expect("a permission");
        Self { fixture, client, relayed, peer, to }
    }

    fn counter(&self, name: &str) -> u64 {
        self.fixture.counter(name)
    }

    fn merged(&self) -> u64 {
        self.counter("udp_run_packets_total{run=\"merged\"}")
    }

    fn segmented(&self) -> u64 {
        self.counter("udp_run_packets_total{run=\"segmented\"}")
    }

    fn up(&self, burst: &[Vec<u8>]) {
        send_run(&self.client.socket, self.client_server(), &frames(burst));
        self.arrives(burst);
    }

    fn client_server(&self) -> SocketAddr {
        self.client.socket.peer_addr().expect("connected")
    }

    fn arrives(&self, burst: &[Vec<u8>]) {
        let mut buffer = [0; 4096];
        for payload in burst {
            let (len, from) = self.peer.recv_from(&mut buffer).expect("a datagram at the peer");
            assert_eq!((&buffer[..len], from), (&payload[..], self.relayed));
        }
    }

    fn down(&self, burst: &[Vec<u8>], channel: bool) {
        send_run(&self.peer, self.relayed, burst);
        for payload in burst {
            let expected = match channel {
                true => Relayed::Channel(CHANNEL, payload.clone()),
                false => Relayed::Indication(self.to, payload.clone()),
            };
            assert_eq!(self.client.receive(), expected);
        }
    }

    /// Data indications, as long as there is no channel.
    fn indications(&self, rounds: usize) {
        for (round, (count, len, last)) in shapes(rounds) {
            self.down(&burst(round, count, len, last), false);
        }
    }

    /// ChannelData both ways.
    fn channels(&self, rounds: usize) {
        for (round, (count, len, last)) in shapes(rounds) {
            self.up(&burst(round, count, len, last));
            self.down(&burst(round, count, len, last), true);
        }
    }

    /// Sockets merge once they have seen runs. How much is there when a worker looks is not up to
    /// us, so this goes on until so many of them have.
    fn until_merging(&self, sockets: u64, exchange: impl Fn()) {
        wait_until("sockets merge", || {
            exchange();
            self.counter("udp_run_switches_total{switch=\"merge\"}") == sockets
        });
    }

    fn lost_nothing(&self) {
        let reasons = [DropReason::SendFailed, DropReason::SendBufferFull, DropReason::TooLong];
        assert_eq!(reasons.map(|reason| self.fixture.dropped(reason)), [0; 3]);
        assert_eq!(self.counter("panics_total"), 0);
    }
}

/// Datagrams of one size, that size, and the size of the last one.
fn shapes(rounds: usize) -> impl Iterator<Item = (usize, (usize, usize, usize))> {
    let all = [(15, 1200, 700), (3, 100, 1), (40, 172, 172), (2, 1201, 5), (1, 1, 1)];
    (0..rounds).flat_map(move |round| all.into_iter().map(move |shape| (round, shape)))
}

#[test]
fn runs_arrive_whole_and_in_order_both_ways() {
    for listen in ["127.0.0.1:0", "0.0.0.0:0"] {
        let mut ends = Ends::start(listen, Features::ALL);
        ends.until_merging(1, || ends.indications(1));
        let merged = ends.merged();
        ends.indications(3);
        // All of them: 66 datagrams in each round.
        assert_eq!(ends.merged(), merged + 3 * 66);
        ends.client.bind_channel(CHANNEL, ends.to).expect("a channel");
        ends.until_merging(2, || ends.channels(1));
        let (merged, segmented) = (ends.merged(), ends.segmented());
        ends.channels(3);
        assert_eq!(ends.merged(), merged + 2 * 3 * 66);
        // What has left is counted a moment after it may have arrived.
        wait_until("all runs are counted", || ends.segmented() >= segmented + 2 * 3 * 66);
        ends.lost_nothing();
    }
}

#[test]
fn without_the_kernels_help_everything_arrives_one_by_one() {
    for (merge, segment) in [(false, false), (true, false), (false, true)] {
        let mut ends = Ends::start("127.0.0.1:0", Features { merge, segment, ..Features::ALL });
        ends.indications(4);
        ends.client.bind_channel(CHANNEL, ends.to).expect("a channel");
        ends.channels(12);
        assert!(merge || ends.merged() == 0, "UDP_GRO is off");
        assert!(segment || ends.segmented() == 0, "UDP_SEGMENT is off");
        assert!(segment || ends.counter("udp_sent_alone_total") > 28 * 66);
        ends.lost_nothing();
    }
}

#[test]
fn clients_that_talk_at_once_keep_their_order_whatever_their_sizes() {
    let mut ends = Ends::start("127.0.0.1:0", Features::ALL);
    ends.client.bind_channel(CHANNEL, ends.to).expect("a channel");
    let mut other = ends.fixture.client();
    let relayed = other.allocate().expect("another allocation");
    other.bind_channel(CHANNEL, ends.to).expect("a channel");
    let lens = [1200, 1200, 300, 300, 300, 5, 1200, 0, 0, 700, 701, 701, 700, 172, 172, 172];
    let mut buffer = [0; 4096];
    for round in 0..200 {
        let payloads = lens.map(|len| vec![round as u8 ^ len as u8; len]);
        for payload in &payloads {
            ends.client.send_channel(CHANNEL, payload);
            other.send_channel(CHANNEL, payload);
        }
        let (mut one, mut two) = (payloads.iter(), payloads.iter());
        for _ in 0..2 * lens.len() {
            let (len, from) = ends.peer.recv_from(&mut buffer).expect("a datagram");
            let next = if from == relayed { two.next() } else { one.next() };
            assert_eq!(next.map(Vec::as_slice), Some(&buffer[..len]));
        }
        for payload in &payloads {
            ends.peer.send_to(payload, ends.relayed).expect("a send");
            ends.peer.send_to(payload, relayed).expect("a send");
        }
        for payload in payloads {
            for client in [&ends.client, &other] {
                assert_eq!(client.receive(), Relayed::Channel(CHANNEL, payload.clone()));
            }
        }
    }
    ends.lost_nothing();
}

#[test]
fn what_is_too_large_for_the_link_goes_in_parts_and_is_seldom_tried_again() {
    let test =
        "relay::runs::what_is_too_large_for_the_link_goes_in_parts_and_is_seldom_tried_again";
    if !in_network(test, "ip link set lo mtu 1500 up") {
        return;
    }
    let mut ends = Ends::start("127.0.0.1:0", Features::ALL);
    ends.client.bind_channel(CHANNEL, ends.to).expect("a channel");
    let refused = || ends.counter("udp_run_switches_total{switch=\"segment_refused\"}");
    let exchange = |round| {
        let burst = burst(round, 15, 1600, 1600);
        for frame in frames(&burst) {
            ends.client.socket.send(&frame).expect("a send in parts");
        }
        ends.arrives(&burst);
        for payload in &burst {
            ends.peer.send_to(payload, ends.relayed).expect("a send in parts");
        }
        for payload in burst {
            assert_eq!(ends.client.receive(), Relayed::Channel(CHANNEL, payload));
        }
    };
    wait_until("both sockets have learned it", || {
        exchange(0);
        refused() == 2
    });
    (1..40).for_each(exchange);
    // 600 sends each at most, and the pauses double from 64 of them on.
    assert!((2..=10).contains(&refused()), "{}", refused());
    // What fits is segmented all the same.
    let segmented = ends.segmented();
    wait_until("smaller ones are segmented", || {
        ends.channels(1);
        ends.segmented() > segmented
    });
    ends.lost_nothing();
}
