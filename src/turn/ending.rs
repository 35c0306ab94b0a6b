//! How allocations end: with their time, their grant, their connection, or the relay; and how
//! permissions end before their time.

use std::time::Instant;

use tracing::info;

use super::server::Server;
use super::table::{Allocation, Half, Place};
use super::{Action, Actions, FiveTuple};
use crate::net::Now;
use crate::stun::control::AddressFamily;
use crate::telemetry::Addr;

impl Server {
    /// Ends every allocation of the grant `name`, which the hub has already removed, and what it
    /// has in reserve.
    pub fn revoke(&mut self, name: &str, actions: &mut Actions) {
        let of_grant = |allocation: &Allocation| {
            allocation.grant.as_ref().is_some_and(|grant| **grant.name() == *name)
        };
        for place in self.table.select(of_grant) {
            self.end(place, "revoked", actions);
        }
        self.shared.reservations.revoke(name);
    }

    /// Ends every permission and channel whose peer the policy denies by now, because
    /// [`Shared::set_host_addresses`](super::Shared::set_host_addresses) has said that it is an
    /// address of this host. Packets are judged by their permission alone.
    pub fn judge_again(&mut self) {
        for place in self.table.select(|_| true) {
            if let Some(own) = self.table.get_mut(place) {
                own.peers.retain(|ip| self.shared.policy.judge(ip).is_ok());
            }
        }
    }

    /// Ends every allocation of this engine (shutdown). What it has in reserve stays: it may be
    /// claimed elsewhere.
    pub fn close_all(&mut self, actions: &mut Actions) {
        for place in self.table.select(|_| true) {
            self.end(place, "shut down", actions);
        }
    }

    /// Lets go of every port in reserve, whichever worker reserved it (shutdown).
    pub fn release_reservations(&mut self) {
        self.shared.reservations.clear();
    }

    /// Lets go of what has been in reserve for long enough. An engine does so by itself for what
    /// it reserved; a worker that outlives others does it for those that are gone.
    pub fn sweep_reservations(&mut self, now: Now) {
        self.shared.reservations.sweep(now.instant);
    }

    /// Ends every allocation: with the connection of a TCP or TLS client its five-tuple is over.
    /// For an engine with one client only.
    pub fn hang_up(&mut self, actions: &mut Actions) {
        for relay in self.table.select(|_| true) {
            self.end(relay, "disconnected", actions);
        }
    }

    pub(super) fn end_if_expired(
        &mut self,
        five_tuple: &FiveTuple,
        now: Now,
        actions: &mut Actions,
    ) {
        let Some(place) = self.table.find(five_tuple) else { return };
        if self.table.get(place).is_some_and(|own| own.is_overdue(now.instant)) {
            self.expire(place, now.instant, actions);
        }
    }

    /// Ends what of an allocation has expired.
    pub(super) fn expire(&mut self, place: Place, now: Instant, actions: &mut Actions) {
        let Some(own) = self.table.get(place) else { return };
        if !own.is_live(now) {
            return self.end(place, "expired", actions);
        }
        let overdue = |family| own.half(family).is_some_and(|half| half.expires <= now);
        if let Some(family) = own.families().find(|family| overdue(*family)) {
            self.end_half(place, family, "expired", actions);
        }
    }

    /// Ends an allocation. Its sockets are closed by the worker; one that is being bound is closed
    /// when the worker says that it is there, and its name stays taken until then.
    pub(super) fn end(&mut self, place: Place, why: &str, actions: &mut Actions) {
        let Some(own) = self.table.get_mut(place) else { return };
        let is_pending = own.pending.is_some();
        for family in own.families() {
            let Some(half) = own.half(family).filter(|half| half.binding.is_none()) else {
                continue;
            };
            actions.push(Action::Close { relay: place.relay(family) });
            if !is_pending {
                log_end(own, half, why);
            }
            own.take_half(family);
        }
        if let Some(pending) = &mut own.pending {
            pending.ended = true;
            self.table.unlink(place);
            return;
        }
        self.table.remove(place);
        self.metrics.allocations.add(-1);
    }

    /// Ends one half of a dual allocation, with its permissions and channels (section 8.1).
    pub(super) fn end_half(
        &mut self,
        place: Place,
        family: AddressFamily,
        why: &str,
        actions: &mut Actions,
    ) {
        let Some(own) = self.table.get_mut(place) else { return };
        let Some(half) = own.take_half(family) else { return };
        log_end(own, &half, why);
        own.peers.forget(family);
        // What the first answer said is no longer so: the request that made it is over.
        own.answer = Box::default();
        let five_tuple = own.five_tuple;
        let connecting = own.tcp.as_mut().map(|tcp| tcp.end_family(family));
        actions.push(Action::Close { relay: place.relay(family) });
        // RFC 6062, §5.2: no connection came about => 447.
        self.refuse_connecting(five_tuple, connecting.unwrap_or_default(), actions);
    }
}

fn log_end(own: &Allocation, half: &Half, why: &str) {
    let (client, relayed) = (Addr::from(own.five_tuple.client), Addr::from(half.relayed));
    info!(%client, %relayed, why, "allocation ended");
}
