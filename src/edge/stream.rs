//! A stream as the edge hands it out: plain or encrypted, counted, and given up when the other
//! end stops reading.

use std::io::{self, BufRead as _, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::rustls::ServerConnection;
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
        match &mut stream.kind {
            Kind::Plain(wire) => Pin::new(wire).poll_read(cx, buffer),
            Kind::Tls(tls) => poll_read_records(tls, cx, buffer),
        }
    }
}

/// Reads once, and then hands out all that this has brought: a record at a time would be a round
/// for each message.
fn poll_read_records(
    stream: &mut TlsStream<Wire>,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let before = buffer.filled().len();
    ready!(Pin::new(&mut *stream).poll_read(cx, buffer))?;
    if buffer.filled().len() == before {
        return Poll::Ready(Ok(()));
    }
    let mut reader = stream.get_mut().1.reader();
    while buffer.remaining() > 0 {
        // An end, or an error, is for the next call to tell.
        let Ok(chunk @ [_, ..]) = reader.fill_buf() else { break };
        let count = chunk.len().min(buffer.remaining());
        buffer.put_slice(&chunk[..count]);
        reader.consume(count);
    }
    Poll::Ready(Ok(()))
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

/// A stream that takes messages.
pub trait WriteMessages: AsyncWrite {
    /// Writes of `bytes`, which are messages of these `lengths`, as much as it takes at once, and
    /// says how much that was. Where there are records, each message has its own, but many leave by
    /// one call. What was taken may wait for [`AsyncWrite::poll_flush`].
    ///
    /// # Errors
    /// When the connection is over.
    fn poll_write_messages(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
        lengths: impl Iterator<Item = usize>,
    ) -> Poll<io::Result<usize>>;
}

impl WriteMessages for Stream {
    fn poll_write_messages(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
        lengths: impl Iterator<Item = usize>,
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().kind {
            Kind::Plain(wire) => Pin::new(wire).poll_write(cx, bytes),
            Kind::Tls(tls) => poll_write_records(tls, cx, bytes, lengths),
        }
    }
}

fn poll_write_records(
    stream: &mut TlsStream<Wire>,
    cx: &mut Context<'_>,
    bytes: &[u8],
    lengths: impl Iterator<Item = usize>,
) -> Poll<io::Result<usize>> {
    let (wire, tls) = stream.get_mut();
    let mut wire = AtOnce { wire, cx };
    // What an earlier call has encrypted leaves first, so that no more waits than one call takes.
    ready!(wire.send(tls))?;
    let mut taken = 0;
    for length in lengths {
        if taken > 0 && taken + length > RECORDS_BYTES_MAX {
            break;
        }
        let count = tls.writer().write(&bytes[taken..taken + length])?;
        taken += count;
        if count < length {
            break;
        }
    }
    // What does not leave now is flushed later.
    match wire.send(tls) {
        Poll::Ready(Err(err)) => Poll::Ready(Err(err)),
        _ => Poll::Ready(Ok(taken)),
    }
}

/// A wire for those who know no tasks: what is not ready would block.
struct AtOnce<'a, 'b> {
    wire: &'a mut Wire,
    cx: &'a mut Context<'b>,
}

impl AtOnce<'_, '_> {
    /// Sends the records that wait, many by one call.
    fn send(&mut self, tls: &mut ServerConnection) -> Poll<io::Result<()>> {
        while tls.wants_write() {
            match tls.write_tls(self) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(err) => return Poll::Ready(Err(err)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl io::Write for AtOnce<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = Pin::new(&mut *self.wire).poll_write(self.cx, bytes);
        or_would_block(written)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let written = Pin::new(&mut *self.wire).poll_write_vectored(self.cx, slices);
        or_would_block(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn or_would_block<T>(result: Poll<io::Result<T>>) -> io::Result<T> {
    match result {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// The most bytes of messages that are encrypted before any of them is sent, but for one alone:
/// less than what the TLS layer holds, which would cut a message in two.
const RECORDS_BYTES_MAX: usize = 48 * 1024;

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
