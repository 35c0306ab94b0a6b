//! Certificate files: read and checked.
//!
//! What is wrong with the files is said here, at start and at each reload, in a sentence that
//! names the file; not later by a browser.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::pair::Pair;
use super::validity::Validity;
use super::{Error, Trust};

/// Reads and checks a pair; see [`Pair::read`].
pub(super) fn read_pair(
    certificate: &Path,
    key: &Path,
    host: Option<&str>,
    unix_secs: u64,
) -> Result<Pair, Error> {
    let chain = read_chain(certificate)?;
    let private_key = read_key(key)?;
    let leaf = chain.first().map(|leaf| leaf.as_ref().to_vec()).unwrap_or_default();
    let pair = Pair::new(chain, private_key, Trust::Trusted).map_err(|source| match source {
        rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch) => {
            Error::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() }
        }
        source => {
            let (certificate, key) = (certificate.to_owned(), key.to_owned());
            Error::Refused { certificate, key, source }
        }
    })?;
    check_time(certificate, &leaf, unix_secs)?;
    match host {
        Some(host) if !pair.covers(host) => {
            let (path, host) = (certificate.to_owned(), host.to_owned());
            Err(Error::WrongHost { path, host })
        }
        _ => Ok(pair),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| match source.kind() {
        ErrorKind::PermissionDenied => {
            Error::Unreadable { path: path.to_owned(), owner: owner(path), source }
        }
        _ => Error::Read { path: path.to_owned(), source },
    })
}

/// Who may read the file, as far as we are allowed to know, and who we are.
fn owner(path: &Path) -> String {
    // The owner of our own entry is whom we run as.
    let own = std::fs::metadata("/proc/self").map(|own| format!("this is user {}", own.uid()));
    let own = own.unwrap_or_default();
    match std::fs::metadata(path) {
        Ok(file) => {
            let (uid, gid, mode) = (file.uid(), file.gid(), file.mode() & 0o777);
            format!(" (it belongs to user {uid} and group {gid}, mode {mode:o}; {own})")
        }
        Err(_) => format!(" (not even its directory can be entered; {own})"),
    }
}

pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
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
        let (path, ahead) = (path.to_owned(), span(not_before - now));
        let from = u64::try_from(not_before).unwrap_or(0);
        return Err(Error::NotYetValid { path, ahead, from });
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
