//! Packets between two clients of the same relay, which never leave the process.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use turncast::credentials::RoomTag;
use turncast::metrics::{DropReason, Shortcut};
use turncast::net::Now;
use turncast::relay::Options;

use super::client::{Client, Relayed};
use super::headers::{OWN_NETWORK, Wire, set_class};
use super::{Fixture, engine, pattern, wait_until};
use crate::harness::{Setup, in_network};
use crate::streams::connect;

/// The packets that each client sends to each other in one go.
const BURST: u16 = 16;

fn shortcuts(fixture: &Fixture, between: Shortcut) -> u64 {
    fixture.counter(&format!("shortcut_packets_total{{between=\"{}\"}}", between.text()))
}

/// Gives each client an allocation; the relayed addresses.
fn allocate(clients: &mut [Client]) -> Vec<SocketAddr> {
    clients.iter_mut().map(|client| client.allocate().expect("an allocation")).collect()
}

/// Each client sends to each, by indication first and through channels then, and hears all of it
/// in order; how many packets that were.
fn talk(clients: &mut [Client]) -> u64 {
    let relayed = allocate(clients);
    for client in clients.iter_mut() {
        client.permit(&relayed).expect("permissions");
    }
    let mut count = 0;
    for bound in [false, true] {
        if bound {
            for client in clients.iter_mut() {
                for (number, peer) in (0x4000..).zip(&relayed) {
                    client.bind_channel(number, *peer).expect("a channel");
                }
            }
        }
        for from in 0..clients.len() {
            for to in (0..clients.len()).filter(|to| *to != from) {
                for len in 0..BURST {
                    let payload = pattern(usize::from(len) * 80 + usize::from(len == 9) * 4_000);
                    match bound {
                        false => clients[from].send_indication(relayed[to], &payload),
                        true => clients[from].send_channel(0x4000 + to as u16, &payload),
                    }
                }
                for len in 0..BURST {
                    let payload = pattern(usize::from(len) * 80 + usize::from(len == 9) * 4_000);
                    let expected = match bound {
                        false => Relayed::Indication(relayed[from], payload),
                        true => Relayed::Channel(0x4000 + from as u16, payload),
                    };
                    assert_eq!(clients[to].receive(), expected, "{from} to {to}");
                }
                count += u64::from(BURST);
            }
        }
    }
    count
}

#[test]
fn all_packets_between_clients_of_one_worker_stay_there() {
    let fixture = Fixture::start(&["127.0.0.1:0"], 1);
    let mut clients: Vec<Client> = (0..4).map(|_| fixture.client()).collect();
    let count = talk(&mut clients);
    let ways = [Shortcut::SameWorker, Shortcut::OtherWorker, Shortcut::Stream];
    assert_eq!(ways.map(|way| shortcuts(&fixture, way)), [count, 0, 0]);
    for direction in ["to_peer", "to_client"] {
        let name = format!("relayed_packets_total{{direction=\"{direction}\"}}");
        assert_eq!(fixture.counter(&name), count);
    }
}

#[test]
fn packets_between_four_workers_keep_their_order_and_none_is_lost() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let fixture = Fixture::start(&[listen], 4);
        let mut clients: Vec<Client> = (0..12).map(|_| fixture.client()).collect();
        let count = talk(&mut clients);
        let same = shortcuts(&fixture, Shortcut::SameWorker);
        let other = shortcuts(&fixture, Shortcut::OtherWorker);
        // Of twelve clients two share a worker, and the kernel hardly gives all of them to one.
        assert!(same > 0 && other > 0, "{same} and {other}");
        assert_eq!(same + other, count);
        assert_eq!(fixture.dropped(DropReason::MailboxFull), 0);
    }
}

