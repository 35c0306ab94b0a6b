//! HTTPS to the authority, and to nobody else.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::Limited;
use hyper::body::Bytes;
use hyper::header::RETRY_AFTER;
use hyper::{Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

/// A client that trusts the roots it was made with.
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    told: RetryAfter,
}

/// How many seconds the authority last told us to wait when it refused; 0: it did not.
#[derive(Debug, Clone, Default)]
pub(super) struct RetryAfter(Arc<AtomicU64>);

impl RetryAfter {
    /// What was told since the last call.
    pub(super) fn take(&self) -> Option<Duration> {
        match self.0.swap(0, Ordering::Relaxed) {
            0 => None,
            secs => Some(Duration::from_secs(secs)),
        }
    }
}

impl Http {
    /// A client that trusts the roots in `roots`, a PEM text, or those of the system.
    ///
    /// # Errors
    /// A sentence, when there are no roots to trust.
    pub(super) fn new(roots: Option<&str>, told: RetryAfter) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = HttpsConnectorBuilder::new();
        let builder = match roots {
            None => builder
                .with_provider_and_native_roots(provider)
                .map_err(|err| format!("the system has no root certificates: {err}"))?,
            Some(pem) => {
                let config = ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .map_err(|err| err.to_string())?
                    .with_root_certificates(root_store(pem)?)
                    .with_no_client_auth();
                builder.with_tls_config(config)
            }
        };
        let connector = builder.https_only().enable_http1().build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), told })
    }
}

fn root_store(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let added = root.map_err(|err| err.to_string()).and_then(|root| {
            let added = roots.add(root);
            added.map_err(|err| err.to_string())
        });
        added.map_err(|err| format!("acme.root_certificate cannot be used: {err}"))?;
    }
    if roots.is_empty() {
        return Err("acme.root_certificate holds no certificate".to_owned());
    }
    Ok(roots)
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (sent, told) = (self.client.request(request), self.told.clone());
        Box::pin(async move {
            let answer = match timeout(ANSWER_MAX, sent).await {
                Ok(answer) => answer.map_err(|err| Error::Other(Box::new(err)))?,
                Err(_) => return Err(Error::Other("the authority does not answer".into())),
            };
            if !answer.status().is_success() {
                told.0.store(retry_after(&answer), Ordering::Relaxed);
            }
            Ok(BytesResponse::from(answer.map(|body| Limited::new(body, BODY_BYTES_MAX))))
        })
    }
}

/// The seconds of a Retry-After; a date is read by the client library where it matters, and taken
/// for an hour here.
fn retry_after<T>(answer: &Response<T>) -> u64 {
    let value = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    value.map_or(0, |value| value.trim().parse().unwrap_or(3600))
}

/// How long the head of an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// A chain of certificates takes a few thousand bytes.
const BODY_BYTES_MAX: usize = 1 << 20;
