//! What the hub wants to be woken for: at most one moment for each timer.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use super::ConnId;
use super::id::{MemberId, RoomName};

/// Names a timer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The connection may have fallen silent, or never said `hello`.
    Silence(ConnId),
    /// The member's credentials are at two thirds of their life.
    Refresh(MemberId),
    /// The member's socket has been lost for the whole grace.
    Grace(MemberId),
    /// The room has waited long enough for its broadcaster to come back.
    Reservation(RoomName),
}

/// The timers that are set. Setting, cancelling and taking cost a tree's depth.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeSet<(Instant, Timer)>,
    moments: HashMap<Timer, Instant>,
}

impl Timers {
    /// Sets `timer`, in place of an earlier moment.
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.cancel(&timer);
        self.moments.insert(timer.clone(), at);
        self.queue.insert((at, timer));
    }

    /// Forgets `timer`.
    pub(super) fn cancel(&mut self, timer: &Timer) {
        if let Some(at) = self.moments.remove(timer) {
            self.queue.remove(&(at, timer.clone()));
        }
    }

    /// The next moment.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes a timer whose moment has come.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let (at, _) = self.queue.first()?;
        if *at > now {
            return None;
        }
        let (_, timer) = self.queue.pop_first()?;
        self.moments.remove(&timer);
        Some(timer)
    }

    /// How many are set.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.queue.len(), self.moments.len());
        self.queue.len()
    }
}
