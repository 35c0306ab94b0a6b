//! Floods of strangers: requests without credentials, from more ports than anybody has, and what
//! they leave behind. In networks of their own where addresses count, because loopback is exempt
//! from the bucket of strangers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use turncast::credentials::{CredentialHash, password};
use turncast::stun::{Class, Method, TransactionId, Writer, attr};

use crate::harness::{DEADLINE, Daemon, Setup, in_network};
use crate::relay::client::Client;

const COUNT: usize = 100_000;

/// How much more memory a flood may leave in use.
const SLACK_KIB: u64 = 1024;

/// How many sockets are open at a time; their datagrams find room in the listener's buffer.
const AT_ONCE: usize = 64;

const SECRET: &str = "shared-secret-of-a-test";

const CONFIG: &str = r#"
[turn]
workers = 1
shared_secret = "shared-secret-of-a-test"
"#;

/// A network of this host alone, whose addresses are the whole of these prefixes.
const NETWORK: &str = "ip link set lo up && ip address add 203.0.113.10/32 dev lo && \
                       ip address add 198.51.100.1/24 dev lo && \
                       ip address add 198.51.101.1/24 dev lo && \
                       ip address add 20.0.0.1/8 dev lo";

/// A daemon in that network, with the limits that it has by default.
fn start_in_network() -> Daemon {
    Setup::new(CONFIG).variable("TURNCAST__TURN__LISTEN", "udp://203.0.113.10:0").start()
}

/// A client there, with a name of its own.
fn client(daemon: &Daemon, from: &str, name: &str) -> Client {
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let name = format!("{}:{name}", now + 600);
    let password = password(CredentialHash::Sha1, SECRET.as_bytes(), &name);
    let socket = UdpSocket::bind((from, 0)).expect("a client socket");
    Client::with(socket, daemon.turn(), &name, password.expose())
}

/// What strangers say: Binding, Allocate without credentials, and with a nonce of nobody.
fn requests() -> [Vec<u8>; 3] {
    let writer = |method| Writer::new(Class::Request, method, TransactionId([7; 12]));
    let allocate = || writer(Method::ALLOCATE).attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    let forged = allocate()
        .attribute(attr::USERNAME, b"mallory")
        .attribute(attr::REALM, b"turncast")
        .attribute(attr::NONCE, b"obMatJos2wAAAabcdefghijklmnopqrstuvwxyz0");
    [
        writer(Method::BINDING).finish(None, false),
        allocate().finish(None, false),
        forged.finish(Some(&[7; 16]), false),
    ]
}

/// Sends one request from each of so many ports, and gives the number of answers. `settled` is
/// called after each few of them, and returns when they are handled.
fn flood(
    server: SocketAddr,
    mut sources: impl Iterator<Item = (Ipv4Addr, u16)>,
    count: usize,
    mut settled: impl FnMut(&[UdpSocket]),
) -> usize {
    let requests = requests();
    let (mut sent, mut answered) = (0, 0);
    while sent < count {
        let mut sockets = Vec::with_capacity(AT_ONCE);
        while sockets.len() < AT_ONCE.min(count - sent) {
            // Somebody else may have that port; then it is the next one.
            let source = sources.next().expect("more ports than are needed");
            let Ok(socket) = UdpSocket::bind(source) else { continue };
            socket.send_to(&requests[sockets.len() % 3], server).expect("a send");
            sockets.push(socket);
        }
        sent += sockets.len();
        settled(&sockets);
        let is_answered = |socket: &&UdpSocket| {
            socket.set_nonblocking(true).expect("an option");
            socket.recv(&mut [0; 256]).is_ok()
        };
        answered += sockets.iter().filter(is_answered).count();
    }
    answered
}

/// Every port of every address from `first` on.
fn ports_from(first: [u8; 4]) -> impl Iterator<Item = (Ipv4Addr, u16)> {
    let addresses = (u32::from(Ipv4Addr::from(first))..).map(Ipv4Addr::from);
    addresses.flat_map(|ip| (1024..=u16::MAX).map(move |port| (ip, port)))
}

/// Returns once each of these has an answer to read.
fn all_answered(sockets: &[UdpSocket]) {
    for socket in sockets {
        socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        socket.peek(&mut [0; 1]).expect("an answer to everybody");
    }
}

#[test]
fn a_flood_of_strangers_that_all_get_answers_leaves_no_memory_behind() {
    let daemon = Setup::new(CONFIG).start();
    // What is made once is made before the count.
    flood(daemon.turn(), ports_from([127, 77, 0, 1]), 1000, all_answered);
    let before = daemon.memory_kib();
    let answered = flood(daemon.turn(), ports_from([127, 78, 0, 1]), COUNT, all_answered);
    let after = daemon.memory_kib();
    assert_eq!(answered, COUNT);
    assert!(after <= before + SLACK_KIB, "{before} KiB before, {after} KiB after");
    let refused = "turncast_turn_refused_total{method=\"allocate\",code=\"401\"}";
    assert!(daemon.metric(refused) > COUNT as u64 / 2);
    daemon.stop();
}

