//! The edge through real sockets: whatever comes, in whatever pieces, reaches the right side with
//! every byte, or is closed by the deadline.

use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tokio::io::AsyncReadExt as _;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::metrics::{Heartbeats, Metrics};
use crate::telemetry::Secret;
use crate::tls::{Certificates, Pair, Trust, self_signed};

/// What the call-back was handed, and every byte it read.
type Handed = (Peer, Vec<u8>);

/// An edge whose call-back reads to the end.
struct Edge {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    /// Of those who speak TURN.
    turn_metrics: Arc<Metrics>,
    handed: mpsc::UnboundedReceiver<Handed>,
    certificates: Certificates,
    /// The certificate and its key.
    pem: (String, Secret<String>),
    trusting: ClientConfig,
    _stop: watch::Sender<bool>,
    _runtime: Runtime,
}

const NAME: &str = "live.example";
/// What a connection gets to say what it is, where a test waits for the end of that.
const SHORT: Duration = Duration::from_millis(200);
const BINDING: [u8; 20] =
    [0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
const GET: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Edge {
    fn start(limits: Limits) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let metrics = Arc::new(Metrics::default());
        let now = crate::net::Now::read().unix_secs;
        let (chain, key) = self_signed(&[NAME.to_owned()], now, 1).expect("a certificate");
        let pair = Pair::from_pem(&chain, key.expose(), Trust::Trusted).expect("a pair");
        let certificates = Certificates::new(pair, "files");
        let listener = Listener::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let address = listener.local_addr();
        let stop = watch::Sender::new(false);
        let turn_metrics = Arc::new(Metrics::default());
        let acceptor = Acceptor {
            gate: Gate::new(limits.clone(), Arc::clone(&metrics)),
            tls: Some(certificates.offer(&[b"h2", b"http/1.1", b"stun.turn"])),
            takes: Takes::Any { turn: Gate::new(limits, Arc::clone(&turn_metrics)) },
            heartbeat: Heartbeats::default().add("edge", Instant::now()),
            stop: stop.subscribe(),
        };
        let (sender, handed) = mpsc::unbounded_channel();
        runtime.spawn(serve(listener, acceptor, move |mut stream, peer| {
            let sender = sender.clone();
            async move {
                let mut bytes = Vec::new();
                // A client that resets its connection has sent enough.
                let _ = stream.read_to_end(&mut bytes).await;
                let _ = sender.send((peer, bytes));
            }
        }));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(chain.as_bytes()).expect("PEM")).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trusting = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (_stop, _runtime) = (stop, runtime);
        let pem = (chain, key);
        Self {
            address,
            metrics,
            turn_metrics,
            handed,
            certificates,
            pem,
            trusting,
            _stop,
            _runtime,
        }
    }

    fn trusting_loopback(handshake: Duration) -> Self {
        let proxies = vec!["127.0.0.1/32".parse().expect("a prefix")];
        Self::start(Limits { handshake, trusted_proxies: proxies, ..Limits::default() })
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("somebody listens");
        stream.set_nodelay(true).expect("an option of TCP");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a deadline");
        stream
    }

    /// Sends the pieces and ends the connection; what the call-back was handed.
    fn say(&mut self, pieces: &[&[u8]]) -> Handed {
        let mut stream = self.connect();
        for piece in pieces {
            stream.write_all(piece).expect("written");
        }
        stream.shutdown(std::net::Shutdown::Write).expect("no more from here");
        self.next()
    }

    fn next(&mut self) -> Handed {
        self.handed.blocking_recv().expect("the edge lives")
    }

    fn secure(
        &self,
        tcp: TcpStream,
        alpn: &[&str],
    ) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let mut config = self.trusting.clone();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(NAME).expect("a name");
        let tls = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut stream = StreamOwned::new(tls, tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    fn say_inside(&mut self, alpn: &[&str], bytes: &[u8]) -> Handed {
        let mut stream = self.secure(self.connect(), alpn).expect("a handshake");
        stream.write_all(bytes).expect("written");
        stream.conn.send_close_notify();
        stream.flush().expect("written");
        stream.sock.shutdown(std::net::Shutdown::Write).expect("no more from here");
        self.next()
    }

    /// Whether a connection that says this and waits is closed, and after how long.
    fn cut_after(&self, bytes: &[u8]) -> Duration {
        let began = Instant::now();
        let mut stream = self.connect();
        stream.write_all(bytes).expect("written");
        let mut rest = Vec::new();
        // A close with bytes unread is a reset.
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(rest, b"", "it is closed without a word");
        began.elapsed()
    }
}

