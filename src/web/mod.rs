//! What browsers talk to: pages, the WebSocket of the hub, and the operator's own listener.
//!
//! The straight line of a page: [`Web::serve_stream`] speaks HTTP on a stream of the edge, the
//! router checks the Host and answers. The straight line of a message: the router lets the
//! WebSocket in, `ws` reads one frame within its limits, [`HubHandle`] hands it to the hub and
//! the hub's answers to the bounded queue of each addressee, and `ws` writes from there. Nobody
//! waits for anybody: a full queue closes its own WebSocket. The web side knows no relay.

mod admin;
mod answer;
mod assets;
mod client;
mod farewell;
mod handshake;
mod host;
mod http;
mod http2;
mod hub;
mod ice;
mod limits;
mod plain;
mod queue;
mod router;
mod ws;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

pub use admin::{Admin, AdminOptions};
pub use hub::{HubHandle, HubOptions};
pub use ice::{TurnListener, ice_urls};
pub use limits::Limits;

use crate::acme;
use crate::edge;
use crate::metrics::Metrics;
use crate::net::Prefix;
use crate::tls;

/// Who may broadcast without a key: `broadcast.publish`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publish {
    /// Open to this computer alone, and only while nothing but this computer can ask.
    Auto,
    /// Everybody.
    Open,
    /// Nobody.
    Key,
}

/// How the web side behaves. Plain data, filled by `daemon`.
#[derive(Debug, Clone)]
pub struct Options {
    /// `public_host`, when it is not "auto": a name or an address, without brackets or a port.
    pub public_host: Option<String>,
    /// More names under which browsers may ask: `web.allowed_hosts`.
    pub allowed_hosts: Vec<String>,
    /// More origins that may open the WebSocket, such as `https://example.org`.
    pub allowed_origins: Vec<String>,
    /// Origins that may show our pages in a frame, beside our own.
    pub frame_ancestors: Vec<String>,
    /// Proxies whose word on the client's address counts.
    pub trusted_proxies: Vec<Prefix>,
    /// Who may broadcast without a key.
    pub publish: Publish,
    /// Whether every listener of the daemon, of any kind, is bound to a loopback address.
    pub only_loopback_listeners: bool,
    /// Where browsers reach the relay.
    pub turn: Vec<TurnListener>,
    /// What an authority asks for by http-01.
    pub challenges: acme::Challenges,
    /// The port of HTTPS as browsers reach it.
    pub https_port: u16,
    /// The certificate of our own listeners, when they speak TLS. With it, whoever asks without
    /// TLS is sent on to HTTPS.
    pub certificates: Option<tls::Certificates>,
    /// For how long browsers shall come by HTTPS alone, once they came to a name with a trusted
    /// certificate. Zero: not said.
    pub hsts: Duration,
    /// A directory whose files stand in for the embedded pages.
    pub static_dir: Option<PathBuf>,
    /// What one client may ask for.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            public_host: None,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            frame_ancestors: Vec::new(),
            trusted_proxies: Vec::new(),
            publish: Publish::Auto,
            only_loopback_listeners: false,
            turn: Vec::new(),
            challenges: acme::Challenges::default(),
            https_port: 443,
            certificates: None,
            hsts: Duration::from_secs(86_400),
            static_dir: None,
            limits: Limits::default(),
        }
    }
}

/// The public web server.
pub struct Web {
    options: Options,
    assets: assets::Assets,
    hub: Arc<HubHandle>,
    addresses: limits::Addresses,
    metrics: Arc<Metrics>,
    stop: watch::Sender<bool>,
}

impl Web {
    /// A server that hands its WebSockets to `hub`.
    pub fn new(options: Options, hub: Arc<HubHandle>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            assets: assets::Assets::new(options.static_dir.clone()),
            addresses: limits::Addresses::new(&options.limits),
            stop: watch::Sender::new(false),
            options,
            hub,
            metrics,
        })
    }

    /// Serves one stream until it ends: requests one after the other, or a WebSocket.
    pub async fn serve_stream(self: Arc<Self>, stream: edge::Stream, peer: edge::Peer) {
        router::serve(&self, stream, peer).await;
    }

    /// Lets each connection finish the request it is at, and take no more. WebSockets end when
    /// the hub drains.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}
