//! What is measured: our daemon, coturn, the forwarders, or a server that somebody else started.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tempfile::{NamedTempFile, TempDir};

use crate::client::{self, Client, Credential, Link, StreamLink};
use crate::process::{Cores, Process};
use crate::wire::Out;

/// The name in the servers' certificate.
pub(crate) const NAME: &str = "live.example.org";

/// Where peers are: no address that anything is relayed from.
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// How clients reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
    Tls,
}

/// The servers by name, in the order of the tables.
pub(crate) const NAMES: [&str; 6] = [OWN, "coturn", "epoll", "mmsg", "segmented", EXTERNAL];
/// Our daemon.
pub(crate) const OWN: &str = "turncast";
/// The server of `--server`.
pub(crate) const EXTERNAL: &str = "server";

/// A server of somebody else.
#[derive(Debug, Clone)]
pub(crate) struct External {
    pub(crate) address: SocketAddr,
    pub(crate) process: Option<u32>,
    pub(crate) credential: Credential,
}

/// A server that runs.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    udp: SocketAddr,
    /// TCP, TLS, and the certificate to trust.
    streams: Option<(SocketAddr, SocketAddr, CertificateDer<'static>)>,
    web: Option<SocketAddr>,
    /// Of a TURN server.
    pub(crate) credential: Option<Credential>,
    process: Option<Process>,
    cores: Cores,
    _directory: Option<TempDir>,
}

impl Target {
    /// Starts one, on the servers' core; `None` when it is not installed, or not asked for. Only
    /// our daemon takes `workers`.
    pub(crate) fn start(
        name: &str,
        workers: usize,
        cores: Cores,
        external: Option<&External>,
    ) -> Option<Self> {
        match name {
            "turncast" => Some(Self::turncast(cores, workers, None)),
            "coturn" => installed("turnserver").then(|| Self::coturn(cores)),
            "epoll" => Some(Self::forwarder("epoll", cores)),
            "mmsg" => Some(Self::forwarder("mmsg", cores)),
            "segmented" => Some(Self::forwarder("segmented", cores)),
            _ => external.map(|it| Self::external(it, cores)),
        }
    }

    /// No limit that would bite, and a log as busy services have it.
    fn turncast(cores: Cores, workers: usize, profile: Option<&Path>) -> Self {
        let (ports, web) = ([free_port(), free_port()], free_port());
        let config = format!(
            r#"
            state_dir = "state"
            log.level = "warn"
            tls.certificate = "cert.pem"
            tls.key = "key.pem"
            web.listen = ["127.0.0.1:{2}"]
            web.limits.hellos_per_address_per_min = 1000000
            web.limits.connections_per_address = 4096
            admin.listen = []
            broadcast.rooms = 100000
            broadcast.grace_secs = 0
            [turn]
            listen = ["udp://127.0.0.1:{0}", "tcp://127.0.0.1:{0}", "tls://127.0.0.1:{1}"]
            relay_addresses = ["127.0.0.1"]
            relay_ports = "10000-65535"
            workers = {workers}
            users = [{{ name = "{USERNAME}", password = "{PASSWORD}" }}]
            allow_peers = ["{PEER}/32"]
            [turn.limits]
            allocations_per_user = 1000000
            connections_per_address = 4096
            unauthenticated_per_prefix_per_sec = 0
            "#,
            ports[0], ports[1], web
        );
        let made = directory("turncast.toml", &config);
        let mut command = match profile {
            None => Command::new(env!("CARGO_BIN_EXE_turncast")),
            Some(profile) => {
                let mut command = Command::new("valgrind");
                command.args(["--tool=callgrind", "--compress-pos=no"]);
                command.arg(format!("--callgrind-out-file={}", profile.display()));
                command.arg(env!("CARGO_BIN_EXE_turncast"));
                command
            }
        };
        command.arg("--config").arg(made.0.path().join("turncast.toml"));
        // Only valgrind looks at PATH; a variable would override the configuration.
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.current_dir(made.0.path()).env_clear().env("PATH", path);
        let target = Self::turn(OWN, command, cores, ports, made);
        Self { web: Some(SocketAddr::from(([127, 0, 0, 1], web))), ..target }
    }

    /// Our daemon with its instructions counted; the file with the counts is there at its end.
    pub(crate) fn under_valgrind(cores: Cores) -> (Self, NamedTempFile) {
        let profile = NamedTempFile::new().expect("a file");
        (Self::turncast(cores, 1, Some(profile.path())), profile)
    }

    /// Ends it in order.
    pub(crate) fn end(self) {
        if let Some(process) = self.process {
            process.end();
        }
    }

    /// One relay thread, no limits, and no log.
    fn coturn(cores: Cores) -> Self {
        let ports = [free_port(), free_port()];
        let config = format!(
            "listening-ip=127.0.0.1\nrelay-ip=127.0.0.1\nlistening-port={}\n\
             tls-listening-port={}\nmin-port=10000\nmax-port=65535\nrelay-threads=1\n\
             lt-cred-mech\nrealm=example.org\nuser={USERNAME}:{PASSWORD}\n\
             allow-loopback-peers\nno-cli\nno-dtls\ncert=cert.pem\npkey=key.pem\n\
             log-file=/dev/null\nno-stdout-log\nsimple-log\npidfile=turnserver.pid\n\
             userdb=turndb\nno-rfc5780\n",
            ports[0], ports[1],
        );
        let (directory, certificate) = directory("turnserver.conf", &config);
        let mut command = Command::new("turnserver");
        command.args(["-c", "turnserver.conf"]).current_dir(directory.path());
        Self::turn("coturn", command, cores, ports, (directory, certificate))
    }

