//! What the server says.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Serialize, Serializer};

use super::Code;
use super::client::{CandidateInit, LinkState, MediaPath, Role};

/// A message without its envelope: serialised once, then framed for each addressee.
#[derive(Debug)]
pub(in crate::signal) struct Body(String);

impl Body {
    /// Serialises `message`, which must be a struct with a `t`.
    pub(in crate::signal) fn new(message: &impl Serialize) -> Self {
        // Writing our own structs into a string cannot fail: they hold no map with other keys
        // than strings. Should it, the client at least hears of a fault.
        let mut text = serde_json::to_string(message)
            .unwrap_or_else(|_| String::from(r#"{"t":"error","code":"internal"}"#));
        text.pop();
        Self(text)
    }

    /// The frame: the message with `re` and `seq` at its end.
    pub(in crate::signal) fn frame(&self, re: Option<&str>, seq: Option<u64>) -> Bytes {
        let mut text = String::with_capacity(self.0.len() + 32 + re.map_or(0, str::len));
        text.push_str(&self.0);
        if let Some(re) = re {
            text.push_str(",\"re\":");
            text.push_str(&serde_json::Value::from(re).to_string());
        }
        if let Some(seq) = seq {
            text.push_str(",\"seq\":");
            text.push_str(&seq.to_string());
        }
        text.push('}');
        Bytes::from(text)
    }
}

/// Where a room stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::signal) enum RoomState {
    Waiting,
    Live,
    Ended,
}

/// What a client does after a `bye`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::signal) enum Action {
    Stop,
    Resume,
}

/// Which candidates pages may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::signal) enum IcePolicy {
    All,
    Relay,
}

/// What became of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::signal) enum Event {
    Joined,
    Changed,
    Left,
    Count,
}

wire! {
    /// Answers `hello`. After the `welcome` of a broadcaster a `member joined` follows for each
    /// watcher that waits already.
    ///
    /// With `resumed`, the client goes on as it is: no peer connection is touched, and the
    /// messages after `last_seq` follow as they were. This `welcome` repeats `last_seq` as its
    /// `seq`, because it takes no part in the replay, and it shows the state of now.
    server("welcome")
    #[serde(tag = "t", rename = "welcome")]
    Welcome<'a>(Serialize) {
        /// The version of the protocol: 1.
        version: u64 = "number",
        /// Who the client is from now on.
        member: &'a str = "string",
        /// The part it plays.
        role: Role = "\"broadcaster\" | \"watcher\"",
        /// Where it is.
        room: RoomView<'a> = "RoomView",
        /// Watcher: for `link`. Broadcaster: for gathering ahead; each viewer's link brings its
        /// own with `member joined`.
        ice: &'a Ice = "Ice",
        /// Watcher: the link to the broadcaster, present or to come.
        #[serde(skip_serializing_if = "Option::is_none")]
        link: Option<&'a str> = "string?",
        /// Watcher, while the room is live: the member at the other end of `link`.
        #[serde(skip_serializing_if = "Option::is_none")]
        upstream: Option<&'a str> = "string?",
        /// Broadcaster: proves that the room is his. A secret.
        #[serde(skip_serializing_if = "Option::is_none")]
        room_key: Option<&'a str> = "string?",
        /// What the server allows.
        limits: Limits = "Limits",
        /// How often the client pings.
        ping: Ping = "Ping",
        /// For `hello.resume.token`. A secret; it does not change.
        resume: &'a str = "string",
        /// Whether the client came back as the member that it was.
        resumed: bool = "boolean",
        /// The version of the server.
        build: &'a str = "string",
    }
}

wire! {
    /// Inside `welcome`.
    object
    RoomView<'a>(Serialize) {
        /// The room's name, as in `/watch/NAME`.
        name: &'a str = "string",
        /// Whether somebody broadcasts.
        state: RoomState = "\"waiting\" | \"live\"",
        /// How many watch or wait.
        watchers: usize = "number",
    }
}

