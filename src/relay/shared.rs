//! How other threads talk to the workers: what is revoked, and the end.
//!
//! A worker looks here only when its eventfd woke it, so the packet path takes no lock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::stream::Registry;
use super::sys::Wake;

/// What one worker is asked to do; filled by any thread, emptied by the worker.
#[derive(Debug)]
pub(super) struct Inbox {
    commands: Mutex<Commands>,
    /// Spares a look behind the lock: there is something.
    waiting: AtomicBool,
    pub(super) wake: Wake,
}

/// What has gathered in an [`Inbox`].
#[derive(Debug, Default)]
pub(super) struct Commands {
    /// Names of grants whose allocations end.
    pub(super) revoked: Vec<Arc<str>>,
    /// More names came than [`REVOKED_MAX`], so every allocation ends: the ones that may stay
    /// are made again by their clients, the ones that may not are refused.
    pub(super) revoked_too_many: bool,
    /// The peer policy denies more than it did.
    pub(super) judge_again: bool,
    /// The worker ends.
    pub(super) stop: bool,
}

impl Commands {
    /// Adds a name, unless too many wait.
    pub(super) fn revoke(&mut self, name: Arc<str>) {
        if self.revoked.len() < REVOKED_MAX {
            self.revoked.push(name);
        } else {
            self.revoked_too_many = true;
        }
    }
}

impl Inbox {
    /// # Errors
    /// When no descriptor is left.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self { commands: Mutex::default(), waiting: AtomicBool::new(false), wake: Wake::new()? })
    }

    /// Takes what has gathered. The emptied `spare` takes its place, so that memory is reused.
    pub(super) fn take(&self, spare: &mut Commands) {
        self.wake.clear();
        if self.waiting.swap(false, Ordering::Acquire) {
            std::mem::swap(&mut *self.lock(), spare);
        }
    }

    fn revoke(&self, name: Arc<str>) {
        self.post(|commands| commands.revoke(name));
    }

    fn judge_again(&self) {
        self.post(|commands| commands.judge_again = true);
    }

    fn stop(&self) {
        self.post(|commands| commands.stop = true);
    }

    fn post(&self, command: impl FnOnce(&mut Commands)) {
        command(&mut self.lock());
        self.waiting.store(true, Ordering::Release);
        self.wake.wake();
    }

    fn lock(&self) -> MutexGuard<'_, Commands> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reaches every worker and every connection of a running relay from any thread; cheap to clone,
/// never waits.
#[derive(Debug, Clone)]
pub struct Handle {
    inboxes: Arc<[Arc<Inbox>]>,
    streams: Arc<Registry>,
}

impl Handle {
    pub(super) fn new(inboxes: Vec<Arc<Inbox>>, streams: Arc<Registry>) -> Self {
        Self { inboxes: inboxes.into(), streams }
    }

    /// Ends every allocation of the grant `name`, which the caller has already removed from the
    /// table of grants.
    pub fn revoke(&self, name: &str) {
        let name: Arc<str> = name.into();
        for inbox in self.inboxes.iter() {
            inbox.revoke(Arc::clone(&name));
        }
        self.streams.revoke(&name);
    }

    /// Ends the permissions of what
    /// [`Shared::set_host_addresses`](crate::turn::Shared::set_host_addresses) has just made
    /// addresses of this host.
    pub fn judge_again(&self) {
        for inbox in self.inboxes.iter() {
            inbox.judge_again();
        }
        self.streams.judge_again();
    }

    pub(super) fn stop(&self) {
        for inbox in self.inboxes.iter() {
            inbox.stop();
        }
        self.streams.stop();
    }
}

/// The most names that wait for one worker. A worker takes them within microseconds; so many wait
/// only when it is stuck, and then every allocation it still has ends.
pub(super) const REVOKED_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_wait_until_they_are_taken_and_too_many_end_everything() {
        let inbox = Arc::new(Inbox::new().expect("an inbox"));
        let handle = Handle::new(vec![Arc::clone(&inbox)], Arc::default());
        let mut commands = Commands::default();
        handle.revoke("one");
        handle.revoke("two");
        inbox.take(&mut commands);
        assert_eq!(commands.revoked, ["one".into(), "two".into()]);
        assert!(!commands.revoked_too_many && !commands.stop);
        commands = Commands::default();
        for _ in 0..=REVOKED_MAX {
            handle.revoke("again");
        }
        handle.stop();
        inbox.take(&mut commands);
        assert_eq!(commands.revoked.len(), REVOKED_MAX);
        assert!(commands.revoked_too_many && commands.stop);
    }
}
