//! Random actions and random bytes, from a printed seed: nothing panics, what must hold holds
//! after each of them, and nothing is left at the end.

use super::*;

/// What a random page says: mostly what makes sense, with real names of links and members.
fn utterance(world: &World, entropy: &mut Entropy, links: &[String]) -> Value {
    let pick = |entropy: &mut Entropy, from: &[String]| {
        let index = entropy.below(u32::try_from(from.len()).unwrap_or(1)) as usize;
        from.get(index).cloned().unwrap_or_default()
    };
    let rooms = ["a", "b", "c"].map(String::from);
    let link = pick(entropy, links);
    let octet = entropy.below(60);
    let tokens: Vec<String> = world.tokens();
    match entropy.below(16) {
        0..=2 => json!({"t": "hello", "versions": [1], "role": "watcher",
            "room": pick(entropy, &rooms)}),
        3 => json!({"t": "hello", "versions": [1], "role": "broadcaster",
            "room": pick(entropy, &rooms)}),
        4 => json!({"t": "hello", "versions": [1], "role": "broadcaster",
            "room": pick(entropy, &rooms), "room_key": pick(entropy, &world.room_keys())}),
        5 | 6 => json!({"t": "hello", "versions": [1],
            "role": if entropy.below(3) == 0 { "broadcaster" } else { "watcher" },
            "resume": {"token": pick(entropy, &tokens), "last_seq": entropy.below(20)},
            "room": pick(entropy, &rooms)}),
        7 => json!({"t": "offer", "link": link, "sdp":
            format!("a=candidate:1 1 udp 1 192.0.2.{octet} 9 typ host\r\n")}),
        8 => json!({"t": "answer", "link": link, "sdp": "v=0"}),
        9 | 10 => json!({"t": "candidates", "link": link,
            "candidates": [candidate(&format!("192.0.2.{octet}"), "srflx"), null]}),
        11 => json!({"t": "restart", "link": link, "rebuild": entropy.below(2) == 0}),
        12 => json!({"t": "report", "link": link, "state": "connected", "path": "udp"}),
        13 => json!({"t": "ping", "id": "x"}),
        14 if entropy.below(3) == 0 => json!({"t": "end"}),
        15 if entropy.below(3) == 0 => json!({"t": "bye"}),
        _ => json!({"t": "candidates", "link": link, "candidates": []}),
    }
}

impl World {
    fn tokens(&self) -> Vec<String> {
        let rooms = self.hub.rooms.by_name.values();
        rooms
            .flat_map(|room| {
                let watchers = room.watchers.iter().map(|watcher| &watcher.member);
                watchers.chain(room.broadcaster.as_ref().map(|found| &found.member))
            })
            .map(|member| member.token.expose().to_owned())
            .collect()
    }

    fn room_keys(&self) -> Vec<String> {
        let keys = self.hub.rooms.by_name.values().filter_map(|room| room.key.as_ref());
        keys.map(|key| key.expose().to_owned()).collect()
    }

    fn links(&self) -> Vec<String> {
        let rooms = self.hub.rooms.by_name.values();
        let watchers = rooms.flat_map(|room| &room.watchers);
        watchers.map(|watcher| watcher.link.id.as_str().to_owned()).collect()
    }

    fn open_conns(&self) -> Vec<ConnId> {
        let mut conns: Vec<ConnId> = self.hub.env.conns.keys().copied().collect();
        conns.sort_unstable();
        conns
    }
}

fn act(world: &mut World, entropy: &mut Entropy) {
    let conns = world.open_conns();
    let index = entropy.below(u32::try_from(conns.len()).unwrap_or(1)) as usize;
    match (conns.get(index), entropy.below(40)) {
        (None, _) | (_, 0..=4) if conns.len() < 40 => {
            world.open();
        }
        (Some(conn), 5) => world.close(*conn, Closed::Lost),
        (Some(conn), 6) if entropy.below(2) == 0 => world.close(*conn, Closed::Clean),
        (_, 8) if entropy.below(2) == 0 => {
            let tokens = world.tokens();
            let index = entropy.below(u32::try_from(tokens.len()).unwrap_or(1)) as usize;
            if let Some(token) = tokens.get(index) {
                world.farewell(token);
            }
        }
        (_, 7) => {
            let secs = u64::from(entropy.below(9));
            world.pass(secs);
        }
        (Some(conn), _) => {
            let message = utterance(world, entropy, &world.links());
            world.say(*conn, message);
        }
        (None, _) => {}
    }
    world.inboxes.clear();
}

// The seed of a failure is the last one printed.
#[allow(clippy::print_stdout)]
#[test]
fn random_actions_keep_every_invariant() {
    for seed in 0..20u8 {
        println!("seed {seed}");
        let mut entropy = Entropy::from_seed([seed; 32]);
        let mut world = World::with(|options| {
            options.kept_messages = 8;
            options.credential_ttl_secs = 20;
            options.relay_only = seed % 2 == 1;
        });
        let mut most_watchers = 0;
        for _ in 0..2000 {
            act(&mut world, &mut entropy);
            world.check();
            most_watchers = most_watchers.max(world.metrics.watchers.value());
        }
        assert!(most_watchers >= 5, "the test reaches rooms that are worth testing");
        let conns = world.open_conns();
        world.end(&conns);
    }
}

/// Changes, cuts or doubles some bytes of a frame.
fn mutate(entropy: &mut Entropy, frame: &str) -> String {
    let mut bytes = frame.as_bytes().to_vec();
    for _ in 0..=entropy.below(4) {
        let len = u32::try_from(bytes.len()).unwrap_or(0);
        let at = entropy.below(len) as usize;
        match entropy.below(5) {
            0 => bytes.truncate(at),
            1 if !bytes.is_empty() => {
                bytes[at] = u8::try_from(entropy.below(256)).unwrap_or(0);
            }
            2 => bytes.insert(at, b"{}[]\",:\\0n-"[entropy.below(11) as usize]),
            3 => bytes.extend_from_within(at..),
            _ => {
                if !bytes.is_empty() {
                    bytes.remove(at);
                }
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_hundred_thousand_random_and_mutated_frames_leave_nothing_behind() {
    let mut entropy = Entropy::from_seed([42; 32]);
    let mut world = World::with(|options| options.kept_messages = 16);
    for round in 0..100_000u32 {
        let conns = world.open_conns();
        if conns.len() < 30 {
            world.open();
            continue;
        }
        let conn = conns[entropy.below(30) as usize];
        let frame = match entropy.below(4) {
            0 => utterance(&world, &mut entropy, &world.links()).to_string(),
            1 => {
                let mut bytes = vec![0; entropy.below(80) as usize];
                entropy.fill(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            }
            _ => {
                let sound = utterance(&world, &mut entropy, &world.links()).to_string();
                mutate(&mut entropy, &sound)
            }
        };
        world.say_text(conn, &frame);
        world.inboxes.clear();
        if round % 64 == 0 {
            world.pass(1);
            world.ends.clear();
            world.revoked.clear();
            world.check();
        }
    }
    let conns = world.open_conns();
    world.end(&conns);
    // And it serves as before.
    let (broadcaster, watcher) = world.live("after");
    world.say(broadcaster.conn, broadcaster.offer(&watcher.link));
    world.take(watcher.conn, "offer");
}
