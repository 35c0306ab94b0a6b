//! The peer data connections of TCP allocations (RFC 6062), of all clients in one table: the client
//! asks for one, or hears of one, on its control connection, and binds it to another connection,
//! which another engine serves.
//!
//! An entry goes with whoever holds it: with the allocation ([`OwnConnections`]), with the data
//! connection ([`DataConnection`]), or with its time. Whichever goes first, the socket is closed,
//! the id is free again, and the other one hears of it. The limits bound how many there are.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;

use super::bandwidth::SharedBucket;
use super::reject::Why;
use super::reservations::HeldSocket;
use super::shared::Shared;
use super::{ConnectionId, TcpLimits};
use crate::credentials::Entropy;
use crate::metrics::Limit;
use crate::stun::control::AddressFamily;

/// How long a connection waits for its ConnectionBind (RFC 6062, sections 5.2 and 5.3).
pub(super) const BIND_TIME: Duration = Duration::from_secs(30);

/// Every connection of every TCP allocation.
pub(super) struct Connections {
    limits: TcpLimits,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    by_id: HashMap<ConnectionId, Entry>,
    /// The allocations that have a share in it, by a number that is never used again.
    owners: HashMap<u64, Owner>,
    last_owner: u64,
}

struct Owner {
    username: Box<str>,
    meters: Arc<Meters>,
    ids: Vec<ConnectionId>,
}

struct Entry {
    owner: u64,
    peer: SocketAddr,
    /// The peer made it, not the client.
    is_incoming: bool,
    stage: Stage,
}

enum Stage {
    /// The worker is connecting to the peer.
    Connecting,
    /// It waits for its ConnectionBind.
    Waiting { socket: HeldSocket, until: Instant },
    /// It is a data connection.
    Bound(Arc<Tether>),
}

/// The bandwidth that the connections of one allocation share.
struct Meters {
    of_allocation: SharedBucket,
    of_payer: Arc<SharedBucket>,
}

/// By what a data connection hears that it is over.
#[derive(Default)]
struct Tether {
    is_cut: AtomicBool,
    waker: AtomicWaker,
}

impl Tether {
    fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// Why there is no room for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// The allocation has one to this peer already.
    Exists,
    /// There are as many as there may be.
    Full(Limit),
}

impl Connections {
    pub(super) fn new(limits: TcpLimits) -> Arc<Self> {
        Arc::new(Self { limits, table: Mutex::default() })
    }

    /// The share of a new allocation, which may carry `bytes_per_sec`, and so may its payer.
    pub(super) fn share(
        self: &Arc<Self>,
        username: &str,
        bytes_per_sec: u64,
        of_payer: Arc<SharedBucket>,
    ) -> OwnConnections {
        let meters = Meters { of_allocation: SharedBucket::new(bytes_per_sec), of_payer };
        let owner = Owner { username: username.into(), meters: Arc::new(meters), ids: Vec::new() };
        let mut table = self.lock();
        table.last_owner += 1;
        let number = table.last_owner;
        table.owners.insert(number, owner);
        OwnConnections { connections: Arc::clone(self), number }
    }

