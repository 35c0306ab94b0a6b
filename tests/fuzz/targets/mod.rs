//! What the fuzzer calls with its inputs, and what `tests/it/corpus.rs` replays: one function for
//! each parser. None may panic; beyond that each checks what has to hold whatever came in.

#![allow(unreachable_pub, reason = "the public face of the fuzz crate, which is this same file")]

mod config;
mod edge;
mod signal;
mod stun;
mod turn;

pub use config::config;
pub use edge::first_bytes_of_a_connection;
pub use signal::{sdp_candidates, signaling_frame};
pub use stun::{channel_data, control, stream, stun_message};
pub use turn::turn_server;

/// A target: its name, which is that of its corpus, and the function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: [Target; 9] = [
    ("stun_message", stun_message),
    ("channel_data", channel_data),
    ("stream", stream),
    ("control", control),
    ("turn_server", turn_server),
    ("signaling_frame", signaling_frame),
    ("sdp_candidates", sdp_candidates),
    ("config", config),
    ("first_bytes", first_bytes_of_a_connection),
];
