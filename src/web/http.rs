//! HTTP/1.1 on one stream, within the limits of size and time.

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

use super::Limits;
use super::answer::Answer;
use crate::edge;
use crate::metrics::{Limit, Metrics, Status};
use crate::telemetry::Addr;

/// Answers requests until the stream ends, takes too long, becomes a WebSocket, or `stop` says
/// that the request at hand is the last one.
pub(super) async fn serve(
    stream: edge::Stream,
    peer: edge::Peer,
    limits: &Limits,
    metrics: &Metrics,
    mut stop: watch::Receiver<bool>,
    answer: impl Fn(Request<Incoming>) -> Answer,
) {
    let answered = AtomicBool::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        answered.store(true, Ordering::Relaxed);
        let method = request.method().clone();
        let answer = answer(request);
        metrics.response(class(answer.status()));
        let code = answer.status().as_u16();
        debug!(client = %Addr::from(peer.remote), %method, code, "request answered");
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
                Err(_) => return,
            }
        }
    };
    let Err(err) = ended else { return };
    if err.is_parse_too_large() {
        metrics.limit(Limit::HeaderBytes);
    } else if err.is_timeout() && !answered.load(Ordering::Relaxed) {
        // After an answer it is only a connection that nobody used any more.
        metrics.limit(Limit::HandshakeTime);
    }
    debug!(client = %Addr::from(peer.remote), %err, "connection ended");
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
const STOP_GRACE: Duration = Duration::from_secs(1);
/// The HTTP library needs at least this much.
const BUFFER_BYTES_MIN: usize = 8192;