/// What the table of the first bytes says, worked out in another way.
fn expected(bytes: &[u8]) -> Option<Speaks> {
    let like = |whole: &[u8]| whole.iter().zip(bytes).take_while(|(a, b)| a == b).count();
    let is_stun_so_far = bytes.len() <= 4 || like_at_4(bytes);
    match bytes.first()? {
        0x16 => Some(Speaks::Tls),
        0 | 1 if is_stun_so_far && bytes.len() < 8 => None,
        0 | 1 if is_stun_so_far => Some(Speaks::Turn),
        _ if like(PREFACE) == PREFACE.len() => Some(Speaks::Http2),
        _ if like(PREFACE) == bytes.len() => None,
        _ => Some(Speaks::Http),
    }
}

fn like_at_4(bytes: &[u8]) -> bool {
    bytes[4..].iter().zip([0x21, 0x12, 0xA4, 0x42]).all(|(a, b)| *a == b)
}

#[test]
fn any_bytes_in_any_pieces_reach_the_right_side_with_every_byte() {
    let edge = RefCell::new(Edge::start(Limits::default()));
    let start = prop_oneof![
        Just(Vec::new()),
        Just(BINDING.to_vec()),
        Just(PREFACE.to_vec()),
        Just(GET.to_vec()),
        Just(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec()),
    ];
    let bytes = (start, 0usize..40, prop::collection::vec(any::<u8>(), 0..60));
    let pieces = prop::collection::vec(1usize..12, 1..12);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(300));
    let outcome = runner.run(&(bytes, pieces), |((mut bytes, keep, more), sizes)| {
        bytes.truncate(keep);
        bytes.extend(more);
        let Some(speaks) = expected(&bytes).filter(|speaks| *speaks != Speaks::Tls) else {
            // Too little, or no handshake: closed, and the next one is served.
            drop(edge.borrow().connect().write_all(&bytes));
            return Ok(());
        };
        let mut rest = &bytes[..];
        let mut cut: Vec<&[u8]> = Vec::new();
        for size in sizes.iter().cycle() {
            let (piece, left) = rest.split_at((*size).min(rest.len()));
            cut.push(piece);
            rest = left;
            if rest.is_empty() {
                break;
            }
        }
        let (peer, read) = edge.borrow_mut().say(&cut);
        prop_assert_eq!((peer.speaks, peer.tls, peer.proxy), (speaks, false, None));
        prop_assert_eq!(read, bytes);
        Ok(())
    });
    outcome.expect("every case");
}

#[test]
fn inside_tls_the_same_is_told_whatever_the_alpn_said() {
    let mut edge = Edge::start(Limits::default());
    for alpn in [&[][..], &["h2"], &["http/1.1"], &["stun.turn"], &["h2", "http/1.1"]] {
        for (bytes, speaks) in [
            (&BINDING[..], Speaks::Turn),
            (GET, Speaks::Http),
            (PREFACE, Speaks::Http2),
            (b"\x16\x03\x01", Speaks::Http),
        ] {
            let (peer, read) = edge.say_inside(alpn, bytes);
            assert_eq!((peer.speaks, peer.tls, &read[..]), (speaks, true, bytes), "{alpn:?}");
        }
    }
    let none_of_ours = edge.secure(edge.connect(), &["smtp"]).map(|_| ());
    assert!(none_of_ours.is_err());
}

#[test]
fn nothing_is_served_within_a_challenge_of_an_authority() {
    let mut edge = Edge::start(Limits::default());
    assert!(edge.secure(edge.connect(), &["acme-tls/1"]).is_err(), "none is open");
    let (chain, key) = &edge.pem;
    edge.certificates.open_challenge(NAME, chain, key.expose()).expect("a pair");
    let mut stream = edge.secure(edge.connect(), &["acme-tls/1"]).expect("a handshake");
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"acme-tls/1"[..]));
    let _ = stream.write_all(GET);
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    let late = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!late && rest.is_empty(), "it is closed at once and without a word");
    drop(stream);
    let (peer, _) = edge.say(&[GET]);
    assert!(!peer.tls, "nobody was handed what came before");
}

