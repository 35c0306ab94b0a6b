//! The client's connection over TCP and TLS, as the `turn` crate's client wants it: it reads and
//! writes whole messages.
//!
//! The borders between messages are found here and not by `stun::Framer`, which is what the
//! daemon reads by: a fault there must not hide itself.

use std::io;
use std::net::SocketAddr;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::Mutex;
use webrtc_util::Conn;

/// A stream of STUN messages and ChannelData (RFC 8656, sections 3.1 and 12.5).
pub(super) struct StreamConn<S> {
    local: SocketAddr,
    remote: SocketAddr,
    reader: Mutex<Reader<S>>,
    writer: Mutex<WriteHalf<S>>,
}

struct Reader<S> {
    half: ReadHalf<S>,
    /// What has arrived of the next message. Kept here, so that a read that is given up loses
    /// nothing.
    arrived: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite> StreamConn<S> {
    pub(super) fn new(stream: S, local: SocketAddr, remote: SocketAddr) -> Self {
        let (half, writer) = tokio::io::split(stream);
        let reader = Mutex::new(Reader { half, arrived: Vec::new() });
        Self { local, remote, reader, writer: Mutex::new(writer) }
    }
}

impl<S: AsyncRead> Reader<S> {
    async fn message(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(head) = self.arrived.first_chunk() {
                let (message, padded) = lengths(*head)?;
                if self.arrived.len() >= padded {
                    let fits = buffer.get_mut(..message).ok_or(io::ErrorKind::InvalidInput)?;
                    fits.copy_from_slice(&self.arrived[..message]);
                    self.arrived.drain(..padded);
                    return Ok(message);
                }
            }
            let mut bytes = [0; 2048];
            match self.half.read(&mut bytes).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.arrived.extend_from_slice(&bytes[..read]),
            }
        }
    }
}

/// The bytes of a message that begins so, and those with its padding.
fn lengths(head: [u8; HEAD]) -> io::Result<(usize, usize)> {
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    match head[0] >> 6 {
        0b00 => Ok((length + 20, length + 20)),
        0b01 => Ok((length + HEAD, (length + HEAD).next_multiple_of(4))),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "neither STUN nor ChannelData")),
    }
}

#[async_trait]
impl<S: AsyncRead + AsyncWrite + Send + 'static> Conn for StreamConn<S> {
    async fn connect(&self, _: SocketAddr) -> webrtc_util::Result<()> {
        Ok(())
    }

    async fn recv(&self, buffer: &mut [u8]) -> webrtc_util::Result<usize> {
        Ok(self.reader.lock().await.message(buffer).await?)
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> webrtc_util::Result<(usize, SocketAddr)> {
        Ok((self.recv(buffer).await?, self.remote))
    }

    async fn send(&self, message: &[u8]) -> webrtc_util::Result<usize> {
        let mut padded = message.to_vec();
        padded.resize(message.len().next_multiple_of(4), 0);
        let mut writer = self.writer.lock().await;
        writer.write_all(&padded).await?;
        writer.flush().await?;
        Ok(message.len())
    }

    async fn send_to(&self, message: &[u8], _: SocketAddr) -> webrtc_util::Result<usize> {
        self.send(message).await
    }

    fn local_addr(&self) -> webrtc_util::Result<SocketAddr> {
        Ok(self.local)
    }

    fn remote_addr(&self) -> Option<SocketAddr> {
        Some(self.remote)
    }

    async fn close(&self) -> webrtc_util::Result<()> {
        Ok(self.writer.lock().await.shutdown().await?)
    }

    fn as_any(&self) -> &(dyn std::any::Any + Send + Sync) {
        self
    }
}

/// Both kinds of messages say their length in their first four bytes.
const HEAD: usize = 4;
