//! The types of values: each knows how it is written, and says what is wrong with a wrong one.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use precis_profiles::OpaqueString;
use precis_profiles::precis_core::profile::PrecisFastInvocation as _;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::net::Prefix;
use crate::telemetry::{Addresses, Secret};

/// A list that may be written as its only element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

impl<T> std::ops::Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'de, T: Written> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany<T>(std::marker::PhantomData<T>);

        impl<'de, T: Written> Visitor<'de> for OneOrMany<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<List<T>, E> {
                T::parse(text).map(|value| List(vec![value])).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(Element(value)) = seq.next_element()? {
                    list.push(value);
                }
                Ok(List(list))
            }
        }

        deserializer.deserialize_any(OneOrMany(std::marker::PhantomData))
    }
}

/// A value that is written as a text.
pub(super) trait Written: Sized {
    /// Reads the text.
    fn parse(text: &str) -> Result<Self, String>;
}

/// One element of a list; an error points at it and not at the list.
struct Element<T>(T);

impl<'de, T: Written> Deserialize<'de> for Element<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        written(deserializer).map(Self)
    }
}

pub(super) fn written<'de, T: Written, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Text<T>(std::marker::PhantomData<T>);

    impl<T: Written> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            T::parse(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Text(std::marker::PhantomData))
}

/// Lets a [`Written`] type stand behind a key of its own.
macro_rules! by_text {
    ($($name:ty),*) => { $(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                written(deserializer)
            }
        }
    )* };
}
by_text!(Host, HostName, TurnName, PortRange, Secret<String>);

impl Written for Secret<String> {
    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("a secret must not be empty".to_owned());
        }
        Ok(Self::new(text.to_owned()))
    }
}

impl Written for SocketAddr {
    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let Ok(port) = port.parse::<u16>() else {
            return Err(match text.trim_matches(['[', ']']).parse::<IpAddr>() {
                Ok(ip) => format!("the port is missing; did you mean \"{}\"?", Self::new(ip, 8080)),
                Err(_) => "no IP address with a port".to_owned(),
            });
        };
        Err(match host {
            "" | "*" => format!(
                "no IP address; \"127.0.0.1:{port}\" is for this computer only, \"0.0.0.0:{port}\" \
                 and \"[::]:{port}\" are for everybody"
            ),
            "localhost" => {
                format!("a name, not an IP address; did you mean \"127.0.0.1:{port}\"?")
            }
            _ => match host.parse::<IpAddr>() {
                Ok(ip) if ip.is_ipv6() => {
                    format!("IPv6 addresses stand in brackets; did you mean \"[{ip}]:{port}\"?")
                }
                _ => "no IP address with a port".to_owned(),
            },
        })
    }
}

impl Written for Prefix {
    fn parse(text: &str) -> Result<Self, String> {
        Self::from_str(text).map_err(|error| error.to_string())
    }
}

/// `public_host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// What the browser asked for.
    Auto,
    /// This name or address.
    Is(HostName),
}

impl Written for Host {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "auto" { Ok(Self::Auto) } else { HostName::parse(text).map(Self::Is) }
    }
}

/// A host name, or an IP address (IPv6 without brackets).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

impl HostName {
    /// The name in lower case, or the address without brackets.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The address, when it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.0.parse().ok()
    }
}

impl Written for HostName {
    fn parse(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            if ip.is_unspecified() || ip.is_multicast() {
                return Err("no browser can reach that address".to_owned());
            }
            return Ok(Self(ip.to_string()));
        }
        let without_scheme = text.split_once("://").map_or(text, |(_, rest)| rest);
        let name = without_scheme.split(['/', ':']).next().unwrap_or_default();
        let label = |label: &str| {
            let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            (1..=63).contains(&label.len())
                && label.bytes().all(letters)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let stem = name.strip_suffix('.').unwrap_or(name);
        if !name.is_ascii() && name.chars().all(|c| c.is_alphanumeric() || "-.".contains(c)) {
            return Err(format!(
                "a name with other letters than a-z stands here in the form that the DNS knows, \
                 which begins with xn--; `idn2 {name}` prints it"
            ));
        }
        if stem.len() > 253 || !stem.split('.').all(label) {
            return Err("neither a host name nor an IP address".to_owned());
        }
        if name != text {
            return Err(format!("only the host name stands here; did you mean \"{name}\"?"));
        }
        Ok(Self(stem.to_ascii_lowercase()))
    }
}

