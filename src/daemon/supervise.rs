//! The life of a running daemon: signals, the service manager, and the watchdog.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::metrics::Heartbeats;
use crate::net::interface_addresses;
use crate::{relay, turn};

/// The signals that the daemon answers.
pub(super) struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Catches them from now on.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn catch() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits until somebody asks the daemon to stop.
    /// A reload meanwhile is told to whoever waits for `reload`.
    pub(super) async fn stop(&mut self, reload: &Notify) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    warn!("SIGHUP: the certificate is looked at; other changes need a restart");
                    reload.notify_one();
                }
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
            }
        }
    }

    /// Waits for the second Ctrl-C of somebody who does not want to wait.
    pub(super) async fn interrupted_again(&mut self) {
        self.interrupt.recv().await;
    }
}

/// Tells the service manager; without one this does nothing.
pub(super) fn notify(state: NotifyState<'_>) {
    if let Err(err) = sd_notify::notify(&[state]) {
        warn!(%err, "the service manager cannot be told");
    }
}

/// Watches the heartbeats for ever: a loop that is stuck is logged once, and the service
/// manager's watchdog is fed only while none is.
pub(super) async fn watch(heartbeats: Arc<Heartbeats>) {
    let watchdog = sd_notify::watchdog_enabled();
    let mut ticks = interval(watchdog.map_or(TICK, |period| (period / 3).min(TICK)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known: Vec<String> = Vec::new();
    loop {
        ticks.tick().await;
        let stuck = heartbeats.stuck(Instant::now());
        for name in stuck.iter().filter(|name| !known.contains(name)) {
            error!(why = %name, "a loop is stuck");
        }
        for name in known.iter().filter(|name| !stuck.contains(name)) {
            info!(why = %name, "a loop that was stuck turns again");
        }
        if stuck.is_empty() && watchdog.is_some() {
            notify(NotifyState::Watchdog);
        }
        known = stuck;
    }
}

/// Tells the relay for ever which addresses this host has: they come and go (DHCP, VPNs, the
/// temporary addresses of IPv6), and none of them may be a peer, or stay one.
pub(super) async fn follow_addresses(
    shared: Arc<turn::Shared>,
    relay: relay::Handle,
    mut known: Vec<IpAddr>,
) {
    let mut ticks = interval(ADDRESSES_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match interface_addresses() {
            Ok(found) if found != known => {
                shared.set_host_addresses(&found);
                relay.judge_again();
                info!(count = found.len(), "the addresses of this host have changed");
                known = found;
            }
            Ok(_) => {}
            // What was known stays denied.
            Err(err) => warn!(%err, "the addresses of this host cannot be listed"),
        }
    }
}

/// How often the addresses are looked at: a new one is a peer no longer than that.
const ADDRESSES_TICK: Duration = Duration::from_secs(10);

/// How often the heartbeats are looked at.
const TICK: Duration = Duration::from_secs(1);
