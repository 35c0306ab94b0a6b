//! The doctor's visits: by `turncast doctor`, and once after the start.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Error, certificates, options, report, state};
use crate::config::{Environment, Loaded};
use crate::credentials::SharedSecrets;
use crate::doctor::{self, Report};
use crate::metrics::Metrics;
use crate::net::{Now, interface_addresses};
use crate::telemetry::Secret;
use crate::tls;
use crate::web::TurnListener;

/// What `turncast doctor` prints: of the daemon that runs with this state directory.
///
/// # Errors
/// [`Error::NotRunning`], and what keeps the command from looking at the state directory.
pub fn doctor(loaded: &Loaded, environment: &Environment) -> Result<Report, Error> {
    let directory = state::directory(loaded, environment)?;
    let Some(running) = state::running(&directory)? else {
        return Err(Error::NotRunning { directory });
    };
    let secret = doctors_secret(&directory)?;
    let host = interface_addresses().map_err(Error::Interfaces)?;
    // Where it cannot be read, nobody would trust it.
    let certificates = certificates::look(loaded, Some(&directory)).ok().and_then(|l| l.served);
    let pages = Some(running.pages.as_str()).filter(|pages| !pages.is_empty());
    let urls = report::ice_urls(&loaded.config, pages, &running.turn, certificates.as_ref());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let mut report = runtime.block_on(doctor::examine(asked(loaded, urls, secret, host)));
    report.note =
        pages.filter(|_| loaded.config.is_https() && certificates.is_none()).map(|pages| {
            format!(
                "{pages}/: the certificate is self-signed, so browsers show a full-page warning \
                 first; `turncast check` says why there is no other"
            )
        });
    runtime.shutdown_background();
    Ok(report)
}

/// The visit after the start.
pub(super) struct Visit {
    pub(super) asked: doctor::Options,
    pub(super) metrics: Arc<Metrics>,
    /// What `/healthz` shows of it.
    pub(super) shown: watch::Sender<Value>,
}

impl Visit {
    /// Looks at every URL once, and tells log, metrics and `/healthz`.
    pub(super) async fn pay(self) {
        self.shown.send_replace(json!({ "state": "running" }));
        let report = doctor::examine(self.asked).await;
        for finding in &report.findings {
            self.metrics.diagnosis(finding.diagnosis);
            let (listener, code) = (&finding.url, finding.diagnosis.text());
            if finding.is_well() {
                info!(listener, code, "browsers are relayed");
            } else {
                warn!(listener, code, "browsers are not relayed; turncast doctor says what to do");
            }
        }
        let mut shown = report.json();
        shown["state"] = "done".into();
        self.shown.send_replace(shown);
        info!(count = report.findings.len(), "the doctor has seen every URL");
    }
}

/// What the visit after the start looks at.
///
/// # Errors
/// What keeps the state directory from being read.
pub(super) fn at_start(
    loaded: &Loaded,
    directory: &Path,
    pages: Option<&str>,
    (turn, certificates): (&[TurnListener], Option<&tls::Certificates>),
    host: &[IpAddr],
) -> Result<doctor::Options, Error> {
    let urls = report::ice_urls(&loaded.config, pages, turn, certificates);
    Ok(asked(loaded, urls, doctors_secret(directory)?, host.to_vec()))
}

fn asked(
    loaded: &Loaded,
    urls: Vec<String>,
    secret: Secret<String>,
    host: Vec<IpAddr>,
) -> doctor::Options {
    let hashes = options::shared_secrets(loaded);
    let secrets = SharedSecrets::new(vec![secret]).hashed_as(&hashes);
    let expiry_unix_secs = Now::read().unix_secs + CREDENTIAL_SECS;
    doctor::Options { urls, secrets, expiry_unix_secs, host, step: doctor::STEP }
}

/// The secret that signs the doctor's credentials. It follows from the hub's key, so whoever may
/// read the state directory of a daemon can ask how it is, and nobody else.
///
/// # Errors
/// What keeps the key from being read.
pub(super) fn doctors_secret(directory: &Path) -> Result<Secret<String>, Error> {
    let key = state::hub_key(directory)?;
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.expose());
    let tag = ring::hmac::sign(&key, b"turncast doctor");
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Secret::new(hex))
}

/// How long a credential of the doctor is good for a new allocation.
const CREDENTIAL_SECS: u64 = 60;
