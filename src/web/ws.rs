//! One WebSocket: reads frames within their limits, hands them to the hub, and writes what the
//! hub's queue holds.
//!
//! It ends in one of three ways: the client closes it (codes 1000 and 1001 end the membership),
//! it is lost, or we close it with a code of the protocol. A write that hangs is given up as soon
//! as the queue is full, so a slow client costs nobody else anything.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tracing::debug;

use super::Web;
use super::hub::{Conn, is_hello};
use super::limits::{Allowance, ConnPlace, Limits};
use super::queue::{Close, Next};
use crate::metrics::{Limit, Refusal};
use crate::signal::{Closed, Code, Opened};

/// A WebSocket that was let in and is about to open.
pub(super) struct Ticket {
    /// Becomes the stream once the answer is written.
    pub(super) upgrade: OnUpgrade,
    /// What the hub is told.
    pub(super) opened: Opened,
    /// Its place among the WebSockets.
    pub(super) place: ConnPlace,
}

type Socket = WebSocketStream<Metered>;

/// How a WebSocket ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client closed it.
    Clean,
    /// It broke.
    Lost,
    /// We close it.
    Ours(Close),
}

/// Serves one WebSocket until it ends.
pub(super) async fn run(web: &Web, ticket: Ticket) {
    let Ticket { upgrade, opened, place } = ticket;
    let Ok(Ok(upgraded)) = timeout(web.options.limits.header, upgrade).await else {
        return;
    };
    let limits = &web.options.limits;
    let now = Instant::now();
    let metered = Metered {
        io: TokioIo::new(upgraded),
        bytes: Some(Allowance::bytes(limits, now)),
        exceeded: false,
    };
    let mut socket =
        WebSocketStream::from_raw_socket(metered, Role::Server, Some(config(limits))).await;
    let address = opened.address;
    let Some(mut conn) = web.hub.open(opened) else {
        close(&mut socket, Code::Draining.into(), Some(Code::Draining)).await;
        return;
    };
    let mut reader = Reader {
        web,
        conn: &conn,
        address,
        messages: Allowance::messages(limits, now),
        spoken: false,
        refusal: None,
    };
    let end = converse(&mut socket, &mut reader, limits, now).await;
    let refusal = reader.refusal;
    debug!(conn = conn.id(), why = ?end, "websocket ended");
    // The hub learns of the end before the farewell is written, which may take its time.
    conn.end(if end == End::Clean { Closed::Clean } else { Closed::Lost });
    if let End::Ours(with) = end {
        close(&mut socket, with, refusal).await;
    } else {
        let _ = timeout(LINGER, socket.flush()).await;
    }
    drop((conn, place));
}

/// Frames of the hub are written one at a time and wait in its queue, so what the buffer bounds is
/// pongs to somebody who asks for them and does not read. The longest frame fits: a description
/// that `ice_policy = "relay"` rewrites can get a few times longer than it came.
fn config(limits: &Limits) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(limits.queue_bytes.max(8 * limits.frame_bytes))
        .max_message_size(Some(limits.frame_bytes))
        .max_frame_size(Some(limits.frame_bytes))
}

/// Reads and writes until one side has enough.
async fn converse(
    socket: &mut Socket,
    reader: &mut Reader<'_>,
    limits: &Limits,
    opened: Instant,
) -> End {
    let queue = reader.conn.queue();
    loop {
        tokio::select! {
            next = queue.next() => match next {
                Next::Close(close) => return End::Ours(close),
                Next::Frame(frame) => {
                    tokio::select! {
                        written = socket.send(Message::Text(frame)) => {
                            if written.is_err() {
                                return End::Lost;
                            }
                        }
                        () = queue.overflowed() => return End::Ours(Code::SlowConsumer.into()),
                    }
                }
            },
            message = socket.next() => {
                let over = socket.get_ref().exceeded;
                if let Some(end) = reader.take(message, over) {
                    return end;
                }
            }
            () = sleep_until((opened + limits.header).into()), if !reader.spoken => {
                reader.web.metrics.limit(Limit::HandshakeTime);
                return reader.refuse(Code::BadMessage);
            }
        }
    }
}

/// The reading side: limits first, then the hub.
struct Reader<'a> {
    web: &'a Web,
    conn: &'a Conn,
    address: IpAddr,
    messages: Allowance,
    /// Whether a message came in at all.
    spoken: bool,
    /// The error to send before the close, when it is ours and not the hub's.
    refusal: Option<Code>,
}

