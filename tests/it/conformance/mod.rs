//! The RFCs, sentence by sentence, as somebody sees them who knows nothing of the daemon but where
//! it listens: over UDP, TCP and TLS.
//!
//! A check is a line of a table, named by its section, with the bytes it sends and the answer that
//! the text asks for. `wire` writes and reads messages, `client` sends them; neither uses a
//! line of the daemon's own code.

pub(crate) mod client;
mod stun_messages;
mod turn;
pub(crate) mod wire;
