//! The ports of one relay address, shared by all workers: drawn at random, each equally likely,
//! and given back when the lease is dropped, so that no path can lose one.
//!
//! A port that comes back rests for a while before it is drawn again, because packets for its
//! last holder may still be on their way. Only when nothing else is left is the rest cut short.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::credentials::Entropy;

/// The free ports of one relay address.
pub(super) struct PortPool(Mutex<Ports>);

struct Ports {
    free: Vec<u16>,
    /// Ports that came back lately, the oldest in front.
    resting: VecDeque<u16>,
    resting_max: usize,
}

/// A port that belongs to one allocation until this is dropped.
pub(super) struct PortLease {
    pool: Arc<PortPool>,
    port: u16,
}

/// How many ports rest at most; never more than half of the range.
const RESTING_MAX: usize = 2048;

impl PortPool {
    /// All ports from `first` to `last`, both included.
    pub(super) fn new((first, last): (u16, u16)) -> Arc<Self> {
        let free: Vec<u16> = (first..=last).collect();
        let resting_max = RESTING_MAX.min(free.len() / 2);
        Arc::new(Self(Mutex::new(Ports { free, resting: VecDeque::new(), resting_max })))
    }

    /// Takes a random free port; `None` when all are leased.
    pub(super) fn draw(self: &Arc<Self>, entropy: &mut Entropy) -> Option<PortLease> {
        let mut ports = self.lock();
        let count = u32::try_from(ports.free.len()).unwrap_or(u32::MAX);
        let port = if count == 0 {
            ports.resting.pop_front()?
        } else {
            ports.free.swap_remove(entropy.below(count) as usize)
        };
        Some(PortLease { pool: Arc::clone(self), port })
    }

    /// The ports that nobody holds, resting ones included.
    #[cfg(test)]
    pub(super) fn available(&self) -> usize {
        let ports = self.lock();
        ports.free.len() + ports.resting.len()
    }

    fn lock(&self) -> MutexGuard<'_, Ports> {
        match self.0.lock() {
            Ok(ports) => ports,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

impl PortLease {
    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        let mut ports = self.pool.lock();
        ports.resting.push_back(self.port);
        while ports.resting.len() > ports.resting_max {
            let rested = ports.resting.pop_front();
            ports.free.extend(rested);
        }
    }
}
