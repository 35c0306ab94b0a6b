//! The bandwidth of all allocations together, and what else many share: without a lock, one atomic
//! that every worker moves.
//!
//! The atomic is the time at which the bucket would be full again (the virtual scheduling form of
//! a token bucket): a packet moves it on by what it costs, and is refused when that leads more
//! than the burst ahead of now.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// At least one datagram of any size passes a full bucket.
const BURST_BYTES_MIN: u64 = 65_536;
const NANOS_PER_SEC: u64 = 1_000_000_000;
/// What one piece costs of a bucket that counts by the minute.
const PIECE_UNITS: u64 = 60;

/// The bytes that a rate may be ahead: those of one second.
pub(super) fn burst_bytes(bytes_per_sec: u64) -> u64 {
    bytes_per_sec.max(BURST_BYTES_MIN)
}

/// A token bucket that all workers share.
#[derive(Debug)]
pub(super) struct SharedBucket {
    bytes_per_sec: u64,
    burst_nanos: u64,
    /// The first moment that was seen; the others are measured from it.
    start: OnceLock<Instant>,
    /// Nanoseconds after `start` at which the bucket is full again.
    full_at: AtomicU64,
    /// And at which the next stream has its turn that must wait for one.
    turn_at: AtomicU64,
}

impl SharedBucket {
    /// A full bucket; `bytes_per_sec` 0 turns it off.
    pub(super) fn new(bytes_per_sec: u64) -> Self {
        let burst_nanos = cost_nanos(burst_bytes(bytes_per_sec), bytes_per_sec);
        let (full_at, turn_at) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { bytes_per_sec, burst_nanos, start: OnceLock::new(), full_at, turn_at }
    }

    /// A full bucket of `per_min` pieces, which a minute fills; 0 turns it off.
    pub(super) fn of_a_minute(per_min: u64) -> Self {
        // As many units a second as pieces a minute.
        let burst_nanos = PIECE_UNITS * NANOS_PER_SEC;
        Self { burst_nanos, ..Self::new(per_min) }
    }

    /// Takes `pieces` of [`Self::of_a_minute`] when they are there.
    pub(super) fn try_pieces(&self, pieces: usize, now: Instant) -> bool {
        self.try_take(pieces.saturating_mul(PIECE_UNITS as usize), now)
    }

    /// Whether all that was taken before `now` has been made up for.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        let full_at = Duration::from_nanos(self.full_at.load(Ordering::Relaxed));
        self.start.get().is_none_or(|start| now.saturating_duration_since(*start) >= full_at)
    }

    /// Takes `bytes` when they are there.
    #[inline]
    pub(super) fn try_take(&self, bytes: usize, now: Instant) -> bool {
        if self.bytes_per_sec == 0 {
            return true;
        }
        let passed = self.passed(now);
        let cost = cost_nanos(bytes as u64, self.bytes_per_sec);
        let take = |full_at: u64| {
            let after = full_at.max(passed).saturating_add(cost);
            (after - passed <= self.burst_nanos).then_some(after)
        };
        self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Gives `bytes` back that were taken a moment ago.
    pub(super) fn give_back(&self, bytes: usize) {
        if self.bytes_per_sec > 0 {
            let cost = cost_nanos(bytes as u64, self.bytes_per_sec);
            let update = |full_at: u64| Some(full_at.saturating_sub(cost));
            // What the closure gives is always there.
            let _ = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
        }
    }

    /// Takes `bytes` in any case, and says how long whoever read them rests; see [`Self::turn`].
    pub(super) fn spend(&self, bytes: usize, now: Instant) -> Duration {
        if self.bytes_per_sec == 0 {
            return Duration::ZERO;
        }
        let passed = self.passed(now);
        let cost = cost_nanos(bytes as u64, self.bytes_per_sec);
        let after = |full_at: u64| full_at.max(passed).saturating_add(cost);
        let update = |full_at| Some(after(full_at));
        // What the closure gives is always there.
        let _ = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
        self.turn(bytes, now)
    }

    /// How long a stream waits that would read about `bytes` now: not at all as long as half of
    /// the bucket is there, else for its place in the queue of all that wait. The other half is for
    /// packets, which do not wait; however many streams there are, they leave it alone.
    pub(super) fn turn(&self, bytes: usize, now: Instant) -> Duration {
        if self.bytes_per_sec == 0 {
            return Duration::ZERO;
        }
        let passed = self.passed(now);
        let ahead = self.full_at.load(Ordering::Relaxed).saturating_sub(passed);
        let until_half = ahead.saturating_sub(self.burst_nanos / 2);
        if until_half == 0 {
            return Duration::ZERO;
        }
        // Those who say little shall not all wake at once, over and over; and a turn that is not
        // used up must not fill the bucket, for then its time is lost.
        let (least, most) = (self.burst_nanos / 64, self.burst_nanos / 4);
        let cost = cost_nanos(bytes as u64, self.bytes_per_sec).clamp(least, most);
        let place = |turn_at: u64| turn_at.max(passed.saturating_add(until_half));
        let update = |turn_at| Some(place(turn_at).saturating_add(cost));
        let before = self.turn_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
        let (Ok(before) | Err(before)) = before;
        Duration::from_nanos(place(before) - passed)
    }

    /// Nanoseconds since the first moment that was seen.
    #[inline]
    fn passed(&self, now: Instant) -> u64 {
        let start = *self.start.get_or_init(|| now);
        let passed = now.saturating_duration_since(start).as_nanos();
        u64::try_from(passed).unwrap_or(u64::MAX)
    }
}

/// How long `bytes` take at `bytes_per_sec`; 0 for no rate.
fn cost_nanos(bytes: u64, bytes_per_sec: u64) -> u64 {
    let nanos = u128::from(bytes) * u128::from(NANOS_PER_SEC);
    nanos.checked_div(u128::from(bytes_per_sec)).map_or(0, |n| n.try_into().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Streams that always have something to say, and ask as data connections do.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
    fn many_streams_leave_half_for_packets_and_each_has_its_turn() {
        let (rate, streams, read) = (1_000_000, 200, 65_536);
        let bucket = SharedBucket::new(rate);
        let start = Instant::now();
        let mut resume = vec![start; streams];
        let mut read_bytes = vec![0; streams];
        // The other direction of each says nothing, and asks all the same.
        let mut other = vec![start; streams];
        let mut passed_packets = 0;
        for milli in 0..60_000 {
            let now = start + Duration::from_millis(milli);
            // The same one is asked first, always.
            let directions = resume.iter_mut().zip(&mut other);
            for ((resume, other), own) in directions.zip(&mut read_bytes) {
                if *other <= now {
                    *other = now + bucket.turn(read, now);
                }
                if *resume > now {
                    continue;
                }
                let wait = bucket.turn(read, now);
                if wait.is_zero() {
                    *own += read;
                    *resume = now + bucket.spend(read, now);
                } else {
                    *resume = now + wait;
                }
            }
            passed_packets += usize::from(milli % 10 == 0 && bucket.try_take(100, now));
        }
        assert_eq!(passed_packets, 6_000, "packets find no room");
        let all: usize = read_bytes.iter().sum();
        assert!((57_000_000..61_000_000).contains(&all), "{all}");
        // Four turns and a half for each.
        let (least, most) = (read_bytes.iter().min(), read_bytes.iter().max());
        assert!(least >= Some(&(2 * read)) && most <= Some(&(10 * read)), "{least:?} {most:?}");
    }
}
