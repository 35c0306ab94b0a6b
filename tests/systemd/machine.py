"""A machine with a real systemd, for tests: a directory that systemd-nspawn boots.

Its network is a loopback device of its own, its changes live in memory and are gone afterwards.
Everything here waits for events, each within a time after which the test fails.
"""

import os
import pathlib
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time

# Root alone can write there, which matters: what is in it is booted as root.
CACHE = pathlib.Path("/var/cache/turncast-tests")
PACKAGES = "systemd,systemd-sysv,dbus,iproute2,ca-certificates,procps"
BOOT_SECS = 120
COMMAND_SECS = 60
# Prints status and text of a page; runs in the network of the machine.
FETCH = """
import ssl, sys, urllib.error, urllib.request
trusted = ssl.create_default_context(cafile=sys.argv[2] or None)
try:
    answer = urllib.request.urlopen(sys.argv[1], timeout=10, context=trusted)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status)
print(answer.read().decode())
"""


class TestFault(Exception):
    """What was expected did not happen; the text says what did."""


def distribution():
    """The host's own release: a binary that was linked here finds the same libraries there."""
    lines = pathlib.Path("/etc/os-release").read_text().splitlines()
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    return fields["VERSION_CODENAME"].strip('"')


def base_directory():
    """The directory to boot; made once (about a minute), then kept."""
    base = CACHE / f"root-{distribution()}"
    if base.exists():
        return base
    print(f"making {base} with mmdebstrap", flush=True)
    CACHE.mkdir(mode=0o755, exist_ok=True)
    unfinished = pathlib.Path(tempfile.mkdtemp(prefix="unfinished-", dir=CACHE))
    try:
        made = unfinished / "root"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}"]
        subprocess.run([*command, distribution(), made], check=True)
        made.rename(base)
    finally:
        shutil.rmtree(unfinished)
    return base


class Machine:
    """A booted machine; use it in a `with` statement."""

    def __init__(self, binds):
        """`binds` maps files of the host to where the machine sees them, read-only."""
        self.binds = binds
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="turncast-machine-"))
        self.process = None
        self.leader = None

    def __enter__(self):
        try:
            self._boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(COMMAND_SECS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.work, ignore_errors=True)

    def _boot(self):
        console = self.work / "console"
        ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ready.bind(str(self.work / "notify"))
        command = ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit"]
        command += ["--private-network", "--volatile=overlay", "--notify-ready=yes"]
        command += [f"--machine=turncast-{os.getpid()}", "-D", str(base_directory())]
        command += [f"--bind-ro={host}:{inside}" for host, inside in self.binds.items()]
        environment = dict(os.environ, NOTIFY_SOCKET=str(self.work / "notify"))
        with console.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
            )
        deadline = time.monotonic() + BOOT_SECS
        booted = False
        while not (booted and self.leader):
            if not select.select([ready], [], [], 1)[0]:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise TestFault(f"the machine did not boot:\n{console.read_text()}")
                continue
            for field in ready.recv(4096).decode().splitlines():
                name, _, value = field.partition("=")
                if name == "X_NSPAWN_LEADER_PID":
                    self.leader = value
                booted = booted or field == "READY=1"

    def _inside(self, *command):
        return ["nsenter", "-t", self.leader, "-a", "--", *command]

    def run(self, *command, stdin="", fails=False):
        """Runs a command inside and returns what it prints; it has to succeed unless `fails`."""
        done = subprocess.run(
            self._inside(*command), input=stdin, text=True, timeout=COMMAND_SECS,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )
        if (done.returncode != 0) != fails:
            outcome = f"ended with {done.returncode}"
            raise TestFault(f"`{' '.join(command)}` {outcome}:\n{done.stdout}")
        return done.stdout

    def write(self, path, text, mode="644"):
        """Writes a file inside."""
        self.run("mkdir", "-p", os.path.dirname(path))
        self.run("tee", path, stdin=text)
        self.run("chmod", mode, path)

    def get(self, url, authority=""):
        """Fetches a page over the machine's loopback device: its status and its text.

        `authority` is the file of a certificate to trust.
        """
        command = ["nsenter", "-t", self.leader, "-n", "--", sys.executable, "-c", FETCH]
        done = subprocess.run(
            [*command, url, authority],
            text=True, timeout=COMMAND_SECS, capture_output=True, check=False,
        )
        if done.returncode != 0:
            raise TestFault(f"{url}: {done.stderr.strip().splitlines()[-1]}")
        status, _, text = done.stdout.partition("\n")
        return int(status), text

    def follow(self, unit):
        """The journal of a unit from now on, line by line as it is written."""
        last = self.run("journalctl", "-n", "1", "-o", "cat", "--show-cursor").splitlines()[-1]
        cursor = "--after-cursor=" + last.removeprefix("-- cursor: ")
        return Journal(self._inside("journalctl", "-f", cursor, "-o", "cat", "-u", unit))


class Journal:
    """Lines of a journal as they come; use it in a `with` statement."""

    def __init__(self, command):
        self.command = command
        self.process = None

    def __enter__(self):
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0
        )
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def wait_for(self, text, secs=COMMAND_SECS):
        """Waits for a line that contains `text`."""
        deadline = time.monotonic() + secs
        seen = b""
        while text.encode() not in seen:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise TestFault(f"no line with {text!r} in {secs} s, but:\n{seen.decode()}")
            seen += os.read(self.process.stdout.fileno(), 65536)
