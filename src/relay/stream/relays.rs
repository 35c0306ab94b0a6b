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
};
use super::super::udp::{bind_failure, lost_since, open, taken_over};
use crate::turn::{BindFailure, HeldSocket, RelayId};

/// The sockets; none without an allocation over UDP.
#[derive(Debug)]
pub(super) struct Relays {
    open: Vec<Relay>,
    features: Features,
}

/// One socket, and what it has learned.
#[derive(Debug)]
struct Relay {
    id: RelayId,
    watched: Watched,
    segmenting: Segmenting,
    /// What its receive queue has lost so far.
    queue_drops: u32,
}

impl Relays {
    pub(super) const fn new(features: Features) -> Self {
        Self { open: Vec::new(), features }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Binds the socket `relay` of an allocation.
    pub(super) fn bind(
        &mut self,
        relay: RelayId,
        local: SocketAddr,
        options: SocketOptions,
    ) -> Result<(), BindFailure> {
        self.watch(relay, open(local, options)?)
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

    /// How many datagrams the receive queue of `relay` has lost since it was last told; `told` is
    /// [`RecvBatch::queue_drops`].
    pub(super) fn lost(&mut self, relay: RelayId, told: Option<u32>) -> u32 {
        let relay = self.open.iter_mut().find(|open| open.id == relay);
        let relay = told.zip(relay);
        relay.map_or(0, |(told, relay)| lost_since(&mut relay.queue_drops, told))
    }

    fn watch(&mut self, relay: RelayId, socket: Socket) -> Result<(), BindFailure> {
        let watched = Watched::new(socket).map_err(bind_failure)?;
        let segmenting = Segmenting::new(self.features.segment);
        self.open.push(Relay { id: relay, watched, segmenting, queue_drops: 0 });
        Ok(())
    }
}

/// The most sockets of one client.
pub(super) const RELAYS_MAX: usize = 2;
