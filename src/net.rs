//! Values of the network that every room shares: the time of an event, prefixes, token buckets
//! and the addresses of this machine.
//!
//! Nothing here keeps state of its own: a bucket is told the time, a prefix is a value. Only
//! [`Now::read`], [`interface_addresses`] and [`has_ipv6`] look at the machine, and the rooms
//! without I/O may not call them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The time at which an event is handled: one reading for both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock: timers and expiry of what we keep.
    pub instant: Instant,
    /// Seconds since 1970-01-01 UTC: expiry of credentials, which other hosts write.
    pub unix_secs: u64,
}

impl Now {
    /// Reads both clocks. Forbidden in `turn`, `signal`, `stun` and `credentials`.
    pub fn read() -> Self {
        let unix_secs = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since_epoch| since_epoch.as_secs());
        Self { instant: Instant::now(), unix_secs }
    }

    /// The same moment, `duration` later on both clocks (whole seconds on the second one).
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self { instant: self.instant + duration, unix_secs: self.unix_secs + duration.as_secs() }
    }

    /// How far away a time in seconds since 1970 is, as a person says it: `in 3 hours`.
    pub fn until(self, unix_secs: u64) -> String {
        match unix_secs.saturating_sub(self.unix_secs) {
            0 => "now".to_owned(),
            1..=60 => "in a minute".to_owned(),
            left @ 61..7_200 => format!("in {} minutes", left.div_ceil(60)),
            left @ 7_200..172_800 => format!("in {} hours", left / 3_600),
            left => format!("in {} days", left / 86_400),
        }
    }
}

/// An address prefix such as `10.0.0.0/8`, `2001:db8::/32`, or a single address.
///
/// IPv4 and IPv6 prefixes never contain each other's addresses: canonicalise first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

impl Prefix {
    /// The prefix of `len` bits that contains `address`; `len` is cut to 32 or 128.
    pub const fn new(address: IpAddr, len: u8) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let len = if len > 32 { 32 } else { len };
                let bits = v4.to_bits() & mask_v4(len);
                Self { address: IpAddr::V4(Ipv4Addr::from_bits(bits)), len }
            }
            IpAddr::V6(v6) => {
                let len = if len > 128 { 128 } else { len };
                let bits = v6.to_bits() & mask_v6(len);
                Self { address: IpAddr::V6(Ipv6Addr::from_bits(bits)), len }
            }
        }
    }

    /// The prefix that contains nothing but `address`.
    pub const fn host(address: IpAddr) -> Self {
        Self::new(address, 128)
    }

    /// The first address of the prefix.
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// The number of leading bits that count.
    pub const fn bits(self) -> u8 {
        self.len
    }

    /// Whether the prefix is one address: /32 for IPv4, /128 for IPv6.
    pub const fn is_host(self) -> bool {
        match self.address {
            IpAddr::V4(_) => self.len == 32,
            IpAddr::V6(_) => self.len == 128,
        }
    }

    /// Whether `address` is inside.
    pub const fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                own.to_bits() == other.to_bits() & mask_v4(self.len)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                own.to_bits() == other.to_bits() & mask_v6(self.len)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The part before the slash is no IP address.
    #[error("not an IP address or a prefix such as 192.0.2.0/24 or 2001:db8::/32")]
    Address,
    /// The part after the slash is no number in range.
    #[error("the prefix length must be 0 to 32 for IPv4, 0 to 128 for IPv6")]
    Length,
    /// Bits are set behind the prefix length, so one of the two is a mistake.
    #[error("the address has bits behind the prefix length; did you mean {0}?")]
    StrayBits(Prefix),
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, len) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Address)?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let len: u8 = match len {
            None => bits_max,
            Some(digits) => digits.parse().map_err(|_| PrefixError::Length)?,
        };
        if len > bits_max {
            return Err(PrefixError::Length);
        }
        let prefix = Self::new(address, len);
        if prefix.address != address {
            return Err(PrefixError::StrayBits(prefix));
        }
        Ok(prefix)
    }
}

const fn mask_v4(len: u8) -> u32 {
    if len == 0 { 0 } else { u32::MAX << (32 - len) }
}

const fn mask_v6(len: u8) -> u128 {
    if len == 0 { 0 } else { u128::MAX << (128 - len) }
}

/// A token bucket: `rate` tokens a second, at most `burst` saved up. It starts full.
#[derive(Debug, Clone, Copy)]
pub struct TokenBucket {
    tokens: f64,
    filled: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub fn full(burst: f64, now: Instant) -> Self {
        Self { tokens: burst, filled: now }
    }

    /// Takes `cost` tokens when they are there.
    pub fn try_take(&mut self, cost: f64, rate: f64, burst: f64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * rate).min(burst);
        self.filled = self.filled.max(now);
        if self.tokens < cost {
            return false;
        }
        self.tokens -= cost;
        true
    }
}