wire! {
    /// How to reach the relay: `servers` goes into `RTCPeerConnection` as it is.
    object
    Ice(Clone, Serialize) {
        /// For `iceServers`.
        servers: Vec<IceServer> = "IceServer[]",
        /// How long the credentials admit new allocations; fresh ones come earlier.
        ttl_secs: u32 = "number",
        /// For `iceTransportPolicy`. With `relay` the hub drops all other candidates.
        policy: IcePolicy = "\"all\" | \"relay\"",
    }
}

wire! {
    /// As `RTCIceServer`.
    object
    IceServer(Clone, Serialize) {
        /// TURN URLs.
        #[serde(serialize_with = "as_slice")]
        urls: Arc<[String]> = "string[]",
        /// For this side of this link only.
        username: String = "string",
        /// A secret.
        credential: String = "string",
    }
}

fn as_slice<S: Serializer>(urls: &Arc<[String]>, serializer: S) -> Result<S::Ok, S::Error> {
    urls.as_ref().serialize(serializer)
}

wire! {
    /// Inside `welcome`.
    object
    Limits(Clone, Copy, Serialize) {
        /// Watchers of one room.
        viewers: u32 = "number",
        /// Bytes of one frame.
        frame_bytes: u32 = "number",
        /// Candidates of one side between two offers of a link; more are dropped.
        candidates_per_link: u32 = "number",
        /// Rebuilds of one link in a minute.
        rebuilds_per_min: u32 = "number",
    }
}

wire! {
    /// Inside `welcome`.
    object
    Ping(Clone, Copy, Serialize) {
        /// Between two pings.
        interval_secs: u32 = "number",
        /// How long to wait for a `pong` before the connection counts as lost.
        timeout_secs: u32 = "number",
    }
}

wire! {
    /// Fresh credentials, at two thirds of the life of the old ones. They go into
    /// `setConfiguration`; running media is not touched.
    server("ice")
    #[serde(tag = "t", rename = "ice")]
    IceUpdate<'a>(Serialize) {
        /// Watcher: of its link. Broadcaster: his own.
        #[serde(skip_serializing_if = "Option::is_none")]
        ice: Option<&'a Ice> = "Ice?",
        /// Broadcaster: of every link that he has.
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        links: &'a [LinkIce<'a>] = "LinkIce[]?",
    }
}

wire! {
    /// Inside `ice`.
    object
    LinkIce<'a>(Serialize) {
        /// The link.
        link: &'a str = "string",
        /// Its fresh credentials.
        ice: Ice = "Ice",
    }
}

wire! {
    /// Tells the broadcaster who watches, and everybody how many. `joined` (with `name?`, `link`,
    /// `ice`): offer on `link`. `changed` with `replaces`: close that link's connection and offer
    /// on `link` with `ice`. `changed` with `state`: what the watcher reported. `left`: close.
    /// `count`, the only one that watchers get: `watchers` has changed.
    server("member")
    #[serde(tag = "t", rename = "member")]
    MemberEvent<'a>(Serialize) {
        /// What happened.
        event: Event = "\"joined\" | \"changed\" | \"left\" | \"count\"",
        /// Who; absent with `count`.
        #[serde(skip_serializing_if = "Option::is_none")]
        member: Option<&'a str> = "string?",
        /// What the watcher is called.
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<&'a str> = "string?",
        /// The watcher's link.
        #[serde(skip_serializing_if = "Option::is_none")]
        link: Option<&'a str> = "string?",
        /// The link whose place it takes.
        #[serde(skip_serializing_if = "Option::is_none")]
        replaces: Option<&'a str> = "string?",
        /// For the broadcaster's side of `link`.
        #[serde(skip_serializing_if = "Option::is_none")]
        ice: Option<&'a Ice> = "Ice?",
        /// As reported.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<MediaPath> = "(\"direct\" | \"udp\" | \"tcp\" | \"tls\")?",
        /// As reported.
        #[serde(skip_serializing_if = "Option::is_none")]
        state: Option<LinkState> = "(\"connected\" | \"failed\")?",
        /// As reported.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'a str> = "string?",
        /// How many watch or wait now.
        watchers: usize = "number",
    }
}

