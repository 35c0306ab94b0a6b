//! What a person is told: the friendly lines at start, the report of `turncast check`, and the
//! links to the pages.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::addresses::best;
use super::certificates::Look;
use super::options;
use crate::config::{Config, Host, Loaded, Publish, TlsMode};
use crate::doctor::in_lines;
use crate::telemetry::Secret;
use crate::tls::Certificates;
use crate::turn::{DiscoveryPair, NatDiscovery, RelayAddress};
use crate::web::{self, TurnListener};

/// What is bound, or would be.
#[derive(Debug)]
pub(super) struct Listeners {
    /// Pages and signaling.
    pub(super) web: Vec<SocketAddr>,
    /// The relay.
    pub(super) turn: Vec<TurnListener>,
    /// What the relay listens on for NAT behaviour discovery alone.
    pub(super) discovery: Vec<SocketAddr>,
    /// Metrics and health.
    pub(super) admin: Vec<SocketAddr>,
}

impl Listeners {
    /// As the configuration asks for them.
    pub(super) fn asked(config: &Config, discovery: &NatDiscovery) -> Self {
        Self {
            web: config.web.listen.to_vec(),
            turn: options::turn_listen(config),
            discovery: discovery.listeners.clone(),
            admin: config.admin.listen.to_vec(),
        }
    }

    /// Each listener as a URL, with what it is for.
    pub(super) fn urls(&self, config: &Config) -> Vec<(String, &'static str)> {
        let web = self.web.iter().map(|address| {
            let scheme = options::pages_scheme(config, *address);
            let what = match (config.is_https(), scheme) {
                (true, "http") => "leads on to https",
                (true, _) => "pages, signaling, TURN over TLS and TCP",
                (false, _) => "pages, signaling, TURN over TCP",
            };
            (format!("{scheme}://{address}"), what)
        });
        let turn = self.turn.iter().map(|listener| (url(listener), "TURN"));
        let discovery = self.discovery.iter().map(|a| (format!("udp://{a}"), "NAT discovery only"));
        let admin = self.admin.iter().map(|a| (format!("admin http://{a}"), "metrics, health"));
        web.chain(turn).chain(discovery).chain(admin).collect()
    }
}

/// Listeners as a person reads them: what listens on every address of both families stands there
/// once, as `*`.
fn brief(urls: Vec<(String, &'static str)>) -> Vec<(String, &'static str)> {
    let is_there = |wanted: &str| urls.iter().any(|(url, _)| url == wanted);
    let (v6, v4) = ("://[::]:", "://0.0.0.0:");
    let short = |(url, what): &(String, &'static str)| {
        if url.contains(v4) && is_there(&url.replace(v4, v6)) {
            return None;
        }
        let is_pair = url.contains(v6) && is_there(&url.replace(v6, v4));
        let shown = if is_pair { url.replace(v6, "://*:") } else { url.clone() };
        Some((shown, *what))
    };
    urls.iter().filter_map(short).collect()
}

fn url(TurnListener { transport, address }: &TurnListener) -> String {
    format!("{transport}://{address}")
}

fn scheme(config: &Config) -> &'static str {
    if config.is_https() { "https" } else { "http" }
}

/// Where the pages are, as a person would type it: without a slash at the end. `None` without a
/// web listener.
pub(super) fn pages(config: &Config, web: &[SocketAddr], host: &[IpAddr]) -> Option<String> {
    let first = web.iter().find(|address| !address.ip().to_canonical().is_loopback());
    let first = *first.or_else(|| web.first())?;
    let named = match &config.public_host {
        Host::Is(name) => Some(name.ip().map_or_else(|| name.text().to_owned(), bracketed)),
        Host::Auto => None,
    };
    if let Some(name) = &named
        && !config.is_https()
        && !config.web.trusted_proxies.is_empty()
    {
        // The proxy ends TLS; our own port is its business.
        return Some(format!("https://{name}"));
    }
    let ip = first.ip().to_canonical();
    let name = named.unwrap_or_else(|| {
        if ip.is_loopback() {
            return "localhost".to_owned();
        }
        let reached = if ip.is_unspecified() { best(host, ip.is_ipv4()) } else { Some(ip) };
        reached.map_or_else(|| "localhost".to_owned(), bracketed)
    });
    let port = options::pages_port(config, web).unwrap_or(first.port());
    let port = match (scheme(config), port) {
        ("http", 80) | ("https", 443) => String::new(),
        (_, port) => format!(":{port}"),
    };
    Some(format!("{}://{name}{port}", scheme(config)))
}

