//! The family of `hello` and `welcome`: who may come in, as what, and who comes back.

use std::sync::Arc;

use tracing::{debug, info};

use super::admission::{self, RoomKey};
use super::hub::{Place, Rooms, Step};
use super::id::{MemberId, RoomName};
use super::member::Member;
use super::protocol::{
    Action, Body, Bye, Code, Hello, Limits, Ping, Role, RoomView, VERSION, Welcome,
};
use super::resume::Token;
use super::room::{Room, Seat};
use super::timers::Timer;
use super::{BroadcastKey, ConnId, ice};
use crate::metrics::{Hello as Outcome, Limit};
use crate::telemetry::Addr;

/// The connection that says `hello`, and the request to answer.
pub(super) struct Caller<'a> {
    pub(super) conn: ConnId,
    pub(super) re: Option<&'a str>,
    pub(super) may_publish: bool,
    pub(super) ice_urls: Arc<[String]>,
    pub(super) client: Addr,
}

/// What became of `hello.resume`.
enum Resumed {
    Yes,
    /// Nobody asked, or the token is not known (any more).
    No,
    /// The member is known, but has missed more than what was kept.
    TooLate(Place),
}

impl Rooms {
    /// Handles `hello` of a connection that is no member yet.
    pub(super) fn hello(
        &mut self,
        step: &mut Step<'_>,
        caller: &Caller<'_>,
        hello: &Hello,
        keys: &[BroadcastKey],
    ) -> Result<(), Code> {
        if self.draining {
            return Err(Code::Draining);
        }
        if !hello.versions.contains(&VERSION) {
            return Err(Code::UnsupportedVersion);
        }
        let room = match &hello.room {
            Some(text) => Some(RoomName::parse(text).ok_or(Code::BadMessage)?),
            None => None,
        };
        if !hello.name.as_deref().is_none_or(is_member_name) {
            return Err(Code::BadMessage);
        }
        let owner = match self.resume(step, caller, hello) {
            Resumed::Yes => {
                step.env.metrics.hello(Outcome::Resumed);
                return Ok(());
            }
            Resumed::No => false,
            Resumed::TooLate(place) => {
                step.env.metrics.limit(Limit::KeptMessages);
                // Whoever held the token is the owner, but its links cannot be saved.
                self.leave(step, &place, true);
                true
            }
        };
        match hello.role {
            Role::Broadcaster => self.hello_broadcaster(step, caller, hello, room, keys, owner)?,
            Role::Watcher => {
                self.hello_watcher(step, caller, hello, room.ok_or(Code::BadMessage)?)?;
            }
        }
        step.env.metrics.hello(Outcome::Welcomed);
        Ok(())
    }

    fn hello_broadcaster(
        &mut self,
        step: &mut Step<'_>,
        caller: &Caller<'_>,
        hello: &Hello,
        name: Option<RoomName>,
        keys: &[BroadcastKey],
        owner: bool,
    ) -> Result<(), Code> {
        let name = match name {
            Some(name) => name,
            None => self.free_name(step),
        };
        let room = self.by_name.get(name.as_str());
        let owns = |key: &RoomKey| hello.room_key.as_deref().is_some_and(|text| key.matches(text));
        if !owner && !room.and_then(|room| room.key.as_ref()).is_some_and(owns) {
            admission::admit(caller.may_publish, hello.key.as_deref(), keys)?;
            if room.is_some_and(|room| room.broadcaster.is_some() || room.reserved) {
                return Err(Code::RoomLive);
            }
        }
        if !self.by_name.get(name.as_str()).is_some_and(Room::is_broadcast) {
            self.make_place(step, Room::is_broadcast)?;
        }
        let room = self.open(step, name);
        if room.key.is_none() {
            let brought = hello.room_key.as_deref().and_then(RoomKey::adopt);
            room.key = Some(brought.unwrap_or_else(|| RoomKey::draw(&mut step.env.entropy)));
        }
        let name = member_name(hello);
        let member = Member::new(step, caller.conn, name, Arc::clone(&caller.ice_urls));
        enter(step, caller, room, &member);
        room.seat_broadcaster(step, member);
        room.welcome(step, Seat::Broadcaster, None, caller.re);
        room.announce_broadcaster(step);
        Ok(())
    }

