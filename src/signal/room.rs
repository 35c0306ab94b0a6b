//! A room: one broadcaster, its watchers, and a link for each of them. Who comes and goes is
//! decided here; what they say to one another stands in the files of the message families.

use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use super::admission::RoomKey;
use super::hub::Step;
use super::id::{MemberId, RoomName};
use super::link::Link;
use super::member::Member;
use super::protocol::{Action, Body, Bye, Code, Event, MemberEvent, RoomState, RoomUpdate};
use super::timers::Timer;
use crate::credentials::{Grant, RoomTag};
use crate::net::TokenBucket;

/// A room. It exists while somebody is in it, or while it waits for its broadcaster's return.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) name: RoomName,
    tag: RoomTag,
    /// Set by the first broadcaster.
    pub(super) key: Option<RoomKey>,
    /// Whether a broadcaster who left may come back before anybody else.
    pub(super) reserved: bool,
    pub(super) broadcaster: Option<Broadcaster>,
    /// In the order in which they came. At most `viewers_per_room`, so looking through them is
    /// cheaper than a map.
    pub(super) watchers: Vec<Watcher>,
}

/// Who sends.
#[derive(Debug)]
pub(super) struct Broadcaster {
    pub(super) member: Member,
    /// His own, outside of any link: its scope stays empty.
    pub(super) grant: Arc<Grant>,
}

/// Who receives.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) member: Member,
    pub(super) link: Link,
    /// Bounds how often the link is rebuilt.
    pub(super) rebuilds: TokenBucket,
}

/// Where a member is found in its room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seat {
    Broadcaster,
    /// The index in [`Room::watchers`].
    Watcher(usize),
}

impl Room {
    /// A room in which nobody is.
    pub(super) fn new(step: &mut Step<'_>, name: RoomName) -> Self {
        let tag = RoomTag::draw(&mut step.env.entropy);
        info!(room = %name, "room created");
        Self { name, tag, key: None, reserved: false, broadcaster: None, watchers: Vec::new() }
    }

    /// Whether nothing keeps the room.
    pub(super) fn is_empty(&self) -> bool {
        self.broadcaster.is_none() && self.watchers.is_empty() && !self.reserved
    }

    /// Whether it belongs to a broadcaster, who is there or may come back.
    pub(super) fn is_broadcast(&self) -> bool {
        self.broadcaster.is_some() || self.reserved
    }

    /// Whether somebody broadcasts.
    pub(super) fn state(&self) -> RoomState {
        if self.broadcaster.is_some() { RoomState::Live } else { RoomState::Waiting }
    }

    /// Where `member` sits.
    pub(super) fn seat(&self, member: &MemberId) -> Option<Seat> {
        if self.broadcaster.as_ref().is_some_and(|broadcaster| broadcaster.member.id == *member) {
            return Some(Seat::Broadcaster);
        }
        let index = self.watchers.iter().position(|watcher| watcher.member.id == *member)?;
        Some(Seat::Watcher(index))
    }

    /// Who sits at `seat`.
    pub(super) fn member(&mut self, seat: Seat) -> Option<&mut Member> {
        match seat {
            Seat::Broadcaster => self.broadcaster.as_mut().map(|found| &mut found.member),
            Seat::Watcher(index) => self.watchers.get_mut(index).map(|found| &mut found.member),
        }
    }

    /// Seats a broadcaster. One who is there already has been replaced by the holder of the
    /// room's key, is told so, and leaves with all links.
    pub(super) fn seat_broadcaster(&mut self, step: &mut Step<'_>, member: Member) {
        if let Some(old) = self.broadcaster.take() {
            let bye = Bye { reason: "taken-over", action: Action::Stop, retry_after_ms: None };
            dismiss(step, old.member, &Body::new(&bye), (1000, bye.reason));
            step.env.metrics.broadcasters.add(-1);
            step.revoke(old.grant.name());
            self.relink(step);
        }
        step.env.timers.cancel(&Timer::Reservation(self.name.clone()));
        self.reserved = false;
        let grant = step.env.grants.issue(self.tag, &mut step.env.entropy);
        self.broadcaster = Some(Broadcaster { member, grant });
        step.env.metrics.broadcasters.add(1);
        info!(room = %self.name, count = self.watchers.len(), "room live");
    }

