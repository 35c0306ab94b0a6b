//! What `[tls]` and `[acme]` hold, and what their keys must mean together.

use serde::{Deserialize, Deserializer};

use super::keys::Config;
use super::load::Findings;
use super::problem::Problem;
use super::rules::is_loopback;
use super::values::{ChallengeKind, Host, TlsMode, TurnListen, TurnScheme, Written, written};
use crate::net::{Reach, reach};

impl Config {
    /// Where the certificate comes from, "auto" resolved.
    pub fn tls_mode(&self) -> TlsMode {
        match self.tls.mode {
            TlsMode::Auto if self.tls.certificate.is_some() => TlsMode::Files,
            TlsMode::Auto if self.acme.accept_terms && has_public_host(self) => TlsMode::Acme,
            TlsMode::Auto if self.web.listen.iter().all(|a| is_loopback(a.ip())) => TlsMode::Off,
            TlsMode::Auto => TlsMode::SelfSigned,
            mode => mode,
        }
    }

    /// Whether the web listener speaks HTTPS.
    pub fn is_https(&self) -> bool {
        self.tls_mode() != TlsMode::Off
    }
}

/// Whether an authority could reach `public_host`.
fn has_public_host(config: &Config) -> bool {
    match &config.public_host {
        Host::Auto => false,
        Host::Is(host) => match host.ip() {
            Some(ip) => reach(ip.to_canonical()) == Reach::Public,
            // No authority takes a name with `_`.
            None => host
                .text()
                .rsplit_once('.')
                .is_some_and(|(_, last)| !PRIVATE.contains(&last) && !host.text().contains('_')),
        },
    }
}

/// Top-level domains that are nobody's: RFC 6761, RFC 6762, RFC 8375, what ICANN reserves or gives
/// to nobody for the trouble that it would make, and what routers call the network at home.
const PRIVATE: [&str; 13] = [
    "arpa",
    "corp",
    "example",
    "home",
    "internal",
    "invalid",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "mail",
    "onion",
    "test",
];

/// Checks `[tls]` and `[acme]`.
pub(super) fn check(config: &Config, findings: &mut Findings) {
    files(config, findings);
    authority(config, findings);
    let mode = config.tls_mode();
    if mode == TlsMode::Off {
        let is_tls = |listen: &&TurnListen| listen.scheme == Some(TurnScheme::Tls);
        if let Some(listen) = config.turn.listen.iter().find(is_tls) {
            let title = format!("tls://{} needs a certificate", listen.address);
            let help = "set tls.certificate and tls.key, or another tls.mode, or use tcp://";
            findings.refuse("turn.listen", Problem::new(title).help(help));
        }
        let open = config.web.listen.iter().any(|address| !is_loopback(address.ip()));
        if open && config.web.trusted_proxies.is_empty() {
            let problem = Problem::new("browsers refuse the camera to pages without HTTPS");
            let help = "remove the line for HTTPS of our own; behind a proxy that ends HTTPS, set \
                        web.trusted_proxies to its address";
            findings.warn("tls.mode", problem.help(help));
        }
    } else if mode == TlsMode::SelfSigned {
        let problem = Problem::new(
            "the certificate is our own: browsers show a full-page warning before the first page, \
             and cannot use TURN over TLS",
        );
        findings.warn("tls.mode", problem.help(trusted_certificate(config)));
    }
}

/// How to come to a certificate that browsers trust.
fn trusted_certificate(config: &Config) -> String {
    let files = "or set tls.certificate and tls.key";
    if config.tls.mode == TlsMode::SelfSigned {
        return format!("tls.mode = \"auto\" gets one from an authority by [acme]; {files}");
    }
    if config.acme.accept_terms || !has_public_host(config) {
        return format!(
            "set public_host to a name or address that the world can reach, with \
             acme.accept_terms = true; {files}; behind a proxy that ends HTTPS let web.listen be \
             on loopback"
        );
    }
    format!("acme.accept_terms = true gets one from the authority{}; {files}", terms(config))
}

/// Where the terms stand, as far as that is known.
fn terms(config: &Config) -> &'static str {
    match config.acme.directory.text().contains("letsencrypt.org") {
        true => " (terms: https://letsencrypt.org/repository/)",
        false => "",
    }
}

fn files(config: &Config, findings: &mut Findings) {
    let mode = config.tls.mode;
    let uses_files = matches!(mode, TlsMode::Auto | TlsMode::Files);
    match (&config.tls.certificate, &config.tls.key) {
        (Some(_), None) if uses_files => {
            let problem = Problem::new("a certificate needs its private key");
            findings.refuse("tls.certificate", problem.help("set tls.key to the file"));
        }
        (None, Some(_)) if uses_files => {
            let problem = Problem::new("a private key needs its certificate");
            findings.refuse("tls.key", problem.help("set tls.certificate to the file"));
        }
        (None, None) if mode == TlsMode::Files => {
            let problem = Problem::new("there are no files");
            findings.refuse("tls.mode", problem.help("set tls.certificate and tls.key"));
        }
        (Some(_), _) if !uses_files => {
            let problem = Problem::new("tls.mode is another, so this file is not used");
            findings.warn("tls.certificate", problem);
        }
        _ => {}
    }
}

