//! A member of a room: where it is reached, and how it is spoken to.

use std::sync::Arc;
use std::time::Duration;

use super::ConnId;
use super::hub::Step;
use super::id::{LinkId, MemberId};
use super::protocol::Body;
use super::resume::{Kept, Token};
use super::timers::Timer;

/// Somebody in a room. Media does not depend on the socket, so a member outlives a lost one.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: MemberId,
    /// The open socket; none while it is lost.
    pub(super) conn: Option<ConnId>,
    /// What the broadcaster sees.
    pub(super) name: Option<String>,
    /// The TURN URLs by the host that this browser asked for.
    pub(super) ice_urls: Arc<[String]>,
    pub(super) token: Token,
    pub(super) kept: Kept,
    /// Of the latest message.
    pub(super) seq: u64,
}

impl Member {
    /// A member that has heard nothing yet.
    pub(super) fn new(
        step: &mut Step<'_>,
        conn: ConnId,
        name: Option<String>,
        ice_urls: Arc<[String]>,
    ) -> Self {
        let id = MemberId::draw(&mut step.env.entropy);
        let token = Token::draw(&id, &mut step.env.entropy);
        Self { id, conn: Some(conn), name, ice_urls, token, kept: Kept::default(), seq: 0 }
    }

    /// Says something that a lost member must hear when it comes back.
    pub(super) fn tell(&mut self, step: &mut Step<'_>, body: &Body) {
        self.keep(step, None, body);
    }

    /// Passes on what the other side of `link` said.
    pub(super) fn pass_on(&mut self, step: &mut Step<'_>, link: &LinkId, body: &Body) {
        self.keep(step, Some(link), body);
    }

    fn keep(&mut self, step: &mut Step<'_>, link: Option<&LinkId>, body: &Body) {
        self.seq += 1;
        let frame = body.frame(None, Some(self.seq));
        self.kept.push(self.seq, link, frame.clone(), &step.env.options);
        if let Some(conn) = self.conn {
            step.send(conn, frame);
        }
    }

    /// Says something that has no meaning later.
    pub(super) fn mention(&mut self, step: &mut Step<'_>, body: &Body) {
        self.answer(step, body, None);
    }

    /// Answers the request `re`; an answer belongs to the socket that asked.
    pub(super) fn answer(&mut self, step: &mut Step<'_>, body: &Body, re: Option<&str>) {
        if let Some(conn) = self.conn {
            self.seq += 1;
            step.send(conn, body.frame(re, Some(self.seq)));
        }
    }

    /// Plans the next refresh of credentials that were minted now.
    pub(super) fn arm_refresh(&self, step: &mut Step<'_>) {
        let ttl = Duration::from_secs(u64::from(step.env.options.credential_ttl_secs.max(1)));
        step.set_timer(Timer::Refresh(self.id.clone()), ttl * 2 / 3);
    }

    /// Forgets that the member existed.
    pub(super) fn retire(&self, step: &mut Step<'_>) {
        step.env.members.remove(&self.id);
        step.env.timers.cancel(&Timer::Grace(self.id.clone()));
        step.env.timers.cancel(&Timer::Refresh(self.id.clone()));
    }
}
