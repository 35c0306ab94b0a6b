//! What one client may ask for, and the counts per address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::edge::one_address;
use crate::net::TokenBucket;

/// The limits of the web side; `daemon` fills them from `web.limits`.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request's line and headers together; at least 8192.
    pub header_bytes: usize,
    /// How long a request's headers, or the next request, or a WebSocket's first message may
    /// take to come.
    pub header: Duration,
    /// Requests at a time of one connection (HTTP/2).
    pub streams_per_connection: u32,
    /// Bytes that one connection (HTTP/2) may send from one request to the next, headers included.
    pub bytes_between_requests: usize,
    /// Bytes of a WebSocket message.
    pub frame_bytes: usize,
    /// Messages a second of one WebSocket; four times as many at once.
    pub messages_per_sec: u32,
    /// Bytes a second of one WebSocket, framing included; the larger of four times as many and
    /// of four full messages at once.
    pub bytes_per_sec: u32,
    /// Frames that wait for one slow WebSocket.
    pub queue_frames: usize,
    /// Bytes that wait for one slow WebSocket.
    pub queue_bytes: usize,
    /// WebSockets that are open at once.
    pub conns: u32,
    /// WebSockets that are open at once from one address (from one /64 of IPv6).
    pub conns_per_address: u32,
    /// Hellos a minute from one address, as many at once.
    pub hellos_per_address_per_min: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 16 * 1024,
            header: Duration::from_secs(10),
            streams_per_connection: 64,
            bytes_between_requests: 128 * 1024,
            frame_bytes: 64 * 1024,
            messages_per_sec: 100,
            bytes_per_sec: 256 * 1024,
            queue_frames: 1024,
            queue_bytes: 1024 * 1024,
            conns: 2048,
            conns_per_address: 128,
            hellos_per_address_per_min: 240,
        }
    }
}

/// One WebSocket's allowance of messages or bytes.
pub(super) struct Allowance {
    bucket: TokenBucket,
    rate: f64,
    burst: f64,
}

impl Allowance {
    /// The messages of one WebSocket.
    pub(super) fn messages(limits: &Limits, now: Instant) -> Self {
        Self::new(f64::from(limits.messages_per_sec), 0.0, now)
    }

    /// The bytes of one WebSocket.
    pub(super) fn bytes(limits: &Limits, now: Instant) -> Self {
        Self::new(f64::from(limits.bytes_per_sec), 4.0 * limits.frame_bytes as f64, now)
    }

    fn new(rate: f64, burst_min: f64, now: Instant) -> Self {
        let burst = (4.0 * rate).max(burst_min);
        Self { bucket: TokenBucket::full(burst, now), rate, burst }
    }

    /// Takes `cost` when it is there.
    pub(super) fn try_take(&mut self, cost: usize, now: Instant) -> bool {
        self.bucket.try_take(cost as f64, self.rate, self.burst, now)
    }
}

/// What each address holds and has used up.
pub(super) struct Addresses {
    conns_max: u32,
    conns_per_address_max: u32,
    hellos_per_min: f64,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    conns: u32,
    /// Addresses with an open WebSocket.
    open: HashMap<IpAddr, u32>,
    /// Addresses that said hello within the last minute or so.
    hellos: HashMap<IpAddr, TokenBucket>,
}

/// Why an address gets no WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The server has too many.
    Server,
    /// The address has too many.
    Address,
}

