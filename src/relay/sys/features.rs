//! What the kernel offers beyond what the relay cannot do without: looked for at start, done
//! without where it is missing, and said once.

use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::filter::Filter;
use super::socket::{FRAGMENT, set_merging, set_option, set_segment};

/// Options of sockets that newer kernels have, and some sandboxes have not; each may be off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// `UDP_GRO` (Linux 5.0): runs of datagrams of one sender arrive as one.
    pub merge: bool,
    /// `UDP_SEGMENT` (Linux 4.18): runs of datagrams to one receiver leave as one.
    pub segment: bool,
    /// `SO_RXQ_OVFL` (Linux 2.6.33): how many datagrams found a receive queue full.
    pub queue_drops: bool,
    /// `SO_ATTACH_FILTER` with random numbers (Linux 3.15): what exceeds a client's share of a
    /// worker that has too much to do is dropped before it costs the worker anything.
    pub source_filter: bool,
    /// `IP_RECVERR`: ICMP errors are told to the client whose packets they are about.
    pub icmp_errors: bool,
    /// `IP_MTU_DISCOVER` with `IP_PMTUDISC_PROBE` and `IP_PMTUDISC_OMIT` (Linux 3.15).
    pub dont_fragment: bool,
    /// `IP_RECVTOS` (Linux 2.2): DSCP and ECN of what arrives are known, and handed on.
    pub traffic_class: bool,
}

/// One field of [`Features`]: how it is reached, what the system calls it, and what is missing
/// without it.
type Feature = (fn(&mut Features) -> &mut bool, &'static str, &'static str);

/// Every field once.
const FIELDS: [Feature; 7] = [
    (|f| &mut f.merge, "UDP_GRO", "each packet of a burst is received by itself"),
    (|f| &mut f.segment, "UDP_SEGMENT", "each packet of a burst is sent by itself"),
    (|f| &mut f.queue_drops, "SO_RXQ_OVFL", "packets that a full queue loses are not counted"),
    (
        |f| &mut f.source_filter,
        "SO_ATTACH_FILTER",
        "what is too much for a worker has to be read before it can be dropped",
    ),
    (|f| &mut f.icmp_errors, "IP_RECVERR", "clients hear of no ICMP errors of their peers"),
    (|f| &mut f.dont_fragment, "IP_PMTUDISC_PROBE", "DONT-FRAGMENT is refused as unknown"),
    (|f| &mut f.traffic_class, "IP_RECVTOS", "DSCP and ECN of packets are not handed on"),
];

impl Features {
    /// All that there is.
    pub const ALL: Self = Self::each(true);
    /// What the relay cannot do without, and nothing more.
    pub const NONE: Self = Self::each(false);

    const fn each(on: bool) -> Self {
        Self {
            merge: on,
            segment: on,
            queue_drops: on,
            source_filter: on,
            icmp_errors: on,
            dont_fragment: on,
            traffic_class: on,
        }
    }

    /// Those that the kernel has, too; the log says what is missing.
    pub(in crate::relay) fn available(self) -> Self {
        let found = self.and(Self::detect());
        for (name, without) in found.missing() {
            let why = format!("no {name}: {without}");
            tracing::info!(why, "the kernel lacks something that the relay does without");
        }
        found
    }

    /// What this kernel has.
    fn detect() -> Self {
        let kind = Type::DGRAM.cloexec();
        // Without a socket the relay cannot start, and will say why.
        let Ok(socket) = Socket::new(Domain::IPV4, kind, Some(Protocol::UDP)) else {
            return Self::NONE;
        };
        let has = |level, name, value| set_option(socket.as_fd(), level, name, value).is_ok();
        Self {
            merge: set_merging(socket.as_fd()).is_ok(),
            segment: set_segment(socket.as_fd(), 0).is_ok(),
            queue_drops: has(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1),
            source_filter: Filter::default().attach(&socket).is_ok(),
            icmp_errors: has(libc::IPPROTO_IP, libc::IP_RECVERR, 1),
            dont_fragment: [libc::IP_PMTUDISC_PROBE, FRAGMENT]
                .into_iter()
                .all(|mode| has(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, mode)),
            traffic_class: has(libc::IPPROTO_IP, libc::IP_RECVTOS, 1),
        }
    }

    /// Those that are in both.
    fn and(mut self, mut other: Self) -> Self {
        for (field, ..) in FIELDS {
            *field(&mut self) &= *field(&mut other);
        }
        self
    }

    /// Each one by itself: its name in the system's headers, and everything but it.
    pub fn all_but_one() -> impl Iterator<Item = (&'static str, Self)> {
        FIELDS.into_iter().map(|(field, name, _)| {
            let mut rest = Self::ALL;
            *field(&mut rest) = false;
            (name, rest)
        })
    }

    /// What is missing, and what that means: a line of the log for each.
    fn missing(mut self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let missing =
            move |(field, name, without): Feature| (!*field(&mut self)).then_some((name, without));
        FIELDS.into_iter().filter_map(missing)
    }
}

/// What a UDP socket is made with.
#[derive(Debug, Clone, Copy)]
pub(in crate::relay) struct SocketOptions {
    /// Receive and send buffer; the kernel cuts what exceeds its own maximum.
    pub(in crate::relay) buffer_bytes: usize,
    /// What may be asked of the kernel.
    pub(in crate::relay) features: Features,
}

impl From<usize> for SocketOptions {
    fn from(buffer_bytes: usize) -> Self {
        Self { buffer_bytes, features: Features::ALL }
    }
}

/// Asks for one of the [`Features`], which was there a moment ago: who is refused all the same does
/// without.
pub(super) fn ask(socket: BorrowedFd<'_>, wanted: bool, level: i32, name: i32) {
    if wanted {
        let _ = set_option(socket, level, name, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_can_be_left_out_alone_and_is_named_then() {
        assert_eq!(Features::ALL.missing().count(), 0);
        assert_eq!(Features::NONE.missing().count(), FIELDS.len());
        let mut left = Features::ALL;
        for (name, features) in Features::all_but_one() {
            let missing: Vec<&str> = features.missing().map(|(name, _)| name).collect();
            assert_eq!(missing, [name]);
            assert_ne!(left, left.and(features));
            left = left.and(features);
        }
        assert_eq!(left, Features::NONE);
    }

    #[test]
    fn what_is_found_is_what_the_kernel_takes() {
        // Each of them is older than any kernel that these tests run on.
        let missing: Vec<&str> = Features::detect().missing().map(|(name, _)| name).collect();
        assert_eq!(missing, [""; 0]);
    }
}
