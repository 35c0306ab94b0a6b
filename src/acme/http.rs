//! HTTPS to the authority, and to nobody else.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient, Problem};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use super::failure::ERROR;
use super::schedule::WAIT_MAX;

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
            let mut answer = whole(sent).await?;
            let wait = retry_after(answer.headers(), SystemTime::now());
            if let Some(wait) = wait {
                // The client library adds the number to a time, however large it is.
                answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait));
            }
            if !answer.status().is_success() {
                told.0.store(wait.unwrap_or(0), Ordering::Relaxed);
            }
            if let Some(problem) = out_of_service(&answer) {
                return Err(Error::Api(problem));
            }
            let (parts, body) = answer.into_parts();
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}

/// The answer with its whole body, within [`ANSWER_MAX`].
async fn whole<B, E>(
    sent: impl Future<Output = Result<Response<B>, E>>,
) -> Result<Response<Bytes>, Error>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    E: std::error::Error + Send + Sync + 'static,
{
    let whole = async {
        let (head, body) = sent.await.map_err(|err| Error::Other(Box::new(err)))?.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(Error::Other)?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    let late = |_| Error::Other("the authority does not answer".into());
    timeout(ANSWER_MAX, whole).await.map_err(late)?
}

/// What is the matter with an authority that cannot serve now. The client library reads only
/// problems in JSON, of the directory not even those; what stands in front of an authority that is
/// down says it in HTML.
fn out_of_service(answer: &Response<Bytes>) -> Option<Problem> {
    let status = answer.status();
    let kind = match status {
        StatusCode::TOO_MANY_REQUESTS => "rateLimited",
        status if status.is_server_error() => "serverInternal",
        _ => return None,
    };
    let said: Option<Problem> = serde_json::from_slice(answer.body()).ok();
    Some(
        said.filter(|problem| problem.detail.is_some() || problem.r#type.is_some()).unwrap_or_else(
            || Problem {
                r#type: Some(format!("{ERROR}{kind}")),
                detail: Some(format!("the authority answers {status}")),
                status: Some(status.as_u16()),
                subproblems: Vec::new(),
            },
        ),
    )
}

/// The seconds of a Retry-After, a number or a date (RFC 9110, section 10.2.3), at most
/// [`WAIT_MAX`].
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<u64> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match httpdate::parse_http_date(value) {
        Ok(date) => date.duration_since(now).unwrap_or_default().as_secs(),
        Err(_) if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) => {
            return None;
        }
        // What is too long for a number is too long for us as well.
        Err(_) => value.parse().unwrap_or(u64::MAX),
    };
    Some(wait.min(WAIT_MAX.as_secs()))
}

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// A chain of certificates takes a few thousand bytes.
const BODY_BYTES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    /// A body of which nothing ever comes.
    struct Stalled;

    impl Body for Stalled {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_authority_that_stops_in_the_middle_is_not_waited_for() {
        let sent = std::future::ready(Ok::<_, Infallible>(Response::new(Stalled)));
        let outcome = timeout(ANSWER_MAX * 2, whole(sent)).await.expect("a deadline");
        assert!(matches!(outcome, Err(Error::Other(_))));
    }

    #[test]
    fn an_authority_that_is_out_of_service_says_so_in_any_language() {
        let said = |status: u16, body: &'static str| {
            let mut answer = Response::new(Bytes::from_static(body.as_bytes()));
            *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
            out_of_service(&answer).map(|problem| (problem.r#type, problem.detail))
        };
        let busy = |kind: &str, detail: &str| {
            Some((Some(format!("{ERROR}{kind}")), Some(detail.to_owned())))
        };
        let html = "<html>We are down</html>";
        let unavailable = "the authority answers 503 Service Unavailable";
        assert_eq!(said(503, html), busy("serverInternal", unavailable));
        assert_eq!(said(503, ""), busy("serverInternal", unavailable));
        assert_eq!(said(503, "{}"), busy("serverInternal", unavailable));
        let limited = "the authority answers 429 Too Many Requests";
        assert_eq!(said(429, html), busy("rateLimited", limited));
        let problem = r#"{"type":"urn:ietf:params:acme:error:serverInternal","detail":"soon"}"#;
        assert_eq!(said(500, problem), busy("serverInternal", "soon"));
        assert_eq!(said(404, html), None);
        assert_eq!(said(200, html), None);
    }

    #[test]
    fn a_retry_after_is_a_number_or_a_date_and_has_a_bound() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let told = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
            retry_after(&headers, now)
        };
        assert_eq!(told("120"), Some(120));
        assert_eq!(told(" 0 "), Some(0));
        assert_eq!(told("Sun, 06 Nov 1994 08:51:37 GMT"), Some(120));
        assert_eq!(told("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0), "it is over");
        let longest = Some(WAIT_MAX.as_secs());
        assert_eq!(told("18446744073709551615"), longest);
        assert_eq!(told("99999999999999999999999999"), longest);
        assert_eq!(told("Fri, 31 Dec 9999 23:59:59 GMT"), longest);
        for nothing in ["", "soon", "-1", "1.5"] {
            assert_eq!(told(nothing), None, "{nothing:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
