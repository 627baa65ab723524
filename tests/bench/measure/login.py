"""New connections as fast as they come: SCRAM login, one query, gone. pgbench spends a core on its own side of SCRAM; these clients do not."""

import time

from measure import clients, conversations, percentile


def run(target, load, seconds):
    """One measured run."""
    began = time.monotonic()
    before = target.process.cpu_ns()
    times_us = []
    for client in clients.drive(target.port, conversations.postgres_scram, load.clients, lambda _: time.monotonic() < began + seconds):
        times_us.append((time.monotonic() - client.began) * 1e6)
        client.close()
    cpu = target.process.cpu_ns() - before
    times_us.sort()
    return {"cpu_us": cpu / 1000 / len(times_us), "tps": len(times_us) / (time.monotonic() - began), "p50_ms": percentile(times_us, 0.5),
            "p99_ms": percentile(times_us, 0.99), "rss_mb": target.process.rss_kb() / 1024}
