//! Sending many datagrams with few calls.
//!
//! Datagrams in a row that are alike (receiver, source, traffic class, size; the last one may be
//! shorter) become one message, which the kernel cuts (`UDP_SEGMENT`), where [`Segmenting`] says
//! that it does. A message alone leaves by the cheapest call, several by one `sendmmsg`.

use std::io;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null_mut;

use super::BATCH;
use super::address::Address;
use super::calls::{Call, made};
use super::control::Control;
use super::errors::{SocketError, drain_errors, may_be_left};
use super::segmenting::Segmenting;

/// One datagram to send.
#[derive(Debug, Clone, Copy)]
pub(in crate::relay) struct Datagram<'a> {
    /// The payload.
    pub(in crate::relay) bytes: &'a [u8],
    /// Whom to.
    pub(in crate::relay) to: SocketAddr,
    /// The address of ours that it leaves from, on a socket that is bound to the wildcard.
    pub(in crate::relay) from: Option<SocketAddr>,
    /// DSCP and ECN.
    pub(in crate::relay) traffic_class: u8,
}

/// Datagrams of the same size for the same receiver: `head | payload | zeros`, each `stride` bytes
/// behind the one before.
#[derive(Debug, Clone, Copy)]
pub(in crate::relay) struct Run<'a> {
    /// Whom to.
    pub(in crate::relay) to: SocketAddr,
    /// The address of ours that they leave from, on a socket that is bound to the wildcard.
    pub(in crate::relay) from: Option<SocketAddr>,
    /// DSCP and ECN.
    pub(in crate::relay) traffic_class: u8,
    /// How many they are.
    pub(in crate::relay) count: usize,
    /// What stands in front of the payloads: one for all of them, or one for each.
    pub(in crate::relay) heads: &'a [u8],
    /// Bytes of a head; 0 for none.
    pub(in crate::relay) head_bytes: usize,
    /// Where the payloads lie, from the first byte of the first one on.
    pub(in crate::relay) payloads: &'a [u8],
    /// Bytes of a payload.
    pub(in crate::relay) payload_bytes: usize,
    /// Bytes from the beginning of one payload to the beginning of the next.
    pub(in crate::relay) stride: usize,
    /// How many bytes of zero follow a payload: at most 3.
    pub(in crate::relay) padding: usize,
}

impl<'a> Run<'a> {
    /// One datagram.
    #[inline]
    pub(in crate::relay) fn single(datagram: Datagram<'a>) -> Self {
        let Datagram { bytes, to, from, traffic_class } = datagram;
        Self {
            to,
            from,
            traffic_class,
            count: 1,
            heads: &[],
            head_bytes: 0,
            payloads: bytes,
            payload_bytes: bytes.len(),
            stride: 0,
            padding: 0,
        }
    }

    /// Bytes of a datagram.
    #[inline]
    fn bytes(&self) -> usize {
        self.head_bytes + self.payload_bytes + self.padding
    }

    fn head(&self, index: usize) -> &'a [u8] {
        let start = if self.heads.len() > self.head_bytes { index * self.head_bytes } else { 0 };
        &self.heads[start..start + self.head_bytes]
    }

    #[inline]
    fn payload(&self, index: usize) -> &'a [u8] {
        let start = index * self.stride;
        &self.payloads[start..start + self.payload_bytes]
    }
}

/// What became of a group of datagrams: those that were sent, dropped because of a full buffer, and
/// dropped for another reason add up to the length of the group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::relay) struct Outcome {
    /// Taken by the kernel.
    pub(in crate::relay) sent: usize,
    /// Dropped, because the send buffer or the device's queue was full.
    pub(in crate::relay) full: usize,
    /// Dropped, because the kernel refused: no route, a forbidden address.
    pub(in crate::relay) failed: usize,
    /// Messages that were taken and cut by the kernel.
    pub(in crate::relay) segmented_sends: usize,
    /// How many of those that were sent were cut out of them.
    pub(in crate::relay) segmented: usize,
    /// Messages that the kernel did not cut, so that their datagrams went by themselves.
    pub(in crate::relay) refused: usize,
}

