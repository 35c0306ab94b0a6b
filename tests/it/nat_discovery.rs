//! NAT behaviour discovery (RFC 5780) through real sockets: a client that is bound to no server
//! sees which address each answer leaves from.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use crate::harness::{DEADLINE, Daemon, Setup, text};

/// A1, A2, P1, P2 on loopback, with addresses that nobody else has.
struct Four {
    addresses: [Ipv4Addr; 2],
    ports: [u16; 2],
}

impl Four {
    /// `test` tells the tests of this process apart.
    fn of(test: u8) -> Self {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let address = |last: u8| Ipv4Addr::new(127, 64 | high & 63, low, 2 * test + last);
        let addresses = [address(100), address(101)];
        // Nobody takes these ports of addresses that are ours alone.
        let free = UdpSocket::bind((addresses[0], 0)).expect("a free port");
        let first = free.local_addr().expect("bound").port();
        Self { addresses, ports: [first, first.checked_add(1).unwrap_or(first - 1)] }
    }

    fn at(&self, address: usize, port: usize) -> SocketAddr {
        SocketAddr::from((self.addresses[address], self.ports[port]))
    }

    fn setup(&self, more: &str) -> Setup {
        let config =
            format!("[turn]\nworkers = 2\nnat_discovery = \"{}\"\n{more}", self.at(1, 0).ip());
        Setup::new(&config).variable("TURNCAST__TURN__LISTEN", &self.at(0, 0).to_string())
    }

    fn start(&self) -> Daemon {
        self.setup("").start()
    }
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a client socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    socket
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_be_bytes().to_vec();
    bytes.extend((value.len() as u16).to_be_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn request(method: u16, transaction: u8, attributes: &[u8]) -> Vec<u8> {
    let mut message = method.to_be_bytes().to_vec();
    message.extend((attributes.len() as u16).to_be_bytes());
    message.extend([0x21, 0x12, 0xa4, 0x42]);
    message.extend([transaction; 12]);
    message.extend(attributes);
    message
}

fn change(ip: usize, port: usize) -> Vec<u8> {
    attribute(0x0003, &[0, 0, 0, (ip << 2 | port << 1) as u8])
}

/// The answer with that transaction, and where it came from.
fn receive(socket: &UdpSocket, transaction: u8) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 4096];
    let (len, from) = socket.recv_from(&mut buffer).expect("an answer in time");
    buffer.truncate(len);
    assert_eq!(buffer[8..20], [transaction; 12]);
    (buffer, from)
}

/// The value of an attribute of a message.
fn value(message: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = &message[20..];
    while let [k0, k1, l0, l1, more @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*l0, *l1]));
        if u16::from_be_bytes([*k0, *k1]) == wanted {
            return Some(&more[..len]);
        }
        rest = &more[len.next_multiple_of(4)..];
    }
    None
}

fn address(message: &[u8], kind: u16) -> Option<SocketAddr> {
    let &[0, 1, p0, p1, a, b, c, d] = value(message, kind)? else { panic!("no IPv4 address") };
    Some(SocketAddr::from(([a, b, c, d], u16::from_be_bytes([p0, p1]))))
}

const MAPPED_ADDRESS: u16 = 0x0001;
const RESPONSE_ORIGIN: u16 = 0x802b;
const OTHER_ADDRESS: u16 = 0x802c;

#[test]
fn an_answer_leaves_from_the_address_and_port_that_were_asked_for() {
    let four = Four::of(0);
    let daemon = four.start();
    // Several clients: each of them may be another worker's.
    for _ in 0..4 {
        let client = client();
        let own = client.local_addr().expect("bound");
        for case in 0..16usize {
            let [address_bit, port_bit, ip, port] =
                [8, 4, 2, 1].map(|bit| usize::from(case & bit != 0));
            let message = request(0x0001, case as u8, &change(ip, port));
            client.send_to(&message, four.at(address_bit, port_bit)).expect("sent");
            let (answer, from) = receive(&client, case as u8);
            assert_eq!(from, four.at(address_bit ^ ip, port_bit ^ port), "case {case:04b}");
            assert_eq!(address(&answer, MAPPED_ADDRESS), Some(own));
            assert_eq!(address(&answer, RESPONSE_ORIGIN), Some(from));
            let other = four.at(address_bit ^ 1, port_bit ^ 1);
            assert_eq!(address(&answer, OTHER_ADDRESS), Some(other));
        }
    }
    assert_eq!(daemon.metric("turncast_turn_requests_total{method=\"binding\"}"), 64);
    daemon.stop();
}

