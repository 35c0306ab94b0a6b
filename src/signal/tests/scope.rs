//! What a grant may reach: the addresses that were signaled to its side, and no others.

use super::*;
use crate::metrics::Limit;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a test address")
}

/// A live link: the broadcaster, the watcher, and the grants of their sides.
fn link(world: &mut World) -> (Page, Page, Arc<Grant>, Arc<Grant>) {
    let broadcaster = world.broadcast("r");
    let watcher = world.watch("r");
    let joined = world.take(broadcaster.conn, "member");
    let upper = world.grant(&joined["ice"]).expect("the broadcaster's side lives");
    let lower = world.grant(&watcher.welcome["ice"]).expect("the watcher's side lives");
    (broadcaster, watcher, upper, lower)
}

#[test]
fn a_candidate_widens_the_scope_of_the_side_that_receives_it() {
    let mut world = World::new();
    let (broadcaster, watcher, upper, lower) = link(&mut world);
    assert_eq!(upper.room(), lower.room());
    let say = |world: &mut World, page: &Page, list: Value| {
        world.say(page.conn, json!({"t": "candidates", "link": watcher.link, "candidates": list}));
    };
    let host = [candidate("192.0.2.1", "host"), candidate("::ffff:192.0.2.2", "srflx")];
    say(&mut world, &watcher, json!(host));
    assert!(upper.reaches(ip("192.0.2.1")) && upper.reaches(ip("192.0.2.2")));
    assert!(!lower.reaches(ip("192.0.2.1")));
    say(&mut world, &broadcaster, json!([candidate("2001:db8::1", "relay")]));
    assert!(lower.reaches(ip("2001:db8::1")) && !upper.reaches(ip("2001:db8::1")));
    let own = world.grant(&broadcaster.welcome["ice"]).expect("it lives");
    assert!(!own.reaches(ip("192.0.2.1")), "the broadcaster's own grant reaches nobody");
}

#[test]
fn addresses_in_offers_and_answers_count_and_others_do_not() {
    let mut world = World::new();
    let (broadcaster, watcher, upper, lower) = link(&mut world);
    let sdp = |last: u8| {
        format!(
            "v=0\r\no=- 1 1 IN IP4 198.51.100.1\r\nc=IN IP4 198.51.100.2\r\n\
             a=rtcp:9 IN IP4 198.51.100.3\r\n\
             a=candidate:1 1 udp 1 192.0.2.{last} 9 typ srflx raddr 198.51.100.4 rport 9\r\n\
             a=candidate:1 1 udp 1 1c3-4.local 9 typ host\r\n"
        )
    };
    world.say(broadcaster.conn, json!({"t": "offer", "link": watcher.link, "sdp": sdp(1)}));
    assert_eq!(world.take(watcher.conn, "offer")["sdp"], sdp(1));
    world.say(watcher.conn, json!({"t": "answer", "link": watcher.link, "sdp": sdp(2)}));
    assert!(lower.reaches(ip("192.0.2.1")) && !lower.reaches(ip("192.0.2.2")));
    assert!(upper.reaches(ip("192.0.2.2")) && !upper.reaches(ip("192.0.2.1")));
    for last in 1..=4 {
        let other = IpAddr::from([198, 51, 100, last]);
        assert!(!lower.reaches(other) && !upper.reaches(other), "{other}");
    }
}

#[test]
fn a_scope_keeps_room_for_what_comes_after_the_host_candidates() {
    let mut world = World::new();
    let (broadcaster, watcher, upper, _) = link(&mut world);
    let mut list: Vec<Value> =
        (1..=40).map(|n| candidate(&format!("10.0.{n}.1"), "host")).collect();
    list.push(candidate("203.0.113.9", "srflx"));
    list.push(candidate("203.0.113.1", "relay"));
    world.say(watcher.conn, json!({"t": "candidates", "link": watcher.link, "candidates": list}));
    assert!(upper.reaches(ip("10.0.24.1")) && !upper.reaches(ip("10.0.25.1")));
    assert!(upper.reaches(ip("203.0.113.9")) && upper.reaches(ip("203.0.113.1")));
    assert_eq!(world.metrics.limits(Limit::ScopeAddresses), 16);
    let passed = &world.take(broadcaster.conn, "candidates")["candidates"];
    assert_eq!(passed.as_array().map(Vec::len), Some(42), "a direct path needs no scope");
    let many: Vec<Value> = (1..=40).map(|n| candidate(&format!("203.0.{n}.1"), "srflx")).collect();
    world.say(watcher.conn, json!({"t": "candidates", "link": watcher.link, "candidates": many}));
    let reached = (1..=40).filter(|n| upper.reaches(IpAddr::from([203, 0, *n, 1]))).count();
    assert_eq!(reached, 6, "32 in all");
}

