//! The doctor's visits: by `turncast doctor`, and once after the start.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Error, certificates, options, report, state};
use crate::config::{Config, Environment, Loaded};
use crate::credentials::SharedSecrets;
use crate::doctor::{self, Report};
use crate::metrics::Metrics;
use crate::net::{Now, interface_addresses};
use crate::telemetry::Secret;
use crate::tls::{Certificates, Trust};
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
    let secrets = secrets(loaded, secret);
    let mut report = runtime.block_on(doctor::examine(asked(urls, secrets, host)));
    report.note = note(&loaded.config, pages, certificates.as_ref());
    runtime.shutdown_background();
    Ok(report)
}

/// What browsers will say of the pages, if they will.
fn note(
    config: &Config,
    pages: Option<&str>,
    certificates: Option<&Certificates>,
) -> Option<String> {
    let own = certificates.is_none_or(|held| held.served().trust() == Trust::SelfSigned);
    pages.filter(|_| config.is_https() && own).map(|pages| {
        format!(
            "{pages}/: the certificate is self-signed, so browsers show a full-page warning \
             first; `turncast check` says why there is no other"
        )
    })
}

/// The visit after the start, and those after it when browsers are told something else.
pub(super) struct Visit {
    /// `None` when nobody wants it.
    patient: Option<Patient>,
    metrics: Arc<Metrics>,
    shown: watch::Sender<Value>,
}

impl Visit {
    /// A visit to the daemon with this state directory, which browsers reach at these listeners,
    /// and what `/healthz` shows of it.
    ///
    /// # Errors
    /// What keeps the state directory from being read.
    pub(super) fn planned(
        loaded: &Loaded,
        directory: &Path,
        (web, turn, served): (&[SocketAddr], &[TurnListener], Option<&Certificates>),
        host: &[IpAddr],
        metrics: &Arc<Metrics>,
    ) -> Result<(Self, watch::Receiver<Value>), Error> {
        let mut patient = None;
        if loaded.config.doctor_at_start {
            patient = Some(Patient {
                config: loaded.config.clone(),
                pages: report::pages(&loaded.config, web, host),
                turn: turn.to_vec(),
                served: served.cloned(),
                secrets: secrets(loaded, doctors_secret(directory)?),
                host: host.to_vec(),
            });
        }
        let (shown, seen) = watch::channel(Value::Null);
        Ok((Self { patient, metrics: Arc::clone(metrics), shown }, seen))
    }

    /// Looks at every URL once, and again when a certificate has come by which browsers are told
    /// others: the first one of an authority does so.
    pub(super) async fn pay(self) {
        let Some(patient) = &self.patient else { return };
        // Before the URLs are asked for, so that no change is missed.
        let mut installs = patient.served.as_ref().map(Certificates::installs);
        loop {
            let urls = patient.urls();
            self.look_at(patient, urls.clone()).await;
            while patient.urls() == urls {
                let Some(installs) = &mut installs else { return };
                if installs.changed().await.is_err() {
                    return;
                }
            }
        }
    }

    /// Looks at these URLs, and tells log, metrics and `/healthz`.
    async fn look_at(&self, patient: &Patient, urls: Vec<String>) {
        self.shown.send_replace(json!({ "state": "running" }));
        let (secrets, host) = (patient.secrets.clone(), patient.host.clone());
        let mut report = doctor::examine(asked(urls, secrets, host)).await;
        report.note = note(&patient.config, patient.pages.as_deref(), patient.served.as_ref());
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

/// The running daemon, as far as the doctor has to know it.
struct Patient {
    config: Config,
    pages: Option<String>,
    turn: Vec<TurnListener>,
    served: Option<Certificates>,
    secrets: SharedSecrets,
    host: Vec<IpAddr>,
}

impl Patient {
    /// The URLs that browsers are told now.
    fn urls(&self) -> Vec<String> {
        report::ice_urls(&self.config, self.pages.as_deref(), &self.turn, self.served.as_ref())
    }
}

/// What signs the doctor's credentials, with the hashes that the relay takes.
fn secrets(loaded: &Loaded, secret: Secret<String>) -> SharedSecrets {
    SharedSecrets::new(vec![secret]).hashed_as(&options::shared_secrets(loaded))
}

fn asked(urls: Vec<String>, secrets: SharedSecrets, host: Vec<IpAddr>) -> doctor::Options {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Entropy;

    #[test]
    fn the_doctors_secret_is_each_daemons_own_and_not_the_key_it_follows_from() {
        let secret = |seed: u8| {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("state");
            let mut entropy = Entropy::from_seed([seed; 32]);
            let state = state::State::open(path, &mut entropy).expect("a state directory");
            let secret = || doctors_secret(state.directory()).expect("a key").expose().clone();
            let key = std::fs::read_to_string(state.directory().join("hub.key")).expect("a key");
            assert_eq!(secret(), secret());
            assert_eq!(secret().len(), 64);
            assert!(!secret().contains(key.trim()));
            std::fs::write(state.directory().join("hub.key"), "").expect("written");
            assert!(doctors_secret(state.directory()).is_err(), "no key, no secret");
            std::fs::remove_file(state.directory().join("hub.key")).expect("removed");
            assert!(doctors_secret(state.directory()).is_err(), "no key, no secret");
            let _ = std::fs::write(state.directory().join("hub.key"), key);
            secret()
        };
        assert_ne!(secret(1), secret(2));
    }
}
