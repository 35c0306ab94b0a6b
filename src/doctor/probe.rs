//! Two clients of the `turn` crate send each other a packet through the relay.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use webrtc_stun::agent::TransactionId;
use webrtc_stun::message::{BINDING_REQUEST, Message};
use webrtc_turn::client::{Client, ClientConfig};
use webrtc_util::Conn;

use super::certificate::{self, Judgement};
use super::url::TurnUrl;
use super::wire::StreamConn;
use super::{Options, Trouble};
use crate::credentials::Credential;
use crate::metrics::Diagnosis;
use crate::net::{Reach, reach};
use crate::turn::Transport;

/// What was seen on the way.
#[derive(Debug)]
pub(super) struct Passed {
    /// The relayed address; `None` when the relay sends its clients on to another server.
    pub(super) relayed: Option<IpAddr>,
    /// What is to be said of the certificate, when there is one.
    pub(super) certificate: Option<Judgement>,
}

type Wire = Arc<dyn Conn + Send + Sync>;

/// Relays a packet through the URL and back, by `address`, which is one of its host.
pub(super) async fn relay(
    url: &TurnUrl,
    address: SocketAddr,
    credentials: [Credential; 2],
    options: &Options,
) -> Result<Passed, Trouble> {
    let place = Place { url, address, options };
    let (first, certificate) = place.open().await?;
    let (second, _) = place.open().await?;
    let mut clients = Vec::new();
    for (wire, credential) in [&first, &second].into_iter().zip(credentials) {
        clients.push(place.client(Arc::clone(wire), credential).await.map_err(bug)?);
    }
    let result = match clients.as_slice() {
        [one, other] => place.pass(one, other).await,
        _ => Err(bug("two clients")),
    };
    for client in clients {
        // It has no more to say, whether it hears this or not.
        let _ = client.close().await;
    }
    for wire in [first, second] {
        let _ = timeout(options.step, wire.close()).await;
    }
    let judged = |trouble: Trouble| Trouble { certificate, ..trouble };
    let relayed = result.map_err(judged)?;
    if let Some(trouble) = certificate.and_then(|found| of_certificate(found, &url.host)) {
        return Err(Trouble { relayed, ..judged(trouble) });
    }
    if let Some(relayed) = relayed {
        place.judge_relayed(relayed).map_err(judged)?;
    }
    Ok(Passed { relayed, certificate })
}

struct Place<'a> {
    url: &'a TurnUrl,
    address: SocketAddr,
    options: &'a Options,
}