/// Token buckets per /24 and /56 in a table of fixed size, for sources that proved nothing yet.
///
/// 4-way sets in sharded locks; the key is hashed with a secret seed, so that a stranger cannot
/// choose whose bucket he shares. A full set gives up its fullest (least recently short) bucket.
/// Memory does not grow with the number of sources.
pub struct PrefixBuckets {
    rate: f64,
    burst: f64,
    seed: u64,
    sets: Box<[Mutex<[Option<PrefixBucket>; WAYS]>]>,
}

#[derive(Clone, Copy)]
struct PrefixBucket {
    key: u64,
    bucket: TokenBucket,
}

const WAYS: usize = 4;
const SETS: usize = 4096;

impl PrefixBuckets {
    /// A table in which every prefix gets `per_sec` tokens a second and `burst` at once.
    /// `per_sec` 0 turns the limit off. `seed` comes from the operating system's CSPRNG.
    pub fn new(per_sec: u32, burst: u32, seed: u64) -> Self {
        Self {
            rate: f64::from(per_sec),
            burst: f64::from(burst.max(1)),
            seed,
            sets: (0..SETS).map(|_| Mutex::new([None; WAYS])).collect(),
        }
    }

    /// Charges one token to the prefix of `source`; loopback is exempt.
    pub fn try_take(&self, source: IpAddr, now: Instant) -> bool {
        if self.rate == 0.0 || source.to_canonical().is_loopback() {
            return true;
        }
        let key = prefix_key(source);
        let set = (mix(key ^ self.seed) % SETS as u64) as usize;
        let mut set = match self.sets[set].lock() {
            Ok(set) => set,
            Err(poisoned) => poisoned.into_inner(),
        };
        let slot = self.slot(&mut set, key, now);
        slot.bucket.try_take(1.0, self.rate, self.burst, now)
    }

    fn slot<'a>(
        &self,
        set: &'a mut [Option<PrefixBucket>; WAYS],
        key: u64,
        now: Instant,
    ) -> &'a mut PrefixBucket {
        let level = |entry: &PrefixBucket| {
            let passed = now.saturating_duration_since(entry.bucket.filled).as_secs_f64();
            entry.bucket.tokens + passed * self.rate
        };
        let mut victim = 0;
        let mut victim_level = f64::NEG_INFINITY;
        for (index, entry) in set.iter().enumerate() {
            let found = match entry {
                Some(entry) if entry.key == key => f64::INFINITY,
                Some(entry) => level(entry),
                None => f64::MAX,
            };
            if found > victim_level {
                (victim, victim_level) = (index, found);
            }
        }
        let entry = &mut set[victim];
        if entry.is_none_or(|entry| entry.key != key) {
            *entry = None;
        }
        entry
            .get_or_insert_with(|| PrefixBucket { key, bucket: TokenBucket::full(self.burst, now) })
    }
}

/// The /24 or /56 as a number; IPv4 keys never equal IPv6 keys.
fn prefix_key(source: IpAddr) -> u64 {
    match source.to_canonical() {
        IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8),
        IpAddr::V6(v6) => (v6.to_bits() >> 72) as u64 | 1 << 63,
    }
}

/// The finaliser of SplitMix64: spreads a seeded key over all bits.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The addresses of this machine's interfaces, loopback included, without duplicates.
///
/// # Errors
/// Whatever the operating system says when its interfaces cannot be listed.
pub fn interface_addresses() -> std::io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<IpAddr> = webrtc_util::ifaces::ifaces()?
        .into_iter()
        .filter_map(|interface| interface.addr)
        .map(|address| address.ip())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// How far an address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Not further than this host or its wire.
    Host,
    /// The network of somebody.
    Private,
    /// Everybody.
    Public,
}

/// How far an address in canonical form reaches.
pub fn reach(ip: IpAddr) -> Reach {
    let inside = |prefixes: &[Prefix]| prefixes.iter().any(|prefix| prefix.contains(ip));
    if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || inside(LINK_LOCAL) {
        Reach::Host
    } else if inside(PRIVATE) {
        Reach::Private
    } else {
        Reach::Public
    }
}

const fn v4(a: u8, b: u8, len: u8) -> Prefix {
    Prefix::new(IpAddr::V4(Ipv4Addr::new(a, b, 0, 0)), len)
}

const fn v6(first: u16, len: u8) -> Prefix {
    Prefix::new(IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0)), len)
}

const LINK_LOCAL: &[Prefix] = &[v4(169, 254, 16), v6(0xfe80, 10)];

const PRIVATE: &[Prefix] =
    &[v4(10, 0, 8), v4(172, 16, 12), v4(192, 168, 16), v4(100, 64, 10), v6(0xfc00, 7)];

/// What to do when `address` could not be bound for want of a right; empty for other reasons.
pub fn port_hint(address: SocketAddr, err: &std::io::Error) -> String {
    if err.kind() != std::io::ErrorKind::PermissionDenied || address.port() >= 1024 {
        return String::new();
    }
    format!(
        " (port {} is below 1024 and needs the capability CAP_NET_BIND_SERVICE: start the systemd \
         unit, which has it, or give it to the binary with `setcap cap_net_bind_service=+ep`)",
        address.port()
    )
}

