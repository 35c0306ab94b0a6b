//! Relayed addresses that are held for a later Allocate (RFC 8656, section 7.2): the upper port
//! of a pair, bound, under a token that is good once and for half a minute.
//!
//! All workers share the table, so that the token is good at any of them: whoever claims it gets
//! the socket handed over. An entry owns socket, port and unit of the quota, and whichever way it
//! leaves the table, they leave with it. The quota bounds how many there are.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ports::PortLease;
use super::quota::{Payer, QuotaUnit};

/// The value of RESERVATION-TOKEN.
pub(super) type Token = [u8; 8];

/// How long a port is held: at least 30 seconds (RFC 8656, section 7.2), which the client counts
/// from the answer on, so the way there and back is added.
pub(super) const RESERVATION_LIFE: Duration = Duration::from_millis(30_500);

/// A bound socket of a worker, on its way to another one; dropping it closes the socket. What is
/// inside is the workers' business: the engine keeps it and hands it on.
pub struct HeldSocket(Box<dyn Any + Send>);

impl HeldSocket {
    /// Wraps a socket.
    pub fn new<S: Any + Send>(socket: S) -> Self {
        Self(Box::new(socket))
    }

    /// The socket, for who knows its type; `None`, and the socket closed, for anybody else.
    pub fn into_socket<S: Any>(self) -> Option<S> {
        self.0.downcast().ok().map(|socket| *socket)
    }
}

impl fmt::Debug for HeldSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeldSocket")
    }
}

/// A relayed address in reserve. The socket goes first: a port must be closed when another worker
/// can draw it.
pub(super) struct Reserved {
    pub(super) socket: HeldSocket,
    /// What XOR-RELAYED-ADDRESS will say.
    pub(super) relayed: SocketAddr,
    /// Its place among the relay addresses.
    pub(super) relay_address: usize,
    pub(super) lease: PortLease,
    pub(super) unit: QuotaUnit,
}

/// What all workers hold in reserve.
#[derive(Default)]
pub(super) struct Reservations(Mutex<HashMap<Token, (Instant, Reserved)>>);

impl Reservations {
    /// Holds `reserved` from `now` on, for [`RESERVATION_LIFE`].
    pub(super) fn hold(&self, token: Token, reserved: Reserved, now: Instant) {
        let replaced = self.lock().insert(token, (now + RESERVATION_LIFE, reserved));
        debug_assert!(replaced.is_none(), "a token is never drawn twice");
    }

    /// Takes what `token` stands for, if it is there, has not expired, and `pay` finds its unit
    /// good or brings another one. When `pay` fails, the reservation stays as it is.
    pub(super) fn claim<E>(
        &self,
        token: Token,
        now: Instant,
        pay: impl FnOnce(&Payer) -> Result<Option<QuotaUnit>, E>,
    ) -> Result<Option<Reserved>, E> {
        let mut all = self.lock();
        let held = all.get(&token).filter(|(expires, _)| now < *expires);
        let Some((_, held)) = held else { return Ok(None) };
        let paid = pay(held.unit.payer())?;
        let claimed = all.remove(&token);
        drop(all);
        Ok(claimed.map(|(_, held)| match paid {
            Some(unit) => Reserved { unit, ..held },
            None => held,
        }))
    }

    /// Lets go of what has expired at `now`, and says when the next one does.
    pub(super) fn sweep(&self, now: Instant) -> Option<Instant> {
        self.release(|expires, _| expires <= now)
    }

    /// Lets go of what the grant `name` has in reserve.
    pub(super) fn revoke(&self, name: &str) {
        let of_grant = |payer: &Payer| matches!(payer, Payer::Grant(grant) if **grant == *name);
        self.release(|_, reserved| of_grant(reserved.unit.payer()));
    }

    /// Lets go of everything.
    pub(super) fn clear(&self) {
        self.release(|_, _| true);
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn release(&self, ends: impl Fn(Instant, &Reserved) -> bool) -> Option<Instant> {
        let mut all = self.lock();
        let ended: Vec<_> = all.extract_if(|_, (expires, held)| ends(*expires, held)).collect();
        let next = all.values().map(|(expires, _)| *expires).min();
        // Sockets are closed, ports and units given back, when nobody waits for the table.
        drop(all);
        drop(ended);
        next
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Token, (Instant, Reserved)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
