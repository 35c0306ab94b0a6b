//! The signaling hub as a state machine: rooms, members, links, and who may say what to whom.
//!
//! It is told what a WebSocket said and when, and fills [`Outputs`]; it never waits, holds no
//! queue, reads no clock and opens no socket. The straight line: [`Hub::handle`] parses a frame,
//! checks who says it, changes the room, and names the frames to write.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod admission;
mod hello;
mod hub;
mod ice;
mod id;
mod link;
mod member;
mod negotiate;
mod protocol;
mod report;
mod restart;
mod resume;
mod room;
mod sdp;
#[cfg(test)]
mod tests;
mod timers;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use crate::credentials::GrantName;
use crate::telemetry::Secret;

pub use hub::Hub;
pub use protocol::Code;

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
    /// Rooms with a broadcaster; as many again may wait for theirs.
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
    /// The latest messages kept for each member; one who missed more cannot resume.
    pub kept_messages: u32,
    /// Bytes of them.
    pub kept_bytes: u32,
    /// Candidates forwarded from one side of a link between two offers.
    pub candidates_per_link: u32,
    /// Links that a watcher may have rebuilt in a minute.
    pub rebuilds_per_min: u32,
    /// The largest frame, told to the pages in `welcome.limits`.
    pub frame_bytes: u32,
    /// The version of this build, for `welcome.build`.
    pub build: String,
}
