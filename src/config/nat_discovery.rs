//! What `turn.nat_discovery` means together with `turn.listen`.

use std::net::SocketAddr;

use super::keys::{Config, Turn};
use super::load::Findings;
use super::problem::Problem;
use super::values::{RelayPair, TurnScheme};

impl Turn {
    /// Where the relay listens over UDP.
    pub fn listens_over_udp(&self) -> impl Iterator<Item = SocketAddr> {
        let udp = self.listen.iter().filter(|l| l.schemes().contains(&TurnScheme::Udp));
        udp.map(|listen| listen.address)
    }

    /// The listener that `second` is the other address to: the first of its family.
    pub fn discovery_listener(&self, second: &RelayPair) -> Option<SocketAddr> {
        self.listens_over_udp().find(|address| address.is_ipv4() == second.local.is_ipv4())
    }

    /// The two ports that NAT behaviour discovery uses with `listener`.
    pub fn discovery_ports(&self, listener: SocketAddr) -> [u16; 2] {
        let first = listener.port();
        let next = || first.checked_add(1).unwrap_or(first - 1);
        // The key's bound is that of a port.
        let second = u16::try_from(self.nat_discovery_port).unwrap_or_default();
        [first, if second == 0 { next() } else { second }]
    }
}

/// Checks what needs no look at this host.
pub(super) fn check(config: &Config, findings: &mut Findings) {
    let turn = &config.turn;
    for second in &*turn.nat_discovery {
        let listener = match listener(turn, second) {
            Ok(listener) => listener,
            Err((title, help)) => {
                findings.refuse("turn.nat_discovery", Problem::new(title).help(help));
                return;
            }
        };
        let [first, port] = turn.discovery_ports(listener);
        let relayed = turn.relay_ports.first..=turn.relay_ports.last;
        if port == first {
            let problem = Problem::new(format!("{port} is the port of turn.listen already"));
            findings.refuse("turn.nat_discovery_port", problem.help("name another port, or 0"));
        } else if relayed.contains(&port) {
            let title = format!("port {port} of NAT behaviour discovery is one of them");
            findings.warn("turn.relay_ports", Problem::new(title).help("keep the two apart"));
        }
    }
    if turn.nat_discovery_port != 0 && turn.nat_discovery.is_empty() {
        let problem = Problem::new("it means nothing without turn.nat_discovery");
        findings.warn("turn.nat_discovery_port", problem);
    }
}

/// The listener of `second`, or what is wrong and what to do.
fn listener(turn: &Turn, second: &RelayPair) -> Result<SocketAddr, (String, &'static str)> {
    let own = second.local;
    let family = if own.is_ipv4() { "IPv4" } else { "IPv6" };
    let alike = turn.nat_discovery.iter().filter(|pair| pair.local.is_ipv4() == own.is_ipv4());
    if alike.count() > 1 {
        return Err((format!("more than one address of {family}"), "one of each family is enough"));
    }
    let Some(listener) = turn.discovery_listener(second) else {
        let title = format!("the relay does not listen over UDP on {family}");
        return Err((title, "add such an address to turn.listen"));
    };
    if listener.port() == 0 {
        let title = format!("{listener} takes a port that is not known before");
        return Err((title, "name a port in turn.listen"));
    }
    if listener.ip().to_canonical() == own {
        let title = format!("{own} is the address listened on already");
        return Err((title, "name another address of this host"));
    }
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_says, mistake, parse, warnings};

    fn text(listen: &str, more: &str) -> String {
        format!("[turn]\nlisten = {listen}\n{more}\n")
    }

    #[test]
    fn nat_discovery_needs_a_second_address_and_known_ports() {
        let wrong = |listen: &str, more: &str| mistake(&text(listen, more));
        let one = "\"192.0.2.1:3478\"";
        assert_says(
            &wrong(one, "nat_discovery = \"192.0.2.1\""),
            &["192.0.2.1 is the address listened on already", "t.toml:3:17"],
        );
        assert_says(
            &wrong(one, "nat_discovery = \"2001:db8::2\""),
            &["turn.nat_discovery: the relay does not listen over UDP on IPv6"],
        );
        assert_says(
            &wrong("\"tcp://192.0.2.1:3478\"", "nat_discovery = \"192.0.2.2\""),
            &["does not listen over UDP on IPv4", "turn.listen"],
        );
        assert_says(
            &wrong("\"192.0.2.1:0\"", "nat_discovery = \"192.0.2.2\""),
            &["192.0.2.1:0 takes a port that is not known before"],
        );
        assert_says(
            &wrong(one, "nat_discovery = [\"192.0.2.2\", \"192.0.2.3\"]"),
            &["more than one address of IPv4"],
        );
        assert_says(&wrong(one, "nat_discovery = \"0.0.0.0\""), &["t.toml:3:17", "0.0.0.0"]);
        assert_says(
            &wrong(one, "nat_discovery = \"192.0.2.2\"\nnat_discovery_port = 3478"),
            &["turn.nat_discovery_port: 3478 is the port of turn.listen already", "t.toml:4:22"],
        );
        let port = "nat_discovery = \"192.0.2.2\"\nnat_discovery_port = 50000";
        assert_says(&warnings(&text(one, port)), &["port 50000 of NAT behaviour discovery"]);
        let alone = warnings(&text(one, "nat_discovery_port = 3480"));
        assert_says(&alone, &["means nothing without turn.nat_discovery"]);
    }

    #[test]
    fn the_second_port_is_the_next_one_unless_it_is_named() {
        let ports = |listen: &str, more: &str| {
            let turn = parse(&text(listen, more)).expect("it is valid").config.turn;
            let listener = turn.discovery_listener(&turn.nat_discovery[0]).expect("a listener");
            turn.discovery_ports(listener)
        };
        let second = "nat_discovery = \"198.51.100.2/10.0.0.2\"";
        assert_eq!(ports("[\"[::]:9\", \"0.0.0.0:3478\"]", second), [3478, 3479]);
        assert_eq!(ports("\"10.0.0.1:65535\"", second), [65535, 65534]);
        let named = format!("{second}\nnat_discovery_port = 3479");
        assert_eq!(ports("\"10.0.0.1:19302\"", &named), [19302, 3479]);
    }
}
