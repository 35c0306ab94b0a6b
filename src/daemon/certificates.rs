//! Wires the certificate: where it comes from by `[tls]` and `[acme]`, and who keeps it fresh.
//!
//! The straight line: [`Certificate::open`] has something to serve before the first listener is
//! opened, if only a self-signed certificate; [`Certificate::keep_fresh`] then looks after it for
//! ever: files that change, a certificate of our own that ends, an authority that is asked.

use std::cell::RefCell;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::{Error, options, state};
use crate::acme::{self, Challenges, Client, Facts, Hooks, Issued};
use crate::config::{Config, Loaded, TlsMode};
use crate::metrics::{Metrics, Renewal};
use crate::net::{Now, interface_addresses};
use crate::tls::{self, Certificates, Pair, Trouble, Trust};

/// The certificate of a daemon that starts.
pub(super) struct Certificate {
    served: Option<Certificates>,
    challenges: Challenges,
    upkeep: Upkeep,
    metrics: Arc<Metrics>,
}

/// What has to be done for it.
enum Upkeep {
    Nothing,
    /// With what the files were when they were read.
    Files(Files, [Stamp; 2]),
    SelfSigned(SelfSigned),
    Acme(Box<Client>),
}

impl Certificate {
    /// Reads or makes what is served at first. Asks nobody.
    ///
    /// # Errors
    /// [`Error::Tls`] when files are configured and cannot be used, [`Error::State`] when the
    /// state directory cannot be written.
    pub(super) fn open(
        loaded: &Loaded,
        directory: &Path,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, Error> {
        let challenges = Challenges::default();
        let own = || SelfSigned { names: names(&loaded.config), directory: directory.to_owned() };
        let (served, upkeep) = match loaded.config.tls_mode() {
            TlsMode::Off | TlsMode::Auto => (None, Upkeep::Nothing),
            TlsMode::Files => {
                let files = Files::of(loaded);
                // Before they are read: whatever changes after this is seen.
                let stamps = files.stamps();
                let served = Certificates::new(files.read()?, "files");
                (Some(served), Upkeep::Files(files, stamps))
            }
            TlsMode::SelfSigned => {
                let own = own();
                let served = Certificates::new(own.read_or_make()?, "self-signed");
                (Some(served), Upkeep::SelfSigned(own))
            }
            TlsMode::Acme => {
                let asked = authority(loaded)?;
                let served = Certificates::new(own().read_or_make()?, "acme");
                let hooks = hooks(directory, &served, metrics);
                let client = Client::open(asked, hooks, challenges.clone());
                (Some(served), Upkeep::Acme(Box::new(client)))
            }
        };
        if let Some(served) = &served {
            let pair = served.served();
            count_expiry(metrics, &pair);
            if pair.trust() == Trust::SelfSigned {
                let fingerprint = pair.fingerprint();
                info!(fingerprint, "a self-signed certificate is served; browsers will warn");
            }
        }
        Ok(Self { served, challenges, upkeep, metrics: Arc::clone(metrics) })
    }

    /// What TLS listeners serve; `None` when there is to be no TLS.
    pub(super) const fn served(&self) -> Option<&Certificates> {
        self.served.as_ref()
    }

    /// What an authority asks for by http-01.
    pub(super) const fn challenges(&self) -> &Challenges {
        &self.challenges
    }

    /// Looks after it for ever; `reload` says that somebody has changed something. What is served
    /// is good for weeks, so a panic in there cuts nobody off, but somebody has to be told.
    pub(super) async fn keep_fresh(self, reload: Arc<Notify>) {
        let (served, metrics) = (self.served.clone(), Arc::clone(&self.metrics));
        let mut upkeep = JoinSet::new();
        upkeep.spawn(self.look_after(reload));
        upkeep.join_next().await;
        metrics.renewal(Renewal::Failed);
        error!("nobody renews the certificate any more; this is a bug in turncast");
        if let Some(served) = served {
            served.note(Some(Trouble {
                reason: "the renewal broke; this is a bug in turncast".to_owned(),
                likely_cause: Some("a restart renews the certificate again".to_owned()),
                next_try: None,
            }));
        }
    }

    async fn look_after(self, reload: Arc<Notify>) {
        match (self.upkeep, self.served) {
            (Upkeep::Files(files, read), Some(served)) => {
                files.follow(read, &served, &self.metrics, &reload).await;
            }
            (Upkeep::SelfSigned(own), Some(served)) => own.renew(&served, &self.metrics).await,
            (Upkeep::Acme(client), _) => client.run(reload).await,
            (_, None) | (Upkeep::Nothing, _) => std::future::pending().await,
        }
    }
}

/// `tls.certificate` and `tls.key`.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    host: Option<String>,
}

