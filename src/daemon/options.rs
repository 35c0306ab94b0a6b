//! From the configuration to the plain options of each part: the only place that knows both.

use crate::config::{
    ChallengeKind, Config, CredentialHash, DefaultFamily, Host, IcePolicy, Loaded, LogFormat,
    LogLevel, PublicPorts, Secrets, TurnScheme,
};
use crate::credentials::{self, SharedSecrets};
use crate::net::Prefix;
use crate::telemetry::{self, LogOptions};
use crate::turn::{self, FixedUser, RelayAddress, Transport};
use crate::web::TurnListener;
use crate::{acme, doctor, relay, signal};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// What the log is to be.
pub(super) fn log(config: &Config) -> LogOptions {
    LogOptions {
        level: match config.log.level {
            LogLevel::Error => tracing::Level::ERROR,
            LogLevel::Warn => tracing::Level::WARN,
            LogLevel::Info => tracing::Level::INFO,
            LogLevel::Debug => tracing::Level::DEBUG,
            LogLevel::Trace => tracing::Level::TRACE,
        },
        format: match config.log.format {
            LogFormat::Auto => telemetry::Format::Auto,
            LogFormat::Text => telemetry::Format::Text,
            LogFormat::Json => telemetry::Format::Json,
            LogFormat::Journald => telemetry::Format::Journald,
        },
        addresses: config.log.addresses.into(),
    }
}

/// The relay's engine. `allocations` is the limit that the descriptors leave.
pub(super) fn turn(
    loaded: &Loaded,
    relay_addresses: Vec<RelayAddress>,
    nat_discovery: turn::NatDiscovery,
    host_addresses: Vec<IpAddr>,
    allocations: u32,
) -> turn::Options {
    let config = &loaded.config.turn;
    let limits = &config.limits;
    turn::Options {
        realm: config.realm.text().to_owned(),
        relay_addresses,
        relay_ports: (config.relay_ports.first, config.relay_ports.last),
        users: fixed_users(&loaded.secrets),
        shared_secrets: shared_secrets(loaded),
        strict_expiry: config.strict_expiry,
        allow_peers: config.allow_peers.to_vec(),
        deny_peers: config.deny_peers.to_vec(),
        dont_fragment: relay::Relay::can_set_dont_fragment(),
        default_family: match config.default_family {
            DefaultFamily::Ipv4 => turn::DefaultFamily::Ipv4,
            DefaultFamily::Client => turn::DefaultFamily::Client,
        },
        alternate_servers: config.alternate_server.to_vec(),
        alternate_domain: config.alternate_domain.as_ref().map(|name| name.text().to_owned()),
        examiners: doctor::USER_PREFIX.to_owned(),
        tcp_relay: config.tcp_relay.then_some(turn::TcpLimits {
            connections: limits.tcp_connections,
            connections_per_allocation: limits.tcp_connections_per_allocation,
            pending_per_allocation: limits.tcp_pending_per_allocation,
        }),
        nat_discovery,
        host_addresses,
        limits: turn::Limits {
            allocations_per_user: limits.allocations_per_user,
            allocations_per_link: limits.allocations_per_link,
            allocations,
            permissions_per_allocation: limits.permissions_per_allocation,
            channels_per_allocation: limits.channels_per_allocation,
            new_peers_per_min: limits.new_peers_per_min,
            lifetime_secs_max: limits.lifetime_secs_max,
            nonce_secs: limits.nonce_secs,
            bandwidth_per_allocation_bytes_per_sec: limits.bandwidth_per_allocation_bytes_per_sec,
            bandwidth_per_user_bytes_per_sec: limits.bandwidth_per_user_bytes_per_sec,
            bandwidth_bytes_per_sec: limits.bandwidth_bytes_per_sec,
            unauthenticated_per_prefix_per_sec: limits.unauthenticated_per_prefix_per_sec,
            unauthenticated_burst: limits.unauthenticated_burst,
        },
    }
}

