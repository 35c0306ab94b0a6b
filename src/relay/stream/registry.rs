//! Who is being served over TCP and TLS, so that a revocation or a stop reaches each of them.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use slab::Slab;

use super::super::shared::Commands;

/// Every connection that is being served. Bounded by the edge, which lets them in.
#[derive(Debug, Default)]
pub(in crate::relay) struct Registry(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    mailboxes: Slab<Arc<Mailbox>>,
    /// Each seat has a copy, so that a stop knows when the last is gone. `None`: nobody may sit
    /// down (any more).
    alive: Option<Sender<Infallible>>,
}

/// What one connection is asked to do.
#[derive(Debug, Default)]
struct Mailbox {
    commands: Mutex<Commands>,
    /// Spares a look behind the lock: there is something.
    waiting: AtomicBool,
    waker: AtomicWaker,
}

/// A connection's place in the registry; it is given up when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    registry: Arc<Registry>,
    place: usize,
    mailbox: Arc<Mailbox>,
    _alive: Sender<Infallible>,
}

impl Registry {
    /// A registry where connections may sit down; `alive` is disconnected once it has been
    /// stopped and all are gone.
    pub(in crate::relay) fn new(alive: Sender<Infallible>) -> Self {
        Self(Mutex::new(Open { mailboxes: Slab::new(), alive: Some(alive) }))
    }

    /// A place for one connection; `None` after a stop.
    pub(super) fn join(self: &Arc<Self>) -> Option<Seat> {
        let mut open = self.lock();
        let alive = open.alive.clone()?;
        let mailbox = Arc::new(Mailbox::default());
        let place = open.mailboxes.insert(Arc::clone(&mailbox));
        Some(Seat { registry: Arc::clone(self), place, mailbox, _alive: alive })
    }

    /// Ends every allocation of the grant `name`.
    pub(in crate::relay) fn revoke(&self, name: &Arc<str>) {
        for (_, mailbox) in &self.lock().mailboxes {
            mailbox.post(|commands| commands.revoke(Arc::clone(name)));
        }
    }

    /// Ends the permissions of what has become an address of this host.
    pub(in crate::relay) fn judge_again(&self) {
        for (_, mailbox) in &self.lock().mailboxes {
            mailbox.post(|commands| commands.judge_again = true);
        }
    }

    /// Ends every connection, and lets no more in.
    pub(in crate::relay) fn stop(&self) {
        let mut open = self.lock();
        open.alive = None;
        for (_, mailbox) in &open.mailboxes {
            mailbox.post(|commands| commands.stop = true);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mailbox {
    fn post(&self, command: impl FnOnce(&mut Commands)) {
        command(&mut self.commands.lock().unwrap_or_else(PoisonError::into_inner));
        self.waiting.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Seat {
    /// Its number among all that are taken now.
    pub(super) fn place(&self) -> usize {
        self.place
    }

    /// What has gathered; `waker` is woken when there is more.
    pub(super) fn take(&self, waker: &Waker) -> Option<Commands> {
        // In this order: what is posted in between is either seen here, or wakes.
        self.mailbox.waker.register(waker);
        self.mailbox.waiting.swap(false, Ordering::Acquire).then(|| {
            let mut commands = self.mailbox.commands.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *commands)
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.registry.lock().mailboxes.try_remove(self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{TryRecvError, channel};

    use super::*;

    #[test]
    fn every_seat_hears_and_the_last_one_ends_the_wait() {
        let (alive, left) = channel();
        let registry = Arc::new(Registry::new(alive));
        let (one, two) = (registry.join().expect("a seat"), registry.join().expect("a seat"));
        assert!(one.take(Waker::noop()).is_none());
        registry.revoke(&"a grant".into());
        for seat in [&one, &two] {
            let commands = seat.take(Waker::noop()).expect("a command");
            assert_eq!(commands.revoked, ["a grant".into()]);
            assert!(!commands.stop && seat.take(Waker::noop()).is_none());
        }
        registry.stop();
        assert!(registry.join().is_none());
        assert!(two.take(Waker::noop()).expect("a command").stop);
        drop(one);
        assert_eq!(left.try_recv(), Err(TryRecvError::Empty));
        drop(two);
        assert_eq!(left.try_recv(), Err(TryRecvError::Disconnected));
        assert_eq!(registry.lock().mailboxes.len(), 0);
    }
}