#[test]
fn clients_over_tcp_and_udp_reach_each_other_by_no_socket() {
    for workers in [1, 4] {
        let config = format!(
            "[turn]\nworkers = {workers}\n\
             users = [{{ name = \"alice\", password = \"password-of-alice-1\" }}]\n"
        );
        let daemon = Setup::new(&config).start();
        let (by_udp, by_tcp) = (daemon.turn(), daemon.turn_over("tcp"));
        let (name, password) = ("alice", "password-of-alice-1");
        let mut clients = vec![
            Client::new(by_udp, name, password),
            Client::over(connect(by_tcp), by_tcp, name, password),
            Client::over(connect(by_tcp), by_tcp, name, password),
            Client::new(by_udp, name, password),
        ];
        let count = talk(&mut clients);
        let ways = Shortcut::ALL.iter().map(|way| {
            let label = format!("{{between=\"{}\"}}", way.text());
            daemon.metric(&format!("turncast_shortcut_packets_total{label}"))
        });
        let ways: Vec<u64> = ways.collect();
        // Two of the twelve ways are between the clients over UDP.
        assert_eq!((ways[0] + ways[1], ways[2]), (count / 6, count / 6 * 5), "{ways:?}");
        let full = "turncast_turn_dropped_total{reason=\"mailbox_full\"}";
        assert_eq!(daemon.metric(full), 0);
        // A client that comes back has a place that another had; nothing of that is left.
        drop(clients);
        daemon.wait_for_metric("turncast_turn_connections", 0);
        let mut clients = vec![
            Client::over(connect(by_tcp), by_tcp, name, password),
            Client::new(by_udp, name, password),
        ];
        talk(&mut clients);
        daemon.stop();
    }
}

#[test]
fn no_packet_between_clients_is_on_a_wire_and_each_keeps_its_class() {
    let test = "relay::shortcut::no_packet_between_clients_is_on_a_wire_and_each_keeps_its_class";
    if !in_network(test, OWN_NETWORK) {
        return;
    }
    for workers in [1, 4] {
        let fixture = Fixture::start(&["127.0.0.1:0"], workers);
        let mut clients: Vec<Client> = (0..6).map(|_| fixture.client()).collect();
        let relayed = allocate(&mut clients);
        for client in &mut clients {
            client.permit(&relayed).expect("permissions");
        }
        // All relayed addresses have the same IP address: one of them sees the packets to it.
        let mut wires: Vec<Wire> = relayed.iter().map(|relayed| Wire::to(*relayed)).collect();
        let here = clients[1].socket.local_addr().expect("bound");
        let mut to_client = Wire::to(here);
        for from in [0, 2, 3, 4, 5] {
            for class in [0xB8, 0x02, 0x03, 0xFF, 0x00] {
                set_class(&clients[from].socket, class);
                clients[from].send_indication(relayed[1], b"inside");
                let expected = Relayed::Indication(relayed[from], b"inside".to_vec());
                assert_eq!(clients[1].receive(), expected);
                assert_eq!(to_client.next().class, class);
            }
        }
        // The first packet that any relay socket could have seen is one from outside.
        let outside = UdpSocket::bind("127.0.0.3:0").expect("a peer");
        for (wire, relayed) in wires.iter_mut().zip(&relayed) {
            outside.send_to(b"outside", relayed).expect("a send");
            assert_eq!(wire.next().payload, b"outside");
        }
        let ways = [Shortcut::SameWorker, Shortcut::OtherWorker];
        assert_eq!(ways.map(|way| shortcuts(&fixture, way)).iter().sum::<u64>(), 25);
    }
}

