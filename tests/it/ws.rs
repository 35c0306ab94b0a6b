//! A WebSocket that does one thing at a time.

use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::{IntoClientRequest as _, client};
use tokio_tungstenite::tungstenite::{Message, WebSocket};

use crate::harness::DEADLINE;

/// An open WebSocket of the hub.
pub(crate) struct Ws(WebSocket<TcpStream>);

impl Ws {
    /// Opens one, with more headers.
    pub(crate) fn open_with(web: SocketAddr, headers: &[(&'static str, &str)]) -> Self {
        let stream = TcpStream::connect(web).expect("somebody listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let mut request = format!("ws://{web}/ws").into_client_request().expect("a URL");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header"));
        }
        Self(client(request, stream).expect("the WebSocket opens").0)
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
