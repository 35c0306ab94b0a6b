//! What a client may say.

use serde::{Deserialize, Serialize};

use super::{Code, REQUEST_ID_CHARS_MAX};

/// A parsed frame: the message and the `id` that its answer repeats as `re`.
#[derive(Debug)]
pub(in crate::signal) struct Request {
    pub(in crate::signal) id: Option<String>,
    pub(in crate::signal) message: Message,
}

/// What the client says.
#[derive(Debug)]
pub(in crate::signal) enum Message {
    Hello(Hello),
    Offer(Description),
    Answer(Description),
    Candidates(Candidates),
    Restart(Restart),
    Report(Report),
    Ping,
    Pong,
    Bye,
    End,
}

/// A frame that is no message, with the `id` when one could be read.
#[derive(Debug)]
pub(in crate::signal) struct Refused {
    pub(in crate::signal) id: Option<String>,
    pub(in crate::signal) code: Code,
    /// Whether the frame said that it is a `hello`: then it fails the connection.
    pub(in crate::signal) hello: bool,
}

#[derive(Deserialize)]
struct Head {
    t: String,
    #[serde(default)]
    id: Option<String>,
}

/// Reads one text frame.
pub(in crate::signal) fn parse(frame: &str) -> Result<Request, Refused> {
    let bad = |id, hello| Refused { id, code: Code::BadMessage, hello };
    // serde would read an array as the fields of a struct in order; only objects are messages.
    if !frame.trim_start().starts_with('{') {
        return Err(bad(None, false));
    }
    let head: Head = serde_json::from_str(frame).map_err(|_| bad(None, false))?;
    if head.id.as_ref().is_some_and(|id| id.chars().count() > REQUEST_ID_CHARS_MAX) {
        return Err(bad(None, head.t == "hello"));
    }
    match message(&head.t, frame) {
        Some(Ok(message)) => Ok(Request { id: head.id, message }),
        Some(Err(_)) => Err(bad(head.id, head.t == "hello")),
        None => Err(Refused { id: head.id, code: Code::UnknownType, hello: false }),
    }
}

/// The body of a message of type `t`; `None` for a type that no client sends.
fn message(t: &str, frame: &str) -> Option<Result<Message, serde_json::Error>> {
    Some(match t {
        "hello" => serde_json::from_str(frame).map(Message::Hello),
        "offer" => serde_json::from_str(frame).map(Message::Offer),
        "answer" => serde_json::from_str(frame).map(Message::Answer),
        "candidates" => serde_json::from_str(frame).map(Message::Candidates),
        "restart" => serde_json::from_str(frame).map(Message::Restart),
        "report" => serde_json::from_str(frame).map(Message::Report),
        "ping" => Ok(Message::Ping),
        "pong" => Ok(Message::Pong),
        "bye" => Ok(Message::Bye),
        "end" => Ok(Message::End),
        _ => return None,
    })
}

/// Which part a member plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::signal) enum Role {
    Broadcaster,
    Watcher,
}

/// How a link fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::signal) enum LinkState {
    Connected,
    Failed,
}

/// How media travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::signal) enum MediaPath {
    Direct,
    Udp,
    Tcp,
    Tls,
}

wire! {
    /// The first message on every connection. The answer is `welcome`, or an `error` that closes
    /// the connection. A second `hello` on the same connection is `forbidden`. Reserved fields:
    /// `password`, `admission`.
    client("hello")
    Hello(Deserialize) {
        /// The versions of the protocol that the client speaks: `[1]`.
        #[serde(default)]
        versions: Vec<u64> = "number[]",
        /// Which part the client wants to play.
        role: Role = "\"broadcaster\" | \"watcher\"",
        /// 1 to 64 of `a-z A-Z 0-9 - _`. A broadcaster may leave it out and gets a random one.
        #[serde(default)]
        room: Option<String> = "string?",
        /// Broadcaster: the key of the invitation. Not needed where publishing is open, nor for a
        /// room whose `room_key` is right. A page that wants to come back after a restart of the
        /// server sends it with every `hello`: the server has forgotten the room by then.
        #[serde(default)]
        key: Option<String> = "string?",
        /// Broadcaster: the `room_key` of an earlier `welcome`. It takes a live room over, comes
        /// back to a room that waits for its broadcaster, and stays the room's key when the server
        /// does not know the room any more (22 to 64 characters of URL-safe base64).
        #[serde(default)]
        room_key: Option<String> = "string?",
        /// What the broadcaster sees; at most 64 characters, no control characters.
        #[serde(default)]
        name: Option<String> = "string?",
        /// Comes back as the same member. When the server does not know the token any more, this
        /// is an ordinary `hello`, and `welcome.resumed` is false.
        #[serde(default)]
        resume: Option<Resume> = "Resume?",
    }
}

wire! {
    /// Inside `hello`.
    object
    Resume(Deserialize) {
        /// `welcome.resume` of the lost connection.
        token: String = "string",
        /// The highest `seq` that the client has handled.
        last_seq: u64 = "number",
    }
}

wire! {
    /// A session description for the other side of the link. It arrives there with `from`.
    client("offer, answer")
    Description(Deserialize) {
        /// The link.
        link: String = "string",
        /// The session description.
        sdp: String = "string",
    }
}