    fn hello_watcher(
        &mut self,
        step: &mut Step<'_>,
        caller: &Caller<'_>,
        hello: &Hello,
        name: RoomName,
    ) -> Result<(), Code> {
        let watchers = self.by_name.get(name.as_str()).map_or(0, |room| room.watchers.len());
        if watchers >= step.env.options.viewers_per_room as usize {
            step.env.metrics.limit(Limit::Viewers);
            return Err(Code::RoomFull);
        }
        if !self.by_name.contains_key(name.as_str()) {
            self.make_place(step, |room| !room.is_broadcast())?;
        }
        let room = self.open(step, name);
        let name = member_name(hello);
        let member = Member::new(step, caller.conn, name, Arc::clone(&caller.ice_urls));
        enter(step, caller, room, &member);
        let seat = room.seat_watcher(step, member);
        room.welcome(step, seat, None, caller.re);
        room.announce_watcher(step);
        Ok(())
    }

    /// Whether there may be one more room of a kind. Rooms in which people merely wait are counted
    /// apart from broadcasts: anybody can open one, and must not keep a broadcaster out by it.
    fn make_place(&self, step: &Step<'_>, of_kind: impl Fn(&Room) -> bool) -> Result<(), Code> {
        let rooms_max = step.env.options.rooms as usize;
        // Counting is dear, and not needed while all of them are fewer.
        if self.by_name.len() >= rooms_max
            && self.by_name.values().filter(|room| of_kind(room)).count() >= rooms_max
        {
            step.env.metrics.limit(Limit::Rooms);
            return Err(Code::NoRoom);
        }
        Ok(())
    }

    /// The room of that name, made when there is none.
    fn open(&mut self, step: &mut Step<'_>, name: RoomName) -> &mut Room {
        self.by_name.entry(name).or_insert_with_key(|name| Room::new(step, name.clone()))
    }

    fn free_name(&self, step: &mut Step<'_>) -> RoomName {
        loop {
            let name = RoomName::draw(&mut step.env.entropy);
            if !self.by_name.contains_key(name.as_str()) {
                return name;
            }
        }
    }

    /// The member whose token this is.
    fn holder(&mut self, step: &Step<'_>, token: &str) -> Option<Place> {
        let (member, room) = step.env.members.get_key_value(Token::member(token))?;
        let place = Place { room: room.clone(), member: member.clone() };
        self.member(&place)?.token.matches(token).then_some(place)
    }

    /// Handles the farewell of a page that went away: whoever holds `token` leaves, as by `bye`.
    /// A token of nobody changes nothing.
    pub(super) fn farewell(&mut self, step: &mut Step<'_>, token: &str) {
        let Some(place) = self.holder(step, token) else { return };
        if let Some(conn) = self.member(&place).and_then(|member| member.conn) {
            step.close(conn, 1000, "bye");
        }
        self.leave(step, &place, true);
    }

    /// Lets a member come back. The newest socket wins: a half-open older one is closed.
    fn resume(&mut self, step: &mut Step<'_>, caller: &Caller<'_>, hello: &Hello) -> Resumed {
        let Some(resume) = &hello.resume else { return Resumed::No };
        let Some(place) = self.holder(step, &resume.token) else { return Resumed::No };
        if hello.room.as_deref().is_some_and(|name| name != place.room.as_str()) {
            return Resumed::No;
        }
        let Some(found) = self.by_name.get_mut(&place.room) else { return Resumed::No };
        let Some(seat) = found.seat(&place.member) else { return Resumed::No };
        if (seat == Seat::Broadcaster) != (hello.role == Role::Broadcaster) {
            return Resumed::No;
        }
        let Some(known) = found.member(seat) else { return Resumed::No };
        let last_seq = resume.last_seq.min(known.seq);
        if let Some(old) = known.conn.replace(caller.conn) {
            let reason = "resumed-elsewhere";
            let bye = Bye { reason, action: Action::Stop, retry_after_ms: None };
            step.send(old, Body::new(&bye).frame(None, None));
            step.close(old, 1000, reason);
        }
        let Some(missed) = known.kept.resume(last_seq) else {
            return Resumed::TooLate(place);
        };
        known.ice_urls = Arc::clone(&caller.ice_urls);
        step.env.timers.cancel(&Timer::Grace(place.member.clone()));
        debug!(room = %place.room, member = %place.member, client = %caller.client, "resumed");
        if let Some(conn) = step.env.conns.get_mut(&caller.conn) {
            conn.place = Some(place);
        }
        found.welcome(step, seat, Some(last_seq), caller.re);
        for frame in missed.frames {
            step.send(caller.conn, frame);
        }
        for link in missed.torn {
            found.mend(step, &link);
        }
        if seat == Seat::Broadcaster {
            found.refresh_broadcaster(step, false);
        }
        Resumed::Yes
    }
}

