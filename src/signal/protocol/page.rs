//! The published page of the protocol, written from the declarations of the messages, so that it
//! cannot say anything else than the types do.

use super::Code;
use super::client::{
    ByeEntry, CandidateInit, Candidates, Description, EndEntry, Hello, PingEntry, Report, Restart,
    Resume,
};
use super::server::{
    Bye, CandidatesOut, DescriptionOut, Error, Ice, IceServer, IceUpdate, Limits, LinkIce,
    MemberEvent, Ping, Pong, RestartOut, RoomUpdate, RoomView, Welcome,
};

/// A message, or an object inside one.
pub(in crate::signal::protocol) struct Entry {
    /// `client`, `server` or `object`.
    pub(in crate::signal::protocol) kind: &'static str,
    /// The `t`, or the object's name.
    pub(in crate::signal::protocol) name: &'static str,
    pub(in crate::signal::protocol) doc: &'static str,
    pub(in crate::signal::protocol) fields: &'static [Field],
}

/// One field of it.
pub(in crate::signal::protocol) struct Field {
    pub(in crate::signal::protocol) name: &'static str,
    pub(in crate::signal::protocol) shape: &'static str,
    pub(in crate::signal::protocol) doc: &'static str,
}

const ENTRIES: &[&Entry] = &[
    &Hello::ENTRY,
    &Description::ENTRY,
    &Candidates::ENTRY,
    &Restart::ENTRY,
    &Report::ENTRY,
    &PingEntry::ENTRY,
    &ByeEntry::ENTRY,
    &EndEntry::ENTRY,
    &Welcome::ENTRY,
    &IceUpdate::ENTRY,
    &MemberEvent::ENTRY,
    &RoomUpdate::ENTRY,
    &DescriptionOut::ENTRY,
    &CandidatesOut::ENTRY,
    &RestartOut::ENTRY,
    &Pong::ENTRY,
    &Bye::ENTRY,
    &Error::ENTRY,
    &Resume::ENTRY,
    &CandidateInit::ENTRY,
    &RoomView::ENTRY,
    &Ice::ENTRY,
    &IceServer::ENTRY,
    &LinkIce::ENTRY,
    &Limits::ENTRY,
    &Ping::ENTRY,
];

fn page() -> String {
    let mut text = String::from(INTRODUCTION);
    for (kind, title) in [
        ("client", "What a client says"),
        ("server", "What the server says"),
        ("object", "Objects inside messages"),
    ] {
        text.push_str(&format!("\n## {title}\n"));
        for entry in ENTRIES.iter().filter(|entry| entry.kind == kind) {
            text.push_str(&section(entry));
        }
    }
    text.push_str(RESERVED);
    text.push_str(CODES);
    for code in Code::ALL {
        let (word, close, retry) = (code.text(), code.close_code(), code.retry());
        let retry = if retry { "yes" } else { "no" };
        let (when, message) = (prose(code.doc()), code.message());
        text.push_str(&format!("| `{word}` | {close} | {retry} | {when} | {message} |\n"));
    }
    text.push_str(CLOSING);
    text
}

fn section(entry: &Entry) -> String {
    let name = entry.name.replace(", ", "`, `");
    let mut text = format!("\n### `{name}`\n\n{}\n", paragraphs(entry.doc));
    if !entry.fields.is_empty() {
        text.push_str("\n| field | type | |\n|---|---|---|\n");
    }
    for field in entry.fields {
        let shape = field.shape.replace('|', "\\|");
        text.push_str(&format!("| `{}` | `{shape}` | {} |\n", field.name, prose(field.doc)));
    }
    text
}

