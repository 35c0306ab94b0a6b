//! Messages out of a stream of bytes: TCP and TLS keep no borders between them.
//!
//! Each message tells its length in its first four bytes. STUN messages are a multiple of four
//! bytes long; ChannelData is padded to one on a stream, and the padding is not counted by its
//! length field (RFC 8656, section 12.5):
//! ```text
//! | STUN message | ChannelData header | payload | 0 to 3 bytes | STUN message | ...
//! ```
//! Whoever loses count once never finds the next border again, so what can be no message is an
//! error for good, found with the first byte that gives it away. What has its length field where
//! any message has it is handed out, and dropped like any that nobody wants: a reserved channel
//! number (RFC 8656, section 12.6), and STUN that is malformed, by its magic cookie or by a length
//! that is no multiple of four (RFC 8489, section 6.3). What a message says is not looked at here.
//! Memory is bounded by the longest message, [`FRAME_BYTES_MAX`].

use std::ops::Range;

use super::channel_data::CHANNEL_DATA_HEADER_BYTES;
use super::error::DecodeError;
use super::header::{HEADER_BYTES, MAGIC_COOKIE};
use super::{Kind, classify};

/// The longest message on a stream: a STUN message whose length field is 0xFFFF, malformed as that
/// is.
pub const FRAME_BYTES_MAX: usize = HEADER_BYTES + 0xFFFF;

/// Cuts a stream into messages.
///
/// The owner reads into [`Framer::space`], says by [`Framer::filled`] how much, and takes
/// [`Framer::messages`] until there is none, or [`Framer::next_message`] one by one.
#[derive(Debug, Default)]
pub struct Framer {
    /// What lies from `start` to `end` has come and is not handed out.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read left no space: the next one is given more.
    was_full: bool,
}

/// How long a message is, and what it takes on the stream with its padding.
struct Extent {
    message: usize,
    frame: usize,
}

impl Framer {
    /// A stream of which nothing has come.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the next bytes of the stream go. Never empty when [`Framer::next_message`] has just
    /// said that there is none.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let more = if std::mem::take(&mut self.was_full) { 2 * self.bytes.len() } else { 0 };
        let needed = match extent(&self.bytes[..self.end]) {
            Ok(Some(extent)) => extent.frame,
            _ => 0,
        };
        let wanted = more.max(needed).clamp(FIRST_BYTES, FRAME_BYTES_MAX);
        if wanted > self.bytes.len() {
            self.bytes.resize(wanted, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// The first `count` bytes of [`Framer::space`] have come.
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
        self.was_full = self.end == self.bytes.len();
    }

    /// The next whole message without its padding; `None` when more bytes must come first.
    ///
    /// # Errors
    /// `NotStun` when the bytes are no message, and the same again for ever after.
    pub fn next_message(&mut self) -> Result<Option<&[u8]>, DecodeError> {
        let mut messages = self.messages();
        let message = messages.next_message()?;
        Ok(message.map(|message| &messages.bytes[message]))
    }

    /// All that has come, for whoever wants to look at several messages at a time.
    pub fn messages(&mut self) -> Messages<'_> {
        Messages { bytes: &self.bytes[..self.end], start: &mut self.start }
    }

    /// What has come and is not handed out, for whoever goes on without messages.
    pub fn into_rest(mut self) -> Vec<u8> {
        self.bytes.truncate(self.end);
        self.bytes.drain(..self.start);
        self.bytes
    }

    /// Whether a message has begun that is not whole.
    pub const fn is_amid(&self) -> bool {
        self.start < self.end
    }
}

/// The messages that have come; those that are taken stay where they are.
#[derive(Debug)]
pub struct Messages<'a> {
    bytes: &'a [u8],
    start: &'a mut usize,
}

impl<'a> Messages<'a> {
    /// What the messages are parts of.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Where in [`Messages::bytes`] the next whole message is, without its padding; `None` when
    /// more bytes must come first.
    ///
    /// # Errors
    /// As those of [`Framer::next_message`].
    pub fn next_message(&mut self) -> Result<Option<Range<usize>>, DecodeError> {
        let start = *self.start;
        let waiting = &self.bytes[start..];
        let Some(extent) = extent(waiting)? else { return Ok(None) };
        if waiting.len() < extent.frame {
            return Ok(None);
        }
        *self.start += extent.frame;
        Ok(Some(start..start + extent.message))
    }
}

