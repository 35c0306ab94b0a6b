use super::*;

#[tokio::test]
async fn a_request_that_never_ends_is_given_up() {
    let mut setup = Setup::open();
    setup.web.limits.header = Duration::from_millis(150);
    let server = setup.start();
    let mut slow = TcpStream::connect(server.address).await.expect("a connection");
    slow.write_all(b"GET / HTTP/1.1\r\nHost: local").await.expect("written");
    let mut rest = Vec::new();
    let _ = soon(slow.read_to_end(&mut rest)).await;
    until(|| server.metrics.limits(Limit::HandshakeTime) == 1).await;
    until(|| server.metrics.connections.value() == 0).await;
}

#[tokio::test]
async fn a_drop_now_and_then_does_not_buy_time() {
    let mut setup = Setup::open();
    setup.web.limits.header = Duration::from_millis(150);
    let server = setup.start();
    let mut slow = TcpStream::connect(server.address).await.expect("a connection");
    slow.write_all(b"GET / HTTP/1.1\r\n").await.expect("written");
    soon(async {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        while server.metrics.limits(Limit::HandshakeTime) == 0 {
            tick.tick().await;
            let _ = slow.write_all(b"x-a: b\r\n").await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_kept_connection_that_nobody_uses_is_no_offence() {
    let mut setup = Setup::open();
    setup.web.limits.header = Duration::from_millis(150);
    let server = setup.start();
    let mut stream = TcpStream::connect(server.address).await.expect("a connection");
    let request = "HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("written");
    let reply = Reply::read(&mut stream).await;
    assert_eq!(reply.status, 200);
    until(|| server.metrics.connections.value() == 0).await;
    assert_eq!(server.metrics.limits(Limit::HandshakeTime), 0);
}

#[tokio::test]
async fn long_headers_are_refused() {
    let mut setup = Setup::open();
    setup.web.limits.header_bytes = 8192;
    let server = setup.start();
    let long = format!("x-long: {}\r\n", "a".repeat(9000));
    assert_eq!(server.ask("GET", "/", &long).await.status, 431);
    until(|| server.metrics.limits(Limit::HeaderBytes) == 1).await;
    let fits = format!("x-long: {}\r\n", "a".repeat(7000));
    assert_eq!(server.ask("GET", "/", &fits).await.status, 200);
    let many = "a: b\r\n".repeat(100);
    assert_eq!(server.ask("GET", "/", &many).await.status, 431);
}

#[tokio::test]
async fn one_address_gets_its_share_of_connections() {
    let mut setup = Setup::open();
    setup.edge.connections_per_address = 2;
    let server = setup.start();
    let first = TcpStream::connect(server.address).await.expect("a connection");
    let _second = TcpStream::connect(server.address).await.expect("a connection");
    until(|| server.metrics.connections.value() == 2).await;
    let mut third = TcpStream::connect(server.address).await.expect("the kernel accepts it");
    let mut rest = Vec::new();
    let _ = soon(third.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"", "it is closed without a word");
    assert_eq!(server.metrics.limits(Limit::ConnectionsPerAddress), 1);
    drop(first);
    until(|| server.metrics.connections.value() == 1).await;
    assert_eq!(server.get("/").await.status, 200);
}

#[tokio::test]
async fn all_together_get_no_more_than_there_is() {
    let mut setup = Setup::open();
    setup.edge.connections = 1;
    let server = setup.start();
    let _first = TcpStream::connect(server.address).await.expect("a connection");
    until(|| server.metrics.connections.value() == 1).await;
    let mut second = TcpStream::connect(server.address).await.expect("the kernel accepts it");
    let mut rest = Vec::new();
    let _ = soon(second.read_to_end(&mut rest)).await;
    assert_eq!(server.metrics.limits(Limit::Connections), 1);
}

#[tokio::test]
async fn a_reader_that_stops_loses_its_connection() {
    let directory = tempfile::tempdir().expect("a directory");
    let large = vec![b'x'; 8 * 1024 * 1024];
    std::fs::write(directory.path().join("large.bin"), large).expect("a file");
    let mut setup = Setup::open();
    setup.web.static_dir = Some(directory.path().to_owned());
    setup.edge.write_stall = Duration::from_millis(150);
    let server = setup.start();
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut stream = socket.connect(server.address).await.expect("a connection");
    let request = "GET /static/large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("written");
    until(|| server.metrics.connections.value() == 1).await;
    until(|| server.metrics.connections.value() == 0).await;
    assert_eq!(server.metrics.limits(Limit::WriteStall), 1);
}

#[tokio::test]
async fn a_second_listener_on_the_port_is_refused_and_both_families_fit() {
    let v4 = Listener::bind("0.0.0.0:0".parse().expect("an address")).expect("a port");
    let port = v4.local_addr().port();
    let again = Listener::bind(v4.local_addr()).map(|_| ()).expect_err("the port is taken");
    assert_eq!(again.kind(), std::io::ErrorKind::AddrInUse);
    let v6: SocketAddr = format!("[::]:{port}").parse().expect("an address");
    match Listener::bind(v6) {
        Ok(v6) => assert_eq!(v6.local_addr().port(), port),
        Err(err) => assert_ne!(err.kind(), std::io::ErrorKind::AddrInUse, "{err}"),
    }
}

mod tls {
    use rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::TlsConnector;

    use super::*;

    /// A server with a certificate for `live.example`, and a client that trusts it.
    fn start(handshake: Duration) -> (Server, TlsConnector) {
        let directory = tempfile::tempdir().expect("a directory");
        let own = rcgen::generate_simple_self_signed(["live.example".to_owned()]).expect("a key");
        let (certificate, key) =
            (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        std::fs::write(&certificate, own.cert.pem()).expect("a file");
        std::fs::write(&key, own.signing_key.serialize_pem()).expect("a file");
        let mut setup = Setup::open();
        setup.web.public_host = Some("live.example".to_owned());
        setup.web.allowed_hosts = vec!["other.example".to_owned()];
        setup.edge.handshake = handshake;
        let now = crate::net::Now::read().unix_secs;
        let pair = crate::tls::Pair::read(&certificate, &key, None, now).expect("a good pair");
        let certificates = crate::tls::Certificates::new(pair, "files");
        setup.tls = Some(certificates.offer(&[b"http/1.1"]));
        setup.web.certificates = Some(certificates);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(own.cert.der().to_vec())).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        (setup.start(), TlsConnector::from(Arc::new(client)))
    }

    #[tokio::test]
    async fn pages_come_over_tls_and_say_so() {
        let (server, connector) = start(Duration::from_secs(10));
        let tcp = TcpStream::connect(server.address).await.expect("a connection");
        let name = ServerName::try_from("live.example").expect("a name");
        let mut stream = connector.connect(name, tcp).await.expect("a handshake");
        let request = "GET / HTTP/1.1\r\nHost: live.example\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("written");
        let reply = Reply::read(&mut stream).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("strict-transport-security"), "max-age=86400");
        let policy = reply.header("content-security-policy");
        assert!(policy.contains("connect-src 'self' wss://live.example;"), "{policy}");
    }

    #[tokio::test]
    async fn a_name_that_the_certificate_does_not_cover_is_not_bound_to_https() {
        let (server, connector) = start(Duration::from_secs(10));
        for host in ["other.example", "localhost", "127.0.0.1"] {
            let tcp = TcpStream::connect(server.address).await.expect("a connection");
            let name = ServerName::try_from("live.example").expect("a name");
            let mut stream = connector.connect(name, tcp).await.expect("a handshake");
            let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("written");
            let reply = Reply::read(&mut stream).await;
            assert_eq!(reply.status, 200, "{host}");
            assert_eq!(reply.header("strict-transport-security"), "", "{host}");
        }
    }

    #[tokio::test]
    async fn a_handshake_that_never_comes_is_given_up() {
        let (server, _) = start(Duration::from_millis(150));
        let mut silent = TcpStream::connect(server.address).await.expect("a connection");
        let mut rest = Vec::new();
        let _ = soon(silent.read_to_end(&mut rest)).await;
        assert_eq!(server.metrics.limits(Limit::HandshakeTime), 1);
    }

    #[tokio::test]
    async fn plain_http_and_noise_end_without_harm() {
        let (server, connector) = start(Duration::from_secs(10));
        let plain = |method: &'static str, path: &'static str, host: &'static str| {
            let text =
                format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let server = &server;
            async move { server.raw(&text).await }
        };
        let sent_on = plain("GET", "/watch/a?relay=1", "live.example:80").await;
        assert_eq!(sent_on.status, 308);
        assert_eq!(sent_on.header("location"), "https://live.example/watch/a?relay=1");
        assert_eq!(sent_on.header("strict-transport-security"), "");
        assert_eq!(plain("GET", "/ws", "live.example").await.status, 308);
        assert_eq!(plain("POST", "/", "live.example").await.status, 403);
        assert_eq!(plain("GET", "/", "evil.example").await.status, 421);
        let _ = server.raw("\u{16}\u{3}\u{1}\0\u{2}no hello").await;
        let tcp = TcpStream::connect(server.address).await.expect("a connection");
        let name = ServerName::try_from("live.example").expect("a name");
        connector.connect(name, tcp).await.expect("a handshake still works");
    }
}
