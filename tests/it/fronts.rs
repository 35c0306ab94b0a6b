//! Proxies in front, with the configurations of the README: pages, signaling and, where the port
//! is passed on, the relay get through, and the limits per address count the people behind.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustls::ClientConfig;

use crate::harness::{DEADLINE, Daemon, Setup};
use crate::relay::client::Client;
use crate::secure::{self, NAME, connect_from, get, secure};
use crate::ws::Ws;

const CONFIG: &str = r#"
public_host = "live.example.org"
[web]
trusted_proxies = ["127.0.0.1"]
[web.limits]
conns_per_address = 1
[turn]
users = [{ name = "alice", password = "password-of-alice-1" }]
allow_peers = ["127.0.0.3"]
[broadcast]
publish = "open"
"#;

/// The block of the README behind this mark, for this machine: other names and ports.
fn of_readme(mark: &str, replaced: &[(&str, &str)]) -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).expect("README.md");
    let (_, rest) = readme.split_once(&format!("<!-- tested: {mark} -->\n```")).expect("the mark");
    let (_, block) = rest.split_once('\n').expect("a block");
    let (block, _) = block.split_once("```").expect("the end of the block");
    // One family is enough here, and IPv6 is not everywhere.
    let lines = block.lines().filter(|line| !line.contains("listen [::]"));
    let mut block: String = lines.map(|line| format!("{line}\n")).collect();
    for (from, to) in replaced {
        assert!(block.contains(from), "{from} is not in:\n{block}");
        block = block.replace(from, to);
    }
    block
}

/// A running proxy; ended when dropped.
struct Front {
    child: Child,
    address: SocketAddr,
}

impl Front {
    /// Starts a program and waits until somebody listens at `address`.
    fn start(command: &mut Command, address: SocketAddr, log: &Path) -> Self {
        let file = std::fs::File::create(log).expect("a log");
        let copy = file.try_clone().expect("a log");
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(file).stderr(copy);
        let child =
            command.spawn().unwrap_or_else(|why| panic!("{name}: {why}; tests/run install"));
        let mut front = Self { child, address };
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = front.child.try_wait().expect("our child");
            let said = || std::fs::read_to_string(log).unwrap_or_default();
            assert!(ended.is_none() && began.elapsed() < DEADLINE, "{name}: {}", said());
            std::thread::yield_now();
        }
        front
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago: these programs cannot be asked which one they took.
fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound")
}

/// A daemon behind a proxy, with the files of a certificate for either of them.
struct Behind {
    setup: Setup,
    trusting: ClientConfig,
    daemon: Daemon,
    front: SocketAddr,
}

impl Behind {
    fn start(tls: bool) -> Self {
        let keys = if tls { secure::KEYS } else { "" };
        let setup = Setup::new(&format!("{CONFIG}{keys}"))
            .variable("TURNCAST__TURN__LISTEN", "udp://127.0.0.1:0");
        let trusting = secure::certificate(setup.directory());
        let daemon = setup.start();
        Self { setup, trusting, daemon, front: free_port() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.setup.directory().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    fn nginx(&self, block: &str) -> Front {
        let directory = self.setup.directory().display();
        let text = format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
             daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr warn;\n\
             events {{}}\n{block}"
        );
        let file = self.write("nginx.conf", &text);
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-c").arg(file).arg("-p").arg(self.setup.directory());
        Front::start(command.args(["-e", "stderr"]), self.front, &self.file("front.log"))
    }

    fn haproxy(&self, block: &str) -> Front {
        let file = self.write("haproxy.cfg", block);
        let mut command = Command::new("/usr/sbin/haproxy");
        Front::start(command.arg("-db").arg("-f").arg(file), self.front, &self.file("front.log"))
    }

    fn secure(&self, from: &str, alpn: &[&str]) -> impl Read + Write + 'static {
        let from: IpAddr = from.parse().expect("an address");
        secure(connect_from(from, self.front), &self.trusting, alpn)
    }

    /// A page comes, and each address has one WebSocket of its own and no second one.
    fn assert_pages(&self) {
        let page = get(self.secure("127.0.0.8", &["http/1.1"]), "/watch/room");
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        assert!(!page.contains(" ws://"), "it counts as encrypted: {page}");
        let open = |from: &str| Ws::try_over(self.secure(from, &["http/1.1"]), NAME, &[]);
        let mut eight = open("127.0.0.8").expect("a WebSocket");
        let mut nine = open("127.0.0.9").expect("a WebSocket of another address");
        assert_eq!(eight.hello("broadcaster", "room", None)["t"], "welcome");
        assert_eq!(nine.hello("watcher", "room", None)["t"], "welcome");
        assert_eq!(open("127.0.0.9").err(), Some(429), "the address behind the proxy is counted");
    }

    /// The relay is reached over TLS and TCP, and sees the client's own address.
    fn assert_relay(&self) {
        let tcp = connect_from("127.0.0.9".parse().expect("an address"), self.front);
        let stream: [Box<dyn crate::relay::client::Stream>; 2] =
            [Box::new(self.secure("127.0.0.9", &["stun.turn"])), Box::new(tcp)];
        for stream in stream {
            let mut client = Client::over(stream, self.front, "alice", "password-of-alice-1");
            assert_eq!(client.bind().ip().to_string(), "127.0.0.9");
            client.allocate().expect("an allocation");
            client.refresh(0).expect("the end of the allocation");
        }
    }

    fn stop(self, front: Front) {
        drop(front);
        self.daemon.stop();
    }
}