/// One message: datagrams alike.
#[derive(Debug, Clone, Copy, Default)]
struct Message {
    /// The first of its vectors, and how many there are.
    vector: usize,
    vectors: usize,
    datagrams: usize,
    /// Bytes of a datagram, but for the last one, which may be shorter.
    segment: usize,
    /// Bytes of all of them.
    bytes: usize,
    /// Bytes of the name, and of the control messages so far.
    name: libc::socklen_t,
    control: usize,
    /// The last one is shorter, so none may follow.
    closed: bool,
}

/// Memory for [`BATCH`] messages, reused by every call. The pointers in it are written and used
/// within one call of [`SendBatch::send_runs`].
pub(in crate::relay) struct SendBatch {
    /// The last place of these four is for a datagram of a message that the kernel did not cut.
    messages: Box<[Message; BATCH + 1]>,
    headers: Box<[libc::mmsghdr; BATCH + 1]>,
    names: Box<[Address; BATCH + 1]>,
    controls: Box<[Control; BATCH + 1]>,
    vectors: Box<[libc::iovec; VECTORS]>,
    /// How many messages wait, and how many vectors they have.
    waiting: usize,
    used: usize,
    /// Whom the last of them is for: receiver, source, traffic class.
    last: (SocketAddr, Option<SocketAddr>, u8),
    /// How often the next message has failed by other ways.
    tries: usize,
}

impl SendBatch {
    /// An empty batch.
    pub(in crate::relay) fn new() -> Self {
        // SAFETY: a mmsghdr and an iovec of all zeros are valid values, of null pointers.
        let (headers, vectors) = unsafe { (zeroed(), zeroed()) };
        Self {
            messages: Box::new([Message::default(); BATCH + 1]),
            headers: Box::new([headers; BATCH + 1]),
            names: Box::new([Address::empty(); BATCH + 1]),
            controls: Box::new([Control::empty(); BATCH + 1]),
            vectors: Box::new([vectors; VECTORS]),
            waiting: 0,
            used: 0,
            last: (SocketAddr::from(([0; 4], 0)), None, 0),
            tries: 0,
        }
    }

    /// Sends one datagram that [`send_alone`] has tried in vain. Like [`Self::send_runs`].
    pub(in crate::relay) fn send_again(
        &mut self,
        socket: BorrowedFd<'_>,
        segmenting: &mut Segmenting,
        (bytes, to): (&[u8], SocketAddr),
        each: impl FnMut(SocketError),
    ) -> Outcome {
        let again = Run::single(Datagram { bytes, to, from: None, traffic_class: 0 });
        self.tries = 1;
        self.send_runs(socket, segmenting, std::iter::once(again), each)
    }

