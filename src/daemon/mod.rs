//! Puts the parts together: the only room that knows all others.
//!
//! The straight line of [`run`]: log, descriptors, state directory, relay, hub and pages, the
//! operator's listener; then the friendly lines, `ready`, and the wait for a signal; then
//! everything in the opposite order, within `shutdown_secs`. The other commands look at the same
//! configuration and bind nothing. Socket activation is not built yet.

mod addresses;
mod certificates;
mod clients;
mod discovery;
mod doctor;
mod options;
mod pages;
mod plan;
mod report;
mod running;
mod state;
mod supervise;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ring::rand::{SecureRandom as _, SystemRandom};
use tracing::warn;

use crate::config::{Environment, Loaded, TlsMode};
use crate::credentials::Entropy;
use crate::net::{Now, interface_addresses};
use crate::turn::RelayAddress;
use crate::{relay, telemetry, tls, turn};
pub use doctor::doctor;
use state::State;

/// Why the daemon, or one of the commands that look at its state, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state directory.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The log.
    #[error("set up the log")]
    Log(#[from] telemetry::LogError),
    /// The relay.
    #[error("start the relay")]
    Relay(#[from] relay::Error),
    /// The certificate.
    #[error("[tls]")]
    Tls(#[from] tls::Error),
    /// The authority's own certificate.
    #[error("acme.root_certificate: read {}", path.display())]
    RootCertificate {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// A listener of pages or metrics.
    #[error("bind {listener}: {source}{hint}")]
    Bind {
        /// As a URL.
        listener: String,
        /// What is likely the matter; empty when nobody knows.
        hint: String,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// A configured relay address is no address of this host.
    #[error(
        "turn.relay_addresses: {address} is no address of this host; behind a NAT write \
         \"{address}/LOCAL_IP\""
    )]
    RelayAddress {
        /// The local half of the pair.
        address: IpAddr,
    },
    /// This host cannot serve NAT behaviour discovery as configured.
    #[error("turn.nat_discovery: {address} {why}")]
    NatDiscovery {
        /// The local half of the second address.
        address: IpAddr,
        /// What is the matter with it, and what to do.
        why: String,
    },
    /// `turncast credentials` without a secret.
    #[error(
        "no secret to sign with: set turn.shared_secret or turn.shared_secret_file in the \
         configuration"
    )]
    NoSharedSecret,
    /// `turncast invite` without pages.
    #[error("there are no pages: web.listen is empty")]
    NoPages,
    /// `turncast doctor` without a daemon.
    #[error("no daemon runs with the state directory {}: start it (turncast run, or systemctl \
             start turncast), or set state_dir to the directory that it uses", directory.display())]
    NotRunning {
        /// The directory.
        directory: PathBuf,
    },
    /// The operating system gives no random numbers.
    #[error("the operating system gives no random numbers")]
    Entropy,
    /// The addresses of this host cannot be listed.
    #[error("list the addresses of this host")]
    Interfaces(#[source] std::io::Error),
    /// Tasks or signals.
    #[error("set up the runtime")]
    Runtime(#[source] std::io::Error),
    /// A part ended that never ends by itself.
    #[error("{0} ended by itself; this is a bug")]
    Ended(&'static str),
    /// Somebody pressed Ctrl-C twice.
    #[error("interrupted again: ended at once, without waiting for clients")]
    Interrupted,
}

impl Error {
    /// Whether the configuration is to be blamed, and trying again does not help.
    pub const fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::Tls(_)
                | Self::RootCertificate { .. }
                | Self::RelayAddress { .. }
                | Self::NatDiscovery { .. }
                | Self::NoSharedSecret
        )
    }
}

