//! The hub as the web side holds it: a lock around the state machine, a queue for each WebSocket,
//! and the timer.
//!
//! Every call locks, lets the hub think, and puts what it says into the queues before the lock is
//! released, so that all see the same order. Nothing here waits for a WebSocket. Revocations go
//! to the relay after the lock is released.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::sleep_until;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tracing::error;

use super::queue::{Close, Queue};
use crate::credentials::GrantName;
use crate::metrics::{Heartbeat, Limit, Metrics};
use crate::net::Now;
use crate::signal::{BroadcastKey, Closed, Code, ConnId, Hub, Opened, Output, Outputs};

/// What the hub needs from its surroundings.
pub struct HubOptions {
    /// Frames that wait for one slow WebSocket: [`super::Limits::queue_frames`].
    pub queue_frames: usize,
    /// Bytes that wait for one slow WebSocket: [`super::Limits::queue_bytes`].
    pub queue_bytes: usize,
    /// The keys that admit broadcasters now; asked anew for each `hello`.
    pub keys: Box<dyn Fn() -> Vec<BroadcastKey> + Send + Sync>,
    /// Ends the allocations of a grant on every worker; must not wait.
    pub revoke: Box<dyn Fn(&str) + Send + Sync>,
    /// Beaten at least once a second by the timer.
    pub heartbeat: Arc<Heartbeat>,
}

/// The hub, shared by all WebSockets.
pub struct HubHandle {
    options: HubOptions,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    rearm: Arc<Notify>,
    /// The number of open WebSockets, for whoever waits for the last one.
    open: watch::Sender<usize>,
}

struct State {
    hub: Hub,
    queues: HashMap<ConnId, Arc<Queue>>,
    last_id: u64,
    /// What the timer waits for.
    armed: Option<Instant>,
    draining: bool,
}

impl HubHandle {
    /// Takes the hub over and starts its timer, which ends when the last handle is dropped. Must
    /// be called inside a tokio runtime.
    pub fn start(hub: Hub, options: HubOptions, metrics: Arc<Metrics>) -> Arc<Self> {
        let state = State { hub, queues: HashMap::new(), last_id: 0, armed: None, draining: false };
        let handle = Arc::new(Self {
            options,
            metrics,
            state: Mutex::new(state),
            rearm: Arc::default(),
            open: watch::Sender::new(0),
        });
        let (weak, rearm) = (Arc::downgrade(&handle), Arc::clone(&handle.rearm));
        tokio::spawn(async move {
            while let Some(hub) = weak.upgrade() {
                let next = hub.turn();
                drop(hub);
                tokio::select! {
                    () = sleep_until(next.into()) => {}
                    () = rearm.notified() => {}
                }
            }
        });
        handle
    }

    /// Says `bye` to everybody and closes every WebSocket; new ones are refused from now on.
    pub fn drain(&self, retry_after: Duration) {
        let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
        // First of all, so that nobody slips in between the farewell and the end.
        self.lock().draining = true;
        self.with_hub(|hub, outputs| hub.drain(Now::read(), retry_after_ms, outputs));
        for queue in self.lock().queues.values() {
            queue.close(Code::Draining.into());
        }
    }

    /// Waits until no WebSocket is open; the caller puts a deadline on it.
    pub async fn idle(&self) {
        // The sender lives as long as this handle, so the wait cannot fail.
        let _ = self.open.subscribe().wait_for(|&open| open == 0).await;
    }

    /// Whether new WebSockets are refused.
    pub(super) fn is_draining(&self) -> bool {
        self.lock().draining
    }

    /// A WebSocket opened. `None` while draining.
    pub(super) fn open(self: &Arc<Self>, opened: Opened) -> Option<Conn> {
        let mut state = self.lock();
        if state.draining {
            return None;
        }
        state.last_id += 1;
        let id = ConnId(state.last_id);
        let queue = Arc::new(Queue::new(self.options.queue_frames, self.options.queue_bytes));
        state.queues.insert(id, Arc::clone(&queue));
        state.hub.opened(Now::read(), id, opened);
        self.rearm_if_earlier(&mut state);
        drop(state);
        self.metrics.conns.add(1);
        self.open.send_modify(|open| *open += 1);
        Some(Conn { id, queue, hub: Arc::clone(self), ended: false })
    }

    /// A page that went away: whoever holds `token` leaves. That of nobody changes nothing.
    pub(super) fn farewell(&self, token: &str) {
        self.with_hub(|hub, outputs| hub.farewell(Now::read(), token, outputs));
    }

