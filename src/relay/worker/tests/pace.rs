//! Pauses of a worker that keeps up.

use super::super::super::pace::{Pace, Rhythm};
use super::*;

#[test]
fn a_worker_pauses_after_a_round_with_a_datagram_or_two_and_counts_it() {
    let (mut running, server) = worker();
    let pauses = |running: &Running| running.worker.metrics.pauses.value();
    binding_is_answered(&mut running, server);
    assert_eq!(pauses(&running), 0, "it is a quiet worker");
    // Whatever comes is enough now.
    running.pace = Pace::eager();
    binding_is_answered(&mut running, server);
    assert_eq!(pauses(&running), 0, "nothing had come before");
    binding_is_answered(&mut running, server);
    assert_eq!(pauses(&running), 1);
    running.pace = Pace::new(Rhythm::DATAGRAMS, Instant::now());
    binding_is_answered(&mut running, server);
    binding_is_answered(&mut running, server);
    assert_eq!(pauses(&running), 1);
}
