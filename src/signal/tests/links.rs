//! What the two sides of a link say to each other, and what nobody else may say there.

use super::*;
use crate::metrics::{Limit, Refusal};

#[test]
fn offers_answers_and_candidates_reach_the_other_side_in_order() {
    let mut world = World::new();
    let (broadcaster, watcher) = world.live("r");
    let link = watcher.link.as_str();
    // A candidate before its description is not lost (the seed lost it).
    let early = json!([candidate("192.0.2.1", "host"), null]);
    world.say(broadcaster.conn, json!({"t": "candidates", "link": link, "candidates": early}));
    world.say(broadcaster.conn, json!({"t": "offer", "link": link, "sdp": "v=0\r\ns=1\r\n"}));
    let heard = world.heard(watcher.conn);
    assert_eq!(types(&heard), ["candidates", "offer"]);
    assert_eq!(heard[0]["candidates"], early);
    assert_eq!(heard[1]["sdp"], "v=0\r\ns=1\r\n");
    for message in &heard {
        assert_eq!(message["link"], link);
        assert_eq!(message["from"], broadcaster.member.as_str());
    }
    assert_eq!(heard[1]["seq"], heard[0]["seq"].as_u64().unwrap() + 1);
    world.say(watcher.conn, json!({"t": "answer", "link": link, "sdp": "v=0\r\n", "id": "1"}));
    world.say(watcher.conn, json!({"t": "restart", "link": link}));
    let heard = world.heard(broadcaster.conn);
    assert_eq!(types(&heard), ["answer", "restart"]);
    assert!(heard.iter().all(|message| message["from"] == watcher.member.as_str()));
    assert!(heard.iter().all(|message| message.get("re").is_none()));
    assert_eq!(world.heard(watcher.conn), [] as [Value; 0], "a forwarded message has no answer");
}

#[test]
fn nobody_speaks_on_a_link_of_others() {
    // The seed let any socket send an offer to any socket.
    let mut world = World::new();
    let (one, first) = world.live("one");
    let second = world.watch("one");
    let (two, other) = world.live("two");
    let early = world.watch("early");
    for page in [&one, &first, &second, &two, &other, &early] {
        world.heard(page.conn);
    }
    let stranger = world.open();
    let cases = [
        (second.conn, &first.link),
        (two.conn, &first.link),
        (other.conn, &first.link),
        (one.conn, &other.link),
        (stranger, &first.link),
        (early.conn, &first.link),
        (early.conn, &early.link),
    ];
    let mut refused = 0;
    for (conn, link) in cases {
        for message in [
            json!({"t": "offer", "link": link, "sdp": "", "id": "x"}),
            json!({"t": "answer", "link": link, "sdp": "", "id": "x"}),
            json!({"t": "candidates", "link": link, "id": "x",
                "candidates": [candidate("192.0.2.66", "host")]}),
            json!({"t": "restart", "link": link, "id": "x"}),
            json!({"t": "restart", "link": link, "rebuild": true, "id": "x"}),
            json!({"t": "report", "link": link, "state": "failed", "id": "x"}),
        ] {
            world.say(conn, message);
            let error = world.take(conn, "error");
            assert_eq!((&error["code"], &error["re"]), (&json!("forbidden"), &json!("x")));
            assert_eq!(error["message"], Code::Forbidden.message());
            refused += 1;
        }
    }
    assert_eq!(world.metrics.refusals(Refusal::Forbidden), refused);
    assert!(world.ends.is_empty(), "a refused message closes nothing");
    for page in [&one, &first, &second, &two, &other, &early] {
        assert_eq!(world.heard(page.conn), [] as [Value; 0], "and reaches nobody");
        let grant = world.grant(&page.welcome["ice"]).expect("it lives");
        assert!(!grant.reaches(IpAddr::from([192, 0, 2, 66])));
    }
}

#[test]
fn who_is_no_member_may_say_nothing_but_hello_and_ping() {
    let mut world = World::new();
    let conn = world.open();
    for t in ["end", "bye"] {
        world.say(conn, json!({"t": t}));
        assert_eq!(world.error(conn), "forbidden");
    }
    assert!(world.ends.is_empty());
    world.hello(conn, watcher("r"));
    world.say(conn, watcher("r2"));
    assert_eq!(world.error(conn), "forbidden", "a connection speaks for one member");
    assert!(world.ends.is_empty());
    world.check();
}

