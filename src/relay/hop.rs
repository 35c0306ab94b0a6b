//! Packets between allocations of ours that different engines serve: from thread to thread, by no
//! socket.
//!
//! Each engine has a [`Mailbox`]: a bounded ring of parcels without locks, which any thread fills
//! and only its own empties. A parcel is memory that is used again, with room for the header that
//! the receiver's engine puts in front; the payload is copied once, into it. Whoever has filled
//! mailboxes rings at the end of his round, and only those who sleep are woken by a system call.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use crossbeam_queue::ArrayQueue;
use futures_util::task::AtomicWaker;

use super::shared::Inbox;
use crate::metrics::{DropReason, Shortcut, WorkerMetrics};
use crate::turn::{EngineId, HEADROOM, Hop, TAILROOM};

/// One packet on its way to another engine, in memory of its own; cheap to move.
pub(super) struct Parcel(Box<Contents>);

struct Contents {
    hop: Hop,
    /// DSCP and ECN of the datagram that it came in.
    traffic_class: u8,
    len: usize,
    buffer: Vec<u8>,
}

/// What waits for one engine.
pub(super) struct Mailbox {
    full: ArrayQueue<Parcel>,
    /// Memory for further ones. None is made while there is some here.
    spare: ArrayQueue<Parcel>,
    /// Bytes that waiting packets take beyond those of a usual parcel, and how many they may.
    excess: AtomicUsize,
    excess_max: usize,
    bell: Bell,
}

/// How the engine's thread or task is woken.
enum Bell {
    /// A worker, which may be waiting for its sockets.
    Worker { asleep: AtomicBool, inbox: Arc<Inbox> },
    /// The task of a connection.
    Task(AtomicWaker),
}

/// The mailboxes of all engines.
pub(super) struct Office {
    workers: Box<[Mailbox]>,
    streams: Pages,
    packets_per_stream: usize,
}

/// The side of one engine that sends.
pub(super) struct Courier {
    office: Arc<Office>,
    own: EngineId,
    /// Whose mailboxes were filled since the last [`Courier::ring`].
    touched: Vec<EngineId>,
}

impl Parcel {
    fn new(hop: Hop) -> Self {
        let buffer = vec![0; PARCEL_BYTES];
        Self(Box::new(Contents { hop, traffic_class: 0, len: 0, buffer }))
    }

    /// Bytes that it takes beyond the usual.
    fn excess(&self) -> usize {
        excess(self.0.len)
    }

    fn fill(&mut self, hop: Hop, traffic_class: u8, payload: &[u8]) {
        let contents = &mut *self.0;
        let (end, whole) = (HEADROOM + payload.len(), HEADROOM + payload.len() + TAILROOM);
        if contents.buffer.len() < whole {
            contents.buffer.resize(whole, 0);
        }
        contents.buffer[HEADROOM..end].copy_from_slice(payload);
        (contents.hop, contents.traffic_class) = (hop, traffic_class);
        contents.len = payload.len();
    }

    /// Frees memory that few packets need.
    fn trim(&mut self) {
        let buffer = &mut self.0.buffer;
        if buffer.len() > PARCEL_BYTES {
            buffer.truncate(PARCEL_BYTES);
            buffer.shrink_to_fit();
        }
    }

    pub(super) fn hop(&self) -> Hop {
        self.0.hop
    }

    pub(super) fn traffic_class(&self) -> u8 {
        self.0.traffic_class
    }

    /// Headroom, payload and tailroom, and where the payload is.
    pub(super) fn slot_mut(&mut self) -> (&mut [u8], Range<usize>) {
        let payload = HEADROOM..HEADROOM + self.0.len;
        (&mut self.0.buffer[..payload.end + TAILROOM], payload)
    }

    /// The bytes `range`, counted as in [`Parcel::slot_mut`].
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.0.buffer[range]
    }
}

impl Mailbox {
    fn new(packets: usize, bell: Bell) -> Self {
        // As many bytes again as all usual ones take, and room for any packet.
        let excess_max = (packets * PARCEL_BYTES).max(excess(usize::from(u16::MAX)));
        let (full, spare) = (ArrayQueue::new(packets), ArrayQueue::new(packets));
        Self { full, spare, excess: AtomicUsize::new(0), excess_max, bell }
    }