fn bracketed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// The link with which somebody may broadcast. The key stands behind `#`, which a browser keeps
/// to itself.
pub(super) fn invite_link(pages: &str, key: &Secret<String>) -> String {
    format!("{pages}/broadcast#key={}", key.expose())
}

/// The URLs that a browser is told which reaches the pages under their own link.
pub(super) fn ice_urls(
    config: &Config,
    pages: Option<&str>,
    turn: &[TurnListener],
    certificates: Option<&Certificates>,
) -> Vec<String> {
    let trusted = |host: &str| certificates.is_some_and(|held| held.are_trusted_for(host));
    ice_urls_when(config, pages, turn, trusted)
}

/// The same when browsers would trust the certificate for the hosts that `trusted` says.
fn ice_urls_when(
    config: &Config,
    pages: Option<&str>,
    turn: &[TurnListener],
    trusted: impl Fn(&str) -> bool,
) -> Vec<String> {
    let asked = pages.and_then(|pages| pages.split_once("://")).map_or("localhost", |(_, host)| {
        let end = host.rfind(']').map_or(0, |bracket| bracket + 1);
        host[end..].find(':').map_or(host, |colon| &host[..end + colon])
    });
    web::ice_urls(options::public_host(config).as_deref(), asked, turn, trusted)
}

/// Whether a stranger on this computer may broadcast without a key.
fn is_open(config: &Config) -> bool {
    match config.broadcast.publish {
        Publish::Open => true,
        Publish::Key => false,
        Publish::Auto => config.is_loopback_only() && config.web.trusted_proxies.is_empty(),
    }
}

/// What the daemon prints when it is ready. `invite` is the link with the key, which only a
/// terminal is shown.
pub(super) fn greeting(
    config: &Config,
    listeners: &Listeners,
    host: &[IpAddr],
    invite: Option<&str>,
) -> String {
    let mut text = format!("turncast {} is ready.\n\n", env!("CARGO_PKG_VERSION"));
    let mut line = |what: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {what:<11}{value}");
    };
    if let Some(pages) = pages(config, &listeners.web, host) {
        line("Pages", &format!("{pages}/"));
        match invite {
            _ if is_open(config) => line("Broadcast", &format!("{pages}/broadcast")),
            Some(link) => line("Broadcast", link),
            None => line("Broadcast", "`turncast invite` prints the link with the key"),
        }
        line("Watch", "the broadcast page shows the link for viewers");
    }
    for listener in brief(listeners.turn.iter().map(|listener| (url(listener), "")).collect()) {
        line("Relay", &listener.0);
    }
    for address in &listeners.admin {
        line("Operator", &format!("http://{address}/healthz and /metrics"));
    }
    text
}

/// What was found without starting anything.
pub(super) struct Known<'a> {
    /// The state directory; `None` when there can be none.
    pub(super) state: Option<&'a Path>,
    /// The certificate.
    pub(super) certificate: &'a Look,
    /// The addresses of this host.
    pub(super) host: &'a [IpAddr],
    /// What streams would be relayed from.
    pub(super) relay: &'a [RelayAddress],
    /// Where NAT behaviour discovery would be served.
    pub(super) discovery: &'a NatDiscovery,
    /// The ports to open, and what for.
    pub(super) ports: Vec<(String, &'static str)>,
}

