//! The certificate that is served, and the ones that answer an authority's challenge.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use super::{Error, Pair, Trust, pair};
use crate::net::Now;

/// The protocol by which an authority asks for a challenge certificate (RFC 8737, section 6.1).
/// Nothing is ever said inside it.
pub const ACME_TLS_ALPN: &[u8] = b"acme-tls/1";

/// The certificate that every TLS listener serves, and that can be exchanged while they do.
/// Clones are handles to the same one.
#[derive(Clone)]
pub struct Certificates(Arc<Inner>);

struct Inner {
    served: RwLock<Pair>,
    source: &'static str,
    trouble: RwLock<Option<Trouble>>,
    installs: watch::Sender<()>,
    /// Keyed by the name that the authority sends as SNI; there are as many as a certificate has
    /// names, and only while an order is open.
    challenges: RwLock<HashMap<String, Arc<CertifiedKey>>>,
}

impl Certificates {
    /// Serves `pair` until another one is installed. `source` is the word of `tls.mode` for where
    /// it comes from.
    pub fn new(pair: Pair, source: &'static str) -> Self {
        Self(Arc::new(Inner {
            served: RwLock::new(pair),
            source,
            trouble: RwLock::default(),
            installs: watch::Sender::default(),
            challenges: RwLock::default(),
        }))
    }

    /// The word of `tls.mode` for where it comes from, or will come from.
    pub fn source(&self) -> &'static str {
        self.0.source
    }

    /// Notes why there is no better certificate; `None` when all is well.
    pub fn note(&self, trouble: Option<Trouble>) {
        *self.0.trouble.write().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Why there is no better certificate, when that is so.
    pub fn trouble(&self) -> Option<Trouble> {
        self.0.trouble.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves `pair` to every connection that comes from now on.
    pub fn install(&self, pair: Pair) {
        *self.0.served.write().unwrap_or_else(PoisonError::into_inner) = pair;
        self.0.installs.send_replace(());
    }

    /// Changes whenever a pair is installed from now on.
    pub fn installs(&self) -> watch::Receiver<()> {
        self.0.installs.subscribe()
    }

    /// The pair that is served now.
    pub fn served(&self) -> Pair {
        self.0.served.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether clients trust the pair that is served now, for the hosts that it is for. One that
    /// could not be renewed in time ends while it is served.
    pub fn are_trusted(&self) -> bool {
        let served = self.served();
        let lasts = served.not_after().is_none_or(|end| end > Now::read().unix_secs);
        served.trust() == Trust::Trusted && lasts
    }

    /// Whether a client that asks for `host`, a name or an IP address without brackets, will trust
    /// the pair that is served now.
    pub fn are_trusted_for(&self, host: &str) -> bool {
        self.are_trusted() && self.served().covers(host)
    }

    /// Answers a challenge by tls-alpn-01 (RFC 8737) for the SNI `name` with this certificate and
    /// its key, both PEM, until [`Certificates::close_challenge`].
    ///
    /// # Errors
    /// [`Error::Text`] when the texts cannot be read.
    pub fn open_challenge(&self, name: &str, chain: &str, key: &str) -> Result<(), Error> {
        let answer = pair::challenge(chain, key)?;
        let mut challenges = self.0.challenges.write().unwrap_or_else(PoisonError::into_inner);
        challenges.insert(name.to_ascii_lowercase(), answer);
        Ok(())
    }

    /// Answers no challenge for the SNI `name` any more.
    pub fn close_challenge(&self, name: &str) {
        let mut challenges = self.0.challenges.write().unwrap_or_else(PoisonError::into_inner);
        challenges.remove(&name.to_ascii_lowercase());
    }

    /// Whether an authority may ask for a challenge certificate now.
    pub fn challenge_open(&self) -> bool {
        !self.0.challenges.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// What a listener offers that speaks these protocols, in the order of preference. Who names
    /// no protocol gets in, too; who names others only does not.
    pub fn offer(&self, alpn: &[&[u8]]) -> Offer {
        let mut normal = self.server_config();
        normal.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let mut challenge = normal.clone();
        challenge.alpn_protocols.push(ACME_TLS_ALPN.to_vec());
        let certificates = self.clone();
        Offer { certificates, normal: Arc::new(normal), challenge: Arc::new(challenge) }
    }

    fn server_config(&self) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver(self.clone())));
        // The strongest suite that both know, whatever a client puts first.
        config.ignore_client_order = true;
        config
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("served", &self.served()).finish_non_exhaustive()
    }
}

/// Why the certificate that should be served is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What was said by whoever refused.
    pub reason: String,
    /// What is likely the matter, if anybody knows.
    pub likely_cause: Option<String>,
    /// When it is tried again, in seconds since 1970; `None`: when something changes.
    pub next_try: Option<u64>,
}

/// What one kind of listener offers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Offer {
    certificates: Certificates,
    normal: Arc<ServerConfig>,
    /// As `normal`, with [`ACME_TLS_ALPN`] beside the other protocols.
    challenge: Arc<ServerConfig>,
}

impl Offer {
    /// The configuration for the next connection: ask for every one, because what is offered
    /// depends on whether a challenge is open.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let open = self.certificates.challenge_open();
        Arc::clone(if open { &self.challenge } else { &self.normal })
    }
}

#[derive(Debug)]
struct Resolver(Certificates);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // RFC 8737 §3: the authority names this protocol and no other.
        let is_challenge = hello.alpn().is_some_and(|protocols| protocols.eq([ACME_TLS_ALPN]));
        if is_challenge {
            let challenges = self.0.0.challenges.read().unwrap_or_else(PoisonError::into_inner);
            return challenges.get(&hello.server_name()?.to_ascii_lowercase()).cloned();
        }
        // Whatever name is asked for, and without any (https to an IP address): there is one
        // certificate, and the browser says when it does not fit.
        Some(Arc::clone(self.0.served().certified()))
    }
}
