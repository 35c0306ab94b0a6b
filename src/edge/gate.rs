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
        let mut open = self.lock();
        if open.all >= self.limits.connections {
            self.metrics.limit(self.limits.connections_label);
            return None;
        }
        let key = self.count(&mut open, address)?;
        open.all += 1;
        self.metrics.connections.add(1);
        Some(Place { gate: Arc::clone(self), address, key })
    }

    /// Whether `address` is one of the proxies that are believed.
    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.limits.trusted_proxies.iter().any(|proxy| proxy.contains(address))
    }

    /// Counts a connection of `address`, unless it has its share already.
    fn count(&self, open: &mut Open, address: IpAddr) -> Option<IpAddr> {
        let key = one_address(address);
        let here = open.by_address.get(&key).copied().unwrap_or(0);
        if here >= self.limits.connections_per_address && !self.trusts(address) {
            self.metrics.limit(self.limits.connections_per_address_label);
            return None;
        }
        open.by_address.insert(key, here + 1);
        Some(key)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        match self.open.lock() {
            Ok(open) => open,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

impl Open {
    fn uncount(&mut self, key: IpAddr) {
        if let Some(here) = self.by_address.get_mut(&key) {
            *here -= 1;
            if *here == 0 {
                self.by_address.remove(&key);
            }
        }
    }
}

/// One connection's place; dropping it makes room for another.
pub struct Place {
    gate: Arc<Gate>,
    address: IpAddr,
    key: IpAddr,
}

impl Place {
    pub(super) fn metrics(&self) -> &Metrics {
        self.gate.metrics()
    }

    /// Counts the connection for `address` from now on: a proxy has said who it is.
    ///
    /// # Errors
    /// [`Full`] when that one has its share already.
    pub(super) fn is_of(&mut self, address: IpAddr) -> Result<(), Full> {
        let mut open = self.gate.lock();
        let key = self.gate.count(&mut open, address).ok_or(Full)?;
        open.uncount(self.key);
        (self.address, self.key) = (address, key);
        Ok(())
    }

    /// Takes a place behind another gate, and gives back this one.
    ///
    /// # Errors
    /// [`Full`]; this place is kept then.
    pub(super) fn move_to(&mut self, gate: &Arc<Gate>) -> Result<(), Full> {
        if !Arc::ptr_eq(gate, &self.gate) {
            *self = gate.enter(self.address).ok_or(Full)?;
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.gate.lock();
        open.all = open.all.saturating_sub(1);
        open.uncount(self.key);
        self.gate.metrics.connections.add(-1);
    }
}

/// There is no place; which limit stands in the way was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

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

    #[test]
    fn a_connection_counts_for_whom_it_turns_out_to_be() {
        let gate = gate(10, 1, &["192.0.2.9/32"]);
        let mut first = gate.enter(ip("192.0.2.9")).expect("room");
        let mut second = gate.enter(ip("192.0.2.9")).expect("room");
        assert_eq!(first.is_of(ip("198.51.100.1")), Ok(()));
        assert_eq!(second.is_of(ip("198.51.100.1")), Err(Full));
        assert_eq!(gate.metrics.limits(Limit::ConnectionsPerAddress), 1);
        assert_eq!(second.is_of(ip("198.51.100.2")), Ok(()));
        assert!(gate.enter(ip("198.51.100.1")).is_none());
        drop(first);
        assert!(gate.enter(ip("198.51.100.1")).is_some());
        assert_eq!(gate.metrics.connections.value(), 1);
        drop(second);
        assert_eq!(gate.lock().by_address.len(), 0);
    }

    #[test]
    fn a_place_behind_another_gate_makes_room_behind_the_first() {
        let (first, second) = (gate(1, 1, &[]), gate(1, 1, &[]));
        let mut place = first.enter(ip("192.0.2.1")).expect("room");
        assert_eq!(place.move_to(&second), Ok(()));
        assert_eq!(place.move_to(&second), Ok(()), "it is there already");
        let mut other = first.enter(ip("192.0.2.1")).expect("room again");
        assert_eq!(other.move_to(&second), Err(Full));
        assert_eq!(second.metrics.limits(Limit::Connections), 1);
        drop((place, other));
        assert!(first.enter(ip("192.0.2.1")).is_some() && second.enter(ip("192.0.2.1")).is_some());
    }
}
