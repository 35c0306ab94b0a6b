//! What `turncast check` sees beyond the configuration: the ports that firewalls have to let
//! through, and what this machine would make of the plan.
//!
//! Nothing is bound and nobody is contacted but the system's resolver, which is asked for
//! `public_host`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use super::addresses::best;
use super::report::Listeners;
use crate::config::{Config, Host, TlsMode};
use crate::net::{Reach, reach};
use crate::relay;
use crate::turn::{RelayAddress, Transport};

/// What is looked at.
pub(super) struct Plan<'a> {
    pub(super) config: &'a Config,
    pub(super) listeners: &'a Listeners,
    /// The addresses of this machine.
    pub(super) host: &'a [IpAddr],
    pub(super) relay: &'a [RelayAddress],
}

impl Plan<'_> {
    /// The ports to open in firewalls and forwarders: `443/tcp`, and what it is for.
    pub(super) fn ports(&self) -> Vec<(String, &'static str)> {
        let open = |address: &&SocketAddr| !address.ip().to_canonical().is_loopback();
        let forwarded = &self.config.public_ports;
        // Keyed so that what is needed most stands first.
        let mut ports: BTreeMap<(u8, u16, &str), &'static str> = BTreeMap::new();
        let is_https = self.config.is_https();
        for web in self.listeners.web.iter().filter(open) {
            let port = web.port();
            let (rank, what) = match (is_https && port == 80, self.is_acme(), is_https) {
                (true, true, _) => (1, "for certificates (http-01), and to lead on to https"),
                (true, false, _) => (3, "to lead on to https"),
                (_, _, true) => (0, "required: pages, signaling, TURN over TLS and TCP"),
                (_, _, false) => (0, "required: pages, signaling, TURN over TCP"),
            };
            let port = if rank == 0 { forwarded.tcp.unwrap_or(port) } else { port };
            ports.entry((rank, port, "tcp")).or_insert(what);
        }
        for turn in self.listeners.turn.iter().filter(|turn| open(&&turn.address)) {
            let (over, what, port) = match turn.transport {
                Transport::Udp => {
                    let what = "better: TURN, where the viewer's network lets UDP out";
                    ("udp", what, forwarded.udp.unwrap_or(turn.address.port()))
                }
                Transport::Tcp => ("tcp", "TURN over TCP", turn.address.port()),
                Transport::Tls => ("tcp", "TURN over TLS", turn.address.port()),
            };
            let rank = if over == "udp" { 2 } else { 3 };
            ports.entry((rank, port, over)).or_insert(what);
        }
        for address in self.listeners.discovery.iter().filter(open) {
            ports.entry((3, address.port(), "udp")).or_insert("NAT behaviour discovery");
        }
        let ports = ports.into_iter().filter(|((_, port, _), _)| *port != 0);
        let mut lines: Vec<_> =
            ports.map(|((_, port, over), what)| (format!("{port}/{over}"), what)).collect();
        if self.relay.iter().any(|address| !address.local.is_loopback()) {
            let range = self.config.turn.relay_ports;
            let what = "better: streams between a relayed viewer and a direct one";
            lines.push((format!("{}-{}/udp", range.first, range.last), what));
            if self.config.turn.tcp_relay {
                let what = "peers that connect to what is relayed over TCP";
                lines.push((format!("{}-{}/tcp", range.first, range.last), what));
            }
        }
        lines
    }

    fn is_acme(&self) -> bool {
        self.config.tls_mode() == TlsMode::Acme
    }

    /// What is to be said of this machine, each as one text.
    pub(super) async fn warnings(&self) -> Vec<String> {
        let mut found = self.public_host().await;
        let files = Path::new("/proc");
        found.extend(self.privileged(Privileges::read(files)));
        found.extend(self.unused_ipv6());
        let wanted = relay::Options::default().client_buffer_bytes;
        found.extend(small_buffers(files, wanted));
        found
    }

    /// Whether `public_host` leads here, and nowhere else: a browser may take any address of it.
    async fn public_host(&self) -> Vec<String> {
        let Host::Is(name) = &self.config.public_host else { return Vec::new() };
        let text = name.text();
        let found: Vec<IpAddr> = match name.ip() {
            Some(ip) => vec![ip],
            None => match timeout(LOOK_UP, lookup_host((text, 0))).await {
                Ok(Ok(found)) => found.map(|address| address.ip().to_canonical()).collect(),
                Ok(Err(err)) => {
                    return vec![format!(
                        "public_host: the system's resolver finds no address of {text} ({err}); \
                         add it to the DNS, or no browser comes"
                    )];
                }
                Err(_) => {
                    let secs = LOOK_UP.as_secs();
                    return vec![format!(
                        "public_host: the system's resolver said nothing about {text} for {secs} \
                         seconds; see /etc/resolv.conf. Whether it leads here is not known"
                    )];
                }
            },
        };
        self.led_elsewhere(text, name.ip().is_some(), &found)
    }

    /// What to say of `found`, the addresses of `text`: for each family those that are not ours.
    fn led_elsewhere(&self, text: &str, is_address: bool, found: &[IpAddr]) -> Vec<String> {
        let ours = |ip: &IpAddr| {
            let is_told = self.relay.iter().any(|address| address.public == *ip);
            ip.is_loopback() || self.host.contains(ip) || is_told
        };
        let also = if found.iter().any(ours) { "also " } else { "" };
        let of_family = |is_v4: bool| {
            let of = found.iter().filter(|ip| ip.is_ipv4() == is_v4 && !ours(ip));
            let others: BTreeSet<&IpAddr> = of.collect();
            let public = *others.first()?;
            let names: Vec<String> = others.iter().map(ToString::to_string).collect();
            let (leads, correct) = match is_address {
                true => (format!("{text} is no address"), "correct public_host"),
                false => {
                    let leads = format!("{text} {also}leads to {}, no address", names.join(", "));
                    (leads, "correct the DNS")
                }
            };
            let leads = format!("public_host: {leads} of this machine");
            let pair = best(self.host, is_v4).map(|local| {
                format!(
                    ". If that is the public side of its NAT, write in [turn]; else {correct}:\n\
                     relay_addresses = [\"{public}/{local}\"]"
                )
            });
            Some(leads + pair.as_deref().unwrap_or(&format!(": {correct}")))
        };
        [true, false].into_iter().filter_map(of_family).collect()
    }

    fn privileged(&self, privileges: Privileges) -> Option<String> {
        let turn = self.listeners.turn.iter().map(|turn| turn.address);
        let all = [&self.listeners.web[..], &self.listeners.admin[..]].concat();
        let ports = all.into_iter().chain(turn).map(|address| address.port());
        let lowest = ports.filter(|port| *port != 0).min()?;
        (!privileges.may_bind(lowest)).then(|| {
            format!(
                "port {lowest} needs the capability CAP_NET_BIND_SERVICE, which you do not have \
                 now: start the systemd unit, which has it, or give it to the binary \
                 (setcap cap_net_bind_service=+ep), or set sysctl \
                 net.ipv4.ip_unprivileged_port_start={lowest}"
            )
        })
    }

    fn unused_ipv6(&self) -> Option<String> {
        let own = self.host.iter().find(|ip| ip.is_ipv6() && reach(**ip) == Reach::Public)?;
        let turn = self.listeners.turn.iter().map(|turn| turn.address.ip());
        let listened: Vec<IpAddr> =
            self.listeners.web.iter().map(SocketAddr::ip).chain(turn).collect();
        let is_local = listened.iter().all(|ip| ip.to_canonical().is_loopback());
        let is_used = listened.iter().any(|ip| ip.is_ipv6() && !ip.is_loopback());
        (!is_local && !is_used).then(|| {
            format!(
                "this machine has the IPv6 address {own}, and nothing listens there: add [::] \
                 with the same ports to web.listen and turn.listen"
            )
        })
    }
}