    /// Puts a packet in; whether there was room.
    fn post(&self, hop: Hop, traffic_class: u8, payload: &[u8]) -> bool {
        if self.full.is_full() || !self.has_room(excess(payload.len())) {
            return false;
        }
        let mut parcel = self.spare.pop().unwrap_or_else(|| Parcel::new(hop));
        parcel.fill(hop, traffic_class, payload);
        match self.full.push(parcel) {
            Ok(()) => true,
            // Others were quicker.
            Err(parcel) => {
                self.leave(&parcel);
                self.give_back(parcel);
                false
            }
        }
    }

    /// Takes room for a packet that is larger than usual; whether there was some.
    fn has_room(&self, excess: usize) -> bool {
        if excess == 0 {
            return true;
        }
        let before = self.excess.fetch_add(excess, Ordering::Relaxed);
        let fits = before + excess <= self.excess_max;
        if !fits {
            self.excess.fetch_sub(excess, Ordering::Relaxed);
        }
        fits
    }

    /// Gives the room of a packet back that waits no more.
    fn leave(&self, parcel: &Parcel) {
        let excess = parcel.excess();
        if excess > 0 {
            self.excess.fetch_sub(excess, Ordering::Relaxed);
        }
    }

    /// Takes the oldest packet out. [`Mailbox::give_back`] wants its memory back.
    pub(super) fn take(&self) -> Option<Parcel> {
        let parcel = self.full.pop()?;
        self.leave(&parcel);
        Some(parcel)
    }

    /// Keeps the memory of a packet for another one.
    pub(super) fn give_back(&self, mut parcel: Parcel) {
        parcel.trim();
        // More than may wait are needed by nobody.
        let _ = self.spare.push(parcel);
    }

    /// A worker says before it sleeps that it must be woken; whether it may sleep.
    pub(super) fn may_sleep(&self) -> bool {
        if let Bell::Worker { asleep, .. } = &self.bell {
            asleep.store(true, Ordering::Relaxed);
            // Whoever posts looks whether somebody sleeps, in the other order: one sees the other.
            fence(Ordering::SeqCst);
        }
        self.full.is_empty()
    }

    /// A worker is awake: nobody need wake it until it sleeps again.
    pub(super) fn awake(&self) {
        if let Bell::Worker { asleep, .. } = &self.bell {
            asleep.store(false, Ordering::Relaxed);
        }
    }

    /// A task is woken through `waker` from now on.
    pub(super) fn register(&self, waker: &Waker) {
        if let Bell::Task(bell) = &self.bell {
            bell.register(waker);
        }
    }

    fn ring(&self) {
        match &self.bell {
            Bell::Worker { asleep, inbox } => {
                fence(Ordering::SeqCst);
                if asleep.load(Ordering::Relaxed) && asleep.swap(false, Ordering::Relaxed) {
                    inbox.wake.wake();
                }
            }
            Bell::Task(bell) => bell.wake(),
        }
    }

    /// Throws away what waits, and its memory.
    fn clear(&self) {
        while self.take().is_some() || self.spare.pop().is_some() {}
    }
}

impl Office {
    /// A mailbox for each worker; those of connections, for which `stream_bytes` may wait to be
    /// written, come with their first allocation.
    pub(super) fn new(inboxes: &[Arc<Inbox>], stream_bytes: usize) -> Arc<Self> {
        let bell = |inbox: &Arc<Inbox>| Bell::Worker {
            asleep: AtomicBool::new(false),
            inbox: Arc::clone(inbox),
        };
        let mailbox = |inbox| Mailbox::new(PACKETS_PER_WORKER, bell(inbox));
        let packets_per_stream = (stream_bytes / PARCEL_BYTES).clamp(16, PACKETS_PER_WORKER);
        let workers = inboxes.iter().map(mailbox).collect();
        Arc::new(Self { workers, streams: Pages::default(), packets_per_stream })
    }

    /// The side that sends of the worker of that index.
    pub(super) fn worker(self: &Arc<Self>, index: usize) -> Courier {
        self.courier(index)
    }

    /// The same of the connection that has that place among all.
    pub(super) fn stream(self: &Arc<Self>, place: usize) -> Courier {
        self.courier(self.workers.len() + place)
    }

    fn courier(self: &Arc<Self>, number: usize) -> Courier {
        // There are fewer descriptors than would be needed for more.
        let own = EngineId(u32::try_from(number).unwrap_or(u32::MAX - 1));
        Courier { office: Arc::clone(self), own, touched: Vec::new() }
    }

