//! The life of a certificate: had, kept, renewed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use instant_acme::{Account, CertificateIdentifier};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::Der;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::failure::Failed;
use super::http::RetryAfter;
use super::kept::{self, ACCOUNT, CERTIFICATE, FAILURE, KeptCertificate, KeptFailure};
use super::order::{self, Ordering};
use super::{Challenge, Challenges, Facts, Failure, Hooks, Issued, Options, schedule};
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
    /// When the last one came, by a clock that nobody sets.
    issued: Option<Instant>,
}

impl Client {
    /// Looks at what is kept from earlier, and serves the certificate among it. Asks nobody.
    pub fn open(options: Options, hooks: Hooks, challenges: Challenges) -> Self {
        let now = Now::read().unix_secs;
        let served = kept::read(&hooks, CERTIFICATE)
            .filter(|kept: &KeptCertificate| kept.fits(&options))
            .and_then(|mut kept| {
                let facts = (hooks.inspect)(&kept.issued()).ok()?;
                if facts.not_after <= now {
                    return None;
                }
                (hooks.install)(&kept.issued()).ok()?;
                kept.renew_at = schedule::believed(kept.renew_at, &facts, dice());
                kept.ask_at = kept.ask_at.min(facts.not_after);
                Some((kept, facts))
            });
        let failure: Option<KeptFailure> = kept::read(&hooks, FAILURE);
        let failure = failure.and_then(|kept| kept.of(&options)).map(tried_at_once);
        (hooks.note)(failure.as_ref());
        let told = RetryAfter::default();
        Self { options, hooks, challenges, told, served, failure, issued: None }
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
                    () = wake.notified() => self.woken(),
                }
            }
            let now = Now::read().unix_secs;
            match &self.served {
                Some((kept, _)) if now < kept.renew_at => self.ask().await,
                _ => self.renew().await,
            }
        }
    }

    /// Tries at once what only we wanted to wait for, or says why not.
    fn woken(&mut self) {
        self.failure = self.failure.take().map(tried_at_once);
        let now = Now::read();
        if self.left(now.unix_secs) == 0 {
            return;
        }
        match (&self.failure, &self.served) {
            (Some(failure), _) => {
                let next_try = now.until(failure.next_try);
                info!(next_try, "the authority has told us to wait; it is not asked before that");
            }
            (None, Some((kept, _))) => {
                info!(renew_at = now.until(kept.renew_at), "the certificate is not due yet");
            }
            (None, None) => {}
        }
    }

    /// How many seconds there is nothing to do.
    fn left(&self, now: u64) -> u64 {
        let wanted = self.served.as_ref().map_or(0, |(kept, _)| kept.renew_at.min(kept.ask_at));
        let next_try = self.failure.as_ref().map_or(0, |failure| failure.next_try);
        // Whatever the authority suggests, and whatever the wall clock is set to, nobody asks for
        // one certificate after the other.
        let rest = self
            .issued
            .map_or(Duration::ZERO, |at| self.options.retry.saturating_sub(at.elapsed()));
        let rest = rest.as_millis().div_ceil(1000) as u64;
        wanted.saturating_sub(now).max(schedule::wait(next_try, now)).max(rest)
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
        let (issued, passed) = self.order(&account).await?;
        let facts = (self.hooks.install)(&issued).map_err(Failed::ours)?;
        self.issued = Some(Instant::now());
        let mut kept = KeptCertificate::new(&self.options, &issued, passed, &facts, dice());
        // A restart without this asks again, and authorities count that: it is kept before
        // anything else may fail.
        self.keep(CERTIFICATE, &kept);
        self.follow(&account, &mut kept, &facts).await;
        let soonest = Now::read().unix_secs + self.options.retry.as_secs();
        kept.renew_at = schedule::no_sooner(soonest, kept.renew_at, &facts);
        self.keep(CERTIFICATE, &kept);
        info!(
            renew_at = Now::read().until(kept.renew_at),
            "the authority has issued a certificate"
        );
        self.served = Some((kept, facts));
        Ok(())
    }

    /// One order for the challenge whose turn it is; in the first attempt, for each until one is
    /// passed. With the certificate comes the challenge that was passed, as far as that is known.
    async fn order(&self, account: &Account) -> Result<(Issued, Option<Challenge>), Failed> {
        let passed = self.served.as_ref().and_then(|(kept, _)| kept.passed);
        let failures = self.failure.as_ref().map_or(0, |failure| failure.by_challenge);
        let turns = turns(&self.options.challenges, passed, failures);
        let mut outcome = Err(Failed::ours("no challenge is configured"));
        for &challenge in &turns {
            let ordering = Ordering {
                options: &self.options,
                hooks: &self.hooks,
                challenges: &self.challenges,
                challenge,
                replaces: self.served.as_ref().and_then(|(_, facts)| facts.renewal_id.clone()),
            };
            match ordering.run(account).await {
                Ok((issued, true)) => return Ok((issued, Some(challenge))),
                Ok((issued, false)) => return Ok((issued, passed)),
                Err(failed) if failed.of_challenge => {
                    let method = challenge.text();
                    info!(method, why = failed.reason, "the authority did not find its challenge");
                    outcome = Err(failed);
                }
                Err(failed) => return Err(failed),
            }
        }
        match self.options.hosts.first() {
            Some(host) if turns.len() > 1 => {
                outcome.map_err(|failed| failed.by_every_challenge(host))
            }
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
        let before = self.failure.as_ref().map_or((0, 0), |f| (f.failures, f.by_challenge));
        let failures = before.0.saturating_add(1);
        let by_challenge = before.1.saturating_add(u32::from(failed.of_challenge));
        let wait = schedule::back_off(self.options.retry, failures, dice());
        let told = self.told.take();
        let told = told.unwrap_or_default();
        let told_to_wait = told > wait;
        let wait = wait.max(told);
        let failure = Failure {
            reason: failed.reason,
            likely_cause: failed.likely_cause,
            failures,
            by_challenge,
            next_try: Now::read().unix_secs + wait.as_secs().max(1),
            told_to_wait,
        };
        self.keep(FAILURE, &KeptFailure::new(&self.options, &failure));
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

/// The challenges of an attempt, one after the other: the one that led to the last certificate
/// first. Once all of them have failed, each attempt is by a single one, because authorities count
/// failures by the hour. Failures that were about something else say nothing of challenges.
fn turns(all: &[Challenge], passed: Option<Challenge>, failures: u32) -> Vec<Challenge> {
    let mut turns = all.to_vec();
    // What is equal stays in its order.
    turns.sort_by_key(|challenge| Some(*challenge) != passed);
    match failures {
        0 => turns,
        failures => {
            turns.get(failures as usize % turns.len().max(1)).copied().into_iter().collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_that_was_passed_comes_first_and_failures_of_others_move_nothing() {
        let (tls, http) = (Challenge::TlsAlpn01, Challenge::Http01);
        let both = [tls, http];
        assert_eq!(turns(&both, None, 0), [tls, http]);
        assert_eq!(turns(&both, Some(tls), 0), [tls, http]);
        assert_eq!(turns(&both, Some(http), 0), [http, tls]);
        assert_eq!([turns(&both, None, 1), turns(&both, None, 2)], [[http], [tls]]);
        assert_eq!([turns(&both, Some(http), 1), turns(&both, Some(http), 2)], [[tls], [http]]);
        assert_eq!(turns(&[http], Some(tls), u32::MAX), [http], "it is configured no more");
        assert!(turns(&[], None, 3).is_empty());
    }
}