/// A line for each listener, under its heading.
fn would_be_bound(urls: Vec<(String, &'static str)>) -> String {
    let star = match urls.iter().any(|(url, _)| url.contains('*')) {
        true => " (* is every address of this machine)",
        false => "",
    };
    let mut text = format!("Would be bound{star}:\n");
    for (url, what) in urls {
        text += &format!("  {:<32} {what}\n", url.trim_start_matches("admin "));
    }
    text
}

/// A line for each TURN URL; where the certificate is not known, for what it could be.
fn turn_urls(
    config: &Config,
    pages: Option<&str>,
    turn: &[TurnListener],
    certificate: &Look,
) -> String {
    let urls = ice_urls(config, pages, turn, certificate.served.as_ref());
    let certified = match &certificate.unread {
        Some(_) if config.tls_mode() == TlsMode::Acme => {
            ice_urls_when(config, pages, turn, |_| true)
        }
        _ => urls.clone(),
    };
    let line = |(url, certified): (&String, &String)| match url == certified {
        true => format!("  TURN          {url}\n"),
        false => format!("  TURN          {certified}\n   or           {url}: not known\n"),
    };
    urls.iter().zip(&certified).map(line).collect()
}

/// What `turncast check` prints.
pub(super) fn check(
    loaded: &Loaded,
    Known { state, certificate, host, relay, discovery, ports: ports_to_open }: Known<'_>,
    allocations: u32,
) -> String {
    let config = &loaded.config;
    let listeners = Listeners::asked(config, discovery);
    let pages = pages(config, &listeners.web, host);
    let mut text = String::new();
    let file = match &loaded.file {
        Some(path) => format!("{} is good", path.display()),
        None => "none, every key has its default".to_owned(),
    };
    let state = match state.map(|path| (path.display(), path.try_exists())) {
        // Whether it can be read is for those to say who need something of it.
        Some((path, Ok(true) | Err(_))) => path.to_string(),
        Some((path, Ok(false))) => format!("{path} (turncast run makes it)"),
        None => "nowhere: set state_dir".to_owned(),
    };
    text += &format!("Configuration: {file}\nState: {state}\n\n");
    text += &would_be_bound(brief(listeners.urls(config)));
    let lines: String = certificate.lines.iter().map(|line| in_lines(line, "  ")).collect();
    let ports = config.turn.relay_ports;
    for address in relay {
        let ports = format!("ports {}-{}", ports.first, ports.last);
        text += &format!(
            "  {:<32} relayed streams, {ports}\n",
            format!("udp://{}", bracketed(address.local))
        );
    }
    text += &format!(
        "  {} relay threads, at most {allocations} allocations\n\nA browser would be told:\n",
        options::workers(config)
    );
    if let Some(pages) = &pages {
        text += &format!("  pages         {pages}/\n");
    }
    let turn = options::reached(config, &listeners.web, &listeners.turn);
    text += &turn_urls(config, pages.as_deref(), &turn, certificate);
    for address in relay {
        text += &format!("  relayed from  {}\n", address.public);
    }
    for DiscoveryPair { addresses: [first, second], ports: [p1, p2] } in &discovery.pairs {
        let (first, second) = (bracketed(first.public), bracketed(second.public));
        text += &format!("  NAT discovery {first}:{p1} and {second}:{p2}\n");
    }
    let publish = match (is_open(config), config.broadcast.publish) {
        (true, Publish::Auto) => "open to this computer",
        (true, _) => "open to everybody",
        (false, _) => "with a key: turncast invite prints the link",
    };
    text += &format!("  broadcasting  {publish}\n\nCertificate:\n{lines}");
    text += "\nPorts to open, in the firewall of this machine and in the provider's:\n";
    if ports_to_open.is_empty() {
        text += "  none: everything stays on this machine\n";
    }
    for (port, what) in &ports_to_open {
        text += &format!("  {port:<17} {what}\n");
    }
    for warning in &loaded.warnings {
        text += &format!("\n{}\n", warning.text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_on_every_address_stands_there_once() {
        let given =
            ["https://[::]:443", "https://0.0.0.0:443", "udp://[::]:3478", "tcp://0.0.0.0:1"];
        let shown = brief(given.map(|url| (url.to_owned(), "")).to_vec());
        let shown: Vec<&str> = shown.iter().map(|(url, _)| url.as_str()).collect();
        assert_eq!(shown, ["https://*:443", "udp://[::]:3478", "tcp://0.0.0.0:1"]);
    }
}
