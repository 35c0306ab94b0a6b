//! Pages and signaling while the core is busy with relaying.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::{ClientConnection, StreamOwned};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::client;

use super::{Cell, Runner, Sample, packets};
use crate::client::tls;
use crate::report::Goal;
use crate::target::{OWN, Target};

pub(super) fn cell() -> Cell {
    Cell::new("pages and signaling beside 172 B x 50", &[OWN], prepare)
        .goal(Goal::most("welcome p99 ms", 500.0))
        .goal(Goal::most("page p99 ms", 500.0))
}

fn prepare(target: &Target) -> Runner {
    let mut relaying = packets::single(target, 50, 172);
    let web = target.web().expect("our daemon has pages");
    Box::new(move |target, length| {
        let stop = AtomicBool::new(false);
        let (relayed, visited) = thread::scope(|scope| {
            let visitor = scope.spawn(|| visit(&web, &stop));
            let relayed = relaying(target, length.max(AT_LEAST));
            stop.store(true, Ordering::Relaxed);
            (relayed, visitor.join().expect("the visitor was served"))
        });
        let [welcomes, pages] = visited;
        let mut sample = Sample::from([
            ("welcome p99 ms", percentile(&welcomes, 0.99)),
            ("welcome p50 ms", percentile(&welcomes, 0.5)),
            ("page p99 ms", percentile(&pages, 0.99)),
            ("visits", pages.len() as f64),
        ]);
        sample.extend(relayed.into_iter().filter(|(name, _)| ["k/s", BUSY].contains(name)));
        sample
    })
}

/// Opens a page and a WebSocket, again and again, a little apart; how long each welcome and each
/// page took, in milliseconds.
fn visit(web: &Web, stop: &AtomicBool) -> [Vec<f64>; 2] {
    let mut took = [Vec::new(), Vec::new()];
    while !stop.load(Ordering::Relaxed) || took[1].is_empty() {
        let visit = took[0].len();
        took[0].push(welcome(web, visit).as_secs_f64() * 1e3);
        took[1].push(page(web).as_secs_f64() * 1e3);
        thread::sleep(Duration::from_millis(10));
    }
    took.iter_mut().for_each(|all| all.sort_by(f64::total_cmp));
    took
}

/// From `hello` to `welcome`, on a WebSocket of its own.
fn welcome(web: &Web, visit: usize) -> Duration {
    let (mut socket, _) = client(format!("ws://{}/ws", web.0), connect(web)).expect("a WebSocket");
    // A room of its own: nobody is refused because others have not gone yet.
    let room = format!("benchmark-{visit}");
    let hello = json!({ "t": "hello", "versions": [1], "role": "watcher", "room": room });
    let start = Instant::now();
    socket.send(Message::text(hello.to_string())).expect("it is open");
    let answer = socket.read().expect("an answer").into_text().expect("text");
    let took = start.elapsed();
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["t"], "welcome", "{answer}");
    took
}

fn page(web: &Web) -> Duration {
    let start = Instant::now();
    let mut stream = connect(web);
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", web.0);
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("a page");
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    start.elapsed()
}

fn connect((address, trust): &Web) -> StreamOwned<ClientConnection, TcpStream> {
    let stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a deadline");
    StreamOwned::new(tls(trust), stream)
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    let index = (sorted.len() as f64 * share) as usize;
    sorted.get(index).copied().unwrap_or(f64::INFINITY)
}

/// Where pages are, and the certificate to trust.
type Web = (SocketAddr, CertificateDer<'static>);

const BUSY: &str = "server busy %";
/// Enough for some visits.
const AT_LEAST: Duration = Duration::from_secs(2);
