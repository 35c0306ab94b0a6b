//! Certificates from a certificate authority, by ACME (RFC 8555), for names and for IP addresses
//! (RFC 8738).
//!
//! The straight line: [`Client::open`] looks at what is kept from earlier; [`Client::run`] sleeps
//! until a certificate is due, orders it, answers the authority's challenges through
//! [`Challenges`] and [`Hooks::open_tls_challenge`], and hands the new pair to
//! [`Hooks::install`]. When it is due: what the authority suggests (RFC 9773), else two thirds of
//! its life. What fails is tried again, later and later, and never sooner than the authority
//! says; until then the old certificate goes on.
//!
//! Nothing but the configured authority is ever asked, and nothing at all unless somebody calls
//! [`Client::run`]: the operator has accepted the terms before. This room knows no TLS listener
//! and no directory: both are behind [`Hooks`].

mod challenges;
mod client;
mod failure;
mod http;
mod kept;
mod order;
mod schedule;

use std::time::Duration;

pub use challenges::Challenges;
pub use client::Client;
pub use failure::Failure;
pub use kept::{last_failure, order_due, renewed_at};

use serde::{Deserialize, Serialize};

use crate::telemetry::Secret;

/// How the authority may find out that a name is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Challenge {
    /// It connects to port 443 with the protocol `acme-tls/1` (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// It fetches a page from port 80 (RFC 8555, section 8.3).
    #[serde(rename = "http-01")]
    Http01,
}

impl Challenge {
    /// The name of RFC 8555 and RFC 8737.
    pub const fn text(self) -> &'static str {
        match self {
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Http01 => "http-01",
        }
    }
}

/// What to ask for, and whom. Plain data, filled by `daemon`.
#[derive(Debug, Clone)]
pub struct Options {
    /// The URL of the authority's directory, with `https://`.
    pub directory: String,
    /// PEM of the roots that the directory's own certificate is checked against; `None`: those of
    /// the system.
    pub root_certificate: Option<String>,
    /// Whom the authority may write to.
    pub email: Option<String>,
    /// The names and IP addresses of the certificate, without brackets.
    pub hosts: Vec<String>,
    /// What to answer challenges by, the best first. Not empty.
    pub challenges: Vec<Challenge>,
    /// How long to wait after the first failure; twice as long after each further one.
    pub retry: Duration,
}

/// A certificate chain and its key, both PEM.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate, and those between it and the authority's root.
    pub chain: String,
    /// The private key.
    pub key: Secret<String>,
}

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Seconds since 1970 from when on it is valid.
    pub not_before: u64,
    /// Seconds since 1970 until when it is valid.
    pub not_after: u64,
    /// The authority's key identifier and the serial number (RFC 9773, section 4.1).
    pub renewal_id: Option<(Vec<u8>, Vec<u8>)>,
}

/// What the surroundings do for the client. Errors are texts: they are shown to the operator.
pub struct Hooks {
    /// Reads a file of the state directory; `None` when there is none.
    pub read: ReadHook,
    /// Writes a file of the state directory with mode 0600; `None` removes it.
    pub write: WriteHook,
    /// Looks at a certificate and refuses what cannot be served.
    pub inspect: InspectHook,
    /// Serves the certificate from now on.
    pub install: InspectHook,
    /// Answers a challenge for this SNI with this pair; without a pair no longer.
    pub open_tls_challenge: TlsChallengeHook,
    /// Told of each failure, and of `None` when all is well again.
    pub note: NoteHook,
}

/// See [`Hooks::read`].
pub type ReadHook = Box<dyn Fn(&str) -> Result<Option<String>, String> + Send + Sync>;
/// See [`Hooks::write`].
pub type WriteHook = Box<dyn Fn(&str, Option<&str>) -> Result<(), String> + Send + Sync>;
/// See [`Hooks::inspect`].
pub type InspectHook = Box<dyn Fn(&Issued) -> Result<Facts, String> + Send + Sync>;
/// See [`Hooks::open_tls_challenge`].
pub type TlsChallengeHook = Box<dyn Fn(&str, Option<&Issued>) -> Result<(), String> + Send + Sync>;
/// See [`Hooks::note`].
pub type NoteHook = Box<dyn Fn(Option<&Failure>) + Send + Sync>;
