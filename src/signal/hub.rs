//! The hub itself: connections, rooms, and the straight line from a frame to what it leads to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::{debug, info};

use super::hello::Caller;
use super::id::{MemberId, RoomName};
use super::member::Member;
use super::protocol::{Action, Body, Bye, Code, Error, Message, Pong, Request, parse};
use super::room::{Room, Seat};
use super::timers::{Timer, Timers};
use super::{BroadcastKey, Closed, ConnId, Opened, Options, Output, Outputs};
use crate::credentials::{Entropy, GrantName, Grants};
use crate::metrics::{Hello as Outcome, Limit, Metrics, Refusal};
use crate::net::Now;
use crate::telemetry::Addr;

/// The hub: every connection, every room.
pub struct Hub {
    pub(super) env: Env,
    pub(super) rooms: Rooms,
}

/// The rooms; apart from [`Env`], so that a room can change while both are at hand.
#[derive(Default)]
pub(super) struct Rooms {
    pub(super) by_name: BTreeMap<RoomName, Room>,
    /// Whether the daemon stops.
    pub(super) draining: bool,
}

/// What rooms need of the hub, beside themselves.
pub(super) struct Env {
    pub(super) options: Options,
    pub(super) grants: Arc<Grants>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) entropy: Entropy,
    pub(super) timers: Timers,
    pub(super) conns: HashMap<ConnId, Conn>,
    /// Where each member is; what `resume` looks for.
    pub(super) members: HashMap<MemberId, RoomName>,
}

/// One open WebSocket.
pub(super) struct Conn {
    opened: Opened,
    /// When it opened or last said something.
    heard: Instant,
    /// Who it speaks for, once `welcome` is said.
    pub(super) place: Option<Place>,
    bad_messages: u32,
}

/// A member and its room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) room: RoomName,
    pub(super) member: MemberId,
}

/// One call of the hub at work: when it happens, what it changes beside the rooms, what it leads
/// to.
pub(super) struct Step<'a> {
    pub(super) now: Now,
    pub(super) env: &'a mut Env,
    outputs: &'a mut Outputs,
}

impl Step<'_> {
    /// Writes a frame.
    pub(super) fn send(&mut self, conn: ConnId, frame: Bytes) {
        self.outputs.push(Output::Send { conn, frame });
    }

    /// Closes a connection; what it still says is not heard.
    pub(super) fn close(&mut self, conn: ConnId, code: u16, reason: &'static str) {
        self.env.forget(conn);
        self.outputs.push(Output::Close { conn, code, reason });
    }

    /// Makes the credentials of a grant worthless, then has its allocations ended.
    pub(super) fn revoke(&mut self, name: &GrantName) {
        self.env.grants.revoke(name);
        self.outputs.push(Output::Revoke { name: Arc::clone(name) });
    }

    /// Sets a timer `after` from now.
    pub(super) fn set_timer(&mut self, timer: Timer, after: Duration) {
        self.env.timers.set(timer, self.now.instant + after);
    }
}

impl Env {
    fn forget(&mut self, conn: ConnId) -> Option<Conn> {
        self.timers.cancel(&Timer::Silence(conn));
        self.conns.remove(&conn)
    }

    fn is_member(&self, conn: ConnId) -> bool {
        self.conns.get(&conn).is_some_and(|conn| conn.place.is_some())
    }

    /// How long a connection may say nothing.
    fn silence(&self) -> Duration {
        let secs = self.options.ping_interval_secs.saturating_add(self.options.ping_timeout_secs);
        Duration::from_secs(u64::from(secs))
    }

    /// Counts a refusal that has a counter of its own.
    fn count_refusal(&self, code: Code) {
        self.metrics.refusal(match code {
            Code::BadMessage => Refusal::BadMessage,
            Code::UnknownType => Refusal::UnknownType,
            Code::UnsupportedVersion => Refusal::Version,
            Code::Forbidden => Refusal::Forbidden,
            Code::KeyRequired | Code::BadKey => Refusal::Key,
            Code::RoomLive => Refusal::RoomLive,
            // Limits are counted where they bite, the others are no refusals of the hub.
            _ => return,
        });
    }
}

