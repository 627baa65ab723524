"""New connections as fast as they come: SCRAM login, one query, gone. pgbench spends a core on its own side of SCRAM; these clients do not."""

import time

from measure import clients, conversations, percentile


def run(target, load, seconds):
    """One measured run."""
    tls = None
    if load.tls:
        tls = clients.ClientTls(load.tls)
        for client in _come(target, 1, tls, lambda started: started < 1):  # who resumes has been there before
            tls.keep(client.socket)
            client.close()
    began = time.monotonic()
    before = target.process.cpu_ns()
    times_us, resumed = [], 0
    for client in _come(target, load.clients, tls, lambda _: time.monotonic() < began + seconds):
        times_us.append((time.monotonic() - client.began) * 1e6)
        resumed += tls is not None and tls.keep(client.socket)
        client.close()
    cpu = target.process.cpu_ns() - before
    times_us.sort()
    sample = {"cpu_us": cpu / 1000 / len(times_us), "tps": len(times_us) / (time.monotonic() - began), "p50_ms": percentile(times_us, 0.5),
              "p99_ms": percentile(times_us, 0.99), "rss_mb": target.process.rss_kb() / 1024}
    return sample | ({"resumed": resumed / len(times_us)} if tls else {})


def _come(target, at_once, tls, wants_more):
    return clients.drive(target.port, lambda _: conversations.postgres_scram(), at_once, wants_more, tls)