impl Reader<'_> {
    /// Takes what was read. `Some` ends the WebSocket.
    fn take(&mut self, message: Option<Result<Message, Error>>, over: bool) -> Option<End> {
        let message = match message {
            None => return Some(End::Lost),
            Some(Err(err)) => return Some(self.broken(&err, over)),
            Some(Ok(message)) => message,
        };
        let now = Instant::now();
        if !self.messages.try_take(1, now) {
            self.web.metrics.limit(Limit::Messages);
            return Some(self.refuse(Code::RateLimited));
        }
        match message {
            Message::Text(text) => return self.text(&text, now),
            // Not a message of the protocol: the hub answers it as it answers what is no JSON.
            Message::Binary(_) => self.conn.handle("", false),
            Message::Close(frame) => return Some(closed_by_client(frame.as_ref())),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
        None
    }

    fn text(&mut self, text: &Utf8Bytes, now: Instant) -> Option<End> {
        self.spoken = true;
        let hello = is_hello(text);
        if hello && !self.web.addresses.try_hello(self.address, now) {
            self.web.metrics.limit(Limit::Hellos);
            return Some(self.refuse(Code::RateLimited));
        }
        self.conn.handle(text, hello);
        None
    }

    fn broken(&mut self, err: &Error, over: bool) -> End {
        match err {
            Error::Capacity(_) => {
                self.web.metrics.limit(Limit::FrameBytes);
                self.refuse(Code::TooLarge)
            }
            Error::Io(_) if over => {
                self.web.metrics.limit(Limit::Bytes);
                self.refuse(Code::RateLimited)
            }
            Error::Utf8(_) | Error::Protocol(_) if !is_reset(err) => {
                self.web.metrics.refusal(Refusal::BadMessage);
                self.refuse(Code::BadMessage)
            }
            _ => End::Lost,
        }
    }

    fn refuse(&mut self, code: Code) -> End {
        self.refusal = Some(code);
        End::Ours(code.into())
    }
}

/// A connection that breaks off is reported as a breach of the protocol; it is none.
fn is_reset(err: &Error) -> bool {
    use tokio_tungstenite::tungstenite::error::ProtocolError;
    matches!(err, Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))
}

fn closed_by_client(frame: Option<&CloseFrame>) -> End {
    match frame.map(|frame| frame.code) {
        Some(CloseCode::Normal | CloseCode::Away) => End::Clean,
        _ => End::Lost,
    }
}

/// Says why, closes, and reads on for a moment: a socket that is closed with unread bytes is
/// reset, and the client would never see the reason.
async fn close(socket: &mut Socket, close: Close, refusal: Option<Code>) {
    let frame =
        CloseFrame { code: close.code.into(), reason: Utf8Bytes::from_static(close.reason) };
    let farewell = async {
        if let Some(code) = refusal
            && let Ok(text) = Utf8Bytes::try_from(code.frame())
        {
            socket.feed(Message::Text(text)).await?;
        }
        socket.close(Some(frame)).await
    };
    if !matches!(timeout(LINGER, farewell).await, Ok(Ok(()))) {
        return;
    }
    let metered = socket.get_mut();
    metered.bytes = None;
    let drain = async {
        let mut scratch = [0; 4096];
        let mut left = LINGER_BYTES_MAX;
        while let Ok(read) = metered.read(&mut scratch).await {
            left = left.saturating_sub(read);
            if read == 0 || left == 0 {
                break;
            }
        }
    };
    let _ = timeout(LINGER, drain).await;
}

/// Counts the bytes of a WebSocket as they come in, framing included: a flood of empty fragments
/// is no message, but it is work.
struct Metered {
    io: TokioIo<Upgraded>,
    /// `None` while we only wait for the other end to close.
    bytes: Option<Allowance>,
    exceeded: bool,
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        std::task::ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        if let Some(bytes) = &mut self.bytes
            && !bytes.try_take(read, Instant::now())
        {
            self.exceeded = true;
            return Poll::Ready(Err(io::Error::other("more bytes than allowed")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Allocated at once for each WebSocket; the library's default is 128 KiB.
const READ_BUFFER_BYTES: usize = 4096;
/// How long a farewell may take, and then the other end to close.
const LINGER: Duration = Duration::from_secs(2);
/// What is read and thrown away after a farewell, at most.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    #[test]
    fn pongs_to_somebody_who_does_not_read_are_bounded() {
        const PINGS: usize = 40_000;
        let limits = Limits { frame_bytes: 4096, queue_bytes: 64 * 1024, ..Limits::default() };
        // A masked ping of 125 bytes; the mask is zero.
        let ping = [&[0x89, 0x80 | 125, 0, 0, 0, 0][..], &[7; 125]].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let used = allocation_counter::measure(|| {
            runtime.block_on(async {
                let (mut client, server) = tokio::io::duplex(4096);
                let sender = tokio::spawn(async move {
                    for _ in 0..PINGS {
                        client.write_all(&ping).await.expect("the server reads");
                    }
                    client
                });
                let config = Some(config(&limits));
                let mut socket =
                    WebSocketStream::from_raw_socket(server, Role::Server, config).await;
                for _ in 0..PINGS {
                    let message = socket.next().await.expect("a message").expect("no error");
                    assert!(message.is_ping());
                }
                sender.await.expect("all is sent");
            });
        });
        assert!(used.bytes_max < 512 * 1024, "{} bytes", used.bytes_max);
    }
}