impl Hub {
    /// A hub without rooms.
    pub fn new(
        options: Options,
        grants: Arc<Grants>,
        metrics: Arc<Metrics>,
        entropy: Entropy,
    ) -> Self {
        let env = Env {
            options,
            grants,
            metrics,
            entropy,
            timers: Timers::default(),
            conns: HashMap::new(),
            members: HashMap::new(),
        };
        Self { env, rooms: Rooms::default() }
    }

    /// A WebSocket opened.
    pub fn opened(&mut self, now: Now, conn: ConnId, opened: Opened) {
        let state = Conn { opened, heard: now.instant, place: None, bad_messages: 0 };
        let silence = self.env.silence();
        self.env.timers.set(Timer::Silence(conn), now.instant + silence);
        self.env.conns.insert(conn, state);
    }

    /// A text frame came in. `keys` are those that admit broadcasters now.
    pub fn handle(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: &str,
        keys: &[BroadcastKey],
        outputs: &mut Outputs,
    ) {
        self.step(now, outputs, |rooms, step| rooms.handle_frame(step, conn, frame, keys));
    }

    /// A WebSocket ended.
    pub fn closed(&mut self, now: Now, conn: ConnId, how: Closed, outputs: &mut Outputs) {
        self.step(now, outputs, |rooms, step| {
            let Some(place) = step.env.forget(conn).and_then(|conn| conn.place) else { return };
            match how {
                Closed::Clean => rooms.leave(step, &place, true),
                Closed::Lost => rooms.lose(step, &place),
            }
        });
    }

    /// A page that went away says so by a request, for browsers may drop what its WebSocket still
    /// had to say. Whoever holds this token of `welcome.resume` leaves, as by `bye`; the token of
    /// nobody changes nothing.
    pub fn farewell(&mut self, now: Now, token: &str, outputs: &mut Outputs) {
        self.step(now, outputs, |rooms, step| rooms.farewell(step, token));
    }

    /// When [`Hub::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.env.timers.next()
    }

    /// Pushes fresh credentials, ends memberships whose grace is over, gives up silent sockets.
    pub fn handle_timeout(&mut self, now: Now, outputs: &mut Outputs) {
        self.step(now, outputs, |rooms, step| {
            while let Some(timer) = step.env.timers.pop_due(now.instant) {
                rooms.fire(step, timer);
            }
        });
    }

    /// Says `bye` to everybody: the daemon stops. Every later `hello` is refused.
    pub fn drain(&mut self, now: Now, retry_after_ms: u32, outputs: &mut Outputs) {
        self.step(now, outputs, |rooms, step| {
            rooms.draining = true;
            let code = Code::Draining;
            let retry_after_ms = Some(retry_after_ms);
            let bye = Bye { reason: code.text(), action: Action::Resume, retry_after_ms };
            let bye = Body::new(&bye);
            let mut conns: Vec<ConnId> = step.env.conns.keys().copied().collect();
            conns.sort_unstable();
            for conn in conns {
                rooms.say(step, conn, &bye, None);
                rooms.give_up(step, conn, code.close_code(), code.text());
            }
        });
    }

    /// Runs one call, then brings the gauges up to date.
    fn step(
        &mut self,
        now: Now,
        outputs: &mut Outputs,
        run: impl FnOnce(&mut Rooms, &mut Step<'_>),
    ) {
        run(&mut self.rooms, &mut Step { now, env: &mut self.env, outputs });
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.env.metrics.rooms.set(gauge(self.rooms.by_name.len()));
        self.env.metrics.grants.set(gauge(self.env.grants.count()));
    }
}