/// The secrets with which other applications sign credentials, and how they do.
pub(super) fn shared_secrets(loaded: &Loaded) -> SharedSecrets {
    let hashes = loaded.config.turn.credential_hash.iter().map(|hash| match hash {
        CredentialHash::Sha1 => credentials::CredentialHash::Sha1,
        CredentialHash::Sha256 => credentials::CredentialHash::Sha256,
    });
    SharedSecrets::new(loaded.secrets.shared.clone()).hashed_by(hashes.collect())
}

fn fixed_users(secrets: &Secrets) -> Vec<FixedUser> {
    let fixed = |(name, password): &(String, _)| FixedUser {
        name: name.clone(),
        password: Clone::clone(password),
    };
    secrets.users.iter().map(fixed).collect()
}

/// The relay's threads. What is in `turn.listen` comes first.
pub(super) fn relay(config: &Config, discovery: &turn::NatDiscovery) -> relay::Options {
    let limits = &config.turn.limits;
    relay::Options {
        listen: turn_listen(config)
            .into_iter()
            .filter(|listen| listen.transport == Transport::Udp)
            .map(|listen| listen.address)
            .chain(discovery.listeners.iter().copied())
            .collect(),
        workers: workers(config),
        streams: relay::StreamLimits {
            idle: secs(limits.idle_secs),
            half_message: secs(limits.half_message_secs),
            write_queue_bytes: limits.write_queue_bytes as usize,
            tcp_buffer_bytes: limits.tcp_buffer_bytes as usize,
            tcp_idle: secs(limits.tcp_idle_secs),
        },
        ..relay::Options::default()
    }
}

/// How many threads relay.
pub(super) fn workers(config: &Config) -> usize {
    match config.turn.workers {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        workers => workers as usize,
    }
}

const fn secs(secs: u32) -> Duration {
    Duration::from_secs(secs as u64)
}

/// Where the relay listens, a bare address being two listeners.
pub(super) fn turn_listen(config: &Config) -> Vec<TurnListener> {
    let listeners = config.turn.listen.iter().flat_map(|listen| {
        listen.schemes().iter().map(|scheme| TurnListener {
            transport: match scheme {
                TurnScheme::Udp => Transport::Udp,
                TurnScheme::Tcp => Transport::Tcp,
                TurnScheme::Tls => Transport::Tls,
            },
            address: listen.address,
        })
    });
    listeners.collect()
}

/// Where browsers reach the relay, when it listens at `turn` and the pages at `web`: every listener
/// of the pages takes TURN over TCP and TLS, too. `public_ports.tcp` stands for all of these; 0 is
/// no port of the pages, behind a proxy that ends HTTPS, and leaves those of `turn`.
pub(super) fn reached(
    config: &Config,
    web: &[SocketAddr],
    turn: &[TurnListener],
) -> Vec<TurnListener> {
    let PublicPorts { tcp, udp } = config.public_ports;
    let forwarded = |port: Option<u16>| {
        let families = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
        let port = port.filter(|port| *port != 0);
        port.into_iter().flat_map(move |port| families.map(|ip| SocketAddr::new(ip, port)))
    };
    let of = |transport| turn.iter().filter(move |listener| listener.transport == transport);
    // Behind a proxy on this machine nobody else reaches a listener of loopback.
    let here_alone = config.is_loopback_only();
    let mut pages: Vec<SocketAddr> = web.to_vec();
    pages.retain(|address| here_alone || !address.ip().to_canonical().is_loopback());
    pages.sort_by_key(|address| address.port() == HTTP_PORT);
    let stream = |transport| {
        let is_spoken = transport == Transport::Tcp || config.is_https();
        let own = of(transport).map(|listener| listener.address);
        let addresses: Vec<SocketAddr> = match tcp {
            Some(0) => own.collect(),
            Some(_) if is_spoken => forwarded(tcp).collect(),
            Some(_) => Vec::new(),
            None => own.chain(pages.iter().copied().filter(|_| is_spoken)).collect(),
        };
        addresses.into_iter().map(move |address| TurnListener { transport, address })
    };
    let datagrams: Vec<TurnListener> = match udp {
        Some(_) => forwarded(udp)
            .map(|address| TurnListener { transport: Transport::Udp, address })
            .collect(),
        None => of(Transport::Udp).copied().collect(),
    };
    datagrams.into_iter().chain(stream(Transport::Tcp)).chain(stream(Transport::Tls)).collect()
}

