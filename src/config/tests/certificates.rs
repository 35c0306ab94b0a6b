//! What `[tls]` and `[acme]` mean together.

use super::*;

#[test]
fn a_certificate_and_its_key_come_together() {
    assert_says(
        &mistake("[tls]\ncertificate = \"a.pem\"\n"),
        &["tls.certificate: a certificate needs its private key", "t.toml:2:15", "set tls.key"],
    );
    assert_says(&mistake("[tls]\nkey = \"a.pem\"\n"), &["a private key needs its certificate"]);
}

#[test]
fn the_source_of_the_certificate_follows_from_the_other_keys() {
    let mode = |text: &str| parse(text).expect("a configuration").config.tls_mode();
    let acme = |host: &str| format!("public_host = \"{host}\"\n[acme]\naccept_terms = true\n");
    assert_eq!(mode(""), TlsMode::Off);
    assert_eq!(mode("[web]\nlisten = \"0.0.0.0:443\"\n"), TlsMode::SelfSigned);
    assert_eq!(mode("[tls]\ncertificate = \"c\"\nkey = \"k\"\n"), TlsMode::Files);
    for host in ["live.example.org", "198.51.100.7", "2001:db8::7"] {
        assert_eq!(mode(&acme(host)), TlsMode::Acme, "{host}");
        assert_eq!(mode(&format!("public_host = \"{host}\"\n")), TlsMode::SelfSigned, "{host}");
    }
    let files = format!("{}[tls]\ncertificate = \"c\"\nkey = \"k\"\n", acme("live.example.org"));
    assert_eq!(mode(&files), TlsMode::Files);
    for host in [
        "10.0.0.7",
        "fd00::7",
        "studio",
        "studio.local",
        "a.internal",
        "studio.lan",
        "studio.home",
        "studio.corp",
        "my_studio.example.org",
    ] {
        assert_eq!(mode(&acme(host)), TlsMode::SelfSigned, "{host}");
        assert_says(&warnings(&acme(host)), &["no authority is asked", "the world can reach"]);
    }
    assert_eq!(mode(&acme("localhost")), TlsMode::Off);
    for word in ["off", "self-signed"] {
        let text = format!("{}[tls]\nmode = \"{word}\"\n", acme("live.example.org"));
        assert_says(&warnings(&text), &["no authority is asked: tls.mode is another"]);
    }
}

#[test]
fn what_no_authority_can_look_at_is_warned_of() {
    let acme = |more: &str| {
        let own = "public_host = \"live.example.org\"\n[acme]\naccept_terms = true\n";
        warnings(&format!("{own}{more}"))
    };
    assert_eq!(acme(""), "");
    let elsewhere = "[web]\nlisten = \"0.0.0.0:8443\"\n";
    let title = "no authority can look at us: tls-alpn-01 needs TCP port 443, http-01 needs TCP";
    assert_says(&acme(elsewhere), &[title, "set public_ports.tcp = 443"]);
    let without_80 = "challenges = [\"http-01\"]\n[web]\nlisten = \"0.0.0.0:443\"\n";
    assert_says(&acme(without_80), &["no authority can look at us: http-01 needs TCP port 80"]);
    assert_eq!(acme(&without_80.replace("443", "80")), "");
    assert_eq!(acme("[web]\nlisten = \"0.0.0.0:443\"\n"), "");
    assert_eq!(acme(&format!("{elsewhere}[public_ports]\ntcp = 443\n")), "");
    let behind = "[web]\nlisten = \"127.0.0.1:8080\"\ntrusted_proxies = [\"127.0.0.1\"]\n";
    assert_eq!(acme(behind), "", "a proxy may pass port 80 on");
    let inside = |more: &str| {
        let own = "public_host = \"192.168.1.5\"\n[tls]\nmode = \"acme\"\n[acme]\n";
        warnings(&format!("{own}accept_terms = true\n{more}"))
    };
    assert_says(&inside(""), &["no authority of the Internet certifies 192.168.1.5"]);
    assert_eq!(inside("directory = \"https://ca.internal/acme/directory\"\n"), "");
}

#[test]
fn what_a_source_of_certificates_needs_has_to_be_there() {
    let tls = |text: &str| mistake(&format!("[tls]\n{text}"));
    assert_says(&tls("mode = \"files\"\n"), &["there are no files", "set tls.certificate and"]);
    let acme = "public_host = \"a.example.org\"\n[tls]\nmode = \"acme\"\n";
    assert_says(&mistake(acme), &["the terms of the authority are not accepted", "read them"]);
    let host = "[tls]\nmode = \"acme\"\n[acme]\naccept_terms = true\n";
    assert_says(&mistake(host), &["an authority has to know the name", "set public_host"]);
    assert_says(&tls("mode = \"self\"\n"), &["allowed: \"auto\", \"files\", \"acme\""]);
    let section = |text: &str| mistake(&format!("[acme]\n{text}"));
    assert_says(&section("challenges = []\n"), &["without a challenge", "at least one"]);
    assert_says(&section("email = \"mailto:a@b.c\"\n"), &["did you mean \"a@b.c\"?"]);
    assert_says(&section("email = \"a b@c\"\n"), &["no e-mail address"]);
    assert_says(&section("directory = \"http://a/\"\n"), &["begins with https://"]);
    let own = "[web]\nlisten = \"0.0.0.0:443\"\n";
    assert_says(&warnings(own), &["browsers show a full-page warning", "on loopback"]);
    let unused = "[tls]\nmode = \"off\"\ncertificate = \"c\"\nkey = \"k\"\n";
    assert_says(&warnings(unused), &["tls.mode is another, so this file is not used"]);
}
