"""One run of a Redis load against one target, with redis-benchmark; what it cost the proxy and the server."""

import csv
import os
import subprocess

from measure.process import LOOPBACK, Failure
from measure.tools import tool

_KEYS = 10_000
_WARM_REQUESTS = 20_000


def warm(target, load):
    """Fills the keys and opens connections; says how many requests a second went through."""
    return float(_benchmark(target, load, _WARM_REQUESTS)["rps"])


def run(target, load, requests, server):
    """One measured run of exactly `requests` requests. `server` is Redis itself."""
    before = server.cpu_ns(), target.process.cpu_ns() if target.process else 0
    row = _benchmark(target, load, requests)
    after = server.cpu_ns(), target.process.cpu_ns() if target.process else 0
    server_us, proxy_us = ((late - early) / 1000 / requests for early, late in zip(before, after))
    sample = {"tps": float(row["rps"]), "p50_ms": float(row["p50_latency_ms"]), "p99_ms": float(row["p99_latency_ms"]),
              "server_cpu_us": server_us, "total_cpu_us": server_us + proxy_us}
    if target.process:
        sample |= {"cpu_us": proxy_us, "rss_mb": target.process.rss_kb() / 1024}
    return sample


def _benchmark(target, load, requests):
    command = [tool("redis-benchmark", "redis-tools"), "-h", LOOPBACK, "-p", str(target.port), "-t", load.kind.lower(), "-c",
               str(load.clients), "-P", str(load.pipeline), "-n", str(requests), "-r", str(_KEYS), "--csv"]
    # redis-benchmark takes what a previous AUTH left in the environment.
    environment = {key: value for key, value in os.environ.items() if key != "REDISCLI_AUTH"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)
    except subprocess.TimeoutExpired as error:
        raise Failure(f"{target.name}: redis-benchmark {load.name} hung for {error.timeout:.0f} s") from error
    lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
    if done.returncode != 0 or len(lines) < 2:
        raise Failure(f"{target.name}: redis-benchmark {load.name} failed: {(done.stderr + done.stdout).strip()[-600:]}")
    return next(csv.DictReader(lines))