#[test]
fn a_port_that_is_revoked_under_fire_and_used_again_gets_nothing_of_the_other_room() {
    let mut options = engine();
    options.relay_ports = (50_000, 50_003);
    let mut fixture = Fixture::start_with(&["127.0.0.1:0"], 4, options, Options::default());
    let expiry = Now::read().unix_secs + 300;
    let rooms = [RoomTag::draw(&mut fixture.entropy), RoomTag::draw(&mut fixture.entropy)];
    let mut grant = |room| fixture.grants.issue(room, &mut fixture.entropy);
    let (from, to) = (grant(rooms[0]), grant(rooms[0]));
    let stranger = grant(rooms[1]);
    let server = fixture.server;
    let credential = |grant| fixture.grants.credential(grant, expiry);
    let client = |grant| {
        let credential = credential(grant);
        Client::new(server, &credential.username, credential.password.expose())
    };
    let mut receiver = client(&to);
    let aim = receiver.allocate().expect("an allocation");
    let done = Arc::new(AtomicBool::new(false));
    let (ends, own) = (Arc::clone(&done), credential(&from));
    let (tell, told) = std::sync::mpsc::channel();
    let fire = std::thread::spawn(move || {
        let mut sender = Client::new(server, &own.username, own.password.expose());
        let relayed = sender.allocate().expect("an allocation");
        sender.permit(&[aim]).expect("a permission");
        tell.send(relayed).expect("somebody waits");
        while !ends.load(Ordering::Relaxed) {
            sender.send_indication(aim, b"secret");
            std::thread::yield_now();
        }
    });
    let from = told.recv().expect("an allocation");
    receiver.permit(&[from]).expect("a permission");
    assert_eq!(receiver.receive(), Relayed::Indication(from, b"secret".to_vec()));
    assert!(fixture.grants.revoke(to.name()));
    fixture.relay.handle().revoke(to.name());
    wait_until("the allocation is gone", || fixture.metrics.allocations() == 1);
    let received = "relayed_packets_total{direction=\"to_client\"}";
    let before = fixture.counter(received);
    // Until one of another room, at any worker, has its port.
    let mut strangers = Vec::new();
    loop {
        let mut next = client(&stranger);
        let relayed = next.allocate().expect("an allocation");
        next.permit(&[from]).expect("a permission");
        strangers.push(next);
        if relayed == aim {
            break;
        }
    }
    let refused = fixture.dropped(DropReason::NotRelayed);
    let more = || fixture.dropped(DropReason::NotRelayed) > refused + 500;
    wait_until("the sender still fires", more);
    done.store(true, Ordering::Relaxed);
    fire.join().expect("it ends");
    assert_eq!(fixture.counter(received), before);
}

/// Sends ChannelData messages in one piece, which the kernel cuts if nobody takes it whole.
fn send_run(client: &Client, number: u16, payloads: impl Iterator<Item = Vec<u8>>) {
    let mut bytes = Vec::new();
    let mut segment = 0;
    for payload in payloads {
        let len = u16::try_from(payload.len()).expect("a payload");
        segment = len + 4;
        bytes.extend([number.to_be_bytes(), len.to_be_bytes()].concat());
        bytes.extend(payload);
    }
    let (socket, control) = (client.socket.as_raw_fd(), [ControlMessage::UdpGsoSegments(&segment)]);
    let bytes = [IoSlice::new(&bytes)];
    sendmsg::<()>(socket, &bytes, &control, MsgFlags::empty(), None).expect("a run is sent");
}

#[test]
fn runs_between_clients_arrive_in_order_within_a_worker_and_between_workers() {
    for workers in [1, 4] {
        let fixture = Fixture::start(&["127.0.0.1:0"], workers);
        let mut clients: Vec<Client> = (0..6).map(|_| fixture.client()).collect();
        let relayed = allocate(&mut clients);
        for client in &mut clients {
            for (number, peer) in (0x4000..).zip(&relayed) {
                client.bind_channel(number, *peer).expect("a channel");
            }
        }
        let mut count = 0;
        for round in 0..20u8 {
            for from in 0..clients.len() {
                let to = (from + 1 + usize::from(round) % 5) % clients.len();
                let payload = |index: u8| [vec![round, index], pattern(998)].concat();
                send_run(&clients[from], 0x4000 + to as u16, (0..16).map(payload));
                for index in 0..16 {
                    let expected = Relayed::Channel(0x4000 + from as u16, payload(index));
                    assert_eq!(clients[to].receive(), expected, "{from} to {to}");
                }
                count += 16;
            }
        }
        let ways = [Shortcut::SameWorker, Shortcut::OtherWorker];
        assert_eq!(ways.map(|way| shortcuts(&fixture, way)).iter().sum::<u64>(), count);
        // The listeners have learned that runs come.
        for run in ["merged", "segmented"] {
            let packets = fixture.counter(&format!("udp_run_packets_total{{run=\"{run}\"}}"));
            assert!(packets > 0 || workers > 1, "none is {run}");
        }
        // One way is closed: each packet of a run is refused by itself.
        let name = "turn_dropped_total{reason=\"not_relayed\"}";
        clients[1].refresh(0).expect("the end");
        send_run(&clients[0], 0x4001, (0..16).map(|_| pattern(1000)));
        wait_until("all are refused", || fixture.counter(name) == 16);
    }
}