    /// Joins every watcher to the broadcaster who has just been welcomed.
    pub(super) fn announce_broadcaster(&mut self, step: &mut Step<'_>) {
        for index in 0..self.watchers.len() {
            self.watchers[index].link.join(step, self.tag);
            self.tell_live(step, index);
            self.tell_joined(step, index);
        }
    }

    /// Seats a watcher. The caller has checked that there is room.
    pub(super) fn seat_watcher(&mut self, step: &mut Step<'_>, member: Member) -> Seat {
        let link = match self.broadcaster {
            Some(_) => Link::live(step, self.tag),
            None => Link::waiting(step, self.tag),
        };
        let burst = f64::from(step.env.options.rebuilds_per_min);
        let rebuilds = TokenBucket::full(burst, step.now.instant);
        self.watchers.push(Watcher { member, link, rebuilds });
        step.env.metrics.watchers.add(1);
        info!(room = %self.name, count = self.watchers.len(), "watcher joined");
        Seat::Watcher(self.watchers.len() - 1)
    }

    /// Tells the others of the watcher who has just been welcomed.
    pub(super) fn announce_watcher(&mut self, step: &mut Step<'_>) {
        let Some(index) = self.watchers.len().checked_sub(1) else { return };
        self.tell_joined(step, index);
        self.tell_count(step, Some(index));
    }

    /// Ends the membership at `seat`. With `reserve`, a broadcaster may come back for a while.
    pub(super) fn leave(&mut self, step: &mut Step<'_>, seat: Seat, reserve: bool) {
        match seat {
            Seat::Broadcaster => self.broadcaster_leaves(step, reserve),
            Seat::Watcher(index) => self.watcher_leaves(step, index),
        }
    }

    /// Ends the broadcast for good.
    pub(super) fn end(&mut self, step: &mut Step<'_>) {
        let Some(broadcaster) = self.broadcaster.take() else { return };
        step.env.metrics.broadcasters.add(-1);
        step.revoke(broadcaster.grant.name());
        let watchers = std::mem::take(&mut self.watchers);
        for watcher in &watchers {
            watcher.link.end(step);
        }
        step.env.metrics.watchers.add(-i64::try_from(watchers.len()).unwrap_or(0));
        let ended = Body::new(&RoomUpdate {
            state: RoomState::Ended,
            watchers: 0,
            link: None,
            upstream: None,
            ice: None,
        });
        let code = Code::RoomEnded;
        let bye = Bye { reason: code.text(), action: Action::Stop, retry_after_ms: None };
        let bye = Body::new(&bye);
        for mut watcher in watchers {
            watcher.member.tell(step, &ended);
            dismiss(step, watcher.member, &bye, (code.close_code(), code.text()));
        }
        let bye = Bye { reason: "ended", action: Action::Stop, retry_after_ms: None };
        dismiss(step, broadcaster.member, &Body::new(&bye), (1000, bye.reason));
        info!(room = %self.name, "room ended");
    }

    /// Stops waiting for the broadcaster who left: whoever may publish can take the room.
    pub(super) fn release(&mut self) {
        self.reserved = false;
        self.key = None;
    }

