//! What waits to be written to one client.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};

use crate::edge::WriteMessages;

/// Whole messages in order, padded to four bytes as a stream wants it (RFC 8656, section 12.5).
///
/// A client that reads too slowly loses what peers send it, as it would on a full link; no more of
/// it is received than there is room for. Answers have room of their own behind that: whoever lets
/// even them gather asks without listening.
#[derive(Debug)]
pub(super) struct Outbox {
    waiting: BytesMut,
    /// The most bytes that wait, answers apart.
    bytes_max: usize,
    /// Something was written since the stream was last flushed.
    unflushed: bool,
    /// The most bytes that have waited since the memory was new.
    peak: usize,
    /// Where messages end: how much of the first is left, then how long each of the others is.
    /// Only where each has a record of its own.
    borders: Option<VecDeque<usize>>,
}

/// What packets may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) bytes: usize,
    /// Nothing waits, so waiting would not make it more.
    pub(super) is_all: bool,
}

/// There is no room.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Outbox {
    /// With `each_alone` the stream is told where messages end, so that no two share a TLS record:
    /// clients are about that read a record and take it for one message.
    pub(super) fn new(bytes_max: usize, each_alone: bool) -> Self {
        let borders = each_alone.then(VecDeque::new);
        Self { waiting: BytesMut::new(), bytes_max, unflushed: false, peak: 0, borders }
    }

    /// Appends what a peer sent, with its header.
    pub(super) fn push_packet(&mut self, message: &[u8]) -> Result<(), Full> {
        self.push_parts(&[message])
    }

    /// The same for a message whose parts lie apart.
    pub(super) fn push_parts(&mut self, parts: &[&[u8]]) -> Result<(), Full> {
        self.push(parts, self.bytes_max)
    }

    /// How much room there is for packets.
    pub(super) fn room(&self) -> Room {
        let bytes = self.bytes_max.saturating_sub(self.waiting.len());
        Room { bytes, is_all: self.waiting.is_empty() }
    }

    /// Appends an answer.
    pub(super) fn push_answer(&mut self, message: &[u8]) -> Result<(), Full> {
        self.push(&[message], self.bytes_max + ANSWERS_BYTES_MAX)
    }

    fn push(&mut self, parts: &[&[u8]], bytes_max: usize) -> Result<(), Full> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let padded = len.next_multiple_of(4);
        if self.waiting.len() + padded > bytes_max {
            return Err(Full);
        }
        for part in parts {
            self.waiting.extend_from_slice(part);
        }
        self.waiting.extend_from_slice(&[0; 3][..padded - len]);
        self.peak = self.peak.max(self.waiting.len());
        if let Some(borders) = &mut self.borders {
            borders.push_back(padded);
        }
        Ok(())
    }

    /// Writes what the stream takes; ready when nothing waits any more.
    ///
    /// # Errors
    /// What the stream says: the connection is over.
    pub(super) fn poll_write(
        &mut self,
        mut stream: Pin<&mut impl WriteMessages>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let lengths = self.borders.iter().flatten().copied();
            let written = stream.as_mut().poll_write_messages(cx, &self.waiting, lengths);
            let written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.forget(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(stream.poll_flush(cx))?;
            self.unflushed = false;
            if self.peak > KEPT_BYTES_MAX {
                // A burst is over; its memory is not kept for the next.
                (self.waiting, self.peak) = (BytesMut::new(), 0);
                self.borders = self.borders.take().map(|_| VecDeque::new());
            }
        }
        Poll::Ready(Ok(()))
    }

    fn forget(&mut self, mut written: usize) {
        self.waiting.advance(written);
        let Some(borders) = &mut self.borders else { return };
        while let Some(left) = borders.front_mut() {
            if *left > written {
                *left -= written;
                return;
            }
            written -= *left;
            borders.pop_front();
        }
    }
}