impl Rooms {
    fn handle_frame(
        &mut self,
        step: &mut Step<'_>,
        conn: ConnId,
        frame: &str,
        keys: &[BroadcastKey],
    ) {
        // What a connection says after we have closed it.
        let Some(state) = step.env.conns.get_mut(&conn) else { return };
        state.heard = step.now.instant;
        if frame.len() > step.env.options.frame_bytes as usize {
            step.env.metrics.limit(Limit::FrameBytes);
            self.say(step, conn, &Body::new(&Error::new(Code::TooLarge)), None);
            let code = Code::TooLarge;
            return self.give_up(step, conn, code.close_code(), code.text());
        }
        let Request { id, message } = match parse(frame) {
            Ok(request) => request,
            Err(refused) => {
                let failed = refused.hello && !step.env.is_member(conn);
                return self.refuse(step, conn, refused.code, refused.id.as_deref(), failed);
            }
        };
        let re = id.as_deref();
        let (result, failed) = match message {
            // A second hello changes nothing and harms nothing.
            Message::Hello(_) if step.env.is_member(conn) => (Err(Code::Forbidden), false),
            Message::Hello(hello) => {
                let Some(caller) = caller(step, conn, re) else { return };
                (self.hello(step, &caller, &hello, keys), true)
            }
            Message::Ping => {
                self.say(step, conn, &Body::new(&Pong {}), re);
                (Ok(()), false)
            }
            Message::Pong => (Ok(()), false),
            message => (self.speak(step, conn, message), false),
        };
        if let Err(code) = result {
            self.refuse(step, conn, code, re, failed);
        }
    }

    /// Handles what only a member may say.
    fn speak(&mut self, step: &mut Step<'_>, conn: ConnId, message: Message) -> Result<(), Code> {
        let place = step.env.conns.get(&conn).and_then(|conn| conn.place.clone());
        let Place { room: name, member } = place.ok_or(Code::Forbidden)?;
        let room = self.by_name.get_mut(&name).ok_or(Code::Internal)?;
        match message {
            Message::Offer(offer) => room.describe(step, &member, "offer", &offer),
            Message::Answer(answer) => room.describe(step, &member, "answer", &answer),
            Message::Candidates(candidates) => room.trickle(step, &member, candidates),
            Message::Restart(restart) => room.restart(step, &member, &restart),
            Message::Report(report) => room.report(step, &member, &report),
            Message::Bye => {
                step.close(conn, 1000, "bye");
                self.leave(step, &Place { room: name, member }, true);
                Ok(())
            }
            Message::End => {
                if room.seat(&member) != Some(Seat::Broadcaster) {
                    return Err(Code::Forbidden);
                }
                room.end(step);
                self.sweep(&name);
                Ok(())
            }
            Message::Hello(_) | Message::Ping | Message::Pong => Ok(()),
        }
    }

    pub(super) fn member(&mut self, place: &Place) -> Option<&mut Member> {
        let room = self.by_name.get_mut(&place.room)?;
        let seat = room.seat(&place.member)?;
        room.member(seat)
    }

    /// A member leaves, its socket being closed or about to be.
    pub(super) fn leave(&mut self, step: &mut Step<'_>, place: &Place, reserve: bool) {
        if let Some(room) = self.by_name.get_mut(&place.room)
            && let Some(seat) = room.seat(&place.member)
        {
            room.leave(step, seat, reserve);
            self.sweep(&place.room);
        }
    }

    /// A member has no socket any more; it may come back.
    fn lose(&mut self, step: &mut Step<'_>, place: &Place) {
        let grace_secs = step.env.options.grace_secs;
        if grace_secs == 0 {
            return self.leave(step, place, false);
        }
        if let Some(member) = self.member(place) {
            member.conn = None;
            let grace = Duration::from_secs(u64::from(grace_secs));
            step.set_timer(Timer::Grace(place.member.clone()), grace);
            debug!(room = %place.room, member = %place.member, "socket lost, membership kept");
        }
    }

