//! Who gets in, who leaves, and what the others hear of it.

use super::*;
use crate::metrics::{Limit, Refusal};

#[test]
fn a_watcher_is_welcomed_with_credentials_whether_or_not_somebody_broadcasts() {
    let mut world = World::new();
    let conn = world.open();
    let mut hello = watcher("lobby");
    hello["id"] = json!("q\"1");
    let page = world.hello(conn, hello);
    let welcome = &page.welcome;
    assert_eq!(welcome["re"], "q\"1");
    assert_eq!(welcome["seq"], 1);
    assert_eq!(welcome["version"], 1);
    assert_eq!(welcome["room"], json!({"name": "lobby", "state": "waiting", "watchers": 1}));
    assert_eq!(welcome.get("upstream"), None);
    assert_eq!(welcome.get("room_key"), None);
    assert_eq!(welcome["resumed"], false);
    assert_eq!(welcome["limits"]["viewers"], 8);
    assert_eq!(welcome["ping"], json!({"interval_secs": 15, "timeout_secs": 10}));
    assert_eq!(welcome["build"], "test");
    let ice = &welcome["ice"];
    assert_eq!(ice["ttl_secs"], 300);
    assert_eq!(ice["policy"], "all");
    assert_eq!(ice["servers"][0]["urls"], json!(["turn:turn.example:3478?transport=udp"]));
    let username = text(&ice["servers"][0]["username"]);
    assert!(username.starts_with("1800000300:"), "{username}");
    let password = world.grants.password(&username);
    assert_eq!(ice["servers"][0]["credential"], password.expose().as_str());
    assert!(world.grant(ice).is_some());
    assert!(!page.link.is_empty());
    world.check();
}

#[test]
fn a_watcher_before_the_broadcaster_starts_by_itself() {
    let mut world = World::new();
    let watcher = world.watch("early");
    let broadcaster = world.broadcast("early");
    assert_eq!(broadcaster.welcome["room"]["state"], "live");
    assert_eq!(broadcaster.welcome["room"]["watchers"], 1);
    assert!(world.grant(&broadcaster.welcome["ice"]).is_some());
    let live = world.take(watcher.conn, "room");
    assert_eq!(live["state"], "live");
    assert_eq!(live["upstream"], broadcaster.member.as_str());
    assert_eq!(live["link"], watcher.link.as_str());
    assert_eq!(grant_name(&live["ice"]), grant_name(&watcher.welcome["ice"]));
    let joined = world.take(broadcaster.conn, "member");
    assert_eq!(joined["event"], "joined");
    assert_eq!(joined["member"], watcher.member.as_str());
    assert_eq!(joined["link"], watcher.link.as_str());
    assert_ne!(grant_name(&joined["ice"]), grant_name(&live["ice"]), "each side has its own");
    assert_ne!(grant_name(&joined["ice"]), grant_name(&broadcaster.welcome["ice"]));
    world.check();
}

#[test]
fn a_watcher_of_a_live_room_is_told_whom_to_expect() {
    let mut world = World::new();
    let broadcaster = world.broadcast("on");
    let first = world.watch("on");
    let conn = world.open();
    let mut hello = watcher("on");
    hello["name"] = json!("  Zoë ");
    let second = world.hello(conn, hello);
    assert_eq!(second.welcome["room"], json!({"name": "on", "state": "live", "watchers": 2}));
    assert_eq!(second.welcome["upstream"], broadcaster.member.as_str());
    assert_eq!(world.take(broadcaster.conn, "member").get("name"), None);
    assert_eq!(world.take(broadcaster.conn, "member")["name"], "Zoë");
    let count = world.take(first.conn, "member");
    assert_eq!((&count["event"], &count["watchers"]), (&json!("count"), &json!(2)));
    assert_eq!(world.heard(second.conn), [] as [Value; 0]);
}

