//! What a relayed packet costs: no memory, no line of the log, and few system calls.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::super::sys::{count_calls, set_segment};
use super::*;
use crate::turn::Icmp;

const CHANNEL: u16 = 0x4000;
const PAYLOAD: usize = 200;

/// A worker with one allocation: its client, the relayed address, and a peer on a channel.
pub(super) struct Call {
    pub(super) running: Running,
    pub(super) client: UdpSocket,
    peer: UdpSocket,
    relayed: SocketAddr,
}

impl Call {
    pub(super) fn new() -> Self {
        let mut engine = with_alice();
        engine.allow_peers = vec!["127.0.0.3/32".parse().expect("a prefix")];
        let (mut running, server) = worker_with(Options::default(), engine);
        let peer = UdpSocket::bind("127.0.0.3:0").expect("a peer");
        let to = peer.local_addr().expect("an address");
        let (client, relayed) = serve(&mut running, move || {
            let mut client = Client::new(server, "alice", "wonder");
            let relayed = client.allocate().expect("an allocation");
            client.bind_channel(CHANNEL, to).expect("a channel");
            (client.socket, relayed)
        });
        for socket in [&client, &peer] {
            socket.set_nonblocking(true).expect("a socket that does not block");
        }
        Self { running, client, peer, relayed }
    }

    /// So many packets wait for the worker, from the client and from the peer, in bursts that the
    /// kernel may keep together.
    fn send(&self, outward: usize, inward: usize, burst: usize) {
        let mut frame = [0; 4 + PAYLOAD];
        frame[..2].copy_from_slice(&CHANNEL.to_be_bytes());
        frame[2..4].copy_from_slice(&(PAYLOAD as u16).to_be_bytes());
        let mut frames = [0; 16 * (4 + PAYLOAD)];
        frames.chunks_exact_mut(frame.len()).for_each(|part| part.copy_from_slice(&frame));
        let payloads = [0x55; 16 * PAYLOAD];
        for _ in 0..outward / burst {
            self.client.send(&frames[..burst * frame.len()]).expect("a send");
        }
        for _ in 0..inward / burst {
            let sent = self.peer.send_to(&payloads[..burst * PAYLOAD], self.relayed);
            sent.expect("a send");
        }
    }

    /// How many packets have come to the peer and to the client.
    fn arrived(&self) -> (usize, usize) {
        let count = |socket: &UdpSocket, len: usize| {
            let mut buffer = [0; 512];
            std::iter::from_fn(|| socket.recv(&mut buffer).ok())
                .inspect(|found| assert_eq!(*found, len))
                .count()
        };
        (count(&self.peer, PAYLOAD), count(&self.client, 4 + PAYLOAD))
    }

    pub(super) fn relays(&mut self, outward: usize, inward: usize, burst: usize) {
        self.send(outward, inward, burst);
        self.running.round().expect("a round");
        assert_eq!(self.arrived(), (outward, inward));
    }

    /// Senders whose bursts leave in one piece, and arrive so once the worker has asked for it.
    pub(super) fn merge(&mut self) {
        set_segment(self.client.as_fd(), 4 + PAYLOAD as u16).expect("bursts of the client");
        set_segment(self.peer.as_fd(), PAYLOAD as u16).expect("bursts of the peer");
        for _ in 0..8 {
            self.relays(64, 64, 16);
        }
        let before = self.running.worker.metrics.merged.packets.value();
        self.relays(64, 64, 16);
        assert_eq!(
            self.running.worker.metrics.merged.packets.value() - before,
            128,
            "all are merged"
        );
    }
}

#[test]
fn a_round_takes_no_memory_for_what_it_relays() {
    for merged in [false, true] {
        let mut call = Call::new();
        if merged {
            call.merge();
        }
        let burst = if merged { 16 } else { 1 };
        let rounds = |call: &mut Call| {
            for _ in 0..20 {
                call.relays(64, 64, burst);
                call.relays(16, 0, burst);
                call.relays(0, 16, burst);
            }
        };
        // What is made once, such as room for what waits to be sent, is made before the count.
        rounds(&mut call);
        let counted = allocation_counter::measure(|| rounds(&mut call));
        assert_eq!((counted.count_total, counted.bytes_total), (0, 0), "merged: {merged}");
    }
}

#[test]
fn a_batch_of_packets_takes_few_system_calls() {
    let mut call = Call::new();
    call.relays(64, 64, 1);
    for (outward, inward) in [(64, 0), (0, 64), (1, 0), (0, 1)] {
        call.send(outward, inward, 1);
        let [waits, receives, sends, others] =
            count_calls(|| call.running.round().expect("a round"));
        assert_eq!(call.arrived(), (outward, inward));
        // A full batch is followed by a look whether there is more.
        let receives_max = if outward == 64 { 2 } else { 1 };
        assert!(receives <= receives_max, "{receives} for {outward} and {inward}");
        assert_eq!((waits, sends, others), (1, 1, 0), "for {outward} and {inward}");
    }
    call.merge();
    call.send(64, 64, 16);
    let [waits, receives, sends, others] = count_calls(|| call.running.round().expect("a round"));
    assert_eq!(call.arrived(), (64, 64));
    assert_eq!((waits, others), (1, 0));
    assert!(receives <= 4 && sends <= 4, "{receives} and {sends} for 128 packets in bursts");
}

#[test]
fn nothing_is_logged_of_what_is_relayed() {
    static LINES: AtomicUsize = AtomicUsize::new(0);
    struct Counts;
    impl std::io::Write for Counts {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            LINES.fetch_add(1, Ordering::Relaxed);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut call = Call::new();
    let level = tracing_subscriber::filter::LevelFilter::TRACE;
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(|| Counts).finish();
    tracing::subscriber::with_default(log, || {
        call.relays(64, 64, 1);
        // Nor of what is dropped: no channel, no permission, nothing at all, no such peer.
        for bytes in [&b"\x40\x07\x00\x00"[..], b"\xff", b"\x00\x16"] {
            call.client.send(bytes).expect("a send");
        }
        let stranger = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        stranger.send_to(b"hello", call.relayed).expect("a send");
        call.running.round().expect("a round");
        assert_eq!(LINES.load(Ordering::Relaxed), 0);
        tracing::trace!("one line");
    });
    assert_eq!(LINES.load(Ordering::Relaxed), 1, "lines are counted");
}

#[test]
fn a_flood_of_errors_costs_no_more_than_its_queue() {
    let mut call = Call::new();
    let server = call.client.peer_addr().expect("connected");
    let client = call.client.local_addr().expect("bound");
    let five_tuple = FiveTuple { transport: Transport::Udp, client, server };
    let relay = call.running.worker.engine.relay_of(&five_tuple).expect("an allocation");
    let peer = call.peer.local_addr().expect("bound");
    let error = SocketError { peer, icmp: Icmp { kind: 3, code: 3, data: 0 }, local: false };
    let told = |call: &Call| std::iter::from_fn(|| call.client.recv(&mut [0; 512]).ok()).count();
    for (errors, told_of, lost) in [(64, 64, 0), (65, 64, 1), (1, 1, 1), (100, 64, 37)] {
        for _ in 0..errors {
            call.running.outbound.note_error(relay, error);
        }
        call.running.flush();
        assert_eq!(told(&call), told_of, "of {errors}");
        assert_eq!(call.running.worker.metrics.drops(DropReason::Icmp), lost);
    }
}