/// What the beginning of a message says; `None` until its length field is there.
fn extent(waiting: &[u8]) -> Result<Option<Extent>, DecodeError> {
    let length = match waiting {
        [_, _, high, low, ..] => Some(usize::from(u16::from_be_bytes([*high, *low]))),
        _ => None,
    };
    match (waiting, classify(waiting)) {
        ([], _) => Ok(None),
        (_, Kind::ChannelData) | ([0x40..=0xFF, ..], Kind::Other) => Ok(length.map(|length| {
            let message = CHANNEL_DATA_HEADER_BYTES + length;
            Extent { message, frame: message.next_multiple_of(4) }
        })),
        (_, kind @ (Kind::Stun | Kind::Other)) => {
            let Some(length) = length else { return Ok(None) };
            // RFC 8656, section 12: up to 0x3F it is STUN. Above 3 the method is one that nobody
            // has defined, which is not answered, but its length is known; without the cookie it
            // is rather what others begin with that, as TLS does (RFC 7983, section 7).
            let cookie = waiting[4..].iter().zip(MAGIC_COOKIE.to_be_bytes());
            if kind == Kind::Other && { cookie }.any(|(byte, cookie)| *byte != cookie) {
                return Err(DecodeError::NotStun);
            }
            let message = HEADER_BYTES + length;
            Ok(Some(Extent { message, frame: message }))
        }
    }
}

