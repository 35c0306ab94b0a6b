//! The opening of a WebSocket: who is let in, and what the others are told.

use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderName, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{HeaderMap, Method, Request, StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::answer::{self, Answer};
use super::host::{self, Host};
use super::limits::Full;
use super::ws::Ticket;
use super::{Web, client, ice_urls};
use crate::edge::Peer;
use crate::metrics::{Limit, Refusal};
use crate::signal::Opened;

/// Why a request gets no WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// Not a GET.
    Method,
    /// No request for a WebSocket at all.
    NoUpgrade,
    /// Another version of the WebSocket protocol.
    Version,
    /// A key that is no 16 bytes in base64.
    Key,
    /// A page of another site.
    Origin,
    /// The daemon stops.
    Draining,
    /// A limit of WebSockets.
    Full(Full),
}

/// Checks a request for the WebSocket. The answer goes out first, then the ticket is served.
pub(super) fn admit(
    web: &Web,
    request: &mut Request<Incoming>,
    host: &Host,
    peer: Peer,
) -> Result<(Answer, Ticket), Denied> {
    let (options, metrics) = (&web.options, &web.metrics);
    let accept = accept_key(request)?;
    let headers = request.headers();
    let secure = client::is_secure(headers, peer, &options.trusted_proxies);
    if !host::origin_is_good(headers, host, options, secure) {
        metrics.refusal(Refusal::Origin);
        return Err(Denied::Origin);
    }
    if web.hub.is_draining() {
        return Err(Denied::Draining);
    }
    let address = client::address(headers, peer, &options.trusted_proxies);
    let place = web.addresses.enter(address).map_err(|full| {
        metrics.limit(match full {
            Full::Server => Limit::Conns,
            Full::Address => Limit::ConnsPerAddress,
        });
        Denied::Full(full)
    })?;
    let public_host = options.public_host.as_deref();
    let trusted =
        |host: &str| options.certificates.as_ref().is_some_and(|held| held.are_trusted_for(host));
    let opened = Opened {
        address,
        may_publish: client::may_publish(options, headers, host, peer),
        ice_urls: ice_urls(public_host, host.name(), &options.turn, trusted).into(),
    };
    let mut answer = Answer::default();
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let to = answer.headers_mut();
    to.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    to.insert(UPGRADE, HeaderValue::from_static("websocket"));
    to.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if names(headers, &SEC_WEBSOCKET_PROTOCOL, PROTOCOL) {
        to.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    Ok((answer, Ticket { upgrade: hyper::upgrade::on(request), opened, place }))
}

/// RFC 6455 §4.2.1: checks the form of the request, and computes what proves that we read it.
fn accept_key(request: &Request<Incoming>) -> Result<HeaderValue, Denied> {
    if request.method() != Method::GET {
        return Err(Denied::Method);
    }
    let headers = request.headers();
    let asks = request.version() == Version::HTTP_11
        && names(headers, &CONNECTION, "upgrade")
        && names(headers, &UPGRADE, "websocket");
    if !asks {
        return Err(Denied::NoUpgrade);
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Denied::Version);
    }
    // 16 bytes in base64.
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24).ok_or(Denied::Key)?;
    HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(|_| Denied::Key)
}

/// Whether a list-valued header names `token`.
fn names(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|found| found.trim().eq_ignore_ascii_case(token))
}

impl Denied {
    /// What the client is told, who asked with this version of HTTP.
    pub(super) fn answer(self, version: Version) -> Answer {
        let (status, text) = match self {
            Self::Method => return answer::not_allowed("GET"),
            Self::NoUpgrade => (
                StatusCode::UPGRADE_REQUIRED,
                "This address speaks WebSocket only; the pages of this server use it.",
            ),
            Self::Version => (
                StatusCode::UPGRADE_REQUIRED,
                "This server speaks version 13 of the WebSocket protocol.",
            ),
            Self::Key => (
                StatusCode::BAD_REQUEST,
                "The request for a WebSocket has no valid Sec-WebSocket-Key.",
            ),
            Self::Origin => (
                StatusCode::FORBIDDEN,
                "A page of another site may not connect here. Open the page of this server, or \
                 add the site to web.allowed_origins in its configuration.",
            ),
            Self::Draining => {
                (StatusCode::SERVICE_UNAVAILABLE, "The server is stopping. Try again in a moment.")
            }
            Self::Full(Full::Server) => {
                (StatusCode::SERVICE_UNAVAILABLE, "The server is full. Try again later.")
            }
            Self::Full(Full::Address) => (
                StatusCode::TOO_MANY_REQUESTS,
                "Too many connections from your address. Close some, or try again later.",
            ),
        };
        let answer = answer::sentence(status, text);
        match self {
            // HTTP/2 knows neither header; browsers open a connection of HTTP/1.1 for a WebSocket.
            Self::NoUpgrade if version != Version::HTTP_2 => {
                answer::with(answer::with(answer, CONNECTION, "Upgrade"), UPGRADE, "websocket")
            }
            Self::Version => answer::with(answer, SEC_WEBSOCKET_VERSION, "13"),
            Self::Draining | Self::Full(_) => answer::with(answer, RETRY_AFTER, "5"),
            _ => answer,
        }
    }
}

/// The sub-protocol; a client may leave it out.
const PROTOCOL: &str = "turncast.v1";
