//! Whether the relay works for browsers: a client of its own, which is not our code, relays a
//! packet through every URL that browsers are told, and back.
//!
//! The straight line: a URL is read as a browser reads it (`url`), its name is looked up, and for
//! each address two clients come by the URL's transport (`wire`), TLS being judged on the way
//! (`certificate`). Each makes an allocation; then they send a packet to each other's relayed
//! address (`probe`). What went wrong where becomes a [`Diagnosis`], a sentence, and what to do
//! next. Nobody but the daemon itself and the system's resolver is contacted.

mod certificate;
mod probe;
mod report;
#[cfg(test)]
mod tests;
mod url;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::credentials::{Credential, SharedSecrets};
use crate::metrics::Diagnosis;

pub use certificate::Judgement;
pub use report::{Finding, Report, in_lines};
use url::TurnUrl;

/// How the names of the doctor's users begin. The relay sends their packets through its sockets, so
/// that a firewall around the relayed ports is seen.
pub const USER_PREFIX: &str = "doctor-";

/// What is examined.
#[derive(Debug)]
pub struct Options {
    /// The URLs that a browser is told, such as `turn:192.0.2.1:3478?transport=udp`.
    pub urls: Vec<String>,
    /// What signs the credentials; unscoped ones, under names that begin with [`USER_PREFIX`].
    pub secrets: SharedSecrets,
    /// When these credentials end, in seconds since 1970.
    pub expiry_unix_secs: u64,
    /// The addresses of this host.
    pub host: Vec<IpAddr>,
    /// How long a single step (look-up, connection, handshake, answer) may take.
    pub step: Duration,
}

/// How long a single step may take, unless somebody knows better.
pub const STEP: Duration = Duration::from_secs(5);

/// Of a name's addresses, so many are examined. Browsers try all of them.
pub const ADDRESSES_MAX: usize = 4;

/// Examines every URL. Takes a few steps at the most, because all are examined at once.
pub async fn examine(options: Options) -> Report {
    let options = Arc::new(options);
    let mut running = JoinSet::new();
    for index in 0..options.urls.len() {
        let options = Arc::clone(&options);
        running.spawn(async move { (index, examine_url(&options, index).await) });
    }
    let mut found = running.join_all().await;
    found.sort_by_key(|(index, _)| *index);
    let findings = found.into_iter().flat_map(|(_, findings)| findings).collect();
    Report { findings, note: None }
}

/// One finding for each address that the URL leads to.
async fn examine_url(options: &Arc<Options>, index: usize) -> Vec<Finding> {
    let text = &options.urls[index];
    let start = Instant::now();
    let addresses = match TurnUrl::parse(text) {
        Some(url) => resolve(&url, options.step).await.map(|found| (url, found)),
        None => Err(Trouble::new(
            Diagnosis::Unresolved,
            "is no TURN URL",
            "this is a bug: please report it",
        )),
    };
    let (url, addresses) = match addresses {
        Ok(found) => found,
        Err(trouble) => return vec![Finding::bad(text, None, start, trouble)],
    };
    let mut running = JoinSet::new();
    for (side, address) in addresses.into_iter().enumerate() {
        let (options, url) = (Arc::clone(options), url.clone());
        running.spawn(async move {
            let start = Instant::now();
            let credential = |half: &str| credential(&options, &format!("{index}{side}{half}"));
            let pair = (credential("a"), credential("b"));
            let result = match pair {
                (Some(first), Some(second)) => {
                    probe::relay(&url, address, [first, second], &options).await
                }
                _ => Err(Trouble::new(
                    Diagnosis::Refused,
                    "there is nothing to sign a credential with",
                    "this is a bug: please report it",
                )),
            };
            let text = &options.urls[index];
            let finding = match result {
                Ok(passed) => Finding::good(text, address, start, passed),
                Err(trouble) => Finding::bad(text, Some(address), start, trouble),
            };
            (side, finding)
        });
    }
    let mut found = running.join_all().await;
    found.sort_by_key(|(side, _)| *side);
    found.into_iter().map(|(_, finding)| finding).collect()
}

/// A credential of a user of its own, so that a small quota is no obstacle.
fn credential(options: &Options, suffix: &str) -> Option<Credential> {
    options.secrets.sign(&format!("{USER_PREFIX}{suffix}"), options.expiry_unix_secs)
}

/// The addresses of the URL's host, by the system's resolver.
async fn resolve(url: &TurnUrl, step: Duration) -> Result<Vec<SocketAddr>, Trouble> {
    let host = &url.host;
    let trouble = |why: String| {
        let next = format!(
            "add {host} to the DNS (an A record, and AAAA for IPv6), or correct public_host"
        );
        Trouble::new(Diagnosis::Unresolved, why, next)
    };
    let found = match timeout(step, lookup_host((host.as_str(), url.port))).await {
        Ok(Ok(found)) => found,
        Ok(Err(err)) => return Err(trouble(format!("{host} has no address ({err})"))),
        Err(_) => {
            let why = format!("the system's resolver says nothing about {host}");
            let next = "see /etc/resolv.conf: the name server there does not answer";
            return Err(Trouble::new(Diagnosis::Unresolved, why, next));
        }
    };
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address) && addresses.len() < ADDRESSES_MAX {
            addresses.push(address);
        }
    }
    match addresses.is_empty() {
        true => Err(trouble(format!("{host} has no address"))),
        false => Ok(addresses),
    }
}

/// What is wrong, and what to do.
#[derive(Debug)]
struct Trouble {
    diagnosis: Diagnosis,
    why: String,
    next_step: String,
    relayed: Option<IpAddr>,
    certificate: Option<Judgement>,
}

impl Trouble {
    fn new(diagnosis: Diagnosis, why: impl Into<String>, next_step: impl Into<String>) -> Self {
        let (why, next_step) = (why.into(), next_step.into());
        Self { diagnosis, why, next_step, relayed: None, certificate: None }
    }
}
