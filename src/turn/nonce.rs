//! Nonces that need no memory: a time, and a MAC that binds it to the client's address and port.
//!
//! ```text
//! obMatJos2 | AAAA          | 27 characters: base64url of
//! cookie    | feature bits  | time in seconds (4 bytes), HMAC-SHA256 (first 16 bytes)
//! ```
//! 40 characters in all, so that a challenge stays small. The cookie and its 24 feature bits, all
//! zero so far, are those of RFC 8489, section 9.2.

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use subtle::ConstantTimeEq;

use crate::credentials::Entropy;

/// The length of every nonce.
pub(super) const NONCE_BYTES: usize = 40;

/// The nonce cookie (RFC 8489, section 9.2) and the feature bits behind it in base64.
const PREFIX: &[u8; 13] = b"obMatJos2AAAA";
const TIME_BYTES: usize = 4;
const MAC_BYTES: usize = 16;

/// What a nonce that a client sent is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NonceState {
    /// Ours, for this client, and young enough.
    Valid,
    /// Ours and for this client, but too old.
    Stale,
    /// Not ours, or another client's.
    Wrong,
}

/// Makes and checks nonces; shared by all workers.
pub(super) struct Nonces {
    key: hmac::Key,
    life_secs: u32,
}

impl Nonces {
    pub(super) fn new(life_secs: u32, entropy: &mut Entropy) -> Self {
        let mut secret = [0; 32];
        entropy.fill(&mut secret);
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &secret), life_secs }
    }

    /// The nonce of `client` at `unix_secs`.
    pub(super) fn make(&self, client: SocketAddr, unix_secs: u64) -> [u8; NONCE_BYTES] {
        // Only differences count, so the wrap in 2106 does no harm.
        let time = (unix_secs as u32).to_be_bytes();
        let mut raw = [0; TIME_BYTES + MAC_BYTES];
        raw[..TIME_BYTES].copy_from_slice(&time);
        raw[TIME_BYTES..].copy_from_slice(&self.mac(time, client));
        let mut nonce = [0; NONCE_BYTES];
        nonce[..PREFIX.len()].copy_from_slice(PREFIX);
        let written = URL_SAFE_NO_PAD.encode_slice(raw, &mut nonce[PREFIX.len()..]);
        debug_assert_eq!(written, Ok(NONCE_BYTES - PREFIX.len()));
        nonce
    }

    /// Says what `nonce` is worth when `client` sends it at `unix_secs`.
    pub(super) fn check(&self, nonce: &[u8], client: SocketAddr, unix_secs: u64) -> NonceState {
        let Some(encoded) = nonce.strip_prefix(PREFIX) else { return NonceState::Wrong };
        if nonce.len() != NONCE_BYTES {
            return NonceState::Wrong;
        }
        // The decoder wants room for whole groups of three.
        let mut raw = [0; 21];
        if URL_SAFE_NO_PAD.decode_slice(encoded, &mut raw) != Ok(TIME_BYTES + MAC_BYTES) {
            return NonceState::Wrong;
        }
        let time = [raw[0], raw[1], raw[2], raw[3]];
        let offered = &raw[TIME_BYTES..TIME_BYTES + MAC_BYTES];
        if !bool::from(self.mac(time, client).ct_eq(offered)) {
            return NonceState::Wrong;
        }
        let age_secs = (unix_secs as u32).wrapping_sub(u32::from_be_bytes(time));
        if age_secs < self.life_secs { NonceState::Valid } else { NonceState::Stale }
    }

    fn mac(&self, time: [u8; TIME_BYTES], client: SocketAddr) -> [u8; MAC_BYTES] {
        let mut bound = [0; TIME_BYTES + 16 + 2];
        bound[..4].copy_from_slice(&time);
        let ip = match client.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        bound[4..20].copy_from_slice(&ip.octets());
        bound[20..].copy_from_slice(&client.port().to_be_bytes());
        let tag = hmac::sign(&self.key, &bound);
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(&tag.as_ref()[..MAC_BYTES]);
        mac
    }
}
