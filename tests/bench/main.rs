//! Measures the relay beside others on this machine: `cargo bench --bench relay`, see `README.md`.
//!
//! One server at a time has a core of its own, the load another one. Each cell runs all servers in
//! turn, again and again, so that whatever else happens on the machine happens to all of them.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it has a table to print")]

mod callgrind;
mod cells;
mod client;
mod forwarder;
mod load;
mod markdown;
mod process;
mod report;
mod target;
#[path = "../it/conformance/wire.rs"]
#[allow(dead_code)] // The conformance tests use the rest of it.
mod wire;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use cells::{Cell, Sample};
use client::Credential;
use markdown::Page;
use process::Cores;
use report::Results;
use target::{External, NAMES, Target};

/// Measures the relay beside coturn and minimal forwarders.
#[derive(clap::Parser)]
struct Arguments {
    /// A few short runs of the most important cells: an impression in less than a minute.
    #[arg(long)]
    quick: bool,
    /// Runs of each server in each cell.
    #[arg(long)]
    runs: Option<usize>,
    /// Milliseconds of a run.
    #[arg(long)]
    millis: Option<u64>,
    /// Only cells whose name contains one of these.
    #[arg(long, value_delimiter = ',')]
    cells: Vec<String>,
    /// Only these servers.
    #[arg(long, value_delimiter = ',')]
    servers: Vec<String>,
    /// Another TURN server on loopback. Its credential is in TURN_USERNAME and TURN_PASSWORD, or
    /// in the file of `--credential`.
    #[arg(long)]
    server: Option<SocketAddr>,
    /// A file with `USERNAME:PASSWORD`.
    #[arg(long)]
    credential: Option<PathBuf>,
    /// The process of that server; without it there are rates, but no costs.
    #[arg(long)]
    pid: Option<u32>,
    /// A file that the lines of JSON are added to, instead of the standard output.
    #[arg(long)]
    json: Option<PathBuf>,
    /// A file for the table as `README.md` has it; what was in it is lost.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Says what the cells are.
    #[arg(long)]
    list: bool,
    /// Instead: instructions per packet of our daemon, counted by valgrind.
    #[arg(long)]
    callgrind: bool,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
    /// Keeps a core busy.
    #[arg(long, hide = true)]
    neighbour: bool,
    /// Serves as one of the forwarders.
    #[arg(long, hide = true)]
    forwarder: Option<forwarder::Kind>,
}

impl Arguments {
    fn wants(&self, cell: &Cell) -> bool {
        let named = self.cells.iter().any(|part| cell.name.contains(part.as_str()));
        named || (self.cells.is_empty() && (cell.quick || !self.quick))
    }

    fn runs(&self) -> usize {
        self.runs.unwrap_or(if self.quick { 3 } else { 7 }).max(1)
    }

    fn length(&self) -> Duration {
        Duration::from_millis(self.millis.unwrap_or(if self.quick { 120 } else { 500 }).max(1))
    }