impl Place<'_> {
    /// A connection by the URL's transport, at whose other end somebody answers.
    async fn open(&self) -> Result<(Wire, Option<Judgement>), Trouble> {
        let unreachable = |err: io::Error| self.unreachable(&err);
        if self.url.transport == Transport::Udp {
            let socket = self.datagrams().await.map_err(unreachable)?;
            return Ok((Arc::new(socket), None));
        }
        let tcp = self.within(TcpStream::connect(self.address)).await.map_err(unreachable)?;
        let local = tcp.local_addr().map_err(unreachable)?;
        if self.url.transport == Transport::Tcp {
            return Ok((Arc::new(StreamConn::new(tcp, local, self.address)), None));
        }
        let name = ServerName::try_from(self.url.host.clone()).map_err(bug)?;
        let judged = tokio::task::spawn_blocking(certificate::judged).await.map_err(bug)?;
        let (config, judge) = judged.map_err(bug)?;
        let handshake = TlsConnector::from(config).connect(name, tcp);
        let tls = self.within(handshake).await.map_err(|err| {
            let why = format!("no TLS handshake with {}: {err}", self.address);
            let next = "does a listener with TLS have this port? Something else may answer there";
            Trouble::new(Diagnosis::Unreachable, why, next)
        })?;
        Ok((Arc::new(StreamConn::new(tls, local, self.address)), judge.judgement()))
    }

    async fn within<T>(&self, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        timeout(self.options.step, step).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }

    /// A socket whose Binding request is answered. Connected, so that ICMP errors are heard.
    async fn datagrams(&self) -> io::Result<UdpSocket> {
        let any: IpAddr = match self.address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(self.address).await?;
        let mut request = Message::new();
        request
            .build(&[Box::new(TransactionId::new()), Box::new(BINDING_REQUEST)])
            .map_err(io::Error::other)?;
        for _ in 0..ATTEMPTS {
            socket.send(&request.raw).await?;
            let mut answer = [0; 1500];
            let in_time = timeout(self.options.step / ATTEMPTS, socket.recv(&mut answer)).await;
            if let Ok(read) = in_time
                && answer[..read?].get(8..20) == Some(&request.transaction_id.0[..])
            {
                return Ok(socket);
            }
        }
        Err(ErrorKind::TimedOut.into())
    }

    async fn client(
        &self,
        wire: Wire,
        credential: Credential,
    ) -> Result<Client, webrtc_turn::Error> {
        let client = Client::new(ClientConfig {
            stun_serv_addr: String::new(),
            turn_serv_addr: self.address.to_string(),
            username: credential.username,
            password: credential.password.expose().clone(),
            realm: String::new(),
            software: String::new(),
            rto_in_ms: 0,
            conn: wire,
            vnet: None,
        })
        .await?;
        client.listen().await?;
        Ok(client)
    }

    /// Makes two allocations, and passes a packet from one to the other and back.
    async fn pass(&self, one: &Client, other: &Client) -> Result<Option<IpAddr>, Trouble> {
        let first = match self.within(allocated(one.allocate())).await {
            Err(err) if code(&err) == Some(TRY_ALTERNATE) => return Ok(None),
            result => result.map_err(|err| self.refused(&err))?,
        };
        let second = self.within(allocated(other.allocate())).await;
        let result = match &second {
            Ok(second) => self.exchange(&first, second).await,
            Err(err) => Err(self.refused(err)),
        };
        // Whoever is not heard here loses the allocation with the connection, or with time.
        let _ = timeout(self.options.step, first.close()).await;
        if let Ok(second) = second {
            let _ = timeout(self.options.step, second.close()).await;
        }
        result.map(Some)
    }

    /// A packet there and back; datagrams may be lost, so each is sent a few times.
    async fn exchange(&self, first: &impl Conn, second: &impl Conn) -> Result<IpAddr, Trouble> {
        let relayed = |conn: Result<SocketAddr, _>| conn.map_err(bug);
        let (here, there) = (relayed(first.local_addr())?, relayed(second.local_addr())?);
        let trouble = |why: String| Trouble {
            relayed: Some(here.ip()),
            ..Trouble::new(
                Diagnosis::NotRelayed,
                why,
                "let UDP to and from turn.relay_ports through the firewall of this machine, and \
                 see that turn.deny_peers does not hold the relay's own address",
            )
        };
        let passed = async {
            // The other side's permission goes first; its packet finds none of ours yet.
            second.send_to(OPENING, here).await?;
            for _ in 0..ATTEMPTS {
                first.send_to(THERE, there).await?;
                if heard(second, THERE, self.options.step / ATTEMPTS).await? {
                    second.send_to(BACK, here).await?;
                    if heard(first, BACK, self.options.step / ATTEMPTS).await? {
                        return Ok::<bool, webrtc_util::Error>(true);
                    }
                }
            }
            Ok(false)
        };
        match timeout(self.options.step * 2, passed).await {
            Ok(Ok(true)) => Ok(here.ip()),
            Ok(Ok(false)) | Err(_) => {
                Err(trouble(format!("no packet comes through from {here} to {there}")))
            }
            Ok(Err(err)) => Err(trouble(format!("the relay passes nothing to {there} ({err})"))),
        }
    }

    /// Whether those who reach the URL reach what is relayed, too.
    fn judge_relayed(&self, relayed: IpAddr) -> Result<(), Trouble> {
        let reached = self.address.ip().to_canonical();
        let ours = |ip: IpAddr| self.options.host.contains(&ip);
        let narrower = reach(relayed) < reach(reached);
        let same_family = relayed.is_ipv4() == reached.is_ipv4();
        let foreign = same_family && relayed != reached && !ours(relayed);
        if !(narrower || foreign && reach(relayed) == Reach::Public) {
            return Ok(());
        }
        let why = match narrower {
            true => format!("relays by {relayed}, which who comes by {reached} does not reach"),
            false => format!("relays by {relayed}, which is neither {reached} nor of this machine"),
        };
        let next = match same_family {
            true => format!("write [turn] relay_addresses = [\"{reached}/LOCAL_IP\"]"),
            false => "set turn.relay_addresses to public addresses of this machine".to_owned(),
        };
        let trouble = Trouble::new(Diagnosis::RelayAddress, why, next);
        Err(Trouble { relayed: Some(relayed), ..trouble })
    }

    fn unreachable(&self, err: &io::Error) -> Trouble {
        let (address, port) = (self.address, self.url.port_name());
        let ip = address.ip().to_canonical();
        let ours = ip.is_loopback() || self.options.host.contains(&ip);
        let why = match err.kind() {
            ErrorKind::ConnectionRefused => format!("nothing listens at {address}"),
            ErrorKind::TimedOut => format!("no answer from {address}"),
            _ => format!("no way to {address} from here ({err})"),
        };
        let no_way =
            matches!(err.kind(), ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable);
        let next = match (ours, err.kind()) {
            (_, _) if no_way && address.is_ipv6() => format!(
                "give this machine an IPv6 address, or take the AAAA record of {} away",
                self.url.host
            ),
            (true, ErrorKind::ConnectionRefused) => format!(
                "see that turn.listen or web.listen has {port} at this address, and that no \
                 firewall rejects it"
            ),
            (true, _) => format!("open {port} in the firewall of this machine"),
            (false, _) => format!(
                "{ip} is no address of this machine. Is it the public side of a NAT? Then lead \
                 {port} here and try from outside, for some NATs do not lead back whom they \
                 protect. If not, correct the DNS or public_host"
            ),
        };
        Trouble::new(Diagnosis::Unreachable, why, next)
    }

    /// What an Allocate was answered.
    fn refused(&self, err: &io::Error) -> Trouble {
        if err.kind() == ErrorKind::TimedOut {
            return self.unreachable(err);
        }
        let next = match code(err) {
            Some(401) => {
                "does the URL lead to this very daemon? Another TURN server may have the port, or \
                 a forwarder may lead elsewhere"
            }
            Some(440) => {
                "browsers are relayed by IPv4: set turn.relay_addresses, or turn.default_family = \
                 \"client\""
            }
            Some(486) => "see turn.limits.allocations_per_user, which must be 1 at least",
            Some(508) => "widen turn.relay_ports, or raise turn.limits.allocations",
            _ => "see the daemon's log with log.level = \"debug\"",
        };
        let why = match code(err) {
            Some(code) => format!("the relay refuses an allocation ({code})"),
            None => format!("no allocation at {} ({err})", self.address),
        };
        Trouble::new(Diagnosis::Refused, why, next)
    }
}

