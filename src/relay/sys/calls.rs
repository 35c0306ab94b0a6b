//! How many system calls a thread has made here: what tests of the packet path hold it to.

/// A system call on the way of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) enum Call {
    /// `epoll_wait`.
    Wait,
    /// `recvmmsg`.
    Receive,
    /// `sendto`, `sendmsg` or `sendmmsg`.
    Send,
    /// Any other of a socket: options, and the error queue.
    Other,
}

/// A call is about to be made.
#[inline]
pub(super) fn made(call: Call) {
    #[cfg(test)]
    tests::CALLS.with(|calls| {
        let mut counts = calls.get();
        counts[call as usize] += 1;
        calls.set(counts);
    });
    #[cfg(not(test))]
    let _ = call;
}

/// The calls that this thread makes in `run`: waits, receives, sends, others.
#[cfg(test)]
pub(in crate::relay) fn count(run: impl FnOnce()) -> [u32; 4] {
    let before = tests::CALLS.get();
    run();
    let after = tests::CALLS.get();
    std::array::from_fn(|call| after[call] - before[call])
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        pub(super) static CALLS: Cell<[u32; 4]> = const { Cell::new([0; 4]) };
    }

    #[test]
    fn calls_are_counted_by_kind_and_thread() {
        let counted = count(|| {
            made(Call::Wait);
            made(Call::Send);
            made(Call::Send);
            let other = std::thread::spawn(|| made(Call::Receive));
            other.join().expect("the other thread");
        });
        assert_eq!(counted, [1, 0, 2, 0]);
    }
}
