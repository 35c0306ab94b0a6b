//! What keys must mean together.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::certificates;
use super::keys::{Config, PublicPorts};
use super::load::Findings;
use super::nat_discovery;
use super::problem::Problem;
use super::secrets::Secrets;
use super::values::{Host, Publish, TurnListen, TurnScheme};
use crate::net::Prefix;

/// Checks `config` as a whole.
pub(super) fn check(config: &Config, secrets: &Secrets, findings: &mut Findings) {
    listeners(config, findings);
    certificates::check(config, findings);
    relay(config, findings);
    peers(config, findings);
    broadcast(config, secrets, findings);
}

impl Config {
    /// Whether nobody but this computer reaches any listener.
    pub fn is_loopback_only(&self) -> bool {
        let turn = self.turn.listen.iter().map(|listen| listen.address);
        let tcp = self.web.listen.iter().chain(&*self.admin.listen).copied();
        tcp.chain(turn).all(|address| is_loopback(address.ip()))
    }
}

pub(super) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn listeners(config: &Config, findings: &mut Findings) {
    let web = config.web.listen.iter().map(|address| ("web.listen", *address));
    let admin = config.admin.listen.iter().map(|address| ("admin.listen", *address));
    let mut taken: Vec<(&str, SocketAddr)> = Vec::new();
    for (key, address) in web.chain(admin) {
        claim(key, address, &mut taken, findings);
    }
    let turn_over = |udp: bool| {
        let schemes = config
            .turn
            .listen
            .iter()
            .flat_map(|listen| listen.schemes().iter().map(|scheme| (*scheme, listen.address)));
        schemes.filter(move |(scheme, _)| (*scheme == TurnScheme::Udp) == udp)
    };
    for (_, address) in turn_over(false) {
        claim("turn.listen", address, &mut taken, findings);
    }
    let mut taken = Vec::new();
    for (_, address) in turn_over(true) {
        claim("turn.listen", address, &mut taken, findings);
    }
    if config.turn.listen.is_empty() {
        let problem = Problem::new("without a listener there is no relay");
        findings.refuse("turn.listen", problem.help("allowed: at least one address"));
    }
    for address in &*config.admin.listen {
        if !is_loopback(address.ip()) {
            let problem = Problem::new(format!("{address} shows metrics to the network"));
            findings.warn("admin.listen", problem.help("loopback, or a firewall in front"));
        }
    }
    for prefix in &*config.web.trusted_proxies {
        if prefix.bits() == 0 {
            let problem = Problem::new(format!("{prefix} trusts everybody's word on who they are"));
            findings.warn("web.trusted_proxies", problem.help("name the proxies alone"));
        }
    }
    proxy(config, findings);
}

/// Half of what it takes to stand behind a proxy is a mistake that looks right from within.
fn proxy(config: &Config, findings: &mut Findings) {
    let web = &config.web;
    let is_hidden = !web.listen.is_empty() && web.listen.iter().all(|a| is_loopback(a.ip()));
    match &config.public_host {
        Host::Is(name) if is_hidden && web.trusted_proxies.is_empty() => {
            let is_here = |ip: IpAddr| is_loopback(ip);
            if name.ip().map_or(name.text() == "localhost", is_here) {
                return;
            }
            let title = format!("only this computer reaches the pages of {}", name.text());
            let help = "remove the line; behind a proxy on this computer add \
                        trusted_proxies = [\"127.0.0.1\"]";
            findings.warn("web.listen", Problem::new(title).help(help));
        }
        Host::Auto if !web.trusted_proxies.is_empty() && config.is_loopback_only() => {
            let problem = Problem::new("behind the proxy only this computer reaches the relay");
            let help = "set public_host to the name that browsers use";
            findings.warn("web.trusted_proxies", problem.help(help));
        }
        _ => {}
    }
}