fn authority(config: &Config, findings: &mut Findings) {
    let acme = &config.acme;
    if acme.challenges.is_empty() {
        let problem = Problem::new("without a challenge no authority issues a certificate");
        findings.refuse("acme.challenges", problem.help("allowed: at least one"));
    }
    if config.tls.mode == TlsMode::Acme {
        if !acme.accept_terms {
            let problem = Problem::new("the terms of the authority are not accepted");
            let help = format!("read them, then set acme.accept_terms = true{}", terms(config));
            findings.refuse("tls.mode", problem.help(help));
        }
        if config.public_host == Host::Auto {
            let problem = Problem::new("an authority has to know the name or address");
            findings.refuse("tls.mode", problem.help("set public_host"));
        }
    } else if acme.accept_terms && config.tls_mode() != TlsMode::Acme {
        let why = if config.tls.mode != TlsMode::Auto {
            "tls.mode is another"
        } else if config.tls.certificate.is_some() {
            "tls.certificate is set"
        } else {
            "public_host is no name or address that the world can reach"
        };
        let problem = Problem::new(format!("no authority is asked: {why}"));
        findings.warn("acme.accept_terms", problem);
    }
    if config.tls_mode() == TlsMode::Acme {
        unreachable(config, findings);
    }
}

/// Warns of what no authority can look at: it comes to port 443 (tls-alpn-01) or 80 (http-01) of
/// `public_host`, and to no other.
fn unreachable(config: &Config, findings: &mut Findings) {
    let is_public_authority = config.acme.directory.text().contains("letsencrypt.org");
    if let Host::Is(host) = &config.public_host
        && is_public_authority
        && !has_public_host(config)
    {
        let title = format!("no authority of the Internet certifies {}", host.text());
        let help = "set public_host to a name or address that the world can reach, or \
                    acme.directory to an authority of your network";
        findings.warn("tls.mode", Problem::new(title).help(help));
    }
    // What a forwarder or a proxy makes of port 80 is not known here.
    let forwarded = config.public_ports.tcp;
    let passes_80 = forwarded.is_some() || !config.web.trusted_proxies.is_empty();
    let listens =
        |port: u16| config.web.listen.iter().any(|a| a.port() == port && !is_loopback(a.ip()));
    let can = |kind: &ChallengeKind| match kind {
        ChallengeKind::TlsAlpn01 => forwarded.map_or(listens(443), |port| port == 443),
        ChallengeKind::Http01 => passes_80 || listens(80),
    };
    if !config.acme.challenges.is_empty() && !config.acme.challenges.iter().any(can) {
        let port = |kind: &ChallengeKind| match kind {
            ChallengeKind::TlsAlpn01 => "tls-alpn-01 needs TCP port 443",
            ChallengeKind::Http01 => "http-01 needs TCP port 80",
        };
        let ports: Vec<&str> = config.acme.challenges.iter().map(port).collect();
        let title = format!("no authority can look at us: {}", ports.join(", "));
        let help = "add such a listener to web.listen; where a forwarder leads port 443 to one of \
                    them, set public_ports.tcp = 443";
        findings.warn("acme.challenges", Problem::new(title).help(help));
    }
}

/// An e-mail address, checked for what would break a `mailto:` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl Written for Email {
    fn parse(text: &str) -> Result<Self, String> {
        let part = |part: &str| {
            let breaks = |c: char| !c.is_ascii_graphic() || "@,?:<>%&".contains(c);
            !part.is_empty() && !part.contains(breaks)
        };
        match text.strip_prefix("mailto:") {
            Some(bare) => Err(format!("only the address stands here; did you mean \"{bare}\"?")),
            None => match text.rsplit_once('@') {
                Some((name, host)) if part(name) && part(host) => Ok(Self(text.to_owned())),
                _ => Err("no e-mail address".to_owned()),
            },
        }
    }
}

/// The URL of an authority's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryUrl(String);

impl DirectoryUrl {
    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl Written for DirectoryUrl {
    fn parse(text: &str) -> Result<Self, String> {
        let host = text.strip_prefix("https://").and_then(|rest| rest.split('/').next());
        match host {
            Some(host) if !host.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) => {
                Ok(Self(text.to_owned()))
            }
            Some(_) => Err("no URL".to_owned()),
            None => Err("the URL of an authority begins with https://".to_owned()),
        }
    }
}

impl<'de> Deserialize<'de> for Email {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        written(deserializer)
    }
}

impl<'de> Deserialize<'de> for DirectoryUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        written(deserializer)
    }
}
