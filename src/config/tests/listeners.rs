//! Where the daemon listens, and what browsers are told of it.

use super::*;

#[test]
fn a_wrong_listener_is_told_the_right_form() {
    let web = |value: &str| mistake(&format!("[web]\nlisten = [\"127.0.0.1:1\", {value}]\n"));
    assert_says(&web("\":8080\""), &["\"0.0.0.0:8080\" and \"[::]:8080\" are for everybody"]);
    assert_says(&web("\"localhost:81\""), &["did you mean \"127.0.0.1:81\"?", "t.toml:2:26"]);
    assert_says(&web("\"::1:8080\""), &["did you mean \"[::1]:8080\"?"]);
    assert_says(&web("\"10.0.0.1\""), &["the port is missing", "\"10.0.0.1:8080\""]);
    assert_says(&web("8080"), &["web.listen: this does not fit here", "allowed: IP addresses"]);
    let turn = |value: &str| mistake(&format!("[turn]\nlisten = {value}\n"));
    let without_certificate = ["tls://0.0.0.0:5349 needs a certificate", "or use tcp://"];
    assert_says(&turn("\"tls://0.0.0.0:5349\""), &without_certificate);
    assert_says(&turn("\"turns://0.0.0.0:1\""), &["did you mean \"tls://0.0.0.0:1\"?"]);
    assert_says(&turn("\"dtls://0.0.0.0:1\""), &["dtls:// is not built"]);
    assert_says(&turn("\"upd://0.0.0.0:3478\""), &["did you mean \"udp://0.0.0.0:3478\"?"]);
    assert_says(&turn("[]"), &["without a listener there is no relay"]);
    let all = r#"["udp://[::1]:3478", "127.0.0.1:3478", "tcp://[::1]:3478", "tls://[::1]:5349"]"#;
    let tls = "[tls]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n";
    let loaded = parse(&format!("[turn]\nlisten = {all}\n{tls}")).expect("all forms");
    let (udp, tcp, tls) = (TurnScheme::Udp, TurnScheme::Tcp, TurnScheme::Tls);
    let schemes: Vec<_> = loaded.config.turn.listen.iter().map(|l| l.schemes()).collect();
    assert_eq!(schemes, [&[udp][..], &[udp, tcp], &[tcp], &[tls]]);
}

#[test]
fn a_listener_stands_there_once() {
    assert_says(
        &mistake("[web]\nlisten = [\"127.0.0.1:80\", \"127.0.0.1:80\"]\n"),
        &["web.listen: 127.0.0.1:80 stands there twice", "t.toml:2:10"],
    );
    assert_says(
        &mistake("[admin]\nlisten = [\"127.0.0.1:8080\"]\n"),
        &["admin.listen: 127.0.0.1:8080 is in use by web.listen already", "t.toml:2:10"],
    );
    parse("[web]\nlisten = [\"127.0.0.1:0\", \"127.0.0.1:0\"]\n").expect("port 0 is always free");
    // A bare address of the relay is a port of TCP as well.
    assert_says(
        &mistake("[turn]\nlisten = [\"127.0.0.1:8080\"]\n"),
        &["turn.listen: 127.0.0.1:8080 is in use by web.listen already"],
    );
    assert_says(
        &mistake("[turn]\nlisten = [\"127.0.0.1:1\", \"tcp://127.0.0.1:1\"]\n"),
        &["turn.listen: 127.0.0.1:1 stands there twice"],
    );
    parse("[turn]\nlisten = [\"udp://127.0.0.1:8080\"]\n").expect("UDP has ports of its own");
}

#[test]
fn a_wildcard_uses_its_port_on_every_address_of_its_family() {
    let tls = "[tls]\ncertificate = \"c\"\nkey = \"k\"\n";
    let web =
        |first: &str, second: &str| format!("{tls}[web]\nlisten = [\"{first}\", \"{second}\"]\n");
    for (first, second) in [("0.0.0.0:443", "127.0.0.1:443"), ("[::1]:443", "[::]:443")] {
        let told = mistake(&web(first, second));
        assert_says(&told, &[&format!("web.listen: {second} and {first} are one port")]);
        let wide = if first.starts_with('0') { first } else { second };
        assert_says(&told, &[&format!("{wide} is every address of this machine")]);
    }
    parse(&web("0.0.0.0:443", "[::]:443")).expect("each family has ports of its own");
    parse(&web("0.0.0.0:443", "127.0.0.1:80")).expect("another port");
    parse(&web("0.0.0.0:0", "127.0.0.1:0")).expect("port 0 is always free");
    let turn = "[turn]\nlisten = \"tcp://127.0.0.1:443\"\n";
    assert_says(
        &mistake(&format!("{tls}[web]\nlisten = \"0.0.0.0:443\"\n{turn}")),
        &["turn.listen: 127.0.0.1:443 and 0.0.0.0:443 of web.listen are one port", "takes TURN"],
    );
    let udp = "[turn]\nlisten = [\"udp://0.0.0.0:3478\", \"udp://127.0.0.1:3478\"]\n";
    assert_says(&mistake(udp), &["turn.listen: 127.0.0.1:3478 and 0.0.0.0:3478 are one port"]);
}