/// The first memory of a stream: most requests fit.
const FIRST_BYTES: usize = 2048;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message, and what it is on a stream.
    fn message() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let length = prop_oneof![8 => 0usize..200, 1 => Just(0xFFFC), 1 => 0usize..0x10000];
        (any::<bool>(), length, any::<u8>(), any::<[u8; 3]>()).prop_map(
            |(is_stun, length, seed, padding)| {
                let length = if is_stun { length / 4 * 4 } else { length };
                let mut message = if is_stun { stun(length) } else { channel_data(length) };
                let body = message.len() - length;
                message[body..].iter_mut().enumerate().for_each(|(at, byte)| {
                    *byte = seed.wrapping_add(at as u8);
                });
                let mut frame = message.clone();
                frame.extend(&padding[..length.next_multiple_of(4) - length]);
                (message, frame)
            },
        )
    }

    fn stun(length: usize) -> Vec<u8> {
        let mut message = vec![0; HEADER_BYTES + length];
        message[1] = 1;
        message[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        message[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        message
    }

    fn channel_data(length: usize) -> Vec<u8> {
        let mut message = vec![0; CHANNEL_DATA_HEADER_BYTES + length];
        message[..2].copy_from_slice(&0x4ABCu16.to_be_bytes());
        message[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        message
    }

    /// Feeds `stream` in pieces of these sizes, over and over; what comes out.
    fn cut(stream: &[u8], pieces: &[usize]) -> Result<Vec<Vec<u8>>, DecodeError> {
        let mut framer = Framer::new();
        let (mut rest, mut messages) = (stream, Vec::new());
        for piece in pieces.iter().cycle() {
            let space = framer.space();
            assert!(!space.is_empty(), "a read of nothing would look like the end");
            let count = (*piece).max(1).min(space.len()).min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            framer.filled(count);
            rest = &rest[count..];
            while let Some(message) = framer.next_message()? {
                messages.push(message.to_vec());
            }
            assert!(framer.bytes.len() <= FRAME_BYTES_MAX);
            if rest.is_empty() {
                return Ok(messages);
            }
        }
        unreachable!("pieces are never empty")
    }

    proptest! {
        #[test]
        fn a_stream_is_cut_where_it_was_joined_however_it_arrives(
            messages in prop::collection::vec(message(), 1..12),
            pieces in prop::collection::vec(1usize..3000, 1..20),
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|(_, frame)| frame.clone()).collect();
            let expected: Vec<Vec<u8>> = messages.into_iter().map(|(message, _)| message).collect();
            prop_assert_eq!(cut(&stream, &pieces), Ok(expected));
        }

        #[test]
        fn short_messages_come_out_one_byte_at_a_time(
            lengths in prop::collection::vec(0usize..40, 1..40),
        ) {
            let mut stream = Vec::new();
            for length in &lengths {
                stream.extend(channel_data(*length));
                stream.resize(stream.len().next_multiple_of(4), 0);
                stream.extend(stun(length / 4 * 4));
            }
            let cut = cut(&stream, &[1]);
            prop_assert_eq!(cut.map(|messages| messages.len()), Ok(2 * lengths.len()));
        }

        #[test]
        fn rubbish_takes_bounded_memory_and_an_error_stays(
            rubbish in prop::collection::vec(any::<u8>(), 0..4000),
            pieces in prop::collection::vec(1usize..700, 1..10),
        ) {
            // Asserts on the way that memory is bounded and space is never empty.
            let _ = cut(&rubbish, &pieces);
            let mut framer = Framer::new();
            let count = rubbish.len().min(framer.space().len());
            framer.space()[..count].copy_from_slice(&rubbish[..count]);
            framer.filled(count);
            while let Ok(Some(_)) = framer.next_message() {}
            let last = framer.next_message().err();
            framer.space()[0] = 0;
            framer.filled(1);
            if last.is_some() {
                prop_assert_eq!(framer.next_message().err(), last);
            }
        }
    }

    #[test]
    fn what_can_be_no_message_is_refused_by_the_first_byte_that_shows_it() {
        let first_error = |stream: &[u8]| {
            let mut framer = Framer::new();
            for (at, byte) in stream.iter().enumerate() {
                framer.space()[0] = *byte;
                framer.filled(1);
                if let Err(error) = framer.next_message() {
                    return Some((at, error));
                }
            }
            None
        };
        // TLS greetings on a plain listener, and the ends of what can be neither.
        assert_eq!(first_error(b"\x16\x03\x01\x02\x00"), Some((4, DecodeError::NotStun)));
        assert_eq!(first_error(b"\x16\x03\x01\x04\x00"), Some((4, DecodeError::NotStun)));
        assert_eq!(first_error(&[0x04, 0, 0, 0, 0]), Some((4, DecodeError::NotStun)));
        assert_eq!(first_error(&[0x3F, 0xFF, 0, 0, 0]), Some((4, DecodeError::NotStun)));
        let other_cookie = [0x3F, 1, 0, 8, 0x21, 0x12, 0xA4, 0x43];
        assert_eq!(first_error(&other_cookie), Some((7, DecodeError::NotStun)));
        assert_eq!(first_error(&stun(0)), None);
        let mut of_no_method = stun(0);
        of_no_method[0] = 0x3E;
        assert_eq!(first_error(&of_no_method), None);
    }

    #[test]
    fn a_malformed_message_costs_itself_only() {
        for length in [0, 1, 2, 7, 0xFFFF] {
            for (first, cookie) in [(0, MAGIC_COOKIE), (0, 1), (3, 0), (3, MAGIC_COOKIE)] {
                let mut malformed = stun(length);
                malformed[0] = first;
                malformed[4..8].copy_from_slice(&cookie.to_be_bytes());
                let stream = [&malformed[..], &stun(0)].concat();
                for piece in [1, 4096] {
                    let expected = vec![malformed.clone(), stun(0)];
                    assert_eq!(cut(&stream, &[piece]), Ok(expected), "{length} {first} {cookie}");
                }
            }
        }
    }

    #[test]
    fn a_reserved_channel_number_costs_its_message_only() {
        for number in [0x5000u16, 0x7FFF, 0x8000, 0xFFFF] {
            let mut reserved = channel_data(5);
            reserved[..2].copy_from_slice(&number.to_be_bytes());
            let stream = [&reserved[..], &[0; 3], &stun(0)].concat();
            assert_eq!(cut(&stream, &[1]), Ok(vec![reserved, stun(0)]));
        }
    }

    #[test]
    fn a_message_waits_for_its_padding() {
        let mut framer = Framer::new();
        let message = channel_data(5);
        framer.space()[..9].copy_from_slice(&message);
        framer.filled(9);
        for _ in 0..3 {
            assert_eq!(framer.next_message(), Ok(None));
            assert!(framer.is_amid());
            framer.space()[0] = 0xAA;
            framer.filled(1);
        }
        assert_eq!(framer.next_message(), Ok(Some(&message[..])));
        assert!(!framer.is_amid());
    }

    #[test]
    fn a_quiet_stream_has_little_memory_and_a_busy_one_is_given_more() {
        let mut framer = Framer::new();
        assert_eq!(framer.space().len(), FIRST_BYTES);
        for _ in 0..10 {
            let space = framer.space();
            let len = space.len();
            space.chunks_exact_mut(4).for_each(|frame| frame.copy_from_slice(&[0x40, 0, 0, 0]));
            framer.filled(len / 4 * 4);
            while framer.next_message().expect("empty ChannelData").is_some() {}
        }
        assert_eq!(framer.space().len(), FRAME_BYTES_MAX);
    }
}