/// Which ports this process may bind.
#[derive(Debug, Clone, Copy)]
struct Privileges {
    first_free_port: u16,
    has_capability: bool,
}

impl Privileges {
    fn read(proc: &Path) -> Self {
        let first = std::fs::read_to_string(proc.join("sys/net/ipv4/ip_unprivileged_port_start"));
        let first = first.ok().and_then(|text| text.trim().parse().ok());
        let status = std::fs::read_to_string(proc.join("self/status")).unwrap_or_default();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        Self {
            first_free_port: first.unwrap_or(1024),
            // What cannot be known is not warned of.
            has_capability: effective.is_none_or(|set| set & CAP_NET_BIND_SERVICE != 0),
        }
    }

    const fn may_bind(self, port: u16) -> bool {
        self.has_capability || port >= self.first_free_port
    }
}

/// Whether the kernel cuts the buffers of the relay's sockets.
fn small_buffers(proc: &Path, wanted: usize) -> Option<String> {
    let small = ["rmem_max", "wmem_max"].into_iter().filter(|name| {
        let text = std::fs::read_to_string(proc.join("sys/net/core").join(name));
        text.ok().and_then(|text| text.trim().parse().ok()).is_some_and(|max: usize| max < wanted)
    });
    let lines: Vec<String> = small.map(|name| format!("net.core.{name}={wanted}")).collect();
    (!lines.is_empty()).then(|| {
        format!(
            "the kernel's buffers are small for a busy relay, which would lose packets in bursts; \
             once, and in /etc/sysctl.d/turncast.conf for ever:\nsysctl -w {}",
            lines.join(" ")
        )
    })
}

