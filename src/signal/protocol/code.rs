//! The closed list of error codes, what each says to a person, and the close codes that mirror
//! them.

use bytes::Bytes;
use serde::{Serialize, Serializer};

use super::Body;
use super::server::Error;

/// Defines [`Code`] and everything that follows from it. The order is part of the protocol.
macro_rules! codes {
    ($($(#[doc = $doc:literal])* $variant:ident = $text:literal, retry $retry:literal,
        $message:literal;)*) => {
        /// Why the server refuses a message, or ends a connection. Closed and stable: new codes
        /// go to the end, because the close code is 4000 plus the place in the list.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[doc = $doc])* $variant,)* }

        impl Code {
            /// Every code, in the order that the close codes follow.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word on the wire, such as `room-full`.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// What a page may show to a person as it is.
            pub const fn message(self) -> &'static str {
                match self { $(Self::$variant => $message,)* }
            }

            /// Whether the same may succeed later without a change on the client's side.
            pub const fn retry(self) -> bool {
                match self { $(Self::$variant => $retry,)* }
            }

            /// When the code is used, for the published page.
            #[cfg(test)]
            pub(super) const fn doc(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),*),)* }
            }
        }
    };
}

codes! {
    /// The frame is no JSON object of the documented shape. More than ten on one connection close
    /// it.
    BadMessage = "bad-message", retry false,
        "The page sent something that the server does not understand. Reload the page.";
    /// The type `t` is not one that clients send.
    UnknownType = "unknown-type", retry false,
        "The page asked for something that this server does not know. Reload the page.";
    /// None of the client's `versions` is spoken here.
    UnsupportedVersion = "unsupported-version", retry false,
        "This page and the server do not fit together any more. Reload the page.";
    /// A message on a link of others, before `hello`, or of the wrong role.
    Forbidden = "forbidden", retry false,
        "The server refused this, because it is not yours to do.";
    /// Publishing here needs a key, and `hello` had none.
    KeyRequired = "key-required", retry false,
        "Broadcasting here needs an invitation. Open the link that the operator gave you.";
    /// The key is not, or no longer, one that admits broadcasters.
    BadKey = "bad-key", retry false,
        "This invitation is not valid any more. Ask the operator for a new link.";
    /// Reserved: the password of the room is wrong.
    BadPassword = "bad-password", retry false,
        "The password is wrong. Check it and try again.";
    /// Somebody else broadcasts in this room, or left a moment ago and may come back.
    RoomLive = "room-live", retry true,
        "Somebody is already broadcasting under this name. Choose another name.";
    /// The server holds as many rooms as it may.
    NoRoom = "no-room", retry true,
        "The server has no room for one more broadcast. Try again later.";
    /// The room has as many watchers as it may have.
    RoomFull = "room-full", retry true,
        "This broadcast is full. Try again when somebody has left.";
    /// Reserved: the broadcaster admits nobody else.
    RoomLocked = "room-locked", retry true,
        "The broadcaster lets nobody else in at the moment.";
    /// The broadcaster ended the broadcast.
    RoomEnded = "room-ended", retry false,
        "The broadcast has ended.";
    /// Too many messages, bytes or rebuilt links in a short time.
    RateLimited = "rate-limited", retry true,
        "Too much came from this connection at once. Wait a moment and try again.";
    /// The frame is longer than `welcome.limits.frame_bytes`.
    TooLarge = "too-large", retry false,
        "The page sent a message that is too long for the server. Reload the page.";
    /// The client reads too slowly; what waited for it was given up.
    SlowConsumer = "slow-consumer", retry true,
        "The connection is too slow to keep up. Trying again.";
    /// The server stops, most likely to start again.
    Draining = "draining", retry true,
        "The server is restarting. This page reconnects by itself.";
    /// A fault of the server.
    Internal = "internal", retry true,
        "The server made a mistake. Try again.";
}

impl Code {
    /// 4000 plus the place in the list.
    pub const fn close_code(self) -> u16 {
        4000 + self as u16
    }

    /// The `error` frame of this code without `re` and `seq`, for a connection that is refused
    /// before or beside the hub.
    pub fn frame(self) -> Bytes {
        Body::new(&Error::new(self)).frame(None, None)
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_words_in_a_fixed_order() {
        let texts: Vec<_> = Code::ALL.iter().map(|code| code.text()).collect();
        assert_eq!(
            texts.join(" "),
            "bad-message unknown-type unsupported-version forbidden key-required bad-key \
             bad-password room-live no-room room-full room-locked room-ended rate-limited \
             too-large slow-consumer draining internal"
        );
        assert_eq!(Code::BadMessage.close_code(), 4000);
        assert_eq!(Code::RoomFull.close_code(), 4009);
        assert_eq!(Code::Internal.close_code(), 4016);
        for code in Code::ALL {
            assert!(code.message().ends_with('.'), "{code:?} speaks in sentences");
        }
    }

    #[test]
    fn a_code_makes_a_frame_of_its_own() {
        let frame = Code::SlowConsumer.frame();
        let value: serde_json::Value = serde_json::from_slice(&frame).unwrap();
        assert_eq!(value["t"], "error");
        assert_eq!(value["code"], "slow-consumer");
        assert_eq!(value["retry"], true);
        assert_eq!(value.get("seq"), None);
    }
}