#[test]
fn a_trusted_proxy_says_who_is_behind_it() {
    let mut edge = Edge::trusting_loopback(Duration::from_secs(10));
    let v1 = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n".to_vec();
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24".to_vec();
    let ip = |last: u8| [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[last]].concat();
    v2.extend([ip(7), ip(1), vec![0x12, 0x67, 1, 187]].concat());
    for header in [v1, v2] {
        for (bytes, speaks) in [(&BINDING[..], Speaks::Turn), (GET, Speaks::Http)] {
            for (first, rest) in [(5, header.len()), (header.len(), 0), (1, 3)] {
                let all = [&header[..], bytes].concat();
                let (one, others) = all.split_at(first);
                let (two, three) = others.split_at(rest.min(others.len()));
                let (peer, read) = edge.say(&[one, two, three]);
                assert_eq!((peer.speaks, &read[..]), (speaks, bytes));
                assert_eq!(peer.remote.to_string(), "[2001:db8::7]:4711");
                assert_eq!(peer.local.to_string(), "[2001:db8::1]:443");
                assert_eq!(peer.proxy, Some(edge.address.ip()));
            }
        }
        // In front of TLS, too.
        let mut tcp = edge.connect();
        tcp.write_all(&header).expect("written");
        let mut stream = edge.secure(tcp, &["h2"]).expect("a handshake");
        stream.write_all(&BINDING).expect("written");
        drop(stream);
        let (peer, read) = edge.next();
        assert_eq!((peer.speaks, peer.tls, &read[..]), (Speaks::Turn, true, &BINDING[..]));
        assert_eq!(peer.remote.to_string(), "[2001:db8::7]:4711");
    }
    // A proxy that sees whether we live speaks for itself, and one without a header is a client.
    let (peer, read) = edge.say(&[b"PROXY UNKNOWN\r\n", GET]);
    assert_eq!((peer.proxy, peer.remote.ip(), &read[..]), (None, edge.address.ip(), GET));
    let (peer, read) = edge.say(&[GET]);
    assert_eq!((peer.proxy, &read[..]), (None, GET));
}

#[test]
fn a_header_is_believed_from_nobody_else_and_a_bad_one_ends_the_connection() {
    let mut edge = Edge::start(Limits::default());
    let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n";
    let (peer, read) = edge.say(&[header, &BINDING]);
    assert_eq!((peer.speaks, peer.remote.ip()), (Speaks::Http, edge.address.ip()));
    assert_eq!(read, [&header[..], &BINDING].concat(), "it is no more than bytes");
    let edge = Edge::trusting_loopback(Duration::from_secs(600));
    edge.cut_after(b"PROXY TCP4 nonsense\r\n");
    edge.cut_after(&[&b"PROXY "[..], &[b'a'; 200]].concat());
    edge.cut_after(b"\r\n\r\n\0\r\nQUIT\n\x31\x11\x00\x0c............");
}

#[test]
fn whoever_does_not_say_what_it_is_gets_one_deadline_for_all() {
    let edge = Edge::trusting_loopback(SHORT);
    let hello = [&[0x16, 3, 1, 0, 200, 1][..], &[0; 40]].concat();
    let halves: [&[u8]; 6] =
        [b"", &hello, b"PROXY TCP4 192.0.2.1 ", b"\r\n\r\n\0", &BINDING[..7], b"PRI * HTTP"];
    for half in halves {
        let took = edge.cut_after(half);
        assert!((SHORT..Duration::from_secs(10)).contains(&took), "{took:?} for {half:?}");
    }
    assert_eq!(edge.metrics.limits(Limit::HandshakeTime), halves.len() as u64);
    // A byte now and then buys no time.
    let mut slow = edge.connect();
    let began = Instant::now();
    slow.set_read_timeout(Some(Duration::from_millis(20))).expect("a deadline");
    for byte in hello.iter().cycle() {
        let ended = slow.write_all(&[*byte]).is_err()
            || matches!(slow.read(&mut [0]), Ok(0))
            || slow.take_error().is_ok_and(|error| error.is_some());
        if ended {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "it goes on and on");
    }
}

#[test]
fn the_share_of_an_address_is_that_of_the_client_behind_the_proxy() {
    let proxies = vec!["127.0.0.1/32".parse().expect("a prefix")];
    let limits =
        Limits { connections_per_address: 1, trusted_proxies: proxies, ..Limits::default() };
    let edge = Edge::start(limits);
    let from = |last: u8| format!("PROXY TCP4 192.0.2.{last} 192.0.2.99 1 2\r\n").into_bytes();
    let open = |last: u8, bytes: &[u8]| {
        let mut stream = edge.connect();
        stream.write_all(&[&from(last)[..], bytes].concat()).expect("written");
        stream
    };
    let until = |what: &dyn Fn() -> bool| {
        let began = Instant::now();
        while !what() {
            assert!(began.elapsed() < Duration::from_secs(20), "it does not come");
            std::thread::yield_now();
        }
    };
    // Clients of the relay have places of their own.
    let _turn = open(2, &BINDING);
    until(&|| edge.turn_metrics.connections.value() == 1);
    let (_one, _two) = (open(1, GET), open(2, GET));
    until(&|| edge.metrics.connections.value() == 2);
    edge.cut_after(&[&from(2)[..], GET].concat());
    assert_eq!(edge.metrics.limits(Limit::ConnectionsPerAddress), 1);
}