/// `linux/capability.h`: number 10.
const CAP_NET_BIND_SERVICE: u64 = 1 << 10;

/// How long the system's resolver may take.
const LOOK_UP: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Loaded};
    use crate::turn::NatDiscovery;

    /// What is said of this configuration on a machine with these addresses.
    fn of<T>(config: &str, host: &[&str], ask: impl FnOnce(&Plan<'_>) -> T) -> T {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("turncast.toml");
        std::fs::write(&path, config).expect("a file");
        let loaded = Loaded::read(Some(&path), &Environment::default()).expect("a configuration");
        let host: Vec<IpAddr> = host.iter().map(|ip| ip.parse().expect("an address")).collect();
        let config = &loaded.config;
        let relay = super::super::addresses::relay_addresses(config, &host);
        let listeners = Listeners::asked(config, &NatDiscovery::default());
        ask(&Plan { config, listeners: &listeners, host: &host, relay: &relay })
    }

    #[expect(clippy::redundant_closure_for_method_calls, reason = "the method has one lifetime")]
    fn ports(config: &str) -> String {
        let ports = of(config, &["127.0.0.1", "203.0.113.10"], |plan| plan.ports());
        ports.iter().map(|(port, _)| port.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_ports_to_open_are_named_the_most_needed_first() {
        assert_eq!(ports(""), "", "everything is on loopback");
        let vps = "public_host = \"live.example.org\"\n";
        assert_eq!(ports(vps), "443/tcp 443/udp 3478/udp 80/tcp 3478/tcp 49152-65535/udp");
        let acme = format!("{vps}[acme]\naccept_terms = true\n");
        assert!(ports(&acme).starts_with("443/tcp 80/tcp "), "{}", ports(&acme));
        let moved = format!("{vps}[public_ports]\ntcp = 8443\nudp = 0\n");
        assert_eq!(ports(&moved), "8443/tcp 80/tcp 3478/tcp 49152-65535/udp");
        let proxied = "[web]\nlisten = \"127.0.0.1:8080\"\n[turn]\nlisten = \"0.0.0.0:3478\"\n";
        assert_eq!(ports(proxied), "3478/udp 3478/tcp 49152-65535/udp");
    }

    fn led(config: &str, host: &[&str]) -> Option<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let led = |plan: &Plan<'_>| runtime.expect("a runtime").block_on(plan.public_host());
        let mut told = of(config, host, led);
        assert!(told.len() < 2, "{told:?}");
        told.pop()
    }

    #[test]
    fn each_address_of_a_name_that_is_not_ours_is_named() {
        let told = |found: &[&str], host: &[&str], more: &str| {
            let config = format!("public_host = \"live.example.org\"\n{more}");
            let found: Vec<IpAddr> =
                found.iter().map(|ip| ip.parse().expect("an address")).collect();
            of(&config, host, |plan| plan.led_elsewhere("live.example.org", false, &found))
        };
        let (v4, v6) = ("203.0.113.10", "2001:db8::7");
        assert!(told(&[v4, v6, v6], &[v4, v6], "").is_empty());
        let stale = told(&[v4, v6], &[v4], "");
        assert_eq!(
            stale,
            ["public_host: live.example.org also leads to 2001:db8::7, no address of this \
              machine: correct the DNS"]
        );
        let two = told(&[v4, "198.51.100.2", "198.51.100.1"], &[v4], "");
        assert_eq!(two.len(), 1, "{two:?}");
        assert!(two[0].contains("also leads to 198.51.100.1, 198.51.100.2, no"), "{two:?}");
        let none = told(&[v4, v6], &["10.0.0.5", "2001:db8::8"], "");
        assert_eq!(none.len(), 2, "{none:?}");
        assert!(none[0].contains(" leads to 203.0.113.10,"), "{none:?}");
        assert!(none[0].ends_with("\nrelay_addresses = [\"203.0.113.10/10.0.0.5\"]"), "{none:?}");
        let nat = "[turn]\nrelay_addresses = [\"203.0.113.10/10.0.0.5\", \"2001:db8::7\"]\n";
        assert!(told(&[v4, v6], &["10.0.0.5", v6], nat).is_empty(), "behind a 1:1 NAT");
    }

    #[test]
    fn a_public_host_that_leads_elsewhere_gets_a_pair_proposed() {
        let at = |ip: &str| format!("public_host = \"{ip}\"\n");
        assert_eq!(led("", &["10.0.0.10"]), None);
        assert_eq!(led(&at("203.0.113.10"), &["203.0.113.10"]), None);
        assert_eq!(led(&at("203.0.113.10"), &["10.0.0.10"]), None, "taken for a 1:1 NAT");
        let pair = "[turn]\nrelay_addresses = [\"203.0.113.10/198.51.100.7\"]\n";
        assert_eq!(led(&(at("203.0.113.10") + pair), &["198.51.100.7"]), None);
        let told = led(&at("203.0.113.10"), &["198.51.100.7"]).expect("a warning");
        let line = "\nrelay_addresses = [\"203.0.113.10/198.51.100.7\"]";
        assert!(told.ends_with(line), "{told}");
        assert!(told.contains("else correct public_host:"), "{told}");
        let told = led(&at("no-such-name.invalid"), &["198.51.100.7"]).expect("a warning");
        assert!(told.contains("no-such-name.invalid"), "{told}");
    }

    #[test]
    fn a_port_without_the_capability_is_named() {
        let vps = "public_host = \"live.example.org\"\n";
        let told = |config: &str, first_free_port, has_capability| {
            let privileges = Privileges { first_free_port, has_capability };
            of(config, &["203.0.113.10"], |plan| plan.privileged(privileges))
        };
        let warning = told(vps, 1024, false).expect("a warning");
        assert!(warning.starts_with("port 80 needs") && warning.contains("setcap"), "{warning}");
        assert_eq!(told(vps, 1024, true), None);
        assert_eq!(told(vps, 80, false), None);
        assert_eq!(told("", 1024, false), None);
    }

    #[test]
    #[expect(clippy::redundant_closure_for_method_calls, reason = "the method has one lifetime")]
    fn an_ipv6_address_that_nobody_listens_on_is_named() {
        let told = |config: &str, host: &[&str]| of(config, host, |plan| plan.unused_ipv6());
        let v4 = "[web]\nlisten = \"0.0.0.0:80\"\n[turn]\nlisten = \"0.0.0.0:3478\"\n\
                  [tls]\nmode = \"off\"\n";
        let both = v4.replace("\"0.0.0.0:3478\"", "[\"0.0.0.0:3478\", \"[::]:3478\"]");
        let host = &["203.0.113.10", "2001:db8::7"][..];
        assert!(told(v4, host).is_some_and(|text| text.contains("2001:db8::7")));
        assert_eq!(told(v4, &["203.0.113.10", "fe80::1", "fd00::1"]), None);
        assert_eq!(told(&both, host), None);
        assert_eq!(told("", host), None, "loopback alone is meant");
    }

    #[test]
    fn what_the_kernel_allows_is_read() {
        let proc = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            let path = proc.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, text).expect("a file");
        };
        assert_eq!(small_buffers(proc.path(), 4096), None, "what cannot be read is not warned of");
        assert!(Privileges::read(proc.path()).may_bind(1));
        write("sys/net/core/rmem_max", "4095\n");
        write("sys/net/core/wmem_max", "4096\n");
        let told = small_buffers(proc.path(), 4096).expect("a warning");
        assert!(told.ends_with("\nsysctl -w net.core.rmem_max=4096"), "{told}");
        write("sys/net/ipv4/ip_unprivileged_port_start", "1000\n");
        write("self/status", "Name:\tx\nCapEff:\t0000000000000000\n");
        let none = Privileges::read(proc.path());
        assert!(none.may_bind(1000) && !none.may_bind(999));
        write("self/status", "CapEff:\t0000000000000400\n");
        assert!(Privileges::read(proc.path()).may_bind(1));
    }
}
