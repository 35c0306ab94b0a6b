//! The routes of the public listener.
//!
//! | path | what |
//! |---|---|
//! | `/`, `/broadcast`, `/watch/ROOM` | pages |
//! | `/static/...` | what belongs to them |
//! | `/ws` | the WebSocket of the hub |

use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderName, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{HeaderMap, Method, Request, StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::answer::{self, Answer};
use super::host::{self, Host, Refused};
use super::limits::Full;
use super::ws::Ticket;
use super::{Web, client, http, ice_urls, ws};
use crate::edge;
use crate::metrics::{Limit, Refusal};
use crate::signal::Opened;

/// Serves one stream: requests, and the WebSocket that one of them may open.
pub(super) async fn serve(web: &Arc<Web>, stream: edge::Stream, peer: edge::Peer) {
    // A WebSocket is served by the task of its connection, once HTTP has let go of the stream.
    let admitted = Mutex::new(None);
    let answer = |request: Request<Incoming>| route(web, request, peer, &admitted);
    let limits = &web.options.limits;
    http::serve(stream, peer, limits, &web.metrics, web.stop.subscribe(), answer).await;
    let admitted = admitted.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(ticket) = admitted {
        ws::run(web, ticket).await;
    }
}

fn route(
    web: &Web,
    mut request: Request<Incoming>,
    peer: edge::Peer,
    admitted: &Mutex<Option<Ticket>>,
) -> Answer {
    let method = request.method().clone();
    let host = Host::of(request.uri(), request.headers());
    let options = &web.options;
    let checked = host.as_ref().map_err(|&refused| refused).and_then(|host| {
        host.check(options.public_host.as_deref(), &options.allowed_hosts, peer)?;
        Ok(host)
    });
    let secure = client::is_secure(request.headers(), peer, &options.trusted_proxies);
    let answer = match checked {
        Err(refused) => {
            web.metrics.refusal(Refusal::Host);
            refuse_host(refused)
        }
        Ok(host) if request.uri().path() == "/ws" => {
            open_websocket(web, &mut request, host, peer, admitted)
                .unwrap_or_else(|refusal| refusal)
        }
        Ok(_) => page(web, &request),
    };
    let mut answer = answer::without_body(answer, &method);
    answer::protect(&mut answer, checked.ok(), secure, &options.frame_ancestors);
    answer
}

pub(super) fn refuse_host(refused: Refused) -> Answer {
    match refused {
        Refused::Malformed => answer::sentence(
            StatusCode::BAD_REQUEST,
            "The request must name one host, in the form that browsers use.",
        ),
        Refused::Foreign => answer::sentence(
            StatusCode::MISDIRECTED_REQUEST,
            "This server does not answer to the name in the address. If it is yours, set \
             public_host or add the name to web.allowed_hosts in its configuration.",
        ),
    }
}

fn page(web: &Web, request: &Request<Incoming>) -> Answer {
    let path = request.uri().path();
    let file = match path {
        "/" => Some("index.html"),
        "/broadcast" => Some("broadcast.html"),
        "/favicon.ico" => Some("favicon.svg"),
        _ => match path.strip_prefix("/watch/") {
            Some(room) if is_room_name(room) => Some("watch.html"),
            // The pages themselves have one address each.
            _ => path.strip_prefix("/static/").filter(|file| !file.ends_with(".html")),
        },
    };
    let Some(asset) = file.and_then(|file| web.assets.find(file)) else {
        return answer::not_found();
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return answer::not_allowed();
    }
    answer::file(asset, request.headers())
}

/// Whether a text names a room: 1 to 64 of `a-z A-Z 0-9 - _`.
fn is_room_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Answers a request for the WebSocket; when it is let in, the ticket waits in `admitted`.
fn open_websocket(
    web: &Web,
    request: &mut Request<Incoming>,
    host: &Host,
    peer: edge::Peer,
    admitted: &Mutex<Option<Ticket>>,
) -> Result<Answer, Answer> {
    let (options, metrics) = (&web.options, &web.metrics);
    let accept = handshake(request)?;
    let headers = request.headers();
    let secure = client::is_secure(headers, peer, &options.trusted_proxies);
    if !host::origin_is_good(headers, host, options, secure) {
        metrics.refusal(Refusal::Origin);
        return Err(answer::sentence(
            StatusCode::FORBIDDEN,
            "A page of another site may not connect here. Open the page of this server, or add \
             the site to web.allowed_origins in its configuration.",
        ));
    }
    if web.hub.is_draining() {
        return Err(try_later(
            StatusCode::SERVICE_UNAVAILABLE,
            "The server is stopping. Try again in a moment.",
        ));
    }
    let address = client::address(headers, peer, &options.trusted_proxies);
    let place = web.addresses.enter(address).map_err(|full| match full {
        Full::Server => {
            metrics.limit(Limit::Conns);
            try_later(StatusCode::SERVICE_UNAVAILABLE, "The server is full. Try again later.")
        }
        Full::Address => {
            metrics.limit(Limit::ConnsPerAddress);
            try_later(
                StatusCode::TOO_MANY_REQUESTS,
                "Too many connections from your address. Close some, or try again later.",
            )
        }
    })?;
    let opened = Opened {
        address,
        may_publish: client::may_publish(options, headers, host, peer),
        ice_urls: ice_urls(options.public_host.as_deref(), host.name(), &options.turn).into(),
    };
    let mut answer = Answer::default();
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let to = answer.headers_mut();
    to.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    to.insert(UPGRADE, HeaderValue::from_static("websocket"));
    to.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if names_token(headers, &SEC_WEBSOCKET_PROTOCOL, PROTOCOL) {
        to.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    let ticket = Ticket { upgrade: hyper::upgrade::on(request), opened, place };
    *admitted.lock().unwrap_or_else(PoisonError::into_inner) = Some(ticket);
    Ok(answer)
}

/// RFC 6455 §4.2.1: checks the opening handshake and computes what proves that we understood it.
fn handshake(request: &Request<Incoming>) -> Result<HeaderValue, Answer> {
    if request.method() != Method::GET {
        return Err(answer::not_allowed());
    }
    let headers = request.headers();
    let asks = request.version() == Version::HTTP_11
        && names_token(headers, &CONNECTION, "upgrade")
        && names_token(headers, &UPGRADE, "websocket");
    if !asks {
        let refusal = answer::sentence(
            StatusCode::UPGRADE_REQUIRED,
            "This address speaks WebSocket only; the pages of this server use it.",
        );
        let refusal = answer::with(refusal, CONNECTION, "Upgrade");
        return Err(answer::with(refusal, UPGRADE, "websocket"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let refusal = answer::sentence(
            StatusCode::UPGRADE_REQUIRED,
            "This server speaks version 13 of the WebSocket protocol.",
        );
        return Err(answer::with(refusal, SEC_WEBSOCKET_VERSION, "13"));
    }
    // 16 bytes in base64.
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24);
    key.and_then(|key| HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok()).ok_or_else(
        || {
            answer::sentence(
                StatusCode::BAD_REQUEST,
                "The request for a WebSocket has no valid Sec-WebSocket-Key.",
            )
        },
    )
}

fn names_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|found| found.trim().eq_ignore_ascii_case(token))
}

fn try_later(status: StatusCode, text: &'static str) -> Answer {
    answer::with(answer::sentence(status, text), RETRY_AFTER, "5")
}

/// The sub-protocol; a client may leave it out.
const PROTOCOL: &str = "turncast.v1";
