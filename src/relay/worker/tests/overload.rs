//! More arrives than a worker can bear.

use super::super::super::Features;
use super::super::super::udp::EVENTS;
use super::cost::Call;
use super::*;
use crate::metrics::ReceiveQueue;

/// A client's packet that nobody relays, and one that is nothing: each has its own counter.
const FLOOD: &[u8] = b"\x40\x00\x00\x04loud";
const QUIET: &[u8] = b"\xffquiet";

/// A worker in front of which a flood stands, of more than twice what it reads.
struct Flood {
    running: Running,
    loud: UdpSocket,
    quiet: UdpSocket,
    asker: UdpSocket,
    sent: u64,
    asked: u64,
    answered: u64,
}

impl Flood {
    fn new(features: Features) -> Self {
        let options = Options { client_buffer_bytes: 256 << 10, features, ..Options::default() };
        let (running, server) = worker_with(options, turn_options_for_tests());
        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            socket.connect(server).expect("a server");
            socket
        };
        let (loud, quiet, asker) = (socket(), socket(), socket());
        asker.set_nonblocking(true).expect("a socket that does not block");
        Self { running, loud, quiet, asker, sent: 0, asked: 0, answered: 0 }
    }

    /// A round of the worker, in front of which `loud` packets, ten quiet ones and a request wait.
    fn round(&mut self, loud: u64) {
        let mut request = [7; 20];
        request[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
        for index in 0..loud {
            self.loud.send(FLOOD).expect("a send");
            if index % (loud / 10) == 0 {
                self.quiet.send(QUIET).expect("a send");
            }
        }
        self.asker.send(&request).expect("a send");
        self.sent += loud + 11;
        self.asked += 1;
        self.running.round().expect("a round");
        self.answered += std::iter::from_fn(|| self.asker.recv(&mut [0; 64]).ok()).count() as u64;
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.running.worker.metrics.drops(reason)
    }

    fn windows(&self) -> u64 {
        self.running.worker.metrics.limits(Limit::ClientShare)
    }

    /// Goes on until so many windows in all had too much in them.
    fn until(&mut self, windows: u64) {
        let start = Instant::now();
        while self.windows() < windows {
            assert!(start.elapsed() < Duration::from_secs(60), "nothing is shed");
            self.round(600);
        }
    }
}

#[test]
fn what_the_queue_loses_is_counted_to_the_packet() {
    for features in [Features::ALL, Features { source_filter: false, ..Features::ALL }] {
        let mut flood = Flood::new(features);
        flood.round(2000);
        // The queue is read to its end; the next packet to be queued tells of all that was lost.
        for _ in 0..10 {
            flood.round(20);
        }
        let metrics = &flood.running.worker.metrics;
        let lost = metrics.queue_drops(ReceiveQueue::Client);
        let handled = metrics.drops(DropReason::NoAllocation)
            + metrics.drops(DropReason::Malformed)
            + flood.answered;
        assert!(lost > 500, "{lost}");
        assert_eq!(handled + lost, flood.sent);
        assert_eq!(metrics.queue_drops(ReceiveQueue::Relay), 0);
    }
}

#[test]
fn a_quiet_client_and_requests_pass_beside_a_flood() {
    let mut flood = Flood::new(Features::ALL);
    flood.until(10);
    let (quiet, asked, answered) =
        (flood.drops(DropReason::Malformed), flood.asked, flood.answered);
    let loud = flood.drops(DropReason::NoAllocation);
    flood.until(30);
    let asked = flood.asked - asked;
    let passed = |now: u64, before: u64| (now - before) as f64 / asked as f64;
    // Ten and one a round. Unshed, not half of them would find room.
    let quiet = passed(flood.drops(DropReason::Malformed), quiet);
    let answered = passed(flood.answered, answered);
    assert!(quiet > 8.0 && answered > 0.6, "{quiet} of 10, {answered} of 1 in {asked} rounds");
    // And the loud one still has most of the 256 that are read in a round.
    let loud = passed(flood.drops(DropReason::NoAllocation), loud);
    assert!(loud > 0.6 * 256.0, "{loud} in {asked} rounds");
    assert_eq!(flood.drops(DropReason::Overload), 0, "the kernel does it");
}

#[test]
fn without_filters_in_the_kernel_the_worker_drops_half_at_most_and_no_request() {
    let mut flood = Flood::new(Features { source_filter: false, ..Features::ALL });
    flood.until(10);
    let shed = flood.drops(DropReason::Overload);
    let read = flood.drops(DropReason::NoAllocation) + flood.drops(DropReason::Malformed) + shed;
    assert!(shed > 0 && shed < read * 6 / 10, "{shed} of {read}");
}

#[test]
fn nothing_is_shed_that_can_be_borne() {
    let mut flood = Flood::new(Features::ALL);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        flood.round(200);
    }
    assert_eq!(flood.windows(), 0);
    assert_eq!(flood.running.worker.metrics.queue_drops(ReceiveQueue::Client), 0);
    assert_eq!(flood.drops(DropReason::Malformed), 10 * flood.asked);
    assert_eq!(flood.answered, flood.asked);
}

