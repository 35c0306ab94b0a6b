//! The family of `report`: what the pages say of a link. The broadcaster sees it for each viewer,
//! a metric counts it.

use tracing::debug;

use super::hub::Step;
use super::id::MemberId;
use super::link::Reported;
use super::protocol::{Body, Code, Event, LinkState, MediaPath, MemberEvent, Report};
use super::room::Room;
use crate::metrics::Path;

impl Room {
    /// Handles `report`.
    pub(super) fn report(
        &mut self,
        step: &mut Step<'_>,
        member: &MemberId,
        report: &Report,
    ) -> Result<(), Code> {
        if !report.code.as_deref().is_none_or(is_code) {
            return Err(Code::BadMessage);
        }
        let index = self.link_of(member, &report.link)?;
        let watchers = self.watchers.len();
        let link = &mut self.watchers[index].link;
        let reported = match (report.state, report.path) {
            (LinkState::Failed, _) => Some(Reported::Failed),
            (LinkState::Connected, path) => path.map(Reported::Path),
        };
        // Both sides may report, and more than once: a link's path counts when it changes.
        if reported.is_some() && link.report != reported {
            link.report = reported;
            step.env.metrics.path(match reported {
                Some(Reported::Path(MediaPath::Direct)) => Path::Direct,
                Some(Reported::Path(MediaPath::Udp)) => Path::Udp,
                Some(Reported::Path(MediaPath::Tcp)) => Path::Tcp,
                Some(Reported::Path(MediaPath::Tls)) => Path::Tls,
                Some(Reported::Failed) | None => Path::Failed,
            });
        }
        let state = report.state;
        let code = report.code.as_deref();
        debug!(room = %self.name, member = %member, code, "link reported");
        // Who broadcasts knows what he has said himself.
        if self.watchers[index].member.id == *member {
            let changed = Body::new(&MemberEvent {
                member: Some(member.as_str()),
                link: Some(&report.link),
                path: report.path,
                state: Some(state),
                code,
                ..MemberEvent::bare(Event::Changed, watchers)
            });
            self.ends(member, &report.link)?.forward(step, &changed);
        }
        Ok(())
    }
}

fn is_code(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=CODE_CHARS_MAX).contains(&text.len()) && text.bytes().all(plain)
}

const CODE_CHARS_MAX: usize = 64;
