//! What a listener does when more arrives than its worker can bear.
//!
//! Left alone the kernel's queue is full then, and whatever finds it full is lost: requests and
//! the packets of quiet clients like those of the loudest. So while a listener's queue overflows
//! and its worker never gets to the end of it, each client has a bounded share of what the worker
//! can do, and what a client sends beyond it is dropped before the queue, by a filter in the
//! kernel ([`Filter`]), at no cost to the worker; requests are spared as long as they are no more
//! than half of what the worker can do. Where the kernel has no
//! filters the worker itself drops, before anything is looked up or sent, at most half of what it
//! has read: reading costs something, too.
//!
//! Clients come first: sources for which something was relayed, one way or the other, in this
//! window or the one before. A client has the same share as every other client, and strangers have
//! what clients leave, an eighth in any case. So a flood of however many sources takes little from
//! those that have an allocation, and who sends a flood through one has his share and no more. What
//! is dropped is said in sixteenths, so a sixteenth of any flood is not held back.
//!
//! Nothing is kept per client. Each [`WINDOW`] the arrivals are counted in buckets by a hash of
//! their source with a salt of its own, and the salt of the next window is another: who shares a
//! bucket with a loud client does so for a window.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::sys::{BUCKETS, Filter, PARTS, Salt, is_request};

/// The shares of one listener's clients.
pub(super) struct Share {
    phase: Phase,
    /// When this window began.
    since: Instant,
    window: Window,
    /// What is dropped in this window.
    filter: Filter,
    /// Whether the kernel can do so.
    in_kernel: bool,
    /// What the worker can receive and handle, in datagrams a second.
    able: f64,
    /// The state of a xorshift generator, which guards nothing: who could foresee it would know
    /// which of his packets are lost.
    random: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// All is well: nothing is counted.
    Quiet,
    /// The worker does not get to the end of the queue: who sends how much?
    Watching,
    /// The filter drops.
    Shedding,
}

/// What one window saw.
struct Window {
    /// Where clients are. Its salt is that of all buckets here.
    clients: Marks,
    /// Where they will be in the next window.
    coming: Marks,
    /// What arrived or would have, but for requests, by bucket; as multiples of [`UNIT`].
    packets: Box<[u32; BUCKETS]>,
    /// The same of requests.
    requests: Box<[u32; BUCKETS]>,
    received: u64,
    /// What was lost in front of the worker, to a full queue or to the filter.
    lost: u64,
    /// Whether the worker once came to the end of the queue.
    is_emptied: bool,
}

/// Some buckets of a salt.
struct Marks {
    salt: Salt,
    has: Box<[bool; BUCKETS]>,
}

impl Marks {
    fn new() -> Self {
        Self { salt: Salt::default(), has: Box::new([false; BUCKETS]) }
    }

    fn set(&mut self, source: SocketAddr) {
        self.has[self.salt.bucket(source)] = true;
    }
}

impl Window {
    fn new() -> Self {
        let (packets, requests) = (Box::new([0; BUCKETS]), Box::new([0; BUCKETS]));
        let (clients, coming, received, lost) = (Marks::new(), Marks::new(), 0, 0);
        Self { clients, coming, packets, requests, received, lost, is_emptied: false }
    }

    /// `salt` is that of the window after this one.
    fn restart(&mut self, salt: Salt) {
        std::mem::swap(&mut self.clients, &mut self.coming);
        self.coming.salt = salt;
        self.coming.has.fill(false);
        self.packets.fill(0);
        self.requests.fill(0);
        (self.received, self.lost, self.is_emptied) = (0, 0, false);
    }

    /// What came to `bucket` that may be dropped.
    fn concerned(&self, bucket: usize, spares_requests: bool) -> u64 {
        let requests = if spares_requests { 0 } else { self.requests[bucket] };
        u64::from(self.packets[bucket]) + u64::from(requests)
    }