/// Runs the daemon until somebody asks it to stop.
///
/// # Errors
/// [`Error`] when it cannot start, and when it does not end in order.
pub fn run(loaded: &Loaded, environment: &Environment) -> Result<(), Error> {
    telemetry::start(options::log(&loaded.config))?;
    for warning in &loaded.warnings {
        warn!(why = %warning.line, "the configuration is likely not what was meant");
    }
    let mut entropy = entropy()?;
    let directory = state::directory(loaded, environment)?;
    let mut state = State::open(directory, &mut entropy)?;
    let host = interface_addresses().map_err(Error::Interfaces)?;
    let relay_addresses = addresses::relay_addresses(&loaded.config, &host);
    if let Some(missing) = foreign(&relay_addresses, &host) {
        return Err(Error::RelayAddress { address: missing });
    }
    let discovery = discovery::nat_discovery(&loaded.config, &relay_addresses, &host)?;
    let descriptors = descriptors();
    if let Some(why) = options::too_few_descriptors(&loaded.config, descriptors) {
        warn!(why, "the limit of open files is low");
    }
    let unfit = options::no_default_family(&loaded.config, &relay_addresses);
    for why in unfit.into_iter().chain(options::relay_within(&loaded.config, &relay_addresses)) {
        warn!(why, "browsers are not relayed");
    }
    if let Some(why) = options::relay_among_peers(&loaded.config, &relay_addresses) {
        warn!(why, "some peers are not reached");
    }
    let allocations = options::allocations(&loaded.config, &relay_addresses, descriptors);
    let mut turn = options::turn(loaded, relay_addresses, discovery, host.clone(), allocations);
    turn.shared_secrets = turn.shared_secrets.and(doctor::doctors_secret(state.directory())?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("turncast-web")
        .on_thread_park(relay::Streams::before_wait)
        .build()
        .map_err(Error::Runtime)?;
    let parts = running::Parts { loaded, host, turn, entropy };
    let result = runtime.block_on(running::run(parts, &mut state));
    // What still runs has had its deadline.
    runtime.shutdown_background();
    result
}

/// What `turncast check` has to say.
#[derive(Debug)]
pub struct Checked {
    /// What the configuration leads to, and warnings.
    pub text: String,
    /// Why the daemon would not start here, if that is known without trying.
    pub refusal: Option<Error>,
}

/// What `turncast check` prints; binds nothing, makes nothing.
///
/// # Errors
/// [`Error`] when there is nothing to be said of what would be.
pub fn check(loaded: &Loaded, environment: &Environment) -> Result<Checked, Error> {
    let directory = state::directory(loaded, environment).ok();
    let found = certificates::look(loaded, directory.as_deref())?;
    let host = interface_addresses().map_err(Error::Interfaces)?;
    let relay = addresses::relay_addresses(&loaded.config, &host);
    let descriptors = descriptors();
    let allocations = options::allocations(&loaded.config, &relay, descriptors);
    let foreign = foreign(&relay, &host).map(|address| Error::RelayAddress { address });
    let (discovery, unserved) = match discovery::nat_discovery(&loaded.config, &relay, &host) {
        Ok(discovery) => (discovery, None),
        Err(error) => (turn::NatDiscovery::default(), Some(error)),
    };
    let listeners = report::Listeners::asked(&loaded.config, &discovery);
    let plan =
        plan::Plan { config: &loaded.config, listeners: &listeners, host: &host, relay: &relay };
    let known = report::Known {
        state: directory.as_deref(),
        certificate: &found,
        host: &host,
        relay: &relay,
        discovery: &discovery,
        ports: plan.ports(),
    };
    let mut text = report::check(loaded, known, allocations);
    // The first is told as what it is, at the end.
    let mut refusals = foreign.into_iter().chain(unserved);
    let refusal = refusals.next();
    let more = refusals.map(|error| format!("{error}; the daemon would not start here"));
    let nowhere = directory.is_none().then(|| state::Error::Nowhere.to_string());
    let mut warnings: Vec<String> = more
        .chain(options::too_few_descriptors(&loaded.config, descriptors))
        .chain(options::no_default_family(&loaded.config, &relay))
        .chain(options::relay_within(&loaded.config, &relay))
        .chain(options::relay_among_peers(&loaded.config, &relay))
        .chain(nowhere)
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Error::Runtime)?;
    warnings.extend(runtime.block_on(plan.warnings()));
    for warning in warnings {
        text.push('\n');
        text += &crate::doctor::in_lines(&warning, "warning: ");
    }
    // A look-up that takes too long is not waited for.
    runtime.shutdown_background();
    Ok(Checked { text, refusal })
}