/// Room for answers when packets have taken all of theirs.
const ANSWERS_BYTES_MAX: usize = 16 * 1024;
/// The most memory that an empty outbox keeps.
const KEPT_BYTES_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt as _, AsyncWrite, DuplexStream, duplex};

    use super::*;

    /// A stream without records.
    impl WriteMessages for DuplexStream {
        fn poll_write_messages(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
            _: impl Iterator<Item = usize>,
        ) -> Poll<io::Result<usize>> {
            self.poll_write(cx, bytes)
        }
    }

    #[tokio::test]
    async fn messages_leave_in_order_and_padded() {
        let (mut near, mut far) = duplex(64);
        let mut outbox = Outbox::new(1000, false);
        for message in [&b"12345678"[..], b"abcde", b""] {
            outbox.push_packet(message).expect("there is room");
        }
        let mut cx = Context::from_waker(Waker::noop());
        assert!(outbox.poll_write(Pin::new(&mut near), &mut cx).is_ready());
        let mut read = [0; 16];
        far.read_exact(&mut read).await.expect("sixteen bytes");
        assert_eq!(&read, b"12345678abcde\0\0\0");
    }

    #[tokio::test]
    async fn a_full_outbox_refuses_packets_and_has_room_for_answers() {
        let (mut near, mut far) = duplex(16);
        let mut outbox = Outbox::new(100, true);
        outbox.push_packet(&[1; 98]).expect("there is room");
        assert_eq!(outbox.push_packet(&[2; 1]), Err(Full));
        for _ in 0..ANSWERS_BYTES_MAX / 64 {
            outbox.push_answer(&[3; 64]).expect("there is room for answers");
        }
        assert_eq!(outbox.push_answer(&[3; 64]), Err(Full));
        let mut read = vec![0; 100 + ANSWERS_BYTES_MAX / 64 * 64];
        let all = read.len();
        let write = std::future::poll_fn(|cx| outbox.poll_write(Pin::new(&mut near), cx));
        let (written, read) = tokio::join!(write, far.read_exact(&mut read));
        written.expect("the other end reads");
        assert_eq!(read.ok(), Some(all));
        assert_eq!(outbox.waiting.capacity(), 0, "the memory of a burst is given back");
        outbox.push_packet(&[2; 1]).expect("there is room again");
    }

    /// Takes at most fifteen bytes at a time, and keeps what each call was told.
    #[derive(Default)]
    struct Calls(Vec<(Vec<u8>, Vec<usize>)>);

    impl WriteMessages for Calls {
        fn poll_write_messages(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
            lengths: impl Iterator<Item = usize>,
        ) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(15);
            self.0.push((bytes[..count].to_vec(), lengths.collect()));
            Poll::Ready(Ok(count))
        }
    }

    impl AsyncWrite for Calls {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            unreachable!("messages are written as such")
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn the_stream_is_told_where_messages_end_also_after_a_part_of_one() {
        let calls = |each_alone| {
            let (mut stream, mut outbox) = (Calls::default(), Outbox::new(100, each_alone));
            for message in [&b"1234"[..], b"abcdefgh", b"5678", b"efg", b"hi"] {
                outbox.push_packet(message).expect("there is room");
            }
            let mut cx = Context::from_waker(Waker::noop());
            assert!(outbox.poll_write(Pin::new(&mut stream), &mut cx).is_ready());
            stream.0
        };
        let bytes = [b"1234abcdefgh567".to_vec(), b"8efg\0hi\0\0".to_vec()];
        let borders = [vec![4, 8, 4, 4, 4], vec![1, 4, 4]];
        assert!(calls(true).into_iter().eq(bytes.clone().into_iter().zip(borders)));
        assert!(calls(false).into_iter().eq(bytes.into_iter().zip([vec![], vec![]])));
    }

    #[tokio::test]
    async fn a_connection_that_is_gone_is_an_error() {
        let (mut near, far) = duplex(16);
        drop(far);
        let mut outbox = Outbox::new(100, true);
        outbox.push_packet(b"anybody?").expect("there is room");
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(
            outbox.poll_write(Pin::new(&mut near), &mut cx),
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe
        ));
    }
}