#[test]
fn a_name_with_other_letters_is_told_its_form_in_the_dns() {
    let host = |value: &str| mistake(&format!("public_host = \"{value}\"\n"));
    assert_says(&host("bücher.example.org"), &["begins with xn--", "`idn2 bücher.example.org`"]);
    assert_says(&host("https://bücher.example.org/"), &["`idn2 bücher.example.org` prints it"]);
    assert_says(&host("bücher laden"), &["neither a host name nor an IP address"]);
    parse("public_host = \"xn--bcher-kva.example.org\"\n").expect("a host name");
}

#[test]
fn public_host_is_a_host_and_nothing_more() {
    let host = |value: &str| mistake(&format!("public_host = \"{value}\"\n"));
    assert_says(&host("https://live.example.org/"), &["did you mean \"live.example.org\"?"]);
    assert_says(&host("live.example.org:443"), &["did you mean \"live.example.org\"?"]);
    assert_says(&host("0.0.0.0"), &["no browser can reach that address"]);
    assert_says(
        &host("under score"),
        &["neither a host name nor an IP address", "allowed: \"auto\""],
    );
    let loaded = parse("public_host = \"[2001:DB8::1]\"\n").expect("an address");
    assert!(matches!(loaded.config.public_host, Host::Is(name) if name.text() == "2001:db8::1"));
}

#[test]
fn a_public_host_moves_the_listeners_that_nobody_has_set() {
    let listeners = |text: &str| {
        let config = parse(text).expect("a configuration").config;
        let web = config.web.listen.iter().map(ToString::to_string);
        let turn = config.turn.listen.iter().map(|listen| match listen.scheme {
            None => listen.address.to_string(),
            Some(scheme) => format!("{scheme:?} {}", listen.address),
        });
        let admin = config.admin.listen.iter().map(|address| format!("admin {address}"));
        let all: Vec<String> = web.chain(turn).chain(admin).collect();
        all.into_iter().filter(|address| !address.contains("[::]")).collect::<Vec<_>>().join(", ")
    };
    let pages = "[tls]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n";
    let moved = "0.0.0.0:443, 0.0.0.0:80, 0.0.0.0:3478, Udp 0.0.0.0:443, admin 127.0.0.1:9478";
    for host in ["cast.example.org", "203.0.113.7", "2001:db8::7"] {
        assert_eq!(listeners(&format!("public_host = \"{host}\"\n{pages}")), moved);
    }
    let stay = "127.0.0.1:8080, 127.0.0.1:3478, admin 127.0.0.1:9478";
    for host in ["auto", "localhost", "127.0.0.1", "::1"] {
        assert_eq!(listeners(&format!("public_host = \"{host}\"\n")), stay);
    }
    let web = "public_host = \"a.example\"\n[web]\nlisten = \"127.0.0.1:1\"\n";
    let of_relay = "127.0.0.1:1, 0.0.0.0:3478, Udp 0.0.0.0:443, admin 127.0.0.1:9478";
    assert_eq!(listeners(web), of_relay);
    let turn = format!("public_host = \"a.example\"\n[turn]\nlisten = \"127.0.0.1:2\"\n{pages}");
    assert_eq!(listeners(&turn), "0.0.0.0:443, 0.0.0.0:80, 127.0.0.1:2, admin 127.0.0.1:9478");
    let config = parse("public_host = \"a.example\"\n").expect("a configuration").config;
    let v6 = config.turn.listen.iter().filter(|listen| listen.address.is_ipv6()).count();
    assert_eq!(v6, if crate::net::has_ipv6() { 2 } else { 0 });
}

#[test]
fn ports_that_browsers_refuse_are_warned_of() {
    for (text, port) in [
        ("[turn]\nlisten = \"0.0.0.0:349\"", 349),
        ("[public_ports]\nudp = 5", 5),
        ("[public_ports]\ntcp = 993", 993),
        ("[web]\nlisten = \"127.0.0.1:444\"", 444),
    ] {
        assert_says(&warnings(text), &[&format!("browsers refuse TURN on port {port}"), "80"]);
    }
    let good = "[public_ports]\nudp = 0\ntcp = 443\n[turn]\nlisten = [\"udp://127.0.0.1:53\"]\n";
    assert_eq!(warnings(good), "");
    assert_eq!(warnings("[web]\nlisten = \"127.0.0.1:444\"\n[public_ports]\ntcp = 443"), "");
    assert_says(&mistake("[public_ports]\nudp = 65536"), &["from 0 to 65535"]);
    let twice = "[web]\nlisten = \"127.0.0.1:1\"\n[turn]\nlisten = \"127.0.0.1:1\"\n";
    assert_says(&mistake(twice), &["a listener of [web] takes TURN over TCP and TLS already"]);
}