#[test]
fn a_flooded_prefix_is_cut_short_and_starves_nobody_else() {
    let test = "flood::a_flooded_prefix_is_cut_short_and_starves_nobody_else";
    if !in_network(test, NETWORK) {
        return;
    }
    let daemon = start_in_network();
    // Who has an allocation is never counted, wherever he comes from.
    let mut guest = client(&daemon, "198.51.100.1", "guest");
    guest.allocate().expect("an allocation");
    let mut rounds = 0;
    let mut neighbours = Vec::new();
    let mut settle = |_: &[UdpSocket]| {
        guest.bind();
        rounds += 1;
        // The next prefix, amid the flood.
        if rounds % 100 == 0 {
            let mut neighbour = client(&daemon, "198.51.101.1", &format!("neighbour-{rounds}"));
            neighbour.bind();
            neighbour.allocate().expect("an allocation");
            neighbours.push(neighbour);
        }
    };
    flood(daemon.turn(), ports_from([198, 51, 100, 2]), 1000, &mut settle);
    let (before, begin) = (daemon.memory_kib(), Instant::now());
    let answered = flood(daemon.turn(), ports_from([198, 51, 100, 3]), COUNT, &mut settle);
    let (after, secs) = (daemon.memory_kib(), begin.elapsed().as_secs_f64());
    // 2,000 at once and 200 a second.
    let most = 2_000.0 + 200.0 * (secs + 1.0);
    assert!((answered as f64) < most, "{answered} answers in {secs:.1} s");
    let limited = daemon.metric("turncast_limit_hits_total{limit=\"unauthenticated\"}");
    assert!(limited as usize >= COUNT - answered, "{limited}");
    // Sixteen neighbours got an allocation meanwhile, which takes memory.
    let allocations = neighbours.len() as u64;
    assert!(allocations >= 15 && allocations + 1 == daemon.metric("turncast_allocations"));
    assert!(after <= before + SLACK_KIB, "{before} KiB before, {after} KiB after");
    guest.refresh(600).expect("a longer life");
    daemon.stop();
}

#[test]
fn a_flood_out_of_many_prefixes_leaves_no_memory_behind() {
    let test = "flood::a_flood_out_of_many_prefixes_leaves_no_memory_behind";
    if !in_network(test, NETWORK) {
        return;
    }
    let daemon = start_in_network();
    let mut guest = client(&daemon, "198.51.100.1", "guest");
    guest.allocate().expect("an allocation");
    // An address out of each /24 of 20/8, and then another one.
    let prefixes = |last: u32| {
        let ip = move |prefix: u32| Ipv4Addr::from((20 << 24) + (prefix << 8) + last);
        (0..1 << 16).map(move |prefix| (ip(prefix), 1024 + (prefix as u16 >> 2)))
    };
    let mut settle = |_: &[UdpSocket]| {
        guest.bind();
    };
    flood(daemon.turn(), prefixes(7), 1000, &mut settle);
    let before = daemon.memory_kib();
    flood(daemon.turn(), prefixes(8).chain(prefixes(9)), COUNT, &mut settle);
    let after = daemon.memory_kib();
    assert!(after <= before + SLACK_KIB, "{before} KiB before, {after} KiB after");
    // Somebody who is none of them.
    client(&daemon, "198.51.101.1", "late").allocate().expect("an allocation");
    daemon.stop();
}

#[test]
fn two_hundred_browsers_behind_one_address_all_get_through() {
    let test = "flood::two_hundred_browsers_behind_one_address_all_get_through";
    if !in_network(test, NETWORK) {
        return;
    }
    let daemon = start_in_network();
    let begin = Instant::now();
    let peer = SocketAddr::from(([9, 9, 9, 9], 9));
    let mut browsers = Vec::new();
    for number in 0..200 {
        let mut browser = client(&daemon, "198.51.100.1", &format!("browser-{number}"));
        let mapped = browser.bind();
        assert_eq!(mapped.ip(), IpAddr::from([198, 51, 100, 1]));
        browser.allocate().expect("a challenge, and an allocation");
        browser.permit(&[peer]).expect("a permission");
        browsers.push(browser);
    }
    assert!(begin.elapsed().as_secs() < 10, "{:?}", begin.elapsed());
    assert_eq!(daemon.metric("turncast_allocations"), 200);
    assert_eq!(daemon.metric("turncast_limit_hits_total{limit=\"unauthenticated\"}"), 0);
    daemon.stop();
}
