//! Names: of rooms (chosen by people), members and links (drawn by the hub).

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::credentials::Entropy;

/// Defines a cheap, ordered text that no other kind of name is mistaken for.
macro_rules! name {
    ($(#[doc = $doc:literal])* $name:ident) => {
        $(#[doc = $doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(super) struct $name(Arc<str>);

        impl $name {
            /// The text.
            pub(super) fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

name! {
    /// The name of a room, as it stands in the watch link.
    RoomName
}

name! {
    /// Names a member.
    MemberId
}

name! {
    /// Names a link; a rebuilt one gets a new name.
    LinkId
}

impl RoomName {
    /// Takes 1 to 64 of `a-z A-Z 0-9 - _`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let fits = (1..=ROOM_NAME_CHARS_MAX).contains(&text.len());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (fits && text.bytes().all(plain)).then(|| Self(text.into()))
    }

    /// Draws a name that a person can read out.
    pub(super) fn draw(entropy: &mut Entropy) -> Self {
        Self(entropy.text(ROOM_NAME_ALPHABET, ROOM_NAME_DRAWN_CHARS).into())
    }
}

impl MemberId {
    /// Draws a name that no member had before.
    pub(super) fn draw(entropy: &mut Entropy) -> Self {
        Self(entropy.token(ID_BYTES).into())
    }
}

impl LinkId {
    /// Draws a name that no link had before.
    pub(super) fn draw(entropy: &mut Entropy) -> Self {
        Self(entropy.token(ID_BYTES).into())
    }
}

const ROOM_NAME_CHARS_MAX: usize = 64;
/// Without `i l o 0 1`, which look like one another.
const ROOM_NAME_ALPHABET: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";
const ROOM_NAME_DRAWN_CHARS: usize = 10;
/// 96 bits never collide.
const ID_BYTES: usize = 12;
