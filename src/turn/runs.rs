//! Runs: datagrams of one sender in a row that a worker received in one piece. Those that are alike
//! are decided about once, with one look-up, one compare of each expiry and one charge of all
//! their bytes. Where they are not alike, or the bandwidth is not there for all of them, the
//! datagrams are handled one by one.

use std::net::SocketAddr;
use std::time::Instant;

use super::server::{Admitted, live};
use super::traffic::{Dropped, charge};
use super::{Actions, FiveTuple, RelayId, Server, Verdict, method};
use crate::metrics::DropReason;
use crate::net::Now;
use crate::stun::{
    CHANNEL_DATA_HEADER_BYTES, ChannelData, TransactionId, channel_data_header,
    data_indication_header,
};

/// Datagrams from a peer that go to the client, each as `header | payload | zeros`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToClient {
    /// Whom to, and from which of our addresses.
    pub five_tuple: FiveTuple,
    /// Bytes of a header. One for all datagrams, or one for each, was written.
    pub header_bytes: usize,
    /// How many bytes of zero follow each payload.
    pub padding: usize,
}

impl Server {
    /// Handles the first of the datagrams in `run` that a client has sent, each of `segment` bytes
    /// but for the last one, which may be shorter; `run` is not empty and `segment` not 0. Gives
    /// how many were handled, at least one, and the verdict on the first: what it says holds for
    /// all of them, each `segment` bytes further on.
    pub fn handle_client_run(
        &mut self,
        now: Now,
        five_tuple: FiveTuple,
        run: &[u8],
        segment: usize,
        actions: &mut Actions,
    ) -> (usize, Verdict) {
        let alike = alike(run, segment);
        if alike > 1
            && let Ok(verdict) = self.relay_to_peer(now.instant, &five_tuple, run, alike)
        {
            return (alike, verdict);
        }
        let first = &run[..segment.min(run.len())];
        (1, self.handle_client(now, five_tuple, first, actions))
    }

    /// Handles the first of the datagrams that arrived on relay socket `relay` from `peer`: `bytes`
    /// in all, in pieces of `segment` but for the last one, which may be shorter. Gives how many
    /// were handled, at least one, and where they go, unless they are dropped. Their headers are
    /// added to `headers`.
    pub fn handle_peer_run(
        &mut self,
        now: Now,
        relay: RelayId,
        peer: SocketAddr,
        (bytes, segment): (usize, usize),
        headers: &mut Vec<u8>,
    ) -> (usize, Option<ToClient>) {
        let (whole, start) = (bytes.checked_div(segment).unwrap_or(1), headers.len());
        if whole > 1 {
            let run = self.relay_run_to_client(now.instant, relay, peer, (whole, segment), headers);
            if let Ok(to_client) = run {
                return (whole, Some(to_client));
            }
            headers.truncate(start);
        }
        let one = (1, segment.min(bytes));
        match self.relay_run_to_client(now.instant, relay, peer, one, headers) {
            Ok(to_client) => (1, Some(to_client)),
            Err(dropped) => {
                dropped.count(&self.metrics);
                headers.truncate(start);
                (1, None)
            }
        }
    }

    /// `count` ChannelData messages with the same header. Nothing is counted when it fails.
    fn relay_to_peer(
        &mut self,
        now: Instant,
        five_tuple: &FiveTuple,
        run: &[u8],
        count: usize,
    ) -> Result<Verdict, Dropped> {
        let message = ChannelData::parse(run).map_err(|_| DropReason::Malformed)?;
        let (place, allocation) = live(&mut self.table, five_tuple, now)?;
        let (to, payload) = method::send::channel_data(&self.shared, allocation, &message, now)?;
        charge(&self.shared, allocation, count * payload.len(), now)?;
        self.metrics.to_peer.add_run(count, payload.len());
        Ok(to.verdict(place, payload, false))
    }

    /// `count` datagrams of `len` bytes. Nothing is counted when it fails.
    fn relay_run_to_client(
        &mut self,
        now: Instant,
        relay: RelayId,
        source: SocketAddr,
        (count, len): (usize, usize),
        headers: &mut Vec<u8>,
    ) -> Result<ToClient, Dropped> {
        let Admitted { place, peer, channel } = self.admit(now, relay, source)?;
        let start = headers.len();
        let (header_bytes, padding) = match channel {
            Some(number) => {
                let header = channel_data_header(number, len).ok_or(DropReason::TooLong)?;
                headers.extend_from_slice(&header);
                (header.len(), 0)
            }
            None => self.write_indication(peer, len, headers)?,
        };
        let allocation = self.table.get_mut(place).ok_or(DropReason::NoAllocation)?;
        let five_tuple = allocation.five_tuple;
        if header_bytes + len + padding > five_tuple.datagram_bytes_max() {
            return Err(DropReason::TooLong.into());
        }
        charge(&self.shared, allocation, count * len, now)?;
        // Not before they are paid for: what is refused is asked for again in smaller pieces.
        for _ in 1..if channel.is_none() { count } else { 1 } {
            self.write_indication(peer, len, headers)?;
        }
        debug_assert!(headers.len() - start <= count * header_bytes);
        self.metrics.to_client.add_run(count, len);
        Ok(ToClient { five_tuple, header_bytes, padding })
    }

    /// Adds the header of one Data indication, and says how long it is and how many bytes of zero
    /// follow the payload.
    fn write_indication(
        &mut self,
        peer: SocketAddr,
        len: usize,
        headers: &mut Vec<u8>,
    ) -> Result<(usize, usize), Dropped> {
        let mut id = [0; 12];
        self.entropy.fill(&mut id);
        let written = data_indication_header(len, peer, &TransactionId(id));
        let (header, padding) = written.ok_or(DropReason::TooLong)?;
        headers.extend_from_slice(&header);
        Ok((header.len(), padding))
    }
}

/// How many datagrams at the beginning of `run` are ChannelData of the same channel and length.
fn alike(run: &[u8], segment: usize) -> usize {
    let mut whole = run.chunks_exact(segment.max(CHANNEL_DATA_HEADER_BYTES));
    let Some(first) = whole.next().and_then(|first| first.first_chunk::<4>()) else { return 0 };
    if ChannelData::parse(&run[..segment.min(run.len())]).is_err() {
        return 0;
    }
    1 + whole.take_while(|next| next.starts_with(first)).count()
}
