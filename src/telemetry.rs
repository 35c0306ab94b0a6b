//! What leaves the process as text: secrets that do not print, addresses that are redacted, and
//! the set-up of the log.

use std::fmt;
use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicU8, Ordering};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt as _;

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

/// Where log lines go, and in which form: `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The journal when the standard error output leads there, else text.
    Auto,
    /// Lines for people.
    Text,
    /// A JSON object a line.
    Json,
    /// The journal's own protocol, which keeps fields apart.
    Journald,
}

/// What is logged, and how. Plain data, filled by `daemon`.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// The least important level that is written.
    pub level: tracing::Level,
    /// Where to, and in which form.
    pub format: Format,
    /// How much of an address is shown.
    pub addresses: Addresses,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `log.format` asks for the journal, and there is none.
    #[error("the journal cannot be reached")]
    Journal(#[source] std::io::Error),
    /// Somebody has set up a log in this process already.
    #[error("the log is set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sets up the log of the process, once. The libraries that speak TURN and TLS are heard from
/// `warn` up: they log packets and addresses of strangers below that.
///
/// # Errors
/// [`LogError`] when the journal is asked for and missing, or when there is a log already.
pub fn start(options: LogOptions) -> Result<(), LogError> {
    show_addresses(options.addresses);
    let level = options.level.as_str().to_ascii_lowercase();
    let others = if options.level == tracing::Level::ERROR { "error" } else { "warn" };
    let filter = EnvFilter::new(format!("{others},turncast={level}"));
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match options.format {
        Format::Json => Box::new(
            tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_writer(std::io::stderr),
        ),
        Format::Journald => Box::new(tracing_journald::layer().map_err(LogError::Journal)?),
        Format::Auto if stderr_is_journal() => match tracing_journald::layer() {
            Ok(journal) => Box::new(journal),
            Err(_) => text_layer(),
        },
        Format::Auto | Format::Text => text_layer(),
    };
    // The registry's own bridge brings in what the libraries say through `log`.
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter));
    subscriber.try_init().map_err(LogError::Twice)?;
    log_panics();
    Ok(())
}

fn text_layer() -> Box<dyn Layer<Registry> + Send + Sync> {
    let stderr = std::io::stderr();
    Box::new(
        tracing_subscriber::fmt::layer()
            .with_ansi(stderr.is_terminal())
            .with_target(false)
            .with_writer(std::io::stderr),
    )
}

/// A panic is a line of the log like any other, with its place.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let why = format!("{place}: {}", panic.payload_as_str().unwrap_or_default());
        tracing::error!(why, "panic: this is a bug in turncast");
    }));
}

/// Whether systemd connected the standard error output to the journal: `$JOURNAL_STREAM` names
/// the device and inode of that stream.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", stderr.dev(), stderr.ino())
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
