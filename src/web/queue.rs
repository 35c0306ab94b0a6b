//! What waits to be written to one WebSocket: bounded in frames and bytes.
//!
//! Pushing never waits. When the bound is reached, everything that waits is thrown away and the
//! queue asks its own WebSocket to close; nobody else notices.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::signal::Code;

/// The queue of one WebSocket: the hub pushes, the WebSocket's task pops.
pub(super) struct Queue {
    frames_max: usize,
    bytes_max: usize,
    state: Mutex<State>,
    ready: Notify,
    cut: Notify,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Utf8Bytes>,
    bytes: usize,
    close: Option<Close>,
    cut: bool,
}

/// Why and how to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Close {
    /// The close code on the wire.
    pub(super) code: u16,
    /// The word that goes with it.
    pub(super) reason: &'static str,
}

impl From<Code> for Close {
    fn from(code: Code) -> Self {
        Self { code: code.close_code(), reason: code.text() }
    }
}

/// What to write next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Frame(Utf8Bytes),
    Close(Close),
}

/// The queue was full; it has asked its WebSocket to close.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overflow;

impl Queue {
    pub(super) fn new(frames_max: usize, bytes_max: usize) -> Self {
        Self {
            frames_max,
            bytes_max,
            state: Mutex::default(),
            ready: Notify::new(),
            cut: Notify::new(),
        }
    }

    /// Adds a frame. After a close nothing more is taken.
    pub(super) fn push(&self, frame: Utf8Bytes) -> Result<(), Overflow> {
        let mut state = self.lock();
        if state.close.is_some() {
            return Ok(());
        }
        let too_many = state.frames.len() >= self.frames_max;
        // One frame alone may be longer than the bound: it would never fit otherwise.
        let too_long =
            !state.frames.is_empty() && state.bytes + frame.as_str().len() > self.bytes_max;
        if too_many || too_long {
            *state =
                State { close: Some(Code::SlowConsumer.into()), cut: true, ..State::default() };
            self.ready.notify_one();
            self.cut.notify_one();
            return Err(Overflow);
        }
        state.bytes += frame.as_str().len();
        state.frames.push_back(frame);
        self.ready.notify_one();
        Ok(())
    }

    /// Closes behind what waits already. The first close counts.
    pub(super) fn close(&self, close: Close) {
        self.lock().close.get_or_insert(close);
        self.ready.notify_one();
    }

    /// Waits for what to write next. Nothing is lost when the wait is given up.
    pub(super) async fn next(&self) -> Next {
        loop {
            {
                let mut state = self.lock();
                if let Some(frame) = state.frames.pop_front() {
                    state.bytes -= frame.as_str().len();
                    return Next::Frame(frame);
                }
                if let Some(close) = state.close {
                    return Next::Close(close);
                }
            }
            self.ready.notified().await;
        }
    }

    /// Waits until the bound is reached, so that a write that hangs can be given up.
    pub(super) async fn overflowed(&self) {
        while !self.lock().cut {
            self.cut.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        match self.state.lock() {
            Ok(state) => state,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Close = Close { code: 4014, reason: "slow-consumer" };

    #[tokio::test]
    async fn frames_come_in_order_and_the_close_behind_them() {
        let queue = Queue::new(10, 100);
        queue.push("one".into()).expect("room");
        queue.push("two".into()).expect("room");
        queue.close(Close { code: 4011, reason: "room-ended" });
        queue.close(Close { code: 4016, reason: "internal" });
        queue.push("late".into()).expect("ignored");
        assert_eq!(queue.next().await, Next::Frame("one".into()));
        assert_eq!(queue.next().await, Next::Frame("two".into()));
        let close = Next::Close(Close { code: 4011, reason: "room-ended" });
        assert_eq!(queue.next().await, close);
        assert_eq!(queue.next().await, close);
    }

    #[tokio::test]
    async fn too_many_frames_close_the_queue() {
        let queue = Queue::new(2, 100);
        queue.push("one".into()).expect("room");
        queue.push("two".into()).expect("room");
        assert_eq!(queue.push("three".into()), Err(Overflow));
        queue.overflowed().await;
        assert_eq!(queue.next().await, Next::Close(SLOW));
        assert_eq!(queue.push("four".into()), Ok(()), "it is counted once");
    }

    #[tokio::test]
    async fn too_many_bytes_close_the_queue_but_one_long_frame_passes() {
        let queue = Queue::new(10, 8);
        queue.push("a frame above the bound".into()).expect("alone it passes");
        assert_eq!(queue.push("x".into()), Err(Overflow));
        assert_eq!(queue.next().await, Next::Close(SLOW));
        let queue = Queue::new(10, 8);
        for _ in 0..20 {
            queue.push("12345678".into()).expect("what was written makes room");
            assert_eq!(queue.next().await, Next::Frame("12345678".into()));
        }
    }
}
