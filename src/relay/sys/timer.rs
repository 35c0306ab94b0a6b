//! How exactly a thread sleeps.

/// Lets this thread wake up when it wants to, within a microsecond. By itself the kernel adds up to
/// 50 us, so that it can wake several threads at once; that is as long as a worker pauses. Where it
/// is not permitted, pauses are longer.
pub(in crate::relay) fn sharpen_timers() {
    // SAFETY: the option takes a number, and sets what is this thread's own.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, SLACK_NANOS) };
}

const SLACK_NANOS: libc::c_ulong = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slack_of_a_thread_is_its_own() {
        // SAFETY: the option takes nothing, and reads what is this thread's own.
        let slack = || unsafe { libc::prctl(libc::PR_GET_TIMERSLACK) };
        let before = slack();
        let sharpened = std::thread::spawn(move || {
            sharpen_timers();
            slack()
        });
        assert_eq!(sharpened.join().expect("a thread"), 1_000);
        assert_eq!(slack(), before);
    }
}