    /// The most that one bucket may send, of those with clients or those without: strangers have
    /// what clients leave of `bearable`, and their part of it in any case.
    fn levels(&self, bearable: u64, spares_requests: bool) -> Levels {
        let (mut of_clients, mut of_strangers) = (0, 0);
        for bucket in 0..BUCKETS {
            let sum = if self.clients.has[bucket] { &mut of_clients } else { &mut of_strangers };
            *sum += self.concerned(bucket, spares_requests);
        }
        let left = bearable.saturating_sub(of_clients).max(bearable / STRANGERS_PART);
        let to_strangers = left.min(of_strangers);
        Levels {
            of_clients: self.level(true, bearable - to_strangers, spares_requests),
            of_strangers: self.level(false, to_strangers, spares_requests),
        }
    }

    /// The most that one bucket may send so that all of its kind together send `bearable`, as
    /// multiples of [`UNIT`]: who sends less leaves the rest to the others.
    fn level(&self, of_clients: bool, bearable: u64, spares_requests: bool) -> u64 {
        let mut level = 0;
        loop {
            let (mut below, mut above) = (0, 0);
            for bucket in (0..BUCKETS).filter(|bucket| self.clients.has[*bucket] == of_clients) {
                let arrivals = self.concerned(bucket, spares_requests);
                if arrivals <= level {
                    below += arrivals;
                } else {
                    above += 1;
                }
            }
            // It rises until nobody is below any more who was above before.
            match bearable.saturating_sub(below).checked_div(above) {
                Some(higher) if higher > level => level = higher,
                _ => return level,
            }
        }
    }
}

/// What buckets with clients and those without may send, each of them.
struct Levels {
    of_clients: u64,
    of_strangers: u64,
}

/// What is to be done with the filter of a listener's socket.
pub(super) enum Change {
    /// It stays.
    None,
    /// There was too much in a window: [`Share::filter`] takes its place.
    Shed,
    /// Nothing is dropped any more.
    Detach,
}

impl Share {
    /// Of a listener that has nothing to do; `in_kernel` says whether filters can be attached.
    pub(super) fn new(in_kernel: bool, now: Instant) -> Self {
        let mut share = Self {
            phase: Phase::Quiet,
            since: now,
            window: Window::new(),
            filter: Filter::default(),
            in_kernel,
            able: 0.0,
            random: RandomState::new().hash_one("share") | 1,
        };
        // The first window to count has a salt by now.
        share.restart(now, Phase::Quiet);
        share
    }

    /// What the kernel is to drop; `None` when it cannot.
    pub(super) fn filter(&self) -> Option<&Filter> {
        self.in_kernel.then_some(&self.filter)
    }

    /// The kernel took no filter after all.
    pub(super) fn without_kernel(&mut self) {
        self.in_kernel = false;
    }

    /// Whether somebody has to look at the clock for it: within [`WINDOW`] again.
    pub(super) fn is_busy(&self) -> bool {
        self.phase != Phase::Quiet
    }

    /// A batch of `received` datagrams was read, of which the last one says that `lost` were
    /// dropped since the batch before. `is_emptied`: there were no more.
    pub(super) fn batch(&mut self, now: Instant, received: usize, lost: u32, is_emptied: bool) {
        self.window.received += received as u64;
        self.window.lost += u64::from(lost);
        self.window.is_emptied |= is_emptied;
        if self.phase == Phase::Quiet {
            if is_emptied {
                self.window.received = 0;
            } else if self.window.received >= BACKLOG {
                self.restart(now, Phase::Watching);
                self.window.received = received as u64;
            }
        }
    }

