//! TLS for tests: a certificate of their own, and clients that trust it and no other.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, Socket, Type};

use crate::harness::{DEADLINE, text};
use crate::https;

/// What the certificate is for.
pub(crate) const NAME: &str = "live.example.org";

/// The keys of `[tls]` for the files that [`certificate`] writes.
pub(crate) const KEYS: &str = "[tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n";

/// Writes `cert.pem` and `key.pem`, and gives what trusts them.
pub(crate) fn certificate(directory: &Path) -> ClientConfig {
    certificate_for(directory, rustls::DEFAULT_VERSIONS)
}

/// The same for clients that speak these versions alone.
pub(crate) fn certificate_for(
    directory: &Path,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a certificate");
    let write = |name: &str, text: String| {
        std::fs::write(directory.join(name), text).expect("a file");
    };
    write("cert.pem", made.cert.pem());
    write("key.pem", made.signing_key.serialize_pem());
    https::trusting_over(versions, &[made.cert.der().clone()])
}

/// A connection from an address of this machine; no event of it takes longer than the deadline.
pub(crate) fn connect_from(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(from, 0).into()).expect("an address of this machine");
    socket.connect(&to.into()).expect("somebody listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    stream.set_nodelay(true).expect("an option of TCP");
    stream
}

/// TLS over a connection.
pub(crate) fn secure(
    tcp: TcpStream,
    trusting: &ClientConfig,
    alpn: &[&str],
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut config = trusting.clone();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = NAME.try_into().expect("a name");
    let tls = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut stream = StreamOwned::new(tls, tcp);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).expect("a handshake");
    }
    stream
}

/// The whole answer to `GET path` for [`NAME`].
pub(crate) fn get(mut stream: impl Read + Write, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the request is taken");
    let mut answer = Vec::new();
    // Not everybody says good-bye before the end.
    let _ = stream.read_to_end(&mut answer);
    text(&answer)
}
