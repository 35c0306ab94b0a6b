//! HTTP/2 on one stream: the same answers, and bounds for what the protocol adds.
//!
//! Streams at a time and headers have limits of their own. Everything else that a client can send
//! without end (pings, settings, resets, window updates, bodies) takes from one allowance of bytes
//! that each request fills again: our pages take no bodies, so whoever sends much between two
//! requests wants no page.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Limits;
use super::answer::Answer;
use super::http::{Ended, STOP_GRACE};
use crate::edge;
use crate::metrics::{Limit, Metrics};

/// Answers requests until the connection ends, is quiet for too long, sends too much, or `stop`
/// says that the requests at hand are the last ones.
pub(super) async fn serve(
    stream: edge::Stream,
    limits: &Limits,
    metrics: &Metrics,
    mut stop: watch::Receiver<bool>,
    answer: impl Fn(Request<Incoming>) -> Answer,
) -> Ended {
    let meter = Arc::new(Meter::default());
    let allowance = limits.bytes_between_requests;
    let io = TokioIo::new(Metered { stream, meter: Arc::clone(&meter), allowance });
    let answered = AtomicBool::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        answered.store(true, Ordering::Relaxed);
        meter.read.store(0, Ordering::Relaxed);
        meter.asked.store(true, Ordering::Relaxed);
        let answer = answer(request);
        async { Ok::<_, Infallible>(answer) }
    });
    let mut conn = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_per_connection)
            // What is longer than ours, the route refuses and counts; this is for the library.
            .max_header_list_size(u32::try_from(2 * limits.header_bytes).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(RESETS_MAX)
            .max_local_error_reset_streams(RESETS_MAX)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .serve_connection(io, service)
    );
    let mut ticks = interval(limits.header);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    loop {
        tokio::select! {
            ended = conn.as_mut() => {
                if meter.exceeded.load(Ordering::Relaxed) {
                    metrics.limit(Limit::BytesBetweenRequests);
                }
                return ended.map_or_else(Ended::Broken, |()| Ended::InOrder);
            }
            _ = ticks.tick() => {
                if !answered.load(Ordering::Relaxed) {
                    metrics.limit(Limit::HandshakeTime);
                    return Ended::Cut;
                }
                if meter.has_moved() {
                    continue;
                }
            }
            _ = stop.wait_for(|&stop| stop) => {}
        }
        conn.as_mut().graceful_shutdown();
        return match timeout(STOP_GRACE, conn.as_mut()).await {
            Ok(ended) => ended.map_or_else(Ended::Broken, |()| Ended::InOrder),
            Err(_) => Ended::Cut,
        };
    }
}

/// What went over one connection.
#[derive(Default)]
struct Meter {
    /// Bytes read since the last request.
    read: AtomicUsize,
    /// More than the allowance.
    exceeded: AtomicBool,
    /// A request came since somebody looked.
    asked: AtomicBool,
    /// Bytes read since somebody looked.
    heard: AtomicUsize,
    /// Bytes written since somebody looked.
    said: AtomicUsize,
}

impl Meter {
    /// Whether a request came or an answer went out since the last call. What the protocol itself
    /// answers (pings, settings) is never longer than what asked for it, and does not count.
    fn has_moved(&self) -> bool {
        let asked = self.asked.swap(false, Ordering::Relaxed);
        let heard = self.heard.swap(0, Ordering::Relaxed);
        self.said.swap(0, Ordering::Relaxed) > heard || asked
    }
}

/// A connection that breaks when more is read than is allowed.
struct Metered {
    stream: edge::Stream,
    meter: Arc<Meter>,
    allowance: usize,
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let count = buffer.filled().len() - before;
        self.meter.heard.fetch_add(count, Ordering::Relaxed);
        let read = self.meter.read.fetch_add(count, Ordering::Relaxed) + count;
        if read > self.allowance {
            self.meter.exceeded.store(true, Ordering::Relaxed);
            return Poll::Ready(Err(io::Error::other("too much between two requests")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.meter.said.fetch_add(count, Ordering::Relaxed);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Streams that a client may have given up before we come to them.
const RESETS_MAX: usize = 32;
/// What of one answer waits in the library.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
