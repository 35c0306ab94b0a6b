//! Counts the open connections, in all and per address, and refuses what is too many.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Limits, one_address};
use crate::metrics::Metrics;

/// The count of open connections, shared by all listeners.
pub struct Gate {
    limits: Limits,
    metrics: Arc<Metrics>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    all: u32,
    /// Only addresses with an open connection are in here, so it is bounded by `connections`.
    by_address: HashMap<IpAddr, u32>,
}

impl Gate {
    /// A gate through which nobody went yet.
    pub fn new(limits: Limits, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { limits, metrics, open: Mutex::default() })
    }

    /// The limits it was made with.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// A place for one connection from `address`, held until it is dropped; the limit that
    /// stands in the way is counted.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let key = one_address(address);
        let mut open = self.lock();
        if open.all >= self.limits.connections {
            self.metrics.limit(self.limits.connections_label);
            return None;
        }
        let address = address.to_canonical();
        let exempt = self.limits.trusted_proxies.iter().any(|proxy| proxy.contains(address));
        let here = open.by_address.get(&key).copied().unwrap_or(0);
        if !exempt && here >= self.limits.connections_per_address {
            self.metrics.limit(self.limits.connections_per_address_label);
            return None;
        }
        open.by_address.insert(key, here + 1);
        open.all += 1;
        self.metrics.connections.add(1);
        Some(Place { gate: Arc::clone(self), key })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        match self.open.lock() {
            Ok(open) => open,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

/// One connection's place; dropping it makes room for another.
pub struct Place {
    gate: Arc<Gate>,
    key: IpAddr,
}

impl Place {
    pub(super) fn metrics(&self) -> &Metrics {
        self.gate.metrics()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.gate.lock();
        open.all = open.all.saturating_sub(1);
        if let Some(here) = open.by_address.get_mut(&self.key) {
            *here -= 1;
            if *here == 0 {
                open.by_address.remove(&self.key);
            }
        }
        self.gate.metrics.connections.add(-1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Limit;

    fn gate(connections: u32, per_address: u32, proxies: &[&str]) -> Arc<Gate> {
        let limits = Limits {
            connections,
            connections_per_address: per_address,
            trusted_proxies: proxies.iter().map(|p| p.parse().expect("a prefix")).collect(),
            ..Limits::default()
        };
        Gate::new(limits, Arc::new(Metrics::default()))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("a test address")
    }

    #[test]
    fn one_address_fills_its_own_share_only() {
        let gate = gate(10, 2, &[]);
        let first = gate.enter(ip("192.0.2.1")).expect("room");
        let _second = gate.enter(ip("::ffff:192.0.2.1")).expect("room");
        assert!(gate.enter(ip("192.0.2.1")).is_none());
        assert_eq!(gate.metrics.limits(Limit::ConnectionsPerAddress), 1);
        let _other = gate.enter(ip("192.0.2.2")).expect("room for another");
        drop(first);
        let _again = gate.enter(ip("192.0.2.1")).expect("room again");
        assert_eq!(gate.metrics.connections.value(), 3);
    }

    #[test]
    fn a_64_of_ipv6_counts_as_one_address() {
        let gate = gate(10, 1, &[]);
        let _one = gate.enter(ip("2001:db8::1")).expect("room");
        assert!(gate.enter(ip("2001:db8::ffff:1")).is_none());
        assert!(gate.enter(ip("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn the_limit_of_all_is_counted_and_given_back() {
        let gate = gate(2, 9, &["192.0.2.0/24"]);
        let places = [gate.enter(ip("192.0.2.1")), gate.enter(ip("192.0.2.2"))];
        assert!(gate.enter(ip("192.0.2.3")).is_none());
        assert_eq!(gate.metrics.limits(Limit::Connections), 1);
        drop(places);
        assert_eq!(gate.lock().by_address.len(), 0);
        assert!(gate.enter(ip("192.0.2.3")).is_some());
    }

    #[test]
    fn a_trusted_proxy_has_no_share_of_its_own() {
        let gate = gate(3, 1, &["192.0.2.9/32"]);
        let _one = gate.enter(ip("192.0.2.9")).expect("room");
        let _two = gate.enter(ip("192.0.2.9")).expect("room");
        let _strange = gate.enter(ip("192.0.2.8")).expect("room");
        assert!(gate.enter(ip("192.0.2.9")).is_none(), "the limit of all holds for proxies too");
    }
}