/// What changes when a file does.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl Files {
    fn of(loaded: &Loaded) -> Self {
        let tls = &loaded.config.tls;
        let file = |path: &Option<PathBuf>| {
            path.as_deref().map(|path| loaded.locate(path)).unwrap_or_default()
        };
        let host = options::public_host(&loaded.config);
        Self { certificate: file(&tls.certificate), key: file(&tls.key), host }
    }

    fn read(&self) -> Result<Pair, tls::Error> {
        let now = Now::read().unix_secs;
        Pair::read(&self.certificate, &self.key, self.host.as_deref(), now)
    }

    fn stamps(&self) -> [Stamp; 2] {
        [&self.certificate, &self.key].map(|path| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
        })
    }

    /// Serves the files anew whenever they are no more what was `read`, when `reload` says so, and
    /// when what came too early is valid. Two files cannot be replaced at once: they are read when
    /// a tick has seen them as the one before did. Tells, too, when nobody replaces them.
    async fn follow(
        self,
        mut read: [Stamp; 2],
        served: &Certificates,
        metrics: &Metrics,
        reload: &Notify,
    ) {
        let mut ticks = interval(FILES_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = read;
        let mut refused: Option<Trouble> = None;
        let mut warned = None;
        loop {
            let asked = tokio::select! {
                _ = ticks.tick() => false,
                () = reload.notified() => true,
            };
            let now = self.stamps();
            let settled = now == std::mem::replace(&mut last, now);
            let next_try = refused.as_ref().and_then(|refused| refused.next_try);
            let due = next_try.is_some_and(|at| at <= Now::read().unix_secs);
            let is_read = asked || due || (now != read && settled);
            if is_read {
                read = now;
                refused = self.read_again(served, metrics);
            }
            let ending = ending(&served.served(), Now::read().unix_secs);
            let trouble = refused.clone().or_else(|| ending.clone());
            if trouble != served.trouble() {
                served.note(trouble);
            }
            // Whoever reads the log finds `/healthz` in agreement.
            if is_read {
                say_read(refused.as_ref());
            }
            warn_of(ending.as_ref(), &mut warned);
        }
    }

    /// Serves the files as they are now, or says why not.
    fn read_again(&self, served: &Certificates, metrics: &Metrics) -> Option<Trouble> {
        let err = match self.read() {
            Ok(pair) => {
                install(served, metrics, pair);
                return None;
            }
            Err(err) => err,
        };
        metrics.renewal(Renewal::Failed);
        let reason = err.to_string();
        let next_try = match err {
            tls::Error::NotYetValid { from, .. } => Some(from),
            _ => None,
        };
        Some(Trouble { reason, likely_cause: None, next_try })
    }
}

/// Says in the log what became of files that were read.
fn say_read(refused: Option<&Trouble>) {
    match refused {
        None => info!("the certificate was read again"),
        Some(Trouble { reason, .. }) => {
            warn!(why = reason, "the new certificate cannot be used; the old one stays");
        }
    }
}

/// What is the matter with a certificate from files that is near its end: whoever renews it should
/// have done so by now.
fn ending(pair: &Pair, unix_secs: u64) -> Option<Trouble> {
    let end = pair.not_after()?;
    let life = end.saturating_sub(pair.not_before()?);
    if unix_secs.saturating_add(ENDING_SECS.min(life / 6)) < end {
        return None;
    }
    let now = Now { unix_secs, ..Now::read() };
    let reason = match end > unix_secs {
        true => format!("the certificate ends {}", now.until(end)),
        false => "the certificate has expired".to_owned(),
    };
    let likely = "nobody renews the files, or the renewed ones go elsewhere: see tls.certificate";
    Some(Trouble { reason, likely_cause: Some(likely.to_owned()), next_try: None })
}

