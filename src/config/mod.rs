//! The configuration: typed keys with documentation, defaults and bounds in one place, loading
//! with errors that name file, line, column, key, and the likely fix, and the checks that keys
//! must pass together.
//!
//! The straight line: [`Loaded::read`] parses the file into spanned TOML, sets one key after the
//! other through the schema (`keys.rs`), lets the environment override them, reads the secrets
//! from where they are, and checks the whole. Only `daemon` and `cli` see the result.

mod certificates;
mod example;
mod keys;
mod load;
mod problem;
mod reach;
mod rules;
mod schema;
mod secrets;
#[cfg(test)]
mod tests;
mod values;

use std::path::PathBuf;

pub use certificates::{DirectoryUrl, Email};
pub use example::example;
pub use keys::{
    Acme, Admin, Broadcast, BroadcastLimits, Config, Log, PublicPorts, Tls, Turn, TurnLimits, Web,
    WebLimits,
};
pub use load::{Environment, Loaded, SYSTEM_FILE, Warning};
pub use secrets::Secrets;
pub use values::{
    BroadcastKeyEntry, ChallengeKind, CredentialHash, DefaultFamily, Host, HostName, IcePolicy,
    List, LogAddresses, LogFormat, LogLevel, Origin, PortRange, Publish, RelayPair, TlsMode,
    TurnListen, TurnName, TurnScheme, UserEntry,
};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// Everything that is wrong with it, ready to be printed.
    #[error("{0}")]
    Invalid(String),
}
