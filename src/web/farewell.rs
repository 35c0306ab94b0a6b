//! The farewell of a page that goes away: `POST /leave`, with the token of `welcome.resume` in
//! `Authorization: Bearer`.
//!
//! A browser may drop what a WebSocket still had to say when its page goes, but sees a request
//! with `keepalive` through. Without it nobody would know for the whole grace that a viewer left.

use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderMap};
use hyper::{Method, Request, StatusCode};

use super::answer::{self, Answer};
use super::host::{self, Host};
use super::{Web, client};
use crate::edge::Peer;
use crate::metrics::Refusal;

/// Answers 204 whether or not somebody held the token: who asks again has left all the same, and
/// who guesses learns nothing.
pub(super) fn answer(web: &Web, request: &Request<Incoming>, host: &Host, peer: Peer) -> Answer {
    if request.method() != Method::POST {
        return answer::not_allowed("POST");
    }
    let headers = request.headers();
    let secure = client::is_secure(headers, peer, &web.options.trusted_proxies);
    if !host::origin_is_good(headers, host, &web.options, secure) {
        web.metrics.refusal(Refusal::Origin);
        return answer::sentence(
            StatusCode::FORBIDDEN,
            "A page of another site may not say farewell here.",
        );
    }
    let Some(token) = bearer(headers) else {
        return answer::sentence(
            StatusCode::BAD_REQUEST,
            "A farewell needs the resume token of the page, as Authorization: Bearer.",
        );
    };
    web.hub.farewell(token);
    answer::nothing()
}

/// RFC 6750, section 2.1.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}
