//! HTTP on one stream, within the limits of size and time: this file is about HTTP/1.1.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::debug;

use super::answer::Answer;
use super::{Limits, http2};
use crate::edge::{self, Speaks};
use crate::metrics::{Limit, Metrics, Status};
use crate::telemetry::Addr;

/// How a connection came to its end.
pub(super) enum Ended {
    /// By the rules.
    InOrder,
    /// What the library says.
    Broken(hyper::Error),
    /// Its time was over.
    Cut,
}

/// Answers requests until the stream ends, takes too long, becomes a WebSocket, or `stop` says
/// that the request at hand is the last one.
pub(super) async fn serve(
    stream: edge::Stream,
    peer: edge::Peer,
    limits: &Limits,
    metrics: &Metrics,
    stop: watch::Receiver<bool>,
    answer: impl Fn(Request<Incoming>) -> Answer,
) {
    let answer = |request: Request<Incoming>| {
        let method = request.method().clone();
        let answer = answer(request);
        metrics.response(class(answer.status()));
        let code = answer.status().as_u16();
        debug!(client = %Addr::from(peer.remote), %method, code, "request answered");
        answer
    };
    let ended = match peer.speaks {
        Speaks::Http2 => http2::serve(stream, limits, metrics, stop, answer).await,
        _ => serve_http1(stream, limits, metrics, stop, answer).await,
    };
    match ended {
        Ended::InOrder => {}
        Ended::Broken(err) => {
            debug!(client = %Addr::from(peer.remote), %err, "connection ended");
        }
        Ended::Cut => debug!(client = %Addr::from(peer.remote), "connection cut"),
    }
}

async fn serve_http1(
    stream: edge::Stream,
    limits: &Limits,
    metrics: &Metrics,
    mut stop: watch::Receiver<bool>,
    answer: impl Fn(Request<Incoming>) -> Answer,
) -> Ended {
    let answered = AtomicBool::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        answered.store(true, Ordering::Relaxed);
        let answer = answer(request);
        async { Ok::<_, Infallible>(answer) }
    });
    let mut conn = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header)
            .max_header_size(limits.header_bytes)
            .max_buf_size(limits.header_bytes.max(BUFFER_BYTES_MIN))
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    let stopped = async {
        let _ = stop.wait_for(|&stop| stop).await;
    };
    let ended = tokio::select! {
        ended = conn.as_mut() => ended,
        () = stopped => {
            conn.as_mut().graceful_shutdown();
            // Browsers open connections ahead of need, and those never get a request.
            match timeout(STOP_GRACE, conn).await {
                Ok(ended) => ended,
                Err(_) => return Ended::Cut,
            }
        }
    };
    let Err(err) = ended else { return Ended::InOrder };
    if err.is_parse_too_large() {
        metrics.limit(Limit::HeaderBytes);
    } else if err.is_timeout() && !answered.load(Ordering::Relaxed) {
        // After an answer it is only a connection that nobody used any more.
        metrics.limit(Limit::HandshakeTime);
    }
    Ended::Broken(err)
}

const fn class(status: StatusCode) -> Status {
    match status.as_u16() {
        ..=199 => Status::Informational,
        200..=299 => Status::Success,
        300..=399 => Status::Redirect,
        400..=499 => Status::ClientError,
        _ => Status::ServerError,
    }
}

/// What a connection gets to end the request it is at, when the daemon stops.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(1);
/// The HTTP library needs at least this much.
const BUFFER_BYTES_MIN: usize = 8192;