#[test]
fn a_watcher_who_leaves_is_revoked_on_both_sides_and_the_broadcaster_told() {
    for how in ["bye", "clean", "farewell", "farewell of a lost one", "grace"] {
        let mut world = World::new();
        let broadcaster = world.broadcast("on");
        let watcher = world.watch("on");
        let joined = world.take(broadcaster.conn, "member");
        let (near, far) = (grant_name(&watcher.welcome["ice"]), grant_name(&joined["ice"]));
        match how {
            "bye" => world.say(watcher.conn, json!({"t": "bye", "reason": "pagehide"})),
            "clean" => world.close(watcher.conn, Closed::Clean),
            "farewell" => world.farewell(&watcher.token()),
            "farewell of a lost one" => {
                world.close(watcher.conn, Closed::Lost);
                world.farewell(&watcher.token());
            }
            _ => {
                world.close(watcher.conn, Closed::Lost);
                world.pass_with(25, &[&broadcaster]);
                assert_eq!(world.heard(broadcaster.conn), [] as [Value; 0]);
                assert_eq!(world.revoked, [] as [String; 0]);
                world.pass_with(10, &[&broadcaster]);
            }
        }
        assert_eq!(world.revoked, [near, far], "{how}");
        let left = world.take(broadcaster.conn, "member");
        assert_eq!(left["event"], "left");
        assert_eq!(left["member"], watcher.member.as_str());
        assert_eq!(left["link"], watcher.link.as_str());
        assert_eq!(left["watchers"], 0);
        let closed = ["bye", "farewell"].contains(&how).then_some(&(1000, "bye"));
        assert_eq!(world.ends.get(&watcher.conn), closed);
        world.check();
    }
}

#[test]
fn a_farewell_is_heard_from_the_holder_of_the_token_alone_and_once() {
    let mut world = World::new();
    let (broadcaster, watcher) = world.live("r");
    let token = watcher.token();
    let (member, secret) = token.split_once('.').expect("MEMBER.SECRET");
    let others = format!("{}.{secret}", broadcaster.member);
    let forged = format!("{member}.{}", "x".repeat(secret.len()));
    for wrong in ["", ".", member, &token[..token.len() - 1], &others, &forged] {
        world.farewell(wrong);
        assert_eq!(world.metrics.watchers.value(), 1, "{wrong}");
        world.check();
    }
    world.farewell(&token);
    assert_eq!(world.take(broadcaster.conn, "member")["event"], "left");
    let next = world.watch("r");
    world.heard(broadcaster.conn);
    world.farewell(&token);
    world.say(watcher.conn, json!({"t": "bye"}));
    assert_eq!(world.heard(broadcaster.conn), [] as [Value; 0]);
    assert_eq!(world.metrics.watchers.value(), 1);
    // A broadcaster leaves the room as by `bye`: it waits, and the holder of its key comes back.
    world.farewell(&broadcaster.token());
    assert_eq!(world.take(next.conn, "room")["state"], "waiting");
    world.check();
    let conn = world.open();
    let back = json!({"t": "hello", "versions": [1], "role": "broadcaster", "room": "r",
        "room_key": broadcaster.room_key()});
    world.hello(conn, back);
    assert_eq!(world.take(next.conn, "room")["state"], "live");
    world.check();
}

#[test]
fn rooms_know_nothing_of_one_another() {
    // The seed had one broadcaster for all.
    let mut world = World::new();
    let (one, one_watcher) = world.live("one");
    let (two, two_watcher) = world.live("two");
    world.say(one.conn, json!({"t": "end"}));
    assert_eq!(world.take(one_watcher.conn, "room")["state"], "ended");
    assert_eq!(world.heard(two.conn), [] as [Value; 0]);
    assert_eq!(world.heard(two_watcher.conn), [] as [Value; 0]);
    world.say(two.conn, two.offer(&two_watcher.link));
    assert_eq!(world.take(two_watcher.conn, "offer")["from"], two.member.as_str());
    world.check();
}

