//! The relay sockets of one client's allocation, two at the most: one for each family.
//!
//! Each is in the runtime's own epoll, and what a call did not find is waited for without asking
//! again: a batch that is not full has emptied its socket. No more is taken than the client's
//! outbox has room for. The rest stays in the socket's receive buffer, which bounds it; whoever
//! writes asks again when there is room.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::task::{Context, Poll, ready};

use socket2::Socket;

use super::super::sys::{
    Features, RecvBatch, Segmenting, SocketError, SocketOptions, Watched, drain_errors, set_merging,
};
use super::super::udp::{Losses, bind_failure, open, taken_over};
use super::outbox::Room;
use crate::turn::{BindFailure, HEADROOM, HeldSocket, RelayId, TAILROOM};

/// The sockets; none without an allocation over UDP.
#[derive(Debug)]
pub(super) struct Relays {
    open: Vec<Relay>,
    options: SocketOptions,
}

/// One socket, and what it has learned.
#[derive(Debug)]
struct Relay {
    id: RelayId,
    watched: Watched,
    segmenting: Segmenting,
    losses: Losses,
    /// It may yet become one whose datagrams arrive merged.
    may_merge: bool,
    pieces: Pieces,
}

/// How large the pieces of one socket are: what is received at once must find room.
#[derive(Debug, Clone, Copy)]
struct Pieces {
    /// Bytes of the largest lately, in the client's outbox.
    bytes: usize,
    /// So many have to come without one as large before less is expected.
    until: usize,
}

impl Pieces {
    const fn new() -> Self {
        Self { bytes: waiting_bytes(USUAL_BYTES), until: 0 }
    }

    /// How many of them `room` is enough for. One that has all there is must do.
    fn fit(self, room: Room) -> usize {
        (room.bytes / self.bytes).max(usize::from(room.is_all))
    }

    /// Learns of a batch of `count`, the largest of which takes `bytes`.
    fn learn(&mut self, count: usize, bytes: usize) {
        self.until = self.until.saturating_sub(count);
        if bytes >= self.bytes {
            *self = Self { bytes, until: CAUTIOUS_PIECES };
        } else if self.until == 0 {
            *self = Self::new();
            self.bytes = self.bytes.max(bytes);
        }
    }
}

/// The bytes that a payload of `bytes` may take when it waits for the client.
pub(super) const fn waiting_bytes(bytes: usize) -> usize {
    HEADROOM + bytes + TAILROOM
}

impl Relays {
    pub(super) const fn new(options: SocketOptions) -> Self {
        Self { open: Vec::new(), options }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Binds the socket `relay` of an allocation.
    pub(super) fn bind(&mut self, relay: RelayId, local: SocketAddr) -> Result<(), BindFailure> {
        self.watch(relay, open(local, self.options)?)
    }

    /// Takes a socket over that was held for the allocation of `relay`.
    pub(super) fn adopt(&mut self, relay: RelayId, held: HeldSocket) -> Result<(), BindFailure> {
        self.watch(relay, taken_over(held)?)
    }

    /// Closes the socket of allocation `relay`.
    pub(super) fn close(&mut self, relay: RelayId) {
        self.open.retain(|open| open.id != relay);
        if self.open.is_empty() {
            self.open = Vec::new();
        }
    }

    /// What it takes to send from the socket `relay`.
    pub(super) fn outlet(&mut self, relay: RelayId) -> Option<(BorrowedFd<'_>, &mut Segmenting)> {
        let Relay { watched, segmenting, .. } = self.open.iter_mut().find(|it| it.id == relay)?;
        Some((Watched::as_fd(watched), segmenting))
    }

    /// How many pieces of socket `index` there is `room` for.
    pub(super) fn fit(&self, index: usize, room: Room) -> usize {
        self.open.get(index).map_or(0, |open| open.pieces.fit(room))
    }

    /// Whether there may be something to receive from socket `index`; otherwise the task is woken
    /// when there is.
    pub(super) fn is_ready(&self, index: usize, cx: &mut Context<'_>) -> bool {
        self.open.get(index).is_some_and(|open| open.watched.poll(cx).is_ready())
    }

    /// Receives one batch of at most `most` pieces from socket `index`: whose it is and how many
    /// they are; if as many, there may be more. Otherwise the task is woken when there is
    /// something. Errors that came to the socket are added to `errors`.
    pub(super) fn receive(
        &self,
        (index, most): (usize, usize),
        cx: &mut Context<'_>,
        batch: &mut RecvBatch,
        errors: &mut Vec<(RelayId, SocketError)>,
    ) -> Poll<(RelayId, usize)> {
        let Some(Relay { id, watched, .. }) = self.open.get(index) else { return Poll::Pending };
        let ready = ready!(watched.poll(cx));
        let count = match batch.recv_some(watched.as_fd(), most) {
            Ok(count) => count,
            Err(error) => {
                // It is one of an earlier datagram, and is gone with being told.
                drain_errors(watched.as_fd(), |error| errors.push((*id, error)));
                if error.kind() != io::ErrorKind::WouldBlock {
                    return Poll::Ready((*id, 0));
                }
                0
            }
        };
        if count < most {
            ready.clear();
        }
        Poll::Ready((*id, count))
    }

    /// How many datagrams the queue of socket `index` has lost since that was last asked, now that
    /// the kernel has told of so many in all.
    pub(super) fn lost(&mut self, index: usize, told: Option<u32>) -> u32 {
        let open = told.zip(self.open.get_mut(index));
        open.map_or(0, |(told, open)| open.losses.since(told))
    }

    /// Learns how many pieces socket `index` gave at once, whether some were merged, and how many
    /// bytes the largest of one datagram takes; whether the kernel merges from now on, which it
    /// does once a run has come, as a worker's do.
    pub(super) fn learn(&mut self, index: usize, pieces: usize, largest: Largest) -> bool {
        let Some(open) = self.open.get_mut(index) else { return false };
        let bytes = match largest {
            Largest::Single(bytes) => bytes,
            Largest::Merged => MERGED_BYTES_MAX,
        };
        open.pieces.learn(pieces, bytes);
        let is_merged = matches!(largest, Largest::Merged);
        if pieces < RUN || is_merged || !std::mem::take(&mut open.may_merge) {
            return false;
        }
        let merges = set_merging(open.watched.as_fd()).is_ok();
        if merges {
            open.pieces.learn(0, MERGED_BYTES_MAX);
        }
        merges
    }

    fn watch(&mut self, relay: RelayId, socket: Socket) -> Result<(), BindFailure> {
        let watched = Watched::new(socket).map_err(bind_failure)?;
        let Features { segment, merge: may_merge, .. } = self.options.features;
        let (segmenting, losses) = (Segmenting::new(segment), Losses::default());
        let pieces = Pieces::new();
        self.open.push(Relay { id: relay, watched, segmenting, losses, may_merge, pieces });
        Ok(())
    }
}

/// The largest piece of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Largest {
    /// One datagram, and the bytes that it may take when it waits for the client.
    Single(usize),
    /// Many.
    Merged,
}

/// Bytes of a datagram as long as nothing else is known.
const USUAL_BYTES: usize = 1500;
/// The most bytes that a merged piece takes with its headers: the kernel merges up to 64 datagrams,
/// or takes from a local sender up to 128.
const MERGED_BYTES_MAX: usize = 65_535 + 128 * waiting_bytes(0);
/// Among so many pieces after a large one another is expected.
const CAUTIOUS_PIECES: usize = 1024;

/// So many datagrams at once are a run.
const RUN: usize = 4;

/// The most sockets of one client.
pub(super) const RELAYS_MAX: usize = 2;