/// Says in the log what is the matter with a certificate near its end: once a day, and when it is
/// over. `warned` is what was said last, and when.
fn warn_of(ending: Option<&Trouble>, warned: &mut Option<(Instant, bool)>) {
    let Some(Trouble { reason, likely_cause, .. }) = ending else {
        *warned = None;
        return;
    };
    let is_over = reason.ends_with("expired");
    if warned.is_some_and(|(at, was)| was == is_over && at.elapsed() < WARNING_TICK) {
        return;
    }
    *warned = Some((Instant::now(), is_over));
    let likely = likely_cause.as_deref().unwrap_or_default();
    warn!(why = reason, likely, "the certificate was not renewed");
}

/// A certificate of our own.
struct SelfSigned {
    names: Vec<String>,
    directory: PathBuf,
}

impl SelfSigned {
    /// The kept one, if it is good for a while and for what is asked for; else a new one.
    fn read_or_make(&self) -> Result<Pair, Error> {
        let now = Now::read().unix_secs;
        if let Some(pair) = self.read().filter(|pair| self.is_good(pair, now)) {
            return Ok(pair);
        }
        let (chain, key) = tls::self_signed(&self.names, now, SELF_SIGNED_DAYS)?;
        let both = format!("{chain}{}", key.expose());
        state::keep(&self.directory, SELF_SIGNED_FILE, &both)?;
        Ok(Pair::from_pem(&chain, key.expose(), Trust::SelfSigned)?)
    }

    fn read(&self) -> Option<Pair> {
        let both = state::kept(&self.directory, SELF_SIGNED_FILE).ok()??;
        Pair::from_pem(&both, &both, Trust::SelfSigned).ok()
    }

    fn is_good(&self, pair: &Pair, unix_secs: u64) -> bool {
        let lasts = pair.not_after().is_some_and(|end| end > unix_secs + SELF_SIGNED_LEFT_SECS);
        // Addresses of interfaces come and go; a new certificate for each would be a new warning.
        let named = |name: &&String| name.parse::<std::net::IpAddr>().is_err();
        let first = self.names.first().into_iter();
        lasts && first.chain(self.names.iter().filter(named)).all(|name| pair.covers(name))
    }

    async fn renew(self, served: &Certificates, metrics: &Metrics) {
        let mut ticks = interval(SELF_SIGNED_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.is_good(&served.served(), Now::read().unix_secs) {
                continue;
            }
            match self.read_or_make() {
                Ok(pair) => {
                    let fingerprint = pair.fingerprint();
                    install(served, metrics, pair);
                    info!(fingerprint, "a new self-signed certificate is served");
                }
                Err(err) => {
                    metrics.renewal(Renewal::Failed);
                    warn!(%err, "the self-signed certificate cannot be renewed");
                }
            }
        }
    }
}

fn install(served: &Certificates, metrics: &Metrics, pair: Pair) {
    metrics.renewal(Renewal::Installed);
    count_expiry(metrics, &pair);
    served.install(pair);
}

fn count_expiry(metrics: &Metrics, pair: &Pair) {
    let not_after = pair.not_after().and_then(|secs| i64::try_from(secs).ok());
    metrics.certificate_not_after.set(not_after.unwrap_or(0));
}

/// The names of a self-signed certificate: the one that browsers are told first.
fn names(config: &Config) -> Vec<String> {
    let mut names: Vec<String> = options::public_host(config).into_iter().collect();
    names.extend(config.web.allowed_hosts.iter().map(|host| host.text().to_owned()));
    names.push("localhost".to_owned());
    if names.len() == 1 {
        let host = interface_addresses().unwrap_or_default();
        names.extend(host.iter().map(ToString::to_string));
    }
    names.dedup();
    names
}

/// What to ask the authority for.
fn authority(loaded: &Loaded) -> Result<acme::Options, Error> {
    let acme = &loaded.config.acme;
    let root_certificate = match &acme.root_certificate {
        Some(path) => {
            let path = loaded.locate(path);
            let read = std::fs::read_to_string(&path);
            Some(read.map_err(|source| Error::RootCertificate { path, source })?)
        }
        None => None,
    };
    Ok(acme::Options {
        directory: acme.directory.text().to_owned(),
        root_certificate,
        email: acme.email.as_ref().map(|email| email.text().to_owned()),
        hosts: options::public_host(&loaded.config).into_iter().collect(),
        challenges: options::challenges(&loaded.config),
        retry: Duration::from_secs(u64::from(acme.retry_secs)),
    })
}

