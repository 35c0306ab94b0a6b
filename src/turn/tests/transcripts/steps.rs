//! The steps of a transcript, and the work that the engine asks for.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::Script;
use crate::stun::{Message, attr};
use crate::turn::tests::bench::bind_failure;
use crate::turn::tests::words::{describe, payload, sent, show, way};
use crate::turn::{
    Action, Actions, FiveTuple, HEADROOM, HeldSocket, Icmp, RelayId, TAILROOM, Verdict,
};

impl Script {
    pub(super) fn step(&mut self, words: &[&str], out: &mut String) {
        let mut actions = Actions::new();
        match *words {
            _ if self.tcp_step(words, &mut actions) => {}
            ["wait", secs] => self.bench().wait(secs.parse().expect("seconds")),
            ["sweep"] => {
                let bench = self.bench();
                bench.server.handle_timeout(bench.now, &mut actions);
            }
            ["revoke", name] => {
                let bench = self.bench();
                let name = bench.grants[name].name().clone();
                bench.shared.grants.revoke(&name);
                bench.server.revoke(&name, &mut actions);
            }
            ["host", ref addresses @ ..] => {
                let now: Vec<_> =
                    addresses.iter().map(|ip| ip.parse().expect("an address")).collect();
                self.bench().shared.set_host_addresses(&now);
            }
            ["judge"] => self.bench().server.judge_again(),
            ["close"] => self.bench().server.close_all(&mut actions),
            ["release"] => self.bench().server.release_reservations(),
            ["bound", result] => {
                let (relay, held) = self.to_bind.pop_front().expect("a bind is pending");
                let bench = self.bench();
                let (now, result) = (bench.now, bind_failure(result));
                match held {
                    None => bench.server.bound(now, relay, result, &mut actions),
                    Some(local) => {
                        let held = result.map(|()| HeldSocket::new(local));
                        bench.server.reserved(now, relay, held, &mut actions);
                    }
                }
            }
            ["icmp", peer, "to", name, ref numbers @ ..] => {
                self.icmp(peer, name, numbers, &mut actions);
            }
            ["peer", peer, "to", name, text] => self.peer(peer, name, text, false, out),
            ["peer6", peer, "to", name, text] => self.peer(peer, name, text, true, out),
            [name, ref rest @ ..] => {
                let datagram = self.datagram(name, rest);
                let client = self.clients.get_mut(name).expect("a client");
                client.last.clone_from(&datagram);
                let from = sent(rest, client.five_tuple);
                let bench = self.bench();
                let now = bench.now;
                let verdict = bench.server.handle_client(now, from, &datagram, &mut actions);
                match verdict {
                    Verdict::Done => {}
                    Verdict::ToPeer { peer, payload, dont_fragment, .. } => {
                        let payload = show(&datagram[payload]);
                        let whole = if dont_fragment { " unfragmented" } else { "" };
                        writeln!(out, "< to {peer} {payload}{whole}").expect("a string takes all");
                    }
                    Verdict::ToEngine { .. } => panic!("an engine without a name"),
                    Verdict::ToClient { .. } => panic!("a client's packet went to a client"),
                }
            }
            [] => panic!("an empty step"),
        }
        self.work(actions, out);
        self.tcp_ends(out);
    }

    fn work(&mut self, actions: Actions, out: &mut String) {
        let mut more = Actions::new();
        for action in actions {
            match action {
                Action::Answer { five_tuple: taken, bytes } => {
                    let message = Message::parse(&bytes).expect("a message");
                    if let Some(token) = message.first(attr::RESERVATION_TOKEN) {
                        self.token = token.to_vec();
                    }
                    let to = taken.client;
                    let far = |known: FiveTuple| {
                        let other_ip = known.client.ip() != to.ip();
                        (known.client != to, known.transport != taken.transport, other_ip)
                    };
                    let known = self.clients.iter().min_by_key(|(_, known)| far(known.five_tuple));
                    let (name, client) = known.expect("known");
                    let answer = describe(&bytes, client.key.as_deref());
                    let answer = self.connections.describe(&bytes, answer);
                    let way = way(client.five_tuple, taken);
                    writeln!(out, "< {name} {answer}{way}").expect("a string takes all");
                }
                Action::Bind { relay, local } => {
                    writeln!(out, "< bind {local}").expect("a string takes all");
                    if self.manual_bind {
                        self.to_bind.push_back((relay, None));
                    } else {
                        let bench = self.bench();
                        bench.server.bound(bench.now, relay, Ok(()), &mut more);
                    }
                }
                Action::Reserve { relay, local } => {
                    writeln!(out, "< reserve {local}").expect("a string takes all");
                    if self.manual_bind {
                        self.to_bind.push_back((relay, Some(local)));
                    } else {
                        let bench = self.bench();
                        let held = Ok(HeldSocket::new(local));
                        bench.server.reserved(bench.now, relay, held, &mut more);
                    }
                }
                Action::Adopt { relay, socket } => {
                    let local = socket.into_socket::<SocketAddr>().expect("as it was held");
                    writeln!(out, "< adopt {local}").expect("a string takes all");
                    let bench = self.bench();
                    bench.server.bound(bench.now, relay, Ok(()), &mut more);
                }
                Action::Close { relay } => {
                    let (place, family) = (relay.0 >> 1, relay.0 & 1);
                    let family = if family == 0 { "" } else { " ipv6" };
                    writeln!(out, "< close {place}{family}").expect("a string takes all");
                }
                other => self.tcp_work(other, &mut more, out),
            }
        }
        if !more.is_empty() {
            self.work(more, out);
        }
    }

    fn peer(&mut self, peer: &str, name: &str, text: &str, second: bool, out: &mut String) {
        let payload = payload(text);
        let five_tuple = self.clients[name].five_tuple;
        let peer = peer.parse().expect("an address");
        let bench = self.bench();
        let relay = bench.server.relay_of(&five_tuple).expect("an allocation");
        let relay = if second { RelayId(relay.0 | 1) } else { relay };
        let mut buffer = vec![0xEE; HEADROOM + payload.len() + TAILROOM];
        let range = HEADROOM..HEADROOM + payload.len();
        buffer[range.clone()].copy_from_slice(&payload);
        let verdict = bench.server.handle_peer(bench.now, relay, peer, &mut buffer, range);
        if let Verdict::ToClient { datagram, .. } = verdict {
            let told = describe(&buffer[datagram], None);
            writeln!(out, "< {name} {told}").expect("a string takes all");
        }
    }

    fn icmp(&mut self, peer: &str, name: &str, numbers: &[&str], actions: &mut Actions) {
        let numbers: Vec<u32> = numbers.iter().map(|n| n.parse().expect("a number")).collect();
        let [kind, code, data] = numbers[..] else { panic!("type, code and data") };
        let icmp = Icmp { kind: kind as u8, code: code as u8, data };
        let peer: SocketAddr = peer.parse().expect("an address");
        let five_tuple = self.clients[name].five_tuple;
        let bench = self.bench();
        let relay = bench.server.relay_of(&five_tuple).expect("an allocation");
        let relay = RelayId(relay.0 & !1 | u32::from(peer.is_ipv6()));
        bench.server.handle_icmp(bench.now, relay, peer, icmp, actions);
    }
}
