//! Binding (RFC 8489, section 12): tells a client its address; with NAT behaviour discovery
//! (RFC 5780) also what else it takes to learn about the NATs on the way. Not authenticated, so
//! the caller charges it like every answer to a stranger.

use crate::stun::{
    ATTRIBUTE_HEADER_BYTES, FINGERPRINT_BYTES, Message, Writer, attr, binding_success,
};
use crate::turn::discovery::{DiscoveryPair, NatDiscovery};
use crate::turn::reject::{Reject, Why};
use crate::turn::server::UNDERSTOOD;
use crate::turn::{FiveTuple, Transport};

/// The whole answer, and the way that it takes.
pub(in crate::turn) fn handle(
    discovery: &NatDiscovery,
    five_tuple: FiveTuple,
    message: &Message<'_>,
) -> Result<(FiveTuple, Vec<u8>), Reject> {
    if let Some(pair) = discovery.pair(five_tuple.server) {
        return discover(pair, five_tuple, message);
    }
    // RFC 8489 §6.3.1: an unknown comprehension-required attribute => 420.
    refuse_unknown(message, |_| false)?;
    // §6.3.1.1: XOR-MAPPED-ADDRESS is the source of the request.
    let (id, fingerprint) = (message.transaction_id(), message.has_fingerprint());
    Ok((five_tuple, binding_success(id, five_tuple.client, fingerprint)))
}

/// RFC 5780, section 6.1.
fn discover(
    pair: &DiscoveryPair,
    five_tuple: FiveTuple,
    message: &Message<'_>,
) -> Result<(FiveTuple, Vec<u8>), Reject> {
    let FiveTuple { transport, client, server } = five_tuple;
    // §3: a stream is answered where it came in, and its datagrams are not ours to cut.
    let is_udp = transport == Transport::Udp;
    let other = pair.changed(server, true, true).filter(|_| is_udp);
    // §6.1: CHANGE-REQUEST where there is no other address => 420. RESPONSE-PORT is optional (§5).
    refuse_unknown(message, |kind| match kind {
        attr::CHANGE_REQUEST => other.is_some(),
        attr::RESPONSE_PORT | attr::PADDING => is_udp,
        _ => false,
    })?;
    let (change_ip, change_port) = change_request(message)?;
    let response_port = response_port(message)?;
    let padding = message.first(attr::PADDING);
    // §6.1: PADDING beside RESPONSE-PORT => 400.
    if padding.is_some() && response_port.is_some() {
        return Err(Why::PaddingConflict.into());
    }
    // §6.1, table 1: where the answer leaves from.
    let origin = pair.changed(server, change_ip, change_port).unwrap_or(server);
    // §6.1: MAPPED-ADDRESS and XOR-MAPPED-ADDRESS, RESPONSE-ORIGIN, OTHER-ADDRESS.
    let mut writer = Writer::success(message)
        .address(attr::MAPPED_ADDRESS, client)
        .xor_address(attr::XOR_MAPPED_ADDRESS, client)
        .address(attr::RESPONSE_ORIGIN, pair.public(origin));
    if let Some(other) = other {
        writer = writer.address(attr::OTHER_ADDRESS, pair.public(other));
    }
    // §7.6: PADDING as long as the client's own, unless that makes the answer larger than the
    // request: it may go to somebody whose address was forged.
    if let Some(padding) = padding {
        let trailer = if message.has_fingerprint() { FINGERPRINT_BYTES } else { 0 };
        let rest = writer.written_bytes() + ATTRIBUTE_HEADER_BYTES + trailer;
        let room = message.bytes().len().saturating_sub(rest);
        let len = padding.len().next_multiple_of(4).min(room).min(PADDING.len());
        writer = writer.attribute(attr::PADDING, &PADDING[..len]);
    }
    // §7.5: to the address that the request came from, whatever the port.
    let mut to = client;
    to.set_port(response_port.unwrap_or(client.port()));
    let way = FiveTuple { transport, client: to, server: origin };
    Ok((way, writer.finish(None, message.has_fingerprint())))
}

/// RFC 8489 §6.3.1: a comprehension-required attribute that is neither known in general nor
/// `understood` here => 420.
fn refuse_unknown(message: &Message<'_>, understood: impl Fn(u16) -> bool) -> Result<(), Reject> {
    let mut unknown = message.unknown_required(UNDERSTOOD);
    unknown.retain(|kind| !understood(*kind));
    if unknown.is_empty() { Ok(()) } else { Err(Reject::unknown_attributes(unknown)) }
}

/// §7.2: "change IP" and "change port"; the other bits mean nothing.
fn change_request(message: &Message<'_>) -> Result<(bool, bool), Reject> {
    match message.first(attr::CHANGE_REQUEST) {
        None => Ok((false, false)),
        Some([_, _, _, flags]) => Ok((flags & 0b100 != 0, flags & 0b010 != 0)),
        Some(_) => Err(Why::BadAttribute.into()),
    }
}

/// §7.5: 16 bits; the 16 behind them may be counted as part of the value or as its padding.
fn response_port(message: &Message<'_>) -> Result<Option<u16>, Reject> {
    let port = match message.first(attr::RESPONSE_PORT) {
        None => return Ok(None),
        Some([high, low] | [high, low, _, _]) => u16::from_be_bytes([*high, *low]),
        Some(_) => 0,
    };
    // Nothing can be sent to port 0.
    if port == 0 { Err(Why::BadAttribute.into()) } else { Ok(Some(port)) }
}

/// The longest PADDING of an answer: the MTU of nearly every interface, so that the answer is cut
/// in two.
const PADDING: [u8; 1500] = [0; 1500];
