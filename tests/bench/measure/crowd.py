"""Clients that ask at a fixed rate, in turn: the same work however many they are, and none of it is logging in. They may be spread over databases."""

import collections
import ctypes
import os
import select
import struct
import time

from measure import clients, conversations, percentile
from measure.process import Failure

_CLOCK_MONOTONIC, _TFD_NONBLOCK = 1, os.O_NONBLOCK
_libc = ctypes.CDLL(None, use_errno=True)
# Between the logins and the first question, so that what the logins left behind is not counted.
_CALM_SECONDS = 0.3
_PATIENCE_SECONDS = 10


class _Timer:
    """Fires `rate` times a second; epoll's own timeout knows only whole milliseconds."""

    def __init__(self, rate):
        self.descriptor = _libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK)
        interval = 1_000_000_000 // rate
        parts = divmod(interval, 1_000_000_000)
        if self.descriptor < 0 or _libc.timerfd_settime(self.descriptor, 0, struct.pack("=qqqq", *parts, *parts), None):
            raise Failure(f"no timer: {os.strerror(ctypes.get_errno())}")

    def fired(self):
        """How often since it was last asked."""
        return struct.unpack("=Q", os.read(self.descriptor, 8))[0]

    def close(self):
        os.close(self.descriptor)


def run(target, count, rate, seconds, databases):
    """One measured run: `count` logged-in clients, client n in database n modulo theirs, that put `rate` questions a second altogether."""
    held = clients.connect(target.port, lambda index: conversations.postgres_trust(databases[index % len(databases)]), count)
    try:
        time.sleep(_CALM_SECONDS)
        before, began = target.process.cpu_ns(), time.monotonic()
        times_us = _ask([client.socket for client in held], rate, round(rate * seconds))
        cpu, lasted = target.process.cpu_ns() - before, time.monotonic() - began
        times_us.sort()
        return {"cpu_us": cpu / 1000 / len(times_us), "tps": len(times_us) / lasted, "p50_ms": percentile(times_us, 0.5),
                "p99_ms": percentile(times_us, 0.99), "rss_mb": target.process.rss_kb() / 1024}
    finally:
        for client in held:
            client.close()


def _ask(sockets, rate, questions):
    """Asks `questions` times; the next in the row asks when its time has come. How long each waited for its answer, from when it was due."""
    by_descriptor = {socket.fileno(): socket for socket in sockets}
    resting = collections.deque(sockets)
    due, asked, answers, times_us = collections.deque(), {}, {}, []
    poll, timer = select.epoll(), _Timer(rate)
    try:
        poll.register(timer.descriptor, select.EPOLLIN)
        for descriptor in by_descriptor:
            poll.register(descriptor, select.EPOLLIN)
        while len(times_us) < questions:
            events = poll.poll(_PATIENCE_SECONDS)
            if not events or len(due) > _PATIENCE_SECONDS * rate:
                raise Failure(f"{len(asked)} clients wait for an answer and {len(due)} questions for a client; {len(times_us)} were answered")
            for descriptor, _ in events:
                if descriptor == timer.descriptor:
                    due.extend([time.monotonic()] * timer.fired())
                    continue
                socket = by_descriptor[descriptor]
                data = socket.recv(65536)
                answers[descriptor] = answers.get(descriptor, b"") + data
                if not data or answers[descriptor].startswith(b"E"):
                    raise Failure(f"no answer: {answers[descriptor][-300:]!r}")
                if not answers[descriptor].endswith(conversations.READY):
                    continue
                del answers[descriptor]
                times_us.append((time.monotonic() - asked.pop(descriptor)) * 1e6)
                resting.append(socket)
            while due and resting and len(times_us) + len(asked) < questions:
                socket = resting.popleft()
                asked[socket.fileno()] = due.popleft()
                socket.sendall(conversations.select_by_key(len(times_us)))
        return times_us
    finally:
        timer.close()
        poll.close()
