//! The permissions and channels of one allocation (RFC 8656, sections 9 and 12).
//!
//! Both are short sorted lists, searched by halving: their length is a limit of the
//! configuration, and a packet needs no second hash look-up. What has expired is passed over by
//! its readers and removed when room is needed; no timer runs for it.
//!
//! A channel is usable while it *and* the permission of its peer live, so the packet path makes
//! one comparison.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Limits;
use super::bandwidth::SharedBucket;
use super::policy::CanonicalPeer;
use crate::net::TokenBucket;
use crate::stun::control::AddressFamily;

/// How long a permission lasts (RFC 8656, section 9).
const PERMISSION_LIFE: Duration = Duration::from_secs(300);
/// How long a channel binding lasts (RFC 8656, section 12).
const CHANNEL_LIFE: Duration = Duration::from_secs(600);

/// Permissions and channels.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Sorted by address.
    permissions: Vec<Permission>,
    /// Sorted by channel number.
    channels: Vec<Channel>,
    /// The same channels, sorted by peer.
    channels_by_peer: Vec<(SocketAddr, u16)>,
    /// How many more may be added now; there once one was.
    new_peers: Option<TokenBucket>,
    /// The same for all allocations of its payer together; it outlives them.
    of_payer: Option<Arc<SharedBucket>>,
}

/// How many permissions and channels there may be, and how fast they may come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) permissions: usize,
    pub(super) channels: usize,
    /// 0: as fast as they come.
    pub(super) new_peers_per_min: u32,
}

impl Room {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            permissions: limits.permissions_per_allocation as usize,
            channels: limits.channels_per_allocation as usize,
            new_peers_per_min: limits.new_peers_per_min,
        }
    }
}

/// Why a permission cannot be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unpermitted {
    /// There are as many as there may be.
    Full,
    /// Too many new ones came lately.
    TooFast,
}

/// Leave to exchange packets with one address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Permission {
    pub(super) peer: CanonicalPeer,
    expires: Instant,
}

/// A channel number that stands for one peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Channel {
    pub(super) number: u16,
    pub(super) peer: CanonicalPeer,
    pub(super) port: u16,
    expires: Instant,
    /// The earlier one of `expires` and the expiry of the peer's permission.
    usable_until: Instant,
}

/// Why a channel cannot be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unbindable {
    /// The number stands for another peer.
    NumberTaken,
    /// The peer has another number.
    PeerTaken,
    /// The permission cannot be installed.
    Unpermitted(Unpermitted),
    /// There are as many channels as there may be.
    ChannelsFull,
}

impl Channel {
    #[inline]
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        now < self.usable_until
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.peer.ip, self.port)
    }
}

impl Peers {
    /// None yet; what is added is also taken out of `of_payer`.
    pub(super) fn new(of_payer: Option<Arc<SharedBucket>>) -> Self {
        Self { of_payer, ..Self::default() }
    }

    /// The permission for `ip`, if it lives.
    #[inline]
    pub(super) fn permission(&self, ip: IpAddr, now: Instant) -> Option<&Permission> {
        let index = self.find_permission(ip).ok()?;
        let permission = &self.permissions[index];
        (now < permission.expires).then_some(permission)
    }

    /// The channel `number`, usable or not.
    #[inline]
    pub(super) fn channel(&self, number: u16) -> Option<&Channel> {
        let index = self.find_channel(number).ok()?;
        Some(&self.channels[index])
    }

    /// The channel of `peer`, if it is usable.
    #[inline]
    pub(super) fn channel_of(&self, peer: SocketAddr, now: Instant) -> Option<&Channel> {
        let index = self.find_by_peer(peer).ok()?;
        let (_, number) = self.channels_by_peer[index];
        self.channel(number).filter(|channel| channel.is_usable(now))
    }

    /// Installs or refreshes a permission for each of `peers`, or for none of them when there is
    /// no room.
    pub(super) fn permit(
        &mut self,
        peers: &[CanonicalPeer],
        room: Room,
        now: Instant,
    ) -> Result<(), Unpermitted> {
        self.permissions.retain(|permission| now < permission.expires);
        let mut added: Vec<IpAddr> = peers.iter().map(|peer| peer.ip).collect();
        added.retain(|ip| self.find_permission(*ip).is_err());
        added.sort_unstable();
        added.dedup();
        if self.permissions.len() + added.len() > room.permissions {
            return Err(Unpermitted::Full);
        }
        if !self.pay_for(added.len(), room.new_peers_per_min, now) {
            return Err(Unpermitted::TooFast);
        }
        for &peer in peers {
            self.permit_one(peer, now);
        }
        Ok(())
    }

    /// Takes `added` tokens out of both buckets of new peers, which a minute fills, or out of none.
    pub(super) fn pay_for(&mut self, added: usize, per_min: u32, now: Instant) -> bool {
        if per_min == 0 || added == 0 {
            return true;
        }
        let burst = f64::from(per_min);
        let bucket = self.new_peers.get_or_insert_with(|| TokenBucket::full(burst, now));
        let of_payer = self.of_payer.as_ref();
        let mut rest = *bucket;
        let paid = rest.try_take(added as f64, burst / 60.0, burst, now)
            && of_payer.is_none_or(|bucket| bucket.try_pieces(added, now));
        if paid {
            *bucket = rest;
        }
        paid
    }