impl Addresses {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            conns_max: limits.conns,
            conns_per_address_max: limits.conns_per_address,
            hellos_per_min: f64::from(limits.hellos_per_address_per_min),
            state: Arc::default(),
        }
    }

    /// A place for one WebSocket of `address`, held until it is dropped.
    pub(super) fn enter(&self, address: IpAddr) -> Result<ConnPlace, Full> {
        let key = one_address(address);
        let mut state = lock(&self.state);
        if state.conns >= self.conns_max {
            return Err(Full::Server);
        }
        let here = state.open.get(&key).copied().unwrap_or(0);
        if here >= self.conns_per_address_max {
            return Err(Full::Address);
        }
        state.open.insert(key, here + 1);
        state.conns += 1;
        Ok(ConnPlace { state: Arc::clone(&self.state), key })
    }

    /// Charges one hello to `address`.
    pub(super) fn try_hello(&self, address: IpAddr, now: Instant) -> bool {
        let (rate, burst) = (self.hellos_per_min / 60.0, self.hellos_per_min);
        let mut state = lock(&self.state);
        if state.hellos.len() >= HELLO_ADDRESSES_MAX {
            // Whoever has his whole allowance back need not be remembered. If that frees nothing,
            // everybody starts afresh: forgetting is better than shutting strangers out.
            state.hellos.retain(|_, bucket| !bucket.clone().try_take(burst, rate, burst, now));
            if state.hellos.len() >= HELLO_ADDRESSES_MAX {
                state.hellos.clear();
            }
        }
        let full = || TokenBucket::full(burst, now);
        let bucket = state.hellos.entry(one_address(address)).or_insert_with(full);
        bucket.try_take(1.0, rate, burst, now)
    }
}

/// One WebSocket's place.
#[derive(Debug)]
pub(super) struct ConnPlace {
    state: Arc<Mutex<State>>,
    key: IpAddr,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("conns", &self.conns).finish_non_exhaustive()
    }
}

impl Drop for ConnPlace {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.conns = state.conns.saturating_sub(1);
        if let Some(here) = state.open.get_mut(&self.key) {
            *here -= 1;
            if *here == 0 {
                state.open.remove(&self.key);
            }
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    match state.lock() {
        Ok(state) => state,
        Err(poisoned) => poisoned.into_inner(),
    }
}

/// Addresses whose hellos are remembered: 65,536 of them take about 5 MB.
const HELLO_ADDRESSES_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("a test address")
    }

    #[test]
    fn an_address_gets_its_share_of_conns_and_no_more() {
        let limits = Limits { conns: 3, conns_per_address: 2, ..Limits::default() };
        let addresses = Addresses::new(&limits);
        let one = addresses.enter(ip("192.0.2.1")).expect("room");
        let _two = addresses.enter(ip("192.0.2.1")).expect("room");
        assert_eq!(addresses.enter(ip("192.0.2.1")).expect_err("its share"), Full::Address);
        let _three = addresses.enter(ip("192.0.2.2")).expect("room");
        assert_eq!(addresses.enter(ip("192.0.2.3")).expect_err("all"), Full::Server);
        drop(one);
        assert!(addresses.enter(ip("192.0.2.1")).is_ok());
    }

    #[test]
    fn hellos_come_back_with_time_and_per_address() {
        let limits = Limits { hellos_per_address_per_min: 2, ..Limits::default() };
        let addresses = Addresses::new(&limits);
        let now = Instant::now();
        assert!(addresses.try_hello(ip("192.0.2.1"), now));
        assert!(addresses.try_hello(ip("192.0.2.1"), now));
        assert!(!addresses.try_hello(ip("192.0.2.1"), now));
        assert!(addresses.try_hello(ip("192.0.2.2"), now));
        assert!(addresses.try_hello(ip("192.0.2.1"), now + Duration::from_secs(31)));
    }

    #[test]
    fn the_table_of_hellos_has_a_bound() {
        let addresses = Addresses::new(&Limits::default());
        let now = Instant::now();
        for n in 0..HELLO_ADDRESSES_MAX as u32 + 10 {
            let address = IpAddr::from(n.to_be_bytes());
            assert!(addresses.try_hello(address, now));
        }
        assert!(lock(&addresses.state).hellos.len() <= HELLO_ADDRESSES_MAX);
    }

    #[test]
    fn an_allowance_lets_a_full_message_through_at_any_rate() {
        let now = Instant::now();
        let limits = Limits { bytes_per_sec: 1, messages_per_sec: 1, ..Limits::default() };
        assert!(Allowance::bytes(&limits, now).try_take(limits.frame_bytes + 14, now));
        let mut messages = Allowance::messages(&limits, now);
        assert_eq!((0..9).filter(|_| messages.try_take(1, now)).count(), 4);
    }
}
