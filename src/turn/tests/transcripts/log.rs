//! What the engine writes into the log while every transcript is replayed.

use std::sync::{Arc, Mutex};

use super::{Script, Seen, transcripts};

/// What a log writer keeps.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("one thread").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_address_name_or_secret_reaches_the_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // With one subscriber alive, a line that another test's thread reaches first counts as
    // unwanted for good, because that thread has none; with two, everybody is asked.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    tracing::subscriber::with_default(subscriber, || {
        for path in transcripts() {
            let text = std::fs::read_to_string(&path).expect("a transcript");
            Script::replay(&path, &text, &mut Seen::default());
        }
    });
    let log = String::from_utf8(log.0.lock().expect("one thread").clone()).expect("text");
    for line in ["allocation created", "allocation ended", "request refused", "peer denied"] {
        assert!(log.contains(line), "{line} is not in the log");
    }
    // Whoever scans us fills no log: a stranger is counted only.
    assert!(!log.contains("code=401"));
    for secret in ["192.0.2.1", "198.51.100.1", "9.9.9.9", ":40001", "alice", "carol", "secret"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is in the log");
    }
}
