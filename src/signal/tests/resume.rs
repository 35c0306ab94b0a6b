//! A lost socket, and coming back.

use super::*;
use crate::metrics::Limit;

#[test]
fn a_lost_socket_is_kept_and_what_it_missed_is_replayed() {
    let mut world = World::new();
    let (broadcaster, watcher) = world.live("r");
    world.say(broadcaster.conn, broadcaster.offer(&watcher.link));
    let offer = world.take(watcher.conn, "offer");
    world.close(watcher.conn, Closed::Lost);
    world.pass_with(10, &[&broadcaster]);
    world.say(
        broadcaster.conn,
        json!({"t": "candidates", "link": watcher.link, "candidates": [null]}),
    );
    world.say(broadcaster.conn, json!({"t": "restart", "link": watcher.link}));
    let third = world.watch("r");
    let conn = world.open();
    let back = world.hello(conn, watcher.back(offer["seq"].as_u64().unwrap()));
    assert_eq!(back.welcome["resumed"], true);
    assert_eq!(back.welcome["seq"], offer["seq"], "welcome takes no part in the replay");
    assert_eq!(back.welcome["room"]["watchers"], 2);
    assert_eq!((&back.member, &back.link), (&watcher.member, &watcher.link));
    assert_eq!(back.welcome["resume"], watcher.welcome["resume"]);
    assert_eq!(grant_name(&back.welcome["ice"]), grant_name(&watcher.welcome["ice"]));
    let heard = world.heard(conn);
    assert_eq!(types(&heard), ["candidates", "restart"]);
    assert_eq!(heard[0]["seq"], offer["seq"].as_u64().unwrap() + 1);
    assert_eq!(types(&world.heard(broadcaster.conn)), ["member"], "only of the third one");
    assert_eq!(world.revoked, [] as [String; 0]);
    // It is a whole member again.
    world.say(conn, json!({"t": "answer", "link": watcher.link, "sdp": ""}));
    assert_eq!(types(&world.heard(broadcaster.conn)), ["answer"]);
    world.pass_with(100, &[&broadcaster, &back, &third]);
    assert_eq!(world.metrics.watchers.value(), 2);
    world.check();
}

#[test]
fn what_was_on_the_way_when_the_socket_broke_is_replayed_too() {
    let mut world = World::new();
    let (broadcaster, watcher) = world.live("r");
    world.say(broadcaster.conn, broadcaster.offer(&watcher.link));
    world.heard(watcher.conn);
    world.close(watcher.conn, Closed::Lost);
    for _ in 0..2 {
        let conn = world.open();
        world.hello(conn, watcher.back(1));
        assert_eq!(types(&world.heard(conn)), ["offer"], "also the second time");
        world.close(conn, Closed::Lost);
    }
    let conn = world.open();
    assert_eq!(world.hello(conn, watcher.back(u64::MAX)).welcome["resumed"], true);
    assert_eq!(world.heard(conn), [] as [Value; 0]);
}

#[test]
fn the_newest_socket_wins_over_a_half_open_one() {
    let mut world = World::new();
    let (broadcaster, watcher) = world.live("r");
    let conn = world.open();
    world.hello(conn, watcher.back(1));
    let bye = world.take(watcher.conn, "bye");
    assert_eq!((&bye["reason"], &bye["action"]), (&json!("resumed-elsewhere"), &json!("stop")));
    assert_eq!(world.ends[&watcher.conn], (1000, "resumed-elsewhere"));
    world.say(watcher.conn, json!({"t": "bye"}));
    world.close(watcher.conn, Closed::Clean);
    assert_eq!(world.heard(broadcaster.conn), [] as [Value; 0], "nobody hears of a ghost");
    assert_eq!(world.metrics.watchers.value(), 1);
    world.check();
}

#[test]
fn a_broadcaster_who_is_lost_stays_live_and_comes_back_with_fresh_credentials() {
    let mut world = World::with(|options| options.credential_ttl_secs = 30);
    let (broadcaster, watcher) = world.live("r");
    world.close(broadcaster.conn, Closed::Lost);
    let late = world.watch("r");
    assert_eq!(late.welcome["room"]["state"], "live");
    let stranger = world.open();
    world.say(stranger, json!({"t": "hello", "versions": [1], "role": "broadcaster", "room": "r"}));
    assert_eq!(world.error(stranger), "room-live");
    world.pass_with(25, &[&watcher, &late]);
    let conn = world.open_as(false);
    let back = world.hello(conn, broadcaster.back(2));
    assert_eq!(back.welcome["resumed"], true);
    assert_eq!(back.room_key(), broadcaster.room_key());
    assert!(text(&back.welcome["ice"]["servers"][0]["username"]).starts_with("1800000055:"));
    let heard = world.heard(conn);
    assert_eq!(types(&heard), ["member", "ice"]);
    assert_eq!(heard[0]["link"], late.link.as_str());
    assert_eq!(heard[1]["links"].as_array().map(Vec::len), Some(2));
    assert_eq!(heard[1].get("ice"), None);
    let waiting = [world.heard(watcher.conn), world.heard(late.conn)].concat();
    assert!(waiting.iter().all(|message| message["t"] != "room"), "{waiting:?}");
    assert_eq!(world.revoked, [] as [String; 0]);
    world.check();
}

