//! An authority of the tests: it knows profiles and ARI, believes every signature, and does what
//! it is told.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::address::Address;
use crate::harness::DEADLINE;

/// A request that the stub got: the path, and the payload of its JWS.
#[derive(Debug, Clone)]
pub(super) struct Got {
    pub(super) path: String,
    pub(super) payload: Value,
}

/// What the stub shall do, and what was asked of it.
#[derive(Default)]
struct Script {
    got: Vec<Got>,
    /// The start and end of the renewal window of each further certificate.
    windows: Vec<(String, String)>,
    /// The Retry-After of an answer when to renew.
    ask_again: Option<u64>,
    /// Answers these orders, counted from the first one, with this status, problem and
    /// Retry-After.
    refusal: Option<(Range<usize>, u16, Value, u64)>,
    orders: usize,
    serial: u64,
    request: Vec<u8>,
    chain: String,
}

impl Script {
    /// Counts an order, and gives the refusal if it is to be refused.
    fn order(&mut self) -> Option<(u16, String, String)> {
        self.orders += 1;
        let (which, status, problem, after) = self.refusal.as_ref()?;
        let text = problem.as_str().map_or_else(|| problem.to_string(), str::to_owned);
        let headers = format!("Retry-After: {after}\r\n");
        which.contains(&(self.orders - 1)).then_some((*status, headers, text))
    }

    /// The answer to a question when to renew.
    fn window(&mut self) -> (u16, String, String) {
        let window = match self.windows.len() {
            0 => return (404, String::new(), json!({ "detail": "none" }).to_string()),
            1 => self.windows[0].clone(),
            _ => self.windows.remove(0),
        };
        let window = json!({ "suggestedWindow": { "start": window.0, "end": window.1 } });
        let ask_again = self.ask_again.unwrap_or(21_600);
        (200, format!("Retry-After: {ask_again}\r\n"), window.to_string())
    }
}

/// A running authority.
#[derive(Clone)]
pub(super) struct Stub {
    url: String,
    script: Arc<(Mutex<Script>, Condvar)>,
    issuer: Arc<(String, Issuer<'static, KeyPair>)>,
}

impl Stub {
    pub(super) fn start(own: &Address) -> Self {
        let listener = TcpListener::bind(SocketAddr::new(own.ip(), 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).expect("a root").pem();
        let stub = Self {
            url: format!("https://{address}"),
            script: Arc::default(),
            issuer: Arc::new((root, Issuer::new(params, key))),
        };
        let identity = own.identity();
        let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![identity.cert.der().clone()], key)
            .expect("a pair");
        let (config, served) = (Arc::new(config), stub.clone());
        std::thread::spawn(move || {
            for tcp in listener.incoming() {
                let (config, stub) = (Arc::clone(&config), served.clone());
                let tcp = tcp.expect("a connection");
                std::thread::spawn(move || stub.serve(tcp, config));
            }
        });
        stub
    }

    pub(super) fn directory(&self) -> String {
        format!("{}/dir", self.url)
    }

    /// The windows that are suggested for the certificates to come, as RFC 3339; the last one for
    /// all that follow.
    pub(super) fn suggest(&self, windows: &[(&str, &str)]) {
        let own = |(start, end): &(&str, &str)| ((*start).to_owned(), (*end).to_owned());
        self.lock().windows = windows.iter().map(own).collect();
    }

    /// Says after how many seconds to ask for a window again.
    pub(super) fn ask_again(&self, secs: u64) {
        self.lock().ask_again = Some(secs);
    }

    /// Refuses every order from now on. A problem that is a text is no JSON.
    pub(super) fn refuse(&self, status: u16, problem: Value, retry_after: u64) {
        self.refuse_orders(0..usize::MAX, status, problem, retry_after);
    }

    /// Refuses some orders, counted from the first one.
    pub(super) fn refuse_orders(
        &self,
        which: Range<usize>,
        status: u16,
        problem: Value,
        retry_after: u64,
    ) {
        self.lock().refusal = Some((which, status, problem, retry_after));
    }

    /// Refuses nothing any more.
    pub(super) fn accept(&self) {
        self.lock().refusal = None;
    }

    /// Everything that was asked so far for a path that begins so.
    pub(super) fn got(&self, path: &str) -> Vec<Got> {
        self.lock().got.iter().filter(|got| got.path.starts_with(path)).cloned().collect()
    }

    /// Waits until so many requests for a path that begins so have come.
    #[track_caller]
    pub(super) fn wait_for(&self, path: &str, count: usize) {
        let (script, more) = &*self.script;
        let lacks = |script: &mut Script| {
            script.got.iter().filter(|got| got.path.starts_with(path)).count() < count
        };
        let script = script.lock().expect("no thread panicked");
        let (script, waited) =
            more.wait_timeout_while(script, DEADLINE, lacks).expect("no thread panicked");
        assert!(!waited.timed_out(), "no {count} requests for {path}: {:?}", script.got);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.0.lock().expect("no thread panicked")
    }

