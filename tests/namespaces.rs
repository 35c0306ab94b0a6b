//! NATs of each kind, made of network namespaces, and what Debian's `turnutils_natdiscovery` says
//! about them when it asks our daemon. They need root, `ip` and `nft`, so plain `cargo test` leaves
//! this file out (see Cargo.toml); `tests/run` runs it.
//!
//! ```text
//! server 203.0.113.10, 203.0.113.11 -- wan 203.0.113.21 | router | lan 10.1.0.1 -- client 10.1.0.2
//! ```

use std::process::{Command, Output, Stdio};

use harness::{Daemon, Setup, text};

#[path = "it/harness.rs"]
#[allow(dead_code)] // The other tests of the daemon use the rest of it.
mod harness;

const FIRST: &str = "203.0.113.10";
const CLIENT: &str = "10.1.0.2";

/// What the router passes from outside, beside answers to what went out.
const CLOSED: &str = "
    table ip filter {
        chain input { type filter hook input priority 0; iifname wan ct state new drop; }
        chain forward { type filter hook forward priority 0; policy drop;
            iifname lan accept
            ct state established,related accept; }
    }";

/// Ports stay as they are, whatever the destination.
const ONE_MAPPING: &str = "
    table ip nat {
        chain out { type nat hook postrouting priority srcnat; oifname wan masquerade; }
    }";

/// What comes to any port is for the client, if the filter lets it pass.
const INWARDS: &str = "
    table ip inwards {
        chain in { type nat hook prerouting priority dstnat;
            iifname wan meta l4proto udp dnat to 10.1.0.2; }
    }";

/// Whoever was sent something from a port may answer to it from any port of his own.
const SAME_ADDRESS: &str = "
    table ip filter {
        set asked { type ipv4_addr . inet_service; flags dynamic,timeout; timeout 60s; }
        chain forward { type filter hook forward priority 0; policy drop;
            iifname lan update @asked { ip daddr . udp sport } accept
            ct state established,related accept
            ip saddr . udp dport @asked accept; }
    }";

/// Ports of their own for every address and port that is sent to.
const SYMMETRIC: &str = "
    table ip nat {
        chain out { type nat hook postrouting priority srcnat;
            oifname wan ip daddr 203.0.113.10 udp dport 3478 snat to 203.0.113.21:41000-41999
            oifname wan ip daddr 203.0.113.10 udp dport 3479 snat to 203.0.113.21:42000-42999
            oifname wan ip daddr 203.0.113.11 udp dport 3478 snat to 203.0.113.21:43000-43999
            oifname wan ip daddr 203.0.113.11 udp dport 3479 snat to 203.0.113.21:44000-44999; }
    }";

const BLOCKED: &str = "
    table ip blocked {
        chain forward { type filter hook forward priority -1; meta l4proto udp drop; }
    }";

/// Namespaces of one test, removed with it.
struct Network {
    prefix: String,
    namespaces: Vec<String>,
}

impl Network {
    /// A server with two addresses, a router with these rules of nftables, and a client behind it.
    fn new(name: &str, rules: &[&str]) -> Self {
        let network = Self::outside(name);
        network.shell(
            "server",
            "ip address add 203.0.113.10/24 dev wan; ip address add 203.0.113.11/24 dev wan
             ip route add default via 203.0.113.21",
        );
        network.inside(rules)
    }