/// Whether this machine speaks IPv6 at all, be it only to itself.
pub fn has_ipv6() -> bool {
    std::path::Path::new("/proc/net/if_inet6").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("a test address")
    }

    #[test]
    fn prefixes_contain_what_their_bits_say() {
        let prefix: Prefix = "10.0.0.0/8".parse().expect("a prefix");
        assert!(prefix.contains(ip("10.255.1.2")));
        assert!(!prefix.contains(ip("11.0.0.0")));
        assert!(!prefix.contains(ip("::ffff:10.0.0.1")));
        let all: Prefix = "::/0".parse().expect("a prefix");
        assert!(all.contains(ip("ff02::1")));
        assert!(!all.contains(ip("1.2.3.4")));
        let v6: Prefix = "2001:db8:8000::/33".parse().expect("a prefix");
        assert!(v6.contains(ip("2001:db8:ffff::1")));
        assert!(!v6.contains(ip("2001:db8:7fff::1")));
    }

    #[test]
    fn a_time_is_told_as_a_person_says_it() {
        let now = Now { instant: Instant::now(), unix_secs: 1000 };
        let far = [(0, "now"), (60, "in a minute"), (61, "in 2 minutes"), (7200, "in 2 hours")];
        for (secs, told) in far {
            assert_eq!(now.until(1000 + secs), told);
        }
        assert_eq!(now.until(0), "now");
        assert_eq!(now.until(1000 + 172_800), "in 2 days");
    }

    #[test]
    fn a_wrong_prefix_says_what_is_wrong() {
        assert_eq!("10/8".parse::<Prefix>(), Err(PrefixError::Address));
        assert_eq!("10.0.0.0/33".parse::<Prefix>(), Err(PrefixError::Length));
        let stray = "10.0.0.1/8".parse::<Prefix>().expect_err("stray bits");
        assert!(stray.to_string().ends_with("did you mean 10.0.0.0/8?"));
    }

    #[test]
    fn an_empty_bucket_fills_with_time() {
        let start = Instant::now();
        let mut bucket = TokenBucket::full(2.0, start);
        assert!(bucket.try_take(1.0, 10.0, 2.0, start));
        assert!(bucket.try_take(1.0, 10.0, 2.0, start));
        assert!(!bucket.try_take(1.0, 10.0, 2.0, start));
        let later = start + Duration::from_millis(100);
        assert!(bucket.try_take(1.0, 10.0, 2.0, later));
        assert!(!bucket.try_take(1.0, 10.0, 2.0, later));
    }

    #[test]
    fn a_flooded_prefix_starves_no_other() {
        let now = Instant::now();
        let buckets = PrefixBuckets::new(10, 20, 0x5eed);
        let served = (0..1000).filter(|_| buckets.try_take(ip("192.0.2.7"), now)).count();
        assert_eq!(served, 20);
        assert!(!buckets.try_take(ip("192.0.2.200"), now));
        for other in 0..200u8 {
            assert!(buckets.try_take(IpAddr::from([198, 51, other, 1]), now));
        }
        assert!(buckets.try_take(ip("127.0.0.1"), now));
    }

    #[test]
    fn a_prefix_is_a_24_or_a_56_and_no_other_one() {
        for (first, last_inside, outside) in [
            ("192.0.2.0", "192.0.2.255", ["192.0.3.0", "192.0.1.255"]),
            (
                "2001:db8:0:100::",
                "2001:db8:0:1ff:ffff:ffff:ffff:ffff",
                ["2001:db8:0:200::", "2001:db8:0:ff:ffff:ffff:ffff:ffff"],
            ),
        ] {
            let now = Instant::now();
            let buckets = PrefixBuckets::new(1, 1, 0x5eed);
            assert!(buckets.try_take(ip(first), now));
            assert!(!buckets.try_take(ip(last_inside), now), "{last_inside}");
            assert!(outside.iter().all(|other| buckets.try_take(ip(other), now)), "{outside:?}");
        }
    }

    #[test]
    fn many_prefixes_do_not_wash_a_flooded_one_out() {
        let now = Instant::now();
        let buckets = PrefixBuckets::new(1, 5, 0x5eed);
        while buckets.try_take(ip("2001:db8::1"), now) {}
        for i in 0..100_000u32 {
            buckets.try_take(IpAddr::from(Ipv4Addr::from_bits(i << 8)), now);
        }
        assert!(!buckets.try_take(ip("2001:db8:0:1::"), now));
    }

    #[test]
    fn loopback_is_among_the_interface_addresses() {
        let addresses = interface_addresses().expect("interfaces can be listed");
        assert!(addresses.contains(&ip("127.0.0.1")));
    }
}
