//! What is answered without encryption where HTTPS is spoken: the way to HTTPS.

use hyper::header::{HeaderValue, LOCATION};
use hyper::{Method, Request, StatusCode};

use super::answer::{self, Answer};
use super::host::Host;

/// Sends the browser to the same address with HTTPS at `port`. `host` was checked, so nobody is
/// led elsewhere.
pub(super) fn to_https<B>(request: &Request<B>, host: &Host, port: u16) -> Answer {
    let refused = answer::sentence(
        StatusCode::FORBIDDEN,
        "This server is spoken to with https:// in front. What was just sent came unencrypted.",
    );
    // What a form or a program sends was readable on the way; a redirect would hide that.
    if !is_read(request.method()) {
        return refused;
    }
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let Ok(there) = HeaderValue::try_from(format!("https://{}{port}{path}", host.name())) else {
        return refused;
    };
    let mut answer = answer::sentence(
        StatusCode::PERMANENT_REDIRECT,
        "This server is spoken to with https:// in front.",
    );
    answer.headers_mut().insert(LOCATION, there);
    answer
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &str, host: &str, path: &str, port: u16) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(()).expect("a request");
        let host = Host::parse(host).expect("a host");
        let answer = to_https(&request, &host, port);
        let there = answer.headers().get(LOCATION).map(|value| value.to_str().expect("a text"));
        (answer.status().as_u16(), there.unwrap_or_default().to_owned())
    }

    #[test]
    fn what_can_be_asked_again_is_sent_on() {
        for (host, port, there) in [
            ("live.example", 443, "https://live.example/watch/a?b=c"),
            ("live.example:80", 443, "https://live.example/watch/a?b=c"),
            ("live.example:8080", 8443, "https://live.example:8443/watch/a?b=c"),
            ("[2001:db8::1]:80", 443, "https://[2001:db8::1]/watch/a?b=c"),
        ] {
            assert_eq!(asked("GET", host, "/watch/a?b=c", port), (308, there.to_owned()));
            assert_eq!(asked("HEAD", host, "/watch/a?b=c", port), (308, there.to_owned()));
        }
        assert_eq!(asked("POST", "live.example", "/", 443), (403, String::new()));
        assert_eq!(asked("OPTIONS", "live.example", "*", 443), (403, String::new()));
    }
}
