//! The messages of protocol v1 as types: what a client may say, what the server says, and the
//! codes of its refusals.
//!
//! Parsing is two-step: the head (`t`, `id`) first, so that a refusal can name the request it
//! answers, then the shape that the type asks for. Unknown fields are ignored, unknown types are
//! an error. `PROTOCOL.md` is written from the same declarations, by a test.

/// Declares a message, or an object inside one: the struct, and (in tests) its entry in the
/// published page. The text behind `=` is the field's shape as the page shows it.
macro_rules! wire {
    (
        $(#[doc = $doc:literal])*
        $kind:ident $(($t:literal))?
        $(#[serde($($outer:tt)*)])?
        $name:ident $(<$lifetime:lifetime>)? ($($derive:path),*) {
            $(
                $(#[doc = $field_doc:literal])*
                $(#[serde($($attr:tt)*)])?
                $field:ident $([$wire_name:literal])?: $ty:ty = $shape:literal,
            )*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, $($derive),*)]
        $(#[serde($($outer)*)])?
        pub(in crate::signal) struct $name $(<$lifetime>)? {
            $(
                $(#[doc = $field_doc])*
                $(#[serde($($attr)*)])?
                $(#[serde(rename = $wire_name)])?
                pub(in crate::signal) $field: $ty,
            )*
        }

        #[cfg(test)]
        impl $(<$lifetime>)? $name $(<$lifetime>)? {
            pub(in crate::signal::protocol) const ENTRY: super::page::Entry = super::page::Entry {
                kind: stringify!($kind),
                name: [$($t,)? stringify!($name)][0],
                doc: concat!($($doc, "\n"),*),
                fields: &[$(super::page::Field {
                    name: [$($wire_name,)? stringify!($field)][0],
                    shape: $shape,
                    doc: concat!($($field_doc),*),
                },)*],
            };
        }
    };
}

mod client;
mod code;
#[cfg(test)]
mod page;
mod server;

pub use code::Code;

pub(super) use client::{CandidateInit, Message, Request, parse};
pub(super) use client::{
    Candidates, Description, Hello, LinkState, MediaPath, Report, Restart, Role,
};
pub(super) use server::{
    Action, Body, Bye, CandidatesOut, DescriptionOut, Error, Event, Ice, IcePolicy, IceServer,
    IceUpdate, Limits, LinkIce, MemberEvent, Ping, Pong, RestartOut, RoomState, RoomUpdate,
    RoomView, Welcome,
};

/// The version of the protocol spoken here.
pub(super) const VERSION: u64 = 1;

/// Characters in `id`, at most.
pub(super) const REQUEST_ID_CHARS_MAX: usize = 64;
