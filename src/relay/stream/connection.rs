//! One connection: messages in, messages out, and its deadlines.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::{Sleep, sleep_until};

use super::StreamLimits;
use super::client::{Bound, Client, Handled};
use super::registry::Seat;
use super::splice::Splice;
use crate::edge::Stream;
use crate::metrics::{DropReason, Limit};
use crate::net::Now;
use crate::stun::{DecodeError, Framer};

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The client closed it.
    #[error("closed by the client")]
    Closed,
    /// It broke.
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    /// What came was no message, so no border of another will be found.
    #[error("no TURN: {0}")]
    BadFrame(DecodeError),
    /// It had no allocation and said nothing for too long.
    #[error("idle for too long")]
    Idle,
    /// A message began and did not end.
    #[error("half a message for too long")]
    HalfMessage,
    /// The allocation of a data connection ended.
    #[error("the allocation ended")]
    AllocationEnded,
    /// It asked and asked, and did not read the answers.
    #[error("answers are not read")]
    Overrun,
    /// We stop.
    #[error("the relay stops")]
    Stopped,
    /// A bug of ours.
    #[error("a panic")]
    Panic,
}

/// A client with its stream.
pub(super) struct Connection {
    client: Client,
    stream: Stream,
    framer: Framer,
    seat: Seat,
    limits: StreamLimits,
    /// Messages are left in the framer for the next round.
    is_uncut: bool,
    /// When the last whole message came, or the connection itself.
    spoke: Instant,
    /// When the message began that is not whole.
    amid_since: Option<Instant>,
    swept: Instant,
    /// A sweep may have left something to write.
    is_swept: bool,
    /// It is a data connection.
    splice: Option<Splice>,
    /// It is over; what waits to be written has until the given time to leave.
    ending: Option<(End, Instant)>,
    sleep: Pin<Box<Sleep>>,
}

impl Connection {
    pub(super) fn new(client: Client, stream: Stream, seat: Seat, limits: StreamLimits) -> Self {
        let now = client.now.instant;
        Self {
            client,
            stream,
            framer: Framer::new(),
            seat,
            limits,
            is_uncut: false,
            spoke: now,
            amid_since: None,
            swept: now,
            is_swept: false,
            splice: None,
            ending: None,
            sleep: Box::pin(sleep_until((now + limits.idle).into())),
        }
    }

    /// The stream alone: the allocation has ended then.
    pub(super) fn into_stream(self) -> Stream {
        self.stream
    }

    /// Does what there is to do, but no more than its share: another task may wait for the thread.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        #[cfg(test)]
        super::tests::POLLS.set(super::tests::POLLS.get() + 1);
        if let Some(commands) = self.seat.take(cx.waker()) {
            self.client.now = Now::read();
            if commands.stop {
                return Poll::Ready(End::Stopped);
            }
            self.client.obey(&commands);
        }
        if let Some(splice) = &mut self.splice {
            let (_, metrics) = self.client.counters();
            return splice.poll(cx, Pin::new(&mut self.stream), metrics);
        }
        self.client.now = Now::read();
        let mut rounds = 0;
        loop {
            // What is held gets the new room behind what other engines have brought.
            if self.client.is_held()
                && let Poll::Ready(Err(err)) =
                    self.client.outbox.poll_write(Pin::new(&mut self.stream), cx)
            {
                return Poll::Ready(End::Broken(err));
            }
            let mut is_busy = self.relay(cx);
            if self.client.is_overrun {
                return Poll::Ready(End::Overrun);
            }
            match self.client.outbox.poll_write(Pin::new(&mut self.stream), cx) {
                Poll::Ready(Err(err)) => return Poll::Ready(End::Broken(err)),
                Poll::Ready(Ok(())) => {
                    if let Some((end, _)) = self.ending.take() {
                        return Poll::Ready(end);
                    }
                    if let Some(bound) = self.client.bound.take() {
                        return self.splice(cx, bound);
                    }
                }
                Poll::Pending => {}
            }
            // Else something still waits to be written, and the stream wakes the task.
            is_busy |= self.is_relaying() && self.client.has_room_again();
            rounds += 1;
            if is_busy && rounds < ROUNDS {
                continue;
            }
            if let Some(end) = self.poll_deadline(cx) {
                return Poll::Ready(end);
            }
            if is_busy {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // What a sweep has to say leaves in the next round.
            if !std::mem::take(&mut self.is_swept) {
                return Poll::Pending;
            }
        }
    }

