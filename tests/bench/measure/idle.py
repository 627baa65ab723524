"""Thousands of clients that log in, ask one thing and then hold still; what each costs a pooler in memory and CPU."""

import functools
import time

from measure import clients, conversations

# Before anything is measured: they open the upstream connections, whose memory is not the clients'.
_FIRST = 100
_IDLE_SECONDS = 10


def run(target, load):
    """Memory and idle CPU for `load.clients` clients of a target that has only just started."""
    conversation = conversations.postgres_trust if load.kind == "IDLE" else conversations.redis_get
    connect = functools.partial(clients.connect, target.port, lambda _: conversation())
    process = target.process
    held = connect(_FIRST)
    time.sleep(0.5)
    base, began = process.rss_kb(), process.cpu_ns()
    held += connect(load.clients)
    logged_in = process.cpu_ns()
    time.sleep(1)
    rss, calm = process.rss_kb(), process.cpu_ns()
    time.sleep(_IDLE_SECONDS)
    idle = process.cpu_ns() - calm
    for client in held:
        client.close()
    return {"kb_per_client": (rss - base) / load.clients, "idle_cpu_us_per_s": idle / 1000 / _IDLE_SECONDS,
            "login_cpu_us": (logged_in - began) / 1000 / load.clients, "rss_mb": rss / 1024, "rss_start_mb": base / 1024}