/// A doc comment as one line.
fn prose(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// A doc comment's paragraphs as lines of at most 100 characters.
fn paragraphs(doc: &str) -> String {
    let filled: Vec<String> = doc.split("\n\n").map(fill).collect();
    filled.join("\n\n")
}

fn fill(paragraph: &str) -> String {
    let (mut text, mut column) = (String::new(), 0);
    for word in paragraph.split_whitespace() {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > 100 {
            text.push('\n');
            column = 0;
        } else if column > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += width;
    }
    text
}

const INTRODUCTION: &str = "# Turncast signaling protocol, version 1

Written from the types in `src/signal/protocol/` by a test; `UPDATE=1 cargo test --lib protocol`
rewrites it.

A *room* has one *broadcaster* and *watchers*, all *members*. A *link* is one watcher joined to the
broadcaster: one peer connection on each side. Every rebuilt peer connection is a new link.

## Wire

WebSocket at `/ws`, JSON objects in text frames. The sub-protocol `turncast.v1` is optional. In the
tables below `?` marks a field that may be absent. Unknown fields are ignored by both sides; a type
that the server does not know is answered by `error unknown-type`, and a client ignores one that it
does not know.

| field | on | |
|---|---|---|
| `t` | every message | the type |
| `id` | a client's message, optional | at most 64 characters; the answer repeats it |
| `re` | the server's answer | the `id` that it answers |
| `seq` | a server's message to a member | counts up for each member, from 1 |

`hello.resume.last_seq` names the highest `seq` handled. Numbers may be missing after a resume:
what has no meaning later (`pong`, `count`, `ice`, `error`) is not sent again. There is none where
there is no member: on an `error` or `pong` before `welcome`, on a `bye` to a socket that another
one replaced.

Answered with `re`: `hello` (by `welcome`), `ping` (by `pong`), and what is refused (by `error`).

## In order

1. The client says `hello` and gets `welcome` with TURN credentials, whether or not somebody
   broadcasts.
2. The sender of media offers: for each `member joined` the broadcaster makes a peer connection with
   its `ice` and sends `offer` on its `link`; the watcher answers. Both send `candidates`. Both
   descriptions and candidates may go either way on a live link, so that renegotiation needs no new
   link.
3. `ice` brings fresh credentials in time. `report` says how the link fares.
4. A lost socket ends nothing: media goes on, the client reconnects (jittered) and says `hello` with
   `resume`. It is waited for `grace_secs`, nobody is told, and what it missed is sent again.
5. `bye`, `end`, or the close codes 1000 and 1001 end a membership at once. After that its
   credentials are refused, and what was relayed with them stops.
6. Browsers may drop what a socket has yet to say when its page goes away. So a page says it by a
   request as well, with `keepalive`: `POST /leave`, `Authorization: Bearer TOKEN` with the token of
   `welcome.resume`. That is a `bye` of whoever holds the token, and is answered 204 whether or not
   anybody does.

Only the two members of a live link may say something on it; everything else is `forbidden`. That
also meets a message that crossed with the news that its link was replaced or its watcher left: a
client takes no notice of such a refusal.

A broadcaster who reloads says `bye` on `pagehide`; the room then waits, and `hello` with `room` and
`room_key` brings it back within `grace_secs`. While it is live, the same `hello` takes it over.
After a restart of the server the first `hello` makes the room again, with the same `room_key`; the
`key` is needed for that, as for any new room.
";

const RESERVED: &str = "
## Reserved

Not spoken yet, and nothing else will have these names: the messages `kick`, `lock`, `limits` (from
the broadcaster) and `move` (from the server: take another upstream, make before break); the room
states `full` (with a place in the queue) and `locked`; the action `rejoin`; the fields `password`
and `admission` of `hello`. Sent by a client today, the messages are answered by `unknown-type`.
";

const CODES: &str = "
## Codes

The list is closed and its order is fixed: the close code is 4000 plus the place in it. An `error`
closes the connection when it refuses a `hello`, and with `rate-limited` of the connection's
messages or bytes, `too-large`, `slow-consumer`, and the eleventh `bad-message`. Any other `error`
refuses one message; so does `rate-limited` for a `restart` with `rebuild`.

| code | close | retry | when | message |
|---|---|---|---|---|
";

const CLOSING: &str = "
Further close codes: 1000 after a `bye` (the reason says which), 1001 for a connection that fell
silent. Whatever closes a member's connection but a `bye` with `stop`, its membership is kept for
the grace: resume.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_page_says_what_the_types_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/signal/PROTOCOL.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, page()).expect("the page can be written");
        }
        let published = std::fs::read_to_string(path).unwrap_or_default();
        assert!(published == page(), "PROTOCOL.md is stale: UPDATE=1 cargo test --lib protocol");
    }

    #[test]
    fn the_page_names_every_message_and_what_is_reserved() {
        let page = page();
        for word in
            ["hello", "welcome", "candidates", "kick", "lock", "limits", "move", "full", "locked"]
        {
            assert!(page.contains(&format!("`{word}`")), "{word}");
        }
        assert!(page.contains("| `sdpMid` | `string \\| null` |"), "wire names, not field names");
    }
}
