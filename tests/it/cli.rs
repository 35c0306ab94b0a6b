//! The command line, as a process: what it prints, and how it exits.

use std::fs::Permissions;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Output};

use base64::Engine as _;
use ring::hmac;

use crate::harness::{Setup, in_network, text};
use crate::secure;

const SECRET: &str = "shared-secret-of-a-test";

#[track_caller]
fn assert_fails(setup: &Setup, arguments: &[&str], code: i32, parts: &[&str]) {
    let output = setup.output(arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in:\n{error}");
    }
    assert_eq!(error.matches("error:").count(), 1, "told once:\n{error}");
}

/// Sentences are broken where a terminal ends.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn version_and_help_succeed_and_bad_usage_is_2() {
    let setup = Setup::new("");
    let version = setup.printed(&["--version"]);
    assert_eq!(version, format!("turncast {}\n", env!("CARGO_PKG_VERSION")));
    for command in ["run", "check", "doctor", "invite", "credentials", "config"] {
        assert!(setup.printed(&["--help"]).contains(command));
    }
    for command in ["run", "check", "doctor", "invite", "credentials", "config"] {
        let help = setup.printed(&[command, "--help"]);
        let wide = help.lines().find(|line| line.chars().count() > 80);
        assert_eq!(wide, None, "a terminal has 80 columns: {command}");
    }
    assert_fails(&setup, &["--no-such"], 2, &["--no-such", "Usage"]);
    assert_fails(&setup, &["chek"], 2, &["chek", "check"]);
    assert_fails(&setup, &["credentials"], 2, &["--name"]);
    assert_fails(&setup, &["credentials", "--name", "a", "--ttl", "0"], 2, &["--ttl"]);
}

#[test]
fn a_bad_configuration_is_2_and_names_file_line_and_column() {
    let setup = Setup::new("[turn]\nrelam = \"x\"\n");
    for arguments in [&["check"][..], &["run"], &[], &["invite"]] {
        assert_fails(&setup, arguments, 2, &["turncast.toml:2:1", "did you mean realm?"]);
    }
    let setup = Setup::new("").variable("TURNCAST__TURN__RELAM", "x");
    assert_fails(&setup, &["check"], 2, &["TURNCAST__TURN__RELAM", "TURNCAST__TURN__REALM"]);
    let setup = Setup::new("[tls]\ncertificate = \"no.pem\"\nkey = \"no.pem\"\n");
    assert_fails(&setup, &["check"], 2, &["no.pem", "No such file"]);
    let acme = "public_host = \"a.example.org\"\n[acme]\naccept_terms = true\n";
    let setup = Setup::new(&format!("{acme}root_certificate = \"no.pem\"\n"));
    let error = text(&setup.output(&["check"]).stderr);
    assert!(error.starts_with("error: acme.root_certificate: read "), "{error}");
    assert_fails(&setup, &["check"], 2, &["no.pem", "No such file"]);
    let output = Command::new(env!("CARGO_BIN_EXE_turncast"))
        .args(["check", "--config", "no-such.toml"])
        .output()
        .expect("turncast runs");
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert!(error.starts_with("error: cannot read the configuration no-such.toml: No"), "{error}");
}

#[test]
fn the_example_is_the_file_in_the_repository() {
    let setup = Setup::new("this is not read");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.toml");
    let file = std::fs::read_to_string(path).expect("config.example.toml");
    assert!(setup.printed(&["config", "example"]) == file);
}

#[test]
fn a_public_host_is_all_that_a_vps_needs() {
    let setup = Setup::new(&format!("public_host = \"{}\"\n{}", secure::NAME, secure::KEYS))
        .without("TURNCAST__WEB__LISTEN")
        .without("TURNCAST__TURN__LISTEN");
    secure::certificate(setup.directory());
    // Both families are told as one, where this machine has both.
    let report = setup.printed(&["check"]).replace("://*:", "://0.0.0.0:");
    for part in [
        "https://0.0.0.0:443 ",
        "http://0.0.0.0:80 ",
        "udp://0.0.0.0:3478 ",
        "tcp://0.0.0.0:3478 ",
        "udp://0.0.0.0:443 ",
        "http://127.0.0.1:0 ",
        "pages         https://live.example.org/",
        "TURN          turn:live.example.org:3478?transport=udp",
        "TURN          turns:live.example.org:443?transport=tcp",
    ] {
        assert!(report.contains(part), "{part:?} is not in:\n{report}");
    }
    assert_eq!(report.matches("  TURN   ").count(), 2, "{report}");
}

