//! The routes of the public listener.
//!
//! | path | what |
//! |---|---|
//! | `/`, `/broadcast`, `/watch/ROOM` | pages |
//! | `/static/...` | what belongs to them |
//! | `/.well-known/acme-challenge/TOKEN` | for the certificate authority, by plain HTTP or not |
//! | `/ws` | the WebSocket of the hub |
//! | `/leave` | the farewell of a page that goes away |
//!
//! Where there is a certificate, whatever else comes unencrypted is sent on to HTTPS.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode, Version};

use super::answer::{self, Answer};
use super::host::{Host, Refused};
use super::ws::Ticket;
use super::{Web, client, farewell, handshake, http, plain, ws};
use crate::edge;
use crate::metrics::{Limit, Refusal};
use crate::tls;

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

/// Answers one request; the ticket of a WebSocket that was let in waits in `admitted`.
fn route(
    web: &Web,
    mut request: Request<Incoming>,
    peer: edge::Peer,
    admitted: &Mutex<Option<Ticket>>,
) -> Answer {
    let method = request.method().clone();
    let host = Host::of(&request);
    let options = &web.options;
    let checked = host.as_ref().map_err(|&refused| refused).and_then(|host| {
        host.check(options.public_host.as_deref(), &options.allowed_hosts, peer)?;
        Ok(host)
    });
    let secure = client::is_secure(request.headers(), peer, &options.trusted_proxies);
    // What an authority asks for is no secret, and it may ask under any name.
    let challenge = options.challenges.answer(request.uri().path());
    let answer = match (checked, challenge) {
        _ if is_too_large(&request, options.limits.header_bytes) => {
            web.metrics.limit(Limit::HeaderBytes);
            answer::sentence(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "The head of the request is too long.",
            )
        }
        (_, Some(text)) => answer::report(StatusCode::OK, "application/octet-stream", text),
        (Err(refused), _) => {
            web.metrics.refusal(Refusal::Host);
            refuse_host(refused)
        }
        (Ok(host), _) if !secure && options.certificates.is_some() => {
            plain::to_https(&request, host, options.https_port)
        }
        (Ok(host), _) if request.uri().path() == "/ws" => {
            match handshake::admit(web, &mut request, host, peer) {
                Ok((answer, ticket)) => {
                    *admitted.lock().unwrap_or_else(PoisonError::into_inner) = Some(ticket);
                    answer
                }
                Err(denied) => denied.answer(request.version()),
            }
        }
        (Ok(host), _) if request.uri().path() == "/leave" => {
            farewell::answer(web, &request, host, peer)
        }
        (Ok(_), _) => page(web, &request),
    };
    let mut answer = answer::without_body(answer, &method);
    let host = checked.ok();
    answer::protect(&mut answer, host, secure, &options.frame_ancestors);
    if peer.tls && host.is_some_and(|host| is_pinned(web, host)) {
        answer::secure_only(&mut answer, options.hsts);
    }
    answer
}

/// Whether a browser may be told that this host is never to be asked without TLS: a name, with a
/// certificate that browsers trust for it. One that learns it for `localhost` would apply it to
/// every other server there.
fn is_pinned(web: &Web, host: &Host) -> bool {
    let options = &web.options;
    let trusted = |held: &tls::Certificates| held.are_trusted_for(host.name());
    !options.hsts.is_zero()
        && host.name() != "localhost"
        && !host.is_address()
        && options.certificates.as_ref().is_some_and(trusted)
}

/// Over HTTP/1.1 it never comes that far.
fn is_too_large(request: &Request<Incoming>, most: usize) -> bool {
    let headers = request.headers().iter();
    let bytes: usize = headers.map(|(name, value)| name.as_str().len() + value.len()).sum();
    let uri = request.uri();
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    request.version() == Version::HTTP_2 && bytes + path > most
}

/// What somebody is told who asked for a name that is not ours.
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
        return answer::not_allowed(answer::READS);
    }
    answer::file(asset, request.headers())
}

/// Whether a text names a room: 1 to 64 of `a-z A-Z 0-9 - _`.
fn is_room_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}