    /// Sends `count` datagrams from `socket` in order, each by itself; `datagram` says what they
    /// are. A failed one costs the others nothing, see [`Self::send_runs`].
    #[cfg(test)]
    pub(in crate::relay) fn send<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        count: usize,
        each: impl FnMut(SocketError),
        datagram: impl Fn(usize) -> Datagram<'a>,
    ) -> Outcome {
        let runs = (0..count).map(|index| Run::single(datagram(index)));
        let mut never = Segmenting::OFF;
        self.send_runs(socket, &mut never, runs, each)
    }

    /// Sends `runs` from `socket` in order, in as few pieces as `segmenting` allows. A failed
    /// datagram costs the others nothing: an error that some earlier one left behind is drained
    /// and told to `each`, and what met it is sent once more. What the kernel does not cut is sent
    /// datagram by datagram.
    pub(in crate::relay) fn send_runs<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        segmenting: &mut Segmenting,
        runs: impl Iterator<Item = Run<'a>>,
        mut each: impl FnMut(SocketError),
    ) -> Outcome {
        let (mut outcome, mut blocked) = (Outcome::default(), false);
        // A panic may have left something.
        (self.waiting, self.used) = (0, 0);
        segmenting.pass();
        for run in runs {
            let mut index = 0;
            while index < run.count {
                if !self.joins(&run, segmenting) {
                    if self.is_full() && !blocked {
                        blocked = self.leave(socket, segmenting, &mut outcome, &mut each);
                    }
                    if blocked {
                        outcome.full += run.count - index;
                        break;
                    }
                    self.open(&run);
                }
                index += self.fill(&run, index, segmenting);
            }
        }
        if self.waiting > 0 {
            self.leave(socket, segmenting, &mut outcome, &mut each);
        }
        outcome
    }

    /// Whether another message or another piece of one may not fit.
    fn is_full(&self) -> bool {
        self.waiting == BATCH || self.used + PIECES > VECTORS
    }

    /// Whether the datagrams of `run` may follow in the last message.
    fn joins(&self, run: &Run<'_>, segmenting: &Segmenting) -> bool {
        let Some(last) = self.waiting.checked_sub(1) else { return false };
        let (message, bytes) = (&self.messages[last], run.bytes());
        (run.to.port() == self.last.0.port() && !message.closed)
            && (1..=message.segment).contains(&bytes)
            && message.datagrams < DATAGRAMS_MAX
            && message.bytes + bytes <= BYTES_MAX
            && self.used + PIECES <= VECTORS
            && segmenting.takes(message.segment)
            && self.last == (run.to, run.from, run.traffic_class)
    }

    /// Begins a message for the receiver of `run`.
    #[inline]
    fn open(&mut self, run: &Run<'_>) {
        let place = self.waiting;
        let (to, name) = Address::write(run.to);
        self.names[place] = to;
        let control = match (run.from, run.traffic_class) {
            (None, 0) => 0,
            (from, class) => self.controls[place].write(run.to, from, class),
        };
        let segment = run.bytes();
        self.messages[place] =
            Message { vector: self.used, segment, name, control, ..Message::default() };
        self.last = (run.to, run.from, run.traffic_class);
        self.waiting = place + 1;
    }

    /// Adds datagrams of `run` from `index` on to the last message; how many there was room for:
    /// one at least.
    #[inline]
    fn fill(&mut self, run: &Run<'_>, index: usize, segmenting: &Segmenting) -> usize {
        let message = &mut self.messages[self.waiting - 1];
        let bytes = run.bytes();
        message.closed = bytes < message.segment;
        let count = if message.closed || run.count == 1 || !segmenting.takes(bytes) {
            1
        } else {
            let room = (BYTES_MAX - message.bytes.min(BYTES_MAX)) / bytes;
            let room = room.min((VECTORS - self.used) / PIECES);
            room.min(DATAGRAMS_MAX - message.datagrams).min(run.count - index).max(1)
        };
        let mut used = self.used;
        for index in index..index + count {
            let mut put = |bytes: &[u8]| {
                // The kernel only reads from it, in spite of the type.
                let iov_base = bytes.as_ptr().cast_mut().cast();
                self.vectors[used] = libc::iovec { iov_base, iov_len: bytes.len() };
                used += 1;
            };
            if run.head_bytes > 0 {
                put(run.head(index));
            }
            put(run.payload(index));
            if run.padding > 0 {
                put(&ZEROS[..run.padding]);
            }
        }
        message.vectors += used - self.used;
        message.datagrams += count;
        message.bytes += count * bytes;
        self.used = used;
        count
    }

    /// Sends what waits; whether the send buffer was full and the rest dropped.
    fn leave(
        &mut self,
        socket: BorrowedFd<'_>,
        segmenting: &mut Segmenting,
        outcome: &mut Outcome,
        each: &mut impl FnMut(SocketError),
    ) -> bool {
        let waiting = 0..self.waiting;
        let blocked = self.send_all(socket, waiting, segmenting, outcome, each);
        (self.waiting, self.used) = (0, 0);
        blocked
    }

    /// Sends messages in order; whether the send buffer was full and the rest dropped.
    fn send_all(
        &mut self,
        socket: BorrowedFd<'_>,
        mut left: Range<usize>,
        segmenting: &mut Segmenting,
        outcome: &mut Outcome,
        each: &mut impl FnMut(SocketError),
    ) -> bool {
        let mut tries = std::mem::take(&mut self.tries);
        while !left.is_empty() {
            let error = match self.transmit(socket, left.clone()) {
                Ok(sent) if sent > 0 => {
                    outcome.add(&self.messages[left.start..left.start + sent], segmenting);
                    left.start += sent;
                    tries = 0;
                    continue;
                }
                Ok(_) => io::ErrorKind::WriteZero.into(),
                Err(error) => error,
            };
            let message = self.messages[left.start];
            match (error.kind(), error.raw_os_error()) {
                (io::ErrorKind::Interrupted, _) => continue,
                (io::ErrorKind::WouldBlock, _) => {
                    outcome.full += datagrams(&self.messages[left]);
                    return true;
                }
                (_, Some(libc::ENOBUFS)) => outcome.full += message.datagrams,
                (_, code) => {
                    // Whether an error that ICMP can leave is this message's own is not to be seen.
                    // What an earlier one left is in the queue, and may be joined by another until
                    // we send again. Only what our own kernel refused to send is this one's for
                    // certain; that is told once, however often it was tried.
                    let mut own = !code.is_some_and(may_be_left);
                    let mut drained = 0;
                    if !own {
                        drained = drain_errors(socket, |error| {
                            if !(error.local && own) {
                                each(error);
                            }
                            own |= error.local;
                        });
                    }
                    tries += 1;
                    let uncut = code.filter(|code| message.datagrams > 1 && refuses(*code));
                    if let Some(code) = uncut.filter(|_| drained == 0 || tries == TRIES_MAX) {
                        segmenting.refuse(code, message.segment);
                        outcome.refused += 1;
                        let whole = left.start;
                        if self.send_apart(socket, whole, segmenting, outcome, each) {
                            outcome.full += datagrams(&self.messages[whole + 1..left.end]);
                            return true;
                        }
                    } else if !own && (tries == 1 || (drained > 0 && tries < TRIES_MAX)) {
                        continue;
                    } else {
                        outcome.failed += message.datagrams;
                    }
                }
            }
            left.start += 1;
            tries = 0;
        }
        false
    }

    /// Sends the datagrams of message `whole` one by one; whether the send buffer was full and the
    /// rest of them dropped. They are alike, so when the first fails, those of its size do.
    fn send_apart(
        &mut self,
        socket: BorrowedFd<'_>,
        whole: usize,
        segmenting: &mut Segmenting,
        outcome: &mut Outcome,
        each: &mut impl FnMut(SocketError),
    ) -> bool {
        let Message { mut vector, vectors, datagrams, segment, .. } = self.messages[whole];
        let end = vector + vectors;
        (self.names[BATCH], self.controls[BATCH]) = (self.names[whole], self.controls[whole]);
        let mut fails = false;
        for sent in 0..datagrams {
            let (first, mut bytes) = (vector, 0);
            while vector < end && (bytes < segment || vector == first) {
                bytes += self.vectors[vector].iov_len;
                vector += 1;
            }
            if fails && bytes == segment {
                outcome.failed += 1;
                continue;
            }
            let (vectors, failed) = (vector - first, outcome.failed);
            self.messages[BATCH] =
                Message { vector: first, vectors, datagrams: 1, bytes, ..self.messages[whole] };
            if self.send_all(socket, BATCH..BATCH + 1, segmenting, outcome, each) {
                outcome.full += datagrams - sent - 1;
                return true;
            }
            fails = outcome.failed > failed;
        }
        false
    }

    /// Hands messages to the kernel by the cheapest call; how many it took.
    fn transmit(&mut self, socket: BorrowedFd<'_>, range: Range<usize>) -> io::Result<usize> {
        made(Call::Send);
        let (fd, flags) = (socket.as_raw_fd(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
        let only = range.len() == 1;
        let message = &self.messages[range.start];
        if only && message.vectors == 1 && message.datagrams == 1 && message.control == 0 {
            let vector = &self.vectors[message.vector];
            // SAFETY: `fill` pointed the vector at bytes that are borrowed until `send_runs`
            // returns, and `open` wrote the name, each with its length.
            let sent = unsafe {
                let name = (&raw const self.names[range.start]).cast();
                libc::sendto(fd, vector.iov_base, vector.iov_len, flags as _, name, message.name)
            };
            return if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(1) };
        }
        for index in range.clone() {
            self.seal(index);
        }
        let headers = &mut self.headers[range];
        // SAFETY: `seal` pointed each of these headers at a name and a control buffer of this
        // batch, and at vectors whose bytes are borrowed until `send_runs` returns, with their
        // lengths.
        let sent = unsafe {
            if only {
                let sent = libc::sendmsg(fd, &raw const headers[0].msg_hdr, flags as _);
                if sent < 0 { -1 } else { 1 }
            } else {
                libc::sendmmsg(fd, headers.as_mut_ptr(), headers.len() as u32, flags as _)
            }
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Points header `index` at its message.
    fn seal(&mut self, index: usize) {
        let message = &self.messages[index];
        let control = &mut self.controls[index];
        let mut control_len = message.control;
        if message.datagrams > 1 {
            // What is segmented is no longer than a datagram may be.
            control_len = control.write_segment(control_len, message.segment as u16);
        }
        let header = &mut self.headers[index].msg_hdr;
        header.msg_name = (&raw mut self.names[index]).cast();
        header.msg_namelen = message.name;
        header.msg_iov = &raw mut self.vectors[message.vector];
        header.msg_iovlen = message.vectors as _;
        header.msg_control =
            if control_len == 0 { null_mut() } else { control.0.as_mut_ptr().cast() };
        header.msg_controllen = control_len as _;
    }
}

/// What became of a datagram that was sent alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) enum Alone {
    /// The kernel took it.
    Sent,
    /// It cannot be sent.
    Failed,
    /// Perhaps it was not at fault, or the kernel has no room: [`SendBatch::send_again`] sends it,
    /// or finds out why not.
    Again,
}

/// Sends one datagram of which nothing is to be said but whom it is for.
#[inline]
pub(in crate::relay) fn send_alone(socket: BorrowedFd<'_>, bytes: &[u8], to: SocketAddr) -> Alone {
    let (name, name_len) = Address::write(to);
    made(Call::Send);
    // SAFETY: name and bytes are live for the length of the call, which reads as much of them as
    // is said.
    let sent = unsafe {
        let (fd, name) = (socket.as_raw_fd(), (&raw const name).cast());
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        libc::sendto(fd, bytes.as_ptr().cast(), bytes.len(), flags as _, name, name_len)
    };
    if sent >= 0 {
        return Alone::Sent;
    }
    let error = io::Error::last_os_error();
    let passes = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
    let may_pass = |code| code == libc::ENOBUFS || may_be_left(code);
    let again = passes || error.raw_os_error().is_some_and(may_pass);
    if again { Alone::Again } else { Alone::Failed }
}

impl Outcome {
    /// Counts messages that were taken.
    #[inline]
    fn add(&mut self, messages: &[Message], segmenting: &mut Segmenting) {
        for message in messages {
            self.sent += message.datagrams;
            if message.datagrams > 1 {
                self.segmented_sends += 1;
                self.segmented += message.datagrams;
                segmenting.cut(message.segment);
            }
        }
    }
}

fn datagrams(messages: &[Message]) -> usize {
    messages.iter().map(|message| message.datagrams).sum()
}

fn refuses(code: i32) -> bool {
    Segmenting::is_refusal(code)
}

/// How often one message is tried while errors of others keep coming.
const TRIES_MAX: usize = 4;
/// The most datagrams that the kernel cuts a message into (`UDP_MAX_SEGMENTS`, which is more since
/// Linux 6.9).
const DATAGRAMS_MAX: usize = 64;
/// The most bytes of all of them: those of one datagram over IPv4.
const BYTES_MAX: usize = 65_507;
/// Head, payload and padding.
const PIECES: usize = 3;
static ZEROS: [u8; 3] = [0; 3];
/// Room for two messages of the most pieces, or for many of few.
const VECTORS: usize = 2 * PIECES * DATAGRAMS_MAX;

#[cfg(test)]
mod tests;
