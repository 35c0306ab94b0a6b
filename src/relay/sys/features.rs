//! What newer kernels can do, and older ones cannot: looked for once, at the start.

use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::socket::{set_merging, set_segment};

/// What the relay makes use of where the kernel has it. Without any of it packets pass all the
/// same, one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// `UDP_GRO` (Linux 5.0): datagrams in a row arrive in one piece.
    pub merge: bool,
    /// `UDP_SEGMENT` (Linux 4.18): datagrams in a row leave in one piece.
    pub segment: bool,
}

impl Features {
    /// All that there is.
    pub const ALL: Self = Self { merge: true, segment: true };
    /// None of it, as on an old kernel.
    pub const NONE: Self = Self { merge: false, segment: false };

    /// Those that the kernel has, too; says in the log what is missing.
    pub(in crate::relay) fn available(self) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), Some(Protocol::UDP));
        // Without a socket the relay cannot start, and will say why.
        let Ok(socket) = socket else { return Self::NONE };
        let found = Self {
            merge: self.merge && set_merging(socket.as_fd()).is_ok(),
            segment: self.segment && set_segment(socket.as_fd(), 0).is_ok(),
        };
        if !found.merge {
            tracing::info!("datagrams are received one by one: no UDP_GRO (Linux 5.0)");
        }
        if !found.segment {
            tracing::info!("datagrams are sent one by one: no UDP_SEGMENT (Linux 4.18)");
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_wanted_is_not_found() {
        assert_eq!(Features::NONE.available(), Features::NONE);
        let merge = Features { merge: true, segment: false };
        assert!(!merge.available().segment);
    }
}
