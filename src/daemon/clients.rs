//! Wires the clients of the relay that come over TCP and TLS: `edge` accepts them, `relay` serves
//! them, and neither `web` nor the pages know of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Error, options, pages};
use crate::config::Config;
use crate::edge::{self, Gate, Listener};
use crate::metrics::{Heartbeats, Limit, Metrics};
use crate::relay::Streams;
use crate::tls;
use crate::turn::Transport;
use crate::web::TurnListener;

/// Bound listeners that nobody is accepted on yet.
pub(super) struct Bound(Vec<(Transport, Listener)>);

impl Bound {
    /// Binds every listener of the relay for TCP and TLS.
    ///
    /// # Errors
    /// [`Error::Bind`] names the listener.
    pub(super) fn bind(config: &Config) -> Result<Self, Error> {
        let listeners = options::turn_listen(config);
        let streams = listeners.into_iter().filter(|listen| listen.transport != Transport::Udp);
        let bound = streams.map(|TurnListener { transport, address }| {
            let rival =
                "; is another turncast or TURN server running? `ss -ltnp` shows who has the port";
            Ok((transport, pages::bind(transport.scheme(), address, rival)?))
        });
        Ok(Self(bound.collect::<Result<_, Error>>()?))
    }

    /// Where the relay listens, in the order of the configuration: these listeners and those for
    /// `udp`, which are bound already, with real ports.
    pub(super) fn with_udp(
        &self,
        config: &Config,
        udp: &[std::net::SocketAddr],
    ) -> Vec<TurnListener> {
        let mut udp = udp.iter().copied();
        let mut streams = self.0.iter().map(|(_, listener)| listener.local_addr());
        let real = |asked: TurnListener| {
            let bound = match asked.transport {
                Transport::Udp => udp.next(),
                Transport::Tcp | Transport::Tls => streams.next(),
            };
            TurnListener { address: bound.unwrap_or(asked.address), ..asked }
        };
        options::turn_listen(config).into_iter().map(real).collect()
    }
}

/// The accept loops of the relay.
pub(super) struct Clients {
    stop: watch::Sender<bool>,
    loops: JoinSet<std::io::Result<()>>,
}

impl Clients {
    /// Accepts clients from now on; `tls` is the certificate, there when a listener needs it.
    pub(super) fn serve(
        bound: Bound,
        streams: &Arc<Streams>,
        tls: Option<&tls::Certificates>,
        (gate, heartbeats): (&Arc<Gate>, &Heartbeats),
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let tls = tls.map(|certificates| certificates.offer(ALPN));
        let mut loops = JoinSet::new();
        for (index, (transport, listener)) in bound.0.into_iter().enumerate() {
            let acceptor = edge::Acceptor {
                gate: Arc::clone(gate),
                tls: tls.clone().filter(|_| transport == Transport::Tls),
                takes: edge::Takes::Turn,
                heartbeat: heartbeats.add(format!("turn-{transport}-{index}"), Instant::now()),
                stop: stopped.clone(),
            };
            let streams = Arc::clone(streams);
            let on_stream = move |stream, peer| Arc::clone(&streams).serve(stream, peer);
            loops.spawn(edge::serve(listener, acceptor, on_stream));
        }
        Self { stop, loops }
    }

    /// Waits until an accept loop ends, which none does before [`Clients::stop`].
    pub(super) async fn ended(&mut self) {
        if self.loops.join_next().await.is_none() {
            // Without any listener there is nothing to wait for.
            std::future::pending::<()>().await;
        }
    }

    /// Lets nobody in any more. Who is connected stays until the relay stops.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// What clients of the relay say that they speak: TURN, or STUN alone (RFC 7443, section 3). Who
/// does not say it is taken for one of them.
const ALPN: &[&[u8]] = &[b"stun.turn", b"stun.nat-discovery"];

/// The places of all clients of the relay over TCP and TLS, on whichever listener they come.
pub(super) fn gate(config: &Config, metrics: &Arc<Metrics>) -> Arc<Gate> {
    Gate::new(limits(config), Arc::clone(metrics))
}

fn limits(config: &Config) -> edge::Limits {
    let (own, web) = (&config.turn.limits, &config.web.limits);
    edge::Limits {
        connections: own.connections,
        connections_per_address: own.connections_per_address,
        handshake: Duration::from_secs(u64::from(web.handshake_secs)),
        write_stall: Duration::from_secs(u64::from(web.write_stall_secs)),
        trusted_proxies: config.web.trusted_proxies.to_vec(),
        connections_label: Limit::TurnConnections,
        connections_per_address_label: Limit::TurnConnectionsPerAddress,
    }
}