    /// Whether anything is read: a connection that is over, or turns into another thing, only has
    /// its answers written.
    fn is_relaying(&self) -> bool {
        self.ending.is_none() && self.client.bound.is_none()
    }

    /// Whatever has come, from the client or from peers; whether there was anything.
    fn relay(&mut self, cx: &mut Context<'_>) -> bool {
        self.is_relaying()
            && (self.read(cx)
                | self.client.poll_mailbox(cx)
                | self.client.poll_relays(cx)
                | self.client.poll_peers(cx))
    }

    /// No messages from here on: what is left in the framer is the peer's already.
    fn splice(&mut self, cx: &mut Context<'_>, Bound { peer, connection }: Bound) -> Poll<End> {
        let early = std::mem::take(&mut self.framer).into_rest();
        let (counters, now) = (self.client.counters(), self.client.now.instant);
        let splice = Splice::new(peer, connection, early, counters, now);
        self.splice.insert(splice).poll(cx, Pin::new(&mut self.stream), counters.1)
    }

    /// One read, and the messages in it; whether there was anything.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.is_uncut {
            let mut buffer = ReadBuf::new(self.framer.space());
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => return false,
                Poll::Ready(Err(err)) => self.end(End::Broken(err)),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => self.end(End::Closed),
                Poll::Ready(Ok(())) => {
                    let count = buffer.filled().len();
                    self.framer.filled(count);
                }
            }
        }
        if self.ending.is_none() {
            self.cut();
            self.client.courier.ring();
        }
        true
    }

    fn cut(&mut self) {
        let now = self.client.now.instant;
        let Handled { count, end } = self.client.handle_messages(&mut self.framer.messages());
        if count > 0 {
            (self.spoke, self.amid_since) = (now, None);
        }
        match end {
            Ok(is_uncut) => {
                self.is_uncut = is_uncut;
                let is_amid = !is_uncut && self.client.bound.is_none() && self.framer.is_amid();
                self.amid_since = is_amid.then(|| self.amid_since.unwrap_or(now));
            }
            Err(why) => {
                self.client.dropped(DropReason::Malformed);
                self.end(End::BadFrame(why));
            }
        }
    }

    /// Nothing is read any more, and nothing relayed; answers still leave.
    fn end(&mut self, end: End) {
        self.client.hang_up();
        self.ending = Some((end, self.client.now.instant + LINGER));
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Option<End> {
        loop {
            let now = self.client.now.instant;
            if let Some((_, until)) = self.ending
                && until <= now
            {
                return self.ending.take().map(|(end, _)| end);
            }
            if self.half_message_until().is_some_and(|until| until <= now) {
                self.client.limit(Limit::HalfMessageTime);
                return Some(End::HalfMessage);
            }
            if self.idle_until().is_some_and(|until| until <= now) {
                self.client.limit(Limit::IdleTime);
                return Some(End::Idle);
            }
            if self.sweep_at().is_some_and(|at| at <= now) {
                (self.swept, self.is_swept) = (now, true);
                self.client.sweep();
            }
            // Deadlines mostly move away; the timer is only touched when one comes nearer, or
            // when it is over.
            let due = self.due(now).into();
            if due < self.sleep.deadline() || self.sleep.is_elapsed() {
                self.sleep.as_mut().reset(due);
            }
            if self.sleep.as_mut().poll(cx).is_pending() {
                return None;
            }
            self.client.now = Now::read();
        }
    }

    fn due(&self, now: Instant) -> Instant {
        let ending = self.ending.as_ref().map(|(_, until)| *until);
        let all = [ending, self.half_message_until(), self.idle_until(), self.sweep_at()];
        all.into_iter().flatten().min().unwrap_or(now + self.limits.idle)
    }

    fn half_message_until(&self) -> Option<Instant> {
        let since = self.amid_since.filter(|_| self.ending.is_none())?;
        Some(since + self.limits.half_message)
    }

    fn idle_until(&self) -> Option<Instant> {
        let is_idle = self.ending.is_none() && !self.client.has_relay();
        is_idle.then(|| self.spoke.max(self.client.released) + self.limits.idle)
    }

    fn sweep_at(&self) -> Option<Instant> {
        Some(self.client.engine.poll_timeout()?.max(self.swept + SWEEP_INTERVAL))
    }
}

/// How many times in a row a connection reads, relays and writes before others have their turn.
const ROUNDS: usize = 8;
/// How long what waits may take to leave after the end.
const LINGER: Duration = Duration::from_secs(5);
/// The engine is told the time no more often than this.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
