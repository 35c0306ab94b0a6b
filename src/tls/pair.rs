//! A certificate chain with its private key, ready to be served.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use super::validity::{self, Validity};
use super::{Error, Trust, files};

/// A certificate chain with its private key. Cheap to clone.
#[derive(Clone)]
pub struct Pair {
    certified: Arc<CertifiedKey>,
    trust: Trust,
    validity: Option<Validity>,
}

impl Pair {
    /// Reads two PEM files and checks that they fit each other, the time, and the `host` that
    /// browsers will ask for.
    ///
    /// # Errors
    /// [`Error`] says which file is wrong, and what to do.
    pub fn read(
        certificate: &Path,
        key: &Path,
        host: Option<&str>,
        unix_secs: u64,
    ) -> Result<Self, Error> {
        files::read_pair(certificate, key, host, unix_secs)
    }

    /// A pair from PEM texts, as an authority or [`super::self_signed`] gives it.
    ///
    /// # Errors
    /// [`Error::Text`] when they hold no pair that can be served.
    pub fn from_pem(chain: &str, key: &str, trust: Trust) -> Result<Self, Error> {
        let (chain, key) = from_pem(chain, key)?;
        Self::new(chain, key, trust).map_err(|err| Error::Text { reason: err.to_string() })
    }

    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        trust: Trust,
    ) -> Result<Self, rustls::Error> {
        // Without a certificate there is nothing that the key could belong to.
        let Some(leaf) = chain.first() else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        // Serving bytes that are no certificate would fail in every browser instead of here.
        ParsedCertificate::try_from(leaf)?;
        let validity = Validity::read(leaf);
        let provider = rustls::crypto::ring::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider)?;
        Ok(Self { certified: Arc::new(certified), trust, validity })
    }

    /// What clients will think of it.
    pub const fn trust(&self) -> Trust {
        self.trust
    }

    /// From when on it is valid, in seconds since 1970; `None` when the date cannot be read.
    pub fn not_before(&self) -> Option<u64> {
        self.validity.map(|v| u64::try_from(v.not_before).unwrap_or(0))
    }

    /// Until when it is valid, in seconds since 1970; `None` when the date cannot be read.
    pub fn not_after(&self) -> Option<u64> {
        self.validity.map(|v| u64::try_from(v.not_after).unwrap_or(0))
    }

    /// Whether it is good for a name or an IP address (without brackets).
    pub fn covers(&self, host: &str) -> bool {
        let name = ServerName::try_from(host);
        let leaf = ParsedCertificate::try_from(self.leaf());
        matches!((name, leaf), (Ok(name), Ok(leaf)) if verify_server_name(&leaf, &name).is_ok())
    }

    /// SHA-256 of the certificate, as browsers show it: `AB:CD:...`.
    pub fn fingerprint(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, self.leaf());
        let bytes: Vec<_> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        bytes.join(":")
    }

    /// What RFC 9773, section 4.1, names a certificate by: the authority's key identifier and the
    /// serial number, both as the bytes in the certificate. `None` without the former.
    pub fn renewal_id(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        validity::renewal_id(self.leaf())
    }

    pub(super) const fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    fn leaf(&self) -> &CertificateDer<'static> {
        // `new` takes no empty chain.
        &self.certified.cert[0]
    }
}

/// The certificate that answers a challenge, not checked: it has an extension that nobody but an
/// authority understands, and it is marked as critical.
pub(super) fn challenge(chain: &str, key: &str) -> Result<Arc<CertifiedKey>, Error> {
    let (chain, key) = from_pem(chain, key)?;
    let provider = rustls::crypto::ring::default_provider();
    let key = provider.key_provider.load_private_key(key);
    let key = key.map_err(|err| Error::Text { reason: err.to_string() })?;
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

/// A chain and its private key in DER.
type Der = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn from_pem(chain: &str, key: &str) -> Result<Der, Error> {
    let text = |err: pem::Error| Error::Text { reason: err.to_string() };
    let chain =
        CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().map_err(text)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(text)?;
    Ok((chain, key))
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("trust", &self.trust).finish_non_exhaustive()
    }
}
