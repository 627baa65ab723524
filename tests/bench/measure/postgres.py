"""One run of a PostgreSQL load against one target, with pgbench; what it cost and how fast it was."""

import pathlib
import re
import subprocess
import tempfile

from measure import percentile
from measure.process import LOOPBACK, Failure
from measure.servers import DATABASE, DATABASE_BY_SOCKET, USER, tool

_OPTIONS = {
    "S": ["-S", "-M", "simple"], "E": ["-S", "-M", "extended"], "P": ["-S", "-M", "prepared"], "N": ["-N", "-M", "simple"],
    "W": ["-M", "simple"], "U": ["-S", "-M", "simple"],
}
# Of the transactions of a run as fast as it can, this share is logged for the percentiles.
_SAMPLING = 0.1


def warm(target, load):
    """Opens the pool's connections and prepares statements, unmeasured."""
    _pgbench(target, load, ["-t", "20"])


def run(target, load, seconds):
    """One measured run."""
    with tempfile.TemporaryDirectory(prefix="sidepool-bench-log-") as folder:
        # pgbench counts its own connecting, one client after the other, into the time it was given.
        duration = seconds + load.clients // 500
        options = ["-T", str(duration), "-l", "--log-prefix", f"{folder}/log"]
        if load.rate:
            options += ["-R", str(load.rate)]
        else:
            options += ["--sampling-rate", str(_SAMPLING)]
        before = target.process.cpu_ns() if target.process else 0
        text = _pgbench(target, load, options)
        after = target.process.cpu_ns() if target.process else 0
        times = sorted(int(line.split()[2]) for path in pathlib.Path(folder).iterdir() for line in path.open())
    count = int(re.search(r"actually processed: (\d+)", text)[1])
    if count == 0:
        raise Failure(f"{target.name}: {load.name} processed no transaction:\n{text}")
    sample = {"tps": float(re.search(r"tps = ([\d.]+)", text)[1]), "p50_ms": percentile(times, 0.5), "p99_ms": percentile(times, 0.99)}
    if target.process:
        sample |= {"cpu_us": (after - before) / 1000 / count, "rss_mb": target.process.rss_kb() / 1024}
    return sample


def _pgbench(target, load, options):
    database, host = DATABASE, LOOPBACK
    if load.kind == "U":
        host = str(target.socket_folder)
        if target.process:
            database = DATABASE_BY_SOCKET
    command = [tool("pgbench", "postgresql-client"), "-n", "-h", host, "-p", str(target.port), "-U", USER, "-c", str(load.clients),
               "-j", "1", *_OPTIONS[load.kind], *options]
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        if load.kind == "W":
            script.write("select repeat('x', 100000);\n")
            script.flush()
            command += ["-f", script.name]
        done = subprocess.run([*command, database], capture_output=True, text=True)
    # A client that was aborted makes the figures of the others incomparable.
    if done.returncode != 0:
        raise Failure(f"{target.name}: pgbench {load.name} failed: {done.stderr.strip()[-600:]}")
    return done.stdout

