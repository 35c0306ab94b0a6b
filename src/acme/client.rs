//! The life of a certificate: had, kept, renewed.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{Account, CertificateIdentifier};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::Der;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::failure::Failed;
use super::http::RetryAfter;
use super::kept::{self, ACCOUNT, CERTIFICATE, FAILURE, KeptCertificate};
use super::order::{self, Ordering};
use super::{Challenges, Facts, Failure, Hooks, Issued, Options, schedule};
use crate::net::Now;

/// The client of one certificate authority.
pub struct Client {
    options: Options,
    hooks: Hooks,
    challenges: Challenges,
    told: RetryAfter,
    /// The certificate that is served, when it came from the authority.
    served: Option<(KeptCertificate, Facts)>,
    failure: Option<Failure>,
}

impl Client {
    /// Looks at what is kept from earlier, and serves the certificate among it. Asks nobody.
    pub fn open(options: Options, hooks: Hooks, challenges: Challenges) -> Self {
        let now = Now::read().unix_secs;
        let served = kept::read(&hooks, CERTIFICATE)
            .filter(|kept: &KeptCertificate| kept.fits(&options))
            .and_then(|kept| {
                let facts = (hooks.inspect)(&kept.issued()).ok()?;
                if facts.not_after <= now {
                    return None;
                }
                (hooks.install)(&kept.issued()).ok()?;
                Some((kept, facts))
            });
        let failure: Option<Failure> = kept::read(&hooks, FAILURE);
        let failure = failure.map(tried_at_once);
        (hooks.note)(failure.as_ref());
        Self { options, hooks, challenges, told: RetryAfter::default(), served, failure }
    }

    /// Whether a certificate of the authority is served.
    pub const fn has_certificate(&self) -> bool {
        self.served.is_some()
    }

    /// Gets and renews the certificate for ever; `wake` says that somebody may have removed what
    /// was in the way.
    pub async fn run(mut self, wake: Arc<Notify>) {
        loop {
            while let left @ 1.. = self.left(Now::read().unix_secs) {
                // The wall clock may be set, and stands still for no sleeping computer.
                let slept = sleep(Duration::from_secs(left.min(SLEEP_SECS_MAX)));
                tokio::select! {
                    () = slept => {}
                    () = wake.notified() => self.failure = self.failure.map(tried_at_once),
                }
            }
            let now = Now::read().unix_secs;
            match &self.served {
                Some((kept, _)) if now < kept.renew_at => self.ask().await,
                _ => self.renew().await,
            }
        }
    }

    /// How many seconds there is nothing to do.
    fn left(&self, now: u64) -> u64 {
        let wanted = self.served.as_ref().map_or(0, |(kept, _)| kept.renew_at.min(kept.ask_at));
        let next_try = self.failure.as_ref().map_or(0, |failure| failure.next_try);
        wanted.saturating_sub(now).max(schedule::wait(next_try, now))
    }

    /// Gets a certificate, or notes why not.
    async fn renew(&mut self) {
        let attempt = timeout(ATTEMPT_MAX, self.attempt()).await;
        let late = || Failed::ours("the authority took too long");
        match attempt.unwrap_or_else(|_| Err(late())) {
            Ok(()) => {
                self.failure = None;
                (self.hooks.note)(None);
                self.forget(FAILURE);
            }
            Err(failed) => self.fail(failed),
        }
    }

    async fn attempt(&mut self) -> Result<(), Failed> {
        info!(count = self.options.hosts.len(), "asking the authority for a certificate");
        let account = order::account(&self.options, &self.hooks, &self.told).await?;
        let issued = self.order(&account).await?;
        let facts = (self.hooks.install)(&issued).map_err(Failed::ours)?;
        let renew_at = schedule::by_life(&facts, dice());
        let mut kept = KeptCertificate::new(&self.options, &issued, renew_at, facts.not_after);
        // A restart without this asks again, and authorities count that: it is kept before
        // anything else may fail.
        self.keep(CERTIFICATE, &kept);
        self.follow(&account, &mut kept, &facts).await;
        // Whatever the authority suggests, nobody asks for one certificate after the other.
        kept.renew_at = kept.renew_at.max(Now::read().unix_secs + self.options.retry.as_secs());
        self.keep(CERTIFICATE, &kept);
        info!(
            renew_at = Now::read().until(kept.renew_at),
            "the authority has issued a certificate"
        );
        self.served = Some((kept, facts));
        Ok(())
    }

