//! A link: one watcher joined to the broadcaster, with one grant for each side.

use std::net::IpAddr;
use std::sync::Arc;

use super::hub::Step;
use super::ice;
use super::id::LinkId;
use super::protocol::{Ice, MediaPath};
use super::sdp::Kind;
use crate::credentials::{Grant, RoomTag, SCOPE_ADDRESSES_MAX};
use crate::metrics::Limit;

/// One watcher joined to the broadcaster, present or to come.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) watcher: Side,
    /// None while the room waits for its broadcaster.
    pub(super) broadcaster: Option<Side>,
    /// What was reported last.
    pub(super) report: Option<Reported>,
}

/// What a page said of a link, as far as a metric counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reported {
    Path(MediaPath),
    Failed,
}

impl Link {
    /// A link whose watcher waits.
    pub(super) fn waiting(step: &mut Step<'_>, room: RoomTag) -> Self {
        let id = LinkId::draw(&mut step.env.entropy);
        Self { id, watcher: Side::issue(step, room), broadcaster: None, report: None }
    }

    /// A link whose both ends are there.
    pub(super) fn live(step: &mut Step<'_>, room: RoomTag) -> Self {
        let mut link = Self::waiting(step, room);
        link.join(step, room);
        link
    }

    /// Makes a waiting link live: the watcher's side stays as it is.
    pub(super) fn join(&mut self, step: &mut Step<'_>, room: RoomTag) {
        if self.broadcaster.is_none() {
            self.broadcaster = Some(Side::issue(step, room));
        }
    }

    /// Revokes the grants of both sides.
    pub(super) fn end(&self, step: &mut Step<'_>) {
        step.revoke(self.watcher.grant.name());
        if let Some(broadcaster) = &self.broadcaster {
            step.revoke(broadcaster.grant.name());
        }
    }

    /// Starts counting candidates anew: an offer begins a round.
    pub(super) fn begin_round(&mut self) {
        self.watcher.candidates = 0;
        if let Some(broadcaster) = &mut self.broadcaster {
            broadcaster.candidates = 0;
        }
    }
}

/// One side of a link.
#[derive(Debug)]
pub(super) struct Side {
    /// What the credentials of this side may do. Its scope holds what the other side signaled.
    pub(super) grant: Arc<Grant>,
    /// Candidates that this side has sent in this round.
    pub(super) candidates: u32,
    /// Host candidates' addresses in the scope.
    hosts: usize,
}

impl Side {
    fn issue(step: &mut Step<'_>, room: RoomTag) -> Self {
        let grant = step.env.grants.issue(room, &mut step.env.entropy);
        Self { grant, candidates: 0, hosts: 0 }
    }

    /// Fresh credentials for this side.
    pub(super) fn ice(&self, step: &Step<'_>, urls: &Arc<[String]>) -> Ice {
        ice::mint(step, &self.grant, urls)
    }

    /// Lets this side reach `address`, in force on every worker when this returns.
    ///
    /// A scope that is full stays as it is: the candidate is of use without the relay still. Host
    /// addresses, of which a machine full of bridges has dozens, leave room for the others, which
    /// come later and are the ones that a relayed path needs.
    pub(super) fn reach(&mut self, step: &Step<'_>, address: IpAddr, kind: Kind) {
        if self.grant.reaches(address) {
            return;
        }
        let host = kind == Kind::Host;
        if (host && self.hosts >= SCOPE_HOSTS_MAX) || self.grant.allow(address).is_err() {
            step.env.metrics.limit(Limit::ScopeAddresses);
            return;
        }
        self.hosts += usize::from(host);
    }
}

/// How many of a scope's addresses may come from host candidates.
const SCOPE_HOSTS_MAX: usize = SCOPE_ADDRESSES_MAX - 8;