    /// The same with a 1:1 NAT in front of the server.
    fn behind_nat(name: &str, rules: &[&str]) -> Self {
        let mut network = Self::outside(name);
        // What was the server is the gate now.
        let gate = network.name("gate");
        run("ip", &["netns", "add", &gate]);
        network.namespaces.push(gate.clone());
        run("ip", &["-n", &network.name("server"), "link", "set", "wan", "netns", &gate]);
        network.cable(("gate", "lan"), ("server", "wan"));
        network.shell(
            "gate",
            "ip link set wan up; sysctl -qw net.ipv4.ip_forward=1
             ip address add 203.0.113.10/24 dev wan; ip address add 203.0.113.11/24 dev wan
             ip address add 10.9.0.1/24 dev lan; ip route add default via 203.0.113.21",
        );
        network.rules(
            "gate",
            "table ip nat {
                chain in { type nat hook prerouting priority dstnat;
                    iifname wan ip daddr 203.0.113.10 dnat to 10.9.0.2
                    iifname wan ip daddr 203.0.113.11 dnat to 10.9.0.3; }
                chain out { type nat hook postrouting priority srcnat;
                    oifname wan ip saddr 10.9.0.2 snat to 203.0.113.10
                    oifname wan ip saddr 10.9.0.3 snat to 203.0.113.11; }
             }",
        );
        network.shell(
            "server",
            "ip address add 10.9.0.2/24 dev wan; ip address add 10.9.0.3/24 dev wan
             ip route add default via 10.9.0.1",
        );
        network.inside(rules)
    }

    /// The namespaces of server and router, with a cable between them.
    fn outside(name: &str) -> Self {
        let tag = std::env::var("TURNCAST_TEST_TAG");
        let tag = tag.unwrap_or_else(|_| format!("tc{}", std::process::id()));
        let prefix = format!("{tag}-{name}");
        let mut network = Self { prefix, namespaces: Vec::new() };
        for part in ["server", "router", "client"] {
            let namespace = network.name(part);
            run("ip", &["netns", "add", &namespace]);
            network.namespaces.push(namespace);
            // No address of IPv6 is configured, so nothing of it is on its way.
            network.shell(part, "ip link set lo up; sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
        }
        network.cable(("router", "wan"), ("server", "wan"));
        network
    }

    /// The rest of the router, and the client.
    fn inside(self, rules: &[&str]) -> Self {
        self.cable(("router", "lan"), ("client", "wan"));
        self.shell(
            "router",
            "sysctl -qw net.ipv4.ip_forward=1
             ip address add 203.0.113.21/24 dev wan; ip address add 10.1.0.1/24 dev lan
             ip route add default via 203.0.113.10",
        );
        self.rules("router", &rules.concat());
        self.shell(
            "client",
            "ip address add 10.1.0.2/24 dev wan; ip route add default via 10.1.0.1",
        );
        self
    }

    fn name(&self, part: &str) -> String {
        format!("{}-{part}", self.prefix)
    }

    fn cable(&self, (one, its_end): (&str, &str), (other, other_end): (&str, &str)) {
        let (one, other) = (self.name(one), self.name(other));
        let peer = ["type", "veth", "peer", "name", other_end, "netns", &other];
        run("ip", &[&["-n", &one, "link", "add", its_end][..], &peer].concat());
        run("ip", &["-n", &one, "link", "set", its_end, "up"]);
        run("ip", &["-n", &other, "link", "set", other_end, "up"]);
    }

    fn shell(&self, part: &str, script: &str) {
        run("ip", &["netns", "exec", &self.name(part), "sh", "-ec", script]);
    }

    fn rules(&self, part: &str, rules: &str) {
        self.shell(part, &format!("nft -f - <<'RULES'\n{rules}\nRULES"));
    }

    /// A daemon that serves NAT behaviour discovery on these addresses.
    fn daemon(&self, listen: &str, second: &str) -> Daemon {
        let config = format!("[turn]\nnat_discovery = \"{second}\"\n");
        let setup = Setup::new(&config).variable("TURNCAST__TURN__LISTEN", listen);
        setup.start_in(&self.name("server"))
    }

    /// What the tool says to the client behind the router.
    fn natdiscovery(&self, arguments: &[&str]) -> String {
        self.natdiscovery_between(CLIENT, FIRST, arguments)
    }

    fn natdiscovery_between(&self, client: &str, server: &str, arguments: &[&str]) -> String {
        let Output { stdout, stderr, .. } = Command::new("ip")
            .args(["netns", "exec", &self.name("client")])
            .args(["timeout", "60", "turnutils_natdiscovery", "-L", client])
            .args(arguments)
            .arg(server)
            .stdin(Stdio::null())
            .output()
            .expect("ip (iproute2) runs");
        format!("{}{}", text(&stdout), text(&stderr))
    }

    /// Asserts that the tool comes to this verdict and no other.
    #[track_caller]
    fn assert_verdict(&self, arguments: &[&str], verdict: &str) {
        let said = self.natdiscovery(arguments);
        let found: Vec<_> = VERDICTS.iter().filter(|verdict| said.contains(**verdict)).collect();
        assert_eq!(found, [&verdict], "turnutils_natdiscovery (apt-get install coturn):\n{said}");
        assert!(!said.contains("ALG detected") && !said.contains("Not received mapped"), "{said}");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in self.namespaces.iter().rev() {
            // It is gone when somebody has cleaned up before.
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

/// Every verdict of the tool.
const VERDICTS: [&str; 7] = [
    "No NAT! (Endpoint Independent Mapping)",
    "NAT with Endpoint Independent Mapping!",
    "NAT with Address Dependent Mapping!",
    "NAT with Address and Port Dependent Mapping!",
    "NAT with Endpoint Independent Filtering!",
    "NAT with Address Dependent Filtering!",
    "NAT with Address and Port Dependent Filtering!",
];

#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|why| panic!("{program}: {why}"));
    let said = text(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?} (network namespaces need root): {said}"
    );
}

const CONCRETE: (&str, &str) = ("203.0.113.10:3478", "203.0.113.11");
const WILDCARD: (&str, &str) = ("0.0.0.0:3478", "203.0.113.11");

#[test]
fn a_nat_that_lets_everybody_in() {
    let network = Network::new("eif", &[ONE_MAPPING, INWARDS]);
    for (listen, second) in [CONCRETE, WILDCARD] {
        let daemon = network.daemon(listen, second);
        network.assert_verdict(&["-m"], "NAT with Endpoint Independent Mapping!");
        network.assert_verdict(&["-f"], "NAT with Endpoint Independent Filtering!");
        network.assert_verdict(&["-f", "-P"], "NAT with Endpoint Independent Filtering!");
        daemon.stop();
    }
}

#[test]
fn a_nat_that_lets_in_who_was_asked_from_any_port() {
    let network = Network::new("adf", &[ONE_MAPPING, INWARDS, SAME_ADDRESS]);
    let daemon = network.daemon(CONCRETE.0, CONCRETE.1);
    network.assert_verdict(&["-m"], "NAT with Endpoint Independent Mapping!");
    network.assert_verdict(&["-f"], "NAT with Address Dependent Filtering!");
    daemon.stop();
}

#[test]
fn a_nat_that_lets_in_who_was_asked_from_that_port_alone() {
    let network = Network::new("apdf", &[ONE_MAPPING, CLOSED]);
    let daemon = network.daemon(WILDCARD.0, WILDCARD.1);
    network.assert_verdict(&["-m"], "NAT with Endpoint Independent Mapping!");
    network.assert_verdict(&["-m", "-P"], "NAT with Endpoint Independent Mapping!");
    network.assert_verdict(&["-f"], "NAT with Address and Port Dependent Filtering!");
    daemon.stop();
}

#[test]
fn a_symmetric_nat() {
    let network = Network::new("sym", &[SYMMETRIC, CLOSED]);
    let daemon = network.daemon(CONCRETE.0, CONCRETE.1);
    network.assert_verdict(&["-m"], "NAT with Address and Port Dependent Mapping!");
    network.assert_verdict(&["-f"], "NAT with Address and Port Dependent Filtering!");
    daemon.stop();
}

#[test]
fn no_nat_at_all() {
    let network = Network::new("none", &[]);
    let daemon = network.daemon(WILDCARD.0, WILDCARD.1);
    for what in ["-m", "-f"] {
        let said = network.natdiscovery(&[what]);
        // The tool goes on with its other tests, whatever the first one says.
        assert!(said.contains("No NAT! (Endpoint Independent Mapping)"), "{said}");
        assert!(!said.contains("timeout") && !said.contains("Dependent Mapping!"), "{said}");
    }
    daemon.stop();
}

/// IPv6 has addresses enough to go without a NAT, and a filter all the same.
#[test]
fn a_firewall_for_ipv6() {
    let network = Network::new("six", &[]);
    let on =
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=0; sysctl -qw net.ipv6.conf.all.forwarding=1";
    let add = |address: &str, device: &str| {
        format!("ip address add 2001:db8:{address}/64 dev {device} nodad\n")
    };
    for (part, addresses, gateway) in [
        ("server", [add("1::10", "wan"), add("1::11", "wan")], "1::1"),
        ("router", [add("1::1", "wan"), add("2::1", "lan")], "1::10"),
        ("client", [add("2::2", "wan"), String::new()], "2::1"),
    ] {
        let route = format!("ip route add default via 2001:db8:{gateway}");
        network.shell(part, &format!("{on}\n{}{route}", addresses.concat()));
    }
    network.rules(
        "router",
        "table ip6 filter {
            chain forward { type filter hook forward priority 0; policy drop;
                iifname lan accept
                ct state established,related accept; }
         }",
    );
    let daemon = network.daemon("[::]:3478", "2001:db8:1::11");
    let said = network.natdiscovery_between("2001:db8:2::2", "2001:db8:1::10", &["-f"]);
    for verdict in [VERDICTS[0], VERDICTS[6]] {
        assert!(said.contains(verdict), "{verdict:?} is not in:\n{said}");
    }
    assert!(said.contains("Other addr: : 2001:db8:1::11:3479"), "{said}");
    daemon.stop();
}

