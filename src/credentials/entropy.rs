//! Randomness as an argument: a CSPRNG that is seeded once, from outside.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A ChaCha20 generator. `daemon` seeds it from the operating system; tests seed it with a number
/// that they print, so that a failure can be replayed.
pub struct Entropy(ChaCha20Rng);

impl Entropy {
    /// A generator whose whole output follows from `seed`.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }

    /// Fills `bytes` with random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    /// A random number of 64 bits.
    pub fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number from 0 to `bound - 1`, each equally likely; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        if bound == 0 {
            return 0;
        }
        // Reject the last, incomplete run of `bound` numbers: a remainder alone favours small ones.
        let complete = (1 << 32) / u64::from(bound) * u64::from(bound);
        loop {
            let drawn = self.0.next_u32();
            if u64::from(drawn) < complete {
                return drawn % bound;
            }
        }
    }

    /// `bytes` random bytes as URL-safe base64 without padding: 16 bytes give 22 characters.
    pub fn token(&mut self, bytes: usize) -> String {
        let mut raw = vec![0; bytes];
        self.fill(&mut raw);
        URL_SAFE_NO_PAD.encode(raw)
    }

    /// `len` characters, each drawn from `alphabet`.
    pub fn text(&mut self, alphabet: &[u8], len: usize) -> String {
        let letters = u32::try_from(alphabet.len()).unwrap_or(u32::MAX);
        (0..len).map(|_| char::from(alphabet[self.below(letters) as usize])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_is_uniform_and_in_bounds() {
        let mut entropy = Entropy::from_seed([7; 32]);
        let mut counts = [0u32; 10];
        for _ in 0..100_000 {
            counts[entropy.below(10) as usize] += 1;
        }
        for count in counts {
            assert!((9_500..10_500).contains(&count), "{counts:?}");
        }
        assert_eq!(entropy.below(0), 0);
        assert_eq!(entropy.below(1), 0);
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens() {
        let tokens = |seed| {
            let mut entropy = Entropy::from_seed([seed; 32]);
            (entropy.token(16), entropy.token(16), entropy.text(b"abc", 10))
        };
        assert_eq!(tokens(1), tokens(1));
        assert_ne!(tokens(1), tokens(2));
        let (first, second, _) = tokens(1);
        assert_ne!(first, second);
        assert_eq!(first.len(), 22);
    }
}
