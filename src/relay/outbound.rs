//! Datagrams that wait for the end of the batch, to leave grouped by socket.

use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use super::hop::Parcel;
use super::sys::{
    Alone, BATCH, Datagram, Outcome, RecvBatch, Run, Segmenting, SendBatch, SocketError,
    send_alone, set_dont_fragment,
};
use super::udp::{Sockets, Token};
use crate::metrics::{DropReason, RunSwitch, WorkerMetrics};
use crate::turn::{FiveTuple, RelayId, ToClient};

/// Datagrams that wait for the end of the batch. Those of one socket hang together in a list, in
/// the order in which they came, so that nothing has to be sorted.
///
/// Payloads stay where they were received: the batch may not be refilled before
/// [`Outbound::flush`].
pub(super) struct Outbound {
    waiting: Vec<Waiting>,
    /// Sockets that something waits for.
    sockets: Vec<Token>,
    answers: Vec<Vec<u8>>,
    parcels: Vec<Parcel>,
    /// Headers that did not fit in front of their payloads, because another one is there.
    pub(super) headers: Vec<u8>,
    batch: SendBatch,
    errors: Errors,
}

/// The list of what waits for one socket: the places of the first and the last.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Queue(Option<(u32, u32)>);

/// ICMP errors that wait for the engine, with the relay socket that each came to.
#[derive(Debug, Default)]
pub(super) struct Errors {
    pub(super) waiting: Vec<(RelayId, SocketError)>,
    /// How many found no room.
    pub(super) lost: usize,
}

impl Errors {
    /// Notes one that came to the socket of `token`; a client's is nobody's.
    fn note(&mut self, token: Token, error: SocketError) {
        if let Token::Relay(relay) = token {
            self.push(RelayId(relay), error);
        }
    }

    fn push(&mut self, relay: RelayId, error: SocketError) {
        if self.waiting.len() < ERRORS_MAX {
            self.waiting.push((relay, error));
        } else {
            self.lost += 1;
        }
    }
}

/// The most ICMP errors that wait at once: a client is told of some, and of no flood.
const ERRORS_MAX: usize = 64;

struct Waiting {
    /// The place of the next one of the same socket; its own when there is none.
    next: u32,
    to: SocketAddr,
    from: Option<SocketAddr>,
    marks: Marks,
    body: Body,
}

/// What the IP header of a datagram says besides addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// DSCP and ECN: those of the datagram that the payload came in (RFC 8656, section 14).
    pub(super) traffic_class: u8,
    /// The DF bit, for IPv4.
    pub(super) dont_fragment: bool,
}

/// Datagrams of the same size within a slot of the received batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pieces {
    pub(super) slot: usize,
    /// Where the first begins.
    pub(super) start: usize,
    /// Bytes of each.
    pub(super) len: usize,
    /// From the beginning of one to the beginning of the next.
    pub(super) stride: usize,
    pub(super) count: usize,
}

impl Pieces {
    /// From the first byte of the first to the last byte of the last.
    #[inline]
    fn bytes<'a>(&self, received: &'a RecvBatch) -> &'a [u8] {
        let end = self.start + (self.count - 1) * self.stride + self.len;
        received.bytes(self.slot, self.start..end)
    }

    #[inline]
    fn shape<'a>(&self, run: Run<'a>) -> Run<'a> {
        let Self { len, stride, count, .. } = *self;
        Run { count, payload_bytes: len, stride, ..run }
    }
}

enum Body {
    /// As they lie in a slot.
    Slot(Pieces),
    /// The same with headers that lie elsewhere: their range, the bytes of one, and how many bytes
    /// of zero follow each payload.
    Headed(Pieces, Range<usize>, usize, usize),
    /// A part of a parcel of another engine.
    Parcel(usize, Range<usize>),
    /// An answer that the engine wrote.
    Answer(usize),
}

/// How much has left in how many pieces.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sent {
    pub(super) datagrams: usize,
    pub(super) messages: usize,
}

