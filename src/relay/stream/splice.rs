//! A data connection (RFC 6062, section 5.4): what the client says goes to the peer as it is, and
//! the other way round.
//!
//! One direction knows nothing of the other but its end. What was read is written before more is
//! read, so a slow reader holds up the writer at the other end and nobody else, and memory is
//! bounded by one read for each direction; the rest waits in the buffers of the sockets. An end of
//! stream is handed on, so either side may go on for a while after the other has finished.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until};

use super::Streams;
use super::connection::End;
use crate::edge::Stream;
use crate::metrics::{Limit, WorkerMetrics};
use crate::turn::DataConnection;

/// The peer's end of a data connection, and what is on its way.
pub(super) struct Splice {
    peer: TcpStream,
    connection: DataConnection,
    to_peer: Pipe,
    to_client: Pipe,
    /// When something last came through.
    moved: Instant,
    idle: Duration,
    sleep: Pin<Box<Sleep>>,
    streams: Arc<Streams>,
}

impl Splice {
    /// `early` is what the client has said already.
    pub(super) fn new(
        peer: TcpStream,
        connection: DataConnection,
        early: Vec<u8>,
        (streams, metrics): (&Arc<Streams>, &WorkerMetrics),
        now: Instant,
    ) -> Self {
        let idle = streams.limits.tcp_idle;
        let chunk = streams.limits.tcp_buffer_bytes.min(CHUNK_BYTES_MAX);
        let mut to_peer = Pipe::new(chunk);
        if !early.is_empty() {
            metrics.to_peer.add(early.len());
            to_peer.rest(&connection, early.len(), now, metrics);
            to_peer.waiting = early;
        }
        streams.metrics.data_connections.add(1);
        Self {
            peer,
            connection,
            to_peer,
            to_client: Pipe::new(chunk),
            moved: now,
            idle,
            sleep: Box::pin(sleep_until((now + idle).into())),
            streams: Arc::clone(streams),
        }
    }

