//! A stream as the edge hands it out: plain or encrypted, counted, and given up when the other
//! end stops reading.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::server::TlsStream;

use super::gate::Place;
use crate::metrics::Limit;

/// A connection that was let in. Its place is free again when it is dropped.
pub struct Stream {
    kind: Kind,
    ahead: Ahead,
}

enum Kind {
    Plain(Wire),
    Tls(Box<TlsStream<Wire>>),
}

impl Stream {
    pub(super) fn plain(wire: Wire) -> Self {
        Self { kind: Kind::Plain(wire), ahead: Ahead::default() }
    }

    pub(super) fn tls(stream: TlsStream<Wire>) -> Self {
        Self { kind: Kind::Tls(Box::new(stream)), ahead: Ahead::default() }
    }

    pub(super) fn place(&mut self) -> &mut Place {
        match &mut self.kind {
            Kind::Plain(wire) => &mut wire.place,
            Kind::Tls(stream) => &mut stream.get_mut().0.place,
        }
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut dyn Both> {
        match &mut self.get_mut().kind {
            Kind::Plain(wire) => Pin::new(wire),
            Kind::Tls(stream) => Pin::new(stream.as_mut()),
        }
    }
}

trait Both: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Both for T {}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if stream.ahead.hand_out(buffer) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(stream).inner().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.kind {
            Kind::Plain(wire) => wire.is_write_vectored(),
            Kind::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }
}

/// The TCP connection below an optional TLS layer. A write that cannot go on for `stall` fails,
/// so that a peer that stops reading holds neither memory nor a place.
pub(super) struct Wire {
    tcp: TcpStream,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    given_up: bool,
    ahead: Ahead,
    pub(super) place: Place,
}

impl Wire {
    pub(super) const fn new(tcp: TcpStream, stall: Duration, place: Place) -> Self {
        Self { tcp, stall, stalled: None, given_up: false, ahead: Ahead(Vec::new()), place }
    }

    /// Throws away the first `count` of the bytes that were looked at.
    pub(super) fn discard(&mut self, count: usize) {
        self.ahead.0.drain(..count);
    }

    fn progress<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stall = self.stall;
        let stalled =
            self.stalled.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + stall)));
        ready!(stalled.as_mut().poll(cx));
        if !std::mem::replace(&mut self.given_up, true) {
            self.place.metrics().limit(Limit::WriteStall);
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer stopped reading")))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.hand_out(buffer) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.progress(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, slices);
        self.progress(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// A stream whose first bytes can be looked at; whoever reads it reads them again.
pub(super) trait LookAhead {
    /// What was looked at so far.
    fn seen(&self) -> &[u8];

    /// Reads once, so that at most the first `most` bytes are seen. Whether there was another
    /// byte before the end.
    async fn look_ahead(&mut self, most: usize) -> io::Result<bool>;
}

impl LookAhead for Stream {
    fn seen(&self) -> &[u8] {
        match &self.kind {
            Kind::Plain(wire) => wire.seen(),
            Kind::Tls(_) => &self.ahead.0,
        }
    }

    async fn look_ahead(&mut self, most: usize) -> io::Result<bool> {
        match &mut self.kind {
            Kind::Plain(wire) => wire.look_ahead(most).await,
            Kind::Tls(stream) => self.ahead.fill(stream, most).await,
        }
    }
}

impl LookAhead for Wire {
    fn seen(&self) -> &[u8] {
        &self.ahead.0
    }

    async fn look_ahead(&mut self, most: usize) -> io::Result<bool> {
        self.ahead.fill(&mut self.tcp, most).await
    }
}

/// Bytes that were read to look at them.
#[derive(Default)]
struct Ahead(Vec<u8>);

impl Ahead {
    async fn fill(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        most: usize,
    ) -> io::Result<bool> {
        let mut limited = stream.take(most.saturating_sub(self.0.len()) as u64);
        Ok(limited.read_buf(&mut self.0).await? > 0)
    }

    /// Hands out what is there; whether there was anything.
    fn hand_out(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let count = self.0.len().min(buffer.remaining());
        if count == 0 {
            return false;
        }
        buffer.put_slice(&self.0[..count]);
        if count == self.0.len() {
            // Most connections live much longer than these bytes.
            self.0 = Vec::new();
        } else {
            self.0.drain(..count);
        }
        true
    }
}