impl Outbound {
    /// Nothing waits.
    pub(super) fn new() -> Self {
        Self {
            waiting: Vec::with_capacity(BATCH),
            sockets: Vec::with_capacity(BATCH),
            answers: Vec::new(),
            parcels: Vec::with_capacity(BATCH),
            headers: Vec::new(),
            batch: SendBatch::new(),
            errors: Errors::default(),
        }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether something waits to leave through relay socket `relay`, or an error of it for the
    /// engine.
    pub(super) fn waits_for(&self, relay: RelayId) -> bool {
        self.sockets.contains(&Token::Relay(relay.0))
            || self.errors.waiting.iter().any(|(of, _)| *of == relay)
    }

    /// Payloads go to a peer; whether the relay socket is there.
    #[inline]
    pub(super) fn push_to_peer(
        &mut self,
        sockets: &mut Sockets,
        relay: RelayId,
        to: SocketAddr,
        pieces: Pieces,
        marks: Marks,
    ) -> bool {
        let token = Token::Relay(relay.0);
        let waiting = Waiting { next: 0, to, from: None, marks, body: Body::Slot(pieces) };
        self.push(sockets, token, waiting)
    }

    /// Datagrams go to a client as they lie in their slot; whether one of our listeners is in
    /// charge of it.
    #[inline]
    pub(super) fn push_to_client(
        &mut self,
        sockets: &mut Sockets,
        five_tuple: FiveTuple,
        pieces: Pieces,
        marks: Marks,
    ) -> bool {
        self.push_from(sockets, five_tuple, marks, Body::Slot(pieces))
    }

    /// Payloads go to a client behind headers that were added to [`Outbound::headers`] from
    /// `headers` on; whether one of our listeners is in charge of it.
    pub(super) fn push_headed(
        &mut self,
        sockets: &mut Sockets,
        to_client: ToClient,
        pieces: Pieces,
        headers: usize,
        marks: Marks,
    ) -> bool {
        let ToClient { five_tuple, header_bytes, padding } = to_client;
        let headers = headers..self.headers.len();
        self.push_from(
            sockets,
            five_tuple,
            marks,
            Body::Headed(pieces, headers, header_bytes, padding),
        )
    }

    /// The bytes `range` of a parcel go to a client; whether one of our listeners is in charge of
    /// it. The parcel is kept for [`Outbound::take_parcel`] in any case.
    pub(super) fn push_parcel(
        &mut self,
        sockets: &mut Sockets,
        parcel: Parcel,
        to_client: Option<(FiveTuple, Range<usize>)>,
    ) -> bool {
        let marks = Marks { traffic_class: parcel.traffic_class(), dont_fragment: false };
        let index = self.parcels.len();
        self.parcels.push(parcel);
        let Some((five_tuple, range)) = to_client else { return true };
        self.push_from(sockets, five_tuple, marks, Body::Parcel(index, range))
    }

    /// A parcel that nothing waits in, once all was sent.
    pub(super) fn take_parcel(&mut self) -> Option<Parcel> {
        debug_assert!(self.is_empty());
        self.parcels.pop()
    }

    /// An answer goes to a client; whether one of our listeners is in charge of it.
    pub(super) fn push_answer(
        &mut self,
        sockets: &mut Sockets,
        five_tuple: FiveTuple,
        bytes: Vec<u8>,
    ) -> bool {
        let body = Body::Answer(self.answers.len());
        self.answers.push(bytes);
        self.push_from(sockets, five_tuple, Marks::default(), body)
    }

    fn push_from(
        &mut self,
        sockets: &mut Sockets,
        five_tuple: FiveTuple,
        marks: Marks,
        body: Body,
    ) -> bool {
        let Some((token, from)) = sockets.route(five_tuple.server) else {
            return false;
        };
        // An answer goes to anybody who asks; anything else was relayed.
        if let Token::Client(index) = token
            && !matches!(body, Body::Answer(_))
        {
            sockets.note_client(index, five_tuple.client);
        }
        self.push(sockets, token, Waiting { next: 0, to: five_tuple.client, from, marks, body })
    }

    #[inline]
    fn push(&mut self, sockets: &mut Sockets, token: Token, waiting: Waiting) -> bool {
        let Some(port) = sockets.port_mut(token) else {
            return false;
        };
        let place = self.waiting.len() as u32;
        match &mut port.queue.0 {
            Some((_, last)) => {
                self.waiting[*last as usize].next = place;
                *last = place;
            }
            empty => {
                *empty = Some((place, place));
                self.sockets.push(token);
            }
        }
        self.waiting.push(Waiting { next: place, ..waiting });
        true
    }

    /// Notes an ICMP error that came to relay socket `relay`.
    pub(super) fn note_error(&mut self, relay: RelayId, error: SocketError) {
        self.errors.push(relay, error);
    }

    /// What came to relay sockets since the last call.
    pub(super) fn take_errors(&mut self) -> Errors {
        std::mem::take(&mut self.errors)
    }

    /// Sends all that waits, grouped by socket, in order; what the kernel does not take is
    /// counted and forgotten.
    pub(super) fn flush(
        &mut self,
        sockets: &mut Sockets,
        received: &RecvBatch,
        metrics: &WorkerMetrics,
    ) -> Sent {
        let mut sent = Sent::default();
        let Self { waiting, sockets: tokens, answers, parcels, headers, batch, errors } = self;
        let memory = Memory { received, answers, parcels, headers };
        for &token in tokens.iter() {
            let Some(port) = sockets.port_mut(token) else { continue };
            let Some((first, last)) = std::mem::take(&mut port.queue.0) else { continue };
            if first == last
                && let Some(alone) = waiting[first as usize].alone(&memory)
            {
                match send_alone(port.fd(), alone.0, alone.1) {
                    Alone::Sent => {
                        metrics.sent_alone.add(1);
                        (sent.datagrams, sent.messages) = (sent.datagrams + 1, sent.messages + 1);
                    }
                    Alone::Failed => metrics.dropped(DropReason::SendFailed),
                    Alone::Again => {
                        let (socket, segmenting) = port.outlet();
                        let each = |error| errors.note(token, error);
                        sent.add(batch.send_again(socket, segmenting, alone, each), metrics);
                    }
                }
                continue;
            }
            let mut each = |error| errors.note(token, error);
            let mut next = Some(first);
            while let Some(place) = next {
                // The bit is the socket's, so those that ask for it leave as groups of their own.
                let dont_fragment = waiting[place as usize].marks.dont_fragment;
                let chain = Chain { waiting, next: &mut next, memory: &memory, dont_fragment };
                sent.add(send(port.outlet(), dont_fragment, chain, batch, &mut each), metrics);
            }
        }
        self.clear();
        sent
    }

    /// Forgets what waits, unsent: after a panic in the middle of it.
    pub(super) fn forget(&mut self, sockets: &mut Sockets) {
        for &token in &self.sockets {
            if let Some(port) = sockets.port_mut(token) {
                port.queue = Queue::default();
            }
        }
        self.clear();
    }

    fn clear(&mut self) {
        self.waiting.clear();
        self.sockets.clear();
        self.answers.clear();
        self.headers.clear();
    }
}

/// Sends a group with the DF bit or without.
pub(super) fn send<'a>(
    (socket, segmenting): (BorrowedFd<'_>, &mut Segmenting),
    dont_fragment: bool,
    runs: impl Iterator<Item = Run<'a>>,
    batch: &mut SendBatch,
    each: impl FnMut(SocketError),
) -> Outcome {
    // Who asked for it is not served without.
    if dont_fragment && set_dont_fragment(socket, true).is_err() {
        return Outcome { failed: runs.map(|run| run.count).sum(), ..Outcome::default() };
    }
    let outcome = batch.send_runs(socket, segmenting, runs, each);
    if dont_fragment {
        // What was set a moment ago can be set back.
        let _ = set_dont_fragment(socket, false);
    }
    outcome
}

impl Sent {
    /// Adds what became of a group, and counts it.
    #[inline]
    pub(super) fn add(&mut self, outcome: Outcome, metrics: &WorkerMetrics) {
        let alone = outcome.sent - outcome.segmented;
        self.datagrams += outcome.sent;
        self.messages += alone + outcome.segmented_sends;
        metrics.sent_alone.add(alone as u64);
        if outcome.segmented > 0 {
            metrics.segmented.add(outcome.segmented_sends, outcome.segmented);
        }
        if outcome.refused > 0 {
            metrics.switch(RunSwitch::SegmentRefused, outcome.refused);
        }
        for _ in 0..outcome.full {
            metrics.dropped(DropReason::SendBufferFull);
        }
        for _ in 0..outcome.failed {
            metrics.dropped(DropReason::SendFailed);
        }
    }
}

/// Where the bytes of what waits are.
struct Memory<'a> {
    received: &'a RecvBatch,
    answers: &'a [Vec<u8>],
    parcels: &'a [Parcel],
    headers: &'a [u8],
}

