//! Certificates from a certificate authority, by ACME (RFC 8555).

mod challenges;

pub use challenges::Challenges;
