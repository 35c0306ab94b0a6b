//! Every limit of the configuration, set in a file, read by the daemon, and seen to bite: a key
//! that is read and never obeyed looks like protection and is none.

use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use webrtc_stun::attributes::ATTR_LIFETIME;

use crate::harness::{DEADLINE, Daemon, Setup, in_network};
use crate::relay::client::Client;
use crate::streams::connect;
use crate::ws::Ws;

const CONFIG: &str = r#"
[turn]
users = [
    { name = "alice", password = "password-of-alice-1" },
    { name = "carol", password = "password-of-carol-1" },
]
allow_peers = ["127.0.0.3"]
"#;

/// A daemon with one more section.
fn start(section: &str) -> Daemon {
    Setup::new(&format!("{CONFIG}{section}\n")).start()
}

fn alice(daemon: &Daemon) -> Client {
    Client::new(daemon.turn(), "alice", "password-of-alice-1")
}

fn carol(daemon: &Daemon) -> Client {
    Client::new(daemon.turn(), "carol", "password-of-carol-1")
}

pub(crate) fn hits(daemon: &Daemon, limit: &str) -> u64 {
    daemon.metric(&format!("turncast_limit_hits_total{{limit=\"{limit}\"}}"))
}

fn peers(count: u8) -> Vec<SocketAddr> {
    (1..=count).map(|last| SocketAddr::from(([9, 9, 9, last], 9))).collect()
}

/// The keys of a section of the example.
fn keys(section: &str) -> Vec<&'static str> {
    let example = include_str!("../../config.example.toml");
    let (_, rest) = example.split_once(&format!("\n[{section}]\n")).expect("the section");
    let lines = rest.lines().take_while(|line| !line.starts_with('['));
    let keys = lines.filter_map(|line| line.strip_prefix('#')?.split_once(" = "));
    keys.map(|(key, _)| key).filter(|key| !key.contains(' ')).collect()
}

#[test]
fn every_limit_of_the_configuration_is_set_by_a_test_of_the_daemon() {
    let relay = [
        include_str!("limits.rs"),
        include_str!("streams.rs"),
        include_str!("tcp_relay/limits.rs"),
        include_str!("tcp_relay/ends.rs"),
    ]
    .concat();
    let pages = include_str!("limits_of_pages.rs").to_owned();
    for (section, tests) in
        [("turn.limits", &relay), ("web.limits", &pages), ("broadcast.limits", &pages)]
    {
        let keys = keys(section);
        assert!(keys.len() > 3, "{section}: {keys:?}");
        for key in keys {
            assert!(tests.contains(&format!("{key} = ")), "no test sets {section}.{key}");
        }
    }
}

#[test]
fn a_user_gets_no_more_allocations_than_his_share() {
    let daemon = start("[turn.limits]\nallocations_per_user = 2");
    let mut of_alice: Vec<Client> = (0..3).map(|_| alice(&daemon)).collect();
    let outcomes: Vec<_> = of_alice.iter_mut().map(|client| client.allocate().err()).collect();
    assert_eq!(outcomes, [None, None, Some(486)]);
    assert_eq!(hits(&daemon, "allocations_per_user"), 1);
    carol(&daemon).allocate().expect("somebody else's share");
    of_alice[0].refresh(0).expect("the end of one");
    of_alice[2].allocate().expect("room again");
    daemon.stop();
}

#[test]
fn one_side_of_a_link_gets_no_more_allocations_than_its_share() {
    let daemon = start("[turn.limits]\nallocations_per_link = 1");
    let mut watcher = Ws::open(daemon.web());
    let welcome = watcher.hello("watcher", "some-room", None);
    let server = &welcome["ice"]["servers"][0];
    let text = |name: &str| server[name].as_str().expect("a text").to_owned();
    let client = || Client::new(daemon.turn(), &text("username"), &text("credential"));
    let (mut first, mut second) = (client(), client());
    first.allocate().expect("an allocation");
    assert_eq!(second.allocate(), Err(486));
    assert_eq!(hits(&daemon, "allocations_per_link"), 1);
    daemon.stop();
}

#[test]
fn all_together_get_no_more_allocations_than_there_are() {
    let daemon = start("[turn.limits]\nallocations = 1");
    let (mut first, mut second) = (alice(&daemon), carol(&daemon));
    first.allocate().expect("an allocation");
    assert_eq!(second.allocate(), Err(508));
    assert_eq!(hits(&daemon, "allocations"), 1);
    first.refresh(0).expect("the end");
    second.allocate().expect("room again");
    daemon.stop();
}

#[test]
fn an_allocation_gets_no_more_permissions_channels_and_new_peers_than_its_share() {
    for (key, limit) in [
        ("permissions_per_allocation = 2", "permissions_per_allocation"),
        ("new_peers_per_min = 2", "new_peers"),
    ] {
        let daemon = start(&format!("[turn.limits]\n{key}"));
        let mut client = alice(&daemon);
        client.allocate().expect("an allocation");
        assert_eq!(client.permit(&peers(3)), Err(508), "{key}");
        client.permit(&peers(2)).expect("two are allowed");
        assert_eq!(client.permit(&peers(3)), Err(508), "{key}");
        client.permit(&peers(2)).expect("the same two are not new");
        assert_eq!(hits(&daemon, limit), 2, "{key}");
        daemon.stop();
    }
    let daemon = start("[turn.limits]\nchannels_per_allocation = 1");
    let mut client = alice(&daemon);
    client.allocate().expect("an allocation");
    client.bind_channel(0x4000, peers(1)[0]).expect("a channel");
    assert_eq!(client.bind_channel(0x4001, peers(2)[1]), Err(508));
    client.bind_channel(0x4000, peers(1)[0]).expect("the same channel again");
    assert_eq!(hits(&daemon, "channels_per_allocation"), 1);
    daemon.stop();
}

