"""Processes that we start: where they live, how they end, and what they cost. Knows no server by name."""

import ctypes
import glob
import os
import pathlib
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time

LOOPBACK = "127.0.0.1"
# Below the range that outgoing connections take their ports from, so that ten thousand clients cannot sit on a server's port.
PORTS = range(15_000, 30_000)
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Failure(Exception):
    """Something we need did not work; the text says what and what to do."""


class Process:
    """One running process that is ours."""

    def __init__(self, name, popen, stop_signal):
        self.name = name
        self.popen = popen
        self.stop_signal = stop_signal

    @property
    def pid(self):
        return self.popen.pid

    def is_alive(self):
        return self.popen.poll() is None

    def stop(self):
        """Asks, waits, then insists."""
        if self.is_alive():
            self.popen.send_signal(self.stop_signal)
            try:
                self.popen.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        self.popen.wait()

    def cpu_ns(self):
        """CPU time of all its threads, user and system, from the scheduler's own account (no 10 ms tick)."""
        total = 0
        for path in glob.glob(f"/proc/{self.pid}/task/*/schedstat"):
            try:
                total += int(pathlib.Path(path).read_text().split()[0])
            except OSError:
                pass  # a thread that ended between the listing and the reading
        return total

    def rss_kb(self):
        """Resident memory."""
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise Failure(f"{self.name} has ended")


class Group:
    """Several processes that do one job, counted as one."""

    def __init__(self, processes):
        self._processes = processes

    def stop(self):
        """Ends each."""
        for process in self._processes:
            process.stop()

    def cpu_ns(self):
        """CPU time of all."""
        return sum(process.cpu_ns() for process in self._processes)

    def rss_kb(self):
        """Resident memory of all; what they share counts each time."""
        return sum(process.rss_kb() for process in self._processes)


class Place:
    """A throwaway folder and every process started in it. Leaving it ends them all, in reverse order."""

    def __init__(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="sidepool-bench-"))
        self.root.chmod(0o755)
        self.processes = []
        self._taken = set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, signal.SIG_IGN)  # a second Ctrl-C must not leave servers behind
        for process in reversed(self.processes):
            process.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def folder(self, name, user=None):
        """A new folder that `user` owns."""
        path = self.root / name
        path.mkdir(mode=0o755)
        if user is not None:
            shutil.chown(path, user)
        return path

    def port(self):
        """A free port of loopback, never the same twice."""
        for port in random.sample(PORTS, 500):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((LOOPBACK, port))
                except OSError:
                    continue
            if port not in self._taken:
                self._taken.add(port)
                return port
        raise Failure("no free port on loopback")

    def start(self, name, command, port, user=None, stop_signal=signal.SIGTERM, cwd=None):
        """Starts a server and, if there is a `port`, waits until it listens there. What it prints goes to a file in the folder."""
        log = self.root / f"{name}.log"
        with log.open("ab") as output:
            popen = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=cwd or self.root,
                start_new_session=True, preexec_fn=lambda: _die_with_parent(stop_signal), **identity(user))
        process = Process(name, popen, stop_signal)
        self.processes.append(process)
        deadline = time.monotonic() + 30
        while port is not None and not _listens(port):
            if not process.is_alive() or time.monotonic() > deadline:
                process.stop()
                raise Failure(f"{name} did not start ({' '.join(map(str, command))}):\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)
        return process

    def stop(self, process):
        """Ends one process, or a group, early."""
        process.stop()
        self.processes = [one for one in self.processes if one.popen.returncode is None]


def identity(user):
    """The arguments of Popen that make a process run as `user`."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def unprivileged():
    """Whom servers that refuse to run as root run as: nobody in particular, or None when we are not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
            return name
        except KeyError:
            continue
    raise Failure("neither a user `postgres` nor `nobody` exists to run the servers as")


def _die_with_parent(stop_signal):
    # Even a benchmark that is killed outright leaves no server behind.
    _libc.prctl(_PR_SET_PDEATHSIG, stop_signal)


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0