#[test]
fn a_port_without_the_right_to_it_is_told_in_a_sentence() {
    for (listen, mode, url) in [
        (["127.0.0.1:443", "udp://127.0.0.1:0"], "off", "http://127.0.0.1:443"),
        (["127.0.0.1:443", "udp://127.0.0.1:0"], "self-signed", "https://127.0.0.1:443"),
        // As `check` and the log call it.
        (["127.0.0.1:80", "udp://127.0.0.1:0"], "self-signed", "http://127.0.0.1:80"),
        (["127.0.0.1:0", "udp://127.0.0.1:443"], "off", "udp://127.0.0.1:443"),
    ] {
        let setup = Setup::new("")
            .variable("TURNCAST__TLS__MODE", mode)
            .variable("TURNCAST__WEB__LISTEN", listen[0])
            .variable("TURNCAST__TURN__LISTEN", listen[1]);
        let output = output_without(&setup.command(&["run"]), "-net_bind_service");
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(&format!("bind {url}")), "{error}");
        let port = url.rsplit_once(':').expect("a port").1;
        let sentence = format!("port {port} is below 1024 and needs the capability");
        assert!(error.contains(&sentence), "{error}");
    }
}

/// Runs the same command without these capabilities of root.
fn output_without(command: &Command, capabilities: &str) -> Output {
    let mut without = Command::new("setpriv");
    // Root has every capability unless it is taken; others have none that they could take.
    if std::fs::metadata("/proc/self").expect("a process").uid() == 0 {
        without.args(["--bounding-set", capabilities, "--inh-caps", capabilities]);
    } else {
        without.arg("--no-new-privs");
    }
    without
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    without.output().expect("setpriv (util-linux) runs")
}

#[test]
fn who_may_not_read_the_state_is_told_so_and_nothing_that_is_not_known() {
    let setup = Setup::new(
        "public_host = \"live.example.org\"\n[acme]\naccept_terms = true\n\
         [public_ports]\ntcp = 443\nudp = 3478\n[turn]\nshared_secret = \"a-secret-of-a-test\"\n",
    );
    let state = setup.state();
    let mode = |mode| {
        std::fs::set_permissions(&state, Permissions::from_mode(mode)).expect("our directory");
    };
    std::fs::create_dir(&state).expect("a directory");
    std::fs::write(state.join("acme-certificate.json"), "{}").expect("a file");
    let check = setup.printed(&["check"]);
    assert!(check.contains("none yet; until then a self-signed one"), "{check}");
    mode(0);
    let run = |arguments: &[&str]| {
        output_without(&setup.command(arguments), "-dac_override,-dac_read_search")
    };
    let check = text(&run(&["check"]).stdout);
    assert!(!check.contains("none yet") && !check.contains("run makes it"), "{check}");
    for part in [
        "not known whether there is one the state directory cannot be read: ",
        "(run this as root, or as the user of the daemon): Permission denied",
        "TURN turns:live.example.org:443?transport=tcp or \
         turn:live.example.org:443?transport=tcp: not known",
    ] {
        assert!(words(&check).contains(part), "{part:?} is not in:\n{check}");
    }
    for command in ["invite", "doctor"] {
        let output = run(&[command]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("run this as root, or as the user of the daemon"), "{error}");
    }
    let output = run(&["credentials", "--name", "alice"]);
    let (printed, note) = (text(&output.stdout), text(&output.stderr));
    assert!(printed.contains("turn:live.example.org:443?transport=tcp"), "{printed}");
    assert!(note.starts_with("note: TURN over TLS is left out") && note.contains("root"), "{note}");
    mode(0o700);
    assert!(setup.output(&["credentials", "--name", "alice"]).stderr.is_empty());
}