#[test]
fn a_lifetime_is_cut_and_the_allocation_ends_with_it() {
    let daemon = start("[turn.limits]\nlifetime_secs_max = 1");
    let mut client = alice(&daemon);
    let answer = client.allocate_with(&[(ATTR_LIFETIME, &[0, 0, 2, 88])]).expect("an allocation");
    assert_eq!(answer.get(ATTR_LIFETIME).expect("a lifetime"), [0, 0, 0, 1]);
    assert_eq!(hits(&daemon, "lifetime"), 1);
    client.refresh(600).expect("another second");
    assert_eq!(hits(&daemon, "lifetime"), 2);
    daemon.wait_for_metric("turncast_allocations", 0);
    assert_eq!(client.refresh(600), Err(437));
    daemon.stop();
}

#[test]
fn a_nonce_gets_stale() {
    let daemon = start("[turn.limits]\nnonce_secs = 1");
    let mut client = alice(&daemon);
    client.allocate().expect("an allocation");
    let stale = "turncast_turn_refused_total{method=\"refresh\",code=\"438\"}";
    let begin = Instant::now();
    while daemon.metric(stale) == 0 {
        // The client takes the new nonce and asks again.
        client.refresh(600).expect("a longer life");
        assert!(begin.elapsed() < DEADLINE, "the nonce is good for ever");
    }
    daemon.stop();
}

#[test]
fn bandwidth_is_cut_per_allocation_per_user_and_in_all() {
    for (scope, limit, others) in [
        ("bandwidth_per_allocation_bytes_per_sec = 1000", "bandwidth_per_allocation", [true, true]),
        ("bandwidth_per_user_bytes_per_sec = 1000", "bandwidth_per_user", [false, true]),
        ("bandwidth_bytes_per_sec = 1000", "bandwidth", [false, false]),
    ] {
        let daemon = start(&format!("[turn.limits]\n{scope}"));
        let peer = UdpSocket::bind("127.0.0.3:0").expect("a peer");
        peer.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let to = peer.local_addr().expect("bound");
        let mut clients = [alice(&daemon), alice(&daemon), carol(&daemon)];
        for client in &mut clients {
            client.allocate().expect("an allocation");
            client.permit(&[to]).expect("a permission");
        }
        // The bucket holds 65,536 bytes: the first datagram passes, the second does not.
        let send = |client: &Client| client.send_indication(to, &[7; 40_000]);
        let passes = || peer.recv_from(&mut [0; 65_535]).expect("relayed").0 == 40_000;
        send(&clients[0]);
        assert!(passes());
        send(&clients[0]);
        // Its answer comes after the datagram was handled.
        clients[0].bind();
        assert_eq!(hits(&daemon, limit), 1, "{scope}");
        for (client, passes_too) in clients[1..].iter_mut().zip(others) {
            let before = hits(&daemon, limit);
            send(client);
            client.bind();
            assert_eq!(hits(&daemon, limit) == before, passes_too, "{scope}");
            assert!(!passes_too || passes(), "{scope}");
        }
        daemon.stop();
    }
}

#[test]
fn strangers_of_one_prefix_get_no_more_answers_than_their_share() {
    let test = "limits::strangers_of_one_prefix_get_no_more_answers_than_their_share";
    let network = "ip link set lo up && ip address add 203.0.113.10/32 dev lo";
    if !in_network(test, network) {
        return;
    }
    let limits = "[turn.limits]\nunauthenticated_per_prefix_per_sec = 1\nunauthenticated_burst = 5";
    let request = [0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
    for transport in ["udp", "tcp"] {
        let daemon = Setup::new(&format!("{CONFIG}{limits}\n"))
            .variable("TURNCAST__TURN__LISTEN", &format!("{transport}://203.0.113.10:0"))
            .start();
        let server = daemon.turn_over(transport);
        let (mut client, send): (Client, Box<dyn Fn() -> std::io::Result<usize>>) =
            if transport == "udp" {
                let socket = UdpSocket::bind("203.0.113.10:0").expect("a client socket");
                let same = socket.try_clone().expect("the same socket");
                let client = Client::with(socket, server, "alice", "password-of-alice-1");
                (client, Box::new(move || same.send(&request)))
            } else {
                let stream = connect(server);
                let same = stream.try_clone().expect("the same stream");
                let client = Client::over(stream, server, "alice", "password-of-alice-1");
                (client, Box::new(move || (&same).write(&request)))
            };
        let begin = Instant::now();
        for _ in 0..5 {
            client.bind();
        }
        while hits(&daemon, "unauthenticated") == 0 {
            assert!(begin.elapsed() < DEADLINE, "everything is answered over {transport}");
            assert_eq!(send().expect("a send"), request.len());
        }
        daemon.stop();
    }
}
