//! Listeners that nobody has set follow `public_host`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::keys::Config;
use super::load::Findings;
use super::values::{Host, List, TurnListen, TurnScheme};
use crate::net::has_ipv6;

/// Moves the listeners of pages and relay that nobody has set to where the world reaches them, if
/// `public_host` says that it shall. The operator's listener never moves.
pub(super) fn follow_public_host(config: &mut Config, findings: &Findings) {
    let Host::Is(name) = &config.public_host else { return };
    let is_here =
        name.ip().map_or(name.text() == "localhost", |ip| ip.to_canonical().is_loopback());
    if is_here {
        return;
    }
    if !findings.is_set("web.listen") {
        config.web.listen = List(everywhere(&[443, 80]).collect());
        if !config.is_https() {
            config.web.listen = List(everywhere(&[80]).collect());
        }
    }
    if !findings.is_set("turn.listen") {
        let udp_too =
            everywhere(&[443]).map(|address| TurnListen { scheme: Some(TurnScheme::Udp), address });
        let usual = everywhere(&[3478]).map(|address| TurnListen { scheme: None, address });
        config.turn.listen = List(usual.chain(udp_too).collect());
    }
}

/// Each of the ports on every address of both families, as far as this machine has them.
fn everywhere(ports: &'static [u16]) -> impl Iterator<Item = SocketAddr> {
    let v6 = has_ipv6().then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    ports.iter().flat_map(move |port| {
        let v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        v6.into_iter().chain([v4]).map(|ip| SocketAddr::new(ip, *port))
    })
}
