//! Tests of the engine through its public face, in virtual time.
//!
//! [`bench`] is one engine with clients and peers around it; [`hop`] joins two; [`transcripts`]
//! replays the texts of `src/turn/transcripts/`; [`properties`], [`reservations`] and [`tcp`] draw
//! random cases; [`effort`] counts what refusals cost; [`network`] lets packets get lost;
//! [`oracle`] and [`oracle_client`] are clients that others wrote.

mod bench;
mod effort;
mod hop;
mod network;
mod oracle;
mod oracle_client;
mod packets;
mod policy;
mod properties;
mod reservations;
mod runs;
mod tcp;
mod transcripts;
mod words;