#[test]
fn a_rebuilt_link_is_new_on_both_sides_and_the_old_one_is_dead() {
    // In the seed, candidates of an old connection reached the new one, and old ones leaked.
    let mut world = World::new();
    let broadcaster = world.broadcast("r");
    let watcher = world.watch("r");
    let joined = world.take(broadcaster.conn, "member");
    for page in [&watcher, &broadcaster] {
        let before = world.grants.count();
        let link = match world.inboxes.remove(&watcher.conn).as_deref() {
            Some([live]) => text(&live["link"]),
            _ => watcher.link.clone(),
        };
        world.say(page.conn, json!({"t": "restart", "link": link, "rebuild": true}));
        let changed = world.take(broadcaster.conn, "member");
        assert_eq!(changed["event"], "changed");
        assert_eq!(changed["member"], watcher.member.as_str());
        assert_eq!(changed["replaces"], link.as_str());
        assert_ne!(changed["link"], link.as_str());
        let live = &world.inboxes[&watcher.conn][0];
        assert_eq!(live["state"], "live");
        assert_eq!(live["link"], changed["link"]);
        assert_eq!(live["upstream"], broadcaster.member.as_str());
        assert_ne!(grant_name(&live["ice"]), grant_name(&changed["ice"]));
        assert_eq!(world.grants.count(), before);
        world.say(broadcaster.conn, json!({"t": "candidates", "link": link, "candidates": [null]}));
        assert_eq!(world.error(broadcaster.conn), "forbidden");
        world.check();
    }
    assert_eq!(world.revoked.len(), 4);
    assert_eq!(
        world.revoked[..2],
        [grant_name(&watcher.welcome["ice"]), grant_name(&joined["ice"])]
    );
    assert_eq!(types(&world.heard(watcher.conn)), ["room"], "nothing of the old link came");
}

#[test]
fn a_changed_device_renegotiates_on_the_same_link() {
    // In the seed every viewer reconnected.
    let mut world = World::new();
    let (broadcaster, watcher) = world.live("r");
    for round in 0..3 {
        world.say(broadcaster.conn, broadcaster.offer(&watcher.link));
        world.say(watcher.conn, json!({"t": "answer", "link": watcher.link, "sdp": "v=0"}));
        assert_eq!(types(&world.heard(watcher.conn)), ["offer"], "{round}");
        assert_eq!(types(&world.heard(broadcaster.conn)), ["answer"]);
    }
    assert_eq!(world.revoked, [] as [String; 0]);
}

#[test]
fn rebuilds_are_bounded() {
    let mut world = World::with(|options| options.rebuilds_per_min = 3);
    let (broadcaster, watcher) = world.live("r");
    let mut link = watcher.link.clone();
    let mut rebuild = |world: &mut World| {
        world.say(watcher.conn, json!({"t": "restart", "link": link, "rebuild": true}));
        let answer = world.heard(watcher.conn).remove(0);
        if answer["t"] == "room" {
            link = text(&answer["link"]);
        }
        answer
    };
    for _ in 0..3 {
        assert_eq!(rebuild(&mut world)["t"], "room");
    }
    let refused = rebuild(&mut world);
    assert_eq!((&refused["code"], &refused["retry"]), (&json!("rate-limited"), &json!(true)));
    assert_eq!(world.metrics.limits(Limit::Rebuilds), 1);
    assert!(world.ends.is_empty());
    world.pass_with(20, &[&broadcaster, &watcher]);
    assert_eq!(rebuild(&mut world)["t"], "room");
}

#[test]
fn the_broadcaster_sees_what_a_watcher_reports_and_a_metric_counts_changes() {
    let mut world = World::new();
    let (broadcaster, watcher) = world.live("r");
    let report = |state: &str, path: Value, code: Value| {
        json!({"t": "report", "link": watcher.link, "state": state, "path": path,
            "code": code})
    };
    for _ in 0..2 {
        world.say(watcher.conn, report("connected", json!("udp"), json!(null)));
        let changed = world.take(broadcaster.conn, "member");
        assert_eq!((&changed["event"], &changed["path"]), (&json!("changed"), &json!("udp")));
        assert_eq!(
            (&changed["state"], &changed["link"]),
            (&json!("connected"), &json!(watcher.link))
        );
        assert_eq!(changed["member"], watcher.member.as_str());
        assert_eq!(changed["watchers"], 1);
    }
    world.say(broadcaster.conn, report("connected", json!("udp"), json!(null)));
    assert_eq!(world.heard(broadcaster.conn), [] as [Value; 0]);
    world.say(watcher.conn, report("failed", json!(null), json!("ice-failed")));
    let changed = world.take(broadcaster.conn, "member");
    assert_eq!((&changed["state"], &changed["code"]), (&json!("failed"), &json!("ice-failed")));
    let metrics = world.metrics.text();
    for line in ["reports_total{path=\"udp\"} 1", "reports_total{path=\"failed\"} 1"] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    for (path, code) in [(json!("pigeon"), json!(null)), (json!(null), json!("<b>"))] {
        world.say(watcher.conn, report("connected", path, code));
        assert_eq!(world.error(watcher.conn), "bad-message");
    }
    assert_eq!(world.heard(broadcaster.conn), [] as [Value; 0]);
}

