//! Which sends of a socket are segmented: what the kernel has refused is not asked for again soon.

/// What a socket has learned about segmented sends (`UDP_SEGMENT`).
#[derive(Debug, Clone, Copy)]
pub(in crate::relay) struct Segmenting {
    /// It may be tried at all.
    possible: bool,
    /// The largest datagrams that the kernel cuts, as far as the last refusals tell; 0: none.
    bytes_max: u16,
    /// So many calls pass before larger ones are tried again.
    pause: u32,
    /// How long the last pause was; 0: nothing was refused since larger ones were cut.
    paused: u32,
}

impl Segmenting {
    /// Nothing is segmented, ever.
    pub(in crate::relay) const OFF: Self =
        Self { possible: false, bytes_max: 0, pause: 0, paused: 0 };

    /// Nothing has been refused yet; without `possible` nothing is tried either.
    pub(in crate::relay) const fn new(possible: bool) -> Self {
        Self { possible, ..Self::OFF }
    }

    /// Counts a call that sends.
    #[inline]
    pub(super) fn pass(&mut self) {
        self.pause = self.pause.saturating_sub(1);
    }

    /// Whether datagrams of `bytes` may leave in one piece.
    #[inline]
    pub(super) fn takes(&self, bytes: usize) -> bool {
        self.possible && bytes > 0 && (self.pause == 0 || bytes <= usize::from(self.bytes_max))
    }

    /// Whether `error` says that the kernel does not segment here.
    pub(super) fn is_refusal(error: i32) -> bool {
        let all = [libc::EINVAL, libc::EMSGSIZE, libc::EIO, libc::EOPNOTSUPP, libc::ENOPROTOOPT];
        all.contains(&error)
    }

    /// Learns that datagrams of `bytes` were cut.
    #[inline]
    pub(super) fn cut(&mut self, bytes: usize) {
        if self.paused > 0 && bytes > usize::from(self.bytes_max) {
            self.paused = 0;
        }
    }

    /// Learns that a send of datagrams of `bytes` was refused with `error`. They are larger than
    /// the link takes, so those of that size or more are left alone; or the way to this receiver
    /// leads through a device that cannot, so all are. Either for a while, which doubles: the next
    /// receiver may have another way, and what was said of this one may be out of date, or a lie.
    ///
    /// What any link takes was refused because of its receiver, who may have chosen so: an address
    /// that nothing can be sent to, or a path that says it takes no more. Nothing is learned then,
    /// for the others of the socket would pay.
    pub(super) fn refuse(&mut self, error: i32, bytes: usize) {
        let takes = match error {
            libc::EINVAL | libc::EMSGSIZE if bytes <= ANY_LINK_BYTES => return,
            libc::EINVAL | libc::EMSGSIZE => u16::try_from(bytes - 1).unwrap_or(u16::MAX),
            _ => 0,
        };
        if self.pause == 0 {
            self.bytes_max = takes;
            self.paused = (self.paused * 2).clamp(PAUSE, PAUSE_MAX);
        } else {
            self.bytes_max = self.bytes_max.min(takes);
        }
        self.pause = self.paused;
    }
}

/// Bytes that a datagram may have on any link: what the headers of IPv6 and UDP leave of 1280.
const ANY_LINK_BYTES: usize = 1280 - 40 - 8;
/// Calls between the first refusal and the next attempt.
const PAUSE: u32 = 64;
/// The same after many refusals: one failed call more or less is nothing then.
const PAUSE_MAX: u32 = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_not_tried_again_and_what_is_smaller_is() {
        let mut segmenting = Segmenting::new(true);
        assert!(segmenting.takes(1) && segmenting.takes(65_507) && !segmenting.takes(0));
        segmenting.refuse(libc::EMSGSIZE, 1473);
        assert!(segmenting.takes(1472) && !segmenting.takes(1473));
        segmenting.refuse(libc::EINVAL, 1300);
        assert!(segmenting.takes(1299) && !segmenting.takes(1300));
        assert!(!Segmenting::new(false).takes(1));
    }

    #[test]
    fn what_any_link_takes_is_tried_again_whatever_one_receiver_has_refused() {
        let mut segmenting = Segmenting::new(true);
        for bytes in [1, 32, 1200, 1232] {
            segmenting.refuse(libc::EINVAL, bytes);
            segmenting.refuse(libc::EMSGSIZE, bytes);
            assert!(segmenting.takes(u16::MAX.into()), "{bytes}");
        }
    }

    #[test]
    fn what_one_path_was_too_narrow_for_is_tried_again_after_a_while() {
        let mut segmenting = Segmenting::new(true);
        let mut attempts = Vec::new();
        let mut calls = 0..1_000_000;
        for call in calls.by_ref() {
            segmenting.pass();
            assert!(segmenting.takes(1299), "what is smaller passes all the time");
            segmenting.cut(1299);
            if segmenting.takes(1400) {
                attempts.push(call);
                if attempts.len() == 10 {
                    break;
                }
                segmenting.refuse(libc::EINVAL, 1400);
                segmenting.refuse(libc::EINVAL, 1300);
            }
        }
        let pauses: Vec<u32> = attempts.windows(2).map(|two| two[1] - two[0]).collect();
        assert_eq!(pauses, [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384]);
        // The last one was taken, so the next refusal is the first again.
        segmenting.cut(1400);
        segmenting.refuse(libc::EMSGSIZE, 1400);
        for _ in 0..PAUSE {
            assert!(!segmenting.takes(1400));
            segmenting.pass();
        }
        assert!(segmenting.takes(1400));
    }

    #[test]
    fn a_device_that_cannot_is_asked_less_and_less_often() {
        let mut segmenting = Segmenting::new(true);
        let mut attempts = 0;
        for _ in 0..1_000_000 {
            segmenting.pass();
            if segmenting.takes(1200) {
                attempts += 1;
                segmenting.refuse(libc::EIO, 1200);
            }
        }
        assert!((11..=30).contains(&attempts), "{attempts}");
    }
}
