//! Each kind of mistake, on the text that a person reads.

mod certificates;
mod listeners;

use std::path::Path;

use super::*;

fn parse_with(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Error> {
    let environment =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Loaded::parse(Some((Path::new("t.toml"), text.to_owned())), &environment)
}

pub(super) fn parse(text: &str) -> Result<Loaded, Error> {
    parse_with(text, &[])
}

pub(super) fn mistake(text: &str) -> String {
    parse(text).expect_err("the configuration is wrong").to_string()
}

pub(super) fn warnings(text: &str) -> String {
    texts(&parse(text).expect("the configuration is allowed"))
}

fn texts(loaded: &Loaded) -> String {
    loaded.warnings.iter().map(|warning| format!("{}\n", warning.text)).collect()
}

#[track_caller]
pub(super) fn assert_says(text: &str, parts: &[&str]) {
    // Sentences are broken where a terminal ends.
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let said = words(text);
    for part in parts {
        assert!(said.contains(&words(part)), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn what_is_wrong_fits_a_terminal() {
    let text = mistake("public_hots = \"cast.example.org\"\n");
    assert_says(&text, &["did you mean public_host?", "[broadcast], [admin], [log]"]);
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
}

#[test]
fn half_a_proxy_is_warned_of() {
    let hidden = "public_host = \"live.example.org\"\n[web]\nlisten = \"127.0.0.1:8080\"\n";
    let told = warnings(hidden);
    assert_says(&told, &["only this computer reaches the pages of live.example.org"]);
    assert_says(&told, &["trusted_proxies = [\"127.0.0.1\"]"]);
    let proxy = "trusted_proxies = [\"127.0.0.1\"]\n";
    assert_eq!(warnings(&format!("{hidden}{proxy}")), "");
    assert_eq!(warnings(&hidden.replace("live.example.org", "localhost")), "");
    let nameless = warnings(&format!("[web]\n{proxy}"));
    assert_says(&nameless, &["behind the proxy only this computer reaches the relay"]);
    assert_says(&nameless, &["set public_host to the name that browsers use"]);
}

#[test]
fn the_way_to_a_trusted_certificate_is_the_nearest() {
    let vps = "public_host = \"live.example.org\"\n";
    let terms = "acme.accept_terms = true gets one from the authority (terms: https://lets";
    assert_says(&warnings(vps), &[terms]);
    let inside = "public_host = \"live.internal\"\n[acme]\naccept_terms = true\n";
    assert_says(&warnings(inside), &["set public_host to a name or address that the world can"]);
    let own = format!("{vps}[tls]\nmode = \"self-signed\"\n");
    assert_says(&warnings(&own), &["tls.mode = \"auto\" gets one from an authority"]);
}

#[test]
fn nothing_at_all_is_a_configuration() {
    let loaded = Loaded::parse(None, &Environment::default()).expect("defaults are valid");
    let config = &loaded.config;
    assert_eq!(config.public_host, Host::Auto);
    assert_eq!(config.web.listen.0, ["127.0.0.1:8080".parse().expect("an address")]);
    assert_eq!(config.turn.realm.text(), "turncast");
    assert_eq!(config.turn.relay_ports, PortRange { first: 49_152, last: 65_535 });
    assert_eq!(config.turn.limits.allocations_per_user, 10);
    assert_eq!(config.turn.limits.allocations_per_link, 16);
    assert_eq!(config.broadcast.viewers_per_room, 8);
    assert_eq!(config.broadcast.publish, Publish::Auto);
    assert!(config.is_loopback_only() && !config.is_https());
    assert!(config.state_dir.is_none() && loaded.warnings.is_empty());
}

#[test]
fn a_mistyped_key_is_named_with_its_place_and_its_neighbour() {
    assert_eq!(
        mistake("[admin]\nlisten = []\nlistn = []\n"),
        "error: unknown key admin.listn\n \
         --> t.toml:3:1\n  |\n\
         3 | listn\n  | ^^^^^ did you mean listen?\n  |\n  \
         = help: allowed in [admin]: listen, allowed_hosts"
    );
    assert_says(
        &mistake("[turn]\ndeny_peer = [\"10.0.0.0/8\"]\n"),
        &["error: unknown key turn.deny_peer", "t.toml:2:1", "did you mean deny_peers?"],
    );
    assert_says(
        &mistake("[turn.limit]\nallocations = 3\n"),
        &["unknown key turn.limit", "did you mean limits?"],
    );
}

#[test]
fn a_key_of_another_section_is_sent_there() {
    assert_says(
        &mistake("realm = \"example.org\"\n"),
        &["error: unknown key realm", "t.toml:1:1", "did you mean turn.realm?", "[turn]"],
    );
}

#[test]
fn all_mistakes_are_told_at_once_in_their_order() {
    let text = mistake("[web]\nlisten = [\"8080\"]\n[turn]\nrealm = 5\nrelam = 1\n");
    let places: Vec<_> =
        ["t.toml:2:11", "t.toml:4:9", "t.toml:5:1"].map(|place| text.find(place)).into();
    assert!(places.iter().all(Option::is_some), "{text}");
    assert!(places.is_sorted(), "{text}");
}

#[test]
fn broken_toml_is_shown_where_it_breaks() {
    assert_says(
        &mistake("[turn]\nrealm = \"x\n"),
        &["error: this is not TOML", "t.toml:2:", "realm = \"x"],
    );
    assert_says(&mistake("a = 1\na = 2\n"), &["duplicate key", "t.toml:2:1"]);
}

#[test]
fn a_secret_is_never_quoted_not_even_in_broken_toml() {
    for text in [
        "[turn]\nshared_secret = \"hunter2hunter2\n",
        "[turn]\nshared_secret = [\n  \"one\", \n  hunter2hunter2 ]\n",
        "[turn]\nusers = [{ name = \"a\", pasword = \"hunter2hunter2\" }]\n",
        "[turn]\nusers = [{ name = \"a\", password = [\"hunter2hunter2\"] }]\n",
        "[broadcast]\nkeys = [{ name = \"a\", key = \"hunter2hunter2!\" }]\n",
        "[broadcast]\nkeys = \"hunter2hunter2\"\n",
        // A key that is mistyped, or stands in the wrong place, may be one of a secret.
        "[turn]\nshared_secert = \"hunter2hunter2\"\n",
        "[turn]\npasswd = \"hunter2hunter2\"\n",
        "shared_secret = \"hunter2hunter2\"\n",
        "[turn]\nuser = [{ name = \"a\", password = \"hunter2hunter2\" }]\n",
        "turn = { shared_secret = \"hunter2hunter2\", relam = \"x\" }\n",
        "turn = { shared_secret = \"hunter2hunter2\", workers = \"x\" }\n",
        "turn = { workers = \"x\", shared_secert = \"hunter2hunter2\" }\n",
    ] {
        let error = mistake(text);
        assert!(!error.contains("hunter2"), "{error}");
        assert_says(&error, &["error: ", "t.toml:"]);
    }
    let error = parse_with("", &[("TURNCAST__TURN__USERS", "hunter2hunter2")]);
    let error = error.expect_err("no list").to_string();
    assert!(!error.contains("hunter2"), "{error}");
    assert_says(&error, &["turn.users: this does not fit here", "TURNCAST__TURN__USERS"]);
}

#[test]
fn numbers_have_bounds() {
    assert_says(
        &mistake("[turn.limits]\nallocations_per_user = 0\n"),
        &[
            "error: turn.limits.allocations_per_user: 0 is out of bounds",
            "t.toml:2:24",
            "allowed: a whole number from 1 to 1000000",
        ],
    );
    for value in ["-1", "1_000_001", "99999999999999999999", "2.5", "\"ten\""] {
        let error = mistake(&format!("[turn.limits]\nallocations_per_user = {value}\n"));
        assert_says(&error, &["allowed: a whole number from 1 to 1000000", value]);
    }
    let loaded = parse("[turn.limits]\nallocations_per_user = 0x10\n").expect("16");
    assert_eq!(loaded.config.turn.limits.allocations_per_user, 16);
}

#[test]
fn words_are_a_closed_list() {
    assert_says(
        &mistake("[broadcast]\npublish = \"opn\"\n"),
        &[
            "broadcast.publish: unknown word; did you mean \"open\"?",
            "t.toml:2:11",
            "allowed: \"auto\", \"open\" or \"key\"",
        ],
    );
    for (section, key) in
        [("broadcast", "ice_policy"), ("log", "level"), ("log", "format"), ("log", "addresses")]
    {
        let error = mistake(&format!("[{section}]\n{key} = \"quux\"\n"));
        assert_says(&error, &[&format!("{section}.{key}: unknown word"), "allowed: "]);
    }
}

#[test]
fn relay_addresses_and_ports_are_checked() {
    let addresses = |v: &str| mistake(&format!("[turn]\nrelay_addresses = [{v}]\n"));
    assert_says(&addresses("\"0.0.0.0\""), &["0.0.0.0 is no address that a peer could answer to"]);
    assert_says(&addresses("\"224.0.0.1\""), &["224.0.0.1 is no address"]);
    assert_says(&addresses("\"192.0.2.1/::1\""), &["must be of one family"]);
    assert_says(&addresses("\"192.0.2.1:5\""), &["\"192.0.2.1:5\" is no IP address"]);
    assert_says(&addresses("\"fe80::1\""), &["good on one wire only"]);
    assert_says(&addresses("\"192.0.2.1\", \"192.0.2.1\""), &["stands there twice"]);
    let ports = |v: &str| mistake(&format!("[turn]\nrelay_ports = \"{v}\"\n"));
    assert_says(&ports("60000-50000"), &["did you mean \"50000-60000\"?", "t.toml:2:15"]);
    assert_says(&ports("0-70000"), &["\"0\" is no port from 1 to 65535"]);
    assert_says(&ports("all"), &["\"all\" is no port", "allowed: \"FIRST-LAST\""]);
    let few = "[turn]\nrelay_ports = \"50000-50009\"\nlimits.allocations = 11\n";
    assert_says(&warnings(few), &["11 allocations need as many ports", "holds 10", "warning: "]);
    let inside = "[turn]\nrelay_ports = \"3000-4000\"\n";
    assert_says(&warnings(inside), &["port 3478 of turn.listen is one of them"]);
    let alone = "[turn]\nlisten = \"udp://127.0.0.1:3478\"\ntcp_relay = true\n";
    assert_says(&warnings(alone), &["turn.tcp_relay", "add tcp:// or tls://"]);
    assert_eq!(warnings(&alone.replace("udp://", "")), "");
    assert_says(&warnings("[turn]\nrelay_ports = \"80-4000\"\n"), &["ports below 1024"]);
}

#[test]
fn peers_are_prefixes_that_can_be_peers() {
    let allow = |v: &str| format!("[turn]\nallow_peers = [\"{v}\"]\n");
    assert_says(&mistake(&allow("10.0.0.1/8")), &["did you mean 10.0.0.0/8?", "t.toml:2:16"]);
    assert_says(&mistake(&allow("10.0.0.0/99")), &["the prefix length must be 0 to 32"]);
    assert_says(&mistake(&allow("ten")), &["not an IP address or a prefix"]);
    assert_says(&mistake(&allow("224.1.0.0/16")), &["is multicast, which can never be a peer"]);
    assert_says(&mistake(&allow("0.0.0.0")), &["is unspecified, which can never be a peer"]);
    assert_says(&warnings(&allow("0.0.0.0/0")), &["opens every network"]);
    let loopback = warnings(&allow("127.0.0.0/8"));
    assert_says(&loopback, &["opens no address of this host", "such as 127.0.0.3/32"]);
    let both = "[turn]\nallow_peers = \"10.0.0.0/8\"\ndeny_peers = \"10.0.0.0/8\"\n";
    assert_says(&warnings(both), &["10.0.0.0/8 is in turn.deny_peers too, and deny wins"]);
}

#[test]
fn secrets_of_the_example_are_refused_and_short_ones_warned_of() {
    for text in [
        "[turn]\nshared_secret = \"replace-this-secret\"\n",
        "[turn]\nusers = [{ name = \"a\", password = \"replace-this-secret\" }]\n",
        "[broadcast]\nkeys = [{ name = \"a\", key = \"replace-this-secret\" }]\n",
    ] {
        assert_says(&mistake(text), &["this is the secret of the example", "t.toml:2:"]);
    }
    let text = warnings("[turn]\nshared_secret = \"north\"\n");
    assert_says(&text, &["less than 16 characters can be guessed", "t.toml:2:17"]);
    assert!(!text.contains("north"), "{text}");
    assert_says(&mistake("[turn]\nshared_secret = \"\"\n"), &["must not be empty"]);
}

#[test]
fn the_hash_of_credentials_is_one_or_several_words() {
    let hashes = |value: &str| {
        let loaded = parse(&format!("[turn]\ncredential_hash = {value}\n")).expect("it is valid");
        loaded.config.turn.credential_hash.to_vec()
    };
    let defaults = Loaded::parse(None, &Environment::default()).expect("defaults are valid");
    assert_eq!(defaults.config.turn.credential_hash.to_vec(), [CredentialHash::Sha1]);
    assert!(!defaults.config.turn.strict_expiry);
    assert_eq!(hashes("\"sha256\""), [CredentialHash::Sha256]);
    let both = [CredentialHash::Sha256, CredentialHash::Sha1];
    assert_eq!(hashes("[\"sha256\", \"sha1\"]"), both);
    let wrong = |value: &str| mistake(&format!("[turn]\ncredential_hash = {value}\n"));
    assert_says(&wrong("\"sha265\""), &["did you mean \"sha256\"", "t.toml:2:19"]);
    assert_says(&wrong("[]"), &["without a hash", "allowed: \"sha1\" or \"sha256\""]);
    let strict = parse("[turn]\nstrict_expiry = true\n").expect("it is valid");
    assert!(strict.config.turn.strict_expiry);
    assert_says(&mistake("[turn]\nstrict_expiry = \"yes\"\n"), &["allowed: true or false"]);
}

#[test]
fn names_and_passwords_are_prepared_as_clients_prepare_them() {
    let text = "[turn]\nrealm = \"Caf\u{65}\u{301}\"\n\
                users = [{ name = \"Ame\u{301}lie\", password = \"a\u{3000}e\u{301}\" }]\n";
    let loaded = parse(text).expect("it is valid");
    assert_eq!(loaded.config.turn.realm.text(), "Caf\u{e9}");
    let (name, password) = &loaded.secrets.users[0];
    assert_eq!((name.as_str(), password.expose().as_str()), ("Am\u{e9}lie", "a \u{e9}"));
    let twice = "[turn]\nusers = [{ name = \"Ame\u{301}lie\", password = \"x\" }, \
                 { name = \"Am\u{e9}lie\", password = \"y\" }]\n";
    assert_says(&mistake(twice), &["two users are called"]);
    let hidden = "[turn]\nusers = [{ name = \"a\", password = \"in\u{ad}visible\" }]\n";
    let said = mistake(hidden);
    assert_says(&said, &["the password of \"a\" cannot be used", "RFC 8265"]);
    assert!(!said.contains("visible"), "{said}");
    assert_says(&mistake("[turn]\nrealm = \"a\u{ad}b\"\n"), &["turn.realm", "RFC 8265"]);
}

#[test]
fn users_and_keys_are_told_apart() {
    let users = |v: &str| mistake(&format!("[turn]\nusers = [{v}]\n"));
    let twice = "{ name = \"a\", password = \"x\" }, { name = \"a\", password = \"y\" }";
    assert_says(&users(twice), &["two users are called \"a\""]);
    assert_says(&users("{ name = \"a\" }"), &["\"a\" needs one of password and password_file"]);
    assert_says(&users("{ password = \"x\" }"), &["missing field `name`", "t.toml:2:10"]);
    assert_says(&users("{ name = \"17:a\", password = \"x\" }"), &["as a time-limited credential"]);
    assert_says(&users("{ name = \"\", password = \"x\" }"), &["turn.users: it must not be empty"]);
    let keys = |v: &str| mistake(&format!("[broadcast]\nkeys = [{v}]\n"));
    let twice = "{ name = \"a\", key = \"x\" }, { name = \"a\", key = \"y\" }";
    assert_says(&keys(twice), &["two keys are called \"a\""]);
    assert_says(&keys("{ name = \"\", key = \"x\" }"), &["a key needs a name"]);
    assert_says(&keys("{ name = \"a\", key = \"x y\" }"), &["would not survive in a link"]);
}

#[test]
fn a_realm_fits_into_its_attribute() {
    assert_says(&mistake("[turn]\nrealm = \"\"\n"), &["turn.realm: it must not be empty"]);
    assert_says(&mistake("[turn]\nrealm = \"a\\\"b\"\n"), &["a quote or a backslash"]);
    let long = format!("[turn]\nrealm = \"{}\"\n", "x".repeat(128));
    assert_says(&mistake(&long), &["longer than 127 characters"]);
}

#[test]
fn origins_have_a_scheme_and_no_path() {
    let origin = |v: &str| mistake(&format!("[web]\nallowed_origins = [\"{v}\"]\n"));
    assert_says(&origin("www.example.org"), &["an origin begins with https://"]);
    assert_says(&origin("https://example.org/"), &["did you mean \"https://example.org\"?"]);
    assert_says(&origin("https://example.org:x"), &["the port must be a number"]);
    parse("[web]\nallowed_origins = \"https://[2001:db8::1]:8443\"\n").expect("an origin");
}

#[test]
fn what_opens_more_than_meant_is_warned_of() {
    let open = "[web]\nlisten = [\"0.0.0.0:8080\"]\n";
    let plain = format!("tls.mode = \"off\"\n{open}");
    assert_says(&warnings(&plain), &["browsers refuse the camera to pages without HTTPS"]);
    let publish = format!("broadcast.publish = \"open\"\n{open}");
    assert_says(&warnings(&publish), &["everybody who reaches this host may broadcast"]);
    assert_says(&warnings("admin.listen = \"0.0.0.0:9478\"\n"), &["shows metrics to the network"]);
    assert_says(&warnings("web.trusted_proxies = \"::/0\"\n"), &["trusts everybody's word"]);
    let host = format!("public_host = \"127.0.0.1\"\n{open}");
    assert_says(&warnings(&host), &["only this computer reaches a loopback address"]);
    let keys =
        "[broadcast]\npublish = \"open\"\nkeys = [{ name = \"a\", key = \"0123456789abcdef\" }]\n";
    assert_says(&warnings(keys), &["keys mean nothing while broadcast.publish is \"open\""]);
    assert_says(
        &mistake("[web.limits]\nqueue_bytes = 65536\nframe_bytes = 131072\n"),
        &["web.limits.queue_bytes: a single message would not fit", "at least"],
    );
    let limits =
        "[turn.limits]\nbandwidth_bytes_per_sec = 5\nbandwidth_per_allocation_bytes_per_sec = 6\n";
    assert_says(&mistake(limits), &["one allocation may take more than all of them"]);
    let limits = "[turn.limits]\nbandwidth_per_user_bytes_per_sec = 5\n\
                  bandwidth_per_allocation_bytes_per_sec = 6\n";
    assert_says(&mistake(limits), &["one allocation may take more than all those of its user"]);
    let limits =
        "[turn.limits]\nbandwidth_bytes_per_sec = 5\nbandwidth_per_user_bytes_per_sec = 6\n";
    assert_says(&mistake(limits), &["one user may take more than all users together"]);
}

#[test]
fn an_alternate_server_is_another_one_that_can_be_reached() {
    let own = "[turn]\nlisten = \"192.0.2.1:3478\"\nalternate_server = \"192.0.2.1:3478\"\n";
    assert_says(&mistake(own), &["turn.alternate_server", "clients would go round"]);
    for nobody in ["0.0.0.0:3478", "192.0.2.2:0", "[ff02::1]:3478"] {
        let text = format!("[turn]\nalternate_server = \"{nobody}\"\n");
        assert_says(&mistake(&text), &["nobody can be sent to", "name an address and a port"]);
    }
    let alone = "[turn]\nalternate_domain = \"turn2.example.org\"\n";
    assert_says(&mistake(alone), &["turn.alternate_domain", "needs its turn.alternate_server"]);
    let address = "[turn]\nalternate_domain = \"192.0.2.2\"\n";
    assert_says(&mistake(address), &["an address names no certificate"]);
}

#[test]
fn a_warning_is_one_line_for_the_log() {
    let loaded = parse("[turn]\nrelay_ports = \"80-4000\"\nlisten = \"127.0.0.1:9\"\n");
    assert_eq!(
        loaded.expect("allowed").warnings[0].line,
        "t.toml:2:15: turn.relay_ports: ports below 1024 belong to well-known services; \
         allowed, yet better from 1024 up"
    );
}

#[test]
fn a_section_is_no_value() {
    assert_says(
        &mistake("turn = 5\n"),
        &["turn is a section", "allowed: [turn] and keys below it"],
    );
}

#[test]
fn the_environment_overrides_the_file() {
    let loaded = parse_with(
        "[turn]\nrealm = \"file\"\nlisten = [\"127.0.0.1:1\"]\n",
        &[
            ("TURNCAST__TURN__REALM", "2026"),
            ("TURNCAST__TURN__LISTEN", "127.0.0.1:7"),
            ("TURNCAST__WEB__LISTEN", "[\"127.0.0.1:8\", \"[::1]:8\"]"),
            ("TURNCAST__TURN__LIMITS__ALLOCATIONS_PER_USER", "3"),
            ("TURNCAST__PUBLIC_HOST", "live.example.org"),
            ("TURNCAST__TURN__USERS", "[{ name = \"a\", password = \"0123456789abcdef\" }]"),
            ("TURNCASTLE", "is another program's"),
        ],
    )
    .expect("every override is right");
    assert_eq!(loaded.config.turn.realm.text(), "2026");
    assert_eq!(loaded.config.turn.listen[0].address.port(), 7);
    assert_eq!(loaded.config.web.listen.len(), 2);
    assert_eq!(loaded.config.turn.limits.allocations_per_user, 3);
    assert!(matches!(&loaded.config.public_host, Host::Is(n) if n.text() == "live.example.org"));
    assert_eq!(loaded.secrets.users[0].1.expose(), "0123456789abcdef");
}

#[test]
fn a_wrong_override_is_named() {
    let wrong = |name: &str, value: &str| {
        parse_with("", &[(name, value)]).expect_err("a wrong override").to_string()
    };
    assert_says(
        &wrong("TURNCAST__TURN__RELAM", "x"),
        &["TURNCAST__TURN__RELAM names no key", "did you mean TURNCAST__TURN__REALM?"],
    );
    assert_says(&wrong("TURNCAST__TURN", "x"), &["TURNCAST__TURN names no key"]);
    assert_says(
        &wrong("TURNCAST__SHUTDOWN_SECS", "soon"),
        &["shutdown_secs: this does not fit here", "TURNCAST__SHUTDOWN_SECS:1:1", "1 to 600"],
    );
}

#[test]
fn secrets_come_from_files_and_from_the_credentials_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    let path = file("two", "\nfirst-secret-first\nsecond-secret-second\n");
    let text = format!("[turn]\nshared_secret_file = {:?}\n", path.display().to_string());
    let found = |loaded: &Loaded| -> Vec<String> {
        loaded.secrets.shared.iter().map(|secret| secret.expose().clone()).collect()
    };
    let loaded = parse(&text).expect("a file with two secrets");
    assert_eq!(found(&loaded), ["first-secret-first", "second-secret-second"]);
    assert_says(&texts(&loaded), &["everybody on this host can read", "chmod o-r"]);

    file("shared_secret", "secret-of-systemd-1\n");
    file("alice", "password-of-alice-1\n");
    let credentials = [("CREDENTIALS_DIRECTORY", directory.path().to_str().expect("UTF-8"))];
    let users = "[turn]\nusers = [{ name = \"alice\", password_file = \"alice\" }]\n";
    let loaded = parse_with(users, &credentials).expect("both are there");
    assert_eq!(found(&loaded), ["secret-of-systemd-1"]);
    assert_eq!(loaded.secrets.users[0].1.expose(), "password-of-alice-1");
    let own = "[turn]\nshared_secret = \"0123456789abcdef\"\n";
    assert_eq!(found(&parse_with(own, &credentials).expect("its own")), ["0123456789abcdef"]);

    let both = format!("{text}shared_secret = \"0123456789abcdef\"\n");
    assert_says(&mistake(&both), &["shared_secret is set too", "keep one of the two keys"]);
    let missing = "[turn]\nshared_secret_file = \"no-such-file\"\n";
    assert_says(&mistake(missing), &["cannot read no-such-file", "t.toml:2:22", "No such file"]);
    let empty = format!("turn.shared_secret_file = {:?}\n", file("e", "\n").display().to_string());
    assert_says(&mistake(&empty), &["is empty", "a secret is a line of that file"]);
}

#[test]
fn a_configuration_with_secrets_that_everybody_can_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("t.toml");
    std::fs::write(&path, "turn.shared_secret = \"0123456789abcdef\"\n").expect("a file");
    for (mode, warned) in [(0o644, true), (0o640, false)] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("a mode");
        let loaded = Loaded::read(Some(&path), &Environment::default()).expect("allowed");
        assert_eq!(texts(&loaded).contains("everybody on this host can read"), warned);
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = Loaded::read(Some(Path::new("no-such.toml")), &Environment::default());
    let error = error.expect_err("no such file");
    assert_eq!(error.to_string(), "cannot read the configuration no-such.toml");
}

#[test]
fn the_example_in_the_repository_is_the_generated_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.toml");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, example()).expect("config.example.toml can be written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let made = example();
    let differs = found.lines().zip(made.lines()).find(|(found, made)| found != made);
    assert!(
        found == made,
        "UPDATE=1 cargo test --lib config writes config.example.toml; it differs at {differs:?}"
    );
    assert!(example().lines().all(|line| line.chars().count() <= 100));
}

#[test]
fn every_default_of_the_example_is_the_default() {
    parse(&example()).expect("the example as it is changes nothing");
    let uncommented: String = example()
        .lines()
        .filter(|line| !line.contains("# an example;"))
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let loaded = parse(&uncommented).expect("every default is allowed");
    let defaults = parse("").expect("defaults are valid");
    assert_eq!(format!("{:?}", loaded.config), format!("{:?}", defaults.config));
}

#[test]
fn every_example_value_is_of_the_right_form() {
    for line in example().lines().filter(|line| line.contains("# an example;")) {
        let Some((key, _)) = line.trim_start_matches('#').split_once(' ') else {
            panic!("{line}");
        };
        let mut section = String::new();
        for before in example().lines().take_while(|other| *other != line) {
            if before.starts_with('[') {
                section = before.to_owned();
            }
        }
        match parse(&format!("{section}\n{}\n", line.trim_start_matches('#'))) {
            Ok(_) => {}
            Err(error) => {
                let text = error.to_string();
                let expected = ["secret of the example", "needs its", "cannot read"];
                assert!(expected.iter().any(|e| text.contains(e)), "{key}: {text}");
            }
        }
    }
}