#[test]
fn a_response_port_is_one_of_the_host_that_asks() {
    let four = Four::of(1);
    let daemon = four.start();
    let (asks, hears) = (client(), client());
    let own = asks.local_addr().expect("bound");
    let port = hears.local_addr().expect("bound").port().to_be_bytes();
    let response_port = attribute(0x0027, &[port[0], port[1], 0, 0]);
    for (transaction, (ip, other_port)) in [(0, 0), (1, 1)].into_iter().enumerate() {
        let attributes = [response_port.clone(), change(ip, other_port)].concat();
        let message = request(0x0001, transaction as u8, &attributes);
        asks.send_to(&message, four.at(0, 0)).expect("sent");
        let (answer, from) = receive(&hears, transaction as u8);
        assert_eq!(from, four.at(ip, other_port));
        assert_eq!(address(&answer, MAPPED_ADDRESS), Some(own));
    }
    // With PADDING it is refused, and whoever asked hears so.
    let attributes = [response_port, attribute(0x0026, &[0; 1500])].concat();
    asks.send_to(&request(0x0001, 9, &attributes), four.at(0, 0)).expect("sent");
    let (answer, from) = receive(&asks, 9);
    assert_eq!((from, value(&answer, 0x0009)), (four.at(0, 0), Some(&[0, 0, 4, 0][..])));
    daemon.stop();
}

#[test]
fn padding_comes_back_and_makes_no_answer_larger_than_its_request() {
    let four = Four::of(2);
    let daemon = four.start();
    let client = client();
    for (transaction, len) in [0, 48, 1500].into_iter().enumerate() {
        let message = request(0x0001, transaction as u8, &attribute(0x0026, &vec![7; len]));
        client.send_to(&message, four.at(1, 1)).expect("sent");
        let (answer, from) = receive(&client, transaction as u8);
        assert_eq!(from, four.at(1, 1));
        let padding = value(&answer, 0x0026).expect("PADDING");
        assert!(padding.iter().all(|byte| *byte == 0), "nothing of ours leaks");
        assert!(answer.len() <= message.len().max(72), "{} for {}", answer.len(), message.len());
    }
    daemon.stop();
}

#[test]
fn the_second_address_serves_binding_alone() {
    let four = Four::of(3);
    let daemon = four.start();
    let client = client();
    let allocate = request(0x0003, 1, &attribute(0x0019, &[17, 0, 0, 0]));
    let elsewhere = [four.at(0, 1), four.at(1, 0), four.at(1, 1)];
    for server in elsewhere {
        client.send_to(&allocate, server).expect("sent");
    }
    daemon.wait_for_metric("turncast_turn_dropped_total{reason=\"unexpected\"}", 3);
    client.send_to(&allocate, four.at(0, 0)).expect("sent");
    let (answer, from) = receive(&client, 1);
    assert_eq!((from, value(&answer, 0x0009)), (four.at(0, 0), Some(&[0, 0, 4, 1][..])));
    daemon.stop();
}

#[test]
fn without_a_second_address_nothing_is_said_or_done_about_nats() {
    let daemon = Setup::new("").start();
    let client = client();
    client.send_to(&request(0x0001, 1, &[]), daemon.turn()).expect("sent");
    assert_eq!(receive(&client, 1).0.len(), 32);
    for attributes in [change(1, 1), attribute(0x0026, &[0; 4]), attribute(0x0027, &[9, 9, 0, 0])] {
        client.send_to(&request(0x0001, 2, &attributes), daemon.turn()).expect("sent");
        let (answer, from) = receive(&client, 2);
        assert_eq!((from, value(&answer, 0x0009)), (daemon.turn(), Some(&[0, 0, 4, 20][..])));
        assert_eq!(value(&answer, 0x000a), Some(&attributes[..2]));
    }
    daemon.stop();
}

#[test]
fn check_says_what_would_be_bound_and_what_cannot() {
    let four = Four::of(4);
    let report = four.setup("").printed(&["check"]);
    for (address, port) in [(0, 1), (1, 0), (1, 1)] {
        let line =
            format!("  udp://{:<26} NAT discovery only\n", four.at(address, port).to_string());
        assert!(report.contains(&line), "{line:?} is not in:\n{report}");
    }
    let told = format!("{} and {}\n", four.at(0, 0), four.at(1, 1));
    assert!(report.contains(&told), "{told:?} is not in:\n{report}");

    let foreign = Setup::new("[turn]\nnat_discovery = \"198.51.100.9\"\n")
        .variable("TURNCAST__TURN__LISTEN", &four.at(0, 0).to_string());
    let sentence = "turn.nat_discovery: 198.51.100.9 is no address of this host";
    for command in ["check", "run"] {
        let output = foreign.output(&[command]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{command}: {error}");
        assert!(error.contains(&format!("error: {sentence}; behind a NAT write")), "{error}");
    }
}

#[test]
fn a_taken_second_address_is_named() {
    let four = Four::of(5);
    let taken = UdpSocket::bind(four.at(1, 1)).expect("free");
    let output = four.setup("").output(&["run"]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    let sentence = format!("bind udp://{}: Address already in use", four.at(1, 1));
    assert!(error.contains(&sentence), "{error}");
    drop(taken);
    four.start().stop();
}