#[test]
fn a_broadcaster_needs_a_key_unless_publishing_is_open() {
    let mut world = World::new();
    let key = Secret::new("open sesame".to_owned());
    world.keys = vec![BroadcastKey { name: "default".into(), key }];
    let hello = |key: Value| {
        json!({"t": "hello", "versions": [1], "role": "broadcaster",
        "room": "r", "key": key})
    };
    for (key, code) in [(json!(null), "key-required"), (json!("open"), "bad-key")] {
        let conn = world.open_as(false);
        world.say(conn, hello(key));
        assert_eq!(world.error(conn), code);
        assert_eq!(world.ends[&conn].1, code);
    }
    assert_eq!(world.metrics.refusals(Refusal::Key), 2);
    assert_eq!(world.metrics.rooms.value(), 0);
    let conn = world.open_as(false);
    world.hello(conn, hello(json!("open sesame")));
    // A rotated key is worth nothing at once, though the room it opened goes on.
    world.keys.clear();
    let conn = world.open_as(false);
    world.say(conn, hello(json!("open sesame")));
    assert_eq!(world.error(conn), "bad-key");
    let conn = world.open();
    let mut open = hello(json!(null));
    open["room"] = json!("other");
    world.hello(conn, open);
}

#[test]
fn a_broadcaster_without_a_room_gets_one_that_can_be_read_out() {
    let mut world = World::new();
    let conn = world.open();
    let hello = json!({"t": "hello", "versions": [1], "role": "broadcaster"});
    let page = world.hello(conn, hello);
    assert_eq!(page.room.len(), 10);
    assert!(page.room.bytes().all(|byte| b"abcdefghjkmnpqrstuvwxyz23456789".contains(&byte)));
}

#[test]
fn names_are_checked() {
    let mut world = World::new();
    let ok = "aZ0-_".repeat(13);
    for room in ["", "a b", "ä", "a/b", "a.b", "a\u{0}", &ok] {
        let conn = world.open();
        world.say(conn, watcher(room));
        assert_eq!(world.error(conn), "bad-message", "{room:?}");
        assert_eq!(world.ends[&conn], (4000, "bad-message"));
    }
    world.watch(&ok[..64]);
    for name in ["x".repeat(65), "a\nb".into(), "a\u{7f}".into(), "a\u{202e}b".into()] {
        let conn = world.open();
        let mut hello = watcher("r");
        hello["name"] = json!(name);
        world.say(conn, hello);
        assert_eq!(world.error(conn), "bad-message");
    }
    let conn = world.open();
    let mut hello = watcher("r");
    hello["name"] = json!("ü".repeat(64));
    world.hello(conn, hello);
    let conn = world.open();
    world.say(conn, json!({"t": "hello", "versions": [1], "role": "watcher"}));
    assert_eq!(world.error(conn), "bad-message", "a watcher must say which room");
}

#[test]
fn only_version_1_is_spoken() {
    let mut world = World::new();
    for versions in [json!([]), json!([2, 3]), json!(null)] {
        let conn = world.open();
        let mut hello = watcher("r");
        if !versions.is_null() {
            hello["versions"] = versions;
        } else {
            hello.as_object_mut().unwrap().remove("versions");
        }
        world.say(conn, hello);
        let error = world.take(conn, "error");
        assert_eq!(error["code"], "unsupported-version");
        assert_eq!(error["retry"], false);
        assert_eq!(error.get("seq"), None, "there is no member yet");
        assert_eq!(world.ends[&conn], (4002, "unsupported-version"));
    }
    assert_eq!(world.metrics.refusals(Refusal::Version), 3);
    let conn = world.open();
    let mut hello = watcher("r");
    hello["versions"] = json!([7, 1]);
    world.hello(conn, hello);
}