#[test]
fn a_broadcaster_who_stays_away_leaves_the_room_waiting_and_free() {
    let mut world = World::new();
    let (broadcaster, watcher) = world.live("r");
    world.close(broadcaster.conn, Closed::Lost);
    world.pass_with(25, &[&watcher]);
    assert_eq!(world.heard(watcher.conn), [] as [Value; 0]);
    world.pass_with(5, &[&watcher]);
    let waiting = world.take(watcher.conn, "room");
    assert_eq!(waiting["state"], "waiting");
    assert_ne!(waiting["link"], watcher.link.as_str());
    world.check();
    let conn = world.open();
    world.say(conn, broadcaster.back(2));
    assert_eq!(world.take(conn, "welcome")["resumed"], false, "an ordinary hello by then");
}

#[test]
fn a_wrong_token_is_no_token() {
    let mut world = World::new();
    let (broadcaster, watcher) = world.live("r");
    world.live("other");
    world.close(watcher.conn, Closed::Lost);
    let token = text(&watcher.welcome["resume"]);
    let mut back = watcher.back(1);
    for wrong in ["", ".", "x.y", &token[..token.len() - 1], &format!("{}.x", watcher.member)] {
        let conn = world.open();
        back["resume"]["token"] = json!(wrong);
        let page = world.hello(conn, back.clone());
        assert_eq!(page.welcome["resumed"], false);
        assert_ne!(page.member, watcher.member);
        world.say(conn, json!({"t": "bye"}));
    }
    // Right, but for another room or another part.
    let conn = world.open();
    let mut elsewhere = watcher.back(1);
    elsewhere["room"] = json!("other");
    assert_eq!(world.hello(conn, elsewhere).welcome["resumed"], false);
    let conn = world.open();
    let mut promoted = watcher.back(1);
    promoted["role"] = json!("broadcaster");
    world.say(conn, promoted);
    assert_eq!(world.error(conn), "room-live");
    let conn = world.open();
    assert_eq!(world.hello(conn, watcher.back(1)).welcome["resumed"], true);
    let _ = broadcaster;
    world.check();
}

#[test]
fn a_noisy_watcher_costs_a_lost_broadcaster_only_the_noisy_link() {
    let mut world = World::with(|options| options.kept_messages = 20);
    let (broadcaster, noisy) = world.live("r");
    let quiet = world.watch("r");
    let joined = world.take(broadcaster.conn, "member");
    world.close(broadcaster.conn, Closed::Lost);
    world.say(quiet.conn, json!({"t": "restart", "link": quiet.link}));
    for _ in 0..500 {
        world.say(noisy.conn, json!({"t": "restart", "link": noisy.link}));
    }
    let conn = world.open();
    let back = world.hello(conn, broadcaster.back(joined["seq"].as_u64().unwrap()));
    assert_eq!(back.welcome["resumed"], true);
    let heard = world.heard(conn);
    assert!(heard.iter().any(|message| message["link"] == quiet.link.as_str()));
    let changed = heard.iter().find(|message| message["event"] == "changed");
    assert_eq!(changed.expect("the noisy link is rebuilt")["replaces"], noisy.link.as_str());
    assert_eq!(world.take(noisy.conn, "room")["state"], "live");
    assert!(world.heard(quiet.conn).iter().all(|message| message["t"] != "room"));
    assert_eq!(world.metrics.limits(Limit::KeptMessages), 1);
    world.check();
}

#[test]
fn a_member_that_missed_too_much_starts_anew() {
    let mut world = World::with(|options| options.kept_messages = 4);
    let (broadcaster, watcher) = world.live("r");
    world.close(broadcaster.conn, Closed::Lost);
    for _ in 0..6 {
        let visitor = world.watch("r");
        world.say(visitor.conn, json!({"t": "bye"}));
    }
    world.heard(watcher.conn);
    let conn = world.open_as(false);
    let back = world.hello(conn, broadcaster.back(2));
    assert_eq!(back.welcome["resumed"], false);
    assert_eq!(back.room_key(), broadcaster.room_key(), "whoever held the token owns the room");
    assert_ne!(back.member, broadcaster.member);
    assert_eq!(world.take(conn, "member")["member"], watcher.member.as_str());
    assert_eq!(world.metrics.limits(Limit::KeptMessages), 1);
    world.check();
}

#[test]
fn the_half_open_socket_of_one_who_starts_anew_is_closed() {
    let mut world = World::with(|options| options.kept_messages = 2);
    let (broadcaster, watcher) = world.live("r");
    for _ in 0..5 {
        let conn = world.open();
        let hello = json!({"t": "hello", "versions": [1], "role": "broadcaster",
            "room": "r", "room_key": broadcaster.room_key()});
        world.hello(conn, hello);
    }
    let conn = world.open();
    let back = world.hello(conn, watcher.back(1));
    assert_eq!(back.welcome["resumed"], false);
    assert_eq!(world.take(watcher.conn, "bye")["reason"], "resumed-elsewhere");
    assert_eq!(world.metrics.watchers.value(), 1);
    world.check();
}

#[test]
fn without_a_grace_a_lost_socket_leaves_at_once() {
    let mut world = World::with(|options| options.grace_secs = 0);
    let (broadcaster, watcher) = world.live("r");
    world.close(watcher.conn, Closed::Lost);
    assert_eq!(world.take(broadcaster.conn, "member")["event"], "left");
    world.say(broadcaster.conn, json!({"t": "bye"}));
    assert_eq!(world.metrics.rooms.value(), 0);
    world.check();
}