    fn is_stream(&self, engine: EngineId) -> bool {
        engine.0 as usize >= self.workers.len()
    }

    fn mailbox(&self, engine: EngineId) -> Option<&Mailbox> {
        let number = engine.0 as usize;
        match number.checked_sub(self.workers.len()) {
            None => self.workers.get(number),
            Some(place) => self.streams.get(place),
        }
    }
}

impl Courier {
    /// The name of the engine that it works for.
    pub(super) fn engine(&self) -> EngineId {
        self.own
    }

    /// What others have sent to the engine; `None` until [`Courier::open`] was called.
    pub(super) fn mailbox(&self) -> Option<&Mailbox> {
        self.office.mailbox(self.own)
    }

    /// Makes the mailbox of a connection, before anybody is told of an allocation of its.
    pub(super) fn open(&self) {
        let Some(place) = (self.own.0 as usize).checked_sub(self.office.workers.len()) else {
            return;
        };
        let packets = self.office.packets_per_stream;
        self.office.streams.open(place, || Mailbox::new(packets, Bell::Task(AtomicWaker::new())));
    }

    /// The engine has no allocation any more.
    pub(super) fn close(&self) {
        if let Some(mailbox) = self.mailbox() {
            mailbox.clear();
        }
    }

    /// Brings a payload to the mailbox of another engine, or counts why not.
    pub(super) fn carry(
        &mut self,
        metrics: &WorkerMetrics,
        hop: Hop,
        traffic_class: u8,
        payload: &[u8],
    ) {
        let Some(mailbox) = self.office.mailbox(hop.engine) else {
            return metrics.dropped(DropReason::NoAllocation);
        };
        if !mailbox.post(hop, traffic_class, payload) {
            return metrics.dropped(DropReason::MailboxFull);
        }
        let streams = self.office.is_stream(self.own) || self.office.is_stream(hop.engine);
        metrics.shortcut(if streams { Shortcut::Stream } else { Shortcut::OtherWorker }, 1);
        if self.touched.last() != Some(&hop.engine) {
            self.touched.push(hop.engine);
        }
    }

    /// Wakes everybody whom something was brought to.
    pub(super) fn ring(&mut self) {
        for engine in self.touched.drain(..) {
            if let Some(mailbox) = self.office.mailbox(engine) {
                mailbox.ring();
            }
        }
    }
}

/// A table that grows and never moves, so that it is read without a lock: each page is twice as
/// long as the one before. A place that is free again keeps its mailbox for the next.
#[derive(Default)]
struct Pages([OnceLock<Page>; PAGES]);

type Page = Box<[OnceLock<Box<Mailbox>>]>;

impl Pages {
    fn get(&self, place: usize) -> Option<&Mailbox> {
        let (page, index) = Self::split(place)?;
        let mailbox = self.0.get(page)?.get()?.get(index)?.get()?;
        Some(mailbox)
    }

    fn open(&self, place: usize, mailbox: impl FnOnce() -> Mailbox) {
        let Some((page, index)) = Self::split(place) else { return };
        let Some(page_slot) = self.0.get(page) else { return };
        let empty = || (0..FIRST_PAGE << page).map(|_| OnceLock::new()).collect();
        if let Some(slot) = page_slot.get_or_init(empty).get(index) {
            slot.get_or_init(|| Box::new(mailbox()));
        }
    }

    /// The page that a place is on, and where.
    fn split(place: usize) -> Option<(usize, usize)> {
        let page = (place / FIRST_PAGE + 1).checked_ilog2()? as usize;
        Some((page, place - FIRST_PAGE * ((1 << page) - 1)))
    }
}

/// Places on the first page, and how many pages there may be: more than there are descriptors.
const FIRST_PAGE: usize = 32;
const PAGES: usize = 26;

/// The most packets that wait for one worker; about as many as the receive buffers of a few
/// allocations hold. What comes beyond is dropped and counted. Larger packets than usual may be as
/// many as take the same memory once more.
const PACKETS_PER_WORKER: usize = 4096;

/// Bytes that a packet of `len` takes beyond those of a usual parcel.
const fn excess(len: usize) -> usize {
    (HEADROOM + len + TAILROOM).saturating_sub(PARCEL_BYTES)
}