    fn turn(
        name: &'static str,
        mut command: Command,
        cores: Cores,
        [plain, tls]: [u16; 2],
        (directory, certificate): (TempDir, CertificateDer<'static>),
    ) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if std::env::var_os("TURNCAST_BENCH_LOG").is_some() {
            command.stderr(Stdio::inherit());
        }
        let process = Process::start(&mut command, cores);
        let udp = SocketAddr::from(([127, 0, 0, 1], plain));
        let tls = SocketAddr::from(([127, 0, 0, 1], tls));
        let credential = Credential { username: USERNAME.into(), password: PASSWORD.into() };
        let target = Self {
            name,
            udp,
            streams: Some((udp, tls, certificate)),
            web: None,
            credential: Some(credential),
            process: Some(process),
            cores,
            _directory: Some(directory),
        };
        target.wait();
        target
    }

    fn forwarder(name: &'static str, cores: Cores) -> Self {
        let own = std::env::current_exe().expect("this program");
        let mut command = Command::new(own);
        command.args(["--forwarder", name]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Process::start(&mut command, cores);
        let out = process.child().and_then(|child| child.stdout.take()).expect("it is piped");
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).expect("the forwarder says where it is");
        let udp = line.trim().parse().expect("an address");
        let process = Some(process);
        Self {
            name,
            udp,
            streams: None,
            web: None,
            credential: None,
            process,
            cores,
            _directory: None,
        }
    }

    fn external(external: &External, cores: Cores) -> Self {
        let target = Self {
            name: EXTERNAL,
            udp: external.address,
            streams: None,
            web: None,
            credential: Some(external.credential.clone()),
            process: external.process.map(Process::foreign),
            cores,
            _directory: None,
        };
        target.wait();
        target
    }

    /// Waits until Binding is answered.
    fn wait(&self) {
        client::ask(&client::socket(self.udp), &Out::request(crate::wire::BINDING).0);
    }

    /// Where it listens for UDP.
    pub(crate) fn udp(&self) -> SocketAddr {
        self.udp
    }

    /// Where its pages are served, over TLS, and the certificate to trust.
    pub(crate) fn web(&self) -> Option<(SocketAddr, CertificateDer<'static>)> {
        let (.., certificate) = self.streams.as_ref()?;
        Some((self.web?, certificate.clone()))
    }

    /// A client with an allocation.
    pub(crate) fn client(&self, transport: Transport) -> Client {
        let Some(credential) = &self.credential else {
            let socket = client::socket(self.udp);
            let nobody = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
            let relayed = client::register(&socket, nobody);
            return Client::plain(Link::Datagrams(socket), relayed);
        };
        let link = || match (transport, &self.streams) {
            (Transport::Udp, _) => Link::Datagrams(client::socket(self.udp)),
            (Transport::Tcp, Some((tcp, ..))) => StreamLink::connect(*tcp, None).into(),
            (Transport::Tls, Some((_, tls, trust))) => {
                StreamLink::connect(*tls, Some(trust)).into()
            }
            (_, None) => panic!("{} has no listener for streams", self.name),
        };
        let client = (0..TRIES).find_map(|_| Client::allocate(link(), credential));
        client.expect("a port that the server does not know")
    }

    /// What it has used of its core so far; zero for a server whose process is not known.
    pub(crate) fn cpu(&self) -> Duration {
        self.process.as_ref().map_or(Duration::ZERO, Process::cpu)
    }

    /// Somebody who competes for its core.
    pub(crate) fn neighbour(&self) -> Process {
        Process::neighbour(self.cores)
    }

    /// Its own resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.process.as_ref().map_or(0, Process::resident_bytes)
    }
}

impl From<StreamLink> for Link {
    fn from(stream: StreamLink) -> Self {
        Self::Stream(Box::new(stream))
    }
}

/// A directory with a configuration and a certificate.
fn directory(name: &str, config: &str) -> (TempDir, CertificateDer<'static>) {
    let directory = tempfile::tempdir().expect("a directory");
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a certificate");
    let write = |name: &str, text: &str| {
        let path: &Path = directory.path();
        std::fs::write(path.join(name), text).expect("a file");
    };
    write("cert.pem", &made.cert.pem());
    write("key.pem", &made.signing_key.serialize_pem());
    write(name, config);
    let certificate = made.cert.der().clone();
    (directory, certificate)
}

/// A port that is free for UDP and TCP now; the servers that are measured here are started at once.
fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").and_then(|tcp| tcp.local_addr());
        let port = tcp.expect("a free port").port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Ports that may belong to somebody already.
const TRIES: usize = 100;

const USERNAME: &str = "bench";
const PASSWORD: &str = "only-on-loopback";
