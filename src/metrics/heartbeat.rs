//! Heartbeats: every loop of the daemon says that it still turns, and `/healthz` and the service
//! manager's watchdog are told which one does not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// One loop's sign of life; beating costs one relaxed store.
#[derive(Debug)]
pub struct Heartbeat {
    name: String,
    start: Instant,
    /// Milliseconds from `start` to the last beat.
    last_ms: AtomicU64,
}

impl Heartbeat {
    /// Says that the loop turned at `now`. Every loop does so at least once a second.
    pub fn beat(&self, now: Instant) {
        let passed = now.saturating_duration_since(self.start);
        self.last_ms
            .store(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The loop's name, such as `relay-0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long ago the loop last turned.
    pub fn age(&self, now: Instant) -> Duration {
        let last = self.start + Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        now.saturating_duration_since(last)
    }
}

/// All heartbeats of the process.
#[derive(Debug, Default)]
pub struct Heartbeats(Mutex<Vec<Arc<Heartbeat>>>);

impl Heartbeats {
    /// A loop that is silent for longer is stuck.
    pub const SILENCE_MAX: Duration = Duration::from_secs(5);

    /// Adds the loop `name`, which counts as having turned at `now`.
    pub fn add(&self, name: impl Into<String>, now: Instant) -> Arc<Heartbeat> {
        let heartbeat =
            Arc::new(Heartbeat { name: name.into(), start: now, last_ms: AtomicU64::new(0) });
        self.lock().push(Arc::clone(&heartbeat));
        heartbeat
    }

    /// The names of the loops that were silent for longer than [`Self::SILENCE_MAX`].
    pub fn stuck(&self, now: Instant) -> Vec<String> {
        let stuck = |heartbeat: &&Arc<Heartbeat>| heartbeat.age(now) > Self::SILENCE_MAX;
        self.lock().iter().filter(stuck).map(|heartbeat| heartbeat.name.clone()).collect()
    }

    /// Every loop and how long ago it turned.
    pub fn ages(&self, now: Instant) -> Vec<(String, Duration)> {
        self.lock().iter().map(|h| (h.name.clone(), h.age(now))).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Heartbeat>>> {
        match self.0.lock() {
            Ok(all) => all,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_loop_is_named() {
        let start = Instant::now();
        let all = Heartbeats::default();
        let (one, _two) = (all.add("relay-0", start), all.add("hub", start));
        let later = start + Duration::from_secs(6);
        one.beat(later);
        assert_eq!(all.stuck(later), ["hub"]);
        assert_eq!(one.age(later), Duration::ZERO);
        assert!(all.stuck(start + Duration::from_secs(4)).is_empty());
    }
}
