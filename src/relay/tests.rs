//! What a relay says when it starts.

use std::io::Write;
use std::sync::{Arc, Mutex};

use super::*;
use crate::credentials::Grants;
use crate::telemetry::Secret;

/// The lines of the log while a relay with these options starts.
fn told(options: Options) -> String {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("nobody panicked").write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
    tracing::subscriber::with_default(log.finish(), || {
        let mut entropy = Entropy::from_seed([1; 32]);
        let grants = Arc::new(Grants::new(Secret::new([2; 32])));
        let shared = Shared::new(Arc::new(turn_options_for_tests()), grants, &mut entropy);
        let listen = ["127.0.0.1:0", "127.0.0.1:0"].map(|text| text.parse().expect("an address"));
        let options = Options { listen: listen.to_vec(), workers: 2, ..options };
        let (metrics, heartbeats) = (Arc::default(), Heartbeats::default());
        let relay = Relay::start(options, Arc::new(shared), &metrics, &heartbeats, &mut entropy);
        assert!(relay.expect("a relay").stop(Duration::from_secs(10)));
    });
    let bytes = lines.0.lock().expect("nobody panicked").clone();
    String::from_utf8(bytes).expect("lines in UTF-8")
}

#[test]
fn buffers_that_the_kernel_cuts_are_told_once_with_what_to_set() {
    let cut = told(Options { client_buffer_bytes: 1 << 30, ..Options::default() });
    let line = "run: sysctl -w net.core.rmem_max=1073741824 net.core.wmem_max=1073741824";
    assert_eq!(cut.matches(line).count(), 1, "{cut}");
    let whole = told(Options { client_buffer_bytes: 64 << 10, ..Options::default() });
    assert!(!whole.contains("sysctl"), "{whole}");
}

#[test]
fn each_feature_that_is_missing_is_told_once() {
    let options = || Options { client_buffer_bytes: 64 << 10, ..Options::default() };
    assert_eq!(told(options()), "");
    for (name, features) in Features::all_but_one() {
        let lines = told(Options { features, ..options() });
        assert_eq!(lines.lines().count(), 1, "{lines}");
        assert!(lines.contains(&format!("no {name}: ")), "{lines}");
    }
}
