//! The family of `offer`, `answer` and `candidates`: what the two sides of a link say to each
//! other. The addresses in it widen the scope of the side that receives it, before it is
//! forwarded; with `ice_policy = "relay"` only relayed candidates pass.

use super::hub::Step;
use super::id::{LinkId, MemberId};
use super::link::Side;
use super::member::Member;
use super::protocol::{
    Body, CandidateInit, Candidates, CandidatesOut, Code, Description, DescriptionOut,
};
use super::room::{Room, Watcher};
use super::sdp;
use crate::metrics::Limit;

/// The two ends of a link, as the one who speaks sees them.
pub(super) struct Ends<'a> {
    link: &'a LinkId,
    sender_side: &'a mut Side,
    receiver: &'a mut Member,
    receiver_side: &'a mut Side,
}

impl Ends<'_> {
    /// Forwards `body`.
    pub(super) fn forward(&mut self, step: &mut Step<'_>, body: &Body) {
        self.receiver.pass_on(step, self.link, body);
    }
}

impl Room {
    /// The place of the link among the watchers, when `member` is one of its two.
    ///
    /// # Errors
    /// `forbidden` for a link of others, one that has been replaced, or one that nobody is at the
    /// other end of.
    pub(super) fn link_of(&self, member: &MemberId, link: &str) -> Result<usize, Code> {
        let index = self.watchers.iter().position(|watcher| watcher.link.id.as_str() == link);
        let index = index.ok_or(Code::Forbidden)?;
        let broadcaster = self.broadcaster.as_ref().ok_or(Code::Forbidden)?;
        if broadcaster.member.id == *member || self.watchers[index].member.id == *member {
            Ok(index)
        } else {
            Err(Code::Forbidden)
        }
    }

    /// Both ends of `link`, of which `member` must be one.
    ///
    /// # Errors
    /// As [`Room::link_of`].
    pub(super) fn ends(&mut self, member: &MemberId, link: &str) -> Result<Ends<'_>, Code> {
        let index = self.link_of(member, link)?;
        let broadcaster = &mut self.broadcaster.as_mut().ok_or(Code::Forbidden)?.member;
        let Watcher { member: watcher, link, .. } = &mut self.watchers[index];
        let upper = link.broadcaster.as_mut().ok_or(Code::Forbidden)?;
        let lower = &mut link.watcher;
        let (sender_side, receiver, receiver_side) = if broadcaster.id == *member {
            (upper, watcher, lower)
        } else {
            (lower, broadcaster, upper)
        };
        Ok(Ends { link: &link.id, sender_side, receiver, receiver_side })
    }

    /// Forwards an `offer` or `answer`.
    pub(super) fn describe(
        &mut self,
        step: &mut Step<'_>,
        member: &MemberId,
        t: &'static str,
        description: &Description,
    ) -> Result<(), Code> {
        let index = self.link_of(member, &description.link)?;
        if t == "offer" {
            self.watchers[index].link.begin_round();
        }
        let mut ends = self.ends(member, &description.link)?;
        let relayed = step.env.options.relay_only.then(|| sdp::relayed_sdp(&description.sdp));
        let sdp = relayed.as_deref().unwrap_or(&description.sdp);
        for (address, kind) in sdp::addresses(sdp) {
            ends.receiver_side.reach(step, address, kind);
        }
        let body =
            Body::new(&DescriptionOut { t, link: &description.link, from: member.as_str(), sdp });
        ends.forward(step, &body);
        Ok(())
    }

    /// Forwards `candidates`.
    pub(super) fn trickle(
        &mut self,
        step: &mut Step<'_>,
        member: &MemberId,
        message: Candidates,
    ) -> Result<(), Code> {
        if !message.candidates.iter().flatten().all(is_plain) {
            return Err(Code::BadMessage);
        }
        let mut ends = self.ends(member, &message.link)?;
        let mut passing = Vec::with_capacity(message.candidates.len().min(CANDIDATES_GUESS));
        for candidate in message.candidates {
            let Some(mut candidate) = candidate else {
                passing.push(None);
                continue;
            };
            // An empty line ends a generation, as null ends all of them.
            if !candidate.candidate.is_empty() && !ends.admit(step, &mut candidate) {
                continue;
            }
            passing.push(Some(candidate));
        }
        if passing.is_empty() {
            return Ok(());
        }
        let body = Body::new(&CandidatesOut {
            link: ends.link.as_str(),
            from: member.as_str(),
            candidates: &passing,
        });
        ends.forward(step, &body);
        Ok(())
    }
}

impl Ends<'_> {
    /// Whether the candidate passes; if so the receiver may reach its address from now on.
    fn admit(&mut self, step: &Step<'_>, candidate: &mut CandidateInit) -> bool {
        if step.env.options.relay_only {
            match sdp::relayed_candidate(&candidate.candidate) {
                Some(relayed) => candidate.candidate = relayed,
                None => return false,
            }
        }
        if self.sender_side.candidates >= step.env.options.candidates_per_link {
            step.env.metrics.limit(Limit::Candidates);
            return false;
        }
        self.sender_side.candidates += 1;
        if let Some((address, kind)) = sdp::candidate_address(&candidate.candidate) {
            self.receiver_side.reach(step, address, kind);
        }
        true
    }
}

/// Whether the texts are as short as a browser's and hold no line break to hide behind.
fn is_plain(candidate: &CandidateInit) -> bool {
    let plain = |text: &str, chars_max: usize| {
        text.chars().count() <= chars_max && !text.chars().any(char::is_control)
    };
    let optional = |text: &Option<String>| text.as_deref().is_none_or(|text| plain(text, 256));
    plain(&candidate.candidate, CANDIDATE_CHARS_MAX)
        && optional(&candidate.sdp_mid)
        && optional(&candidate.username_fragment)
}

const CANDIDATE_CHARS_MAX: usize = 1024;
const CANDIDATES_GUESS: usize = 64;
