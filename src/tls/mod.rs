//! Certificate files: read, checked, and turned into what a TLS listener needs.
//!
//! What is wrong with the files is said here, at start, in a sentence that names the file; not
//! later by a browser. Certificates from a certificate authority and their renewal come later.

#[cfg(test)]
mod tests;
mod validity;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::net::Now;
use validity::Validity;

/// Why the certificate and its key cannot be used. Each text names the file and the likely fix.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system does not let us read the file.
    #[error(
        "cannot read {}: {source}; check the path and that the daemon's user may read it",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The file is no PEM file.
    #[error(
        "{} is not a PEM file ({reason}); it must hold lines from -----BEGIN to -----END",
        path.display()
    )]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate file holds no certificate.
    #[error("{} holds no certificate{hint}", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
        /// The likely mistake; empty when there is none.
        hint: &'static str,
    },
    /// The key file holds no private key.
    #[error("{} holds no private key{hint}", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// The likely mistake; empty when there is none.
        hint: &'static str,
    },
    /// The private key belongs to another certificate.
    #[error(
        "the private key in {} does not belong to the certificate in {}; both must come from the \
         same issue",
        key.display(),
        certificate.display()
    )]
    Mismatch {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// The certificate's time is over.
    #[error("the certificate in {} expired {ago}; renew it", path.display())]
    Expired {
        /// The file.
        path: PathBuf,
        /// How long ago.
        ago: String,
    },
    /// The certificate's time has not come.
    #[error(
        "the certificate in {} is valid only in {ahead}; is this machine's clock right?",
        path.display()
    )]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// How far ahead.
        ahead: String,
    },
    /// The TLS library refuses the pair for another reason.
    #[error(
        "the certificate in {} cannot be used with the key in {}: {source}",
        certificate.display(),
        key.display()
    )]
    Refused {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
        /// What the library says.
        source: rustls::Error,
    },
}

/// Reads a certificate chain and its private key, both PEM, and makes a configuration that speaks
/// TLS 1.2 and 1.3 and HTTP/1.1.
///
/// # Errors
/// [`Error`] says which file is wrong, and what to do.
pub fn load(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, Error> {
    load_at(certificate, key, Now::read().unix_secs)
}

/// The same certificate for clients of the relay: what they speak is TURN, or STUN alone
/// (RFC 7443, section 3), and who does not say what he speaks is taken for one of them.
pub fn for_turn(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"stun.turn".to_vec(), b"stun.nat-discovery".to_vec()];
    Arc::new(config)
}

fn load_at(certificate: &Path, key: &Path, unix_secs: u64) -> Result<Arc<ServerConfig>, Error> {
    let chain = read_chain(certificate)?;
    let private_key = read_key(key)?;
    let refused = |source| Error::Refused {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    };
    let leaf = chain.first().map(|leaf| leaf.as_ref().to_vec()).unwrap_or_default();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_no_client_auth()
        .with_single_cert(chain, private_key)
        .map_err(|source| match source {
            rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch) => {
                Error::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() }
            }
            source => refused(source),
        })?;
    check_time(certificate, &leaf, unix_secs)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read(path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|err| not_pem(path, &err))?;
    if chain.is_empty() {
        let hint = match Looks::like(&text) {
            Looks::Key => "; it holds a private key: are `certificate` and `key` swapped?",
            Looks::Der => "; it looks like DER: convert it to PEM with `openssl x509 -inform der`",
            Looks::EncryptedKey | Looks::Unknown => "",
        };
        return Err(Error::NoCertificate { path: path.to_owned(), hint });
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let text = read(path)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => {
            let certificate = contains(&text, b"-----BEGIN CERTIFICATE-----");
            let hint = match Looks::like(&text) {
                Looks::EncryptedKey => {
                    "; its key is encrypted: store it without a passphrase (`openssl pkey`)"
                }
                Looks::Der => "; it looks like DER: convert it to PEM with `openssl pkey`",
                _ if certificate => {
                    "; it holds a certificate: are `certificate` and `key` swapped?"
                }
                _ => "",
            };
            Err(Error::NoKey { path: path.to_owned(), hint })
        }
        Err(err) => Err(not_pem(path, &err)),
    }
}

fn not_pem(path: &Path, err: &pem::Error) -> Error {
    Error::NotPem { path: path.to_owned(), reason: err.to_string() }
}

fn check_time(path: &Path, leaf: &[u8], unix_secs: u64) -> Result<(), Error> {
    // A date that we cannot read is the browser's to judge: the library took the certificate.
    let Some(Validity { not_before, not_after }) = Validity::read(leaf) else {
        return Ok(());
    };
    let now = i64::try_from(unix_secs).unwrap_or(i64::MAX);
    if now > not_after {
        let ago = format!("{} ago", span(now - not_after));
        return Err(Error::Expired { path: path.to_owned(), ago });
    }
    if now < not_before {
        return Err(Error::NotYetValid { path: path.to_owned(), ahead: span(not_before - now) });
    }
    Ok(())
}

/// A length of time in the unit that a person would use.
fn span(secs: i64) -> String {
    let (count, unit) = match secs {
        ..=119 => (secs, "second"),
        120..=7_199 => (secs / 60, "minute"),
        7_200..=172_799 => (secs / 3_600, "hour"),
        _ => (secs / 86_400, "day"),
    };
    if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") }
}

/// What a file without the expected section seems to be.
enum Looks {
    Key,
    EncryptedKey,
    Der,
    Unknown,
}

impl Looks {
    fn like(text: &[u8]) -> Self {
        if contains(text, b"BEGIN ENCRYPTED PRIVATE KEY") || contains(text, b"Proc-Type: 4,ENC") {
            Self::EncryptedKey
        } else if contains(text, b"PRIVATE KEY-----") {
            Self::Key
        } else if text.starts_with(&[0x30]) {
            Self::Der
        } else {
            Self::Unknown
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