fn hooks(directory: &Path, served: &Certificates, metrics: &Arc<Metrics>) -> Hooks {
    let directory = directory.to_owned();
    let (from, to) = (directory.clone(), directory);
    let (installed, challenged, noted) = (served.clone(), served.clone(), served.clone());
    let (renewed, failed) = (Arc::clone(metrics), Arc::clone(metrics));
    Hooks {
        read: Box::new(move |name| state::kept(&from, name).map_err(|err| chain(&err))),
        write: Box::new(move |name, text| {
            let written = match text {
                Some(text) => state::keep(&to, name, text),
                None => state::forget(&to, name),
            };
            written.map_err(|err| chain(&err))
        }),
        inspect: Box::new(|issued| inspect(issued).map(|(_, facts)| facts)),
        install: Box::new(move |issued| {
            let (pair, facts) = inspect(issued)?;
            install(&installed, &renewed, pair);
            Ok(facts)
        }),
        open_tls_challenge: Box::new(move |name, issued| match issued {
            Some(Issued { chain, key }) => {
                challenged.open_challenge(name, chain, key.expose()).map_err(|err| err.to_string())
            }
            None => {
                challenged.close_challenge(name);
                Ok(())
            }
        }),
        note: Box::new(move |failure| {
            if failure.is_some() {
                failed.renewal(Renewal::Failed);
            }
            noted.note(failure.map(|failure| Trouble {
                reason: failure.reason.clone(),
                likely_cause: failure.likely_cause.clone(),
                next_try: Some(failure.next_try),
            }));
        }),
    }
}

fn pair(issued: &Issued) -> Result<Pair, tls::Error> {
    Pair::from_pem(&issued.chain, issued.key.expose(), Trust::Trusted)
}

fn inspect(issued: &Issued) -> Result<(Pair, Facts), String> {
    let pair = pair(issued).map_err(|err| err.to_string())?;
    let dates = pair.not_before().zip(pair.not_after());
    let (not_before, not_after) = dates.ok_or("the certificate has no dates")?;
    let facts = Facts { not_before, not_after, renewal_id: pair.renewal_id() };
    Ok((pair, facts))
}

fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut deeper = err.source();
    while let Some(cause) = deeper {
        text = format!("{text}: {cause}");
        deeper = cause.source();
    }
    text
}

/// What there is without starting anything.
pub(super) struct Look {
    /// What the daemon would serve at once, if it is there already.
    pub(super) served: Option<Certificates>,
    /// What `turncast check` says of it.
    pub(super) lines: Vec<String>,
    /// Why it is not known what the daemon would serve: the state directory cannot be read.
    pub(super) unread: Option<String>,
}

/// Looks at the certificate without making one or asking anybody.
///
/// # Errors
/// [`Error::Tls`] when files are configured and cannot be used.
pub(super) fn look(loaded: &Loaded, directory: Option<&Path>) -> Result<Look, Error> {
    let own = "browsers show a full-page warning before the first page";
    let unread = RefCell::new(None);
    let kept = |name: &str| match state::kept(directory?, name) {
        Ok(text) => text,
        Err(err) => {
            unread.replace(Some(format!("the state directory cannot be read: {}", chain(&err))));
            None
        }
    };
    let mut lines = Vec::new();
    let mut served = None;
    match loaded.config.tls_mode() {
        TlsMode::Off | TlsMode::Auto => lines.push("none: plain HTTP".to_owned()),
        TlsMode::Files => {
            let pair = Files::of(loaded).read()?;
            lines.push(format!("from files, {}", life(&pair)));
            if let Some(Trouble { reason, likely_cause, .. }) = ending(&pair, Now::read().unix_secs)
            {
                let likely = likely_cause.unwrap_or_default();
                lines.push(format!("warning: {reason}; likely: {likely}"));
            }
            served = Some(Certificates::new(pair, "files"));
        }
        TlsMode::SelfSigned => {
            lines.push(format!("self-signed: {own}"));
            let made = kept(SELF_SIGNED_FILE)
                .and_then(|both| Pair::from_pem(&both, &both, Trust::SelfSigned).ok());
            if let Some(pair) = made {
                lines.push(life(&pair));
                lines.push(format!("SHA-256 {}", pair.fingerprint()));
            }
        }
        TlsMode::Acme => {
            let asked = authority(loaded)?;
            lines.push(format!("from the authority at {}", asked.directory));
            let found = acme::order_due(&asked, kept)
                .and_then(|(issued, at)| inspect(&issued).ok().map(|found| (found, at)))
                .map(|((pair, facts), at)| (pair, acme::renewed_at(at, &facts)));
            lines.push(match found {
                Some((pair, at)) => {
                    let line = format!("{}, renewed {}", life(&pair), Now::read().until(at));
                    served = Some(Certificates::new(pair, "acme"));
                    line
                }
                // What keeps it from being read is told below.
                None if unread.borrow().is_some() => "not known whether there is one".to_owned(),
                None => format!("none yet; until then a self-signed one: {own}"),
            });
            if let Some(failure) = acme::last_failure(&asked, kept) {
                lines.push(format!("the last attempt failed: {}", failure.reason));
                if let Some(likely) = &failure.likely_cause {
                    lines.push(format!("likely: {likely}"));
                }
                let when = Now::read().until(failure.next_try);
                let at_once = match failure.told_to_wait {
                    true => "as the authority asks",
                    false => "or at once by systemctl reload turncast",
                };
                lines.push(format!("next try: {when}, {at_once}"));
            }
        }
    }
    let unread = unread.into_inner();
    lines.extend(unread.clone());
    Ok(Look { served, lines, unread })
}