    /// One order for the challenge whose turn it is; in the first attempt, for each until one is
    /// passed.
    async fn order(&self, account: &Account) -> Result<Issued, Failed> {
        let failures = self.failure.as_ref().map_or(0, |failure| failure.failures);
        let all = &self.options.challenges;
        let turns = if failures == 0 { all.len() } else { 1 };
        let mut outcome = Err(Failed::ours("no challenge is configured"));
        for turn in 0..turns {
            let ordering = Ordering {
                options: &self.options,
                hooks: &self.hooks,
                challenges: &self.challenges,
                challenge: all[(failures as usize + turn) % all.len()],
                replaces: self.served.as_ref().and_then(|(_, facts)| facts.renewal_id.clone()),
            };
            outcome = ordering.run(account).await;
            match &outcome {
                Err(failed) if failed.of_challenge => {
                    let method = ordering.challenge.text();
                    info!(method, why = failed.reason, "the authority did not find its challenge");
                }
                _ => return outcome,
            }
        }
        match self.options.hosts.first() {
            Some(host) if turns > 1 => outcome.map_err(|failed| failed.by_every_challenge(host)),
            _ => outcome,
        }
    }

    /// Asks the authority whether the certificate is to be renewed sooner or later.
    async fn ask(&mut self) {
        let Some((mut kept, facts)) = self.served.take() else { return };
        match order::account(&self.options, &self.hooks, &self.told).await {
            Ok(account) => self.follow(&account, &mut kept, &facts).await,
            Err(failed) => {
                debug!(why = failed.reason, "the authority cannot be asked when to renew");
                kept.ask_at = Now::read().unix_secs + ASK_AFTER_FAILURE_SECS;
            }
        }
        self.keep(CERTIFICATE, &kept);
        self.served = Some((kept, facts));
    }

    /// Sets the times of `kept` by what the authority suggests (RFC 9773), if it suggests.
    async fn follow(&self, account: &Account, kept: &mut KeptCertificate, facts: &Facts) {
        // Without an answer, the two thirds of its life hold that it was kept with.
        kept.ask_at = facts.not_after;
        let Some((key_id, serial)) = &facts.renewal_id else { return };
        let id = CertificateIdentifier::new(Der::from_slice(key_id), Der::from_slice(serial));
        let now = Now::read().unix_secs;
        match timeout(ANSWER_MAX, account.renewal_info(&id)).await {
            Ok(Ok((suggested, again))) => {
                let secs = |at: time::OffsetDateTime| u64::try_from(at.unix_timestamp()).ok();
                let window = &suggested.suggested_window;
                let (start, end) = (secs(window.start), secs(window.end));
                let start = start.unwrap_or(0);
                kept.renew_at = schedule::by_window(start, end.unwrap_or(start), facts, dice());
                kept.ask_at = schedule::ask_again(now, again.as_secs());
                info!(
                    renew_at = Now::read().until(kept.renew_at),
                    "the authority suggests when to renew"
                );
            }
            Ok(Err(instant_acme::Error::Unsupported(_))) => {}
            failed => {
                debug!(err = ?failed.map(|f| f.map(|_| ())), "no suggestion when to renew");
                kept.ask_at = now + ASK_AFTER_FAILURE_SECS;
            }
        }
    }

    fn fail(&mut self, failed: Failed) {
        if failed.no_account {
            // The next attempt makes a new one.
            self.forget(ACCOUNT);
        }
        let failures = self.failure.as_ref().map_or(0, |failure| failure.failures) + 1;
        let wait = schedule::back_off(self.options.retry, failures, dice());
        let told = self.told.take();
        let told = told.unwrap_or_default();
        let told_to_wait = told > wait;
        let wait = wait.max(told);
        let failure = Failure {
            reason: failed.reason,
            likely_cause: failed.likely_cause,
            failures,
            next_try: Now::read().unix_secs + wait.as_secs().max(1),
            told_to_wait,
        };
        self.keep(FAILURE, &failure);
        (self.hooks.note)(Some(&failure));
        warn!(
            why = failure.reason,
            likely = failure.likely_cause.as_deref().unwrap_or("unknown"),
            next_try = Now::read().until(failure.next_try),
            "no certificate from the authority"
        );
        self.failure = Some(failure);
    }

    fn keep(&self, name: &str, value: &impl Serialize) {
        if let Err(why) = kept::write(&self.hooks, name, value) {
            warn!(why, "the state directory cannot be written");
        }
    }

    fn forget(&self, name: &str) {
        if let Err(why) = (self.hooks.write)(name, None) {
            warn!(why, "the state directory cannot be written");
        }
    }
}

/// A failure whose wait is over, unless it was the authority that asked for it.
fn tried_at_once(failure: Failure) -> Failure {
    match failure.told_to_wait {
        true => failure,
        false => Failure { next_try: 0, ..failure },
    }
}

/// A random number; 0 when the operating system has none, which costs nothing but the jitter.
fn dice() -> u64 {
    let mut bytes = [0; 8];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => 0,
    }
}

/// How long a whole attempt may take, all challenges together.
const ATTEMPT_MAX: Duration = Duration::from_secs(600);
/// How long the authority may take to say when to renew.
const ANSWER_MAX: Duration = Duration::from_secs(30);
const SLEEP_SECS_MAX: u64 = 600;
const ASK_AFTER_FAILURE_SECS: u64 = 6 * 3600;
