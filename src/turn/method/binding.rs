//! Binding (RFC 8489, section 12): tells a client its address. Not authenticated, so the caller
//! charges it like every answer to a stranger.

use crate::stun::{Message, binding_success};
use crate::turn::FiveTuple;
use crate::turn::reject::Reject;
use crate::turn::server::UNDERSTOOD;

/// The whole answer.
pub(in crate::turn) fn handle(
    five_tuple: &FiveTuple,
    message: &Message<'_>,
) -> Result<Vec<u8>, Reject> {
    // §6.3.1: an unknown comprehension-required attribute => 420.
    let unknown = message.unknown_required(UNDERSTOOD);
    if !unknown.is_empty() {
        return Err(Reject::unknown_attributes(unknown));
    }
    // §6.3.1.1: XOR-MAPPED-ADDRESS is the source of the request.
    Ok(binding_success(message.transaction_id(), five_tuple.client, message.has_fingerprint()))
}
