//! From bound sockets to the last one closed: the start order, the wait, the ordered stop.

use std::io::{IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

use super::certificates::Certificate;
use super::clients::{self, Clients};
use super::doctor::Visit;
use super::pages::{Bound, Pages, Surroundings};
use super::report::{self, Listeners};
use super::state::State;
use super::supervise::{self, Signals};
use super::{Error, options, state};
use crate::config::Loaded;
use crate::credentials::{Entropy, Grants};
use crate::metrics::{Heartbeats, Metrics};
use crate::relay::Relay;
use crate::turn;
use crate::web::TurnListener;

/// What [`run`] is given.
pub(super) struct Parts<'a> {
    /// The configuration.
    pub(super) loaded: &'a Loaded,
    /// The addresses of this host.
    pub(super) host: Vec<IpAddr>,
    /// The engine's options.
    pub(super) turn: turn::Options,
    /// The generator that seeds all others.
    pub(super) entropy: Entropy,
}

/// Starts everything, serves until somebody asks to stop, and stops everything.
pub(super) async fn run(parts: Parts<'_>, state: &mut State) -> Result<(), Error> {
    let Parts { loaded, host, turn, mut entropy } = parts;
    let config = &loaded.config;
    let mut signals = Signals::catch().map_err(Error::Runtime)?;
    let metrics = Arc::new(Metrics::default());
    let heartbeats = Arc::new(Heartbeats::default());
    let grants = Arc::new(Grants::new(state.hub_key()?));
    let shared = Arc::new(turn::Shared::new(Arc::new(turn), Arc::clone(&grants), &mut entropy));
    // Whatever can fail comes before the first packet is taken.
    let certificate = Certificate::open(loaded, state.directory(), &metrics)?;
    let tls = certificate.served().cloned();
    let bound = Bound::bind(config)?;
    let streams = clients::Bound::bind(config)?;
    let discovery = shared.options().nat_discovery.clone();
    let options = options::relay(config, &discovery);
    let turn = Arc::clone(&shared);
    let relay = Relay::start(options, turn, &metrics, &heartbeats, &mut entropy)?;
    let follow = supervise::follow_addresses(shared, relay.handle(), host.clone());
    let listeners = Listeners {
        web: bound.web(),
        turn: streams.with_udp(config, relay.local_addresses()),
        discovery: discovery.listeners,
        admin: bound.admin(),
    };
    let turn_gate = clients::gate(config, &metrics);
    let around_clients = (&turn_gate, &*heartbeats);
    let mut clients = Clients::serve(streams, &relay.streams(), tls.as_ref(), around_clients);
    let turn = options::reached(config, &listeners.web, &listeners.turn);
    let reached = (&*listeners.web, &*turn, tls.as_ref());
    let (visit, diagnosis) = Visit::planned(loaded, state.directory(), reached, &host, &metrics)?;
    let around = Surroundings {
        loaded,
        state: state.directory().to_owned(),
        tls,
        turn: turn.clone(),
        diagnosis,
        challenges: certificate.challenges().clone(),
        relay: relay.handle(),
        streams: relay.streams(),
        turn_gate,
        grants,
        metrics,
        heartbeats: Arc::clone(&heartbeats),
        entropy,
    };
    let mut pages = Pages::serve(bound, around);
    say_ready(loaded, (&listeners, &turn), &host, state)?;
    supervise::notify(NotifyState::Ready);
    let reload = Arc::new(Notify::new());
    // Ended when it is dropped.
    let mut background = JoinSet::new();
    background.spawn(supervise::watch(heartbeats));
    background.spawn(follow);
    background.spawn(certificate.keep_fresh(Arc::clone(&reload)));
    background.spawn(visit.pay());
    let result = tokio::select! {
        () = signals.stop(&reload) => Ok(()),
        () = pages.ended() => Err(Error::Ended("a listener of the pages")),
        () = clients.ended() => Err(Error::Ended("a listener of the relay")),
    };
    let deadline = Duration::from_secs(u64::from(config.shutdown_secs));
    tokio::select! {
        () = stop(pages, clients, relay, deadline) => {}
        () = signals.interrupted_again() => return Err(Error::Interrupted),
    }
    info!("stopped");
    result
}

/// The ordered stop: pages and hub first, so that everybody hears why; the relay last.
async fn stop(pages: Pages, clients: Clients, relay: Relay, deadline: Duration) {
    supervise::notify(NotifyState::Stopping);
    info!("stopping");
    let end = Instant::now() + deadline;
    clients.stop();
    // The relay keeps a share of the time, whatever the pages take.
    if timeout(deadline.mul_f32(0.8), pages.stop()).await.is_err() {
        warn!("connections were cut at the deadline");
    }
    let left = end.saturating_duration_since(Instant::now());
    let ended = tokio::task::spawn_blocking(move || relay.stop(left)).await;
    if !ended.unwrap_or(false) {
        warn!("relay threads were left behind at the deadline");
    }
}

/// Announces the listeners: to the log, to `turncast invite`, and to whoever started us.
fn say_ready(
    loaded: &Loaded,
    (listeners, turn): (&Listeners, &[TurnListener]),
    host: &[IpAddr],
    state: &mut State,
) -> Result<(), Error> {
    let config = &loaded.config;
    let pages = report::pages(config, &listeners.web, host);
    state.announce(pages.as_deref().unwrap_or_default(), turn)?;
    for (url, _) in listeners.urls(config) {
        info!(listener = url, "listening");
    }
    let mut stdout = std::io::stdout().lock();
    let invite = match (&pages, stdout.is_terminal()) {
        (Some(pages), true) => {
            let key = state::broadcast_key(state.directory())?;
            Some(report::invite_link(pages, &key))
        }
        _ => None,
    };
    let greeting = report::greeting(config, listeners, host, invite.as_deref());
    // A closed standard output is no reason not to serve.
    let _ = stdout.write_all(greeting.as_bytes()).and_then(|()| stdout.flush());
    info!("ready");
    Ok(())
}