    /// Whether the window is over: [`Share::tick`] is due.
    #[inline]
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.phase != Phase::Quiet && now.saturating_duration_since(self.since) >= WINDOW
    }

    /// Ends the window, in which `lost` were dropped that [`Share::batch`] has not heard of.
    pub(super) fn tick(&mut self, now: Instant, lost: u32) -> Change {
        let passed = now.saturating_duration_since(self.since).max(WINDOW);
        let per_sec = |datagrams: u64| datagrams as f64 / passed.as_secs_f64();
        let Window { received, is_emptied, .. } = self.window;
        let lost = self.window.lost + u64::from(lost);
        let (done, offered) = (per_sec(received), per_sec(received + lost));
        let is_shedding = self.phase == Phase::Shedding;
        self.able = if is_emptied {
            // It could have done more; how much more is found out by and by.
            self.able.max(done) * GROWTH
        } else {
            done
        };
        let target = self.able * if is_emptied { TARGET } else { TARGET_BEHIND };
        if is_shedding && self.in_kernel && offered > target || !is_emptied && lost > 0 {
            self.choose(if self.in_kernel { target / offered } else { READ_PART });
            self.restart(now, Phase::Shedding);
            return Change::Shed;
        }
        // Without a loss a backlog is only that, for now; it is over when nothing came any more.
        let goes_on = received > 0 && !is_emptied && !is_shedding;
        self.restart(now, if goes_on { Phase::Watching } else { Phase::Quiet });
        if is_shedding { Change::Detach } else { Change::None }
    }

    /// Chooses what is dropped of whose packets so that `part` of what has arrived would be left.
    fn choose(&mut self, part: f64) {
        let Window { clients, packets, requests, .. } = &self.window;
        let sum = |counts: &[u32]| counts.iter().map(|&count| u64::from(count)).sum::<u64>();
        let requests = sum(&requests[..]);
        let bearable = ((sum(&packets[..]) + requests) as f64 * part) as u64;
        let spares_requests = requests * 2 <= bearable;
        let mut filter = Filter::new(clients.salt, spares_requests);
        let spared = if spares_requests { requests } else { 0 };
        let levels = self.window.levels(bearable - spared, spares_requests);
        for bucket in 0..BUCKETS {
            let arrivals = self.window.concerned(bucket, spares_requests);
            let of_clients = self.window.clients.has[bucket];
            let level = if of_clients { levels.of_clients } else { levels.of_strangers };
            if arrivals > level {
                // Rounded up as often as is just, or all would be rounded alike.
                let parts = (arrivals - level) * (u64::from(PARTS) << 16) / arrivals;
                let parts = (parts + u64::from(self.draw() >> 16)) >> 16;
                filter.set(bucket, parts as u32);
            }
        }
        self.filter = filter;
    }

    fn restart(&mut self, now: Instant, phase: Phase) {
        let numbers = [self.draw(), self.draw(), self.draw()];
        self.window.restart(Salt::new(numbers));
        (self.since, self.phase) = (now, phase);
    }

    /// Whether what came from `source` and says `bytes` is to be handled. Asked once for
    /// each datagram or run of datagrams that arrived in one piece.
    #[inline]
    pub(super) fn admits<'a>(
        &mut self,
        source: SocketAddr,
        bytes: impl FnOnce() -> &'a [u8],
    ) -> bool {
        self.phase == Phase::Quiet || self.weigh(source, bytes())
    }

    fn weigh(&mut self, source: SocketAddr, bytes: &[u8]) -> bool {
        let first = bytes.first_chunk().map_or(u16::MAX, |first| u16::from_be_bytes(*first));
        let is_shedding = self.phase == Phase::Shedding;
        let parts = if is_shedding { self.filter.parts(source, first) } else { 0 };
        // In the kernel's filter it stands for those that were dropped there.
        let weight = if self.in_kernel { UNIT * PARTS / (PARTS - parts) } else { UNIT };
        let Window { clients, packets, requests, .. } = &mut self.window;
        let bucket = clients.salt.bucket(source);
        let arrivals = &mut if is_request(first) { requests } else { packets }[bucket];
        *arrivals = arrivals.saturating_add(weight);
        parts == 0 || self.in_kernel || self.draw() % PARTS >= parts
    }

    /// Something was relayed for `source`, from it or to it: it is a client.
    #[inline]
    pub(super) fn note_client(&mut self, source: SocketAddr) {
        if self.phase != Phase::Quiet {
            self.window.clients.set(source);
            self.window.coming.set(source);
        }
    }

    /// Whether the bucket of `source` is one with clients.
    #[cfg(test)]
    pub(super) fn has_client(&self, source: SocketAddr) -> bool {
        let Marks { salt, has } = &self.window.clients;
        has[salt.bucket(source)]
    }

    fn draw(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) as u32
    }
}

/// How long arrivals are counted before shares are dealt out anew. A queue of the usual size is
/// filled in about as long.
pub(super) const WINDOW: Duration = Duration::from_millis(50);

