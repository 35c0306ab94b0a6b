//! A TURN URL (RFC 7065), read as a browser reads it.

use crate::turn::Transport;

/// A URL in the form in which we tell it: `turn:HOST:PORT?transport=udp`, `turns:` with `tcp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TurnUrl {
    pub(super) transport: Transport,
    /// A name or an IP address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl TurnUrl {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once(':')?;
        let (authority, over) = rest.split_once("?transport=")?;
        let transport = match (scheme, over) {
            ("turn", "udp") => Transport::Udp,
            ("turn", "tcp") => Transport::Tcp,
            ("turns", "tcp") => Transport::Tls,
            _ => return None,
        };
        let (host, port) = authority.rsplit_once(':')?;
        let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = inside.unwrap_or(host).to_owned();
        (!host.is_empty()).then_some(Self { transport, host, port: port.parse().ok()? })
    }

    /// How an operator names the port: `3478/udp`.
    pub(super) fn port_name(&self) -> String {
        let over = if self.transport == Transport::Udp { "udp" } else { "tcp" };
        format!("{}/{over}", self.port)
    }
}