    fn broadcaster_leaves(&mut self, step: &mut Step<'_>, reserve: bool) {
        let Some(broadcaster) = self.broadcaster.take() else { return };
        broadcaster.member.retire(step);
        step.env.metrics.broadcasters.add(-1);
        step.revoke(broadcaster.grant.name());
        let grace_secs = step.env.options.grace_secs;
        if reserve && grace_secs > 0 {
            self.reserved = true;
            let grace = Duration::from_secs(u64::from(grace_secs));
            step.set_timer(Timer::Reservation(self.name.clone()), grace);
        } else {
            self.key = None;
        }
        info!(room = %self.name, count = self.watchers.len(), "room waiting");
        self.relink(step);
        let watchers = self.watchers.len();
        for watcher in &mut self.watchers {
            let ice = watcher.link.watcher.ice(step, &watcher.member.ice_urls);
            let waiting = Body::new(&RoomUpdate {
                state: RoomState::Waiting,
                watchers,
                link: Some(watcher.link.id.as_str()),
                upstream: None,
                ice: Some(&ice),
            });
            watcher.member.tell(step, &waiting);
            watcher.member.arm_refresh(step);
        }
    }

    fn watcher_leaves(&mut self, step: &mut Step<'_>, index: usize) {
        let watcher = self.watchers.remove(index);
        watcher.member.retire(step);
        watcher.link.end(step);
        step.env.metrics.watchers.add(-1);
        let watchers = self.watchers.len();
        info!(room = %self.name, count = watchers, "watcher left");
        if let Some(broadcaster) = &mut self.broadcaster {
            let left = Body::new(&MemberEvent {
                member: Some(watcher.member.id.as_str()),
                link: Some(watcher.link.id.as_str()),
                ..MemberEvent::bare(Event::Left, watchers)
            });
            broadcaster.member.tell(step, &left);
        }
        self.tell_count(step, None);
    }

    /// Ends every link; the watchers get new ones, which wait.
    fn relink(&mut self, step: &mut Step<'_>) {
        for watcher in &mut self.watchers {
            watcher.link.end(step);
            watcher.link = Link::waiting(step, self.tag);
        }
    }

    /// Ends one link of a live room and makes a new one. Returns the old one.
    pub(super) fn replace_link(&mut self, step: &mut Step<'_>, index: usize) -> Link {
        let watcher = &mut self.watchers[index];
        watcher.link.end(step);
        std::mem::replace(&mut watcher.link, Link::live(step, self.tag))
    }

    /// Tells a watcher that its link is live.
    pub(super) fn tell_live(&mut self, step: &mut Step<'_>, index: usize) {
        let Some(broadcaster) = &self.broadcaster else { return };
        let watchers = self.watchers.len();
        let watcher = &mut self.watchers[index];
        let ice = watcher.link.watcher.ice(step, &watcher.member.ice_urls);
        let live = Body::new(&RoomUpdate {
            state: RoomState::Live,
            watchers,
            link: Some(watcher.link.id.as_str()),
            upstream: Some(broadcaster.member.id.as_str()),
            ice: Some(&ice),
        });
        watcher.member.tell(step, &live);
        watcher.member.arm_refresh(step);
    }

    fn tell_joined(&mut self, step: &mut Step<'_>, index: usize) {
        let Some(broadcaster) = &mut self.broadcaster else { return };
        let watcher = &self.watchers[index];
        let Some(side) = &watcher.link.broadcaster else { return };
        let ice = side.ice(step, &broadcaster.member.ice_urls);
        let joined = Body::new(&MemberEvent {
            member: Some(watcher.member.id.as_str()),
            name: watcher.member.name.as_deref(),
            link: Some(watcher.link.id.as_str()),
            ice: Some(&ice),
            ..MemberEvent::bare(Event::Joined, self.watchers.len())
        });
        broadcaster.member.tell(step, &joined);
    }

    fn tell_count(&mut self, step: &mut Step<'_>, except: Option<usize>) {
        let body = Body::new(&MemberEvent::bare(Event::Count, self.watchers.len()));
        for (index, watcher) in self.watchers.iter_mut().enumerate() {
            if Some(index) != except {
                watcher.member.mention(step, &body);
            }
        }
    }
}

/// Says `bye` to a member that is one no more, and closes its socket.
fn dismiss(step: &mut Step<'_>, mut member: Member, bye: &Body, close: (u16, &'static str)) {
    member.retire(step);
    member.mention(step, bye);
    if let Some(conn) = member.conn {
        step.close(conn, close.0, close.1);
    }
}