impl Room {
    /// Says `welcome` to the member at `seat`, who came back having heard up to `back`.
    fn welcome(&mut self, step: &mut Step<'_>, seat: Seat, back: Option<u64>, re: Option<&str>) {
        let view = RoomView {
            name: self.name.as_str(),
            state: self.state(),
            watchers: self.watchers.len(),
        };
        let upstream = self.broadcaster.as_ref().map(|found| found.member.id.clone());
        let (member, ice, link) = match seat {
            Seat::Broadcaster => {
                let Some(found) = &mut self.broadcaster else { return };
                let ice = ice::mint(step, &found.grant, &found.member.ice_urls);
                (&mut found.member, ice, None)
            }
            Seat::Watcher(index) => {
                let found = &mut self.watchers[index];
                let ice = found.link.watcher.ice(step, &found.member.ice_urls);
                (&mut found.member, ice, Some(found.link.id.as_str()))
            }
        };
        let broadcaster = seat == Seat::Broadcaster;
        let options = &step.env.options;
        let body = Body::new(&Welcome {
            version: VERSION,
            member: member.id.as_str(),
            role: if broadcaster { Role::Broadcaster } else { Role::Watcher },
            room: view,
            ice: &ice,
            link,
            upstream: upstream.as_ref().filter(|_| !broadcaster).map(MemberId::as_str),
            room_key: self.key.as_ref().filter(|_| broadcaster).map(RoomKey::expose),
            limits: Limits {
                viewers: options.viewers_per_room,
                frame_bytes: options.frame_bytes,
                candidates_per_link: options.candidates_per_link,
                rebuilds_per_min: options.rebuilds_per_min,
            },
            ping: Ping {
                interval_secs: options.ping_interval_secs,
                timeout_secs: options.ping_timeout_secs,
            },
            resume: member.token.expose(),
            resumed: back.is_some(),
            build: &options.build,
        });
        match (back, member.conn) {
            (Some(last_seq), Some(conn)) => step.send(conn, body.frame(re, Some(last_seq))),
            _ => member.answer(step, &body, re),
        }
        member.arm_refresh(step);
    }
}

/// Makes the caller's connection that of `member`.
fn enter(step: &mut Step<'_>, caller: &Caller<'_>, room: &Room, member: &Member) {
    step.env.members.insert(member.id.clone(), room.name.clone());
    let place = Place { room: room.name.clone(), member: member.id.clone() };
    info!(room = %place.room, member = %place.member, client = %caller.client, "member welcomed");
    if let Some(conn) = step.env.conns.get_mut(&caller.conn) {
        conn.place = Some(place);
    }
}

fn member_name(hello: &Hello) -> Option<String> {
    hello.name.as_deref().map(str::trim).filter(|name| !name.is_empty()).map(String::from)
}

/// At most 64 characters, none of which controls the terminal or turns the text around.
fn is_member_name(text: &str) -> bool {
    let turns = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().count() <= MEMBER_NAME_CHARS_MAX
        && !text.chars().any(|c| c.is_control() || turns(c))
}

const MEMBER_NAME_CHARS_MAX: usize = 64;
