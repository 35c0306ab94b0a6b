//! Processes on cores: where they run, what they cost, how much memory they hold.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};

/// The core of the servers and the core of the load generator; the same one if there is no other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cores {
    pub(crate) server: usize,
    pub(crate) load: usize,
}

impl Cores {
    /// The first and the last core that this process may use.
    pub(crate) fn choose() -> Self {
        let allowed = sched_getaffinity(Pid::from_raw(0)).expect("the affinity can be read");
        let mut cores = (0..CpuSet::count()).filter(|core| allowed.is_set(*core) == Ok(true));
        let server = cores.next().expect("some core is allowed");
        Self { server, load: cores.next_back().unwrap_or(server) }
    }
}

/// Moves this thread, and what it starts from now on, to one core.
pub(crate) fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core).expect("a core that exists");
    sched_setaffinity(Pid::from_raw(0), &set).expect("a core that is allowed");
}

/// Takes what it gets of its core, until whoever started it has ended.
pub(crate) fn compute() {
    let parent = getppid();
    while getppid() == parent {
        for _ in 0..1 << 16 {
            std::hint::spin_loop();
        }
    }
}

/// A server; killed when dropped if it was started here.
pub(crate) struct Process {
    id: u32,
    child: Option<Child>,
}

impl Process {
    /// Starts a command on the servers' core. A child inherits the core of the thread that starts
    /// it, so this thread goes there for a moment.
    pub(crate) fn start(command: &mut Command, cores: Cores) -> Self {
        pin(cores.server);
        let child = command.spawn();
        pin(cores.load);
        let child = child.unwrap_or_else(|err| panic!("{:?}: {err}", command.get_program()));
        Self { id: child.id(), child: Some(child) }
    }

    /// A program on the servers' core that computes all the time, see [`compute`].
    pub(crate) fn neighbour(cores: Cores) -> Self {
        let own = std::env::current_exe().expect("this program");
        Self::start(Command::new(own).arg("--neighbour").stdin(Stdio::null()), cores)
    }

    /// A process that somebody else has started.
    pub(crate) fn foreign(id: u32) -> Self {
        Self { id, child: None }
    }

    /// The child, for its pipes.
    pub(crate) fn child(&mut self) -> Option<&mut Child> {
        self.child.as_mut()
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn end(mut self) {
        let id = Pid::from_raw(i32::try_from(self.id).expect("a process id"));
        kill(id, Signal::SIGTERM).expect("the process lives");
        if let Some(child) = &mut self.child {
            child.wait().expect("it is ours");
        }
    }

    /// The time on a processor of all its threads, in kernel and user space, to the nanosecond.
    /// Threads that have ended are not counted; none ends while it is measured.
    pub(crate) fn cpu(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.id)).expect("the process lives");
        let nanos = threads.flatten().filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanos.sum())
    }

    /// Resident memory in bytes, without what it shares with other programs.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id));
        let status = status.expect("the process lives");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        kib.and_then(|kib| kib.parse::<u64>().ok()).expect("RssAnon is there") * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Both fail when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
