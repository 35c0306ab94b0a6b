//! Short pauses of a thread that keeps up with its load, but is woken for a packet or two at a
//! time.
//!
//! To be woken, to ask which sockets are readable, to receive, to decide and to send costs nearly
//! as much for one packet as for ten. Under load a thread that keeps up is woken for each: it never
//! has less to do than when it is about to have too much. So it waits a moment before it looks
//! again, as network cards hold their interrupts back: what has come meanwhile is received by fewer
//! calls, and what is for the same receiver leaves together.
//!
//! Below the rate of its [`Rhythm`] a thread never pauses, so a quiet relay is as quick as ever.
//! Nor does it when each receive brings many packets in any case, or when there is no end of them:
//! then it does not come to wait.

use std::time::{Duration, Instant};

use super::sys::BATCH;

/// When a thread pauses, and how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rhythm {
    /// How long.
    pause: Duration,
    /// As many packets have to be expected in that time.
    packets: usize,
}

impl Rhythm {
    /// Of datagrams, which are for the ear and the eye, from 80,000 a second on.
    pub(super) const DATAGRAMS: Self = Self { pause: Duration::from_micros(50), packets: 4 };
    /// Of streams, which have waited longer for each other than that, from 40,000 packets a second
    /// on. A write or a TLS record costs more than a datagram, so there is more to save.
    pub(super) const STREAMS: Self = Self { pause: Duration::from_micros(250), packets: 10 };
}

/// What one thread has had to do of late.
#[derive(Debug)]
pub(super) struct Pace {
    rhythm: Rhythm,
    /// When the window began in which packets and receives are counted.
    since: Instant,
    packets: usize,
    receives: usize,
    /// Whether the window before was one to pause in.
    is_busy: bool,
    /// Whether something came since the thread last went to wait.
    has_received: bool,
    /// Whether something is left that had no turn.
    has_left: bool,
    /// Whether another thread of ours has brought something in this window.
    was_handed: bool,
}

impl Pace {
    pub(super) fn new(rhythm: Rhythm, now: Instant) -> Self {
        let (packets, receives) = Default::default();
        let (is_busy, has_received, has_left, was_handed) = Default::default();
        Self { rhythm, since: now, packets, receives, is_busy, has_received, has_left, was_handed }
    }

    /// One that pauses whenever something has come.
    #[cfg(test)]
    pub(super) fn eager() -> Self {
        let rhythm = Rhythm { pause: Duration::from_micros(1), packets: 0 };
        Self { is_busy: true, ..Self::new(rhythm, Instant::now() + Duration::from_secs(3600)) }
    }

    /// Notes what one receive, or one read, has brought.
    #[inline]
    pub(super) fn received(&mut self, packets: usize) {
        self.packets += packets;
        self.receives += 1;
        self.has_received = true;
    }

    /// Notes that something is left that had no turn: there is no pause before the next one.
    #[inline]
    pub(super) fn left_some(&mut self) {
        self.has_left = true;
    }

    /// Notes that another thread of ours has brought something. Two that pause for each other come
    /// to nothing, so there is no pause in this window and the next.
    #[inline]
    pub(super) fn was_handed(&mut self) {
        self.was_handed = true;
    }

    /// How long to pause now that there is nothing left to do.
    pub(super) fn pause(&mut self, now: Instant) -> Option<Duration> {
        let Rhythm { pause, packets: least } = self.rhythm;
        let passed = now.saturating_duration_since(self.since);
        if passed >= WINDOW {
            let expected = self.packets as u128 * pause.as_nanos();
            // Of what a pause has gathered each receive brings more.
            let many = if self.is_busy { BATCH } else { MANY };
            let is_thin = self.packets < self.receives * many;
            let is_busy = is_thin && expected >= passed.as_nanos() * least as u128;
            self.is_busy = is_busy && !std::mem::take(&mut self.was_handed);
            (self.since, self.packets, self.receives) = (now, 0, 0);
        }
        let has_received = std::mem::take(&mut self.has_received);
        let has_left = std::mem::take(&mut self.has_left);
        (has_received && !has_left && !self.was_handed && self.is_busy).then_some(pause)
    }
}

