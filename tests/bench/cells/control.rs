//! Requests: Binding, and allocations with all that belongs to them.

use std::net::UdpSocket;

use super::{COST, Cell, Runner, WINDOW, measure};
use crate::client::{self, Account, Credential};
use crate::load::{Shape, Sinks, Source, Sources};
use crate::report::Goal;
use crate::target::{Target, Transport};
use crate::wire::{self, In, Out};

const SERVERS: &[&str] = &["turncast", "coturn", "server"];

pub(super) fn cells() -> [Cell; 2] {
    let binding = Cell::new("Binding x 50", SERVERS, binding);
    let allocation = Cell::new("allocation cycle", SERVERS, allocation);
    [
        binding.goal(Goal::ratio(COST, &["coturn"], 1.3)).quick(),
        allocation.goal(Goal::most(COST, 30.0)).goal(Goal::ratio(COST, &["coturn"], 7.0)).quick(),
    ]
}

fn binding(target: &Target) -> Runner {
    let clients: Vec<UdpSocket> = (0..50).map(|_| client::socket(target.udp())).collect();
    let request = Out::request(wire::BINDING).0;
    let size = client::ask(&clients[0], &request).len();
    let source = |client: &UdpSocket| Source::connected(client, request.clone());
    let shape = Shape { burst: 1, merged: false };
    let mut sources = Sources::new(clients.iter().map(source).collect(), shape);
    let mut sinks = Sinks::new(clients.iter(), size);
    Box::new(move |target, length| {
        measure(target, length, WINDOW, || sources.send_next(), || sinks.count())
    })
}

/// Where a client stands.
enum Step {
    Challenge,
    Allocate(Account),
    Refresh,
}

/// One after the other, each with a socket of its own, so that no server meets an allocation that
/// it has not forgotten yet.
struct Allocating {
    socket: UdpSocket,
    step: Step,
}

impl Allocating {
    fn start(target: &Target) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(target.udp()).expect("a route");
        socket.set_nonblocking(true).expect("a socket that does not block");
        socket.send(&Out::allocate().0).expect("a request");
        Self { socket, step: Step::Challenge }
    }

    /// Goes on if an answer is there; whether that was the last one. A port may come again while
    /// the allocation lives that somebody had there at the end of a run; then another is taken.
    fn go_on(&mut self, target: &Target, credential: &Credential) -> bool {
        let mut buffer = [0; 1024];
        let Ok(len) = self.socket.recv(&mut buffer) else { return false };
        let answer = In::read(&buffer[..len]);
        if answer.code() == 437 {
            *self = Self::start(target);
            return false;
        }
        let request = match &self.step {
            Step::Challenge => {
                assert_eq!(answer.code(), 401, "Allocate without a credential");
                let account = Account::challenged(credential, &answer);
                let request = account.sign(Out::allocate());
                self.step = Step::Allocate(account);
                request
            }
            Step::Allocate(account) => {
                assert_eq!(answer.code(), 0, "Allocate");
                let request = account.sign(Out::refresh(0));
                self.step = Step::Refresh;
                request
            }
            Step::Refresh => {
                assert!(answer.is(wire::SUCCESS, wire::REFRESH), "Refresh: {}", answer.code());
                return true;
            }
        };
        self.socket.send(&request).expect("a request");
        false
    }
}

fn allocation(target: &Target) -> Runner {
    let credential = target.credential.clone().expect("a TURN server");
    // The answers are right before their cost counts.
    drop(target.client(Transport::Udp));
    Box::new(move |target, length| {
        let running = std::cell::RefCell::new(Vec::<Allocating>::new());
        let send = || {
            running.borrow_mut().push(Allocating::start(target));
            1
        };
        let take = || {
            let mut running = running.borrow_mut();
            let before = running.len();
            running.retain_mut(|one| !one.go_on(target, &credential));
            (before - running.len()) as u64
        };
        measure(target, length, CLIENTS, send, take)
    })
}

/// Clients that allocate at a time.
const CLIENTS: u64 = 32;
