//! The two dates of an X.509 certificate, and what an authority names it by.
//!
//! The TLS library checks a server's own certificate for form, not for time. The walk goes only
//! as far as is needed: `Certificate { TBSCertificate { [0] version, serialNumber, signature,
//! issuer, validity { notBefore, notAfter }, ..., [3] extensions } }` (RFC 5280 §4.1).

/// When a certificate is valid, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

impl Validity {
    /// Reads the dates from a certificate in DER; `None` when they are not where they belong.
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let (certificate, _) = element(der, SEQUENCE)?;
        let (mut fields, _) = element(certificate, SEQUENCE)?;
        if fields.first() == Some(&VERSION) {
            fields = element(fields, VERSION)?.1;
        }
        for tag in [INTEGER, SEQUENCE, SEQUENCE] {
            fields = element(fields, tag)?.1;
        }
        let (dates, _) = element(fields, SEQUENCE)?;
        let (not_before, rest) = time(dates)?;
        let (not_after, _) = time(rest)?;
        Some(Self { not_before, not_after })
    }
}

/// The key identifier of the authority (RFC 5280 §4.2.1.1) and the serial number, as they stand in
/// a certificate in DER.
pub(super) fn renewal_id(der: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut fields, _) = element(certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields, VERSION)?.1;
    }
    let (serial, mut fields) = element(fields, INTEGER)?;
    while fields.first()? != &EXTENSIONS {
        fields = element(fields, *fields.first()?)?.1;
    }
    let (extensions, _) = element(fields, EXTENSIONS)?;
    let (mut extensions, _) = element(extensions, SEQUENCE)?;
    while !extensions.is_empty() {
        let (extension, rest) = element(extensions, SEQUENCE)?;
        extensions = rest;
        let (id, value) = element(extension, OBJECT_ID)?;
        if id == AUTHORITY_KEY_ID {
            let (value, _) = element(value, OCTET_STRING)?;
            let (value, _) = element(value, SEQUENCE)?;
            let (key_id, _) = element(value, KEY_ID)?;
            return Some((key_id.to_vec(), serial.to_vec()));
        }
    }
    None
}

/// Splits the first element off: its content, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    if found != tag {
        return None;
    }
    let (&first, mut rest) = rest.split_first()?;
    let mut len = usize::from(first);
    if first & 0x80 != 0 {
        let count = usize::from(first & 0x7f);
        if !(1..=4).contains(&count) {
            return None;
        }
        let (digits, after) = rest.split_at_checked(count)?;
        len = digits.iter().fold(0, |len, &digit| len << 8 | usize::from(digit));
        rest = after;
    }
    rest.split_at_checked(len)
}

/// A UTCTime (two-digit year) or GeneralizedTime, both in the `Z` form that RFC 5280 asks for.
fn time(der: &[u8]) -> Option<(i64, &[u8])> {
    let tag = *der.first()?;
    let (text, rest) = element(der, tag)?;
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |part: &[u8]| part.iter().fold(0, |n, &digit| n * 10 + i64::from(digit - b'0'));
    let (year, digits) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let year = number(&digits[..2]);
            // RFC 5280 §4.1.2.5.1: 50 to 99 belong to the last century.
            (if year >= 50 { 1900 + year } else { 2000 + year }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let part = |index: usize| number(&digits[index * 2..index * 2 + 2]);
    let (month, day) = (part(0), part(1));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let secs = part(2) * 3600 + part(3) * 60 + part(4);
    Some((days_from_1970(year, month, day) * 86_400 + secs, rest))
}

/// Days of the Gregorian calendar since 1970-01-01; years run from March, so that the leap day is
/// the last one.
fn days_from_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - DAYS_TO_1970
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const OBJECT_ID: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
/// `[0] keyIdentifier`, a primitive.
const KEY_ID: u8 = 0x80;
/// 2.5.29.35.
const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// From 0000-03-01 to 1970-01-01.
const DAYS_TO_1970: i64 = 719_468;