/// A worker with relay sockets, each of which has something waiting.
struct Crowd {
    running: Running,
    server: SocketAddr,
    sender: UdpSocket,
}

impl Crowd {
    /// Has so many relay sockets with so many datagrams each. `address` is one of the test alone,
    /// so that nobody takes a port in between.
    fn new(address: &str, relays: usize, datagrams: usize) -> Self {
        let (mut running, server) = worker();
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        for relay in 0..relays as u32 {
            let free = UdpSocket::bind(address).expect("a socket").local_addr();
            let local = free.expect("an address");
            running.worker.sockets.bind(RelayId(relay), local).expect("a relay socket");
            for _ in 0..datagrams {
                sender.send_to(b"from a peer", local).expect("a send");
            }
        }
        Self { running, server, sender }
    }

    /// So many datagrams of a client wait, too.
    fn send(&self, datagrams: usize) {
        for _ in 0..datagrams {
            self.sender.send_to(QUIET, self.server).expect("a send");
        }
    }

    /// So many packets of other allocations wait in the mailbox, for one that is gone.
    fn post(&mut self, packets: usize) {
        let Worker { courier, metrics, .. } = &mut self.running.worker;
        let hop = crate::turn::Hop::for_tests(courier.engine());
        (0..packets).for_each(|_| courier.carry(metrics, hop, 0, b"by no socket"));
    }

    /// How many datagrams of peers, by sockets or by none, and of clients a round handles.
    fn round(&mut self) -> (u64, u64) {
        let handled = |running: &Running| {
            let drops = |reason| running.worker.metrics.drops(reason);
            (drops(DropReason::NoAllocation), drops(DropReason::Malformed))
        };
        let (peers, clients) = handled(&self.running);
        self.running.round().expect("a round");
        let (peers_now, clients_now) = handled(&self.running);
        (peers_now - peers, clients_now - clients)
    }
}

#[test]
fn a_flood_from_peers_leaves_clients_a_part_of_each_round() {
    const TURN: usize = CLIENT_BATCHES * BATCH;
    let mut crowd = Crowd::new("127.0.0.83:0", FROM_PEERS / BATCH, BATCH);
    crowd.send(2 * TURN + 80);
    crowd.post(2 * TURN + 90);
    // One turn is a listener's own, as it is the mailbox's, and one is due to the flood.
    assert_eq!(crowd.round(), ((FROM_PEERS + 2 * TURN) as u64, 2 * TURN as u64));
    assert_eq!(crowd.round(), (90, 80));
}

#[test]
fn clients_have_their_turn_when_a_wait_does_not_report_them() {
    // What was handled before a wait that reports all it can counts, too.
    for (each, before) in [(2, 0), (1, FROM_PEERS - EVENTS)] {
        let mut crowd = Crowd::new("127.0.0.84:0", EVENTS + 10, each);
        // Readable last, the listener is reported after all the others.
        crowd.send(100);
        crowd.running.from_peers = before;
        assert_eq!(crowd.round(), ((EVENTS * each) as u64, 100));
        // By a wait that reports it the listener is not read for nothing before its turn.
        crowd.send(1);
        assert_eq!(crowd.round(), (10 * each as u64, 1));
        assert_eq!(crowd.running.from_peers, 10 * each);
    }
}

#[test]
fn who_has_something_relayed_is_a_client_under_overload_and_nobody_else() {
    for (outward, inward, merged) in
        [(1, 0, false), (0, 1, false), (64, 0, true), (0, 64, true), (0, 0, false)]
    {
        let mut call = Call::new();
        if merged {
            call.merge();
        }
        let client = call.client.local_addr().expect("an address");
        let share = |call: &mut Call, source: Option<SocketAddr>| {
            let share = &mut call.running.worker.sockets.client_mut(0).expect("a listener").share;
            match source {
                Some(source) => share.has_client(source),
                None => {
                    // Its window does not end as long as the test takes.
                    let later = Instant::now() + Duration::from_secs(3600);
                    share.batch(later, 1 << 16, 0, false);
                    share.is_busy()
                }
            }
        };
        assert!(share(&mut call, None), "it watches");
        assert!(!share(&mut call, Some(client)));
        // Neither an answer makes a client of somebody, nor what goes nowhere.
        let mut request = [7; 20];
        request[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
        call.client.send(&request).expect("a send");
        call.client.send(b"\x40\x07\x00\x00").expect("a send");
        call.running.round().expect("a round");
        assert_eq!(call.client.recv(&mut [0; 64]).expect("an answer"), 32);
        assert!(!share(&mut call, Some(client)));
        call.relays(outward, inward, if merged { 16 } else { 1 });
        assert_eq!(share(&mut call, Some(client)), outward + inward > 0, "{outward} {inward}");
    }
}
