//! A TLS client of the tests: what is served, to whom, and whether it is trusted.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
};

use crate::harness::DEADLINE;

/// A connection whose handshake is over.
pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A client that trusts these certificates and what they have signed.
pub(crate) fn trusting(roots: &[CertificateDer<'static>]) -> ClientConfig {
    trusting_over(rustls::DEFAULT_VERSIONS, roots)
}

/// The same for a client that speaks these versions alone.
pub(crate) fn trusting_over(
    versions: &[&'static SupportedProtocolVersion],
    roots: &[CertificateDer<'static>],
) -> ClientConfig {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).expect("a root");
    }
    let provider = Arc::new(ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(store)
        .with_no_client_auth()
}

/// A client that looks at certificates and takes them all.
pub(crate) fn credulous() -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    // A handshake that resumes an earlier one shows no certificate.
    config.resumption = Resumption::disabled();
    config
}

/// Connects and finishes the handshake; an IP address as `name` sends no SNI.
pub(crate) fn connect(
    address: SocketAddr,
    name: &str,
    config: &Arc<ClientConfig>,
) -> io::Result<Tls> {
    let tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(DEADLINE))?;
    let name = ServerName::try_from(name.to_owned()).expect("a name or an address");
    let tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(tls, tcp);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// The certificate of a connection.
pub(crate) fn certificate(stream: &Tls) -> CertificateDer<'static> {
    stream.conn.peer_certificates().expect("a chain")[0].clone().into_owned()
}

/// The certificate that `address` serves to whoever asks for `name`.
pub(crate) fn served(address: SocketAddr, name: &str) -> CertificateDer<'static> {
    let stream = connect(address, name, &Arc::new(credulous())).expect("a handshake");
    certificate(&stream)
}

/// The status and body of `GET path`; the connection stays open.
pub(crate) fn get(stream: &mut Tls, host: &str, path: &str) -> io::Result<(u16, Vec<u8>)> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
    stream.flush()?;
    let mut reader = BufReader::with_capacity(1, stream);
    let (mut status, mut length) = (0, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(rest) = line.strip_prefix("http/1.1 ") {
            status = rest[..3].parse().expect("a status");
        } else if let Some(bytes) = line.strip_prefix("content-length: ") {
            length = bytes.parse().expect("a length");
        } else if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((status, body))
}

#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
