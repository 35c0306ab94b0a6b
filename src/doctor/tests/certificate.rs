//! What is thought of certificates of every kind.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use crate::doctor::certificate::{Judge, Judgement};

struct Authority(Issuer<'static, KeyPair>, CertificateDer<'static>);

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).expect("a root").der().clone();
        Self(Issuer::new(params, key), root)
    }

    fn sign(&self, name: &str, years: (i32, i32)) -> CertificateDer<'static> {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([name.to_owned()]).expect("parameters");
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        params.signed_by(&key, &self.0).expect("a certificate").der().clone()
    }
}

/// What somebody thinks who trusts `roots` and asks for `a.example`.
fn judged(roots: &[&Authority], leaf: &CertificateDer<'static>) -> Judgement {
    let mut store = RootCertStore::empty();
    for Authority(_, root) in roots {
        store.add(root.clone()).expect("a root");
    }
    let judge = Judge::by(store, Arc::new(default_provider()));
    let host = ServerName::try_from("a.example").expect("a name");
    assert_eq!(judge.judgement(), None);
    judge.verify_server_cert(leaf, &[], &host, &[], UnixTime::now()).expect("it goes on");
    judge.judgement().expect("it has thought something")
}

#[test]
fn a_certificate_is_judged_as_browsers_judge_it() {
    let (known, unknown) = (Authority::new(), Authority::new());
    let good = (2020, 2100);
    let judge = |leaf| judged(&[&known], &leaf);
    assert_eq!(judge(known.sign("a.example", good)), Judgement::Trusted);
    assert_eq!(judge(known.sign("b.example", good)), Judgement::OtherHost);
    assert_eq!(judge(known.sign("a.example", (2020, 2021))), Judgement::Expired);
    assert_eq!(judge(known.sign("a.example", (2099, 2100))), Judgement::NotYetValid);
    assert_eq!(judge(unknown.sign("a.example", good)), Judgement::UnknownAuthority);
    assert_eq!(judge(unknown.sign("b.example", good)), Judgement::OtherHost);
    let own = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
    assert_eq!(judge(own.cert.der().clone()), Judgement::SelfSigned);
    // As `openssl req -x509` makes it.
    assert_eq!(judge(unknown.1.clone()), Judgement::SelfSigned);
    assert_eq!(judge(CertificateDer::from(vec![1, 2, 3])), Judgement::Broken);
    let without_roots = judged(&[], &known.sign("a.example", good));
    assert_eq!(without_roots, Judgement::UnknownAuthority);
}
