//! Listening, and the loop that accepts.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, warn};

use super::Peer;
use super::gate::{Gate, Place};
use super::stream::{Stream, Wire};
use crate::metrics::{Heartbeat, Limit};
use crate::telemetry::Addr;
use crate::tls;

/// A bound listening socket.
pub struct Listener {
    socket: std::net::TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds `address` and listens. `0.0.0.0` and `[::]` of one port may stand side by side.
    ///
    /// # Errors
    /// What the operating system says; the caller adds which listener it was.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Connections of the last run that linger in TIME-WAIT must not stop a restart; a living
        // listener on the same port still does.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = std::net::TcpListener::from(socket);
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// The address with the real port when port 0 was asked for.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

/// What [`serve`] needs beside the listener.
#[derive(Clone)]
pub struct Acceptor {
    /// The limits and counts, shared by all listeners.
    pub gate: Arc<Gate>,
    /// With it every stream is encrypted.
    pub tls: Option<tls::Offer>,
    /// Beaten at least once a second while the loop turns.
    pub heartbeat: Arc<Heartbeat>,
    /// Turns true, or loses its sender, when nothing more is to be accepted.
    pub stop: watch::Receiver<bool>,
}

/// Accepts until told to stop, then waits for the streams that are still served; the caller puts
/// a deadline on that. Each stream is served in a task of its own.
///
/// # Errors
/// When the socket cannot be handed to the runtime.
pub async fn serve<F>(
    listener: Listener,
    acceptor: Acceptor,
    on_stream: impl Fn(Stream, Peer) -> F + Clone + Send + 'static,
) -> io::Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let socket = TcpListener::from_std(listener.socket)?;
    let Acceptor { gate, tls, heartbeat, mut stop } = acceptor;
    let mut tasks = JoinSet::new();
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            Some(ended) = tasks.join_next() => {
                note_panic(&ended);
                continue;
            }
            _ = tick.tick() => {
                heartbeat.beat(Instant::now());
                continue;
            }
            _ = stop.wait_for(|&stop| stop) => break,
        };
        let (tcp, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(err) => {
                back_off(&gate, listener.address, &err).await;
                continue;
            }
        };
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let Some(place) = gate.enter(remote.ip()) else {
            debug!(client = %Addr::from(remote), "connection refused: too many are open");
            continue;
        };
        let (tls, gate, on_stream) = (tls.clone(), Arc::clone(&gate), on_stream.clone());
        tasks.spawn(async move {
            if let Some((stream, peer)) = admit(tcp, remote, place, tls, &gate).await {
                on_stream(stream, peer).await;
            }
        });
    }
    drop(socket);
    while let Some(ended) = tasks.join_next().await {
        note_panic(&ended);
    }
    Ok(())
}

/// From an accepted socket to a stream that can be served.
async fn admit(
    tcp: TcpStream,
    remote: SocketAddr,
    place: Place,
    tls: Option<tls::Offer>,
    gate: &Gate,
) -> Option<(Stream, Peer)> {
    // Signaling frames are small and awaited: Nagle's algorithm would only delay them.
    let _ = tcp.set_nodelay(true);
    let local = tcp.local_addr().ok()?;
    let peer = Peer { remote, local, tls: tls.is_some() };
    let wire = Wire::new(tcp, gate.limits().write_stall, place);
    let Some(offer) = tls else {
        return Some((Stream::plain(wire), peer));
    };
    let accept = TlsAcceptor::from(offer.server_config()).accept(wire);
    match timeout(gate.limits().handshake, accept).await {
        // RFC 8737 §3: the authority has seen what it wanted, and nothing is said in there.
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(tls::ACME_TLS_ALPN) => None,
        Ok(Ok(stream)) => Some((Stream::tls(stream), peer)),
        Ok(Err(err)) => {
            debug!(client = %Addr::from(remote), %err, "TLS handshake failed");
            None
        }
        Err(_) => {
            gate.metrics().limit(Limit::HandshakeTime);
            debug!(client = %Addr::from(remote), "TLS handshake took too long");
            None
        }
    }
}

/// Errors of one connection are no reason to pause; a lack of descriptors is, or the loop spins.
async fn back_off(gate: &Gate, listener: SocketAddr, err: &io::Error) {
    if matches!(err.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
        gate.metrics().limit(Limit::Descriptors);
    } else if matches!(
        err.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    ) {
        return;
    }
    warn!(listener = %listener, %err, "cannot accept connections; trying again");
    sleep(ACCEPT_PAUSE).await;
}

fn note_panic(ended: &Result<(), tokio::task::JoinError>) {
    if let Err(err) = ended
        && err.is_panic()
    {
        error!("serving a connection panicked; this is a bug in turncast");
    }
}

const BACKLOG: i32 = 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
