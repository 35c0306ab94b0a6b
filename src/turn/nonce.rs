//! Nonces that need no memory: a time, and a MAC that binds it to the client's address and port.
//!
//! ```text
//! obMatJos2 | gAAA or wAAA  | 27 characters: base64url of
//! cookie    | feature bits  | time in seconds (4 bytes), SipHash-2-4 (16 bytes)
//! ```
//! 40 characters in all, so that a challenge stays small. The cookie and its 24 feature bits are
//! those of RFC 8489, sections 9.2 and 18.1: bit 0 says that PASSWORD-ALGORITHMS was sent along,
//! bit 1 that a client is to hide its name behind USERHASH. Whoever takes a bit away on the path
//! makes a nonce that is not ours.
//!
//! SipHash is a MAC for short messages under a secret key (Aumasson and Bernstein, 2012), which is
//! what a nonce needs: nobody else can make one. The key is drawn at the start and never leaves.

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use siphasher::sip128::SipHasher24;
use subtle::ConstantTimeEq;

use crate::credentials::Entropy;

/// The length of every nonce.
pub(super) const NONCE_BYTES: usize = 40;

/// What every nonce of a server that knows RFC 8489 begins with (section 9.2).
const COOKIE: &[u8; 9] = b"obMatJos2";
/// The cookie and the feature bits in base64.
const PREFIX_BYTES: usize = COOKIE.len() + 4;
/// Bit 0 of the features, the most significant one of the first byte (section 18.1).
const PASSWORD_ALGORITHMS: u8 = 0x80;
/// Bit 1.
const USERNAME_ANONYMITY: u8 = 0x40;
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
    mac: SipHasher24,
    life_secs: u32,
    prefix: [u8; PREFIX_BYTES],
}

/// Whether `nonce`, ours or not, says that PASSWORD-ALGORITHMS came with it (section 9.2.4).
pub(super) fn offers_password_algorithms(nonce: &[u8]) -> bool {
    let Some(features) = nonce.strip_prefix(COOKIE).and_then(|rest| rest.get(..4)) else {
        return false;
    };
    let mut bits = [0; 3];
    let decoded = STANDARD_NO_PAD.decode_slice(features, &mut bits);
    decoded == Ok(bits.len()) && bits[0] & PASSWORD_ALGORITHMS != 0
}

impl Nonces {
    /// `anonymity`: whether clients are asked to hide their names.
    pub(super) fn new(life_secs: u32, anonymity: bool, entropy: &mut Entropy) -> Self {
        let mut key = [0; 16];
        entropy.fill(&mut key);
        let features = PASSWORD_ALGORITHMS | if anonymity { USERNAME_ANONYMITY } else { 0 };
        let mut prefix = [0; PREFIX_BYTES];
        prefix[..COOKIE.len()].copy_from_slice(COOKIE);
        let written = STANDARD_NO_PAD.encode_slice([features, 0, 0], &mut prefix[COOKIE.len()..]);
        debug_assert_eq!(written, Ok(PREFIX_BYTES - COOKIE.len()));
        Self { mac: SipHasher24::new_with_key(&key), life_secs, prefix }
    }

    /// The nonce of `client` at `unix_secs`.
    pub(super) fn make(&self, client: SocketAddr, unix_secs: u64) -> [u8; NONCE_BYTES] {
        // Only differences count, so the wrap in 2106 does no harm.
        let time = (unix_secs as u32).to_be_bytes();
        let mut raw = [0; TIME_BYTES + MAC_BYTES];
        raw[..TIME_BYTES].copy_from_slice(&time);
        raw[TIME_BYTES..].copy_from_slice(&self.mac(time, client));
        let mut nonce = [0; NONCE_BYTES];
        nonce[..PREFIX_BYTES].copy_from_slice(&self.prefix);
        let written = URL_SAFE_NO_PAD.encode_slice(raw, &mut nonce[PREFIX_BYTES..]);
        debug_assert_eq!(written, Ok(NONCE_BYTES - PREFIX_BYTES));
        nonce
    }

    /// Says what `nonce` is worth when `client` sends it at `unix_secs`.
    pub(super) fn check(&self, nonce: &[u8], client: SocketAddr, unix_secs: u64) -> NonceState {
        let Some(encoded) = nonce.strip_prefix(&self.prefix) else {
            return NonceState::Wrong;
        };
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
        self.mac.hash(&bound).as_bytes()
    }
}
