//! Listening, and the loop that accepts.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
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
use super::first::{FIRST_BYTES_MAX, Speaks, first_bytes};
use super::gate::{Full, Gate, Place};
use super::proxy::{BadHeader, PROXY_BYTES_MAX, Proxied, proxy_header};
use super::stream::{LookAhead, Stream, Wire};
use crate::metrics::{Heartbeat, Limit, Refusal};
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
    /// The certificate. Where TURN or HTTP alone is taken, every stream is encrypted with it.
    pub tls: Option<tls::Offer>,
    /// What may be spoken here.
    pub takes: Takes,
    /// Beaten at least once a second while the loop turns.
    pub heartbeat: Arc<Heartbeat>,
    /// Turns true, or loses its sender, when nothing more is to be accepted.
    pub stop: watch::Receiver<bool>,
}

/// What may be spoken on a listener.
#[derive(Clone)]
pub enum Takes {
    /// HTTP alone. No proxy is believed.
    Http,
    /// TURN alone.
    Turn,
    /// What the first bytes tell: HTTP or TURN, plain or within TLS.
    Any {
        /// Behind this gate TURN has its places.
        turn: Arc<Gate>,
    },
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
    let Acceptor { gate, heartbeat, mut stop, .. } = acceptor.clone();
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
        let (acceptor, on_stream) = (acceptor.clone(), on_stream.clone());
        tasks.spawn(async move {
            let mut stop = acceptor.stop.clone();
            let admitted = tokio::select! {
                admitted = admit(tcp, remote, place, &acceptor) => admitted,
                // Whoever has not said what it wants is not waited for.
                _ = stop.wait_for(|&stop| stop) => None,
            };
            drop((acceptor, stop));
            if let Some((stream, peer)) = admitted {
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

/// From an accepted socket to a stream that can be served, within the deadline.
async fn admit(
    tcp: TcpStream,
    remote: SocketAddr,
    place: Place,
    acceptor: &Acceptor,
) -> Option<(Stream, Peer)> {
    let limits = acceptor.gate.limits();
    // Signaling frames are small and awaited: Nagle's algorithm would only delay them.
    let _ = tcp.set_nodelay(true);
    let local = tcp.local_addr().ok()?;
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    let peer = Peer { remote, local, proxy: None, tls: false, speaks: Speaks::Http };
    let wire = Wire::new(tcp, limits.write_stall, place);
    // Closed when this function ends, which is when the reason is counted.
    let opening = pin!(open(wire, peer, acceptor));
    match timeout(limits.handshake, opening).await {
        Ok(Ok(opened)) => Some(opened),
        Ok(Err(why)) => {
            debug!(client = %Addr::from(remote), %why, "connection closed at the edge");
            None
        }
        Err(_) => {
            acceptor.gate.metrics().limit(Limit::HandshakeTime);
            debug!(client = %Addr::from(remote), "a connection took too long to say what it is");
            None
        }
    }
}

/// Why a connection is not served.
#[derive(Debug, thiserror::Error)]
enum Unserved {
    #[error("it broke: {0}")]
    Broken(#[from] io::Error),
    #[error("it ended before it said what it is")]
    Ended,
    #[error(transparent)]
    Proxy(#[from] BadHeader),
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    #[error("there is no certificate for TLS")]
    NoTls,
    #[error("the certificate authority has seen what it wanted to see")]
    Challenge,
    #[error("too many are open")]
    Full,
}

impl From<Full> for Unserved {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

async fn open(
    mut wire: Wire,
    mut peer: Peer,
    acceptor: &Acceptor,
) -> Result<(Stream, Peer), Unserved> {
    let Acceptor { gate, tls, takes, .. } = acceptor;
    if !matches!(takes, Takes::Http) && gate.trusts(peer.remote.ip()) {
        take_proxy_header(&mut wire, &mut peer).await?;
    }
    peer.tls = match takes {
        Takes::Any { .. } => {
            peer.speaks = first(&mut wire).await?;
            peer.speaks == Speaks::Tls
        }
        Takes::Http | Takes::Turn => tls.is_some(),
    };
    let mut stream = match peer.tls {
        true => end_tls(wire, tls.as_ref()).await?,
        false => Stream::plain(wire),
    };
    match takes {
        Takes::Http => {}
        Takes::Turn => peer.speaks = Speaks::Turn,
        Takes::Any { turn } => {
            if peer.tls {
                peer.speaks = match first(&mut stream).await? {
                    // Nobody serves TLS within TLS; HTTP says so best.
                    Speaks::Tls => Speaks::Http,
                    inside => inside,
                };
            }
            if peer.speaks == Speaks::Turn {
                stream.place().move_to(turn)?;
            }
        }
    }
    Ok((stream, peer))
}

/// Takes the header of a trusted proxy off the front, if there is one.
async fn take_proxy_header(wire: &mut Wire, peer: &mut Peer) -> Result<(), Unserved> {
    loop {
        let header = proxy_header(wire.seen()).inspect_err(|_| {
            // A proxy that says too much shows in nothing else: its clients are closed.
            wire.place.metrics().refusal(Refusal::ProxyHeader);
        });
        match header? {
            Proxied::More => {
                if !wire.look_ahead(PROXY_BYTES_MAX + 1).await? {
                    return Err(Unserved::Ended);
                }
            }
            Proxied::Absent => return Ok(()),
            Proxied::Header { bytes, people } => {
                wire.discard(bytes);
                if let Some((client, server)) = people {
                    peer.proxy = Some(peer.remote.ip());
                    (peer.remote, peer.local) = (client, server);
                    wire.place.is_of(client.ip())?;
                }
                return Ok(());
            }
        }
    }
}

async fn end_tls(wire: Wire, offer: Option<&tls::Offer>) -> Result<Stream, Unserved> {
    let config = offer.ok_or(Unserved::NoTls)?.server_config();
    let stream = TlsAcceptor::from(config).accept(wire).await.map_err(Unserved::Tls)?;
    // RFC 8737 §3: nothing is said in there.
    if stream.get_ref().1.alpn_protocol() == Some(tls::ACME_TLS_ALPN) {
        return Err(Unserved::Challenge);
    }
    Ok(Stream::tls(stream))
}

/// Looks at as many bytes as are needed to know what is spoken.
async fn first(stream: &mut impl LookAhead) -> Result<Speaks, Unserved> {
    loop {
        if let Some(speaks) = first_bytes(stream.seen()) {
            return Ok(speaks);
        }
        if !stream.look_ahead(FIRST_BYTES_MAX).await? {
            return Err(Unserved::Ended);
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
