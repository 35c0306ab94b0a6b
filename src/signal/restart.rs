//! The family of `restart`: an ICE restart on the same link, or a new link in its place.

use tracing::debug;

use super::hub::Step;
use super::id::{LinkId, MemberId};
use super::protocol::{Body, Code, Event, MemberEvent, Restart, RestartOut};
use super::room::Room;
use crate::metrics::Limit;

impl Room {
    /// Handles `restart`.
    pub(super) fn restart(
        &mut self,
        step: &mut Step<'_>,
        member: &MemberId,
        message: &Restart,
    ) -> Result<(), Code> {
        if message.rebuild {
            let index = self.link_of(member, &message.link)?;
            return self.rebuild(step, index);
        }
        let mut ends = self.ends(member, &message.link)?;
        let body = Body::new(&RestartOut { link: &message.link, from: member.as_str() });
        ends.forward(step, &body);
        Ok(())
    }

    /// Ends a link and makes a new one: both sides get new grants, and the old ones' allocations
    /// end. A page that asks all the time would keep the other one busy, so it is bounded.
    fn rebuild(&mut self, step: &mut Step<'_>, index: usize) -> Result<(), Code> {
        let per_min = f64::from(step.env.options.rebuilds_per_min);
        let bucket = &mut self.watchers[index].rebuilds;
        if !bucket.try_take(1.0, per_min / 60.0, per_min, step.now.instant) {
            step.env.metrics.limit(Limit::Rebuilds);
            return Err(Code::RateLimited);
        }
        self.renew(step, index);
        Ok(())
    }

    /// Makes a link anew of which messages are missing, if it is still there.
    pub(super) fn mend(&mut self, step: &mut Step<'_>, link: &LinkId) {
        let index = self.watchers.iter().position(|watcher| watcher.link.id == *link);
        if let Some(index) = index
            && self.broadcaster.is_some()
        {
            step.env.metrics.limit(Limit::KeptMessages);
            self.renew(step, index);
        }
    }

    fn renew(&mut self, step: &mut Step<'_>, index: usize) {
        let old = self.replace_link(step, index);
        let watchers = self.watchers.len();
        let watcher = &self.watchers[index];
        debug!(room = %self.name, member = %watcher.member.id, "link rebuilt");
        if let (Some(broadcaster), Some(side)) = (&mut self.broadcaster, &watcher.link.broadcaster)
        {
            let ice = side.ice(step, &broadcaster.member.ice_urls);
            let changed = Body::new(&MemberEvent {
                member: Some(watcher.member.id.as_str()),
                link: Some(watcher.link.id.as_str()),
                replaces: Some(old.id.as_str()),
                ice: Some(&ice),
                ..MemberEvent::bare(Event::Changed, watchers)
            });
            broadcaster.member.tell(step, &changed);
        }
        self.tell_live(step, index);
    }
}
