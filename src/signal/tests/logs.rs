//! What the log must not know.

use std::io;
use std::sync::Mutex;

use super::*;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_secret_and_no_whole_address_reaches_the_log() {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // With one subscriber alive, a line that another test's thread reaches first counts as
    // unwanted for good, because that thread has none; with two, everybody is asked.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let mut secrets = vec!["open sesame".to_owned(), "the landlord".to_owned()];
    // With one subscriber alive, a line that another test's thread reaches first counts as
    // unwanted for good, because that thread has none; with two, everybody is asked.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    tracing::subscriber::with_default(subscriber, || {
        let mut world = World::new();
        let key = Secret::new("open sesame".to_owned());
        world.keys = vec![BroadcastKey { name: "the landlord".into(), key }];
        let refused = world.open_as(false);
        let mut hello = json!({"t": "hello", "versions": [1], "role": "broadcaster",
            "room": "stage", "key": "open sesam"});
        world.say(refused, hello.clone());
        hello["key"] = json!("open sesame");
        let conn = world.open_as(false);
        let broadcaster = world.hello(conn, hello);
        let watcher = world.watch("stage");
        let list = json!([candidate("192.0.2.77", "host")]);
        world.say(
            watcher.conn,
            json!({"t": "candidates", "link": watcher.link, "candidates": list}),
        );
        world.say(watcher.conn, json!({"t": "report", "link": watcher.link, "state": "failed"}));
        world.say(watcher.conn, json!({"t": "restart", "link": watcher.link, "rebuild": true}));
        world.close(watcher.conn, Closed::Lost);
        let conn = world.open();
        world.hello(conn, watcher.back(1));
        world.say(broadcaster.conn, json!({"t": "end"}));
        for page in [&broadcaster, &watcher] {
            secrets.push(text(&page.welcome["resume"]));
            secrets.push(text(&page.welcome["ice"]["servers"][0]["credential"]));
            secrets.push(grant_name(&page.welcome["ice"]));
        }
        secrets.push(broadcaster.room_key());
    });
    let log = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("room live") && log.contains("room ended"), "{log}");
    secrets.extend(["198.51.100.7".to_owned(), "192.0.2.77".to_owned()]);
    for secret in secrets {
        assert!(!log.contains(&secret), "{secret} is in\n{log}");
    }
}
