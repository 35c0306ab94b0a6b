//! When to renew, and when to try again. Functions of what they are told.

use std::time::Duration;

use super::Facts;

/// When to renew a certificate of which the authority says nothing: at two thirds of its life, or
/// up to a thirtieth of it later. `dice` is a random number.
pub(super) fn by_life(facts: &Facts, dice: u64) -> u64 {
    let life = facts.not_after.saturating_sub(facts.not_before);
    facts.not_before + life / 3 * 2 + dice % (life / 30).max(1)
}

/// When to renew in the window that the authority suggests: anywhere in it, so that its customers
/// do not come all at once (RFC 9773, section 4.2). A window after the certificate's end is none.
pub(super) fn by_window(start: u64, end: u64, facts: &Facts, dice: u64) -> u64 {
    if start >= facts.not_after {
        return by_life(facts, dice);
    }
    start + dice % end.min(facts.not_after).saturating_sub(start).max(1)
}

/// When to renew by a time that was kept or suggested. One after the certificate's end was reckoned
/// with a clock that was wrong, or is damaged.
pub(super) fn believed(renew_at: u64, facts: &Facts, dice: u64) -> u64 {
    if renew_at < facts.not_after { renew_at } else { by_life(facts, dice) }
}

/// The same not before `soonest`, unless that is too late for the certificate.
pub(super) fn no_sooner(soonest: u64, renew_at: u64, facts: &Facts) -> u64 {
    if soonest < facts.not_after { renew_at.max(soonest) } else { renew_at }
}

/// How many seconds are left until `next_try`. We never wait for longer than [`WAIT_MAX`]: more
/// than that was reckoned with a clock that was wrong, and the wait is over.
pub(super) fn wait(next_try: u64, unix_secs: u64) -> u64 {
    let left = next_try.saturating_sub(unix_secs);
    if left > WAIT_MAX.as_secs() { 0 } else { left }
}

/// How long to wait after so many failures in a row: twice as long each time, at most
/// [`RETRY_MAX`], and up to a tenth more.
pub(super) fn back_off(retry: Duration, failures: u32, dice: u64) -> Duration {
    let doubled = retry.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let wait = doubled.min(RETRY_MAX.max(retry));
    wait + Duration::from_millis(dice % (wait.as_millis() as u64 / 10).max(1))
}

/// When to ask again for a window, if the authority says so after `seconds`
/// (RFC 9773, section 4.3.2).
pub(super) fn ask_again(unix_secs: u64, seconds: u64) -> u64 {
    unix_secs + seconds.clamp(ASK_MIN.as_secs(), ASK_MAX.as_secs())
}

/// No certificate lives so shortly that trying less often would be too late.
const RETRY_MAX: Duration = Duration::from_secs(6 * 3600);
/// As long as an authority may tell us to wait, and longer than we wait by ourselves.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(8 * 86_400);
const ASK_MIN: Duration = Duration::from_secs(60);
const ASK_MAX: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn two_thirds_of_the_life_and_a_little_jitter() {
        let facts = Facts { not_before: 1000 * DAY, not_after: 1090 * DAY, renewal_id: None };
        assert_eq!(by_life(&facts, 0), 1060 * DAY);
        for dice in [1, 77, u64::MAX / 2, u64::MAX] {
            assert!((1060 * DAY..1063 * DAY).contains(&by_life(&facts, dice)));
        }
        let over = Facts { not_before: 7, not_after: 7, renewal_id: None };
        assert_eq!(by_life(&over, u64::MAX), 7);
    }

    #[test]
    fn anywhere_in_the_window_of_the_authority() {
        let facts = Facts { not_before: 0, not_after: 3000, renewal_id: None };
        let by_window = |start, end, dice| by_window(start, end, &facts, dice);
        assert_eq!(by_window(100, 200, 0), 100);
        assert_eq!(by_window(100, 200, 199), 199);
        assert_eq!(by_window(100, 100, u64::MAX), 100);
        assert_eq!(by_window(100, 50, 3), 100);
    }

    #[test]
    fn no_window_outlasts_the_certificate() {
        let facts = Facts { not_before: 0, not_after: 3000, renewal_id: None };
        assert_eq!(by_window(3000, 9000, &facts, 7), 2007);
        assert_eq!(by_window(u64::MAX - 1, u64::MAX, &facts, 0), 2000);
        for dice in [0, 999, 5000, u64::MAX] {
            assert!((2000..3000).contains(&by_window(2000, u64::MAX, &facts, dice)));
        }
    }

    #[test]
    fn no_time_to_renew_outlasts_the_certificate() {
        let facts = Facts { not_before: 0, not_after: 3000, renewal_id: None };
        assert_eq!(believed(2999, &facts, 7), 2999);
        assert_eq!(believed(3000, &facts, 7), 2007);
        assert_eq!(believed(u64::MAX, &facts, 0), 2000);
        assert_eq!(no_sooner(1500, 1000, &facts), 1500);
        assert_eq!(no_sooner(1500, 2000, &facts), 2000);
        assert_eq!(no_sooner(4000, 2000, &facts), 2000, "by a clock that is ahead");
    }

    #[test]
    fn a_wait_that_a_wrong_clock_has_set_is_over() {
        assert_eq!(wait(1000, 900), 100);
        assert_eq!(wait(1000, 2000), 0);
        let longest = WAIT_MAX.as_secs();
        assert_eq!(wait(1000 + longest, 1000), longest);
        assert_eq!(wait(1001 + longest, 1000), 0, "the clock was set back");
    }

    #[test]
    fn waits_double_up_to_a_quarter_of_a_day() {
        let minute = Duration::from_secs(60);
        let wait = |failures| back_off(minute, failures, 0);
        assert_eq!([wait(1), wait(2), wait(3)], [minute, minute * 2, minute * 4]);
        assert_eq!(wait(9), minute * 256);
        assert_eq!([wait(10), wait(u32::MAX)], [RETRY_MAX, RETRY_MAX]);
        assert!(back_off(minute, 1, u64::MAX) < minute * 11 / 10);
        assert_eq!(back_off(RETRY_MAX * 2, 1, 0), RETRY_MAX * 2);
    }

    #[test]
    fn the_authority_is_not_asked_too_often_nor_forgotten() {
        assert_eq!(ask_again(1000, 0), 1060);
        assert_eq!(ask_again(1000, 21_600), 22_600);
        assert_eq!(ask_again(1000, u64::MAX), 1000 + DAY);
    }
}