async fn allocated<C>(
    answer: impl Future<Output = Result<C, webrtc_turn::Error>>,
) -> io::Result<C> {
    answer.await.map_err(io::Error::other)
}

/// Waits for this payload, whatever else comes.
async fn heard(
    conn: &impl Conn,
    payload: &[u8],
    within: Duration,
) -> Result<bool, webrtc_util::Error> {
    let waited = timeout(within, async {
        let mut buffer = [0; 64];
        loop {
            let (read, _) = conn.recv_from(&mut buffer).await?;
            if buffer[..read] == *payload {
                return Ok(());
            }
        }
    });
    match waited.await {
        Ok(result) => result.map(|()| true),
        Err(_) => Ok(false),
    }
}

/// The code of an error response, which the client tells in words alone.
fn code(err: &io::Error) -> Option<u16> {
    let text = err.to_string();
    let (_, after) = text.split_once("(error ")?;
    after.get(..3)?.parse().ok()
}

fn of_certificate(judgement: Judgement, host: &str) -> Option<Trouble> {
    let (why, next) = match judgement {
        Judgement::Trusted => return None,
        Judgement::SelfSigned => (
            "the certificate is self-signed, and browsers refuse it for TURN".to_owned(),
            "get one from an authority: [acme] accept_terms = true, or tls.certificate",
        ),
        Judgement::OtherHost => (
            format!("the certificate is not for {host}"),
            "get one that names it, or correct public_host",
        ),
        Judgement::Expired => (
            "the certificate has expired".to_owned(),
            "renew it; `turncast check` says where it comes from and why it is old",
        ),
        Judgement::NotYetValid => {
            ("the certificate is not valid yet".to_owned(), "see the clock of this machine")
        }
        Judgement::UnknownAuthority => (
            "the chain of the certificate leads to no authority that this machine knows".to_owned(),
            "serve the whole chain (certbot's fullchain.pem, not cert.pem). A private authority \
             has to be added to the system's (update-ca-certificates) and to each browser's",
        ),
        Judgement::Broken => {
            ("the certificate is not one for a server".to_owned(), "get another one")
        }
    };
    Some(Trouble::new(Diagnosis::Certificate, why, next))
}

fn bug(err: impl std::fmt::Display) -> Trouble {
    let next = "this is a bug: please report it";
    Trouble::new(Diagnosis::Refused, format!("the examination failed ({err})"), next)
}

/// How often a datagram is sent until nobody believes in it any more.
const ATTEMPTS: u32 = 5;
/// RFC 8656, section 18.7 (try alternate).
const TRY_ALTERNATE: u16 = 300;
const OPENING: &[u8] = b"turncast doctor: opening";
const THERE: &[u8] = b"turncast doctor: there";
const BACK: &[u8] = b"turncast doctor: back";
