//! The TCP side of one client's allocation (RFC 6062): listeners at its relayed addresses, and
//! connections to peers that are being made. What is connected is the engine's to keep, until a
//! client binds it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Sleep, sleep};

use super::super::sys::{tcp_relay_listener, tcp_relay_socket, was_exhausted};
use super::super::udp::bind_failure;
use crate::turn::{BindFailure, ConnectFailure, ConnectionId, RelayId};

/// Listeners and attempts; the engine bounds how many.
pub(super) struct Peers {
    buffer_bytes: usize,
    listeners: Vec<(RelayId, TcpListener)>,
    attempts: Vec<Attempt>,
    /// Nothing is accepted before this is over: there was no descriptor left.
    rest: Option<Pin<Box<Sleep>>>,
}

struct Attempt {
    relay: RelayId,
    connection: ConnectionId,
    outcome: Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>,
}

/// What has come about.
pub(super) enum News {
    /// Somebody has connected to a relayed address.
    Incoming(RelayId, SocketAddr, TcpStream),
    /// A peer was connected, or could not be.
    Connected(RelayId, ConnectionId, Result<TcpStream, ConnectFailure>),
    /// A connection cannot be accepted now.
    Exhausted,
}

impl Peers {
    /// Nothing yet; each socket gets buffers of `buffer_bytes`.
    pub(super) const fn new(buffer_bytes: usize) -> Self {
        Self { buffer_bytes, listeners: Vec::new(), attempts: Vec::new(), rest: None }
    }

    /// Whether no relayed address is left.
    pub(super) const fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Listens at `local`.
    pub(super) fn listen(&mut self, relay: RelayId, local: SocketAddr) -> Result<(), BindFailure> {
        let listener = tcp_relay_listener(local, self.buffer_bytes);
        let listener = listener.and_then(TcpListener::from_std).map_err(bind_failure)?;
        self.listeners.push((relay, listener));
        Ok(())
    }

    /// Begins to connect.
    pub(super) fn connect(
        &mut self,
        (relay, connection): (RelayId, ConnectionId),
        local: SocketAddr,
        peer: SocketAddr,
    ) {
        let buffer_bytes = self.buffer_bytes;
        let outcome = Box::pin(async move {
            let socket = tcp_relay_socket(local, buffer_bytes)?;
            TcpSocket::from_std_stream(socket).connect(peer).await
        });
        self.attempts.push(Attempt { relay, connection, outcome });
    }

    /// Gives up connecting.
    pub(super) fn abandon(&mut self, connection: ConnectionId) {
        self.attempts.retain(|attempt| attempt.connection != connection);
    }

    /// Listens no more, and connects no more from there.
    pub(super) fn close(&mut self, relay: RelayId) {
        self.listeners.retain(|(own, _)| *own != relay);
        self.attempts.retain(|attempt| attempt.relay != relay);
    }

    /// The next thing that has come about.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<News> {
        for index in 0..self.attempts.len() {
            if let Poll::Ready(outcome) = self.attempts[index].outcome.as_mut().poll(cx) {
                let Attempt { relay, connection, .. } = self.attempts.swap_remove(index);
                let failed = |err| match was_exhausted(&err) {
                    true => ConnectFailure::Exhausted,
                    false => ConnectFailure::Refused,
                };
                let outcome = outcome.inspect(undelayed).map_err(failed);
                return Poll::Ready(News::Connected(relay, connection, outcome));
            }
        }
        if let Some(rest) = &mut self.rest {
            if rest.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.rest = None;
        }
        for (relay, listener) in &self.listeners {
            match listener.poll_accept(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok((socket, from))) => {
                    undelayed(&socket);
                    return Poll::Ready(News::Incoming(*relay, from, socket));
                }
                Poll::Ready(Err(err)) if was_exhausted(&err) => {
                    self.rest = Some(Box::pin(sleep(ACCEPT_PAUSE)));
                    return Poll::Ready(News::Exhausted);
                }
                // The error of one connection, which is gone with it.
                Poll::Ready(Err(_)) => cx.waker().wake_by_ref(),
            }
        }
        Poll::Pending
    }
}

/// Both ends decide for themselves what they send at once.
fn undelayed(socket: &TcpStream) {
    // It costs time, and nothing else, when it cannot be set.
    let _ = socket.set_nodelay(true);
}

/// Without a descriptor accepting would fail over and over.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