#[test]
fn candidates_on_one_side_of_a_link_are_bounded_until_the_next_offer() {
    let mut world = World::with(|options| options.candidates_per_link = 3);
    let (broadcaster, watcher) = world.live("r");
    let five: Vec<Value> = (1..=5).map(|n| candidate(&format!("192.0.2.{n}"), "host")).collect();
    let mut message = json!({"t": "candidates", "link": watcher.link, "candidates": five});
    message["candidates"].as_array_mut().unwrap().push(json!(null));
    world.say(watcher.conn, message.clone());
    let passed = &world.take(broadcaster.conn, "candidates")["candidates"];
    assert_eq!(passed.as_array().unwrap().len(), 4);
    assert_eq!(passed[3], json!(null), "the end of candidates passes always");
    assert_eq!(world.metrics.limits(Limit::Candidates), 2);
    world.say(broadcaster.conn, message.clone());
    assert!(world.take(watcher.conn, "candidates").to_string().contains("192.0.2.3"));
    world.say(broadcaster.conn, broadcaster.offer(&watcher.link));
    world.say(watcher.conn, message);
    assert!(world.take(broadcaster.conn, "candidates").to_string().contains("192.0.2.3"));
}

#[test]
fn a_candidate_with_a_line_break_or_without_end_is_refused() {
    let mut world = World::new();
    let (broadcaster, watcher) = world.live("r");
    for text in ["candidate:1\r\na=evil", "x\u{0}", &"x".repeat(1025)] {
        let mut entry = candidate("192.0.2.1", "host");
        entry["candidate"] = json!(text);
        world.say(
            watcher.conn,
            json!({"t": "candidates", "link": watcher.link, "candidates": [entry]}),
        );
        assert_eq!(world.error(watcher.conn), "bad-message");
    }
    let mut entry = candidate("192.0.2.1", "host");
    entry["sdpMid"] = json!("0\r\n");
    world
        .say(watcher.conn, json!({"t": "candidates", "link": watcher.link, "candidates": [entry]}));
    assert_eq!(world.error(watcher.conn), "bad-message");
    assert_eq!(world.heard(broadcaster.conn), [] as [Value; 0]);
}

#[test]
fn bad_messages_are_answered_and_too_many_close() {
    let mut world = World::new();
    let (_, watcher) = world.live("r");
    for n in 1..=10 {
        world.say_text(watcher.conn, r#"{"t":"offer","id":"9"}"#);
        let error = world.take(watcher.conn, "error");
        assert_eq!((&error["code"], &error["re"]), (&json!("bad-message"), &json!("9")));
        assert!(error["seq"].is_u64(), "{n}");
    }
    world.say(watcher.conn, json!({"t": "lock", "id": "z"}));
    let error = world.take(watcher.conn, "error");
    assert_eq!((&error["code"], &error["re"]), (&json!("unknown-type"), &json!("z")));
    assert!(world.ends.is_empty());
    world.say_text(watcher.conn, "\u{0}");
    assert_eq!(world.ends[&watcher.conn], (4000, "bad-message"));
    assert_eq!(world.metrics.refusals(Refusal::BadMessage), 11);
    assert_eq!(world.metrics.refusals(Refusal::UnknownType), 1);
    world.check();
    // The member was closed for nonsense, not thrown out.
    let conn = world.open();
    assert_eq!(world.hello(conn, watcher.back(100)).welcome["resumed"], true);
}

#[test]
fn a_frame_that_is_too_large_closes() {
    let mut world = World::with(|options| options.frame_bytes = 1000);
    let (_, watcher) = world.live("r");
    world.say_text(watcher.conn, &" ".repeat(1001));
    assert_eq!(world.error(watcher.conn), "too-large");
    assert_eq!(world.ends[&watcher.conn], (4013, "too-large"));
    assert_eq!(world.metrics.limits(Limit::FrameBytes), 1);
    world.check();
}

#[test]
fn a_failed_hello_closes_also_when_it_does_not_parse() {
    let mut world = World::new();
    let conn = world.open();
    world.say_text(conn, r#"{"t":"hello","versions":[1],"role":"king"}"#);
    assert_eq!(world.error(conn), "bad-message");
    assert_eq!(world.ends[&conn], (4000, "bad-message"));
    assert!(world.metrics.text().contains("turncast_hellos_total{result=\"refused\"} 1"));
}