/// Notes that `address` is used, and refuses a second use. A wildcard uses its port on every
/// address of its family.
fn claim<'k>(
    key: &'k str,
    address: SocketAddr,
    taken: &mut Vec<(&'k str, SocketAddr)>,
    findings: &mut Findings,
) {
    let covers = |wide: &SocketAddr, other: &SocketAddr| {
        wide.ip().is_unspecified() && wide.is_ipv4() == other.is_ipv4()
    };
    let clashes = |(_, other): &&(&str, SocketAddr)| {
        let same = *other == address || covers(other, &address) || covers(&address, other);
        address.port() != 0 && other.port() == address.port() && same
    };
    if let Some((other, first)) = taken.iter().find(clashes) {
        let title = match (*first == address, *other == key) {
            (true, true) => format!("{address} stands there twice"),
            (true, false) => format!("{address} is in use by {other} already"),
            (false, true) => format!("{address} and {first} are one port"),
            (false, false) => format!("{address} and {first} of {other} are one port"),
        };
        let mut problem = Problem::new(title);
        if *first != address {
            let wide = if first.ip().is_unspecified() { *first } else { address };
            let help = format!("{wide} is every address of this machine; keep one of the two");
            problem = problem.help(help);
        }
        if *other == "web.listen" && key == "turn.listen" {
            problem = problem.help("a listener of [web] takes TURN over TCP and TLS already");
        }
        findings.refuse(key, problem);
    }
    taken.push((key, address));
}

fn relay(config: &Config, findings: &mut Findings) {
    let turn = &config.turn;
    let ports = turn.relay_ports;
    if ports.first < 1024 {
        let problem = Problem::new("ports below 1024 belong to well-known services");
        findings.warn("turn.relay_ports", problem.help("allowed, yet better from 1024 up"));
    }
    if turn.limits.allocations > ports.count() {
        let title = format!(
            "{} allocations need as many ports, and turn.relay_ports holds {}",
            turn.limits.allocations,
            ports.count()
        );
        findings.warn("turn.limits.allocations", Problem::new(title));
    }
    for listen in turn.listen.iter().filter(|l| l.schemes().contains(&TurnScheme::Udp)) {
        if (ports.first..=ports.last).contains(&listen.address.port()) {
            let title = format!("port {} of turn.listen is one of them", listen.address.port());
            findings.warn("turn.relay_ports", Problem::new(title).help("keep the two apart"));
        }
    }
    browser_ports(config, findings);
    let mut seen = BTreeSet::new();
    for pair in &*turn.relay_addresses {
        if !seen.insert(pair.local) {
            let title = format!("{} stands there twice", pair.local);
            findings.refuse("turn.relay_addresses", Problem::new(title));
        }
        if let IpAddr::V6(v6) = pair.local
            && v6.is_unicast_link_local()
        {
            let title = format!("{v6} is good on one wire only");
            findings.refuse("turn.relay_addresses", Problem::new(title));
        }
    }
    if turn.credential_hash.is_empty() {
        let problem = Problem::new("without a hash no credential of a shared secret is good");
        findings.refuse("turn.credential_hash", problem.help("allowed: \"sha1\" or \"sha256\""));
    }
    let is_stream = |listen: &TurnListen| listen.scheme != Some(TurnScheme::Udp);
    if turn.tcp_relay && !turn.listen.iter().any(is_stream) {
        let problem = Problem::new("only clients over TCP and TLS may use it, and none can come");
        let help = "turn.listen has udp:// only: add tcp:// or tls://, or leave out the scheme";
        findings.warn("turn.tcp_relay", problem.help(help));
    }
    alternate_server(config, findings);
    nat_discovery::check(config, findings);
    bandwidth(config, findings);
}

/// Browsers connect to no TURN server below port 1024, but for three ports.
fn browser_ports(config: &Config, findings: &mut Findings) {
    let listen = config.turn.listen.iter().map(|listen| ("turn.listen", listen.address.port()));
    let PublicPorts { tcp, udp } = config.public_ports;
    // Every listener of the pages takes TURN; a port of the world's side stands for it.
    let web = config.web.listen.iter().filter(|_| tcp.is_none());
    let listen = listen.chain(web.map(|address| ("web.listen", address.port())));
    let public = [("public_ports.tcp", tcp), ("public_ports.udp", udp)];
    let public = public.into_iter().filter_map(|(key, port)| Some((key, port?)));
    for (key, port) in listen.chain(public) {
        if (1..1024).contains(&port) && !BROWSER_PORTS.contains(&port) {
            let problem = Problem::new(format!("browsers refuse TURN on port {port}"));
            findings.warn(key, problem.help("allowed below 1024: 53, 80 and 443"));
        }
    }
}

/// The ports below 1024 that Chromium and those who follow it let TURN use.
const BROWSER_PORTS: [u16; 3] = [53, 80, 443];