/// The port of the pages as browsers reach it, when we listen for them at `web`.
pub(super) fn pages_port(config: &Config, web: &[SocketAddr]) -> Option<u16> {
    let forwarded = config.public_ports.tcp.filter(|port| *port != 0);
    let usual = if config.is_https() { 443 } else { HTTP_PORT };
    let rank = |address: &&SocketAddr| {
        let port = address.port();
        (address.ip().to_canonical().is_loopback(), port != usual, port == HTTP_PORT)
    };
    forwarded.or_else(|| Some(web.iter().min_by_key(rank)?.port()))
}

/// The scheme of a listener of the pages.
pub(super) fn pages_scheme(config: &Config, address: SocketAddr) -> &'static str {
    // Plain HTTP is answered on every port; on this one nobody comes with anything else.
    match config.is_https() && address.port() != HTTP_PORT {
        true => "https",
        false => "http",
    }
}

/// Where plain HTTP is expected.
const HTTP_PORT: u16 = 80;

/// The hub.
pub(super) fn signal(config: &Config) -> signal::Options {
    let broadcast = &config.broadcast;
    signal::Options {
        viewers_per_room: broadcast.viewers_per_room,
        rooms: broadcast.rooms,
        grace_secs: broadcast.grace_secs,
        credential_ttl_secs: config.turn.credential_ttl_secs,
        relay_only: broadcast.ice_policy == IcePolicy::Relay,
        ping_interval_secs: broadcast.ping_interval_secs,
        ping_timeout_secs: broadcast.ping_timeout_secs,
        kept_messages: broadcast.limits.kept_messages,
        kept_bytes: broadcast.limits.kept_bytes,
        candidates_per_link: broadcast.limits.candidates_per_link,
        rebuilds_per_min: broadcast.limits.rebuilds_per_min,
        frame_bytes: config.web.limits.frame_bytes,
        build: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// What to answer an authority's challenges by.
pub(super) fn challenges(config: &Config) -> Vec<acme::Challenge> {
    let challenge = |kind: &ChallengeKind| match kind {
        ChallengeKind::TlsAlpn01 => acme::Challenge::TlsAlpn01,
        ChallengeKind::Http01 => acme::Challenge::Http01,
    };
    config.acme.challenges.iter().map(challenge).collect()
}

/// `public_host`, unless it is "auto".
pub(super) fn public_host(config: &Config) -> Option<String> {
    match &config.public_host {
        Host::Auto => None,
        Host::Is(name) => Some(name.text().to_owned()),
    }
}

/// The limit of allocations: the configured one, else what `descriptors` leave beside the
/// connections of the pages and of the relay and the daemon's own files, but no more than there are
/// ports at the addresses that are relayed from.
pub(super) fn allocations(config: &Config, relay: &[RelayAddress], descriptors: u64) -> u32 {
    match config.turn.limits.allocations {
        0 => {
            let left = descriptors.saturating_sub(reserved(config).min(descriptors / 2));
            let addresses = u32::try_from(relay.len()).unwrap_or(u32::MAX);
            let ports = config.turn.relay_ports.count().saturating_mul(addresses);
            u32::try_from(left).unwrap_or(u32::MAX).min(ports).max(1)
        }
        configured => configured,
    }
}

/// What to warn of when no browser could be relayed: none asks for a family, and the default one
/// is not there.
pub(super) fn no_default_family(config: &Config, relay: &[RelayAddress]) -> Option<String> {
    let has_ipv4 = relay.iter().any(|address| address.public.is_ipv4());
    (!has_ipv4 && config.turn.default_family == DefaultFamily::Ipv4).then(|| {
        "there is no IPv4 address to relay from, and browsers never ask for IPv6: set \
         turn.default_family = \"client\", or add an IPv4 address to turn.relay_addresses"
            .to_owned()
    })
}

/// What to warn of when others reach the relay, and its streams come from where they reach nothing.
pub(super) fn relay_within(config: &Config, relay: &[RelayAddress]) -> Option<String> {
    let is_here = |ip: IpAddr| ip.to_canonical().is_loopback();
    let for_others = config.turn.listen.iter().any(|listen| !is_here(listen.address.ip()));
    let first = relay.iter().map(|address| address.public).find(IpAddr::is_ipv4);
    let first = first.or_else(|| Some(relay.first()?.public))?;
    (for_others && relay.iter().all(|address| is_here(address.public))).then(|| {
        format!(
            "this machine has no address of a network, so streams are relayed from {first}, which \
             nobody else reaches: set turn.relay_addresses, or give it its address before the start"
        )
    })
}

/// What to warn of when `turn.allow_peers` opens an address that streams are relayed from: nothing
/// does.
pub(super) fn relay_among_peers(config: &Config, relay: &[RelayAddress]) -> Option<String> {
    let allowed = |ip: &IpAddr| config.turn.allow_peers.contains(&Prefix::host(*ip));
    let mut ours = relay.iter().flat_map(|address| [address.public, address.local]);
    ours.find(allowed).map(|ip| {
        format!(
            "turn.allow_peers: streams are relayed from {ip}, so clients reach other relayed \
             streams there and no service of this host; put such peers on another address, or \
             set turn.relay_addresses to one"
        )
    })
}

/// What to warn of when the configuration allows more than there are `descriptors` for.
pub(super) fn too_few_descriptors(config: &Config, descriptors: u64) -> Option<String> {
    let allocations = u64::from(config.turn.limits.allocations);
    let wanted = allocations + reserved(config);
    let pages = config.web.limits.connections;
    let relay = config.turn.limits.connections;
    (wanted > descriptors && (allocations != 0 || reserved(config) > descriptors / 2)).then(|| {
        format!(
            "turn.limits.allocations ({}), turn.limits.connections ({relay}) and \
             web.limits.connections ({pages}) could need {wanted} open files, and the hard limit \
             is {descriptors}: raise it (LimitNOFILE= in the unit, ulimit -Hn) or lower them",
            if allocations == 0 { "what is left".to_owned() } else { allocations.to_string() }
        )
    })
}

/// An epoll descriptor belongs to each connection of the relay that has an allocation, a socket to
/// each connection of a peer.
fn reserved(config: &Config) -> u64 {
    let is_stream = |listen: &TurnListener| listen.transport != Transport::Udp;
    let takes_streams = !config.web.listen.is_empty() || turn_listen(config).iter().any(is_stream);
    let of_relay = match takes_streams {
        true => 2 * u64::from(config.turn.limits.connections),
        false => 0,
    };
    let of_peers = match config.turn.tcp_relay {
        true => u64::from(config.turn.limits.tcp_connections),
        false => 0,
    };
    u64::from(config.web.limits.connections) + of_relay + of_peers + OWN_DESCRIPTORS
}

/// Listeners of every worker, epoll and wake-up descriptors, log, lock.
const OWN_DESCRIPTORS: u64 = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn loaded(text: &str) -> Loaded {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("turncast.toml");
        std::fs::write(&path, text).expect("a file");
        Loaded::read(Some(&path), &Environment::default()).expect("a configuration")
    }

    #[test]
    fn a_relay_for_others_on_a_machine_without_a_network_is_warned_of() {
        let told = |turn: &str, host: &[&str]| {
            let host: Vec<IpAddr> = host.iter().map(|ip| ip.parse().expect("an address")).collect();
            let config = loaded(&format!("[turn]\n{turn}\n")).config;
            relay_within(&config, &super::super::addresses::relay_addresses(&config, &host))
        };
        let here = &["127.0.0.1", "::1"][..];
        let text = told("listen = \"0.0.0.0:3478\"", here).expect("a warning");
        assert!(text.contains("relayed from 127.0.0.1, which nobody else reaches"), "{text}");
        assert!(told("listen = \"[::]:3478\"", here).is_some());
        assert_eq!(told("listen = \"127.0.0.1:3478\"", here), None, "nobody else is meant");
        assert_eq!(told("listen = \"0.0.0.0:3478\"", &["127.0.0.1", "10.0.0.5"]), None);
        let pair = "relay_addresses = [\"203.0.113.9/127.0.0.1\"]";
        assert_eq!(told(&format!("listen = \"0.0.0.0:3478\"\n{pair}"), here), None);
    }

    #[test]
    fn behind_a_proxy_that_ends_https_the_ports_of_the_relay_are_told() {
        let told = |ports: &str| {
            let all = "[\"udp://0.0.0.0:3478\", \"tcp://0.0.0.0:3478\", \"tls://0.0.0.0:5349\"]";
            let tls = "[tls]\ncertificate = \"c\"\nkey = \"k\"\n";
            let text = format!("[turn]\nlisten = {all}\n[web]\nlisten = \"0.0.0.0:8080\"\n{tls}");
            let config = loaded(&format!("{text}{ports}")).config;
            let reached = reached(&config, &config.web.listen, &turn_listen(&config));
            let shown = reached.iter().map(|turn| (turn.transport, turn.address.port()));
            shown.collect::<Vec<_>>()
        };
        let (udp, tcp, tls) = (Transport::Udp, Transport::Tcp, Transport::Tls);
        let own = [(udp, 3478), (tcp, 3478), (tls, 5349)];
        assert_eq!(told("[public_ports]\ntcp = 0\n"), own);
        assert_eq!(told("[public_ports]\ntcp = 0\nudp = 0\n"), own[1..]);
        assert_eq!(told(""), [own[0], own[1], (tcp, 8080), own[2], (tls, 8080)]);
        let forwarded = told("[public_ports]\ntcp = 443\n");
        assert_eq!(forwarded, [own[0], (tcp, 443), (tcp, 443), (tls, 443), (tls, 443)]);
    }

    #[test]
    fn the_limit_of_allocations_leaves_each_address_all_of_its_ports() {
        let of = |more: &str, addresses: &[&str], descriptors| {
            let text = format!("[turn]\nrelay_ports = \"50000-50003\"\n{more}");
            let config = loaded(&text).config;
            let relay: Vec<RelayAddress> = addresses
                .iter()
                .map(|ip| ip.parse().expect("an address"))
                .map(|ip| RelayAddress { public: ip, local: ip })
                .collect();
            allocations(&config, &relay, descriptors)
        };
        // A dual allocation counts as two, so no family is out of ports for the other's sake.
        let both = ["192.0.2.1", "2001:db8::1"];
        assert_eq!(of("", &both[..1], 20_000), 4);
        assert_eq!(of("", &both, 20_000), 8);
        assert_eq!(of("", &both, 12), 6, "as many as half of the descriptors");
        assert_eq!(of("", &[], 20_000), 1);
        assert_eq!(of("limits.allocations = 5\n", &both, 20_000), 5);
    }

    #[test]
    fn allocations_in_all_are_what_the_descriptors_leave_unless_they_are_set() {
        let ip = IpAddr::from([192, 0, 2, 1]);
        let one = [RelayAddress { public: ip, local: ip }];
        let most = |turn: &str, limits: &str, descriptors| {
            let text = format!(
                "[web.limits]\nconnections = 100\n[turn]\n{turn}\n\
                 [turn.limits]\nconnections = 50\n{limits}"
            );
            allocations(&loaded(&text).config, &one, descriptors)
        };
        // Connections of the pages, two descriptors for each of the relay, and the daemon's own.
        assert_eq!(most("", "", 1_000), 1_000 - 100 - 2 * 50 - OWN_DESCRIPTORS as u32);
        let tcp = "tcp_connections = 60";
        assert_eq!(most("tcp_relay = true", tcp, 1_000), 612, "and those of peers");
        // Where the connections could take all, half is left for allocations.
        assert_eq!(most("", "", 400), 200);
        assert_eq!(most("", "", 0), 1);
        // Each has a port, too; and descriptors may be without end.
        assert_eq!(most("relay_ports = \"50000-50009\"", "", u64::MAX), 10);
        assert_eq!(most("", "allocations = 7", 1_000), 7);
        assert_eq!(most("", "allocations = 7000", 1_000), 7_000);
    }
}
