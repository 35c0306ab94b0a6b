//! Allocations whose relay sockets are being bound: what the worker says about each, and when all
//! of them have been heard of, the answer.

use tracing::info;

use super::method::allocate;
use super::reject::Why;
use super::server::{Answering, Server};
use super::table::Place;
use super::{Action, Actions, BindFailure, HeldSocket, RelayId};
use crate::net::Now;
use crate::stun::Method;
use crate::stun::control::AddressFamily;
use crate::telemetry::Addr;

impl Server {
    /// Says what became of [`Action::Bind`] or [`Action::Adopt`]: answers the client, or asks for
    /// another port.
    pub fn bound(
        &mut self,
        now: Now,
        relay: RelayId,
        result: Result<(), BindFailure>,
        actions: &mut Actions,
    ) {
        let (place, family) = Place::of(relay);
        if self.is_ended(place, family) {
            if result.is_ok() {
                actions.push(Action::Close { relay });
            }
            return;
        }
        let half = self.table.get_mut(place).and_then(|own| own.half_mut(family));
        let Some(half) = half.filter(|half| half.binding.is_some()) else { return };
        match result {
            Ok(()) => half.binding = None,
            Err(failure) => self.bind_failed(place, family, failure, actions),
        }
        self.settle(now, place, actions);
    }

    /// Says what became of [`Action::Reserve`]: asks for the lower port of the pair, or for
    /// another pair.
    pub fn reserved(
        &mut self,
        now: Now,
        relay: RelayId,
        result: Result<HeldSocket, BindFailure>,
        actions: &mut Actions,
    ) {
        let (place, family) = Place::of(relay);
        if self.is_ended(place, family) {
            return;
        }
        let Some(own) = self.table.get_mut(place) else { return };
        let pair = own.pending.as_mut().and_then(|pending| pending.pair.as_mut());
        match (result, pair) {
            (Ok(socket), Some(pair)) => {
                pair.socket = Some(socket);
                actions.extend(allocate::bind_action(&self.shared, own, place, family));
            }
            (Err(failure), Some(_)) => self.bind_failed(place, family, failure, actions),
            (_, None) => {}
        }
        self.settle(now, place, actions);
    }

    /// Whether a pending allocation was ended before this socket was there; what waited for it is
    /// taken out then.
    fn is_ended(&mut self, place: Place, family: AddressFamily) -> bool {
        let Some(own) = self.table.get_mut(place) else { return false };
        if !own.pending.as_ref().is_some_and(|pending| pending.ended) {
            return false;
        }
        own.take_half(family);
        if own.families().next().is_none() {
            self.table.remove(place);
        }
        true
    }

    /// Asks for another port, or gives the half up.
    fn bind_failed(
        &mut self,
        place: Place,
        family: AddressFamily,
        failure: BindFailure,
        actions: &mut Actions,
    ) {
        let Some(own) = self.table.get_mut(place) else { return };
        match allocate::try_next(&self.shared, &mut self.entropy, own, family, failure) {
            Ok(()) => actions.extend(allocate::bind_action(&self.shared, own, place, family)),
            Err(reject) => {
                own.take_half(family);
                let Some(pending) = &mut own.pending else { return };
                // With nothing left, the last reason is the answer; else it goes beside the
                // address that there is.
                if let (Some(limit), true) = (reject.limit, own.halves.iter().any(Option::is_some))
                {
                    self.metrics.limit(limit);
                }
                pending.lost = Some((family, reject));
            }
        }
    }

    /// Answers when no socket is waited for any more.
    fn settle(&mut self, now: Now, place: Place, actions: &mut Actions) {
        let Some(own) = self.table.get_mut(place) else { return };
        if own.halves.iter().flatten().any(|half| half.binding.is_some()) {
            return;
        }
        let Some(pending) = own.pending.take() else { return };
        let five_tuple = own.five_tuple;
        if own.families().next().is_none() {
            let (transaction, key) = (own.transaction, own.key.clone());
            let fingerprint = pending.fingerprint;
            let reject = pending.lost.map(|(_, reject)| reject);
            self.table.remove(place);
            let method = Method::ALLOCATE;
            let answering = Answering { five_tuple, method, transaction, fingerprint };
            let reject = reject.unwrap_or(Why::NoPort.into());
            self.refuse(&answering, &reject, Some(&key), actions);
            return;
        }
        let reserves = pending.pair.is_some();
        let bytes = allocate::finish(&self.shared, &mut self.entropy, now, own, *pending);
        let client = Addr::from(five_tuple.client);
        for relayed in own.relayed().map(Addr::from) {
            info!(%client, %relayed, "allocation created");
        }
        if let Some(expires) = own.halves.iter().flatten().map(|half| half.expires).next() {
            self.table.expect_expiry(expires);
        }
        if reserves {
            self.expect_reservation(now);
        }
        self.metrics.allocations_created.add(1);
        self.metrics.allocations.add(1);
        actions.push(Action::Answer { five_tuple, bytes });
    }
}
