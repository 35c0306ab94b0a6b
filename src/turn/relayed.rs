//! Which ports of our relay addresses are live relayed addresses, and whose.
//!
//! Every worker writes its own allocations here and every packet between two allocations reads
//! it, so it is one atomic per port: [`NOBODY`], [`UNSCOPED`], or the tag of the room that a
//! scoped allocation belongs to. Two relayed addresses reach each other when their tags are
//! equal: a scoped one stays in its room, an unscoped one never reaches a scoped one, and one for
//! TCP never one for UDP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::credentials::RoomTag;

/// The tag of a port that is no live relayed address.
const NOBODY: u64 = 0;
/// The tag of UDP allocations without a room.
const UNSCOPED: u64 = 1;
/// The tag of TCP allocations, which never have one.
const UNSCOPED_TCP: u64 = 2;

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

/// The live relayed addresses of all workers.
pub(super) struct Relayed {
    first_port: u16,
    /// For each relay address, the tags of the ports from `first_port` on: 128 KiB for the
    /// default range.
    tags: Vec<Box<[AtomicU64]>>,
}

/// A relayed address is live until this is dropped.
pub(super) struct LiveRelayed {
    table: Arc<Relayed>,
    relay_address: usize,
    port: u16,
}

impl Relayed {
    pub(super) fn new(relay_addresses: usize, (first, last): (u16, u16)) -> Arc<Self> {
        let ports = || (first..=last).map(|_| AtomicU64::new(NOBODY)).collect();
        let tags = (0..relay_addresses).map(|_| ports()).collect();
        Arc::new(Self { first_port: first, tags })
    }

    /// Whether an allocation tagged `from` may exchange packets with `port` of a relay address.
    #[inline]
    pub(super) fn reaches(&self, from: Tag, relay_address: usize, port: u16) -> bool {
        self.slot(relay_address, port).is_some_and(|tag| tag.load(Ordering::Relaxed) == from.0)
    }

    /// Makes `port` of a relay address live.
    pub(super) fn publish(
        self: &Arc<Self>,
        relay_address: usize,
        port: u16,
        tag: Tag,
    ) -> LiveRelayed {
        if let Some(slot) = self.slot(relay_address, port) {
            slot.store(tag.0, Ordering::Relaxed);
        }
        LiveRelayed { table: Arc::clone(self), relay_address, port }
    }

    fn slot(&self, relay_address: usize, port: u16) -> Option<&AtomicU64> {
        let index = usize::from(port.checked_sub(self.first_port)?);
        self.tags.get(relay_address)?.get(index)
    }
}

impl Drop for LiveRelayed {
    fn drop(&mut self) {
        if let Some(slot) = self.table.slot(self.relay_address, self.port) {
            slot.store(NOBODY, Ordering::Relaxed);
        }
    }
}
