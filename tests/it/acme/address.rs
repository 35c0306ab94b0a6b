//! A loopback address that no other test uses, so that its ports are free.

use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};

use rcgen::{CertifiedKey, KeyPair};

/// The address, and a certificate for it that the authority of a test serves its API with.
pub(super) struct Address {
    ip: Ipv4Addr,
    identity: CertifiedKey<KeyPair>,
}

impl Address {
    pub(super) fn new() -> Self {
        static LAST: AtomicU8 = AtomicU8::new(0);
        let [high, low] =
            u16::try_from(std::process::id() & 0xffff).expect("16 bits").to_be_bytes();
        let ip = Ipv4Addr::new(127, 100 + LAST.fetch_add(1, Ordering::Relaxed), high, low);
        let identity = rcgen::generate_simple_self_signed([ip.to_string()]).expect("a certificate");
        Self { ip, identity }
    }

    pub(super) fn ip(&self) -> IpAddr {
        self.ip.into()
    }

    /// A port of this address that is free for TCP and UDP.
    pub(super) fn free_port(&self) -> u16 {
        loop {
            let tcp = TcpListener::bind((self.ip, 0)).expect("a port");
            let port = tcp.local_addr().expect("an address").port();
            if UdpSocket::bind((self.ip, port)).is_ok() {
                return port;
            }
        }
    }

    pub(super) fn certificate(&self) -> String {
        self.identity.cert.pem()
    }

    pub(super) const fn identity(&self) -> &CertifiedKey<KeyPair> {
        &self.identity
    }
}