#[test]
fn a_network_that_blocks_udp() {
    let network = Network::new("blocked", &[ONE_MAPPING, BLOCKED]);
    let daemon = network.daemon(CONCRETE.0, CONCRETE.1);
    for what in ["-m", "-f"] {
        let said = network.natdiscovery(&[what]);
        assert!(said.contains("STUN receive timeout"), "{said}");
        assert!(VERDICTS.iter().all(|verdict| !said.contains(verdict)), "{said}");
    }
    daemon.stop();
}

#[test]
fn a_server_behind_a_nat_of_its_own() {
    let network = Network::behind_nat("gate", &[ONE_MAPPING, INWARDS]);
    let config = "[turn]\nrelay_addresses = \"203.0.113.10/10.9.0.2\"\n\
                  nat_discovery = \"203.0.113.11/10.9.0.3\"\n";
    let setup = Setup::new(config).variable("TURNCAST__TURN__LISTEN", "0.0.0.0:3478");
    let daemon = setup.start_in(&network.name("server"));
    network.assert_verdict(&["-m"], "NAT with Endpoint Independent Mapping!");
    network.assert_verdict(&["-f"], "NAT with Endpoint Independent Filtering!");
    let said = network.natdiscovery(&["-m"]);
    for part in ["Response origin: : 203.0.113.10:3478", "Other addr: : 203.0.113.11:3479"] {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    daemon.stop();
}

/// RFC 5780, section 4.6: what one port asks for is answered to another, whose mapping it tests.
#[test]
fn a_mapping_that_lasts() {
    let network = Network::new("life", &[ONE_MAPPING, CLOSED]);
    let daemon = network.daemon(CONCRETE.0, CONCRETE.1);
    let said = network.natdiscovery(&["-t", "-T", "1"]);
    assert!(said.contains("RFC 5780 response 2") && !said.contains("timeout"), "{said}");
    daemon.stop();
}

/// What the doctor says beside the daemon: each URL's diagnosis, and everything.
#[track_caller]
fn doctor(network: &Network, setup: &Setup) -> (Vec<String>, String) {
    let mut command = setup.command_in(&network.name("server"), &["doctor", "--json"]);
    let Output { status, stdout, stderr } = command.output().expect("turncast runs");
    let found: serde_json::Value = serde_json::from_slice(&stdout)
        .unwrap_or_else(|err| panic!("{err}: {}{}", text(&stdout), text(&stderr)));
    assert_eq!(status.success(), found["ok"] == true, "{found}");
    let urls = found["urls"].as_array().expect("a list");
    let diagnosis = |url: &serde_json::Value| url["diagnosis"].as_str().expect("a word").to_owned();
    (urls.iter().map(diagnosis).collect(), found.to_string())
}

#[test]
fn the_doctor_finds_what_a_firewall_stops() {
    let network = Network::new("doctor", &[]);
    let config = "public_host = \"203.0.113.10\"\n[tls]\nmode = \"off\"\n\
                  [turn]\nrelay_ports = \"61000-61099\"\n";
    let setup = Setup::new(config).variable("TURNCAST__TURN__LISTEN", "203.0.113.10:3478");
    let daemon = setup.start_in(&network.name("server"));
    let (found, all) = doctor(&network, &setup);
    assert_eq!(found, ["relayed", "relayed"], "{all}");
    for (rule, udp, tcp, next) in [
        ("udp dport 3478 drop", "unreachable", "relayed", "open 3478/udp in the firewall"),
        ("tcp dport 3478 drop", "relayed", "unreachable", "open 3478/tcp in the firewall"),
        ("udp dport 61000-61099 drop", "not_relayed", "not_relayed", "turn.relay_ports"),
    ] {
        network.rules(
            "server",
            &format!(
                "table ip wall {{
                    chain in {{ type filter hook input priority 0; {rule}; }}
                 }}"
            ),
        );
        let (found, all) = doctor(&network, &setup);
        assert_eq!(found, [udp, tcp], "{rule}: {all}");
        assert!(all.contains(next), "{rule}: {all}");
        network.shell("server", "nft delete table ip wall");
    }
    daemon.stop();
}

