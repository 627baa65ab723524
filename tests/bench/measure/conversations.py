"""What the small clients say: logins and one question. Just enough of each protocol to measure with, and no more."""

import base64
import functools
import hashlib
import hmac
import itertools
import struct

from measure.process import Failure
from measure.servers import DATABASE, PASSWORD, USER

READY = b"Z\0\0\0\5I"
_AUTHENTICATION_SASL_CONTINUE = 11
# As many accounts as pgbench's smallest scale has.
_ROWS = 100_000
_nonces = itertools.count()


def postgres_trust(database=DATABASE):
    """A login without a password and one query."""
    yield _startup(database), _is_ready
    yield _query(), _is_ready


def postgres_scram():
    """A SCRAM-SHA-256 login, one query, and a polite farewell. The costly part of the password is computed once, not for each login."""
    yield _startup(), _is_message
    first = f"n=,r=sidepool{next(_nonces):016}"
    body = b"SCRAM-SHA-256\0" + struct.pack("!i", len(first) + 3) + b"n,," + first.encode()
    answer = yield _message(b"p", body), _is_message
    if struct.unpack_from("!i", answer, 5)[0] != _AUTHENTICATION_SASL_CONTINUE:
        raise Failure(f"no SCRAM challenge: {answer[:300]!r}")
    challenge = answer[9:].decode()
    fields = dict(part.split("=", 1) for part in challenge.split(","))
    key = _client_key(fields["s"], int(fields["i"]))
    unproven = f"c=biws,r={fields['r']}"
    signature = hmac.digest(hashlib.sha256(key).digest(), f"{first},{challenge},{unproven}".encode(), "sha256")
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature))).decode()
    yield _message(b"p", f"{unproven},p={proof}".encode()), _is_ready
    yield _query(), _is_ready


def select_by_key(number):
    """The question that pgbench -S asks."""
    return _message(b"Q", f"SELECT abalance FROM pgbench_accounts WHERE aid = {number % _ROWS + 1};\0".encode())


def redis_get():
    """One GET."""
    yield b"*2\r\n$3\r\nGET\r\n$8\r\nidle:key\r\n", _is_bulk


@functools.cache
def _client_key(salt, iterations):
    salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), base64.b64decode(salt), iterations)
    return hmac.digest(salted, b"Client Key", "sha256")


def _message(tag, body):
    return tag + struct.pack("!i", len(body) + 4) + body


def _startup(database=DATABASE):
    words = b"".join(word.encode() + b"\0" for word in ("user", USER, "database", database)) + b"\0"
    return struct.pack("!ii", len(words) + 8, 196608) + words


def _query():
    return _message(b"Q", b"select 1\0")


def _refused(answer, mark):
    if answer.startswith(mark):
        raise Failure(f"a client was refused: {answer[:300]!r}")


def _is_ready(answer):
    _refused(answer, b"E")
    return answer.endswith(READY)


def _is_message(answer):
    _refused(answer, b"E")
    return len(answer) >= 5 and len(answer) > struct.unpack_from("!i", answer, 1)[0]


def _is_bulk(answer):
    _refused(answer, b"-")
    return answer == b"$-1\r\n" or answer.endswith(b"\r\n") and answer.count(b"\r\n") == 2