    fn external(&self) -> Option<External> {
        let text = self.credential.as_ref().map(|path| {
            std::fs::read_to_string(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
        });
        let variable = |name| std::env::var(name).unwrap_or_default();
        let (username, password) = match text.as_deref().and_then(|text| text.split_once(':')) {
            Some((username, password)) => (username.to_owned(), password.trim_end().to_owned()),
            None => (variable("TURN_USERNAME"), variable("TURN_PASSWORD")),
        };
        let credential = Credential { username, password };
        Some(External { address: self.server?, process: self.pid, credential })
    }
}

fn main() {
    let given: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test` starts it, too, with arguments for tests; one that names a test means another.
    let role = ["--bench", "--forwarder", "--neighbour"]
        .iter()
        .any(|role| given.iter().any(|it| it == role));
    if !role {
        if given.iter().all(|it| it.starts_with('-')) {
            smoke();
        }
        return;
    }
    let arguments = Arguments::parse();
    if let Some(kind) = arguments.forwarder {
        return forwarder::run(kind);
    }
    if arguments.neighbour {
        return process::compute();
    }
    let cells: Vec<Cell> = cells::all().into_iter().filter(|it| arguments.wants(it)).collect();
    if arguments.list {
        return cells.iter().for_each(|cell| println!("{}", cell.name));
    }
    let cores = prepare();
    describe(cores);
    if arguments.callgrind {
        return callgrind::run(cores);
    }
    let start = Instant::now();
    let mut page = Page::new(&conditions(&arguments), arguments.server.is_some());
    for cell in cells {
        let results = run(&cell, &arguments, cores);
        print!("{}", results.table());
        tell(&results, arguments.json.as_ref());
        page.add(&results);
        if let Some(path) = &arguments.markdown {
            page.write(path);
        }
    }
    println!("\n{} s", start.elapsed().as_secs());
}

/// Makes room for many sockets and goes to the core of the load.
fn prepare() -> Cores {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("the hard limit");
    let cores = Cores::choose();
    process::pin(cores.load);
    cores
}

/// What the figures depend on.
fn describe(cores: Cores) {
    let first_line = |path: &str, key: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned()
    };
    println!("{}", first_line("/proc/version", "Linux"));
    println!("{}", first_line("/proc/cpuinfo", "model name"));
    println!("load average {}", first_line("/proc/loadavg", ""));
    println!("compiler {}; coturn {}", version(RUSTC), version(TURNSERVER));
    println!("servers on core {}, the load on core {}", cores.server, cores.load);
    if cores.server == cores.load {
        println!("only one core may be used: rates and latencies mean little");
    }
    if cfg!(debug_assertions) {
        println!("this is a debug build: the figures mean nothing");
    }
}

/// The last line of what a program says of its version.
fn version((program, argument): (&str, &str)) -> String {
    let output = std::process::Command::new(program).arg(argument).output();
    let text = output.map(|it| String::from_utf8_lossy(&it.stdout).into_owned());
    text.unwrap_or_default().lines().last().unwrap_or_default().to_owned()
}

const RUSTC: (&str, &str) = ("rustc", "-V");
const TURNSERVER: (&str, &str) = ("turnserver", "--version");

/// The same in one line, without what only this one machine has.
fn conditions(arguments: &Arguments) -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel: Vec<&str> = kernel.trim().split('.').take(2).collect();
    let rustc = version(RUSTC);
    let rustc = rustc.split(' ').nth(1).unwrap_or_default();
    let cores = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cores = cores.lines().filter(|line| line.starts_with("processor")).count();
    format!(
        "{cores} cores, loopback, Linux {}, rustc {rustc}, coturn {}; median (quartiles) of {} \
         runs of {} ms.",
        kernel.join("."),
        version(TURNSERVER),
        arguments.runs(),
        arguments.length().as_millis(),
    )
}

/// Starts the servers of a cell, sets the clients up, and runs them in turn.
fn run(cell: &Cell, arguments: &Arguments, cores: Cores) -> Results {
    let external = arguments.external();
    let wanted = |name: &&'static str| {
        let asked = &arguments.servers;
        cell.targets.contains(name) && (asked.is_empty() || asked.iter().any(|it| it == name))
    };
    let there = NAMES.into_iter().filter(wanted);
    let there =
        there.filter_map(|name| Target::start(name, cell.workers, cores, external.as_ref()));
    let mut all: Vec<_> = there
        .map(|target| {
            let runner = (cell.prepare)(&target);
            (target, runner, Vec::<Sample>::new())
        })
        .collect();
    for round in 0..arguments.runs().min(cell.runs_max) {
        // Nobody always comes after the same one.
        let count = all.len().max(1);
        all.rotate_left(round % count);
        for (target, runner, samples) in &mut all {
            samples.push(runner(target, arguments.length()));
        }
        all.rotate_right(round % count);
    }
    let samples = all.into_iter().map(|(target, _, samples)| (target.name, samples)).collect();
    Results { cell: cell.name.clone(), goals: cell.goals.clone(), samples }
}

fn tell(results: &Results, file: Option<&PathBuf>) {
    let lines = results.json();
    let Some(path) = file else {
        return lines.iter().for_each(|line| println!("{line}"));
    };
    let file = std::fs::File::options().create(true).append(true).open(path);
    let mut file = file.unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    for line in lines {
        writeln!(file, "{line}").expect("the file takes it");
    }
}

/// That everything here works, for `cargo test`: a cell of each kind until something has arrived.
fn smoke() {
    report::check();
    markdown::check();
    let cores = prepare();
    let kinds = ["single 172 B x 50", "merged", "Binding", "cycle", "TLS", "latency", "overload"];
    let wanted = |cell: &Cell| cell.quick && kinds.iter().any(|kind| cell.name.contains(kind));
    let mut passed = 0;
    for cell in cells::all().into_iter().filter(wanted) {
        for name in NAMES.into_iter().filter(|name| cell.targets.contains(name)) {
            let Some(target) = Target::start(name, cell.workers, cores, None) else { continue };
            let mut runner = (cell.prepare)(&target);
            let start = Instant::now();
            let mut samples = Vec::new();
            // A busy machine may let nobody do anything for a while.
            while !samples.last().is_some_and(arrived) {
                assert!(start.elapsed().as_secs() < 20, "{}: {name}: {samples:?}", cell.name);
                samples.push(runner(&target, Duration::from_millis(20)));
            }
            let samples = vec![(target.name, samples)];
            let results = Results { cell: cell.name.clone(), goals: cell.goals.clone(), samples };
            assert!(results.table().contains(name) && results.json().len() == 1);
            passed += 1;
        }
    }
    println!("test result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured");
}

/// Whether a run had anything to measure.
fn arrived(sample: &Sample) -> bool {
    let there = |(name, value): &(&str, f64)| {
        ["k/s", "p50 us", "delivered %"].contains(name) && value.is_finite() && *value > 0.0
    };
    sample.iter().any(there)
}