    /// Whether neither `number` nor `address` is bound otherwise. What has expired is free.
    pub(super) fn bindable(
        &mut self,
        number: u16,
        address: SocketAddr,
        now: Instant,
    ) -> Result<(), Unbindable> {
        self.channels.retain(|channel| now < channel.expires);
        let channels = &self.channels;
        self.channels_by_peer.retain(|(_, number)| {
            channels.binary_search_by_key(number, |channel| channel.number).is_ok()
        });
        match self.find_channel(number) {
            Ok(index) if self.channels[index].address() == address => Ok(()),
            Ok(_) => Err(Unbindable::NumberTaken),
            Err(_) if self.find_by_peer(address).is_ok() => Err(Unbindable::PeerTaken),
            Err(_) => Ok(()),
        }
    }

    /// Binds or refreshes channel `number` for `peer` and `port`, and its permission. Changes
    /// nothing when it cannot.
    pub(super) fn bind(
        &mut self,
        number: u16,
        peer: CanonicalPeer,
        port: u16,
        room: Room,
        now: Instant,
    ) -> Result<(), Unbindable> {
        let address = SocketAddr::new(peer.ip, port);
        self.bindable(number, address, now)?;
        let (slot, peer_slot) = (self.find_channel(number), self.find_by_peer(address));
        if slot.is_err() && self.channels.len() >= room.channels {
            return Err(Unbindable::ChannelsFull);
        }
        self.permit(&[peer], room, now).map_err(Unbindable::Unpermitted)?;
        let usable_until = now + PERMISSION_LIFE.min(CHANNEL_LIFE);
        let channel = Channel { number, peer, port, expires: now + CHANNEL_LIFE, usable_until };
        match (slot, peer_slot) {
            (Ok(index), _) => self.channels[index] = channel,
            (Err(index), Ok(by_peer) | Err(by_peer)) => {
                insert(&mut self.channels, index, channel);
                insert(&mut self.channels_by_peer, by_peer, (address, number));
            }
        }
        Ok(())
    }

    /// Takes the permissions and channels of a family out.
    pub(super) fn forget(&mut self, family: AddressFamily) {
        self.retain(|ip| AddressFamily::of(ip) != family);
    }

    /// Takes the permissions and channels out whose peers do not stay.
    pub(super) fn retain(&mut self, stays: impl Fn(IpAddr) -> bool) {
        self.permissions.retain(|permission| stays(permission.peer.ip));
        self.channels.retain(|channel| stays(channel.peer.ip));
        self.channels_by_peer.retain(|(peer, _)| stays(peer.ip()));
    }

    fn permit_one(&mut self, peer: CanonicalPeer, now: Instant) {
        let expires = now + PERMISSION_LIFE;
        let permission = Permission { peer, expires };
        match self.find_permission(peer.ip) {
            Ok(index) => self.permissions[index] = permission,
            Err(index) => insert(&mut self.permissions, index, permission),
        }
        for channel in self.channels.iter_mut().filter(|channel| channel.peer.ip == peer.ip) {
            channel.usable_until = channel.expires.min(expires);
        }
    }

    fn find_permission(&self, ip: IpAddr) -> Result<usize, usize> {
        self.permissions.binary_search_by_key(&ip, |permission| permission.peer.ip)
    }

    fn find_channel(&self, number: u16) -> Result<usize, usize> {
        self.channels.binary_search_by_key(&number, |channel| channel.number)
    }

    fn find_by_peer(&self, peer: SocketAddr) -> Result<usize, usize> {
        self.channels_by_peer.binary_search_by_key(&peer, |(address, _)| *address)
    }
}

/// Inserts into a list that is to stay as small as it can while it has one entry, as most do; from
/// then on it grows as any list.
fn insert<T>(list: &mut Vec<T>, index: usize, entry: T) {
    if list.is_empty() {
        list.reserve_exact(1);
    }
    list.insert(index, entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an allocation with one permission and one channel holds besides its entry in the slab.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
    fn one_peer_takes_the_room_of_one() {
        let mut peers = Peers::new(None);
        let room = Room { permissions: 8, channels: 8, new_peers_per_min: 0 };
        let now = Instant::now();
        let held = |peers: &Peers| {
            peers.permissions.capacity() * size_of::<Permission>()
                + peers.channels.capacity() * size_of::<Channel>()
                + peers.channels_by_peer.capacity() * size_of::<(SocketAddr, u16)>()
        };
        assert_eq!(held(&peers), 0);
        for (last, bound) in [(1, 176), (1, 176), (2, 4 * 176)] {
            let peer = CanonicalPeer { ip: [192, 0, 2, last].into(), relay_address: None };
            let number = 0x4000 + u16::from(last);
            assert_eq!(peers.bind(number, peer, 9, room, now), Ok(()));
            assert!(held(&peers) <= bound, "{} bytes", held(&peers));
        }
    }
}
