//! Which ports of our relay addresses are live relayed addresses, and whose.
//!
//! Every worker writes its own allocations here and every packet between two allocations reads
//! it, so it is two atomics per port. The first says who may: [`NOBODY`], [`UNSCOPED`], or the tag
//! of the room that a scoped allocation belongs to. Two relayed addresses reach each other when
//! their tags are equal: a scoped one stays in its room, an unscoped one never reaches a scoped
//! one, and one for TCP never one for UDP. The second says where the packet finds its allocation
//! without leaving the process ([`super::hop`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::RelayId;
use super::hop::EngineId;
use crate::credentials::RoomTag;

/// The tag of a port that is no live relayed address.
const NOBODY: u64 = 0;
/// The tag of UDP allocations without a room.
const UNSCOPED: u64 = 1;
/// The tag of TCP allocations, which never have one.
const UNSCOPED_TCP: u64 = 2;

/// The owner of a port that is reached through its socket only.
const UNKNOWN: u64 = 0;

/// What an allocation may reach among our own relayed addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag(u64);

impl Tag {
    /// That of a TCP allocation: its connections reach others of its kind, and packets do not.
    pub(super) const TCP: Self = Self(UNSCOPED_TCP);

    pub(super) fn new(room: Option<RoomTag>) -> Self {
        // A room tag that happens to equal one of the special ones moves out of their way.
        Self(room.map_or(UNSCOPED, |room| room.number().max(UNSCOPED_TCP + 1)))
    }
}

/// Where the allocation of a live relayed address is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) engine: EngineId,
    pub(super) relay: RelayId,
}

impl Owner {
    fn number(self) -> u64 {
        // No engine has the number that would not fit.
        (u64::from(self.engine.0) + 1) << 32 | u64::from(self.relay.0)
    }

    fn from_number(number: u64) -> Option<Self> {
        // The casts cut the number in its two halves.
        let engine = ((number >> 32) as u32).checked_sub(1)?;
        Some(Self { engine: EngineId(engine), relay: RelayId(number as u32) })
    }
}

/// The live relayed addresses of all workers.
pub(super) struct Relayed {
    first_port: u16,
    /// For each relay address, the ports from `first_port` on: 256 KiB for the default range.
    ports: Vec<Box<[Port]>>,
}

struct Port {
    tag: AtomicU64,
    owner: AtomicU64,
}

/// A relayed address is live until this is dropped.
pub(super) struct LiveRelayed {
    table: Arc<Relayed>,
    relay_address: usize,
    port: u16,
}

impl Relayed {
    pub(super) fn new(relay_addresses: usize, (first, last): (u16, u16)) -> Arc<Self> {
        let port = |_| Port { tag: AtomicU64::new(NOBODY), owner: AtomicU64::new(UNKNOWN) };
        let ports = || (first..=last).map(port).collect();
        let ports = (0..relay_addresses).map(|_| ports()).collect();
        Arc::new(Self { first_port: first, ports })
    }

    /// Whether an allocation tagged `from` may exchange packets with `port` of a relay address.
    #[inline]
    pub(super) fn reaches(&self, from: Tag, relay_address: usize, port: u16) -> bool {
        self.slot(relay_address, port)
            .is_some_and(|slot| slot.tag.load(Ordering::Acquire) == from.0)
    }

    /// Who serves `port` of a relay address, as far as that is known. Whoever it names looks again
    /// whether the port is still his: it may have ended, or become another's, in between.
    #[inline]
    pub(super) fn owner(&self, relay_address: usize, port: u16) -> Option<Owner> {
        Owner::from_number(self.slot(relay_address, port)?.owner.load(Ordering::Relaxed))
    }

    /// Makes `port` of a relay address live.
    pub(super) fn publish(
        self: &Arc<Self>,
        relay_address: usize,
        port: u16,
        tag: Tag,
    ) -> LiveRelayed {
        if let Some(slot) = self.slot(relay_address, port) {
            slot.owner.store(UNKNOWN, Ordering::Relaxed);
            slot.tag.store(tag.0, Ordering::Release);
        }
        LiveRelayed { table: Arc::clone(self), relay_address, port }
    }

    fn slot(&self, relay_address: usize, port: u16) -> Option<&Port> {
        let index = usize::from(port.checked_sub(self.first_port)?);
        self.ports.get(relay_address)?.get(index)
    }
}

impl LiveRelayed {
    /// Says who serves the port, so that packets for it find him without its socket.
    pub(super) fn served_by(&self, owner: Owner) {
        if let Some(slot) = self.table.slot(self.relay_address, self.port) {
            slot.owner.store(owner.number(), Ordering::Relaxed);
        }
    }
}

impl Drop for LiveRelayed {
    fn drop(&mut self) {
        if let Some(slot) = self.table.slot(self.relay_address, self.port) {
            slot.tag.store(NOBODY, Ordering::Release);
            slot.owner.store(UNKNOWN, Ordering::Relaxed);
        }
    }
}