    /// Every connection, and every allocation with a share.
    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        let table = self.lock();
        let listed: usize = table.owners.values().map(|owner| owner.ids.len()).sum();
        assert_eq!(listed, table.by_id.len());
        (listed, table.owners.len())
    }

    fn remove(&self, id: ConnectionId) {
        let removed = self.lock().remove(id);
        end(removed);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What ends with the removal of entries, when nobody waits for the table.
fn end(removed: impl IntoIterator<Item = Entry>) {
    for entry in removed {
        if let Stage::Bound(tether) = entry.stage {
            tether.cut();
        }
    }
}

impl Table {
    fn room(
        &self,
        limits: &TcpLimits,
        owner: u64,
        peer: SocketAddr,
        is_incoming: bool,
    ) -> Result<(), NoRoom> {
        let own = self.owners.get(&owner).map_or(&[][..], |owner| &owner.ids);
        let own = || own.iter().filter_map(|id| self.by_id.get(id));
        let is_pending = |entry: &&Entry| !matches!(entry.stage, Stage::Bound(_));
        if own().any(|entry| entry.peer == peer) {
            return Err(NoRoom::Exists);
        }
        // Nobody sees that who waits has gone, so one peer that comes and goes leaves the others,
        // and the client, half of what may wait.
        let of_peer = own().filter(is_pending).filter(|entry| entry.is_incoming);
        let of_peer = of_peer.filter(|entry| entry.peer.ip() == peer.ip()).count();
        if is_incoming && of_peer >= (limits.pending_per_allocation as usize / 2).max(1) {
            return Err(NoRoom::Full(Limit::TcpPendingPerAllocation));
        }
        for (count, most, limit) in [
            (
                own().filter(is_pending).count(),
                limits.pending_per_allocation,
                Limit::TcpPendingPerAllocation,
            ),
            (own().count(), limits.connections_per_allocation, Limit::TcpConnectionsPerAllocation),
            (self.by_id.len(), limits.connections, Limit::TcpConnections),
        ] {
            if count >= most as usize {
                return Err(NoRoom::Full(limit));
            }
        }
        Ok(())
    }

    /// Adds a connection under an id that nobody can guess.
    fn add(&mut self, entropy: &mut Entropy, entry: Entry) -> ConnectionId {
        let id = loop {
            // The upper half of what was drawn is not looked at.
            let id = ConnectionId(entropy.u64() as u32);
            if !self.by_id.contains_key(&id) {
                break id;
            }
        };
        if let Some(owner) = self.owners.get_mut(&entry.owner) {
            owner.ids.push(id);
            self.by_id.insert(id, entry);
        }
        id
    }

    fn remove(&mut self, id: ConnectionId) -> Option<Entry> {
        let entry = self.by_id.remove(&id)?;
        if let Some(owner) = self.owners.get_mut(&entry.owner) {
            owner.ids.retain(|own| *own != id);
        }
        Some(entry)
    }
}

/// One allocation's share of the table; all of its connections end when this is dropped.
pub(super) struct OwnConnections {
    connections: Arc<Connections>,
    number: u64,
}

impl OwnConnections {
    /// Whether there is a connection to `peer`, pending or not.
    pub(super) fn has(&self, peer: SocketAddr) -> bool {
        let table = self.connections.lock();
        let room = table.room(&self.connections.limits, self.number, peer, false);
        room == Err(NoRoom::Exists)
    }

    /// A connection to `peer` that is being made.
    pub(super) fn connect(
        &self,
        entropy: &mut Entropy,
        peer: SocketAddr,
    ) -> Result<ConnectionId, NoRoom> {
        self.add(entropy, peer, false, Stage::Connecting)
    }

    /// A connection that came from `peer` at `now`, and waits for its ConnectionBind.
    pub(super) fn accept(
        &self,
        entropy: &mut Entropy,
        peer: SocketAddr,
        socket: HeldSocket,
        now: Instant,
    ) -> Result<ConnectionId, NoRoom> {
        self.add(entropy, peer, true, Stage::Waiting { socket, until: now + BIND_TIME })
    }

    /// The connection `id` was made at `now`, and waits for its ConnectionBind; false when nobody
    /// knows of it any more.
    pub(super) fn connected(&self, id: ConnectionId, socket: HeldSocket, now: Instant) -> bool {
        let mut table = self.connections.lock();
        let own = |entry: &&mut Entry| entry.owner == self.number;
        let Some(entry) = table.by_id.get_mut(&id).filter(own) else {
            drop(table);
            return false;
        };
        entry.stage = Stage::Waiting { socket, until: now + BIND_TIME };
        true
    }

    /// Lets go of connection `id`.
    pub(super) fn forget(&self, id: ConnectionId) {
        self.connections.remove(id);
    }

    /// Lets go of what has waited for too long at `now`, and says when the next one has.
    pub(super) fn sweep(&self, now: Instant) -> Option<Instant> {
        self.release(|entry| matches!(entry.stage, Stage::Waiting { until, .. } if until <= now));
        let table = self.connections.lock();
        let ids = &table.owners.get(&self.number)?.ids;
        let times = ids.iter().filter_map(|id| match table.by_id.get(id)?.stage {
            Stage::Waiting { until, .. } => Some(until),
            Stage::Connecting | Stage::Bound(_) => None,
        });
        times.min()
    }

    /// Lets go of every connection of a family.
    pub(super) fn end_family(&self, family: AddressFamily) {
        self.release(|entry| AddressFamily::of(entry.peer.ip()) == family);
    }

    fn add(
        &self,
        entropy: &mut Entropy,
        peer: SocketAddr,
        is_incoming: bool,
        stage: Stage,
    ) -> Result<ConnectionId, NoRoom> {
        let mut table = self.connections.lock();
        table.room(&self.connections.limits, self.number, peer, is_incoming)?;
        Ok(table.add(entropy, Entry { owner: self.number, peer, is_incoming, stage }))
    }

    fn release(&self, ends: impl Fn(&Entry) -> bool) {
        let mut table = self.connections.lock();
        let ids = table.owners.get(&self.number).map(|owner| owner.ids.clone());
        let ids = ids.unwrap_or_default().into_iter();
        let ended: Vec<_> = ids.filter(|id| table.by_id.get(id).is_some_and(&ends)).collect();
        let ended: Vec<_> = ended.into_iter().filter_map(|id| table.remove(id)).collect();
        drop(table);
        end(ended);
    }
}

impl Drop for OwnConnections {
    fn drop(&mut self) {
        self.release(|_| true);
        self.connections.lock().owners.remove(&self.number);
    }
}

/// A peer data connection that is bound to a client data connection. While it lives, its peer is
/// taken; dropping it frees the place.
pub struct DataConnection {
    shared: Arc<Shared>,
    connections: Arc<Connections>,
    id: ConnectionId,
    tether: Arc<Tether>,
    meters: Arc<Meters>,
}

/// How long a data connection is not to be read after some bytes, and for which limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// From the moment of the bytes on.
    pub wait: Duration,
    /// What was used up.
    pub limit: Limit,
}

