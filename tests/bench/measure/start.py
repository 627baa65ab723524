"""How long a pooler takes from the start of its process to the first answer, and how large it is then."""

import functools
import pathlib
import socket
import subprocess
import tempfile
import time

from measure import conversations
from measure.process import LOOPBACK, Failure
from measure.tools import has

_PATIENCE_SECONDS = 10
_BETWEEN_TRIES_SECONDS = 0.0002


def run(place, recipe):
    """One measured start: the fork, the configuration, the listener, one client's login, a new server connection, one query."""
    began = time.monotonic()
    target = recipe.start(place, waits=False)
    try:
        _be_served(recipe.port, began + _PATIENCE_SECONDS, conversations.postgres_trust())
        start_ms = (time.monotonic() - began) * 1000
        return {"start_ms": start_ms, "start_cpu_ms": target.process.cpu_ns() / 1e6, "rss_start_mb": target.process.rss_kb() / 1024,
                "binary_mb": _program_mb(pathlib.Path(recipe.commands[0][0]))}
    finally:
        place.stop(target.process)


def _be_served(port, deadline, conversation):
    with _connect(port, deadline) as client:
        client.settimeout(_PATIENCE_SECONDS)
        for request, is_whole in conversation:  # a login without a password does not look at the answers
            client.sendall(request)
            answer = b""
            while not is_whole(answer):
                data = client.recv(65536)
                if not data:
                    raise Failure(f"the first client was closed instead of answered; it had received {answer!r}")
                answer += data


def _connect(port, deadline):
    while time.monotonic() < deadline:
        client = socket.socket()
        if client.connect_ex((LOOPBACK, port)) == 0:
            return client
        client.close()
        time.sleep(_BETWEEN_TRIES_SECONDS)
    raise Failure(f"nobody listens after {_PATIENCE_SECONDS} s")


@functools.cache
def _program_mb(path):
    """The size of what is delivered: without the symbols that cargo leaves in."""
    with tempfile.NamedTemporaryFile(prefix="sidepool-bench-") as stripped:
        if has("strip") and subprocess.run(["strip", "-o", stripped.name, path], capture_output=True).returncode == 0:
            path = pathlib.Path(stripped.name)
        return path.stat().st_size / 1e6
