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
        self.draw_one(entropy, |_| true)
    }

    /// Takes a random free port that is even; `None` when all of them are leased.
    pub(super) fn draw_even(self: &Arc<Self>, entropy: &mut Entropy) -> Option<PortLease> {
        self.draw_one(entropy, |port| port % 2 == 0)
    }

    /// Takes a random free port that is even, and the one above it; `None` when no two ports of
    /// that kind are free.
    pub(super) fn draw_pair(
        self: &Arc<Self>,
        entropy: &mut Entropy,
    ) -> Option<(PortLease, PortLease)> {
        let mut ports = self.lock();
        let mut is_free = vec![false; usize::from(u16::MAX) + 2];
        for port in ports.free.iter().chain(&ports.resting) {
            is_free[usize::from(*port)] = true;
        }
        let lower = |port: u16| port.is_multiple_of(2) && is_free[usize::from(port) + 1];
        let port = ports.take(entropy, lower)?;
        let next = ports.take(entropy, |other| other == port + 1);
        drop(ports);
        // A lease from here on, so that neither port can be lost.
        let (own, next) = (self.lease(port), next.map(|next| self.lease(next)));
        Some((own, next?))
    }

    fn draw_one(
        self: &Arc<Self>,
        entropy: &mut Entropy,
        fits: impl Fn(u16) -> bool,
    ) -> Option<PortLease> {
        let port = self.lock().take(entropy, fits)?;
        Some(self.lease(port))
    }

    fn lease(self: &Arc<Self>, port: u16) -> PortLease {
        PortLease { pool: Arc::clone(self), port }
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

impl Ports {
    /// Takes a random port that fits out of the free ones, else the one that has rested longest.
    fn take(&mut self, entropy: &mut Entropy, fits: impl Fn(u16) -> bool) -> Option<u16> {
        let count = self.free.len();
        // The first that fits from a random place on: with every port welcome, that place itself.
        let start = entropy.below(u32::try_from(count).unwrap_or(u32::MAX)) as usize;
        let found = (start..count).chain(0..start).find(|&index| fits(self.free[index]));
        match found {
            Some(index) => Some(self.free.swap_remove(index)),
            None => {
                let oldest = self.resting.iter().position(|&port| fits(port))?;
                self.resting.remove(oldest)
            }
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
