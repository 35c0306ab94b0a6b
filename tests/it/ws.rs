//! A WebSocket that does one thing at a time.

use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::{IntoClientRequest as _, client};
use tokio_tungstenite::tungstenite::handshake::HandshakeError;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

use crate::harness::DEADLINE;
use crate::relay::client::Stream;

/// An open WebSocket of the hub.
pub(crate) struct Ws(WebSocket<Box<dyn Stream>>);

impl Ws {
    /// Opens one, with more headers.
    pub(crate) fn open_with(web: SocketAddr, headers: &[(&'static str, &str)]) -> Self {
        let stream = TcpStream::connect(web).expect("somebody listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        Self::try_over(stream, &web.to_string(), headers).expect("the WebSocket opens")
    }

    /// Opens one over a connection to `host`, or gives the status of the refusal.
    pub(crate) fn try_over(
        stream: impl Stream + 'static,
        host: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, u16> {
        let mut request = format!("ws://{host}/ws").into_client_request().expect("a URL");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header"));
        }
        let stream: Box<dyn Stream> = Box::new(stream);
        match client(request, stream) {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(HandshakeError::Failure(Error::Http(answer))) => Err(answer.status().as_u16()),
            Err(other) => panic!("neither opened nor refused: {other}"),
        }
    }

    /// Opens one.
    pub(crate) fn open(web: SocketAddr) -> Self {
        Self::open_with(web, &[])
    }

    /// Says something.
    pub(crate) fn say(&mut self, message: &Value) {
        self.0.send(Message::text(message.to_string())).expect("the socket is open");
    }

    /// The next message; `None` when the server closed.
    pub(crate) fn hear(&mut self) -> Option<Value> {
        loop {
            match self.0.read().expect("a message or a close in time") {
                Message::Text(text) => {
                    return Some(serde_json::from_str(&text).expect("JSON"));
                }
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    /// The next message of this type.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, t: &str) -> Value {
        loop {
            let message = self.hear().unwrap_or_else(|| panic!("closed before \"{t}\""));
            if message["t"] == t {
                return message;
            }
        }
    }

    /// Says `hello` and gives the answer, `welcome` or `error`.
    pub(crate) fn hello(&mut self, role: &str, room: &str, key: Option<&str>) -> Value {
        let mut hello = json!({ "t": "hello", "versions": [1], "role": role, "room": room });
        if let Some(key) = key {
            hello["key"] = key.into();
        }
        self.say(&hello);
        self.hear().expect("an answer")
    }
}