/// Each rate leaves room for the narrower one within it.
fn bandwidth(config: &Config, findings: &mut Findings) {
    let limits = &config.turn.limits;
    let allocation = limits.bandwidth_per_allocation_bytes_per_sec;
    let of_user = limits.bandwidth_per_user_bytes_per_sec;
    let all = limits.bandwidth_bytes_per_sec;
    let exceeds = |narrow: u64, wide: u64| wide != 0 && narrow > wide;
    if exceeds(allocation, all) {
        let problem = Problem::new("one allocation may take more than all of them together");
        findings.refuse("turn.limits.bandwidth_per_allocation_bytes_per_sec", problem);
    }
    if exceeds(allocation, of_user) {
        let problem = Problem::new("one allocation may take more than all those of its user");
        findings.refuse("turn.limits.bandwidth_per_allocation_bytes_per_sec", problem);
    }
    if exceeds(of_user, all) {
        let problem = Problem::new("one user may take more than all users together");
        findings.refuse("turn.limits.bandwidth_per_user_bytes_per_sec", problem);
    }
}

fn alternate_server(config: &Config, findings: &mut Findings) {
    let key = "turn.alternate_domain";
    if let Some(name) = &config.turn.alternate_domain {
        if name.ip().is_some() {
            let problem = Problem::new("an address names no certificate here");
            findings.refuse(key, problem.help("name a host, such as \"turn2.example.org\""));
        } else if config.turn.alternate_server.is_empty() {
            let problem =
                Problem::new("it needs its turn.alternate_server: nobody is sent there now");
            findings.refuse(key, problem.help("set both keys or neither"));
        }
    }
    for server in &*config.turn.alternate_server {
        let ours = config.turn.listen.iter().any(|listen| listen.address == *server);
        if server.port() == 0 || server.ip().is_unspecified() || server.ip().is_multicast() {
            let problem = Problem::new(format!("nobody can be sent to {server}"));
            findings.refuse("turn.alternate_server", problem.help("name an address and a port"));
        } else if ours {
            let problem = Problem::new(format!("{server} is turn.listen: clients would go round"));
            findings.refuse("turn.alternate_server", problem);
        }
    }
}

fn peers(config: &Config, findings: &mut Findings) {
    for prefix in &*config.turn.allow_peers {
        let never = [
            Prefix::new(IpAddr::from([224, 0, 0, 0]), 4),
            Prefix::new(IpAddr::from([0xff00, 0, 0, 0, 0, 0, 0, 0]), 8),
        ];
        if never.iter().any(|never| never.contains(prefix.address())) {
            let title = format!("{prefix} is multicast, which can never be a peer");
            findings.refuse("turn.allow_peers", Problem::new(title));
        }
        if prefix.is_host() && prefix.address().is_unspecified() {
            let title = format!("{prefix} is unspecified, which can never be a peer");
            findings.refuse("turn.allow_peers", Problem::new(title));
        }
        if prefix.bits() == 0 {
            let title = format!("{prefix} opens every network that this host reaches");
            let help = "name the networks that clients shall reach";
            findings.warn("turn.allow_peers", Problem::new(title).help(help));
        }
        if prefix.address().is_loopback() && !prefix.is_host() {
            let title = format!("{prefix} opens no address of this host");
            let help = "name each of them, such as 127.0.0.3/32";
            findings.warn("turn.allow_peers", Problem::new(title).help(help));
        }
        if config.turn.deny_peers.contains(prefix) {
            let title = format!("{prefix} is in turn.deny_peers too, and deny wins");
            findings.warn("turn.allow_peers", Problem::new(title));
        }
    }
}

fn broadcast(config: &Config, secrets: &Secrets, findings: &mut Findings) {
    if config.broadcast.publish == Publish::Open && !config.is_loopback_only() {
        let problem = Problem::new("everybody who reaches this host may broadcast");
        findings.warn("broadcast.publish", problem.help("\"auto\" or \"key\" asks for a key"));
    }
    if config.broadcast.publish == Publish::Open && !secrets.broadcast_keys.is_empty() {
        let problem = Problem::new("keys mean nothing while broadcast.publish is \"open\"");
        findings.warn("broadcast.keys", problem);
    }
    if let Host::Is(name) = &config.public_host
        && name.ip().is_some_and(is_loopback)
        && !config.is_loopback_only()
    {
        let problem = Problem::new("only this computer reaches a loopback address");
        findings.warn("public_host", problem.help("\"auto\", or the name that browsers use"));
    }
    let limits = &config.web.limits;
    if limits.queue_bytes < limits.frame_bytes {
        let problem = Problem::new("a single message would not fit");
        let help = format!("allowed: at least web.limits.frame_bytes, {}", limits.frame_bytes);
        findings.refuse("web.limits.queue_bytes", problem.help(help));
    }
}
