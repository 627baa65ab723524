"""One run of a PostgreSQL load against one target, with pgbench; what it cost and how fast it was once its clients had logged in."""

import os
import pathlib
import re
import signal
import subprocess
import tempfile
import threading

from measure import percentile
from measure.poolers import DATABASE_BY_SOCKET
from measure.process import LOOPBACK, Failure
from measure.servers import DATABASE, USER
from measure.tools import tool

_OPTIONS = {
    "S": ["-S", "-M", "simple"], "E": ["-S", "-M", "extended"], "P": ["-S", "-M", "prepared"], "N": ["-N", "-M", "simple"],
    "W": ["-M", "simple"], "R": ["-M", "simple"], "U": ["-S", "-M", "simple"],
}
# What pgbench has no script of its own for.
_SCRIPTS = {
    "W": "select repeat('x', 100000);\n",
    "R": "select lpad(n::text, 14) from generate_series(1, 1000) n;\n",
}
# Of the transactions of a run as fast as it can, this share is logged for the percentiles.
_SAMPLING = 0.1
# A thread of pgbench asks the system about all its clients again and again.
_CLIENTS_OF_A_THREAD = 1000
# For whoever does not get as far as to be told that it is enough.
_PATIENCE_SECONDS = 90
_PROGRESS = re.compile(r"progress: ([\d.]+) s, ([\d.]+) tps")


def run(target, load, seconds):
    """One measured run. pgbench tells each second how far it is, and first when all have logged in: what is before that does not count."""
    with tempfile.TemporaryDirectory(prefix="sidepool-bench-log-") as folder:
        options = ["-P", "1", "--progress-timestamp", "-l", "--log-prefix", f"{folder}/log"]
        options += ["-R", str(load.rate)] if load.rate else ["--sampling-rate", str(_SAMPLING)]
        marks = _pgbench(target, load, options, seconds)
        first, last = marks[0], marks[-1]
        times = sorted(micros for path in pathlib.Path(folder).iterdir() for micros, at in _logged(path) if at > first.at)
    count = sum(mark.tps * (mark.at - before.at) for before, mark in zip(marks, marks[1:]))
    if count == 0:
        raise Failure(f"{target.name}: {load.name} processed no transaction")
    sample = {"tps": count / (last.at - first.at), "p50_ms": percentile(times, 0.5), "p99_ms": percentile(times, 0.99)}
    if target.process:
        sample |= {"cpu_us": (last.cpu_ns - first.cpu_ns) / 1000 / count, "rss_mb": target.process.rss_kb() / 1024}
    return sample


class _Mark:
    """What was known when pgbench spoke: its own time and transactions a second, and the target's CPU time."""

    def __init__(self, at, tps, cpu_ns):
        self.at, self.tps, self.cpu_ns = at, tps, cpu_ns


def _logged(path):
    """Microseconds and moment of each transaction of a log."""
    for line in path.open():
        fields = line.split()
        yield int(fields[2]), int(fields[4]) + int(fields[5]) / 1e6


def _pgbench(target, load, options, seconds):
    """Runs it until it has spoken of that many seconds; a mark for each time it did."""
    database, host = DATABASE, LOOPBACK
    if load.kind == "U":
        host = str(target.socket_folder)
        if target.process:
            database = DATABASE_BY_SOCKET
    tls = "require" if load.tls and load.tls.clients else "disable"
    threads = -(-load.clients // _CLIENTS_OF_A_THREAD)
    command = [tool("pgbench", "postgresql-client"), "-n", "-h", host, "-p", str(target.port), "-U", USER, "-c", str(load.clients),
               "-j", str(threads), "-T", str(_PATIENCE_SECONDS), *_OPTIONS[load.kind], *options]
    marks, said = [], []
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        if load.kind in _SCRIPTS:
            script.write(_SCRIPTS[load.kind])
            script.flush()
            command += ["-f", script.name]
        with subprocess.Popen([*command, database], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                              env=os.environ | {"PGSSLMODE": tls, "PGGSSENCMODE": "disable"}) as running:
            deadline = threading.Timer(_PATIENCE_SECONDS + 30, running.kill)
            deadline.start()
            try:
                for line in running.stderr:
                    cpu = target.process.cpu_ns() if target.process else 0
                    match = _PROGRESS.match(line)
                    if match:
                        marks.append(_Mark(float(match[1]), float(match[2]), cpu))
                        if marks[-1].at - marks[0].at > seconds - 0.5:
                            # As at the end of its -T, which it counts from before its logins: all finish what they have begun.
                            running.send_signal(signal.SIGALRM)
                    else:
                        said.append(line)
            except BaseException:
                running.kill()
                raise
            finally:
                deadline.cancel()
    # A client that was aborted makes the figures of the others incomparable.
    if running.returncode != 0 or len(marks) < 2:
        how = f"exit status {running.returncode}, told {len(marks)} times how far"
        raise Failure(f"{target.name}: pgbench {load.name} failed ({how}): {''.join(said).strip()[-600:]}")
    return marks
