use std::fs;
use std::path::PathBuf;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::files::read_chain;
use super::validity::{Validity, renewal_id};

/// A certificate for 2020 to 2040, and its key.
struct Pair {
    directory: TempDir,
}

/// 2026-01-01.
const NOW: u64 = 1_767_225_600;

impl Pair {
    fn new() -> Self {
        let pair = Self { directory: tempfile::tempdir().expect("a directory") };
        let key = KeyPair::generate().expect("a key");
        let mut params =
            CertificateParams::new(vec!["live.example".to_owned()]).expect("parameters");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2040, 1, 1);
        let certificate = params.self_signed(&key).expect("a certificate");
        pair.write("cert.pem", certificate.pem());
        pair.write("key.pem", key.serialize_pem());
        pair
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).expect("a file");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("a file")
    }

    fn load_at(&self, certificate: &str, key: &str, unix_secs: u64) -> Result<(), String> {
        self.load_for(None, certificate, key, unix_secs)
    }

    fn load_for(
        &self,
        host: Option<&str>,
        certificate: &str,
        key: &str,
        unix_secs: u64,
    ) -> Result<(), String> {
        super::Pair::read(&self.path(certificate), &self.path(key), host, unix_secs)
            .map(|_| ())
            .map_err(|err| err.to_string())
    }

    /// Why the two files are refused.
    fn refusal(&self, certificate: &str, key: &str) -> String {
        self.load_at(certificate, key, NOW).expect_err("they are refused")
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let pair = Pair::new();
    let text = pair.refusal("none.pem", "key.pem");
    assert!(text.contains("none.pem") && text.contains("check the path"), "{text}");
    let text = pair.refusal("cert.pem", "none.pem");
    assert!(text.contains("none.pem"), "{text}");
}

#[test]
fn the_key_of_another_certificate_is_refused() {
    let (pair, other) = (Pair::new(), Pair::new());
    pair.write("other.pem", other.read("key.pem"));
    let text = pair.refusal("cert.pem", "other.pem");
    assert!(text.contains("other.pem does not belong to the certificate in"), "{text}");
    assert!(text.contains("cert.pem"), "{text}");
}

#[test]
fn swapped_files_are_recognised() {
    let pair = Pair::new();
    let text = pair.refusal("key.pem", "cert.pem");
    assert!(text.contains("key.pem holds no certificate; it holds a private key"), "{text}");
    let text = pair.refusal("cert.pem", "cert.pem");
    assert!(text.contains("cert.pem holds no private key; it holds a certificate"), "{text}");
}

