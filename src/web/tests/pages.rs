use super::*;
use crate::metrics::Refusal;

const EVERY_ANSWER: [(&str, &str); 5] = [
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    (
        "permissions-policy",
        "camera=(self), microphone=(self), display-capture=(self), autoplay=(self)",
    ),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

#[tokio::test]
async fn every_answer_is_protected_by_its_headers() {
    let server = Setup::open().start();
    for (path, status) in [
        ("/", 200),
        ("/broadcast", 200),
        ("/watch/a-Room_7", 200),
        ("/static/style/base.css", 200),
        ("/nothing", 404),
        ("/ws", 426),
    ] {
        let reply = server.get(path).await;
        assert_eq!(reply.status, status, "{path}: {reply:?}");
        for (name, value) in EVERY_ANSWER {
            assert_eq!(reply.header(name), value, "{path}");
        }
        let policy = reply.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(policy.contains("frame-ancestors 'self'"), "{policy}");
        assert!(!policy.contains("unsafe-inline") && !policy.contains("unsafe-eval"), "{policy}");
        assert!(policy.contains(&format!("ws://{}", server.address)), "{policy}");
        assert_eq!(reply.header("strict-transport-security"), "", "only over TLS");
    }
}

#[tokio::test]
async fn pages_are_html_without_anything_inline() {
    let server = Setup::open().start();
    for path in ["/", "/broadcast", "/watch/room", "/nothing"] {
        let reply = server.get(path).await;
        assert_eq!(reply.header("content-type"), "text/html; charset=utf-8", "{path}");
        let text = reply.body.to_ascii_lowercase();
        assert!(text.starts_with("<!doctype html>"), "{path}");
        for inline in ["<style", " style=", "<script>", " onclick=", "\"javascript:", "http://"] {
            assert!(!text.contains(inline), "{inline} on {path}");
        }
        assert!(text.contains("<script type=\"module\"") || reply.status == 404, "{path}");
    }
    for (path, content_type) in [
        ("/static/index.js", "text/javascript; charset=utf-8"),
        ("/static/style/base.css", "text/css; charset=utf-8"),
        ("/static/favicon.svg", "image/svg+xml"),
        ("/favicon.ico", "image/svg+xml"),
    ] {
        let reply = server.get(path).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, content_type), "{path}");
    }
}

#[tokio::test]
async fn every_file_that_a_page_names_is_there() {
    let server = Setup::open().start();
    for path in ["/", "/broadcast", "/watch/room", "/nothing"] {
        let page = server.get(path).await.body;
        let named = page.split(['"', '\'']).filter(|part| part.starts_with("/static/"));
        let mut count = 0;
        for file in named {
            assert_eq!(server.get(file).await.status, 200, "{file} of {path}");
            count += 1;
        }
        assert!(count > 1, "{path} names its style");
    }
}

#[tokio::test]
async fn a_browser_asks_again_but_loads_once() {
    let server = Setup::open().start();
    let first = server.get("/").await;
    let etag = first.header("etag").to_owned();
    assert!(etag.len() > 10 && etag.starts_with('"') && etag.ends_with('"'), "{etag}");
    assert_eq!(first.header("cache-control"), "no-cache");
    let again = server.ask("GET", "/", &format!("If-None-Match: W/{etag}\r\n")).await;
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    assert_eq!(again.header("etag"), etag);
    assert_eq!(again.header("cache-control"), "no-cache");
    let changed = server.ask("GET", "/", "If-None-Match: \"another\"\r\n").await;
    assert_eq!((changed.status, changed.body == first.body), (200, true));
    let head = server.ask("HEAD", "/", "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), first.body.len().to_string());
    assert_eq!(head.header("etag"), etag);
}

#[tokio::test]
async fn what_is_not_there_says_so_and_what_cannot_be_done_too() {
    let server = Setup::open().start();
    for path in [
        "/index.html",
        "/static/",
        "/static/index.html",
        "/static/../Cargo.toml",
        "/static/%2e%2e/Cargo.toml",
        "/static//etc/passwd",
        "/static/.hidden",
        "/watch/",
        "/watch/a/b",
        "/watch/a%20b",
        "/broadcast/",
        "/metrics",
        "/healthz",
    ] {
        let reply = server.get(path).await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.body.contains("Nothing is here"), "{path}: {}", reply.body);
        assert_eq!(reply.header("cache-control"), "no-store");
    }
    let long = "a".repeat(65);
    assert_eq!(server.get(&format!("/watch/{long}")).await.status, 404);
    assert_eq!(server.get(&format!("/watch/{}", &long[..64])).await.status, 200);
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let reply = server.ask(method, "/", "Content-Length: 0\r\n").await;
        assert_eq!((reply.status, reply.header("allow")), (405, "GET, HEAD"), "{method}");
        assert!(reply.body.contains("can only be read"), "{method}");
    }
    assert_eq!(server.ask("POST", "/nothing", "Content-Length: 0\r\n").await.status, 404);
}

#[tokio::test]
async fn a_query_changes_nothing() {
    let server = Setup::open().start();
    assert_eq!(server.get("/watch/room?relay=1").await.status, 200);
    assert_eq!(server.get("/?x=/../").await.status, 200);
}

#[tokio::test]
async fn a_name_that_is_not_ours_is_refused() {
    let mut setup = Setup::open();
    setup.web.public_host = Some("live.example".to_owned());
    setup.web.allowed_hosts = vec!["second.example".to_owned()];
    let server = setup.start();
    let ask = async |host: &str| {
        let request = format!("GET / HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        server.raw(&request).await
    };
    for good in ["live.example", "LIVE.example:8443", "second.example", "localhost:1", "[::1]"] {
        assert_eq!(ask(&format!("Host: {good}\r\n")).await.status, 200, "{good}");
    }
    for bad in ["evil.example", "live.example.evil.example", "203.0.113.9"] {
        let reply = ask(&format!("Host: {bad}\r\n")).await;
        assert_eq!(reply.status, 421, "{bad}");
        assert!(reply.body.contains("web.allowed_hosts"), "{}", reply.body);
        assert!(!reply.body.contains(bad), "a stranger's name is not repeated");
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
    }
    for bad in ["", "Host: \r\n", "Host: a b\r\n", "Host: localhost\r\nHost: localhost\r\n"] {
        assert_eq!(ask(bad).await.status, 400, "{bad:?}");
    }
    assert_eq!(server.metrics.refusals(Refusal::Host), 7);
}

#[tokio::test]
async fn a_directory_of_the_operator_goes_before_the_built_in_pages() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("index.html"), "<!doctype html>mine").expect("a file");
    let mut setup = Setup::open();
    setup.web.static_dir = Some(directory.path().to_owned());
    let server = setup.start();
    assert_eq!(server.get("/").await.body, "<!doctype html>mine");
    assert_eq!(server.get("/broadcast").await.status, 200, "the rest stays");
}

#[tokio::test]
async fn stop_lets_idle_connections_go() {
    let server = Setup::open().start();
    let mut stream = TcpStream::connect(server.address).await.expect("a connection");
    let request = "HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 200");
    server.web.stop();
    server.stop.send_replace(true);
    let mut rest = Vec::new();
    soon(stream.read_to_end(&mut rest)).await.expect("the end");
    soon(server.task).await.expect("no panic").expect("no error");
}
