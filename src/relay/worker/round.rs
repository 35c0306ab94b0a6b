//! A round of a worker: whose turn it is, and how much each socket is given.
//!
//! One wait reports up to [`EVENTS`] sockets, and nearly all of them may be those of allocations.
//! Listeners and the mailbox do not wait for the end of them: they have their turn again after
//! every [`FROM_PEERS`] datagrams from peers. Else a flood towards many clients would leave little
//! for what clients send, and for requests.

use std::io;

use super::super::sys::drain_errors;
use super::super::udp::{EVENTS, Token};
use super::{BEAT, Running, Worker};
use crate::metrics::RunSwitch;
use crate::net::Now;
use crate::turn::{RelayId, Server};

impl Running {
    pub(super) fn round(&mut self) -> io::Result<()> {
        let events = self.sleep()?;
        self.now = Now::read();
        self.worker.heartbeat.beat(self.now.instant);
        self.worker.sockets.tick(self.now.instant, &self.worker.metrics);
        if events < EVENTS {
            // All that is readable was reported, so listeners have their turn below.
            self.from_peers = 0;
        } else {
            self.pace.left_some();
        }
        for index in 0..events {
            let event = self.worker.sockets.poll.event(index);
            match Token::from_number(event.token) {
                Token::Wake => self.obey(),
                token @ Token::Client(_) => {
                    self.read(token, event.error);
                }
                token @ Token::Relay(_) => {
                    self.from_peers += self.read(token, event.error);
                    if self.from_peers >= FROM_PEERS {
                        self.from_peers = 0;
                        self.read_clients();
                    }
                }
            }
        }
        self.read_mailbox();
        if self.reservations_at <= self.now.instant {
            self.reservations_at = self.now.instant + BEAT;
            self.ask(|engine, now, _| engine.sweep_reservations(now));
        }
        if self.due().is_some_and(|due| due <= self.now.instant) {
            if !self.ask(Server::handle_timeout) {
                self.sweep_again = self.now.instant + BEAT;
            }
            self.flush();
        }
        Ok(())
    }

    /// Gives every listener and the mailbox a turn in the middle of a round.
    fn read_clients(&mut self) {
        // A round may take longer than a window of the shares.
        self.now = Now::read();
        for token in self.worker.sockets.listeners() {
            self.read(token, false);
        }
        self.read_mailbox();
    }

    /// Reads a socket, but no more than its share of the round: the rest is reported again, after
    /// every other socket had its turn. How many datagrams it had, or led to; `error`: whether one
    /// is pending.
    fn read(&mut self, token: Token, mut error: bool) -> usize {
        let batches = if matches!(token, Token::Client(_)) { CLIENT_BATCHES } else { 1 };
        let mut datagrams = 0;
        for _ in 0..batches {
            let Some(port) = self.worker.sockets.port_mut(token) else {
                // An action of this very round closed it.
                return datagrams;
            };
            let (socket, most) = (port.fd(), port.merging.pieces());
            if std::mem::take(&mut error) {
                drain_errors(socket, |error| {
                    if let Token::Relay(relay) = token {
                        self.outbound.note_error(RelayId(relay), error);
                    }
                });
            }
            let count = match self.received.recv_some(socket, most) {
                Ok(count) => count,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                    self.note_batch(token, 0, true);
                    self.tell_errors();
                    return datagrams;
                }
                // An error of an earlier datagram, not of this call; what is there is read by the
                // next round at the latest.
                Err(_) => {
                    error = true;
                    continue;
                }
            };
            self.note_batch(token, count, count < most);
            let mut merged = 0;
            for index in 0..count {
                merged += usize::from(self.handle(token, index));
            }
            let sent = self.flush();
            let done = count.max(sent.datagrams);
            self.pace.received(done);
            datagrams += done;
            let in_runs = sent.datagrams >= RUN && sent.datagrams >= 2 * sent.messages;
            if let Some(port) = self.worker.sockets.port_mut(token)
                && port.learn(count, merged, in_runs)
            {
                self.worker.metrics.switch(RunSwitch::Merge, 1);
            }
            if count < most {
                return datagrams;
            }
            self.now = Now::read();
        }
        self.pace.left_some();
        datagrams
    }

    /// What a receive says beside its datagrams.
    fn note_batch(&mut self, token: Token, count: usize, is_emptied: bool) {
        let (told, now) = (self.received.queue_drops(), self.now.instant);
        let Worker { sockets, metrics, .. } = &mut self.worker;
        sockets.note_batch(token, now, (count, is_emptied), told, metrics);
    }
}

/// The most batches that a listener gets at a time; the socket of an allocation gets one.
pub(super) const CLIENT_BATCHES: usize = 4;

/// After so many datagrams from peers listeners and the mailbox have their turn again, at least:
/// they are given about a third of a worker that has too much to do on either side.
pub(super) const FROM_PEERS: usize = 512;

/// What makes a run: so many datagrams in a receive, and two or more in each piece that left.
const RUN: usize = 4;