/// The origin of a web page: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// `scheme://host[:port]`, in lower case.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl Written for Origin {
    fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        if scheme != "https" && scheme != "http" {
            return Err("an origin begins with https:// or http://".to_owned());
        }
        let authority = rest.split('/').next().unwrap_or_default();
        if authority.len() != rest.len() {
            return Err(format!("an origin has no path; did you mean \"{scheme}://{authority}\"?"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        HostName::parse(host)?;
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err("the port must be a number from 1 to 65535".to_owned());
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// An address that the relay listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnListen {
    /// How clients come; without a scheme over UDP and TCP.
    pub scheme: Option<TurnScheme>,
    /// Where.
    pub address: SocketAddr,
}

/// How clients of the relay come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnScheme {
    /// `udp://`
    Udp,
    /// `tcp://`
    Tcp,
    /// `tls://`
    Tls,
}

impl TurnListen {
    /// What it stands for.
    pub const fn schemes(self) -> &'static [TurnScheme] {
        match self.scheme {
            None => &[TurnScheme::Udp, TurnScheme::Tcp],
            Some(TurnScheme::Udp) => &[TurnScheme::Udp],
            Some(TurnScheme::Tcp) => &[TurnScheme::Tcp],
            Some(TurnScheme::Tls) => &[TurnScheme::Tls],
        }
    }
}

impl Written for TurnListen {
    fn parse(text: &str) -> Result<Self, String> {
        let (scheme, address) = match text.split_once("://") {
            None => (None, text),
            Some(("udp", address)) => (Some(TurnScheme::Udp), address),
            Some(("tcp", address)) => (Some(TurnScheme::Tcp), address),
            Some(("tls", address)) => (Some(TurnScheme::Tls), address),
            Some(("dtls", _)) => {
                return Err("dtls:// is not built; no browser speaks it".to_owned());
            }
            Some((scheme, address)) => {
                let known = ["udp", "tcp", "tls"];
                let near = super::problem::nearest(scheme, known).unwrap_or(match scheme {
                    "turns" | "https" | "ssl" => "tls",
                    _ => "udp",
                });
                return Err(format!(
                    "{scheme}:// is no transport; did you mean \"{near}://{address}\"?"
                ));
            }
        };
        let address = SocketAddr::parse(address).map_err(|why| why.replace("8080", "3478"))?;
        Ok(Self { scheme, address })
    }
}

/// A text that fits into a REALM or a USERNAME.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnName(String);

impl TurnName {
    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// `text` by the OpaqueString profile (RFC 8265, section 4.2), as clients and relay hash it.
pub(super) fn prepared(text: &str) -> Result<String, String> {
    OpaqueString::enforce(text).map(Cow::into_owned).map_err(|_| {
        "a character is in it that names and passwords must not have (RFC 8265)".to_owned()
    })
}

impl Written for TurnName {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it must not be empty".to_owned());
        }
        if text.chars().count() > 127 || text.len() > 508 {
            return Err("longer than 127 characters".to_owned());
        }
        if text.chars().any(|c| c.is_control() || c == '"' || c == '\\') {
            return Err("a control character, a quote or a backslash is in it".to_owned());
        }
        prepared(text).map(Self)
    }
}

/// An address that streams are relayed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayPair {
    /// What clients are told.
    pub public: IpAddr,
    /// What sockets are bound to.
    pub local: IpAddr,
}

impl Written for RelayPair {
    fn parse(text: &str) -> Result<Self, String> {
        let (public, local) = text.split_once('/').unwrap_or((text, text));
        let address = |text: &str| {
            let ip: IpAddr = text
                .parse()
                .map_err(|_| format!("\"{text}\" is no IP address (and no port here)"))?;
            let ip = ip.to_canonical();
            let broadcast = ip == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
            if ip.is_unspecified() || ip.is_multicast() || broadcast {
                return Err(format!("{ip} is no address that a peer could answer to"));
            }
            Ok(ip)
        };
        let pair = Self { public: address(public)?, local: address(local)? };
        if pair.public.is_ipv4() != pair.local.is_ipv4() {
            return Err("the public and the local address must be of one family".to_owned());
        }
        Ok(pair)
    }
}