impl MemberEvent<'_> {
    /// An event that says nothing but `watchers`.
    pub(in crate::signal) const fn bare(event: Event, watchers: usize) -> Self {
        Self {
            event,
            member: None,
            name: None,
            link: None,
            replaces: None,
            ice: None,
            path: None,
            state: None,
            code: None,
            watchers,
        }
    }
}

wire! {
    /// Tells a watcher where the room stands. `live` (with `link`, `upstream`, `ice`): expect an
    /// offer on `link`, and close the connection of any earlier link. `waiting` (with `link`,
    /// `ice`): the broadcaster is gone; close, and wait. `ended`: the broadcaster ended it; a
    /// `bye` follows. Reserved: `full` (with a place in the queue), `locked`.
    server("room")
    #[serde(tag = "t", rename = "room")]
    RoomUpdate<'a>(Serialize) {
        /// Where the room stands.
        state: RoomState = "\"waiting\" | \"live\" | \"ended\" | \"full\" | \"locked\"",
        /// How many watch or wait.
        watchers: usize = "number",
        /// The watcher's link from now on.
        #[serde(skip_serializing_if = "Option::is_none")]
        link: Option<&'a str> = "string?",
        /// The broadcaster.
        #[serde(skip_serializing_if = "Option::is_none")]
        upstream: Option<&'a str> = "string?",
        /// For the watcher's side of `link`.
        #[serde(skip_serializing_if = "Option::is_none")]
        ice: Option<&'a Ice> = "Ice?",
    }
}

wire! {
    /// What the other side of the link said.
    server("offer, answer")
    DescriptionOut<'a>(Serialize) {
        /// `offer` or `answer`.
        t: &'static str = "\"offer\" | \"answer\"",
        /// The link.
        link: &'a str = "string",
        /// The member at the other end.
        from: &'a str = "string",
        /// The session description; without unrelayed candidates when the policy is `relay`.
        sdp: &'a str = "string",
    }
}

wire! {
    /// What the other side of the link said.
    server("candidates")
    #[serde(tag = "t", rename = "candidates")]
    CandidatesOut<'a>(Serialize) {
        /// The link.
        link: &'a str = "string",
        /// The member at the other end.
        from: &'a str = "string",
        /// As sent; without unrelayed ones when the policy is `relay`.
        candidates: &'a [Option<CandidateInit>] = "(CandidateInit | null)[]",
    }
}

wire! {
    /// The other side of the link asks for an ICE restart.
    server("restart")
    #[serde(tag = "t", rename = "restart")]
    RestartOut<'a>(Serialize) {
        /// The link.
        link: &'a str = "string",
        /// The member at the other end.
        from: &'a str = "string",
    }
}

wire! {
    /// Answers `ping`.
    server("pong")
    #[serde(tag = "t", rename = "pong")]
    Pong(Default, Serialize) {
    }
}

wire! {
    /// The connection ends; the server closes it. It speaks of the connection that it came on
    /// only: a page that has opened a newer one by then ignores it.
    server("bye")
    #[serde(tag = "t", rename = "bye")]
    Bye(Serialize) {
        /// `ended` (to the broadcaster who ended it), `room-ended`, `taken-over` (another
        /// connection with the `room_key` broadcasts now), `resumed-elsewhere`, `draining`.
        reason: &'static str = "string",
        /// `stop`: do not come back by itself. `resume`: `hello` with `resume`. Reserved:
        /// `rejoin`, a `hello` without.
        action: Action = "\"stop\" | \"resume\" | \"rejoin\"",
        /// When to come back, at the earliest.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u32> = "number?",
    }
}

wire! {
    /// Something was refused.
    server("error")
    #[serde(tag = "t", rename = "error")]
    Error(Serialize) {
        /// From the closed list below.
        code: Code = "Code",
        /// For a person.
        message: &'static str = "string",
        /// Whether the same may succeed later.
        retry: bool = "boolean",
    }
}

impl Error {
    pub(in crate::signal) const fn new(code: Code) -> Self {
        Self { code, message: code.message(), retry: code.retry() }
    }
}