#[test]
fn a_rebuilt_link_starts_with_an_empty_scope() {
    let mut world = World::new();
    let (broadcaster, watcher, upper, _) = link(&mut world);
    let list = json!([candidate("192.0.2.1", "host")]);
    world.say(watcher.conn, json!({"t": "candidates", "link": watcher.link, "candidates": list}));
    assert!(upper.reaches(ip("192.0.2.1")));
    world.say(watcher.conn, json!({"t": "restart", "link": watcher.link, "rebuild": true}));
    let changed = world.take(broadcaster.conn, "member");
    let renewed = world.grant(&changed["ice"]).expect("it lives");
    assert!(!renewed.reaches(ip("192.0.2.1")));
    assert!(world.grants.live(upper.name()).is_none());
}

#[test]
fn grants_of_two_rooms_never_share_a_room() {
    let mut world = World::new();
    let one = world.watch("one");
    let two = world.watch("two");
    let room = |page: &Page| world.grant(&page.welcome["ice"]).expect("it lives").room();
    assert_ne!(room(&one), room(&two));
}

#[test]
fn with_the_relay_policy_only_relayed_candidates_pass_either_way() {
    let mut world = World::with(|options| options.relay_only = true);
    let (broadcaster, watcher, upper, lower) = link(&mut world);
    assert_eq!(watcher.welcome["ice"]["policy"], "relay");
    let mut relay = candidate("203.0.113.1", "relay");
    let line = text(&relay["candidate"]) + " raddr 192.0.2.1 rport 4000";
    relay["candidate"] = json!(line);
    for (sender, receiver, grant) in
        [(&broadcaster, &watcher, &lower), (&watcher, &broadcaster, &upper)]
    {
        let list = json!([candidate("192.0.2.1", "host"), relay, candidate("x.local", "host"),
            candidate("192.0.2.1", "srflx"), {"candidate": "", "sdpMid": "0"}, null]);
        world
            .say(sender.conn, json!({"t": "candidates", "link": watcher.link, "candidates": list}));
        let passed = world.take(receiver.conn, "candidates");
        assert_eq!(passed["candidates"].as_array().map(Vec::len), Some(3));
        assert!(!passed.to_string().contains("192.0.2.1"), "{passed}");
        assert!(!passed.to_string().contains(".local"), "{passed}");
        assert!(grant.reaches(ip("203.0.113.1")) && !grant.reaches(ip("192.0.2.1")));
        let sdp = "v=0\r\nc=IN IP4 192.0.2.1\r\na=candidate:1 1 udp 1 192.0.2.1 9 typ srflx\r\n\
                   a=candidate:1 1 udp 1 203.0.113.2 9 typ relay raddr 192.0.2.1 rport 9\r\n";
        for t in ["offer", "answer"] {
            world.say(sender.conn, json!({"t": t, "link": watcher.link, "sdp": sdp}));
            let passed = text(&world.take(receiver.conn, t)["sdp"]);
            assert!(passed.contains("203.0.113.2") && !passed.contains("192.0.2.1"), "{passed}");
        }
        assert!(grant.reaches(ip("203.0.113.2")) && !grant.reaches(ip("192.0.2.1")));
    }
    let list = json!([candidate("192.0.2.1", "host")]);
    world.say(watcher.conn, json!({"t": "candidates", "link": watcher.link, "candidates": list}));
    assert_eq!(world.heard(broadcaster.conn), [] as [Value; 0], "nothing is left to say");
}