#[test]
fn check_names_the_ports_to_open_and_what_this_machine_makes_of_the_plan() {
    let network = "ip link set lo up && ip address add 203.0.113.10/32 dev lo && \
                   ip address add 2001:db8::7/128 dev lo nodad";
    let test = "cli::check_names_the_ports_to_open_and_what_this_machine_makes_of_the_plan";
    if !in_network(test, network) {
        return;
    }
    let setup = Setup::new(
        "public_host = \"198.51.100.9\"\n[web]\nlisten = [\"0.0.0.0:443\", \"0.0.0.0:80\"]\n\
         [turn]\nlisten = \"0.0.0.0:3478\"\nallow_peers = [\"203.0.113.10\"]\n",
    )
    .without("TURNCAST__WEB__LISTEN")
    .without("TURNCAST__TURN__LISTEN");
    let output = output_without(&setup.command(&["check"]), "-net_bind_service");
    let report = text(&output.stdout);
    assert!(output.status.success(), "{report}{}", text(&output.stderr));
    let (_, ports) = report.split_once("\nPorts to open, ").expect("a heading");
    let (ports, warnings) = ports.split_once("\n\n").expect("warnings");
    let ports: Vec<&str> = ports.lines().skip(1).collect();
    assert_eq!(
        ports,
        [
            "  443/tcp           required: pages, signaling, TURN over TLS and TCP",
            "  3478/udp          better: TURN, where the viewer's network lets UDP out",
            "  80/tcp            to lead on to https",
            "  3478/tcp          TURN over TCP",
            "  49152-65535/udp   better: streams between a relayed viewer and a direct one",
        ]
    );
    for part in [
        "warning: public_host: 198.51.100.9 is no address of this machine. If that is the public",
        "relay_addresses = [\"198.51.100.9/203.0.113.10\"]",
        "warning: port 80 needs the capability CAP_NET_BIND_SERVICE",
        "warning: this machine has the IPv6 address 2001:db8::7, and nothing listens there",
        "warning: turn.allow_peers: streams are relayed from 203.0.113.10, so clients reach",
    ] {
        assert!(words(warnings).contains(part), "{part:?} is not in:\n{warnings}");
    }
    let wide = report.lines().find(|line| line.chars().count() > 80);
    assert_eq!(wide, None, "a terminal has 80 columns");
    // Without any of it there is nothing to warn of.
    let setup = Setup::new("[turn]\nlisten = \"127.0.0.1:3478\"\n")
        .without("TURNCAST__WEB__LISTEN")
        .without("TURNCAST__TURN__LISTEN");
    let report = setup.printed(&["check"]);
    assert!(report.contains("  none: everything stays on this machine"), "{report}");
    for part in ["public_host", "CAP_NET", "IPv6", "allow_peers"] {
        assert!(!report.contains(part), "{part} is in:\n{report}");
    }
}

#[test]
fn check_tells_what_would_be_and_binds_nothing() {
    // Whoever tried to bind these would fail.
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let (tcp, udp) = (tcp.local_addr().expect("bound"), udp.local_addr().expect("bound"));
    let setup = Setup::new("[turn]\nrealm = \"example.org\"\nshared_secret = \"short\"\n")
        .variable("TURNCAST__WEB__LISTEN", &tcp.to_string())
        .variable("TURNCAST__TURN__LISTEN", &udp.to_string());
    let report = setup.printed(&["check"]);
    for part in [
        format!("http://{tcp} "),
        format!("udp://{udp} "),
        format!("tcp://{udp} "),
        format!("pages         http://localhost:{}/", tcp.port()),
        format!("TURN          turn:127.0.0.1:{}?transport=udp", udp.port()),
        format!("TURN          turn:127.0.0.1:{}?transport=tcp", udp.port()),
        "relayed streams, ports 49152-65535".to_owned(),
        "relayed from  127.0.0.1".to_owned(),
        "broadcasting  open to this computer".to_owned(),
        "warning: turn.shared_secret: a secret of less than 16 characters".to_owned(),
        "turncast.toml:3:17".to_owned(),
    ] {
        assert!(report.contains(&part), "{part:?} is not in:\n{report}");
    }
    assert!(!report.contains("short"), "{report}");
    assert!(!setup.state().exists(), "only run makes the state directory");
}

#[test]
fn check_warns_of_a_relay_that_no_browser_can_use() {
    let told = |turn: &str| {
        let setup = Setup::new(&format!("[turn]\nrelay_addresses = [\"2001:db8::9/::1\"]\n{turn}"));
        let report = words(&setup.printed(&["check"]));
        report.contains("there is no IPv4 address to relay from, and browsers never ask for IPv6")
    };
    assert!(told(""));
    assert!(!told("default_family = \"client\"\n"));
}