/// The link that `turncast invite` prints; `rotate` makes a new key first.
///
/// # Errors
/// [`Error`] before the first start, and without pages.
pub fn invite(loaded: &Loaded, environment: &Environment, rotate: bool) -> Result<String, Error> {
    let directory = state::directory(loaded, environment)?;
    let key = if rotate {
        state::rotate_broadcast_key(&directory, &mut entropy()?)?
    } else {
        state::broadcast_key(&directory)?
    };
    // Where the lock cannot be read, the configuration says nearly as much.
    let running = state::running(&directory).unwrap_or_default();
    let pages = match running.map(|running| running.pages).filter(|pages| !pages.is_empty()) {
        Some(pages) => pages,
        None => {
            let host = interface_addresses().map_err(Error::Interfaces)?;
            report::pages(&loaded.config, &loaded.config.web.listen, &host).ok_or(Error::NoPages)?
        }
    };
    Ok(report::invite_link(&pages, &key))
}

/// What `turncast credentials` prints: a credential for `name` as RTCIceServer JSON; and what is to
/// be said beside, if anything.
///
/// # Errors
/// [`Error::NoSharedSecret`].
pub fn credential(
    loaded: &Loaded,
    environment: &Environment,
    name: &str,
    ttl_secs: Option<u32>,
) -> Result<(String, Option<String>), Error> {
    let config = &loaded.config;
    let ttl_secs = ttl_secs.unwrap_or(config.turn.credential_ttl_secs);
    let expiry = Now::read().unix_secs.saturating_add(u64::from(ttl_secs));
    let credential =
        options::shared_secrets(loaded).sign(name, expiry).ok_or(Error::NoSharedSecret)?;
    let host = interface_addresses().map_err(Error::Interfaces)?;
    let turn = options::turn_listen(config);
    let addresses: Vec<SocketAddr> = turn.iter().map(|listener| listener.address).collect();
    let turn = options::reached(config, &config.web.listen, &turn);
    let asked = report::pages(config, &addresses, &host);
    // Where it cannot be read, nobody would trust it.
    let directory = state::directory(loaded, environment).ok();
    let look = certificates::look(loaded, directory.as_deref()).ok();
    let unread = look.as_ref().and_then(|look| look.unread.as_ref());
    let note = unread
        .filter(|_| config.tls_mode() == TlsMode::Acme)
        .map(|why| format!("TURN over TLS is left out, as the certificate is not known: {why}"));
    let certificates = look.and_then(|look| look.served);
    let answer = serde_json::json!({
        "urls": report::ice_urls(config, asked.as_deref(), &turn, certificates.as_ref()),
        "username": credential.username,
        "credential": credential.password.expose(),
    });
    Ok((answer.to_string(), note))
}

/// The local address among `relay` that is no address of this host. On loopback the whole
/// 127.0.0.0/8 is.
fn foreign(relay: &[RelayAddress], host: &[IpAddr]) -> Option<IpAddr> {
    relay.iter().map(|address| address.local).find(|ip| !is_ours(*ip, host))
}

fn is_ours(ip: IpAddr, host: &[IpAddr]) -> bool {
    host.contains(&ip) || (ip.is_ipv4() && ip.is_loopback())
}

/// Raises the limit of descriptors to the hard limit and returns it.
fn descriptors() -> u64 {
    match relay::raise_descriptor_limit() {
        Ok((limit, _)) => limit,
        Err(err) => {
            warn!(%err, "the limit of open files cannot be raised");
            DESCRIPTORS_MIN
        }
    }
}

/// A generator that is seeded by the operating system.
fn entropy() -> Result<Entropy, Error> {
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).map_err(|_| Error::Entropy)?;
    Ok(Entropy::from_seed(seed))
}

/// What every Linux process gets.
const DESCRIPTORS_MIN: u64 = 1024;