/// What waits for one socket from `next` on, as long as the DF bit is the same.
struct Chain<'a, 'n> {
    waiting: &'a [Waiting],
    next: &'n mut Option<u32>,
    memory: &'n Memory<'a>,
    dont_fragment: bool,
}

impl<'a> Iterator for Chain<'a, '_> {
    type Item = Run<'a>;

    #[inline]
    fn next(&mut self) -> Option<Run<'a>> {
        let place = (*self.next)?;
        let waiting = &self.waiting[place as usize];
        if waiting.marks.dont_fragment != self.dont_fragment {
            return None;
        }
        *self.next = (waiting.next != place).then_some(waiting.next);
        Some(waiting.run(self.memory))
    }
}

impl Waiting {
    /// Bytes and receiver of a single datagram of which nothing else is to be said: the common
    /// case, which needs no batch.
    #[inline]
    fn alone<'a>(&self, memory: &Memory<'a>) -> Option<(&'a [u8], SocketAddr)> {
        if self.from.is_some() || self.marks != Marks::default() {
            return None;
        }
        match &self.body {
            Body::Slot(pieces) if pieces.count == 1 => {
                Some((pieces.bytes(memory.received), self.to))
            }
            Body::Answer(index) => Some((&memory.answers[*index], self.to)),
            _ => None,
        }
    }

    #[inline]
    fn run<'a>(&self, memory: &Memory<'a>) -> Run<'a> {
        let Self { to, from, marks: Marks { traffic_class, .. }, .. } = *self;
        let single = |bytes| Run::single(Datagram { bytes, to, from, traffic_class });
        match &self.body {
            Body::Slot(pieces) => pieces.shape(single(pieces.bytes(memory.received))),
            Body::Headed(pieces, headers, head_bytes, padding) => Run {
                heads: &memory.headers[headers.clone()],
                head_bytes: *head_bytes,
                padding: *padding,
                ..pieces.shape(single(pieces.bytes(memory.received)))
            },
            Body::Parcel(index, range) => single(memory.parcels[*index].bytes(range.clone())),
            Body::Answer(index) => single(&memory.answers[*index]),
        }
    }
}
