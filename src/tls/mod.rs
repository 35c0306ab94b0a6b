//! Certificates: where they come from, and how the listeners get at them while they change.
//!
//! The straight line: a [`Pair`] is read from files, generated, or handed over by whoever got it
//! from a certificate authority; [`Certificates`] holds the one that is served; each TLS listener
//! takes an [`Offer`] of it, with the protocols that it speaks, and asks the offer anew for every
//! connection. Installing another pair changes what new connections get; running ones stay as they
//! are. Nothing here writes files or waits for anything: that is the business of `daemon`.

mod error;
mod files;
mod pair;
mod resolver;
mod self_signed;
#[cfg(test)]
mod tests;
mod validity;

pub use error::Error;
pub use pair::Pair;
pub use resolver::{ACME_TLS_ALPN, Certificates, Offer, Trouble};
pub use self_signed::self_signed;

/// What a client will think of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Signed by an authority, as far as we know: it came from files or by ACME.
    Trusted,
    /// Our own: browsers warn before the page, and refuse TURN over TLS without a word.
    SelfSigned,
}