    fn serve(&self, tcp: TcpStream, config: Arc<ServerConfig>) {
        let tls = ServerConnection::new(config).expect("a connection");
        let mut stream = BufReader::new(StreamOwned::new(tls, tcp));
        // Whoever hangs up is not the stub's business.
        while let Some((method, path, body)) = request(&mut stream) {
            let (status, headers, body) = self.answer(&method, &path, &body);
            let answer = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nReplay-Nonce: nonce\r\n{headers}\r\n",
                body.len()
            );
            let stream = stream.get_mut();
            let body = if method == "HEAD" { "" } else { &body };
            if write!(stream, "{answer}{body}").and_then(|()| stream.flush()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, method: &str, path: &str, body: &[u8]) -> (u16, String, String) {
        let url = &self.url;
        let jws: Value = serde_json::from_slice(body).unwrap_or_default();
        let payload = URL_SAFE_NO_PAD.decode(jws["payload"].as_str().unwrap_or_default());
        let payload: Value =
            serde_json::from_slice(&payload.unwrap_or_default()).unwrap_or_default();
        let mut script = self.lock();
        let got = Got { path: path.to_owned(), payload: payload.clone() };
        script.got.push(got);
        self.script.1.notify_all();
        let order = |status: &str, replaces: &Value| {
            let mut order = json!({
                "status": status, "authorizations": [format!("{url}/authz")],
                "finalize": format!("{url}/finalize"), "certificate": format!("{url}/cert"),
            });
            if !replaces.is_null() {
                order["replaces"] = replaces.clone();
            }
            order.to_string()
        };
        let location = |path: &str| format!("Location: {url}{path}\r\n");
        match path {
            "/dir" => {
                let directory = json!({
                    "newNonce": format!("{url}/nonce"), "newAccount": format!("{url}/account"),
                    "newOrder": format!("{url}/new-order"), "renewalInfo": format!("{url}/renewal"),
                    "meta": { "profiles": { "classic": "90 days", "shortlived": "6 days" } },
                });
                (200, String::new(), directory.to_string())
            }
            "/nonce" => (200, String::new(), String::new()),
            "/account" => (201, location("/account/1"), json!({ "status": "valid" }).to_string()),
            "/new-order" => script
                .order()
                .unwrap_or_else(|| (201, location("/order"), order("ready", &payload["replaces"]))),
            "/authz" => {
                let authorization = json!({
                    "identifier": { "type": "dns", "value": "live.example.org" },
                    "status": "valid", "challenges": [],
                });
                (200, String::new(), authorization.to_string())
            }
            "/finalize" => {
                let csr = payload["csr"].as_str().expect("a request");
                script.request = URL_SAFE_NO_PAD.decode(csr).expect("base64");
                script.serial += 1;
                script.chain = self.sign(&script.request, script.serial);
                (200, location("/order"), order("valid", &Value::Null))
            }
            "/order" => {
                let state = if script.chain.is_empty() { "ready" } else { "valid" };
                let state = if script.request.is_empty() { "ready" } else { state };
                (200, String::new(), order(state, &Value::Null))
            }
            "/cert" => {
                script.request.clear();
                (200, String::new(), script.chain.clone())
            }
            path if path.starts_with("/renewal/") && method == "GET" => script.window(),
            _ => (404, String::new(), json!({ "detail": "nothing is here" }).to_string()),
        }
    }

    fn sign(&self, request: &[u8], serial: u64) -> String {
        let (root, issuer) = &*self.issuer;
        let der = request.to_vec().into();
        let mut request = CertificateSigningRequestParams::from_der(&der).expect("a request");
        request.params.serial_number = Some(SerialNumber::from(serial));
        request.params.use_authority_key_identifier_extension = true;
        let now = std::time::SystemTime::now();
        request.params.not_before = now.into();
        request.params.not_after = (now + std::time::Duration::from_secs(90 * 86_400)).into();
        format!("{}{root}", request.signed_by(issuer).expect("a certificate").pem())
    }
}

/// Reads one request: method, path, body. `None` when there is none any more.
fn request(
    stream: &mut BufReader<StreamOwned<ServerConnection, TcpStream>>,
) -> Option<(String, String, Vec<u8>)> {
    let mut first = String::new();
    if stream.read_line(&mut first).ok()? == 0 {
        return None;
    }
    let mut words = first.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(bytes) = line.strip_prefix("content-length: ") {
            length = bytes.parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((method, path, body))
}