fn life(pair: &Pair) -> String {
    match pair.not_after() {
        Some(end) if end > Now::read().unix_secs => {
            let left = Now::read().until(end);
            format!("good for {}", left.strip_prefix("in ").unwrap_or(&left))
        }
        Some(_) => "expired".to_owned(),
        None => "without a date".to_owned(),
    }
}

const SELF_SIGNED_FILE: &str = "self-signed.pem";
/// Some systems refuse certificates for more than 398 days.
const SELF_SIGNED_DAYS: u32 = 397;
const SELF_SIGNED_LEFT_SECS: u64 = 30 * 86_400;
const SELF_SIGNED_TICK: Duration = Duration::from_secs(3600);
/// How long before its end a certificate from files should have been renewed: certbot does it 30
/// days before, of a life of 90. Of a shorter one, a sixth of its life.
const ENDING_SECS: u64 = 14 * 86_400;
/// How often the log says that it was not.
const WARNING_TICK: Duration = Duration::from_secs(86_400);
/// How often the files are looked at; they are read when two looks agree.
const FILES_TICK: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_near_its_end_is_told_of_in_proportion_to_its_life() {
        let start = 1_767_225_600;
        let ending = |days: u32, left_secs: u64| {
            let names = ["live.example".to_owned()];
            let (chain, key) = tls::self_signed(&names, start, days).expect("a certificate");
            let pair = Pair::from_pem(&chain, key.expose(), Trust::Trusted).expect("a pair");
            let end = start + u64::from(days) * 86_400;
            super::ending(&pair, end - left_secs).map(|trouble| trouble.reason)
        };
        assert_eq!(ending(397, 15 * 86_400), None);
        let near = Some("the certificate ends in 13 days".to_owned());
        assert_eq!(ending(397, 14 * 86_400 - 60), near);
        assert_eq!(ending(6, 25 * 3600), None, "it is renewed often");
        assert_eq!(ending(6, 23 * 3600), Some("the certificate ends in 23 hours".to_owned()));
        assert_eq!(ending(397, 0), Some("the certificate has expired".to_owned()));
    }

    #[test]
    fn the_log_is_told_of_an_end_once_a_day_and_when_it_has_come() {
        let told = |reason: &str| Trouble {
            reason: reason.to_owned(),
            likely_cause: None,
            next_try: None,
        };
        let mut warned = None;
        warn_of(Some(&told("the certificate ends in 2 minutes")), &mut warned);
        let first = warned.expect("it was told");
        warn_of(Some(&told("the certificate ends in a minute")), &mut warned);
        assert_eq!(warned, Some(first), "not again on the same day");
        warn_of(Some(&told("the certificate has expired")), &mut warned);
        assert_ne!(warned, Some(first));
        warn_of(None, &mut warned);
        assert_eq!(warned, None, "another is another matter");
    }
}
