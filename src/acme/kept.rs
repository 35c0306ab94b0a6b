//! What is kept in the state directory: the account, the certificate, the last failure.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Challenge, Facts, Failure, Hooks, Issued, Options, schedule};
use crate::telemetry::Secret;

pub(super) const ACCOUNT: &str = "acme-account.json";
pub(super) const CERTIFICATE: &str = "acme-certificate.json";
pub(super) const FAILURE: &str = "acme-failure.json";

/// The account at one authority.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptAccount {
    pub(super) directory: String,
    pub(super) email: Option<String>,
    /// As the client library writes it; with the private key.
    pub(super) credentials: serde_json::Value,
}

/// The certificate, and when to do what about it.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptCertificate {
    pub(super) directory: String,
    pub(super) hosts: Vec<String>,
    pub(super) chain: String,
    key: String,
    /// When to renew it, in seconds since 1970.
    pub(super) renew_at: u64,
    /// When to ask the authority whether it is to be renewed sooner or later, in seconds since
    /// 1970.
    pub(super) ask_at: u64,
    /// The challenge that was passed for it, if anybody knows.
    #[serde(default)]
    pub(super) passed: Option<Challenge>,
}

impl KeptCertificate {
    /// A new one of which the authority has not said yet when to renew it.
    pub(super) fn new(
        options: &Options,
        issued: &Issued,
        passed: Option<Challenge>,
        facts: &Facts,
        dice: u64,
    ) -> Self {
        Self {
            directory: options.directory.clone(),
            hosts: options.hosts.clone(),
            chain: issued.chain.clone(),
            key: issued.key.expose().clone(),
            renew_at: schedule::by_life(facts, dice),
            ask_at: facts.not_after,
            passed,
        }
    }

    pub(super) fn issued(&self) -> Issued {
        Issued { chain: self.chain.clone(), key: Secret::new(self.key.clone()) }
    }

    /// Whether it is what the options ask for.
    pub(super) fn fits(&self, options: &Options) -> bool {
        self.directory == options.directory && self.hosts == options.hosts
    }
}

/// Why there is no certificate, and whom it was asked of, for what.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptFailure {
    directory: String,
    hosts: Vec<String>,
    failure: Failure,
}

impl KeptFailure {
    pub(super) fn new(options: &Options, failure: &Failure) -> Self {
        let (directory, hosts) = (options.directory.clone(), options.hosts.clone());
        Self { directory, hosts, failure: failure.clone() }
    }

    /// The failure, if it was about what the options ask for. Of another host or another authority
    /// it says nothing.
    pub(super) fn of(self, options: &Options) -> Option<Failure> {
        let fits = self.directory == options.directory && self.hosts == options.hosts;
        fits.then_some(self.failure)
    }
}

/// Reads one of the files; what cannot be read counts as not there, because all of it can be had
/// again from the authority.
pub(super) fn read<T: DeserializeOwned>(hooks: &Hooks, name: &str) -> Option<T> {
    match (hooks.read)(name) {
        Ok(text) => serde_json::from_str(&text?).ok(),
        Err(why) => {
            tracing::warn!(why, "a file of the state directory cannot be read");
            None
        }
    }
}

/// Writes one of the files.
pub(super) fn write(hooks: &Hooks, name: &str, value: &impl Serialize) -> Result<(), String> {
    let text = serde_json::to_string(value).map_err(|err| err.to_string())?;
    (hooks.write)(name, Some(&text))
}

/// Why the running daemon has no certificate for these options yet, or no new one: for
/// `turncast check`, with a function that reads a file of the state directory.
pub fn last_failure(options: &Options, read: impl Fn(&str) -> Option<String>) -> Option<Failure> {
    let kept: KeptFailure = serde_json::from_str(&read(FAILURE)?).ok()?;
    kept.of(options)
}

/// The kept certificate for these options, and when it is to be renewed as far as the file says,
/// see [`renewed_at`]: for `turncast check`.
pub fn order_due(
    options: &Options,
    read: impl Fn(&str) -> Option<String>,
) -> Option<(Issued, u64)> {
    let kept: KeptCertificate = serde_json::from_str(&read(CERTIFICATE)?).ok()?;
    kept.fits(options).then(|| (kept.issued(), kept.renew_at))
}

/// When a certificate is renewed of which a file says `renew_at`.
pub fn renewed_at(renew_at: u64, facts: &Facts) -> u64 {
    schedule::believed(renew_at, facts, 0)
}
