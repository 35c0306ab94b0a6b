//! What can be wrong with a certificate and its key, each in a sentence that says what to do.

use std::path::PathBuf;

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
    /// The file exists and is closed to us.
    #[error(
        "{} cannot be read by the daemon's user{owner}: {source}; hand it over with \
         LoadCredential= or SupplementaryGroups= in the unit (see the README), or change its group",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Who may read it, and who we are.
        owner: String,
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
        /// From when on it is valid, in seconds since 1970.
        from: u64,
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
    /// The certificate is not for the host that browsers ask for.
    #[error(
        "the certificate in {} is not for {host}, which public_host says that browsers ask for; \
         correct one of the two",
        path.display()
    )]
    WrongHost {
        /// The file.
        path: PathBuf,
        /// `public_host`.
        host: String,
    },
    /// A pair that was not read from files cannot be served.
    #[error("the certificate cannot be used: {reason}")]
    Text {
        /// What is wrong with it.
        reason: String,
    },
}
