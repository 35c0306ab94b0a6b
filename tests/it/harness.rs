//! The daemon as a process: started with free ports, waited for by its own log, stopped in order.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// No event of these tests takes longer; whoever waits for it fails then.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// The `turncast` binary with a clean environment, and a directory of its own for everything.
pub(crate) struct Setup {
    directory: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

impl Setup {
    /// A directory with this configuration. Every listener is a free port of 127.0.0.1.
    pub(crate) fn new(config: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("turncast.toml"), config).expect("a configuration");
        let setup = Self { directory, variables: Vec::new() };
        let state = setup.state().display().to_string();
        setup
            .variable("TURNCAST__STATE_DIR", &state)
            .variable("TURNCAST__WEB__LISTEN", "127.0.0.1:0")
            .variable("TURNCAST__TURN__LISTEN", "127.0.0.1:0")
            .variable("TURNCAST__ADMIN__LISTEN", "127.0.0.1:0")
            .variable("TURNCAST__LOG__FORMAT", "json")
            // Its allocations would be counted with those of the test.
            .variable("TURNCAST__DOCTOR_AT_START", "false")
    }

    /// Sets or replaces a variable of the environment.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes a variable of the environment back, so that the configuration counts.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self
    }

    /// The directory of the test.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The binary with `arguments`, this configuration and this environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_turncast"));
        command
            .args(arguments)
            .arg("--config")
            .arg(self.directory.path().join("turncast.toml"))
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs a command that ends by itself.
    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("turncast runs")
    }

    /// Runs a command that must succeed, and gives what it printed.
    #[track_caller]
    pub(crate) fn printed(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Starts the daemon and waits until it says that it is ready.
    #[track_caller]
    pub(crate) fn start(&self) -> Daemon {
        Daemon::start(self.command(&[]))
    }

    /// As [`Setup::start`], with no more than so many descriptors.
    #[track_caller]
    pub(crate) fn start_with_descriptors(&self, most: u32) -> Daemon {
        let plain = self.command(&[]);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {most} && exec \"$@\""), "sh"]);
        command.arg(plain.get_program()).args(plain.get_args()).env_clear().stdin(Stdio::null());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        Daemon::start(command)
    }

    /// As [`Setup::start`], with a terminal for the standard output: `script` makes one.
    #[track_caller]
    pub(crate) fn start_on_terminal(&self) -> Daemon {
        let file = self.directory.path().join("turncast.toml");
        let daemon = format!("{} --config {}", env!("CARGO_BIN_EXE_turncast"), file.display());
        // The log keeps its pipe.
        let script = format!("exec 3>&2; exec script -q -e -f -c 'exec {daemon} 2>&3' /dev/null");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).env_clear().stdin(Stdio::null());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        Daemon::start(command)
    }

    /// As [`Setup::start`], within a network namespace; for `tests/namespaces.rs`.
    #[track_caller]
    #[allow(dead_code)]
    pub(crate) fn start_in(&self, namespace: &str) -> Daemon {
        Daemon::start(self.command_in(namespace, &[]))
    }

    /// As [`Setup::command`], within a network namespace.
    pub(crate) fn command_in(&self, namespace: &str, arguments: &[&str]) -> Command {
        let own = self.command(arguments);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(own.get_program()).args(own.get_args());
        command.env_clear().stdin(Stdio::null());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// A running daemon; killed when dropped, if the test did not stop it.
pub(crate) struct Daemon {
    child: Child,
    lines: Receiver<Value>,
    log: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    stdout: Arc<(Mutex<String>, Condvar)>,
    listeners: Vec<String>,
}

impl Daemon {
    #[track_caller]
    fn start(mut command: Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("turncast starts");
        let (log, stdout) = (Arc::<Mutex<String>>::default(), Arc::default());
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let mut out = child.stdout.take().expect("stdout is piped");
        let (log_copy, printed) = (Arc::clone(&log), Arc::clone(&stdout));
        let readers = vec![
            std::thread::spawn(move || {
                for line in stderr.lines() {
                    let line = line.expect("the log is UTF-8");
                    let mut log = log_copy.lock().expect("no reader panicked");
                    log.push_str(&line);
                    log.push('\n');
                    // A line that is no JSON is an error message; the log keeps it.
                    let _ = sender.send(serde_json::from_str(&line).unwrap_or(Value::Null));
                }
            }),
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = out.read(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..read]);
                    let (whole, more): &(Mutex<String>, Condvar) = &printed;
                    whole.lock().expect("no reader panicked").push_str(&text);
                    more.notify_all();
                }
            }),
        ];
        let mut daemon = Self { child, lines, log, readers, stdout, listeners: Vec::new() };
        loop {
            let line = daemon.next_line("ready");
            match line["message"].as_str() {
                Some("ready") => return daemon,
                Some("listening") => {
                    daemon.listeners.push(line["listener"].as_str().expect("a URL").to_owned());
                }
                _ => {}
            }
        }
    }

    #[track_caller]
    fn next_line(&mut self, wanted: &str) -> Value {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => line,
            Err(why) => panic!("no log line \"{wanted}\" ({why}); the log:\n{}", self.log()),
        }
    }

    /// Waits for a log line with this message.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, message: &str) -> Value {
        loop {
            let line = self.next_line(message);
            if line["message"] == message {
                return line;
            }
        }
    }

    /// Everything that was logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("no reader panicked").clone()
    }

    /// Everything that was printed, once `part` was.
    #[track_caller]
    pub(crate) fn stdout_with(&self, part: &str) -> String {
        let (whole, more) = &*self.stdout;
        let text = whole.lock().expect("no reader panicked");
        let lacks = |text: &mut String| !text.contains(part);
        let (text, waited) =
            more.wait_timeout_while(text, DEADLINE, lacks).expect("no reader panicked");
        assert!(!waited.timed_out(), "{part:?} is not in:\n{text}");
        text.clone()
    }

    fn address(&self, scheme: &str) -> SocketAddr {
        let found = self.listeners.iter().find_map(|url| url.strip_prefix(scheme));
        let found = found.unwrap_or_else(|| panic!("{scheme} is not in {:?}", self.listeners));
        found.parse().expect("an address")
    }

    /// Where pages are served.
    pub(crate) fn web(&self) -> SocketAddr {
        self.address("http://")
    }

    /// Where pages are served with TLS.
    pub(crate) fn https(&self) -> SocketAddr {
        self.address("https://")
    }

    /// Where the relay listens.
    pub(crate) fn turn(&self) -> SocketAddr {
        self.address("udp://")
    }

    /// Where the relay listens for IPv6.
    pub(crate) fn turn_ipv6(&self) -> SocketAddr {
        let ipv6 = self.listeners.iter().filter_map(|url| url.strip_prefix("udp://["));
        let found = ipv6.map(|rest| format!("[{rest}")).next().expect("udp://[ is a listener");
        found.parse().expect("an address")
    }

    /// Where the relay listens for clients over `tcp` or `tls`.
    pub(crate) fn turn_over(&self, transport: &str) -> SocketAddr {
        self.address(&format!("{transport}://"))
    }

    /// Where the relay listens in one address family; `scheme` is such as `udp://`.
    pub(crate) fn turn_on(&self, scheme: &str, ipv6: bool) -> SocketAddr {
        let mut addresses = self.listeners.iter().filter_map(|url| url.strip_prefix(scheme));
        let found = addresses.find(|address| address.starts_with('[') == ipv6);
        let found = found.unwrap_or_else(|| panic!("{scheme} is not in {:?}", self.listeners));
        found.parse().expect("an address")
    }

    /// Where metrics and health are served.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.address("admin http://")
    }

    /// The value of a series of `/metrics`, given as it stands there; 0 when it does not.
    #[track_caller]
    pub(crate) fn metric(&self, series: &str) -> u64 {
        let (status, body) = get(self.admin(), "/metrics");
        assert_eq!(status, 200, "{body}");
        let line = body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().expect("a number"))
    }

    /// Waits until `series` has `value`, as it does soon.
    #[track_caller]
    pub(crate) fn wait_for_metric(&self, series: &str, value: u64) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let found = self.metric(series);
            if found == value {
                return;
            }
            assert!(Instant::now() < deadline, "{series} is {found}, not {value}");
        }
    }

    /// Resident memory in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the daemon runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let digits = line.and_then(|line| line.split_whitespace().next());
        digits.expect("VmRSS is there").parse().expect("a number")
    }

    /// How many descriptors are open.
    pub(crate) fn descriptors(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        open.expect("the daemon runs").count()
    }

    /// Sets how many descriptors it may have: `spare` more than it has now.
    pub(crate) fn limit_descriptors(&self, spare: usize) {
        let limit = format!("--nofile={}:", self.descriptors() + spare);
        let id = self.child.id().to_string();
        let status = Command::new("prlimit").args(["--pid", &id, &limit]).status();
        assert!(status.expect("prlimit (util-linux) runs").success());
    }

    /// Sends a signal, by its name without SIG.
    pub(crate) fn signal(&self, name: &str) {
        signal(&self.child.id().to_string(), name);
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        // The log ends when the process does, whoever else waits.
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end:\n{}", self.log()),
            }
        }
        for reader in std::mem::take(&mut self.readers) {
            reader.join().expect("a reader ends");
        }
        self.child.wait().expect("the daemon is our child")
    }

    /// Stops with SIGTERM, which must end it in order, and gives the whole log.
    #[track_caller]
    pub(crate) fn stop(self) -> String {
        self.signal("TERM");
        self.wait_for_end_in_order()
    }

    /// Waits for the end that somebody asked for, and gives the whole log.
    #[track_caller]
    pub(crate) fn wait_for_end_in_order(mut self) -> String {
        let status = self.wait();
        assert!(status.success(), "{status}; the log:\n{}", self.log());
        let log = self.log();
        assert!(!log.contains("panic"), "{log}");
        log
    }
}

