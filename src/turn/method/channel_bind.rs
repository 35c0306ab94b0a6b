//! ChannelBind (RFC 8656, section 12.2): a number that stands for a peer, and its permission.

use super::{Request, Success};
use crate::metrics::Limit;
use crate::stun::CHANNEL_NUMBERS;
use crate::turn::peers::{Room, Unbindable};
use crate::turn::reject::{Reject, Why};
use crate::turn::shared::Shared;
use crate::turn::table::Allocation;

/// Binds or refreshes a channel.
pub(in crate::turn) fn handle(
    shared: &Shared,
    allocation: &mut Allocation,
    request: &Request<'_>,
) -> Result<Success, Reject> {
    // RFC 6062, §3: a control connection carries no payload.
    if allocation.tcp.is_some() {
        return Err(Why::ChannelOverTcp.into());
    }
    let bad = |_| Reject::from(Why::BadAttribute);
    // §12.2 check 1: CHANNEL-NUMBER and XOR-PEER-ADDRESS are there, or 400.
    let number = request.control.channel_number().map_err(bad)?;
    let number = number.ok_or(Reject::from(Why::ChannelMissing))?;
    let address = request.control.peer_address().map_err(bad)?;
    let address = address.ok_or(Reject::from(Why::PeerMissing))?;
    // §12.2 check 2: the number is in range, or 400.
    if !CHANNEL_NUMBERS.contains(&number) {
        return Err(Why::ChannelRange.into());
    }
    // §12.2 checks 3 and 4: neither number nor peer is bound otherwise, or 400.
    let now = request.now.instant;
    allocation.peers.bindable(number, address, now)?;
    // §12.2: another family => 443; an address or port that is not allowed => 403.
    let peer = shared.admit(allocation, address)?;
    if address.port() == 0 {
        return Err(Why::PeerForbidden.into());
    }
    // §12.2: no room => 508.
    let room = Room::new(&shared.options().limits);
    allocation.peers.bind(number, peer, address.port(), room, now)?;
    Ok(Success::Done)
}

impl From<Unbindable> for Reject {
    fn from(why: Unbindable) -> Self {
        match why {
            Unbindable::NumberTaken => Why::ChannelTaken.into(),
            Unbindable::PeerTaken => Why::PeerTaken.into(),
            Unbindable::Unpermitted(why) => why.into(),
            Unbindable::ChannelsFull => {
                Self::limit(Why::ChannelsFull, Limit::ChannelsPerAllocation)
            }
        }
    }
}