wire! {
    /// Candidates for the other side of the link, best bundled over up to 50 ms. They arrive there
    /// with `from`, in the order sent, also before the description they belong to: the receiver
    /// keeps them until then.
    client("candidates")
    Candidates(Deserialize) {
        /// The link.
        link: String = "string",
        /// `null` is the end of candidates.
        candidates: Vec<Option<CandidateInit>> = "(CandidateInit | null)[]",
    }
}

wire! {
    /// A candidate as `RTCIceCandidate.toJSON` writes it. Other fields are not forwarded.
    object
    CandidateInit(Clone, Deserialize, Serialize) {
        /// The candidate line without `a=`; at most 1024 characters.
        candidate: String = "string",
        /// The media section by name.
        #[serde(default)]
        sdp_mid["sdpMid"]: Option<String> = "string | null",
        /// The media section by number.
        #[serde(default)]
        sdp_m_line_index["sdpMLineIndex"]: Option<u16> = "number | null",
        /// The ICE generation.
        #[serde(default)]
        username_fragment["usernameFragment"]: Option<String> = "string | null",
    }
}

wire! {
    /// Asks for an ICE restart: the other side hears it with `from`, and the broadcaster offers.
    /// With `rebuild` the hub ends the link, revokes its credentials, and announces a new one to
    /// both: the broadcaster gets `member changed` with `replaces`, the watcher `room live`.
    client("restart")
    Restart(Deserialize) {
        /// The link.
        link: String = "string",
        /// A new peer connection instead of an ICE restart.
        #[serde(default)]
        rebuild: bool = "boolean?",
    }
}

wire! {
    /// Says how the link fares. The broadcaster sees what a watcher reports as `member changed`;
    /// a metric counts each change of a link's path.
    client("report")
    Report(Deserialize) {
        /// The link.
        link: String = "string",
        /// `failed` when no path was found or the path broke.
        state: LinkState = "\"connected\" | \"failed\"",
        /// `direct` when neither end of the selected pair is relayed; else how the reporting side
        /// or the other one reaches its relay.
        #[serde(default)]
        path: Option<MediaPath> = "(\"direct\" | \"udp\" | \"tcp\" | \"tls\")?",
        /// Why it failed, at most 64 of `a-z 0-9 -`.
        #[serde(default)]
        code: Option<String> = "string?",
    }
}

#[cfg(test)]
wire! {
    /// Asks for a `pong`. A connection that says nothing for `ping.interval_secs` +
    /// `ping.timeout_secs` is taken for lost.
    client("ping")
    PingEntry(Default) {
    }
}

#[cfg(test)]
wire! {
    /// Leaves at once, as the close codes 1000 and 1001 do; pages send it on `pagehide`. Its
    /// fields, if any, are ignored. A room that its broadcaster leaves waits for `grace_secs` for
    /// the holder of the `room_key`; others get `room-live` until then.
    client("bye")
    ByeEntry(Default) {
    }
}

#[cfg(test)]
wire! {
    /// The broadcaster ends the broadcast: every watcher gets `room ended` and `bye`.
    client("end")
    EndEntry(Default) {
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(frame: &str) -> (Code, Option<String>) {
        let refused = parse(frame).expect_err("a refusal");
        (refused.code, refused.id)
    }

    #[test]
    fn unknown_fields_are_tolerated_and_unknown_types_are_not() {
        let frame =
            r#"{"t":"hello","versions":[1,2],"role":"watcher","room":"a","later":{"x":[]}}"#;
        let request = parse(frame).expect("a message");
        assert!(matches!(request.message, Message::Hello(hello) if hello.versions == [1, 2]));
        assert_eq!(refused(r#"{"t":"kick","id":"7"}"#), (Code::UnknownType, Some("7".into())));
        assert_eq!(refused(r#"{"t":"welcome"}"#), (Code::UnknownType, None));
    }

    #[test]
    fn what_has_no_shape_is_a_bad_message() {
        for frame in [
            "",
            "null",
            "[]",
            "7",
            "{",
            "{}",
            r#"{"t":7}"#,
            r#"["ping"]"#,
            r#"{"t":"offer"}"#,
            r#"{"t":"offer","link":"l","sdp":null}"#,
            r#"{"t":"ping","t":"ping"}"#,
            r#"{"t":"candidates","link":"l","candidates":[7]}"#,
            r#"{"t":"ping","id":7}"#,
            r#"{"t":"hello","versions":[1],"role":"king"}"#,
            r#"{"t":"hello","versions":[-1],"role":"watcher"}"#,
        ] {
            assert_eq!(refused(frame).0, Code::BadMessage, "{frame}");
        }
        let long = format!(r#"{{"t":"ping","id":"{}"}}"#, "x".repeat(65));
        assert_eq!(refused(&long), (Code::BadMessage, None));
        let request = format!(r#"{{"t":"ping","id":"{}"}}"#, "ä".repeat(64));
        assert!(parse(&request).is_ok());
    }

    #[test]
    fn a_nest_of_brackets_overflows_no_stack() {
        let frame = format!(r#"{{"t":"ping","x":{}"#, "[".repeat(60_000));
        assert_eq!(refused(&frame).0, Code::BadMessage);
        let frame = format!(
            r#"{{"t":"hello","role":"watcher","later":{}{}}}"#,
            "[".repeat(30_000),
            "]".repeat(30_000)
        );
        let _ = parse(&frame);
    }
}
