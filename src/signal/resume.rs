//! What a member needs to come back: its token, and the messages that may not have arrived.
//!
//! Nobody acknowledges messages, so the latest ones are kept while the socket is open, too. What
//! has no meaning later (`pong`, `count`) has a `seq` but is not kept. Both messages and bytes are
//! bounded; a member that missed more than what is kept cannot resume.

use std::collections::VecDeque;

use bytes::Bytes;
use subtle::ConstantTimeEq;

use super::Options;
use super::id::MemberId;
use crate::credentials::Entropy;
use crate::telemetry::Secret;

/// `MEMBER.SECRET`: says who comes back, and proves it.
#[derive(Debug)]
pub(super) struct Token(Secret<String>);

impl Token {
    /// Draws the token of `member`.
    pub(super) fn draw(member: &MemberId, entropy: &mut Entropy) -> Self {
        Self(Secret::new(format!("{member}.{}", entropy.token(16))))
    }

    /// The member that a token speaks of, whether it is right or not.
    pub(super) fn member(text: &str) -> &str {
        text.split_once('.').map_or("", |(member, _)| member)
    }

    /// Whether `offered` is this token.
    pub(super) fn matches(&self, offered: &str) -> bool {
        self.0.expose().as_bytes().ct_eq(offered.as_bytes()).into()
    }

    /// The token, for `welcome`.
    pub(super) fn expose(&self) -> &str {
        self.0.expose()
    }
}

/// The latest messages to one member, in order.
#[derive(Debug, Default)]
pub(super) struct Kept {
    frames: VecDeque<(u64, Bytes)>,
    bytes: usize,
    /// The highest `seq` that was kept once and had to go.
    given_up: u64,
}

impl Kept {
    /// Keeps the message `seq`; the oldest ones go when that is too much.
    pub(super) fn push(&mut self, seq: u64, frame: Bytes, options: &Options) {
        self.bytes += frame.len();
        self.frames.push_back((seq, frame));
        while self.frames.len() > options.kept_messages as usize
            || self.bytes > options.kept_bytes as usize
        {
            let Some((seq, frame)) = self.frames.pop_front() else { break };
            self.bytes -= frame.len();
            self.given_up = seq;
        }
    }

    /// What came after `last_seq`, when all of it is there; forgets what came before.
    pub(super) fn replay(&mut self, last_seq: u64) -> Option<impl Iterator<Item = &Bytes>> {
        if last_seq < self.given_up {
            return None;
        }
        while self.frames.front().is_some_and(|(seq, _)| *seq <= last_seq) {
            if let Some((_, frame)) = self.frames.pop_front() {
                self.bytes -= frame.len();
            }
        }
        Some(self.frames.iter().map(|(_, frame)| frame))
    }
}

/// What one link has put into the kept messages of a lost member, so that a noisy one cannot push
/// out what the others said.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    messages: u32,
    bytes: usize,
}

impl Share {
    /// Takes room for a frame of `bytes`; refuses when one of `links` links has had its part.
    pub(super) fn try_take(&mut self, bytes: usize, links: usize, options: &Options) -> bool {
        // Half of the space stays for what the hub itself has to say.
        let parts = 2 * links.max(1);
        let messages_max = (options.kept_messages as usize / parts).max(SHARE_MESSAGES_MIN);
        let bytes_max = options.kept_bytes as usize / parts;
        if self.messages as usize >= messages_max || self.bytes + bytes > bytes_max {
            return false;
        }
        self.messages += 1;
        self.bytes += bytes;
        true
    }
}

/// An offer or answer, the end of candidates, and a few bundles in between.
const SHARE_MESSAGES_MIN: usize = 8;