    /// Carries on, but no more than its share: another task may wait for the thread.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut client: Pin<&mut Stream>,
        metrics: &WorkerMetrics,
    ) -> Poll<End> {
        if self.connection.poll_ended(cx).is_ready() {
            return Poll::Ready(End::AllocationEnded);
        }
        for _ in 0..ROUNDS {
            let now = Instant::now();
            let up = self.step(cx, client.as_mut(), Direction::ToPeer, metrics, now);
            let down = self.step(cx, client.as_mut(), Direction::ToClient, metrics, now);
            let moved = match (up, down) {
                (Ok(up), Ok(down)) => up | down,
                (Err(err), _) | (_, Err(err)) => return Poll::Ready(End::Broken(err)),
            };
            if self.to_peer.is_over() && self.to_client.is_over() {
                return Poll::Ready(End::Closed);
            }
            if moved {
                self.moved = now;
            } else {
                return self.poll_deadline(cx, metrics, now);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One step of one direction; whether anything moved.
    fn step(
        &mut self,
        cx: &mut Context<'_>,
        client: Pin<&mut Stream>,
        direction: Direction,
        metrics: &WorkerMetrics,
        now: Instant,
    ) -> io::Result<bool> {
        let peer = Pin::new(&mut self.peer);
        let pipe = match direction {
            Direction::ToPeer => &mut self.to_peer,
            Direction::ToClient => &mut self.to_client,
        };
        if pipe.reads(now) {
            let pause = self.connection.pause(pipe.last_bytes, now);
            pipe.resume = pause.map(|pause| now + pause.wait);
        }
        let mut count = 0;
        let step = match direction {
            Direction::ToPeer => pipe.step(cx, client, peer, now, &mut count),
            Direction::ToClient => pipe.step(cx, peer, client, now, &mut count),
        };
        if count > 0 {
            match direction {
                Direction::ToPeer => metrics.to_peer.add(count),
                Direction::ToClient => metrics.to_client.add(count),
            }
            pipe.rest(&self.connection, count, now, metrics);
        }
        let step = step?;
        if step.is_stalled && !std::mem::replace(&mut pipe.was_stalled, true) {
            metrics.limit(Limit::TcpBuffer);
        }
        Ok(step.moved)
    }

    fn poll_deadline(
        &mut self,
        cx: &mut Context<'_>,
        metrics: &WorkerMetrics,
        mut now: Instant,
    ) -> Poll<End> {
        loop {
            // Half of it is over: the other half may finish, and is not waited for much longer.
            let is_half = self.to_peer.is_over() || self.to_client.is_over();
            let quiet = if is_half { self.idle.min(HALF_CLOSED) } else { self.idle };
            // Whoever rests for his bandwidth is not quiet.
            let rests = [self.to_peer.resume, self.to_client.resume].into_iter().flatten();
            let until = rests.fold(self.moved, Instant::max) + quiet;
            if until <= now {
                if !is_half {
                    metrics.limit(Limit::TcpIdle);
                }
                return Poll::Ready(if is_half { End::Closed } else { End::Idle });
            }
            let pauses = [self.to_peer.resume, self.to_client.resume].into_iter().flatten();
            let due = pauses.filter(|at| *at > now).fold(until, Instant::min);
            // Deadlines mostly move away; see `connection.rs`.
            let due = due.into();
            if due < self.sleep.deadline() || self.sleep.is_elapsed() {
                self.sleep.as_mut().reset(due);
            }
            ready!(self.sleep.as_mut().poll(cx));
            now = Instant::now();
            if [self.to_peer.resume, self.to_client.resume]
                .into_iter()
                .flatten()
                .any(|at| at <= now)
            {
                // A pause is over, so there is something to do.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Splice {
    fn drop(&mut self) {
        self.streams.metrics.data_connections.add(-1);
    }
}

#[derive(Clone, Copy)]
enum Direction {
    ToPeer,
    ToClient,
}

/// One direction.
struct Pipe {
    /// What was read and is not written, from `start` on.
    waiting: Vec<u8>,
    start: usize,
    /// The most bytes that are read at once.
    chunk: usize,
    state: State,
    /// Something was written since the sink was last flushed.
    is_unflushed: bool,
    /// Nothing is read before: too much was.
    resume: Option<Instant>,
    /// What the last read brought; before the first one, what it may bring.
    last_bytes: usize,
    /// The sink did not take all once.
    was_stalled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The source has ended; the sink does not know yet.
    Ending,
    /// And now it does.
    Over,
}

/// What a step of a pipe did.
struct Step {
    moved: bool,
    /// The sink takes nothing more for now.
    is_stalled: bool,
}

impl Pipe {
    const fn new(chunk: usize) -> Self {
        Self {
            waiting: Vec::new(),
            start: 0,
            chunk,
            state: State::Open,
            is_unflushed: false,
            resume: None,
            last_bytes: chunk,
            was_stalled: false,
        }
    }

    fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Charges `count` bytes that were read, and rests when that was too much.
    fn rest(
        &mut self,
        connection: &DataConnection,
        count: usize,
        now: Instant,
        metrics: &WorkerMetrics,
    ) {
        self.last_bytes = count;
        self.resume = connection.spend(count, now).map(|pause| {
            metrics.limit(pause.limit);
            now + pause.wait
        });
    }

    /// Whether there is a read at `now`.
    fn reads(&self, now: Instant) -> bool {
        let rests = self.resume.is_some_and(|resume| now < resume);
        self.state == State::Open && self.waiting.is_empty() && !rests
    }

    /// Reads when nothing waits, and writes what does; `count` is what was read.
    fn step(
        &mut self,
        cx: &mut Context<'_>,
        source: Pin<&mut impl AsyncRead>,
        mut sink: Pin<&mut impl AsyncWrite>,
        now: Instant,
        count: &mut usize,
    ) -> io::Result<Step> {
        let mut moved = self.read(cx, source, now, count)?;
        while self.start < self.waiting.len() {
            match sink.as_mut().poll_write(cx, &self.waiting[self.start..]) {
                Poll::Pending => return Ok(Step { moved, is_stalled: true }),
                Poll::Ready(written) => match written? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    written => self.start += written,
                },
            }
            (moved, self.is_unflushed) = (true, true);
        }
        self.waiting.clear();
        self.start = 0;
        if self.is_unflushed {
            if sink.as_mut().poll_flush(cx)?.is_pending() {
                return Ok(Step { moved, is_stalled: true });
            }
            self.is_unflushed = false;
        }
        if self.state == State::Ending && sink.poll_shutdown(cx)?.is_ready() {
            (self.state, moved) = (State::Over, true);
        }
        Ok(Step { moved, is_stalled: false })
    }

    fn read(
        &mut self,
        cx: &mut Context<'_>,
        source: Pin<&mut impl AsyncRead>,
        now: Instant,
        count: &mut usize,
    ) -> io::Result<bool> {
        if !self.reads(now) {
            return Ok(false);
        }
        self.resume = None;
        let read = SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(CHUNK_BYTES_MAX, 0);
            let mut buffer = ReadBuf::new(&mut scratch[..self.chunk]);
            ready!(source.poll_read(cx, &mut buffer))?;
            self.waiting.extend_from_slice(buffer.filled());
            Poll::Ready(io::Result::Ok(()))
        });
        match read {
            Poll::Pending => {
                // Whoever says nothing has no memory.
                self.waiting = Vec::new();
                return Ok(false);
            }
            Poll::Ready(read) => read?,
        }
        *count = self.waiting.len();
        if *count == 0 {
            self.state = State::Ending;
        }
        Ok(true)
    }
}

thread_local! {
    /// Memory to read into, for each thread that runs tasks.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How many times in a row a data connection reads and writes before others have their turn.
const ROUNDS: usize = 8;
/// The most bytes that are read at once.
const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// How long one direction may carry nothing when the other one is over.
const HALF_CLOSED: Duration = Duration::from_secs(30);
