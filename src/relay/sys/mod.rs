//! The system calls of the relay, and the only `unsafe` code of the crate.
//!
//! Everything that leaves this folder is safe to call: descriptors come in borrowed, buffers as
//! slices, and no pointer outlives the call it was made for, except those of [`RecvBatch`], which
//! point into memory that it owns. Linux only, with glibc or musl: they give the same fields other
//! widths, so what is written there is cast to `_`.

#![allow(unsafe_code)]

mod address;
mod calls;
mod control;
mod errors;
mod features;
mod filter;
mod limits;
mod poll;
mod queue;
mod recv;
mod segmenting;
mod send;
mod socket;
mod tcp;
mod timer;
mod watch;

#[cfg(test)]
pub(super) use calls::count as count_calls;
pub(super) use errors::{SocketError, drain_errors};
pub use features::Features;
pub(super) use features::SocketOptions;
pub(super) use filter::{BUCKETS, Filter, PARTS, Salt, is_request};
pub use limits::raise_descriptor_limit;
pub(super) use poll::{Poll, Wake};
pub(super) use queue::queue_drops;
pub(super) use recv::{Received, RecvBatch};
pub(super) use segmenting::Segmenting;
pub(super) use send::{Alone, Datagram, Outcome, Run, SendBatch, send_alone};
#[cfg(test)]
pub(super) use socket::set_segment;
pub(super) use socket::{
    can_set_dont_fragment, cut_buffers, relay_socket, set_dont_fragment, set_merging, share_port,
    udp_listener, was_address_in_use, was_exhausted,
};
pub(super) use tcp::{tcp_relay_listener, tcp_relay_socket};
pub(super) use timer::sharpen_timers;
pub(super) use watch::Watched;

/// The most datagrams that one system call receives or sends.
pub(super) const BATCH: usize = 64;