    /// Lets the hub do what is due. Returns when to call again.
    fn turn(&self) -> Instant {
        let now = Now::read();
        self.options.heartbeat.beat(now.instant);
        let due = self.lock().hub.poll_timeout().is_some_and(|at| at <= now.instant);
        if due {
            self.with_hub(|hub, outputs| hub.handle_timeout(now, outputs));
        }
        let latest = now.instant + TURN_MAX;
        let mut state = self.lock();
        let next = state.hub.poll_timeout().map_or(latest, |at| at.min(latest));
        // A timer that stays due would make this loop spin.
        let next = next.max(now.instant + TURN_MIN);
        state.armed = Some(next);
        next
    }

    /// Runs one call of the hub and carries out what it says.
    fn with_hub(&self, call: impl FnOnce(&mut Hub, &mut Outputs)) {
        let mut outputs = Outputs::new();
        let mut state = self.lock();
        call(&mut state.hub, &mut outputs);
        let revoked = self.carry_out(&state, outputs);
        self.rearm_if_earlier(&mut state);
        drop(state);
        for name in revoked {
            (self.options.revoke)(&name);
        }
    }

    fn carry_out(&self, state: &State, outputs: Outputs) -> Vec<GrantName> {
        let mut revoked = Vec::new();
        for output in outputs {
            match output {
                Output::Send { conn, frame } => {
                    let Some(queue) = state.queues.get(&conn) else { continue };
                    let Ok(frame) = Utf8Bytes::try_from(frame) else {
                        error!(conn = conn.0, "the hub wrote a frame that is no text");
                        continue;
                    };
                    if queue.push(frame).is_err() {
                        self.metrics.limit(Limit::Queue);
                    }
                }
                Output::Close { conn, code, reason } => {
                    if let Some(queue) = state.queues.get(&conn) {
                        queue.close(Close { code, reason });
                    }
                }
                Output::Revoke { name } => revoked.push(name),
            }
        }
        revoked
    }

    fn rearm_if_earlier(&self, state: &mut State) {
        let next = state.hub.poll_timeout();
        if next.is_some_and(|at| state.armed.is_none_or(|armed| at < armed)) {
            state.armed = next;
            self.rearm.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        match self.state.lock() {
            Ok(state) => state,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

/// One open WebSocket. Dropping it tells the hub that it was lost, unless it had ended before.
pub(super) struct Conn {
    id: ConnId,
    queue: Arc<Queue>,
    hub: Arc<HubHandle>,
    ended: bool,
}

impl Conn {
    /// A number for the log.
    pub(super) const fn id(&self) -> u64 {
        self.id.0
    }

    /// What is to be written.
    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Hands a text frame to the hub.
    pub(super) fn handle(&self, frame: &str, hello: bool) {
        // The keys may stand in a file, and only a hello is compared with them.
        let keys = if hello { (self.hub.options.keys)() } else { Vec::new() };
        self.hub.with_hub(|hub, outputs| hub.handle(Now::read(), self.id, frame, &keys, outputs));
    }

    /// Tells the hub that it ended: by a clean close, or lost. It still counts as open until it
    /// is dropped, because a farewell may have to be written.
    pub(super) fn end(&mut self, how: Closed) {
        if !std::mem::replace(&mut self.ended, true) {
            self.hub.lock().queues.remove(&self.id);
            self.hub.with_hub(|hub, outputs| hub.closed(Now::read(), self.id, how, outputs));
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.end(Closed::Lost);
        self.hub.metrics.conns.add(-1);
        self.hub.open.send_modify(|open| *open -= 1);
    }
}

/// Whether a frame is a `hello`; what cannot be read is none.
pub(super) fn is_hello(frame: &str) -> bool {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        t: std::borrow::Cow<'a, str>,
    }
    serde_json::from_str::<Head<'_>>(frame).is_ok_and(|head| head.t == "hello")
}

/// The heartbeat needs a turn at least this often.
const TURN_MAX: Duration = Duration::from_secs(1);
/// And the processor at most this often.
const TURN_MIN: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_is_told_from_the_rest() {
        assert!(is_hello(r#"{"t":"hello","versions":[1]}"#));
        assert!(is_hello(r#"{"versions":[1],"t":"\u0068ello"}"#));
        assert!(!is_hello(r#"{"t":"offer","sdp":"hello"}"#));
        assert!(!is_hello(r#"{"t":"hello""#));
        assert!(!is_hello(r#"{"t":"ping","t":"hello"}"#));
        assert!(!is_hello("hello"));
    }
}