    /// Closes a connection; its member may come back.
    fn give_up(&mut self, step: &mut Step<'_>, conn: ConnId, code: u16, reason: &'static str) {
        let place = step.env.conns.get(&conn).and_then(|conn| conn.place.clone());
        step.close(conn, code, reason);
        if let Some(place) = place {
            self.lose(step, &place);
        }
    }

    fn fire(&mut self, step: &mut Step<'_>, timer: Timer) {
        match timer {
            Timer::Silence(conn) => self.check_silence(step, conn),
            Timer::Refresh(member) => {
                let Some(name) = step.env.members.get(&member) else { return };
                let Some(room) = self.by_name.get_mut(name) else { return };
                if let Some(seat) = room.seat(&member) {
                    room.refresh(step, seat);
                }
            }
            Timer::Grace(member) => {
                let Some(room) = step.env.members.get(&member).cloned() else { return };
                self.leave(step, &Place { room, member }, false);
            }
            Timer::Reservation(name) => {
                if let Some(room) = self.by_name.get_mut(&name) {
                    room.release();
                    self.sweep(&name);
                }
            }
        }
    }

    /// Gives up a connection that is silent, or never said `hello`; else looks again later.
    fn check_silence(&mut self, step: &mut Step<'_>, conn: ConnId) {
        let silence = step.env.silence();
        let Some(state) = step.env.conns.get(&conn) else { return };
        let deadline = state.heard + silence;
        if state.place.is_some() && deadline > step.now.instant {
            step.env.timers.set(Timer::Silence(conn), deadline);
            return;
        }
        let client = Addr::from(state.opened.address);
        debug!(client = %client, "silent connection closed");
        self.give_up(step, conn, GOING_AWAY, "silent");
    }

    /// Answers with an error, and closes the connection when `failed`, or when it has sent too
    /// much nonsense.
    fn refuse(
        &mut self,
        step: &mut Step<'_>,
        conn: ConnId,
        code: Code,
        re: Option<&str>,
        failed: bool,
    ) {
        step.env.count_refusal(code);
        if failed {
            step.env.metrics.hello(Outcome::Refused);
        }
        let Some(state) = step.env.conns.get_mut(&conn) else { return };
        state.bad_messages += u32::from(code == Code::BadMessage);
        let close = failed || state.bad_messages > BAD_MESSAGES_MAX;
        let client = Addr::from(state.opened.address);
        debug!(client = %client, code = code.text(), "message refused");
        self.say(step, conn, &Body::new(&Error::new(code)), re);
        if close {
            self.give_up(step, conn, code.close_code(), code.text());
        }
    }

    /// Says something to a connection, as its member when it has one.
    fn say(&mut self, step: &mut Step<'_>, conn: ConnId, body: &Body, re: Option<&str>) {
        let place = step.env.conns.get(&conn).and_then(|conn| conn.place.as_ref());
        match place.and_then(|place| self.member(place)) {
            Some(member) => member.answer(step, body, re),
            None => step.send(conn, body.frame(re, None)),
        }
    }

    /// Forgets a room that nothing keeps.
    fn sweep(&mut self, name: &RoomName) {
        if self.by_name.get(name).is_some_and(Room::is_empty) {
            self.by_name.remove(name);
            info!(room = %name, "room removed");
        }
    }
}

/// What `hello` needs to know of its connection.
fn caller<'a>(step: &Step<'_>, conn: ConnId, re: Option<&'a str>) -> Option<Caller<'a>> {
    let opened = &step.env.conns.get(&conn)?.opened;
    Some(Caller {
        conn,
        re,
        may_publish: opened.may_publish,
        ice_urls: Arc::clone(&opened.ice_urls),
        client: Addr::from(opened.address),
    })
}

/// The close code of a connection that went silent: the page is asked to come back.
const GOING_AWAY: u16 = 1001;
/// More than so many frames that are no messages close a connection.
const BAD_MESSAGES_MAX: u32 = 10;