#[test]
fn the_doctor_behind_a_nat_says_what_it_cannot_know() {
    let network = Network::behind_nat("docnat", &[]);
    let config = "public_host = \"203.0.113.10\"\n[tls]\nmode = \"off\"\n";
    let setup = Setup::new(config).variable("TURNCAST__TURN__LISTEN", "0.0.0.0:3478");
    let daemon = setup.start_in(&network.name("server"));
    let (found, all) = doctor(&network, &setup);
    assert_eq!(found, ["unreachable", "unreachable"], "{all}");
    assert!(all.contains("some NATs do not lead back whom they protect"), "{all}");
    daemon.stop();
    // A gate that leads back, and streams from an address that nobody outside reaches.
    network.rules(
        "gate",
        "table ip back {
            chain in { type nat hook prerouting priority dstnat;
                iifname lan ip daddr 203.0.113.10 dnat to 10.9.0.2; }
            chain out { type nat hook postrouting priority srcnat;
                oifname lan ip saddr 10.9.0.0/24 masquerade; }
         }",
    );
    for (pair, diagnosis) in [("10.9.0.2", "relay_address"), ("203.0.113.10/10.9.0.2", "relayed")] {
        let setup = Setup::new(&format!("{config}[turn]\nrelay_addresses = \"{pair}\"\n"))
            .variable("TURNCAST__TURN__LISTEN", "0.0.0.0:3478");
        let daemon = setup.start_in(&network.name("server"));
        let (found, all) = doctor(&network, &setup);
        assert_eq!(found, [diagnosis, diagnosis], "{all}");
        daemon.stop();
    }
}
