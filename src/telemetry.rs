//! What leaves the process as text: secrets that do not print, addresses that are redacted, and
//! the set-up of the log.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};

/// A value that no log, error or debug print shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps `value`.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself, for the one place that needs it.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How much of an address a log line shows: `log.addresses`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    /// The whole address and port.
    Full = 0,
    /// The /24 or /48, without a port.
    Prefix = 1,
    /// Nothing.
    None = 2,
}

/// Set once by the daemon; a log line has no other way to know.
static ADDRESSES: AtomicU8 = AtomicU8::new(Addresses::Prefix as u8);

/// Sets how much of an address every log line shows from now on.
pub fn show_addresses(how: Addresses) {
    ADDRESSES.store(how as u8, Ordering::Relaxed);
}

/// An address as a log line shows it; the only way an address gets into the log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Addr {
    ip: IpAddr,
    port: Option<u16>,
}

impl From<SocketAddr> for Addr {
    fn from(address: SocketAddr) -> Self {
        Self { ip: address.ip().to_canonical(), port: Some(address.port()) }
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        Self { ip: ip.to_canonical(), port: None }
    }
}

impl Addr {
    fn write(self, f: &mut fmt::Formatter<'_>, how: u8) -> fmt::Result {
        if how == Addresses::None as u8 {
            return f.write_str("-");
        }
        if how == Addresses::Prefix as u8 {
            let len = if self.ip.is_ipv4() { 24 } else { 48 };
            return write!(f, "{}", crate::net::Prefix::new(self.ip, len));
        }
        match self.port {
            Some(port) => write!(f, "{}", SocketAddr::new(self.ip, port)),
            None => write!(f, "{}", self.ip),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, ADDRESSES.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Shown(Addr, Addresses);

    impl fmt::Display for Shown {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.write(f, self.1 as u8)
        }
    }

    #[test]
    fn addresses_are_cut_as_configured() {
        let show = |text: &str, how| {
            let address: SocketAddr = text.parse().expect("a test address");
            Shown(Addr::from(address), how).to_string()
        };
        assert_eq!(show("198.51.100.7:4000", Addresses::Full), "198.51.100.7:4000");
        assert_eq!(show("198.51.100.7:4000", Addresses::Prefix), "198.51.100.0/24");
        assert_eq!(show("[::ffff:198.51.100.7]:4", Addresses::Prefix), "198.51.100.0/24");
        assert_eq!(show("[2001:db8:1:2::3]:4", Addresses::Prefix), "2001:db8:1::/48");
        assert_eq!(show("198.51.100.7:4000", Addresses::None), "-");
    }

    #[test]
    fn a_secret_prints_as_stars() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
    }
}
