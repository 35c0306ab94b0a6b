//! What the operator reads: `/metrics` and `/healthz`, on a listener of their own.
//!
//! They are never served by the public listener, not even to a loopback address: behind a reverse
//! proxy everybody has one.

use std::sync::Arc;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde_json::json;
use tokio::sync::watch;

use super::answer::{self, Answer};
use super::host::{Host, Refused};
use super::{Limits, http, router};
use crate::edge;
use crate::metrics::{Heartbeats, Metrics, Refusal};
use crate::tls::Certificates;

/// How the operator's listener behaves.
#[derive(Debug, Clone, Default)]
pub struct AdminOptions {
    /// Names under which it may be asked, beside loopback and its own address.
    pub allowed_hosts: Vec<String>,
    /// What the doctor has found, as `/healthz` shows it. Broken URLs make nobody restart the
    /// daemon, so they do not make it unhealthy.
    pub doctor: Option<watch::Receiver<serde_json::Value>>,
    /// The certificate of the public listeners, of which `/healthz` tells.
    pub certificates: Option<Certificates>,
    /// The limits of a request.
    pub limits: Limits,
}

/// The operator's listener.
pub struct Admin {
    options: AdminOptions,
    metrics: Arc<Metrics>,
    heartbeats: Arc<Heartbeats>,
    stop: watch::Sender<bool>,
}

impl Admin {
    /// A server of these metrics and heartbeats.
    pub fn new(
        options: AdminOptions,
        metrics: Arc<Metrics>,
        heartbeats: Arc<Heartbeats>,
    ) -> Arc<Self> {
        Arc::new(Self { options, metrics, heartbeats, stop: watch::Sender::new(false) })
    }

    /// Serves one stream until it ends.
    pub async fn serve_stream(self: Arc<Self>, stream: edge::Stream, peer: edge::Peer) {
        let answer = |request: Request<Incoming>| self.route(&request, peer);
        let stop = self.stop.subscribe();
        http::serve(stream, peer, &self.options.limits, &self.metrics, stop, answer).await;
    }

    /// Lets each connection finish the request it is at, and take no more.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    fn route(&self, request: &Request<Incoming>, peer: edge::Peer) -> Answer {
        let host = Host::of(request);
        let checked: Result<(), Refused> =
            host.and_then(|host| host.check(None, &self.options.allowed_hosts, peer));
        let answer = match (checked, request.uri().path()) {
            (Err(refused), _) => {
                self.metrics.refusal(Refusal::Host);
                router::refuse_host(refused)
            }
            (Ok(()), "/metrics" | "/healthz") if !is_read(request.method()) => {
                answer::not_allowed(answer::READS)
            }
            (Ok(()), "/metrics") => {
                answer::report(StatusCode::OK, OPEN_METRICS, self.metrics.text())
            }
            (Ok(()), "/healthz") => self.health(),
            (Ok(()), _) => answer::sentence(
                StatusCode::NOT_FOUND,
                "Nothing is here; /metrics and /healthz are.",
            ),
        };
        let mut answer = answer::without_body(answer, request.method());
        answer::protect(&mut answer, None, peer.tls, &[]);
        answer
    }

    /// Every loop, and how long ago it turned; 503 when one is stuck.
    fn health(&self) -> Answer {
        let mut well = true;
        let loops: Vec<_> = self
            .heartbeats
            .ages(Instant::now())
            .into_iter()
            .map(|(name, age)| {
                let ok = age <= Heartbeats::SILENCE_MAX;
                well &= ok;
                json!({ "name": name, "ok": ok, "silent_ms": age.as_millis() as u64 })
            })
            .collect();
        let (status, word) = match well {
            true => (StatusCode::OK, "ok"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "stuck"),
        };
        let doctor = self.options.doctor.as_ref().map(|found| found.borrow().clone());
        let certificate = self.options.certificates.as_ref().map(certificate);
        let found = json!({
            "status": word, "loops": loops, "certificate": certificate, "doctor": doctor,
        });
        answer::report(status, "application/json", found.to_string())
    }
}

/// Where the certificate comes from, how long it lasts, and why it is not a better one. A bad
/// certificate makes nobody restart the daemon, so it does not make it unhealthy.
fn certificate(certificates: &Certificates) -> serde_json::Value {
    let served = certificates.served();
    let trouble = certificates.trouble().map(|trouble| {
        json!({
            "reason": trouble.reason,
            "likely_cause": trouble.likely_cause,
            "next_try": trouble.next_try,
        })
    });
    json!({
        "source": certificates.source(),
        "trusted": certificates.are_trusted(),
        "not_after": served.not_after(),
        "fingerprint": served.fingerprint(),
        "trouble": trouble,
    })
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