/// So many datagrams in a row without an end of the queue are looked at more closely.
const BACKLOG: u64 = 2048;
/// The part of its strength that a worker is given to do, so that it stays at the end of the queue.
const TARGET: f64 = 0.9;
/// The same for one that has to get there first: until then it has enough to do.
const TARGET_BEHIND: f64 = 0.7;
/// How much stronger a worker is taken for with each window in which it had time left.
const GROWTH: f64 = 1.05;
/// The part that is left of what a worker has to read before it can drop.
const READ_PART: f64 = 0.5;
/// Strangers have so much of what can be done at least, when they want it: one part of so many.
/// A client that was silent for a while is a stranger at first.
const STRANGERS_PART: u64 = 8;
/// What one datagram counts.
const UNIT: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNEL_DATA: &[u8] = &[0x40, 0, 0, 1, 7];
    const REQUEST: &[u8] = &[0, 1, 0, 0];

    fn source(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    /// Sources from this port on are strangers: nothing is relayed for them.
    const STRANGERS: u16 = 20_000;
    /// Of what sources from this port on send, one datagram in a window is relayed.
    const MOSTLY_JUNK: u16 = 10_000;

    /// A listener with what its sources send in a window, of which its worker can do `able`.
    struct Line {
        share: Share,
        now: Instant,
        able: usize,
        /// What the queue still holds.
        backlog: usize,
    }

    impl Line {
        fn new(in_kernel: bool, able: usize) -> Self {
            let now = Instant::now();
            // Any number, but the same each time.
            let mut share = Share { random: 0x5EED, ..Share::new(in_kernel, now) };
            share.restart(now, Phase::Quiet);
            Self { share, now, able, backlog: 0 }
        }

        /// Every source sends so many datagrams; returns how many of each were handled, and what
        /// changed. The queue has room for what the worker can do in one window.
        fn window(&mut self, sources: &[(u16, usize, &[u8])]) -> (Vec<usize>, Vec<usize>, Change) {
            let mut arrivals: Vec<(usize, u16, &[u8])> = Vec::new();
            for (index, &(port, count, bytes)) in sources.iter().enumerate() {
                arrivals.extend(std::iter::repeat_n((index, port, bytes), count));
            }
            // In an order that favours nobody, the same each time.
            arrivals.sort_by_key(|(index, ..)| *index);
            let step = (1..).find(|step| gcd(step * 7 + 3, arrivals.len()) == 1).unwrap_or(0);
            let (mut handled, mut shed) = (vec![0; sources.len()], vec![0; sources.len()]);
            let (mut queued, mut lost) = (Vec::new(), 0);
            for at in 0..arrivals.len() {
                let (index, port, bytes) = arrivals[at * (step * 7 + 3) % arrivals.len()];
                let first = u16::from_be_bytes([bytes[0], bytes[1]]);
                let filter = self.share.filter().filter(|_| self.share.phase == Phase::Shedding);
                let parts = filter.map_or(0, |filter| filter.parts(source(port), first));
                if self.share.draw() % PARTS < parts || queued.len() + self.backlog > 2 * self.able
                {
                    lost += 1;
                } else {
                    queued.push((index, port, bytes));
                }
            }
            let done = (queued.len() + self.backlog).min(self.able);
            self.backlog = queued.len() + self.backlog - done;
            self.share.batch(self.now, done, lost, self.backlog == 0);
            for (index, port, bytes) in queued {
                if self.share.admits(source(port), || bytes) {
                    handled[index] += 1;
                    let is_first = handled[index] == 1;
                    let has_allocation = port < MOSTLY_JUNK || port < STRANGERS && is_first;
                    if has_allocation && !is_request(u16::from_be_bytes([bytes[0], bytes[1]])) {
                        self.share.note_client(source(port));
                    }
                } else {
                    shed[index] += 1;
                }
            }
            self.now += WINDOW;
            let change = self.share.tick(self.now, 0);
            (handled, shed, change)
        }
    }

    fn gcd(a: usize, b: usize) -> usize {
        if b == 0 { a } else { gcd(b, a % b) }
    }

    /// Fifty that together send three times what can be done, a quiet one, and requests.
    fn crowd<'a>() -> Vec<(u16, usize, &'a [u8])> {
        let loud = (0..50).map(|port| (2000 + port, 600, CHANNEL_DATA));
        loud.chain([(1000, 100, CHANNEL_DATA), (1001, 10, REQUEST)]).collect()
    }

    #[test]
    fn the_loud_ones_are_held_to_the_same_share_and_the_quiet_one_loses_next_to_nothing() {
        let mut line = Line::new(true, 10_000);
        let crowd = crowd();
        for _ in 0..20 {
            line.window(&crowd);
        }
        let mut sums = vec![0; crowd.len()];
        for _ in 0..100 {
            let (handled, shed, change) = line.window(&crowd);
            assert!(matches!(change, Change::Shed), "it is too much still");
            assert_eq!(shed.iter().sum::<usize>(), 0, "the kernel does it");
            sums.iter_mut().zip(handled).for_each(|(sum, handled)| *sum += handled);
        }
        let (loud, others) = sums.split_at(50);
        let all: usize = loud.iter().sum();
        assert!((800_000..=1_000_000).contains(&all), "{all} of a million");
        let (least, most) = (loud.iter().min(), loud.iter().max());
        assert!(least.zip(most).is_some_and(|(least, most)| least * 10 > most * 8), "{loud:?}");
        // It shares a bucket with one of them in one window of twenty.
        assert!(others[0] > 9_200 && others[1] == 1_000, "{others:?}");
    }

    #[test]
    fn a_flood_of_requests_is_held_to_its_share_too() {
        let mut line = Line::new(true, 10_000);
        let crowd = [(2000, 30_000, REQUEST), (1000, 100, CHANNEL_DATA), (1001, 10, REQUEST)];
        for _ in 0..20 {
            line.window(&crowd);
        }
        let mut sums = [0; 3];
        for _ in 0..100 {
            let (handled, ..) = line.window(&crowd);
            sums.iter_mut().zip(handled).for_each(|(sum, handled)| *sum += handled);
        }
        assert!((800_000..=1_000_000).contains(&sums[0]), "{sums:?}");
        assert!(sums[1] > 9_500 && sums[2] > 950, "{sums:?}");
    }

    #[test]
    fn a_flood_that_is_half_of_requests_does_not_pass_for_them() {
        let mut line = Line::new(true, 10_000);
        let mut crowd = vec![(1000, 100, CHANNEL_DATA), (1001, 10, REQUEST)];
        crowd.extend((2000..2010).map(|port| (port, 4_500, REQUEST)));
        crowd.extend((2000..2010).map(|port| (port, 5_500, CHANNEL_DATA)));
        for _ in 0..20 {
            line.window(&crowd);
        }
        let mut sums = vec![0; crowd.len()];
        for _ in 0..100 {
            let (handled, ..) = line.window(&crowd);
            sums.iter_mut().zip(handled).for_each(|(sum, handled)| *sum += handled);
        }
        let all: usize = sums.iter().sum();
        assert!((800_000..=1_000_000).contains(&all), "{all} of a million");
        assert!(sums[0] > 9_000 && sums[1] > 900, "{sums:?}");
    }

    /// How much is handled of what each source sends in twenty windows, when it has gone on for
    /// as long.
    fn handled(crowd: &[(u16, usize, &[u8])]) -> Vec<usize> {
        let mut line = Line::new(true, 10_000);
        for _ in 0..20 {
            line.window(crowd);
        }
        let mut sums = vec![0; crowd.len()];
        for _ in 0..20 {
            let (handled, ..) = line.window(crowd);
            sums.iter_mut().zip(handled).for_each(|(sum, handled)| *sum += handled);
        }
        sums
    }

    /// Strangers that send `all` together.
    fn strangers(count: u16, all: usize) -> impl Iterator<Item = (u16, usize, &'static [u8])> {
        let each = all / usize::from(count);
        (0..count).map(move |port| (STRANGERS + port, each, CHANNEL_DATA))
    }

    #[test]
    fn strangers_however_many_take_nothing_from_clients() {
        for count in [1, 1_000, 30_000] {
            let mut crowd: Vec<_> = (0..50).map(|port| (2000 + port, 100, CHANNEL_DATA)).collect();
            crowd.extend(strangers(count, 30_000));
            let handled = handled(&crowd);
            let clients: usize = handled[..50].iter().sum();
            assert!(clients > 92_000, "{clients} of 100000 beside {count} strangers");
            let all: usize = handled.iter().sum();
            assert!((160_000..=205_000).contains(&all), "{all} of 200000");
        }
    }

    #[test]
    fn a_client_has_no_more_than_the_others_whatever_it_sends() {
        // One that has all of its flood relayed, and one that has a datagram of it.
        for port in [3000, MOSTLY_JUNK] {
            let mut crowd: Vec<_> = (0..50).map(|port| (2000 + port, 300, CHANNEL_DATA)).collect();
            crowd.push((port, 20_000, CHANNEL_DATA));
            crowd.extend(strangers(1_000, 10_000));
            let handled = handled(&crowd);
            let mean = handled[..50].iter().sum::<usize>() / 50;
            // A fair one is 3088, were it not for the sixteenth of the flood.
            assert!(mean > 2_200, "{mean}");
            // What is dropped is said in sixteenths, so one of them is the least that passes.
            let least = 20 * 20_000 / PARTS as usize;
            assert!(handled[50] < least.max(mean) * 11 / 10, "{} beside {mean}", handled[50]);
        }
    }

    #[test]
    fn a_client_that_was_silent_is_heard_beside_others_that_are_loud() {
        let mut crowd = crowd();
        crowd.push((STRANGERS, 20, CHANNEL_DATA));
        let handled = handled(&crowd);
        assert!(handled.last().is_some_and(|handled| *handled > 340), "{handled:?}");
    }

    #[test]
    fn a_client_is_one_in_the_next_window_too_and_not_for_ever() {
        let mut line = Line::new(true, 10_000);
        line.share.note_client(source(1000));
        assert!(!line.share.has_client(source(1000)), "nothing is counted while all is quiet");
        line.share.batch(line.now, BACKLOG as usize, 0, false);
        line.share.note_client(source(1000));
        let known = std::iter::from_fn(|| {
            let known = line.share.has_client(source(1000));
            line.now += WINDOW;
            line.share.batch(line.now, 1, 1, false);
            line.share.tick(line.now, 0);
            Some(known)
        });
        assert_eq!(known.take(3).collect::<Vec<_>>(), [true, true, false]);
    }

    #[test]
    fn nobody_looks_at_the_clock_when_nothing_comes_any_more() {
        let mut line = Line::new(true, 10_000);
        line.share.batch(line.now, BACKLOG as usize, 0, false);
        assert!(line.share.is_busy());
        line.now += WINDOW;
        line.share.tick(line.now, 0);
        assert!(line.share.is_busy(), "more may be there");
        line.now += WINDOW;
        assert!(matches!(line.share.tick(line.now, 0), Change::None));
        assert!(!line.share.is_busy(), "nothing came in a whole window");
    }

    #[test]
    fn nothing_is_shed_that_can_be_borne_and_nothing_any_more_once_the_flood_is_over() {
        let mut line = Line::new(true, 10_000);
        let calm: Vec<_> = (0..50).map(|port| (2000 + port, 190, CHANNEL_DATA)).collect();
        for _ in 0..20 {
            let (handled, _, change) = line.window(&calm);
            assert!(matches!(change, Change::None));
            assert!(handled.iter().all(|handled| *handled == 190), "{handled:?}");
        }
        for _ in 0..20 {
            line.window(&crowd());
        }
        assert!(line.share.is_busy());
        let changes: Vec<_> = (0..40).map(|_| line.window(&calm).2).collect();
        let ended = changes.iter().position(|change| matches!(change, Change::Detach));
        assert!(ended.is_some_and(|ended| ended < 20), "{ended:?}");
        assert!(!line.share.is_busy());
    }

    #[test]
    fn a_worker_that_has_to_drop_itself_drops_no_request_and_at_most_half() {
        let mut line = Line::new(false, 10_000);
        let crowd = crowd();
        let (mut all_handled, mut all_shed) = (0, 0);
        for _ in 0..50 {
            let (handled, shed, _) = line.window(&crowd);
            assert_eq!(shed[51], 0);
            all_handled += handled.iter().sum::<usize>();
            all_shed += shed.iter().sum::<usize>();
        }
        assert!(all_shed > 50_000, "{all_shed}");
        assert!(all_shed < all_handled * 11 / 10, "{all_shed} beside {all_handled}");
    }
}
