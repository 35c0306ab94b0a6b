//! ICMP errors about datagrams that we sent to peers (RFC 8656, section 11.5).

use std::net::SocketAddr;

use super::server::Server;
use super::table::Place;
use super::traffic::{Dropped, charge};
use super::{Action, Actions, RelayId};
use crate::metrics::DropReason;
use crate::net::Now;
use crate::stun::control::AddressFamily;
use crate::stun::{Class, Method, TransactionId, Writer, attr};

/// What an ICMP error says; its meaning depends on the family of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Icmp {
    /// The type.
    pub kind: u8,
    /// The code.
    pub code: u8,
    /// The MTU of the next link, where the message carries one.
    pub data: u32,
}

impl Icmp {
    /// §11.5: only these types are told: destination unreachable, packet too big, time exceeded.
    fn is_told(self, family: AddressFamily) -> bool {
        match family {
            AddressFamily::Ipv4 => matches!(self.kind, 3 | 11),
            AddressFamily::Ipv6 => matches!(self.kind, 1..=3),
        }
    }

    /// §18.13: the MTU stands beside "fragmentation needed" and "packet too big", zero elsewhere.
    fn told_data(self, family: AddressFamily) -> u32 {
        match (family, self.kind, self.code) {
            (AddressFamily::Ipv4, 3, 4) | (AddressFamily::Ipv6, 2, _) => self.data,
            _ => 0,
        }
    }
}

impl Server {
    /// Handles an ICMP error about a datagram that left relay socket `relay` for `peer`; its port
    /// is 0 when the worker does not know it. Who sent the error does not matter. What the client
    /// is told costs bandwidth, as what peers send does.
    pub fn handle_icmp(
        &mut self,
        now: Now,
        relay: RelayId,
        peer: SocketAddr,
        icmp: Icmp,
        actions: &mut Actions,
    ) {
        match self.tell_icmp(now, relay, peer, icmp) {
            Ok(action) => actions.push(action),
            Err(dropped) => dropped.count(&self.metrics),
        }
    }

    fn tell_icmp(
        &mut self,
        now: Now,
        relay: RelayId,
        peer: SocketAddr,
        icmp: Icmp,
    ) -> Result<Action, Dropped> {
        let (place, family) = Place::of(relay);
        if AddressFamily::of(peer.ip()) != family || !icmp.is_told(family) {
            return Err(DropReason::Icmp.into());
        }
        let own = self.table.get_mut(place).filter(|own| own.relays(family, now.instant));
        let own = own.ok_or(DropReason::NoAllocation)?;
        // §11.5: the peer's address needs a permission; ports do not count.
        let ip = self.shared.policy.reported(peer.ip()).ip;
        own.peers.permission(ip, now.instant).ok_or(DropReason::NoPermission)?;
        let mut id = [0; 12];
        self.entropy.fill(&mut id);
        let bytes = Writer::new(Class::Indication, Method::DATA, TransactionId(id))
            .xor_address(attr::XOR_PEER_ADDRESS, SocketAddr::new(ip, peer.port()))
            .icmp(icmp.kind, icmp.code, icmp.told_data(family))
            .finish(None, false);
        charge(&self.shared, own, bytes.len(), now.instant)?;
        Ok(Action::Answer { five_tuple: own.five_tuple, bytes })
    }
}
