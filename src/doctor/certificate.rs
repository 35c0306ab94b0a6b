//! What browsers will think of the certificate of a `turns:` URL.
//!
//! They refuse TURN over TLS without a word when they do not trust it. So the doctor looks at the
//! certificate as they do, with the roots that this system trusts, but goes on whatever it sees:
//! what is wrong beyond the certificate is worth knowing, too.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring::default_provider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls::{RootCertStore, client::verify_server_name, server::ParsedCertificate};

/// What is to be said of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// An authority that this system trusts has signed it, for this host and for now.
    Trusted,
    /// Nobody but its own key has signed it.
    SelfSigned,
    /// It is for another name or address.
    OtherHost,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// Whoever signed it is unknown to this system, or the chain to them is not whole.
    UnknownAuthority,
    /// Something else.
    Broken,
}

impl Judgement {
    /// As `--json` says it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::SelfSigned => "self-signed",
            Self::OtherHost => "other-host",
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::UnknownAuthority => "unknown-authority",
            Self::Broken => "broken",
        }
    }

    fn of(error: &Error) -> Self {
        let Error::InvalidCertificate(error) = error else { return Self::Broken };
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::NotYetValid
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::OtherHost
            }
            // A bad signature: an authority of the same name is known, but it is another one.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                Self::UnknownAuthority
            }
            _ => Self::Broken,
        }
    }
}

/// A configuration for one examination, and where its judgement will stand.
pub(super) fn judged() -> Result<(Arc<ClientConfig>, Arc<Judge>), Error> {
    let provider = Arc::new(default_provider());
    let mut roots = RootCertStore::empty();
    // What cannot be read is what nobody trusts.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let judge = Arc::new(Judge::by(roots, Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<Judge>::clone(&judge))
        .with_no_client_auth();
    Ok((Arc::new(config), judge))
}

/// Verifies as a browser does; `None` without any root.
fn usual(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Option<Arc<WebPkiServerVerifier>> {
    let provider = Arc::clone(provider);
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()
}

/// Notes what it thinks of a certificate, and lets it pass. No secret goes over such a connection:
/// a TURN credential is never sent, only used to sign.
pub(super) struct Judge {
    usual: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    judgement: Mutex<Option<Judgement>>,
}

impl Judge {
    pub(super) fn by(roots: RootCertStore, provider: Arc<CryptoProvider>) -> Self {
        Self { usual: usual(roots, &provider), provider, judgement: Mutex::new(None) }
    }

    /// What it has thought; `None` before a handshake.
    pub(super) fn judgement(&self) -> Option<Judgement> {
        *self.judgement.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(
        &self,
        chain: (&CertificateDer<'_>, &[CertificateDer<'_>]),
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Judgement {
        let (leaf, others) = chain;
        let verified = match &self.usual {
            Some(usual) => usual.verify_server_cert(leaf, others, host, ocsp, now).map(|_| ()),
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        match verified.map_err(|error| Judgement::of(&error)) {
            Ok(()) => Judgement::Trusted,
            // Broken, because webpki takes no authority for a server, and many are made so.
            Err(Judgement::UnknownAuthority | Judgement::Broken)
                if self.is_self_signed(leaf, now) =>
            {
                Judgement::SelfSigned
            }
            // A wrong name matters more than who is unknown to this one system.
            Err(Judgement::UnknownAuthority) if !is_for(leaf, host) => Judgement::OtherHost,
            Err(judgement) => judgement,
        }
    }

    /// Whether the certificate is its own authority.
    fn is_self_signed(&self, leaf: &CertificateDer<'_>, now: UnixTime) -> bool {
        let mut roots = RootCertStore::empty();
        if roots.add(leaf.clone().into_owned()).is_err() {
            return false;
        }
        let Some(verifier) = usual(roots, &self.provider) else { return false };
        let host = ServerName::try_from("any.invalid").ok();
        let verified = host.map(|host| verifier.verify_server_cert(leaf, &[], &host, &[], now));
        let others = [CertificateError::UnknownIssuer, CertificateError::BadSignature];
        verified.is_some_and(|result| match result {
            Err(Error::InvalidCertificate(error)) => !others.contains(&error),
            _ => true,
        })
    }
}

fn is_for(leaf: &CertificateDer<'_>, host: &ServerName<'_>) -> bool {
    ParsedCertificate::try_from(leaf).is_ok_and(|leaf| verify_server_name(&leaf, host).is_ok())
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judgement = self.judge((leaf, others), host, ocsp, now);
        *self.judgement.lock().unwrap_or_else(PoisonError::into_inner) = Some(judgement);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, leaf, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("judgement", &self.judgement()).finish_non_exhaustive()
    }
}