#[test]
fn files_of_another_form_are_told_how_to_become_pem() {
    let pair = Pair::new();
    pair.write("empty.pem", "");
    pair.write("cert.der", [0x30, 0x82, 1, 0]);
    pair.write("cut.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    pair.write(
        "locked.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    pair.write("noise.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    for (certificate, key, part) in [
        ("empty.pem", "key.pem", "empty.pem holds no certificate"),
        ("cert.der", "key.pem", "openssl x509 -inform der"),
        ("cut.pem", "key.pem", "cut.pem is not a PEM file"),
        ("cert.pem", "locked.pem", "its key is encrypted"),
        ("cert.pem", "empty.pem", "empty.pem holds no private key"),
        ("noise.pem", "key.pem", "noise.pem cannot be used with the key in"),
    ] {
        let text = pair.refusal(certificate, key);
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_certificate_out_of_its_time_is_refused() {
    let pair = Pair::new();
    let at = |unix_secs| pair.load_at("cert.pem", "key.pem", unix_secs);
    // 2040-01-01 and 2020-01-01.
    let (end, start) = (2_208_988_800, 1_577_836_800);
    assert_eq!(at(end), Ok(()));
    let text = at(end + 3 * 86_400).expect_err("it is over");
    assert!(text.contains("cert.pem expired 3 days ago; renew it"), "{text}");
    assert_eq!(at(start), Ok(()));
    let text = at(start - 3600).expect_err("it has not begun");
    assert!(text.contains("valid only in 60 minutes; is this machine's clock right?"), "{text}");
}

#[test]
fn dates_are_read_in_both_spellings() {
    let pair = Pair::new();
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["live.example".to_owned()]).expect("parameters");
    // RFC 5280: years to 2049 have two digits, later ones four.
    params.not_before = date_time_ymd(1999, 12, 31);
    params.not_after = date_time_ymd(2100, 3, 1);
    let certificate = params.self_signed(&key).expect("a certificate");
    let validity = Validity::read(certificate.der()).expect("two dates");
    assert_eq!(validity.not_before, 946_598_400);
    assert_eq!(validity.not_after, 4_107_542_400);
    pair.write("cert.pem", certificate.pem());
    pair.write("key.pem", key.serialize_pem());
    assert_eq!(pair.load_at("cert.pem", "key.pem", NOW), Ok(()));
}

#[test]
fn a_cut_or_mangled_certificate_has_no_dates_and_no_panic() {
    let pair = Pair::new();
    let chain = read_chain(&pair.path("cert.pem")).expect("a chain");
    let der = chain[0].as_ref();
    assert!(Validity::read(der).is_some());
    for len in 0..der.len() {
        assert_eq!(Validity::read(&der[..len]), None, "a certificate cut to {len} bytes");
    }
    let mut mangled = der.to_vec();
    for index in 0..mangled.len().min(300) {
        for byte in [0x00, 0x7f, 0x80, 0x84, 0xff] {
            let was = std::mem::replace(&mut mangled[index], byte);
            let _ = Validity::read(&mangled);
            mangled[index] = was;
        }
    }
}

#[test]
fn a_certificate_for_another_host_is_refused_and_no_host_is_no_matter() {
    let pair = Pair::new();
    let load = |host: Option<&str>| pair.load_for(host, "cert.pem", "key.pem", NOW);
    assert_eq!(load(Some("live.example")), Ok(()));
    assert_eq!(load(None), Ok(()));
    for host in ["other.example", "192.0.2.1"] {
        let text = load(Some(host)).expect_err("it is for another");
        assert!(text.contains(&format!("cert.pem is not for {host}")), "{text}");
    }
}

#[test]
fn a_certificate_of_our_own_names_addresses_and_is_made_for_a_while() {
    let names = ["192.0.2.7", "2001:db8::7", "live.example"].map(str::to_owned);
    let (chain, key) = super::self_signed(&names, NOW, 397).expect("a certificate");
    let pair = super::Pair::from_pem(&chain, key.expose(), super::Trust::SelfSigned);
    let pair = pair.expect("a pair");
    assert!(names.iter().all(|name| pair.covers(name)) && !pair.covers("192.0.2.8"));
    assert_eq!(pair.not_before(), Some(NOW - 3600));
    assert_eq!(pair.not_after(), Some(NOW + 397 * 86_400));
    assert_eq!(pair.fingerprint().len(), 95);
    assert_eq!(pair.renewal_id(), None);
}

/// Made as RFC 9773, section 4.1, has it: the two values that name a certificate.
#[test]
fn what_names_a_certificate_is_found_in_it() {
    let mut ca = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(vec![0xc0, 0xff, 0xee]);
    let ca = rcgen::Issuer::new(ca, KeyPair::generate().expect("a key"));
    let mut params = CertificateParams::new(vec!["live.example".to_owned()]).expect("parameters");
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x87, 0x65]));
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().expect("a key");
    let der = params.signed_by(&key, &ca).expect("a certificate");
    let der: &[u8] = der.der();
    // The serial keeps the zero that makes it positive.
    let expected = (vec![0xc0, 0xff, 0xee], vec![0x00, 0x87, 0x65]);
    assert_eq!(renewal_id(der), Some(expected));
    for len in 0..der.len() {
        assert_eq!(renewal_id(&der[..len]), None, "a certificate cut to {len} bytes");
    }
}

#[test]
fn a_certificate_that_has_ended_is_trusted_by_nobody() {
    let key = KeyPair::generate().expect("a key");
    let trusted = |end: i32| {
        let mut params =
            CertificateParams::new(vec!["live.example".to_owned()]).expect("parameters");
        params.not_before = date_time_ymd(2010, 1, 1);
        params.not_after = date_time_ymd(end, 1, 1);
        let chain = params.self_signed(&key).expect("a certificate").pem();
        let pair = super::Pair::from_pem(&chain, &key.serialize_pem(), super::Trust::Trusted);
        let served = super::Certificates::new(pair.expect("a pair"), "acme");
        [served.are_trusted_for("live.example"), served.are_trusted()]
    };
    assert_eq!(trusted(4000), [true, true]);
    assert_eq!(trusted(2020), [false, false], "browsers look at the date, too");
}
