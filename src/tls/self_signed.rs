//! A certificate of our own making, for want of a better one.

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};
use time::{Duration, OffsetDateTime};

use super::Error;
use crate::telemetry::Secret;

/// Generates a key and a certificate that it signs itself, both as PEM: the certificate, and the
/// key. `names` are host names and IP addresses; the certificate is valid from an hour before
/// `unix_secs` for `days`.
///
/// # Errors
/// [`Error::Text`] when a name cannot stand in a certificate.
pub fn self_signed(
    names: &[String],
    unix_secs: u64,
    days: u32,
) -> Result<(String, Secret<String>), Error> {
    let text = |reason: rcgen::Error| Error::Text { reason: reason.to_string() };
    let key = KeyPair::generate().map_err(text)?;
    let mut params = CertificateParams::new(names.to_vec()).map_err(text)?;
    let now = OffsetDateTime::from_unix_timestamp(i64::try_from(unix_secs).unwrap_or(0))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    // Whose clock is a little slow shall not be told that the certificate is of the future.
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::days(i64::from(days));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Turncast self-signed");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.self_signed(&key).map_err(text)?;
    Ok((certificate.pem(), Secret::new(key.serialize_pem())))
}