/// For so long packets are counted before anybody pauses, or stops to. What comes in less time may
/// be a burst that is over.
const WINDOW: Duration = Duration::from_millis(2);
/// So many packets by one call are many without a pause: to wait for more would gain little.
const MANY: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const RHYTHM: Rhythm = Rhythm { pause: Duration::from_micros(100), packets: 8 };

    /// A thread that goes to wait `times` a window, and whose receives in a window bring as many
    /// packets as it says. How often it pauses in the window after the first.
    fn pauses(times: u32, receives: &[usize]) -> usize {
        let start = Instant::now();
        let mut pace = Pace::new(RHYTHM, start);
        let mut count = 0;
        for round in 1..=2 * times {
            if round % times == 0 {
                receives.iter().for_each(|packets| pace.received(*packets));
            } else if !receives.is_empty() {
                pace.received(0);
            }
            let pause = pace.pause(start + WINDOW * round / times);
            assert!(pause.is_none() || round >= times, "the first window is not over");
            count += usize::from(pause.is_some());
        }
        count
    }

    #[test]
    fn a_thread_pauses_from_a_rate_on() {
        assert_eq!(pauses(20, &[1; 160]), 21);
        assert_eq!(pauses(20, &[1; 159]), 0);
        assert_eq!(pauses(20, &[]), 0, "nothing came");
        assert_eq!(pauses(20, &[0; 9]), 0, "nothing but errors");
    }

    #[test]
    fn a_thread_does_not_pause_when_each_receive_brings_many() {
        assert_eq!(pauses(1, &[MANY; 20]), 0);
        assert_eq!(pauses(1, &[MANY * 8 - 1, MANY]), 0, "not enough");
        assert_eq!(pauses(1, &[64, 64, 64, 1]), 0);
        assert_eq!(pauses(1, &[MANY - 1; 20]), 2);
    }

    #[test]
    fn a_thread_goes_on_to_pause_while_that_brings_more_by_each_receive() {
        let start = Instant::now();
        let mut pace = Pace::new(RHYTHM, start);
        let mut window = 0;
        let mut receives = |packets: usize| {
            window += 1;
            (0..20).for_each(|_| pace.received(packets));
            pace.pause(start + WINDOW * window).is_some()
        };
        assert!(!receives(MANY));
        assert!(receives(MANY - 1));
        assert!(receives(BATCH - 1));
        assert!(!receives(BATCH));
        assert!(!receives(MANY));
    }

    #[test]
    fn who_was_woken_for_something_else_does_not_pause() {
        let start = Instant::now();
        let mut pace = Pace::new(RHYTHM, start);
        (0..200).for_each(|_| pace.received(1));
        assert!(pace.pause(start + WINDOW).is_some());
        assert_eq!(pace.pause(start + WINDOW), None);
        pace.received(1);
        assert!(pace.pause(start + WINDOW).is_some());
    }

    #[test]
    fn who_has_left_something_does_not_pause() {
        let mut pace = Pace::eager();
        pace.received(1);
        pace.left_some();
        assert_eq!(pace.pause(Instant::now()), None);
        pace.received(1);
        assert!(pace.pause(Instant::now()).is_some());
    }

    #[test]
    fn who_was_handed_something_by_another_thread_does_not_pause_for_a_while() {
        let start = Instant::now();
        let mut pace = Pace::new(RHYTHM, start);
        let mut pauses = |window: u32, was_handed: bool| {
            (0..200).for_each(|_| pace.received(1));
            if was_handed {
                pace.was_handed();
            }
            pace.pause(start + WINDOW * window).is_some()
        };
        assert!(pauses(1, false));
        assert!(!pauses(1, true), "at once");
        assert!(!pauses(2, false), "because of the window before");
        assert!(pauses(3, false));
    }

    #[test]
    fn a_burst_after_silence_is_not_held_back() {
        let start = Instant::now();
        let mut pace = Pace::new(RHYTHM, start);
        (0..200).for_each(|_| pace.received(1));
        assert!(pace.pause(start + WINDOW).is_some());
        (0..100).for_each(|_| pace.received(1));
        let later = start + WINDOW + Duration::from_secs(1);
        assert_eq!(pace.pause(later), None);
        pace.received(30);
        assert_eq!(pace.pause(later + Duration::from_micros(1)), None);
    }

    #[test]
    fn twenty_thousand_packets_a_second_are_never_held_back() {
        for rhythm in [Rhythm::DATAGRAMS, Rhythm::STREAMS] {
            let start = Instant::now();
            let mut pace = Pace::new(rhythm, start);
            for packet in 1..1000 {
                pace.received(1);
                assert_eq!(pace.pause(start + Duration::from_micros(50) * packet), None);
            }
        }
    }
}