/// A range of ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl PortRange {
    /// How many ports there are.
    pub const fn count(self) -> u32 {
        self.last as u32 - self.first as u32 + 1
    }
}

impl Written for PortRange {
    fn parse(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| match text.trim().parse::<u16>() {
            Ok(0) | Err(_) => Err(format!("\"{}\" is no port from 1 to 65535", text.trim())),
            Ok(port) => Ok(port),
        };
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(format!(
                "the first port is above the last; did you mean \"{last}-{first}\"?"
            ));
        }
        Ok(Self { first, last })
    }
}

/// A fixed user as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserEntry {
    /// The USERNAME.
    #[serde(deserialize_with = "written")]
    pub name: TurnName,
    /// The password.
    #[serde(default)]
    pub password: Option<Secret<String>>,
    /// A file with the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

/// A key for broadcasters as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BroadcastKeyEntry {
    /// For the log.
    pub name: String,
    /// The key.
    #[serde(default)]
    pub key: Option<Secret<String>>,
    /// A file with the key.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

/// Words of which one stands behind a key.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident {
        $($(#[$vdoc:meta])* $variant:ident = $text:literal,)*
    })*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl Written for $name {
            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(match super::problem::nearest(text, [$($text),*]) {
                        Some(near) => format!("unknown word; did you mean \"{near}\"?"),
                        None => "unknown word".to_owned(),
                    }),
                }
            }
        }

        by_text!($name);
    )* };
}

words! {
    /// `broadcast.publish`.
    Publish {
        /// Open on loopback only.
        Auto = "auto",
        /// Everybody may broadcast.
        Open = "open",
        /// A key is needed.
        Key = "key",
    }
    /// `broadcast.ice_policy`.
    IcePolicy {
        /// Direct where it works.
        All = "all",
        /// Through the relay only.
        Relay = "relay",
    }
    /// `turn.default_family`.
    DefaultFamily {
        /// IPv4, as RFC 8656 has it.
        Ipv4 = "ipv4",
        /// That of the client's own address.
        Client = "client",
    }
    /// `tls.mode`.
    TlsMode {
        /// By the other keys.
        Auto = "auto",
        /// `tls.certificate` and `tls.key`.
        Files = "files",
        /// From an authority.
        Acme = "acme",
        /// Our own.
        SelfSigned = "self-signed",
        /// None.
        Off = "off",
    }
    /// `acme.challenges`.
    ChallengeKind {
        /// By TLS.
        TlsAlpn01 = "tls-alpn-01",
        /// By plain HTTP.
        Http01 = "http-01",
    }
    /// `turn.credential_hash`.
    CredentialHash {
        /// HMAC-SHA1.
        Sha1 = "sha1",
        /// HMAC-SHA256.
        Sha256 = "sha256",
    }
    /// `log.level`.
    LogLevel {
        /// The daemon cannot serve.
        Error = "error",
        /// Something to look at.
        Warn = "warn",
        /// State changes.
        Info = "info",
        /// Refused requests.
        Debug = "debug",
        /// Packets.
        Trace = "trace",
    }
    /// `log.format`.
    LogFormat {
        /// The journal when systemd started us, else text.
        Auto = "auto",
        /// Lines for people.
        Text = "text",
        /// A JSON object a line.
        Json = "json",
        /// The journal's own protocol.
        Journald = "journald",
    }
    /// `log.addresses`.
    LogAddresses {
        /// The /24 or /48.
        Prefix = "prefix",
        /// Everything.
        Full = "full",
        /// Nothing.
        None = "none",
    }
}

impl From<LogAddresses> for Addresses {
    fn from(how: LogAddresses) -> Self {
        match how {
            LogAddresses::Prefix => Self::Prefix,
            LogAddresses::Full => Self::Full,
            LogAddresses::None => Self::None,
        }
    }
}
