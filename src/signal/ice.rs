//! The family of `ice`: credentials, minted when a link begins and pushed at two thirds of their
//! life.

use std::sync::Arc;

use super::hub::Step;
use super::protocol::{Body, Ice, IcePolicy, IceServer, IceUpdate, LinkIce};
use super::room::{Room, Seat};
use crate::credentials::Grant;

/// Credentials of `grant` that live from now on.
pub(super) fn mint(step: &Step<'_>, grant: &Grant, urls: &Arc<[String]>) -> Ice {
    let ttl_secs = step.env.options.credential_ttl_secs.max(1);
    let expiry_unix_secs = step.now.unix_secs.saturating_add(u64::from(ttl_secs));
    let credential = step.env.grants.credential(grant, expiry_unix_secs);
    let server = IceServer {
        urls: Arc::clone(urls),
        username: credential.username,
        credential: credential.password.expose().clone(),
    };
    let servers = if urls.is_empty() { Vec::new() } else { vec![server] };
    let policy = if step.env.options.relay_only { IcePolicy::Relay } else { IcePolicy::All };
    Ice { servers, ttl_secs, policy }
}

impl Room {
    /// Pushes fresh credentials to the member at `seat`. A lost member gets them when it is back.
    pub(super) fn refresh(&mut self, step: &mut Step<'_>, seat: Seat) {
        match seat {
            Seat::Broadcaster => self.refresh_broadcaster(step, true),
            Seat::Watcher(index) => {
                let watcher = &mut self.watchers[index];
                let ice = watcher.link.watcher.ice(step, &watcher.member.ice_urls);
                let update = IceUpdate { ice: Some(&ice), links: &[] };
                watcher.member.mention(step, &Body::new(&update));
                watcher.member.arm_refresh(step);
            }
        }
    }

    /// Pushes fresh credentials for every link of the broadcaster, and with `own` for himself.
    pub(super) fn refresh_broadcaster(&mut self, step: &mut Step<'_>, own: bool) {
        let Some(broadcaster) = &mut self.broadcaster else { return };
        let urls = &broadcaster.member.ice_urls;
        let links: Vec<LinkIce<'_>> = self
            .watchers
            .iter()
            .filter_map(|watcher| {
                let ice = watcher.link.broadcaster.as_ref()?.ice(step, urls);
                Some(LinkIce { link: watcher.link.id.as_str(), ice })
            })
            .collect();
        let ice = own.then(|| mint(step, &broadcaster.grant, urls));
        if ice.is_some() || !links.is_empty() {
            let update = IceUpdate { ice: ice.as_ref(), links: &links };
            broadcaster.member.mention(step, &Body::new(&update));
        }
        broadcaster.member.arm_refresh(step);
    }
}