impl DataConnection {
    /// Takes connection `id` for the client `username`: its socket, and its place in the table.
    pub(super) fn claim(
        shared: &Arc<Shared>,
        connections: &Arc<Connections>,
        id: ConnectionId,
        username: &str,
        now: Instant,
    ) -> Result<(HeldSocket, Self), Why> {
        let mut table = connections.lock();
        let Table { by_id, owners, .. } = &mut *table;
        let waits =
            |entry: &&mut Entry| matches!(entry.stage, Stage::Waiting { until, .. } if now < until);
        let entry = by_id.get_mut(&id).filter(waits).ok_or(Why::ConnectionUnknown)?;
        let owner = owners.get(&entry.owner).ok_or(Why::ConnectionUnknown)?;
        if *owner.username != *username {
            return Err(Why::OtherUsername);
        }
        let tether = Arc::<Tether>::default();
        let bound = Stage::Bound(Arc::clone(&tether));
        let Stage::Waiting { socket, .. } = std::mem::replace(&mut entry.stage, bound) else {
            return Err(Why::ConnectionUnknown);
        };
        let meters = Arc::clone(&owner.meters);
        drop(table);
        let (shared, connections) = (Arc::clone(shared), Arc::clone(connections));
        Ok((socket, Self { shared, connections, id, tether, meters }))
    }

    /// Takes the bandwidth of `bytes` that were read at `now`, there or not: nothing is lost on a
    /// stream, so whoever has had too much is not read for a while.
    pub fn spend(&self, bytes: usize, now: Instant) -> Option<Pause> {
        self.longest(|bucket| bucket.spend(bytes, now))
    }

    /// How long there is nothing left at `now` for a read of about `bytes`, because of what others
    /// have read: asked before each read, or all of them together would take many times as much.
    pub fn pause(&self, bytes: usize, now: Instant) -> Option<Pause> {
        self.longest(|bucket| bucket.turn(bytes, now))
    }

    fn longest(&self, ask: impl Fn(&SharedBucket) -> Duration) -> Option<Pause> {
        let Meters { of_allocation, of_payer } = &*self.meters;
        let pauses = [
            (of_allocation, Limit::BandwidthPerAllocation),
            (of_payer, Limit::BandwidthPerUser),
            (&self.shared.bandwidth, Limit::Bandwidth),
        ];
        let pauses = pauses.map(|(of, limit)| Pause { wait: ask(of), limit });
        let longest = pauses.into_iter().max_by_key(|pause| pause.wait);
        longest.filter(|pause| !pause.wait.is_zero())
    }

    /// Ready once the allocation has ended, and with it this connection (RFC 6062, section 5.5).
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.tether.waker.register(cx.waker());
        match self.tether.is_cut.load(Ordering::Acquire) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl Drop for DataConnection {
    fn drop(&mut self) {
        let mut table = self.connections.lock();
        // After the end of the allocation the id may be another one's.
        let entry = table.by_id.get(&self.id);
        if let Some(Entry { stage: Stage::Bound(tether), .. }) = entry
            && Arc::ptr_eq(tether, &self.tether)
        {
            table.remove(self.id);
        }
    }
}

impl std::fmt::Debug for DataConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DataConnection")
    }
}