#[test]
fn the_ninth_watcher_reads_that_the_broadcast_is_full() {
    let mut world = World::new();
    let broadcaster = world.broadcast("full");
    let watchers: Vec<_> = (0..8).map(|_| world.watch("full")).collect();
    let conn = world.open();
    world.say(conn, watcher("full"));
    let error = world.take(conn, "error");
    assert_eq!((&error["code"], &error["retry"]), (&json!("room-full"), &json!(true)));
    assert_eq!(world.ends[&conn], (4009, "room-full"));
    assert_eq!(world.metrics.limits(Limit::Viewers), 1);
    // A lost socket keeps its place, one that left gives it up.
    world.close(watchers[0].conn, Closed::Lost);
    let conn = world.open();
    world.say(conn, watcher("full"));
    assert_eq!(world.error(conn), "room-full");
    world.close(watchers[1].conn, Closed::Clean);
    world.watch("full");
    assert_eq!(world.metrics.watchers.value(), 8);
    assert_eq!(world.heard(broadcaster.conn).len(), 10);
    world.check();
}

#[test]
fn rooms_are_bounded() {
    let mut world = World::with(|options| options.rooms = 2);
    world.broadcast("one");
    let two = world.broadcast("two");
    let conn = world.open();
    world.say(conn, json!({"t": "hello", "versions": [1], "role": "broadcaster"}));
    assert_eq!(world.error(conn), "no-room");
    assert_eq!(world.ends[&conn], (4008, "no-room"));
    assert_eq!(world.metrics.limits(Limit::Rooms), 1);
    world.watch("one");
    world.say(two.conn, json!({"t": "bye"}));
    let conn = world.open();
    world.say(conn, json!({"t": "hello", "versions": [1], "role": "broadcaster"}));
    assert_eq!(world.error(conn), "no-room", "the room waits for its broadcaster");
    world.pass(31);
    world.broadcast("three");
}

#[test]
fn strangers_who_wait_leave_room_for_broadcasts() {
    let mut world = World::with(|options| options.rooms = 2);
    world.watch("a");
    let b = world.watch("b");
    let conn = world.open();
    world.say(conn, watcher("c"));
    assert_eq!(world.error(conn), "no-room");
    assert_eq!(world.ends[&conn], (4008, "no-room"));
    assert_eq!(world.metrics.limits(Limit::Rooms), 1);
    world.broadcast("mine");
    world.watch("mine");
    world.broadcast("a");
    let conn = world.open();
    let hello = json!({"t": "hello", "versions": [1], "role": "broadcaster", "room": "b"});
    world.say(conn, hello);
    assert_eq!(world.error(conn), "no-room", "a room that waits counts when it goes live");
    world.say(b.conn, json!({"t": "bye"}));
    world.watch("c");
    world.check();
}

#[test]
fn a_second_broadcaster_is_told_that_the_room_is_live() {
    let mut world = World::new();
    let first = world.broadcast("mine");
    for room_key in [json!(null), json!("A".repeat(22))] {
        let conn = world.open();
        world.say(
            conn,
            json!({"t": "hello", "versions": [1], "role": "broadcaster",
            "room": "mine", "room_key": room_key}),
        );
        assert_eq!(world.error(conn), "room-live");
        assert_eq!(world.ends[&conn], (4007, "room-live"));
    }
    assert_eq!(world.metrics.refusals(Refusal::RoomLive), 2);
    assert_eq!(world.heard(first.conn), [] as [Value; 0]);
}

#[test]
fn the_room_key_takes_over_and_the_replaced_one_is_told_why() {
    let mut world = World::new();
    let (old, watcher) = world.live("mine");
    let conn = world.open_as(false);
    let hello = json!({"t": "hello", "versions": [1], "role": "broadcaster", "room": "mine",
        "room_key": old.room_key()});
    let new = world.hello(conn, hello);
    assert_eq!(new.room_key(), old.room_key());
    let bye = world.take(old.conn, "bye");
    assert_eq!((&bye["reason"], &bye["action"]), (&json!("taken-over"), &json!("stop")));
    assert_eq!(world.ends[&old.conn], (1000, "taken-over"));
    let live = world.take(watcher.conn, "room");
    assert_eq!(live["state"], "live");
    assert_eq!(live["upstream"], new.member.as_str());
    assert_ne!(live["link"], watcher.link.as_str());
    assert_eq!(world.take(new.conn, "member")["link"], live["link"]);
    assert_eq!(world.heard(watcher.conn), [] as [Value; 0], "no waiting in between");
    assert!(world.revoked.contains(&grant_name(&watcher.welcome["ice"])));
    assert!(world.revoked.contains(&grant_name(&old.welcome["ice"])));
    // The old token is worth nothing any more.
    let conn = world.open();
    world.say(conn, old.back(0));
    assert_eq!(world.error(conn), "room-live");
    world.check();
}