impl Drop for Daemon {
    #[expect(clippy::print_stderr, reason = "what a failed test has to say")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let end = self.child.try_wait();
            let log = self.log();
            let last: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("the daemon ({end:?}) has said, the latest first:\n{}", last.join("\n"));
        }
        // Both fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether this is the process that `test` wants to run in. If not, `test`, with its path from the
/// root of this binary, is run once more, alone in a process that `shell` prepares and starts by
/// `"$@"`.
pub(crate) fn in_child(test: &str, shell: &str) -> bool {
    if std::env::var("TURNCAST_TEST_CHILD").is_ok_and(|name| name == test) {
        return true;
    }
    let output = Command::new("sh")
        .args(["-c", shell, "sh"])
        .arg(std::env::current_exe().expect("this binary"))
        .args(["--exact", test, "--nocapture"])
        .env("TURNCAST_TEST_CHILD", test)
        .output()
        .expect("a child process");
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{errors}");
    false
}

/// As [`in_child`], in a network namespace of its own that the commands of `network` set up.
pub(crate) fn in_network(test: &str, network: &str) -> bool {
    let unshare = format!(
        "own=; [ \"$(id -u)\" = 0 ] || own=--map-root-user; \
         exec unshare --net $own sh -c '{network} && exec \"$@\"' sh \"$@\""
    );
    in_child(test, &unshare)
}

/// Waits until the port of `address` is free again; a test fails when it is not in time. What a
/// relay in this very process has closed may be there a moment longer: a process that another test
/// starts has copies of every socket until it becomes a program of its own. And what is free may be
/// somebody else's for a while, where tests share the address.
#[track_caller]
pub(crate) fn free_again(address: SocketAddr) {
    let start = Instant::now();
    while let Err(err) = UdpSocket::bind(address) {
        assert!(start.elapsed() < DEADLINE, "{address} is not free again: {err}");
        std::thread::yield_now();
    }
}

/// Sends a signal to a process of the test.
pub(crate) fn signal(process: &str, name: &str) {
    let line = format!("kill -{name} {process}");
    let status = Command::new("sh").args(["-c", &line]).status().expect("sh runs");
    assert!(status.success(), "{line}");
}

/// The status and body of `GET path`.
#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the request is taken");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let answer = text(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status line").parse().expect("a status");
    (status, body.to_owned())
}

/// Bytes of a process's output as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