/// Memory of one parcel: a packet of the usual MTU fits. A larger one takes more for as long as it
/// waits.
const PARCEL_BYTES: usize = HEADROOM + 1500 + TAILROOM + 49;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::super::sys::Poll;
    use super::*;

    fn office(workers: usize) -> (Arc<Office>, Vec<Arc<Inbox>>) {
        let inbox = |_| Arc::new(Inbox::new().expect("an inbox"));
        let inboxes: Vec<_> = (0..workers).map(inbox).collect();
        (Office::new(&inboxes, 0), inboxes)
    }

    fn payload(parcel: &mut Parcel) -> Vec<u8> {
        let (slot, payload) = parcel.slot_mut();
        assert_eq!((payload.start, slot.len() - payload.end), (HEADROOM, TAILROOM));
        slot[payload].to_vec()
    }

    #[test]
    fn packets_come_in_order_with_their_marks_and_their_memory_is_used_again() {
        let (office, _inboxes) = office(2);
        let (mut from, to) = (office.worker(0), office.worker(1));
        let (metrics, hop) = (WorkerMetrics::default(), Hop::for_tests(to.engine()));
        let mailbox = to.mailbox().expect("a worker has one");
        let lens = [0, 1, 1_500, 65_507, 1_200];
        for class in 0..3 {
            for len in lens {
                from.carry(&metrics, hop, class, &vec![class; len]);
            }
            for len in lens {
                let mut parcel = mailbox.take().expect("a packet");
                assert_eq!(payload(&mut parcel), vec![class; len]);
                assert_eq!((parcel.hop(), parcel.traffic_class()), (hop, class));
                mailbox.give_back(parcel);
            }
            assert!(mailbox.take().is_none());
            // As many as waited at once, and none larger than the usual.
            assert_eq!(mailbox.spare.len(), lens.len());
        }
        let mut spare: Vec<_> = std::iter::from_fn(|| mailbox.spare.pop()).collect();
        assert!(spare.iter().all(|parcel| parcel.0.buffer.capacity() == PARCEL_BYTES));
        mailbox.give_back(spare.pop().expect("a parcel"));
        let counted = allocation_counter::measure(|| {
            for _ in 0..100 {
                from.carry(&metrics, hop, 0, &[7; 1_200]);
                from.ring();
                mailbox.give_back(mailbox.take().expect("a packet"));
            }
        });
        assert_eq!(counted.count_total, 0);
        assert_eq!(metrics.shortcuts(Shortcut::OtherWorker), 115);
    }

    #[test]
    fn a_full_mailbox_drops_what_comes_and_counts_it() {
        let (office, _inboxes) = office(2);
        let (mut from, stream) = (office.worker(0), office.stream(40));
        let metrics = WorkerMetrics::default();
        // Nobody has opened it yet.
        from.carry(&metrics, Hop::for_tests(stream.engine()), 0, b"early");
        assert_eq!(metrics.drops(DropReason::NoAllocation), 1);
        assert!(stream.mailbox().is_none());
        stream.open();
        for (to, room) in [(office.worker(1).engine(), PACKETS_PER_WORKER), (stream.engine(), 16)] {
            let before = metrics.drops(DropReason::MailboxFull);
            for _ in 0..room {
                from.carry(&metrics, Hop::for_tests(to), 0, b"room");
            }
            assert_eq!(metrics.drops(DropReason::MailboxFull), before);
            for _ in 0..3 {
                from.carry(&metrics, Hop::for_tests(to), 0, b"no room");
            }
            assert_eq!(metrics.drops(DropReason::MailboxFull), before + 3);
        }
        let sent = [Shortcut::OtherWorker, Shortcut::Stream].map(|way| metrics.shortcuts(way));
        assert_eq!(sent, [PACKETS_PER_WORKER as u64, 16]);
        // Who comes next finds it empty.
        stream.close();
        assert!(stream.mailbox().is_some_and(|mailbox| mailbox.take().is_none()));
    }

    #[test]
    fn large_packets_take_no_more_memory_than_about_as_many_usual_ones() {
        let (office, _inboxes) = office(1);
        let (mut from, stream) = (office.worker(0), office.stream(0));
        stream.open();
        let (metrics, hop) = (WorkerMetrics::default(), Hop::for_tests(stream.engine()));
        let mailbox = stream.mailbox().expect("it is open");
        let large = vec![7; 60_000];
        let waits = || mailbox.full.len();
        for _ in 0..2 {
            from.carry(&metrics, hop, 0, &large);
            assert_eq!(waits(), 1);
            from.carry(&metrics, hop, 0, &large);
            assert_eq!(waits(), 1, "there is no room for another");
            // Usual ones have room of their own.
            from.carry(&metrics, hop, 0, &large[..1200]);
            assert_eq!(waits(), 2);
            while let Some(parcel) = mailbox.take() {
                mailbox.give_back(parcel);
            }
        }
        from.carry(&metrics, hop, 0, &large);
        stream.close();
        assert_eq!(mailbox.excess.load(Ordering::Relaxed), 0);
        assert_eq!(metrics.drops(DropReason::MailboxFull), 2);
    }

    #[test]
    fn a_worker_that_sleeps_is_woken_once_and_one_that_is_awake_is_not() {
        let (office, inboxes) = office(2);
        let (mut from, to) = (office.worker(0), office.worker(1));
        let (metrics, hop) = (WorkerMetrics::default(), Hop::for_tests(to.engine()));
        let mailbox = to.mailbox().expect("a worker has one");
        let mut poll = Poll::new(1).expect("a poll");
        poll.add(inboxes[1].wake.as_fd(), 7).expect("a watch");
        let mut woken = || {
            let count = poll.wait(Duration::ZERO).expect("a wait");
            inboxes[1].wake.clear();
            count == 1
        };
        from.carry(&metrics, hop, 0, b"awake");
        from.ring();
        assert!(!woken() && !mailbox.may_sleep());
        mailbox.awake();
        assert!(mailbox.take().is_some() && mailbox.may_sleep());
        from.carry(&metrics, hop, 0, b"asleep");
        assert!(!woken(), "not before the end of the round");
        from.ring();
        assert!(woken());
        from.carry(&metrics, hop, 0, b"woken already");
        from.ring();
        assert!(!woken());
    }

    #[test]
    fn nobody_oversleeps() {
        let (office, inboxes) = office(3);
        let to = office.worker(2);
        let hop = Hop::for_tests(to.engine());
        let post = |mut from: Courier| {
            std::thread::spawn(move || {
                let metrics = WorkerMetrics::default();
                for _ in 0..20_000 {
                    from.carry(&metrics, hop, 0, b"x");
                    from.ring();
                    std::thread::yield_now();
                }
                metrics.shortcuts(Shortcut::OtherWorker)
            })
        };
        let senders = [post(office.worker(0)), post(office.worker(1))];
        let mailbox = to.mailbox().expect("a worker has one");
        let mut poll = Poll::new(1).expect("a poll");
        poll.add(inboxes[2].wake.as_fd(), 7).expect("a watch");
        let mut taken = 0;
        let mut rest = |poll: &mut Poll, timeout| {
            let deadline = if mailbox.may_sleep() { timeout } else { Duration::ZERO };
            let woken = poll.wait(deadline).expect("a wait") > 0 || deadline.is_zero();
            mailbox.awake();
            inboxes[2].wake.clear();
            while let Some(parcel) = mailbox.take() {
                taken += 1;
                mailbox.give_back(parcel);
            }
            (woken, taken)
        };
        while !senders.iter().all(std::thread::JoinHandle::is_finished) {
            // The last one may have been taken just before its sender is done.
            let (woken, _) = rest(&mut poll, Duration::from_secs(10));
            assert!(woken || senders.iter().all(std::thread::JoinHandle::is_finished));
        }
        let sent: u64 = senders.into_iter().map(|sender| sender.join().expect("it ends")).sum();
        let (_, taken) = rest(&mut poll, Duration::ZERO);
        assert_eq!(taken, sent);
    }

    #[test]
    fn each_place_of_a_connection_is_its_own() {
        let mut expected = (0, 0);
        for place in 0..100_000 {
            assert_eq!(Pages::split(place), Some(expected), "{place}");
            expected.1 += 1;
            if expected.1 == FIRST_PAGE << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
        let (office, _inboxes) = office(1);
        for place in [0, 31, 32, 5_000] {
            let courier = office.stream(place);
            assert!(courier.mailbox().is_none());
            courier.open();
            assert!(courier.mailbox().is_some());
            assert!(office.stream(place + 1).mailbox().is_none());
        }
    }
}