#[test]
fn a_broadcaster_who_reloads_finds_the_room_kept_for_the_key() {
    let mut world = World::new();
    let (old, watcher) = world.live("mine");
    world.say(old.conn, json!({"t": "bye"}));
    let waiting = world.take(watcher.conn, "room");
    assert_eq!(waiting["state"], "waiting");
    assert_ne!(waiting["link"], watcher.link.as_str());
    assert!(world.grant(&waiting["ice"]).is_some());
    assert!(world.grant(&watcher.welcome["ice"]).is_none());
    assert!(world.grant(&old.welcome["ice"]).is_none());
    world.check();
    let conn = world.open();
    let stranger = json!({"t": "hello", "versions": [1], "role": "broadcaster", "room": "mine"});
    world.say(conn, stranger.clone());
    assert_eq!(world.error(conn), "room-live");
    let conn = world.open_as(false);
    let mut owner = stranger.clone();
    owner["room_key"] = json!(old.room_key());
    let new = world.hello(conn, owner);
    let live = world.take(watcher.conn, "room");
    assert_eq!(live["link"], waiting["link"], "the waiting link is the one that goes live");
    assert_eq!(live["upstream"], new.member.as_str());
    world.check();
    // Once nobody comes back, the name is free, also for another key.
    world.say(new.conn, json!({"t": "bye"}));
    world.pass_with(35, &[&watcher]);
    let conn = world.open();
    let next = world.hello(conn, stranger);
    assert_ne!(next.room_key(), new.room_key());
    world.check();
}

#[test]
fn a_restarted_server_takes_the_room_key_that_the_broadcaster_brings() {
    let mut world = World::new();
    let room_key = "Q1w2E3r4T5y6U7i8O9p0-_";
    let conn = world.open_as(false);
    let mut hello = json!({"t": "hello", "versions": [1], "role": "broadcaster",
        "room": "mine", "room_key": room_key,
        "resume": {"token": "gone.gone", "last_seq": 12}});
    world.say(conn, hello.clone());
    assert_eq!(world.error(conn), "key-required", "a key of one's own admits nobody");
    let conn = world.open();
    let page = world.hello(conn, hello.clone());
    assert_eq!(page.room_key(), room_key);
    assert_eq!(page.welcome["resumed"], false);
    assert_eq!(page.welcome["seq"], 1);
    hello["room"] = json!("other");
    hello["room_key"] = json!("short");
    let conn = world.open();
    assert_ne!(world.hello(conn, hello).room_key(), "short");
}

#[test]
fn end_ends_the_broadcast_for_everybody() {
    let mut world = World::new();
    let (broadcaster, watcher) = world.live("show");
    let lost = world.watch("show");
    world.close(lost.conn, Closed::Lost);
    world.say(watcher.conn, json!({"t": "end"}));
    assert_eq!(world.error(watcher.conn), "forbidden");
    world.heard(watcher.conn);
    world.say(broadcaster.conn, json!({"t": "end"}));
    let heard = world.heard(watcher.conn);
    assert_eq!(types(&heard), ["room", "bye"]);
    assert_eq!(heard[0]["state"], "ended");
    assert_eq!((&heard[1]["reason"], &heard[1]["action"]), (&json!("room-ended"), &json!("stop")));
    assert_eq!(world.ends[&watcher.conn], (4011, "room-ended"));
    let bye = world.take(broadcaster.conn, "bye");
    assert_eq!((&bye["reason"], &bye["action"]), (&json!("ended"), &json!("stop")));
    assert_eq!(world.ends[&broadcaster.conn], (1000, "ended"));
    assert_eq!((world.metrics.rooms.value(), world.grants.count()), (0, 0));
    world.check();
}

