//! A whole client that nobody here wrote, `turn-client-proto`, against the engine in memory, for
//! eighty minutes of virtual time. [`super::oracle`] looks closer at authentication.

use std::net::SocketAddr;
use std::time::Duration;

use turn_client_proto::api::{TransmitBuild, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::prelude::{DelayedTransmitBuild as _, TurnClientApi as _};
use turn_client_proto::stun::Instant;
use turn_client_proto::stun::agent::Transmit;
use turn_client_proto::stun::auth::Feature;
use turn_client_proto::stun::types::TransportType;
use turn_client_proto::stun::types::message::IntegrityAlgorithm;
use turn_client_proto::types::TurnCredentials;
use turn_client_proto::udp::TurnClientUdp;

use super::bench::{Bench, Holds, START_UNIX_SECS, five_tuple, options};
use crate::stun::{Class, Integrity, Message, attr};
use crate::turn::Verdict;

const PEER: &str = "9.9.9.9:9";

/// Their client and our engine, joined by a wire that keeps what goes over it.
struct Call {
    bench: Bench,
    client: TurnClientUdp,
    address: SocketAddr,
    now: Instant,
    requests: Vec<Vec<u8>>,
    answers: Vec<Vec<u8>>,
    to_peer: Vec<Vec<u8>>,
    events: Vec<TurnEvent>,
}

impl Call {
    fn new(bench: Bench, holds: &Holds, integrity: &[IntegrityAlgorithm], hide: Feature) -> Self {
        let address: SocketAddr = "198.51.100.1:40001".parse().expect("an address");
        let credentials = TurnCredentials::new(&holds.username, &holds.password);
        let mut config = TurnConfig::new(credentials);
        config.set_supported_integrity(integrity[0]);
        for more in &integrity[1..] {
            config.add_supported_integrity(*more);
        }
        config.set_anonymous_username(hide);
        let client = TurnClientUdp::allocate(address, five_tuple(address).server, config);
        let now = Instant::ZERO;
        let (requests, answers) = (Vec::new(), Vec::new());
        let (to_peer, events) = (Vec::new(), Vec::new());
        Self { bench, client, address, now, requests, answers, to_peer, events }
    }

    /// Carries datagrams both ways until neither side has more to say.
    fn run(&mut self) {
        for _ in 0..100 {
            while let Some(event) = self.client.poll_event() {
                self.events.push(event);
            }
            let TurnPollRet::WaitUntil(at) = self.client.poll(self.now) else {
                panic!("the client ended");
            };
            if let Some(sent) = self.client.poll_transmit(self.now) {
                self.carry(&sent.data);
                continue;
            }
            // It paces its requests; what it waits longer for is a refresh.
            let pause = at.duration_since(self.now);
            if pause > Duration::from_secs(1) {
                return;
            }
            self.bench.now = self.bench.now.after(pause);
            self.now = at;
        }
        panic!("the two never come to an end: {:?}", self.bench.server.marks);
    }

    fn carry(&mut self, datagram: &[u8]) {
        if Message::parse(datagram).is_ok_and(|message| message.class() == Class::Request) {
            self.requests.push(datagram.to_vec());
        }
        let (verdict, answers) = self.bench.client(self.address, datagram);
        if let Verdict::ToPeer { payload, .. } = verdict {
            self.to_peer.push(datagram[payload].to_vec());
        }
        for answer in answers {
            self.answers.push(answer.clone());
            assert!(matches!(self.receive(answer), TurnRecvRet::Handled));
        }
    }

    fn receive(&mut self, data: Vec<u8>) -> TurnRecvRet<Vec<u8>> {
        let from = five_tuple(self.address).server;
        let transport = TransportType::Udp;
        self.client.recv(Transmit { data, transport, from, to: self.address }, self.now)
    }

    fn wait(&mut self, secs: u64) {
        self.bench.wait(secs);
        self.now = self.now.checked_add(Duration::from_secs(secs)).expect("a later time");
        self.run();
    }

    fn relayed(&self) -> SocketAddr {
        let mut relayed = self.client.relayed_addresses();
        relayed.next().expect("a relayed address, as the client knows it").1
    }

    /// A whole call: allocate, permit, send both ways, refresh with a nonce too old, delete.
    fn talk(&mut self) {
        self.run();
        let relayed = self.relayed();
        let created = &self.events[..];
        assert!(matches!(created, [TurnEvent::AllocationCreated(_, found)] if *found == relayed));

        let peer: SocketAddr = PEER.parse().expect("an address");
        let udp = TransportType::Udp;
        self.client.create_permission(udp, peer.ip(), self.now).expect("a permission");
        self.run();
        assert!(self.client.have_permission(udp, peer.ip()));
        self.client.bind_channel(udp, peer, self.now).expect("a channel");
        self.run();

        let sent = self.client.send_to(udp, peer, b"to the peer", self.now).expect("a packet");
        let sent: TransmitBuild<_> = sent.expect("one to send");
        self.carry(&sent.data.build());
        assert_eq!(self.to_peer, [b"to the peer"]);
        let relay = self.bench.server.relay_of(&five_tuple(self.address)).expect("an allocation");
        let packet = self.bench.peer(relay, peer, b"to the client").expect("a packet");
        let TurnRecvRet::PeerData(received) = self.receive(packet) else {
            panic!("the client does not know a packet of its peer");
        };
        assert_eq!((received.data(), received.peer), (&b"to the client"[..], peer));

        // Eighty minutes of refreshes, and then a nonce that is too old: 438, and on it goes.
        for _ in 0..80 {
            self.wait(60);
        }
        assert_eq!(self.relayed(), relayed);
        assert!(self.has_answer(438));
        self.client.delete(self.now).expect("a deletion");
        // It does not wait for the answer to that.
        for _ in 0..10 {
            self.now = self.now.checked_add(Duration::from_secs(1)).expect("a later time");
            if let Some(sent) = self.client.poll_transmit(self.now) {
                self.bench.client(self.address, &sent.data);
            }
        }
        assert_eq!(self.bench.server.allocations(), 0);
    }

    fn has_answer(&self, code: u16) -> bool {
        let wanted = [0, 0, (code / 100) as u8, (code % 100) as u8];
        let found = |bytes: &Vec<u8>| {
            let message = Message::parse(bytes).expect("an answer");
            message.first(attr::ERROR_CODE).is_some_and(|value| value.starts_with(&wanted))
        };
        self.answers.iter().any(found)
    }

    /// Every request that claims a name: by which attribute, and under which integrity.
    fn claims(&self) -> Vec<(bool, Integrity)> {
        let requests = self.requests.iter().map(|bytes| Message::parse(bytes).expect("a request"));
        let claims = requests.filter_map(|message| {
            let integrity = message.integrity()?;
            let hidden = message.first(attr::USERHASH).is_some();
            assert_ne!(hidden, message.first(attr::USERNAME).is_some());
            Some((hidden, integrity))
        });
        claims.collect()
    }
}

#[test]
fn a_client_of_rfc_8489_talks_with_sha256_and_a_hidden_name() {
    let bench = Bench::new(options(), 1);
    let alice = bench.fixed("alice");
    let both = [IntegrityAlgorithm::Sha1, IntegrityAlgorithm::Sha256];
    let mut call = Call::new(bench, &alice, &both, Feature::Required);
    call.talk();
    assert!(call.claims().iter().all(|claim| *claim == (true, Integrity::Sha256)));
    assert!(call.claims().len() > 10);
}

#[test]
fn a_client_that_hides_nothing_talks_with_sha256() {
    let bench = Bench::new(options(), 1);
    let alice = bench.fixed("alice");
    let mut call = Call::new(bench, &alice, &[IntegrityAlgorithm::Sha256], Feature::Disabled);
    call.talk();
    assert!(call.claims().iter().all(|claim| *claim == (false, Integrity::Sha256)));
}

#[test]
fn a_name_of_the_hub_is_hidden_when_fixed_users_ask_for_it() {
    let mut bench = Bench::new(options(), 1);
    let grant = bench.grant("one", "red");
    grant.allow(PEER.parse::<SocketAddr>().expect("an address").ip()).expect("room in the scope");
    let holds = bench.granted("one", START_UNIX_SECS + 300);
    let mut call = Call::new(bench, &holds, &[IntegrityAlgorithm::Sha256], Feature::Auto);
    call.talk();
    assert!(call.claims().iter().all(|claim| *claim == (true, Integrity::Sha256)));
}

#[test]
fn a_name_of_a_shared_secret_goes_in_the_open_when_nobody_asks() {
    let mut options = options();
    options.users.clear();
    let bench = Bench::new(options, 1);
    let username = format!("{}:carol", START_UNIX_SECS + 300);
    let mut passwords = bench.shared.options().shared_secrets.passwords(&username);
    let password = passwords.next().expect("a secret").expose().clone();
    drop(passwords);
    let holds = Holds { username, password };
    let mut call = Call::new(bench, &holds, &[IntegrityAlgorithm::Sha256], Feature::Auto);
    call.talk();
    assert!(call.claims().iter().all(|claim| *claim == (false, Integrity::Sha256)));
}
