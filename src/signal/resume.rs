//! What a member needs to come back: its token, and the messages that may not have arrived.
//!
//! Nobody acknowledges messages, so the latest ones are kept while the socket is open, too. What
//! has no meaning later (`pong`, `count`) has a `seq` but is not kept. Both messages and bytes are
//! bounded.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use subtle::ConstantTimeEq;

use super::Options;
use super::id::{LinkId, MemberId};
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
///
/// When there are too many, the oldest one of the link with the most goes: a noisy link cannot
/// push out what the hub and the others said, and it alone is rebuilt should its member resume
/// from before that.
#[derive(Debug, Default)]
pub(super) struct Kept {
    messages: VecDeque<Message>,
    bytes: usize,
    /// The highest `seq` given up that was no link's.
    given_up: u64,
    /// Links of which messages were given up, each with the highest `seq` of them.
    torn: Vec<(LinkId, u64)>,
}

#[derive(Debug)]
struct Message {
    seq: u64,
    /// The link that it was forwarded on, unless it is the hub's own.
    link: Option<LinkId>,
    frame: Bytes,
}

/// What a member that resumes has missed.
#[derive(Debug)]
pub(super) struct Missed {
    /// In order.
    pub(super) frames: Vec<Bytes>,
    /// Links of which something is missing for good.
    pub(super) torn: Vec<LinkId>,
}

impl Kept {
    /// Keeps the message `seq`; others go when that is too much.
    pub(super) fn push(
        &mut self,
        seq: u64,
        link: Option<&LinkId>,
        frame: Bytes,
        options: &Options,
    ) {
        self.bytes += frame.len();
        self.messages.push_back(Message { seq, link: link.cloned(), frame });
        loop {
            if self.bytes > options.kept_bytes as usize {
                self.give_up(|message| message.frame.len());
            } else if self.messages.len() > options.kept_messages as usize {
                self.give_up(|_| 1);
            } else {
                return;
            }
        }
    }

    /// What came after `last_seq`, unless something of the hub's own is missing; forgets what
    /// came before.
    pub(super) fn resume(&mut self, last_seq: u64) -> Option<Missed> {
        if last_seq < self.given_up {
            return None;
        }
        self.messages.retain(|message| message.seq > last_seq);
        self.bytes = self.messages.iter().map(|message| message.frame.len()).sum();
        self.torn.retain(|(_, seq)| *seq > last_seq);
        let torn = self.torn.drain(..).map(|(link, _)| link).collect();
        let frames = self.messages.iter().map(|message| message.frame.clone()).collect();
        Some(Missed { frames, torn })
    }

    /// Gives up the oldest message of the link that weighs most; without one, the oldest of all.
    fn give_up(&mut self, weight: impl Fn(&Message) -> usize) {
        let mut weights: BTreeMap<&LinkId, usize> = BTreeMap::new();
        for message in &self.messages {
            if let Some(link) = &message.link {
                *weights.entry(link).or_default() += weight(message);
            }
        }
        let heaviest = weights.into_iter().max_by_key(|(_, weight)| *weight);
        let index = heaviest.and_then(|(heaviest, _)| {
            self.messages.iter().position(|message| message.link.as_ref() == Some(heaviest))
        });
        let Some(message) = self.messages.remove(index.unwrap_or(0)) else { return };
        self.bytes -= message.frame.len();
        let Some(link) = message.link else {
            self.given_up = self.given_up.max(message.seq);
            return;
        };
        self.torn.retain(|(torn, _)| *torn != link);
        self.torn.push((link, message.seq));
        // Links come and go. The first of the list was torn longest ago; forgetting it costs a
        // resume from before that, which is as good as over.
        if self.torn.len() > TORN_MAX {
            let (_, seq) = self.torn.remove(0);
            self.given_up = self.given_up.max(seq);
        }
    }
}

/// How many torn links one member's memory holds.
const TORN_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn options(kept_messages: u32, kept_bytes: u32) -> Options {
        Options { kept_messages, kept_bytes, ..crate::signal::tests::options() }
    }

    fn frame(bytes: usize) -> Bytes {
        Bytes::from(vec![b'x'; bytes])
    }

    fn links() -> (LinkId, LinkId) {
        let mut entropy = Entropy::from_seed([5; 32]);
        (LinkId::draw(&mut entropy), LinkId::draw(&mut entropy))
    }

    #[test]
    fn what_came_after_the_last_seq_is_replayed() {
        let mut kept = Kept::default();
        for seq in 1..=5 {
            kept.push(seq, None, frame(seq as usize), &options(8, 1000));
        }
        let lengths = |missed: &Missed| missed.frames.iter().map(Bytes::len).collect::<Vec<_>>();
        assert_eq!(kept.resume(3).map(|missed| lengths(&missed)), Some(vec![4, 5]));
        assert_eq!(kept.resume(3).map(|missed| lengths(&missed)), Some(vec![4, 5]));
        assert_eq!(kept.resume(5).map(|missed| lengths(&missed)), Some(vec![]));
        assert_eq!(kept.bytes, 0);
    }

    #[test]
    fn messages_and_bytes_are_bounded_and_a_gap_ends_the_resume() {
        let mut kept = Kept::default();
        for seq in 1..=10 {
            kept.push(seq, None, frame(10), &options(4, 1000));
        }
        assert_eq!(kept.messages.len(), 4);
        assert!(kept.resume(5).is_none());
        assert!(kept.resume(6).is_some());
        kept.push(11, None, frame(900), &options(4, 905));
        assert_eq!((kept.messages.len(), kept.bytes), (1, 900));
        kept.push(12, None, frame(906), &options(4, 905));
        assert_eq!((kept.messages.len(), kept.bytes), (0, 0));
        assert!(kept.resume(11).is_none());
    }

    #[test]
    fn a_noisy_link_tears_only_itself() {
        let (noisy, quiet) = links();
        let options = options(6, 1000);
        let mut kept = Kept::default();
        kept.push(1, None, frame(1), &options);
        kept.push(2, Some(&quiet), frame(2), &options);
        for seq in 3..=50 {
            kept.push(seq, Some(&noisy), frame(3), &options);
        }
        let missed = kept.resume(0).expect("nothing of the hub's own is missing");
        assert_eq!(missed.torn, std::slice::from_ref(&noisy));
        assert_eq!(missed.frames.len(), 6);
        assert_eq!((missed.frames[0].len(), missed.frames[1].len()), (1, 2));
        kept.push(51, Some(&noisy), frame(1001), &options);
        let missed = kept.resume(49).expect("nothing of the hub's own is missing");
        assert_eq!(missed.torn, [noisy]);
    }

    #[test]
    fn the_memory_of_torn_links_is_bounded() {
        let mut entropy = Entropy::from_seed([5; 32]);
        let mut kept = Kept::default();
        for seq in 1..=1000 {
            let link = LinkId::draw(&mut entropy);
            kept.push(seq, Some(&link), frame(1), &options(4, 1000));
        }
        assert_eq!(kept.torn.len(), TORN_MAX);
        assert!(kept.resume(900).is_none());
        assert!(kept.resume(990).is_some());
    }

    #[test]
    fn a_token_is_compared_whole() {
        let mut entropy = Entropy::from_seed([5; 32]);
        let member = MemberId::draw(&mut entropy);
        let token = Token::draw(&member, &mut entropy);
        assert_eq!(Token::member(token.expose()), member.as_str());
        assert!(token.matches(token.expose()));
        assert!(!token.matches(&token.expose()[..token.expose().len() - 1]));
        assert!(!format!("{token:?}").contains(token.expose()));
    }
}