#[test]
fn a_connection_that_is_silent_or_never_says_hello_is_given_up() {
    let mut world = World::new();
    let (broadcaster, watcher) = world.live("quiet");
    let stranger = world.open();
    world.pass_with(20, &[&broadcaster]);
    world.say(stranger, json!({"t": "ping", "id": "1"}));
    assert_eq!(world.take(stranger, "pong"), json!({"t": "pong", "re": "1"}));
    world.pass_with(5, &[&broadcaster]);
    assert_eq!(world.ends[&stranger], (1001, "silent"), "a ping alone keeps nothing open");
    assert_eq!(world.ends[&watcher.conn], (1001, "silent"));
    assert_eq!(world.heard(broadcaster.conn), [] as [Value; 0], "the watcher may come back");
    world.pass_with(30, &[&broadcaster]);
    assert_eq!(world.take(broadcaster.conn, "member")["event"], "left");
    world.check();
    world.pass_with(1000, &[&broadcaster]);
    assert!(!world.ends.contains_key(&broadcaster.conn));
}

#[test]
fn draining_says_bye_to_everybody_and_refuses_newcomers() {
    let mut world = World::new();
    let (broadcaster, watcher) = world.live("r");
    let stranger = world.open();
    world.drain();
    for conn in [broadcaster.conn, watcher.conn, stranger] {
        let bye = world.take(conn, "bye");
        assert_eq!(bye["reason"], "draining");
        assert_eq!((&bye["action"], &bye["retry_after_ms"]), (&json!("resume"), &json!(2000)));
        assert_eq!(world.ends[&conn], (4015, "draining"));
    }
    let conn = world.open();
    world.say(conn, watcher.back(1));
    assert_eq!(world.error(conn), "draining");
    assert_eq!(world.ends[&conn], (4015, "draining"));
    world.end(&[]);
}

#[test]
fn credentials_are_refreshed_at_two_thirds_of_their_life() {
    let mut world = World::with(|options| options.credential_ttl_secs = 30);
    let broadcaster = world.broadcast("long");
    let watcher = world.watch("long");
    let joined = world.take(broadcaster.conn, "member");
    world.pass_with(15, &[&broadcaster, &watcher]);
    assert_eq!(world.heard(watcher.conn), [] as [Value; 0]);
    world.pass_with(5, &[&broadcaster, &watcher]);
    let fresh = world.take(watcher.conn, "ice");
    assert_eq!(grant_name(&fresh["ice"]), grant_name(&watcher.welcome["ice"]));
    assert!(text(&fresh["ice"]["servers"][0]["username"]).starts_with("1800000050:"));
    let fresh = world.take(broadcaster.conn, "ice");
    assert_eq!(grant_name(&fresh["ice"]), grant_name(&broadcaster.welcome["ice"]));
    assert_eq!(fresh["links"][0]["link"], joined["link"]);
    assert_eq!(grant_name(&fresh["links"][0]["ice"]), grant_name(&joined["ice"]));
    assert_eq!(world.heard(broadcaster.conn), [] as [Value; 0], "one message with all links");
    let late = world.watch("long");
    let joined = world.take(broadcaster.conn, "member");
    assert!(text(&joined["ice"]["servers"][0]["username"]).starts_with("1800000050:"));
    world.pass_with(100, &[&broadcaster, &watcher, &late]);
    assert_eq!(types(&world.heard(late.conn)), ["ice"; 5]);
    let lone = world.watch("waiting");
    world.pass_with(20, &[&lone]);
    assert_eq!(types(&world.heard(lone.conn)), ["ice"]);
}
