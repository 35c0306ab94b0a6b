//! The signaling hub as a state machine: rooms, members, links, and who may say what to whom.
//!
//! It is told what a WebSocket said and when, and fills [`Outputs`]; it never waits, holds no
//! queue, reads no clock and opens no socket. The straight line: [`Hub::handle`] parses a frame,
//! checks who says it, changes the room, and names the frames to write.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::credentials::{Entropy, GrantName, Grants};
use crate::metrics::Metrics;
use crate::net::Now;
use crate::telemetry::Secret;

/// Names one WebSocket. Given out by `web`, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// What `web` knows of a WebSocket when it opens.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Where the person comes from (behind trusted proxies, what they say).
    pub address: IpAddr,
    /// Whether this request may publish without a key (`publish = "open"`, or `"auto"` and all of
    /// its conditions hold).
    pub may_publish: bool,
    /// The TURN URLs for this person's browser, by the host it asked for.
    pub ice_urls: Arc<[String]>,
}

/// A key that admits broadcasters.
#[derive(Debug, Clone)]
pub struct BroadcastKey {
    /// For the log.
    pub name: String,
    /// What the link carries.
    pub key: Secret<String>,
}

/// How a WebSocket ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Close code 1000 or 1001: membership ends at once.
    Clean,
    /// Lost, timed out, or closed by us for its queue: kept for the grace.
    Lost,
}

/// What to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Write a text frame. Serialised once, shared by all addressees.
    Send {
        /// The WebSocket.
        conn: ConnId,
        /// UTF-8 JSON.
        frame: Bytes,
    },
    /// Close after what was written before.
    Close {
        /// The WebSocket.
        conn: ConnId,
        /// 1000, 1001 or 4000 to 4099.
        code: u16,
        /// The code's word, such as `room-full`.
        reason: &'static str,
    },
    /// The grant is removed: end its allocations on every worker.
    Revoke {
        /// The grant.
        name: GrantName,
    },
}

/// What a call to the hub leads to; the caller carries all of it out.
pub type Outputs = Vec<Output>;

/// The hub's limits and timing. Plain data, filled by `daemon`.
#[derive(Debug, Clone)]
pub struct Options {
    /// Watchers of one room.
    pub viewers_per_room: u32,
    /// Rooms in all.
    pub rooms: u32,
    /// How long a lost socket's membership is kept.
    pub grace_secs: u32,
    /// Life of a hub credential.
    pub credential_ttl_secs: u32,
    /// Whether every candidate but relayed ones is dropped, and pages use the relay only.
    pub relay_only: bool,
    /// How often a page pings.
    pub ping_interval_secs: u32,
    /// How long it, and we, wait for an answer.
    pub ping_timeout_secs: u32,
    /// Messages kept for one lost socket; more end the membership's resume.
    pub kept_messages: u32,
    /// Bytes kept for one lost socket.
    pub kept_bytes: u32,
    /// Candidates forwarded on one link and side.
    pub candidates_per_link: u32,
    /// The largest frame, told to the pages in `welcome.limits`.
    pub frame_bytes: u32,
    /// The version of this build, for `welcome.build`.
    pub build: String,
}

/// The hub.
pub struct Hub {
    options: Options,
    grants: Arc<Grants>,
    metrics: Arc<Metrics>,
    entropy: Entropy,
}

impl Hub {
    /// A hub without rooms.
    pub fn new(
        options: Options,
        grants: Arc<Grants>,
        metrics: Arc<Metrics>,
        entropy: Entropy,
    ) -> Self {
        Self { options, grants, metrics, entropy }
    }

    /// A WebSocket opened.
    pub fn opened(&mut self, now: Now, conn: ConnId, opened: Opened) {
        let _ = (now, conn, opened, &self.options, &self.grants, &self.metrics, &mut self.entropy);
    }

    /// A text frame came in. `keys` are those that admit broadcasters now.
    pub fn handle(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: &str,
        keys: &[BroadcastKey],
        outputs: &mut Outputs,
    ) {
        let _ = (now, conn, frame, keys, outputs);
    }

    /// A WebSocket ended.
    pub fn closed(&mut self, now: Now, conn: ConnId, how: Closed, outputs: &mut Outputs) {
        let _ = (now, conn, how, outputs);
    }

    /// When [`Hub::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Pushes fresh credentials, ends memberships whose grace is over, gives up silent sockets.
    pub fn handle_timeout(&mut self, now: Now, outputs: &mut Outputs) {
        let _ = (now, outputs);
    }

    /// Says `bye` to everybody: the daemon stops.
    pub fn drain(&mut self, now: Now, retry_after_ms: u32, outputs: &mut Outputs) {
        let _ = (now, retry_after_ms, outputs);
    }
}
