//! The cells of the table: one kind of load each, for all servers that can bear it.

mod control;
mod latency;
mod memory;
mod overload;
pub(crate) mod packets;
mod pages;
mod streams;

use std::time::Duration;

use crate::load::{Counted, closed_loop};
use crate::report::Goal;
use crate::target::Target;

/// The figures of one run by name; the first one is what the cell is about.
pub(crate) type Sample = Vec<(&'static str, f64)>;

/// Runs the load for so long, on a server where everything is set up.
pub(crate) type Runner = Box<dyn FnMut(&Target, Duration) -> Sample>;

/// One kind of load.
pub(crate) struct Cell {
    pub(crate) name: String,
    /// The servers, as far as they are there.
    pub(crate) targets: &'static [&'static str],
    pub(crate) goals: Vec<Goal>,
    /// Workers of our daemon.
    pub(crate) workers: usize,
    /// How many runs are enough for a figure that does not scatter.
    pub(crate) runs_max: usize,
    /// Whether `--quick` has it, too.
    pub(crate) quick: bool,
    /// Sets clients up.
    pub(crate) prepare: Box<dyn Fn(&Target) -> Runner>,
}

impl Cell {
    fn new(
        name: impl Into<String>,
        targets: &'static [&'static str],
        prepare: impl Fn(&Target) -> Runner + 'static,
    ) -> Self {
        let (name, prepare) = (name.into(), Box::new(prepare));
        let (goals, workers, runs_max) = (Vec::new(), 1, usize::MAX);
        Self { name, targets, goals, workers, runs_max, quick: false, prepare }
    }

    fn goal(mut self, goal: Goal) -> Self {
        self.goals.push(goal);
        self
    }

    fn quick(mut self) -> Self {
        self.quick = true;
        self
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Cell> {
    let mut cells = packets::cells();
    cells.extend(control::cells());
    cells.extend(streams::cells());
    cells.extend(latency::cells());
    cells.extend([overload::cell(), pages::cell(), memory::cell()]);
    cells
}

/// Warms up, then keeps a window under way and says what each arrival cost the server.
fn measure(
    target: &Target,
    length: Duration,
    window: u64,
    mut send: impl FnMut() -> usize,
    mut take: impl FnMut() -> u64,
) -> Sample {
    closed_loop(window, length / 5, &mut send, &mut take);
    let before = target.cpu();
    let counted = closed_loop(window, length, &mut send, &mut take);
    let cpu = target.cpu().saturating_sub(before);
    // What is still under way belongs to nobody.
    drain(&mut take);
    sample(counted, cpu)
}

fn sample(counted: Counted, cpu: Duration) -> Sample {
    let Counted { arrived, lost, elapsed, idle } = counted;
    let share = |part: Duration| 100.0 * part.as_secs_f64() / elapsed.as_secs_f64();
    let all = (arrived + lost).max(1) as f64;
    vec![
        (COST, cpu.as_secs_f64() * 1e6 / arrived.max(1) as f64),
        ("k/s", arrived as f64 / elapsed.as_secs_f64() / 1e3),
        ("server busy %", share(cpu)),
        ("load waits %", share(idle)),
        ("lost %", 100.0 * lost as f64 / all),
    ]
}

/// Takes until nothing comes any more.
fn drain(take: &mut impl FnMut() -> u64) {
    let mut quiet = std::time::Instant::now();
    while quiet.elapsed() < Duration::from_millis(5) {
        if take() > 0 {
            quiet = std::time::Instant::now();
        }
    }
}

/// Microseconds of the server's processor time for one packet that arrived, or one request that
/// was answered.
pub(crate) const COST: &str = "CPU us";
/// Packets under way: enough that nobody waits for a wake-up, few enough for any socket buffer.
const WINDOW: u64 = 128;
