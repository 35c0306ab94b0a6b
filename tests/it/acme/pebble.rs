//! Let's Encrypt's test authority, from the distribution's package.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::address::Address;
use crate::harness::DEADLINE;
use crate::https;

/// `pebble` and its name server, in which every name leads to the address of the test.
pub(super) struct Pebble {
    directory: tempfile::TempDir,
    url: String,
    management: SocketAddr,
    identity: CertificateDer<'static>,
    config: Value,
    dns: SocketAddr,
    variables: Vec<(String, String)>,
    children: Vec<Child>,
}

impl Pebble {
    /// Everything but the processes. Challenges are looked for at `port`.
    pub(super) fn prepare(own: &Address, port: u16, variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: String| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path
        };
        let certificate = write("cert.pem", own.certificate());
        let key = write("key.pem", own.identity().signing_key.serialize_pem());
        let address = || SocketAddr::new(own.ip(), own.free_port());
        let (api, management, dns) = (address(), address(), address());
        let config = json!({ "pebble": {
            "listenAddress": api, "managementListenAddress": management,
            "certificate": certificate, "privateKey": key,
            "httpPort": port, "tlsPort": port,
        }});
        Self {
            url: format!("https://{api}/dir"),
            management,
            identity: own.identity().cert.der().clone(),
            config,
            dns,
            variables: variables.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect(),
            children: Vec::new(),
            directory,
        }
    }

    /// A running authority.
    pub(super) fn start(own: &Address, port: u16, variables: &[(&str, &str)]) -> Self {
        let mut pebble = Self::prepare(own, port, variables);
        pebble.run();
        pebble
    }

    /// How long its certificates last.
    pub(super) fn certificates_last(&mut self, secs: u64) {
        self.config["pebble"]["certificateValidityPeriod"] = secs.into();
    }

    /// Looks for challenges by `http` or `tls` at another port.
    pub(super) fn looks_for(&mut self, kind: &str, port: u16) {
        self.config["pebble"][format!("{kind}Port")] = port.into();
    }

    /// Starts it and waits until it answers.
    pub(super) fn run(&mut self) {
        let path = self.directory.path().join("pebble.json");
        std::fs::write(&path, self.config.to_string()).expect("a file");
        let log = |name: &str| {
            let file = std::fs::File::create(self.directory.path().join(name));
            Stdio::from(file.expect("a log"))
        };
        let ip = self.dns.ip().to_string();
        let management = format!("{ip}:0");
        let dns = Command::new("pebble-challtestsrv")
            .args(["-defaultIPv4", &ip, "-defaultIPv6", "", "-dns01", &self.dns.to_string()])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-management", &management])
            .stdout(log("dns.log"))
            .stderr(log("dns.err"))
            .spawn()
            .expect("pebble-challtestsrv is installed: tests/run install");
        self.children.push(dns);
        let pebble = Command::new("pebble")
            .args(["-strict", "-dnsserver", &self.dns.to_string(), "-config"])
            .arg(&path)
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "5")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdout(log("pebble.log"))
            .stderr(log("pebble.err"))
            .spawn()
            .expect("pebble is installed: tests/run install");
        self.children.push(pebble);
        let api: SocketAddr =
            self.url["https://".len()..].trim_end_matches("/dir").parse().expect("an address");
        for address in [self.dns, self.management, api] {
            self.wait_for(address);
        }
    }

    fn wait_for(&mut self, address: SocketAddr) {
        let deadline = Instant::now() + DEADLINE;
        while TcpStream::connect(address).is_err() {
            let ended =
                self.children.iter_mut().any(|child| child.try_wait().is_ok_and(|e| e.is_some()));
            let log = || {
                let read = |name| std::fs::read_to_string(self.directory.path().join(name));
                ["dns.log", "dns.err", "pebble.log", "pebble.err"]
                    .map(|name| read(name).unwrap_or_default())
            };
            assert!(!ended && Instant::now() < deadline, "{address} does not answer: {:?}", log());
            std::thread::yield_now();
        }
    }

    /// The URL of its directory.
    pub(super) fn directory(&self) -> &str {
        &self.url
    }

    /// The root of what it issues.
    pub(super) fn root(&self) -> CertificateDer<'static> {
        let client = Arc::new(https::trusting(std::slice::from_ref(&self.identity)));
        let host = self.management.ip().to_string();
        let mut stream = https::connect(self.management, &host, &client).expect("pebble answers");
        let (status, pem) = https::get(&mut stream, &host, "/roots/0").expect("an answer");
        assert_eq!(status, 200);
        CertificateDer::from_pem_slice(&pem).expect("a certificate")
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Both fail when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