#[test]
fn check_warns_of_peers_on_the_address_that_is_relayed_from() {
    let told = |turn: &str| {
        let setup = Setup::new(&format!("[turn]\n{turn}"));
        words(&setup.printed(&["check"])).contains("streams are relayed from 127.0.0.1, so clients")
    };
    assert!(told("allow_peers = [\"127.0.0.1\"]\n"));
    assert!(!told("allow_peers = [\"127.0.0.3\"]\n"));
    assert!(!told("allow_peers = [\"127.0.0.1\"]\nrelay_addresses = [\"127.0.0.2\"]\n"));
}

#[test]
fn check_says_where_a_public_host_leads() {
    let setup = Setup::new(
        "public_host = \"live.example.org\"\n[web]\ntrusted_proxies = [\"127.0.0.1\"]\n\
         [turn]\nrelay_addresses = [\"198.51.100.1/127.0.0.1\"]\n",
    )
    .variable("TURNCAST__TURN__LISTEN", "0.0.0.0:3478");
    let report = setup.printed(&["check"]);
    for part in [
        "pages         https://live.example.org/",
        "TURN          turn:live.example.org:3478?transport=udp",
        "udp://127.0.0.1                  relayed streams",
        "relayed from  198.51.100.1",
        "with a key: turncast invite prints the link",
    ] {
        assert!(report.contains(part), "{part:?} is not in:\n{report}");
    }
    let setup = Setup::new("[turn]\nrelay_addresses = [\"198.51.100.1\"]\n");
    assert_fails(&setup, &["run"], 2, &["write \"198.51.100.1/LOCAL_IP\""]);
    // Whoever asks before an upgrade goes by the code.
    let output = setup.output(&["check"]);
    assert_eq!(output.status.code(), Some(2));
    let (report, error) = (text(&output.stdout), text(&output.stderr));
    assert!(report.contains("relayed from  198.51.100.1"), "{report}");
    let refusal = "error: turn.relay_addresses: 198.51.100.1 is no address of this host";
    assert!(error.starts_with(refusal), "{error}");
}

#[test]
fn a_credential_is_signed_with_the_first_shared_secret_and_hash() {
    let config = format!("[turn]\nshared_secret = [\"{SECRET}\", \"an-older-secret-of-it\"]\n");
    let setup = Setup::new(&config).variable("TURNCAST__TURN__LISTEN", "127.0.0.1:3478");
    let before = unix_secs();
    let printed = setup.printed(&["credentials", "--name", "alice", "--ttl", "60"]);
    let server: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(
        server["urls"],
        serde_json::json!([
            "turn:127.0.0.1:3478?transport=udp",
            "turn:127.0.0.1:3478?transport=tcp"
        ])
    );
    let username = server["username"].as_str().expect("a username");
    let (expiry, name) = username.split_once(':').expect("expiry:name");
    let expiry: u64 = expiry.parse().expect("Unix seconds");
    assert_eq!(name, "alice");
    assert!((before + 60..=unix_secs() + 60).contains(&expiry), "{expiry} after {before}");
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, SECRET.as_bytes());
    let expected =
        base64::engine::general_purpose::STANDARD.encode(hmac::sign(&key, username.as_bytes()));
    assert_eq!(server["credential"], expected.as_str());

    let setup = Setup::new(&format!("{config}credential_hash = [\"sha256\", \"sha1\"]\n"));
    let printed = setup.printed(&["credentials", "--name", "alice"]);
    let server: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
    let username = server["username"].as_str().expect("a username");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let expected =
        base64::engine::general_purpose::STANDARD.encode(hmac::sign(&key, username.as_bytes()));
    assert_eq!(server["credential"], expected.as_str());

    let setup = Setup::new("");
    assert_fails(&setup, &["credentials", "--name", "a"], 2, &["set turn.shared_secret"]);
}

#[test]
fn invite_before_the_first_start_says_what_to_do() {
    let setup = Setup::new("");
    assert_fails(&setup, &["invite"], 1, &["start the daemon once (turncast run)"]);
    assert_fails(&setup, &["invite", "--rotate"], 1, &["start the daemon once"]);
    assert!(!setup.state().exists());
}

#[test]
fn no_argument_takes_a_secret() {
    let setup = Setup::new("");
    for command in ["run", "check", "invite", "credentials", "config"] {
        let help = setup.printed(&[command, "--help"]).to_lowercase();
        for word in ["--secret", "--password", "--key", "--shared"] {
            assert!(!help.contains(word), "{command} has {word}");
        }
    }
}

fn unix_secs() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}
