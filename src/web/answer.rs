//! Answers, and the headers that protect every one of them.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName,
    HeaderValue, IF_NONE_MATCH, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{HeaderMap, Method, Response, StatusCode};

use super::assets::Asset;
use super::host::Host;

/// An answer with its whole body.
pub(super) type Answer = Response<Full<Bytes>>;

/// A file: whole, or 304 when the browser has it already.
pub(super) fn file(asset: Asset, request: &HeaderMap) -> Answer {
    let mut answer = if has_already(request, &asset.etag) {
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer
    } else {
        with_body(StatusCode::OK, asset.content_type, asset.body)
    };
    if let Ok(etag) = HeaderValue::try_from(asset.etag) {
        answer.headers_mut().insert(ETAG, etag);
    }
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer
}

/// RFC 9110 §13.1.2, with the weak comparison that it asks for.
fn has_already(request: &HeaderMap, etag: &str) -> bool {
    request.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value
            .split(',')
            .map(str::trim)
            .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
    })
}

/// One sentence, for programs and for the few people who get to see it.
pub(super) fn sentence(status: StatusCode, text: &'static str) -> Answer {
    let body = Bytes::from(format!("{text}\n"));
    no_store(with_body(status, "text/plain; charset=utf-8", body))
}

/// Done, and no more to say.
pub(super) fn nothing() -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = StatusCode::NO_CONTENT;
    no_store(answer)
}

/// What `/metrics` and `/healthz` say.
pub(super) fn report(status: StatusCode, content_type: &'static str, text: String) -> Answer {
    no_store(with_body(status, content_type, Bytes::from(text)))
}

/// A page for an address that leads nowhere.
pub(super) fn not_found() -> Answer {
    let page = error_page(
        "Nothing is here",
        "This address leads to no page. Check the link, or start from the beginning.",
    );
    no_store(with_body(StatusCode::NOT_FOUND, HTML, page))
}

/// The methods of everything but the WebSocket.
pub(super) const READS: &str = "GET, HEAD";

/// A page for a method that makes no sense here; `allowed` names those that do.
pub(super) fn not_allowed(allowed: &'static str) -> Answer {
    let page = error_page(
        "This page can only be read",
        "The server takes nothing at this address. Open it in a browser instead.",
    );
    let answer = no_store(with_body(StatusCode::METHOD_NOT_ALLOWED, HTML, page));
    with(answer, ALLOW, allowed)
}

/// For `HEAD`: the headers of the whole answer and nothing behind them.
pub(super) fn without_body(answer: Answer, method: &Method) -> Answer {
    if method == Method::HEAD { answer.map(|_| Full::default()) } else { answer }
}

/// Adds one header whose value is fixed.
pub(super) fn with(mut answer: Answer, name: HeaderName, value: &'static str) -> Answer {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
    answer
}

/// What every answer carries, whatever it says.
pub(super) fn protect(
    answer: &mut Answer,
    host: Option<&Host>,
    secure: bool,
    frame_ancestors: &[String],
) {
    let headers = answer.headers_mut();
    let policy = content_policy(host, secure, frame_ancestors);
    // Hosts and origins were checked for form; should one slip through, the strictest policy is
    // the right one.
    let policy = HeaderValue::try_from(policy)
        .unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"));
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    for (name, value) in FIXED {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// Tells browsers to come by HTTPS alone from now on (RFC 6797).
pub(super) fn secure_only(answer: &mut Answer, duration: Duration) {
    let value = format!("max-age={}", duration.as_secs());
    if let Ok(value) = HeaderValue::try_from(value) {
        answer.headers_mut().insert(STRICT_TRANSPORT_SECURITY, value);
    }
}

/// Scripts and styles from us alone and none inline; connections to us alone. Not every browser
/// counts a WebSocket to the same host as `'self'`, so it is named.
fn content_policy(host: Option<&Host>, secure: bool, frame_ancestors: &[String]) -> String {
    let mut policy = String::from(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
         media-src 'self' blob: mediastream:; connect-src 'self'",
    );
    if let Some(host) = host {
        let schemes: &[&str] = if secure { &["wss"] } else { &["ws", "wss"] };
        for scheme in schemes {
            policy.push_str(&format!(" {scheme}://{}", host.authority()));
        }
    }
    policy.push_str("; base-uri 'none'; form-action 'none'; frame-ancestors 'self'");
    for origin in frame_ancestors {
        // A separator inside would begin another directive.
        if origin.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';' && byte != b',') {
            policy.push(' ');
            policy.push_str(origin);
        }
    }
    policy
}

fn with_body(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let len = body.len();
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(len));
    answer
}

fn no_store(answer: Answer) -> Answer {
    with(answer, CACHE_CONTROL, "no-store")
}

fn error_page(title: &str, text: &str) -> Bytes {
    Bytes::from(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n\
         <meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}: Turncast</title>\n\
         <link rel=\"icon\" href=\"/static/favicon.svg\" type=\"image/svg+xml\">\n\
         <link rel=\"stylesheet\" href=\"/static/style/tokens.css\">\n\
         <link rel=\"stylesheet\" href=\"/static/style/base.css\">\n\
         <link rel=\"stylesheet\" href=\"/static/style/error.css\">\n\
         </head>\n<body data-page=\"error\">\n\
         <main id=\"main\" class=\"lost\">\n<h1>{title}</h1>\n<p>{text}</p>\n\
         <p><a href=\"/\">Go to the start page</a></p>\n</main>\n</body>\n</html>\n"
    ))
}

const HTML: &str = "text/html; charset=utf-8";
const FIXED: [(HeaderName, &str); 5] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(self), microphone=(self), display-capture=(self), autoplay=(self)",
    ),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_nobody_but_us() {
        let host = Host::parse("Live.example:8443").expect("a host");
        let policy = content_policy(Some(&host), true, &[]);
        assert!(policy.contains("connect-src 'self' wss://live.example:8443;"), "{policy}");
        assert!(policy.ends_with("frame-ancestors 'self'"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        let plain = content_policy(Some(&host), false, &["https://portal.example".to_owned()]);
        assert!(plain.contains(" ws://live.example:8443 wss://live.example:8443;"), "{plain}");
        assert!(plain.ends_with("frame-ancestors 'self' https://portal.example"), "{plain}");
        let trick = content_policy(None, false, &["x; script-src *".to_owned()]);
        assert!(!trick.contains('*'), "{trick}");
    }

    #[test]
    fn a_browser_that_has_the_file_is_told_so() {
        let has = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, value.parse().expect("a header value"));
            has_already(&headers, "\"abc\"")
        };
        assert!(has("\"abc\"") && has("W/\"abc\"") && has("\"x\", \"abc\"") && has("*"));
        assert!(!has("\"ab\"") && !has("abc") && !has(""));
        assert!(!has_already(&HeaderMap::new(), "\"abc\""));
    }
}
