//! What an idle allocation holds, and what a stranger does.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use super::{Cell, Runner, Sample};
use crate::client::{self, Client};
use crate::report::Goal;
use crate::target::{Target, Transport};
use crate::wire::Out;

const TARGETS: &[&str] = &["turncast", "coturn"];

/// Allocations, each with a permission and a channel.
const ALLOCATIONS: usize = 2000;
/// Sources that ask without a credential.
const STRANGERS: usize = 5000;

pub(super) fn cell() -> Cell {
    let cell = Cell::new("memory of an idle allocation", TARGETS, prepare)
        .goal(Goal::most("KiB", 4.0))
        .goal(Goal::most("B per stranger", 1.0))
        .quick();
    // It adds up within one process and does not scatter.
    Cell { runs_max: 1, ..cell }
}

fn prepare(target: &Target) -> Runner {
    // What the first ones cost is not theirs alone: pools and buffers are made then.
    let mut kept: Vec<Client> = (0..64).map(|_| one(target)).collect();
    Box::new(move |target, _| {
        strangers(target, 64);
        let start = target.resident_bytes();
        strangers(target, STRANGERS);
        let after_strangers = target.resident_bytes();
        kept.extend((0..ALLOCATIONS).map(|_| one(target)));
        // Until what was freed late is free.
        std::thread::sleep(Duration::from_millis(200));
        let end = target.resident_bytes();
        let each = |bytes: u64, count: usize| bytes as f64 / count as f64;
        Sample::from([
            ("KiB", each(end.saturating_sub(after_strangers), ALLOCATIONS) / 1024.0),
            ("B per stranger", each(after_strangers.saturating_sub(start), STRANGERS)),
            ("MiB before", each(start, 1 << 20)),
        ])
    })
}

fn one(target: &Target) -> Client {
    let mut client = target.client(Transport::Udp);
    client.bind(SocketAddrV4::new(crate::target::PEER, 9));
    client
}

/// Sources that are challenged and then say nothing more.
fn strangers(target: &Target, count: usize) {
    for _ in 0..count {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        socket.connect(target.udp()).expect("a route");
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a deadline");
        client::ask(&socket, &Out::allocate().0);
    }
}
