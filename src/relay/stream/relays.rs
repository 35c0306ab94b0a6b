//! The relay sockets of one client's allocation, two at the most: one for each family.
//!
//! Each is in the runtime's own epoll, and what a call did not find is waited for without asking
//! again: a batch that is not full has emptied its socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::task::{Context, Poll, ready};

use socket2::Socket;

use super::super::sys::{
    BATCH, Features, RecvBatch, Segmenting, SocketError, SocketOptions, Watched, drain_errors,
    set_merging,
};
use super::super::udp::{Losses, bind_failure, open, taken_over};
use crate::turn::{BindFailure, HeldSocket, RelayId};

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

    /// Receives one batch from socket `index`: whose it is and how many datagrams, after which
    /// there may be more. Otherwise the task is woken when there is something. Errors that came to
    /// the socket are added to `errors`.
    pub(super) fn receive(
        &self,
        index: usize,
        cx: &mut Context<'_>,
        batch: &mut RecvBatch,
        errors: &mut Vec<(RelayId, SocketError)>,
    ) -> Poll<(RelayId, usize)> {
        let Some(Relay { id, watched, .. }) = self.open.get(index) else { return Poll::Pending };
        let ready = ready!(watched.poll(cx));
        let count = match batch.recv(watched.as_fd()) {
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
        if count < BATCH {
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

    /// Learns how many pieces socket `index` gave at once and how many of them were merged; whether
    /// the kernel merges from now on, which it does once a run has come, as a worker's do.
    pub(super) fn learn(&mut self, index: usize, pieces: usize, merged: usize) -> bool {
        let Some(open) = self.open.get_mut(index) else { return false };
        if pieces < RUN || merged > 0 || !std::mem::take(&mut open.may_merge) {
            return false;
        }
        set_merging(open.watched.as_fd()).is_ok()
    }

    fn watch(&mut self, relay: RelayId, socket: Socket) -> Result<(), BindFailure> {
        let watched = Watched::new(socket).map_err(bind_failure)?;
        let Features { segment, merge: may_merge, .. } = self.options.features;
        let (segmenting, losses) = (Segmenting::new(segment), Losses::default());
        self.open.push(Relay { id: relay, watched, segmenting, losses, may_merge });
        Ok(())
    }
}

/// So many datagrams at once are a run.
const RUN: usize = 4;

/// The most sockets of one client.
pub(super) const RELAYS_MAX: usize = 2;