#[test]
fn nginx_passes_the_port_on() {
    let behind = Behind::start(true);
    let (listen, to) = (behind.front.to_string(), behind.daemon.https().to_string());
    let replaced = [("listen 443", &*format!("listen {listen}")), ("127.0.0.1:8443", &to)];
    let front = behind.nginx(&of_readme("nginx-stream", &replaced));
    assert_eq!(front.address, behind.front);
    behind.assert_pages();
    behind.assert_relay();
    behind.stop(front);
}

#[test]
fn haproxy_passes_the_port_on() {
    let behind = Behind::start(true);
    let (listen, to) = (behind.front.to_string(), behind.daemon.https().to_string());
    let replaced = [(":::443 v4v6", &*listen), ("127.0.0.1:8443", &to)];
    let front = behind.haproxy(&of_readme("haproxy-tcp", &replaced));
    behind.assert_pages();
    behind.assert_relay();
    behind.stop(front);
}

#[test]
fn nginx_ends_https() {
    let behind = Behind::start(false);
    let (listen, to) = (behind.front.to_string(), behind.daemon.web().to_string());
    let directory = behind.setup.directory().display();
    let block = of_readme(
        "nginx-http",
        &[
            ("listen 443", &*format!("listen {listen}")),
            ("127.0.0.1:8080", &to),
            ("cast.example.org;", "live.example.org;"),
            ("/etc/letsencrypt/live/cast.example.org/fullchain.pem", &behind.path("cert.pem")),
            ("/etc/letsencrypt/live/cast.example.org/privkey.pem", &behind.path("key.pem")),
        ],
    );
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {directory}/{what};\n"))
        .concat();
    let front = behind.nginx(&format!("http {{\naccess_log off;\n{temporary}{block}}}\n"));
    behind.assert_pages();
    behind.stop(front);
}

#[test]
fn haproxy_ends_https() {
    let behind = Behind::start(false);
    let (listen, to) = (behind.front.to_string(), behind.daemon.web().to_string());
    let part = |name: &str| std::fs::read_to_string(behind.file(name)).expect("a file");
    let both = behind.write("both.pem", &(part("cert.pem") + &part("key.pem")));
    let replaced = [
        (":::443 v4v6", &*listen),
        ("127.0.0.1:8080", &to),
        ("/etc/haproxy/cast.example.org.pem", &both.display().to_string()),
    ];
    let front = behind.haproxy(&of_readme("haproxy-http", &replaced));
    behind.assert_pages();
    behind.stop(front);
}

#[test]
fn caddy_ends_https() {
    let behind = Behind::start(false);
    let (port, to) = (behind.front.port(), behind.daemon.web().to_string());
    // A name that nobody outside knows gets no certificate: it is given one.
    let (certificate, key) = (behind.path("cert.pem"), behind.path("key.pem"));
    let site = format!(
        "https://live.example.org:{port} {{\n    bind 127.0.0.1\n    tls {certificate} {key}"
    );
    let block = of_readme("caddy", &[("cast.example.org {", &*site), ("127.0.0.1:8080", &to)]);
    let global = "{\n    admin off\n    auto_https disable_redirects\n}\n";
    let file = behind.write("Caddyfile", &format!("{global}{block}"));
    let mut command = Command::new("/usr/bin/caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
    command.env("HOME", behind.setup.directory()).env("XDG_DATA_HOME", behind.setup.directory());
    let front = Front::start(&mut command, behind.front, &behind.file("front.log"));
    behind.assert_pages();
    behind.stop(front);
}

#[test]
fn a_proxy_before_the_relays_own_port_says_who_the_client_is() {
    let setup = Setup::new(&format!("{CONFIG}{}", secure::KEYS))
        .variable("TURNCAST__TURN__LISTEN", "[\"tcp://127.0.0.1:0\", \"tls://127.0.0.1:0\"]");
    let trusting = secure::certificate(setup.directory());
    let daemon = setup.start();
    let (tcp, tls) = (daemon.turn_over("tcp"), daemon.turn_over("tls"));
    let v1 = b"PROXY TCP4 192.0.2.77 203.0.113.5 4711 3478\r\n".to_vec();
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    v2.extend([192, 0, 2, 77, 203, 0, 113, 5, 0x12, 0x67, 0x0d, 0x96]);
    let from = |last: u8, to: SocketAddr, header: &[u8]| {
        let mut stream = connect_from(IpAddr::from([127, 0, 0, last]), to);
        stream.write_all(header).expect("written");
        stream
    };
    for header in [v1, v2] {
        let plain: Box<dyn crate::relay::client::Stream> = Box::new(from(1, tcp, &header));
        let inside = secure(from(1, tls, &header), &trusting, &["stun.turn"]);
        for (stream, server) in [(plain, tcp), (Box::new(inside), tls)] {
            let mut client = Client::over(stream, server, "alice", "password-of-alice-1");
            assert_eq!(client.bind().to_string(), "192.0.2.77:4711");
            client.allocate().expect("an allocation");
            client.refresh(0).expect("the end of the allocation");
        }
        // From anybody else it is no message of TURN.
        let mut rest = Vec::new();
        let mut stranger = from(9, tcp, &header);
        let _ = stranger.write_all(&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42]);
        let ended = stranger.read_to_end(&mut rest);
        let late = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!late && rest.is_empty(), "{rest:?}");
    }
    let refused = "turncast_refusals_total{reason=\"proxy_header\"}";
    assert_eq!(daemon.metric(refused), 0);
    // Extensions of more than is taken.
    let _long = from(1, tcp, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x08\x00");
    daemon.wait_for_metric(refused, 1);
    daemon.stop();
}
