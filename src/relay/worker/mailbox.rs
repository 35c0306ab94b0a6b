//! The worker's side of the shortcut between allocations of ours: what it hands to other engines
//! and to its own, and what others have brought.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::super::hop::{Mailbox, Parcel};
use super::super::outbound::{Marks, Pieces};
use super::super::sys::BATCH;
use super::{Running, guard};
use crate::metrics::Shortcut;
use crate::turn::{Hop, Verdict};

impl Running {
    /// Waits for the sockets, unless something is in the mailbox; how many events there are. Until
    /// a pause is over nobody who brings something need wake it.
    pub(super) fn sleep(&mut self) -> io::Result<usize> {
        if let Some(pause) = self.pace.pause(Instant::now()) {
            self.worker.metrics.pauses.add(1);
            thread::sleep(pause);
        }
        let mut timeout = self.timeout();
        if self.worker.courier.mailbox().is_some_and(|mailbox| !mailbox.may_sleep()) {
            timeout = Duration::ZERO;
        }
        let events = self.worker.sockets.poll.wait(timeout);
        if let Some(mailbox) = self.worker.courier.mailbox() {
            mailbox.awake();
        }
        events
    }

    /// Hands payloads of the received batch to the engine that serves their receiver.
    pub(super) fn obey_hop(&mut self, hop: Hop, pieces: Pieces, traffic_class: u8) {
        if hop.engine == self.worker.courier.engine() {
            return self.hop_here(hop, pieces, traffic_class);
        }
        let Self { worker, received, .. } = self;
        for index in 0..pieces.count {
            let start = pieces.start + index * pieces.stride;
            let payload = received.bytes(pieces.slot, start..start + pieces.len);
            worker.courier.carry(&worker.metrics, hop, traffic_class, payload);
        }
    }

    /// Those of a run stay where they are, and their headers lie elsewhere.
    fn hop_here(&mut self, hop: Hop, pieces: Pieces, traffic_class: u8) {
        self.worker.metrics.shortcut(Shortcut::SameWorker, pieces.count);
        let marks = Marks { traffic_class, dont_fragment: false };
        let (mut done, mut alone) = (0, false);
        while done < pieces.count {
            let rest = if alone { 1 } else { pieces.count - done };
            let Self { worker, outbound, now, .. } = self;
            let headers = outbound.headers.len();
            let handled = guard(&worker.metrics, || {
                let into = &mut outbound.headers;
                worker.engine.handle_hop_run(*now, &hop, (rest, pieces.len), into)
            });
            match handled {
                Some((count, Some(to_client))) => {
                    let start = pieces.start + done * pieces.stride;
                    let pieces = Pieces { start, count, ..pieces };
                    let sockets = &mut worker.sockets;
                    if !outbound.push_headed(sockets, to_client, pieces, headers, marks) {
                        self.send_failed(count);
                    }
                    done += count;
                }
                Some((count, None)) => done += count,
                None if rest == 1 => done += 1,
                None => alone = true,
            }
        }
    }

    /// Hands what other engines have brought to the engine, but no more than its share.
    pub(super) fn read_mailbox(&mut self) {
        for _ in 0..MAILBOX_BATCHES {
            let mut count = 0;
            while count < BATCH
                && let Some(parcel) = self.worker.courier.mailbox().and_then(Mailbox::take)
            {
                count += 1;
                self.handle_parcel(parcel);
            }
            if count == 0 {
                return;
            }
            self.pace.was_handed();
            self.flush();
            while let Some(parcel) = self.outbound.take_parcel() {
                if let Some(mailbox) = self.worker.courier.mailbox() {
                    mailbox.give_back(parcel);
                }
            }
        }
    }

    fn handle_parcel(&mut self, mut parcel: Parcel) {
        let Self { worker, outbound, now, .. } = self;
        let hop = parcel.hop();
        let (buffer, payload) = parcel.slot_mut();
        let verdict =
            guard(&worker.metrics, || worker.engine.handle_hop(*now, &hop, buffer, payload));
        let to_client = match verdict {
            Some(Verdict::ToClient { five_tuple, datagram }) => Some((five_tuple, datagram)),
            _ => None,
        };
        if !outbound.push_parcel(&mut worker.sockets, parcel, to_client) {
            self.send_failed(1);
        }
    }
}

/// The most batches that the mailbox gets per round, as a listener does.
const MAILBOX_BATCHES: usize = 4;
