"""The servers of a benchmark and how each is configured: PostgreSQL, Redis, and the poolers between them and their clients."""

import base64
import dataclasses
import hashlib
import hmac
import os
import pathlib
import shutil
import signal
import subprocess

from measure.process import LOOPBACK, Failure, identity, unprivileged

USER = "bench"
DATABASE = "bench"
PASSWORD = "benchmark"
# The same database under another name, reached through the server's Unix socket.
DATABASE_BY_SOCKET = "benchsocket"
POOL_SIZE = 20
MAX_CLIENTS = 20_000


@dataclasses.dataclass
class Target:
    """Something clients can be pointed at. `process` is whose cost is counted; None for a direct connection."""

    name: str
    port: int
    socket_folder: pathlib.Path | None
    process: object | None


def tool(name, package):
    """Where a program is, or what to install."""
    places = [os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]
    places += sorted(map(str, pathlib.Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise Failure(f"{name} is missing: apt-get install {package}")
    return found


def has(name):
    """Whether a program is installed."""
    try:
        tool(name, "")
        return True
    except Failure:
        return False


class Postgres:
    """A throwaway PostgreSQL with pgbench's tables: trust, fsync off."""

    def __init__(self, place, scale):
        self.user = unprivileged()
        self.port = place.port()
        self.socket_folder = place.folder("postgres-socket", self.user)
        data = place.folder("postgres", self.user)
        self._run([tool("initdb", "postgresql"), "--pgdata", data, "--auth", "trust", "--username", USER, "--no-sync", "--locale", "C",
                   "--encoding", "UTF8"])
        settings = {
            "listen_addresses": f"'{LOOPBACK}'", "port": self.port, "unix_socket_directories": f"'{self.socket_folder}'",
            "max_connections": 400, "shared_buffers": "'256MB'", "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off",
            "max_wal_size": "'2GB'", "checkpoint_timeout": "'1h'", "autovacuum": "off", "logging_collector": "off",
        }
        with (data / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{key} = {value}\n" for key, value in settings.items())
        self.process = place.start("postgres", [tool("postgres", "postgresql"), "-D", data], self.port, self.user, signal.SIGINT)
        address = ["-h", LOOPBACK, "-p", self.port, "-U", USER]
        self._run([tool("createdb", "postgresql-client"), *address, DATABASE])
        self._run([tool("pgbench", "postgresql-client"), *address, "-i", "-q", "-s", scale, DATABASE])

    def target(self):
        """A direct connection."""
        return Target("direct", self.port, self.socket_folder, None)

    def _run(self, command):
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd="/", **identity(self.user))
        if done.returncode != 0:
            raise Failure(f"{command[0]} failed:\n{done.stderr[-2000:]}")


class Redis:
    """A throwaway Redis that writes nothing to disk."""

    def __init__(self, place):
        self.port = place.port()
        command = [tool("redis-server", "redis-server"), "--port", self.port, "--bind", LOOPBACK, "--save", "", "--appendonly", "no",
                   "--maxclients", 15_000, "--tcp-backlog", 4096, "--dir", place.folder("redis")]
        self.process = place.start("redis", command, self.port)

    def target(self):
        """A direct connection."""
        return Target("direct", self.port, None, None)


def pgbouncer(place, postgres, name="pgbouncer", auth="trust", packet_buffer=None):
    """PgBouncer with Debian's defaults but for what the comparison fixes."""
    user = unprivileged()
    folder = place.folder(f"{name}-{place.port()}", user)
    port = place.port()
    (folder / "users.txt").write_text(f'"{USER}" "{scram_verifier()}"\n')
    lines = [
        "[databases]",
        f"{DATABASE} = host={LOOPBACK} port={postgres.port} dbname={DATABASE} user={USER}",
        f"{DATABASE_BY_SOCKET} = host={postgres.socket_folder} port={postgres.port} dbname={DATABASE} user={USER}",
        "[pgbouncer]",
        f"listen_addr = {LOOPBACK}", f"listen_port = {port}", f"unix_socket_dir = {folder}", f"auth_type = {auth}",
        f"auth_file = {folder}/users.txt", "pool_mode = transaction", f"default_pool_size = {POOL_SIZE}",
        f"max_client_conn = {MAX_CLIENTS}", "listen_backlog = 4096", "log_connections = 0", "log_disconnections = 0", "stats_period = 3600",
        "ignore_startup_parameters = extra_float_digits",
    ]
    if packet_buffer is not None:
        lines.append(f"pkt_buf = {packet_buffer}")
    (folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
    process = place.start(folder.name, [tool("pgbouncer", "pgbouncer"), "-q", folder / "pgbouncer.ini"], port, user)
    return Target(name, port, folder, process)


def _io(backend):
    """The setting, where it is not the default: a sidepool from before it exists would refuse it."""
    return "" if backend == "epoll" else f'io_backend = "{backend}"\n'


def sidepool_for_postgres(place, binary, postgres, name="sidepool", auth="trust", session_state="follow", backend="epoll"):
    """sidepool in front of PostgreSQL, with its defaults but for what the comparison fixes."""
    folder = place.folder(f"{name}-{place.port()}")
    port = place.port()
    (folder / "sidepool.toml").write_text(f"""
workers = 1
{_io(backend)}[admin]
listen = "{LOOPBACK}:{place.port()}"
[postgres]
listen = ["{LOOPBACK}:{port}", "unix:{folder}"]
auth_type = "{auth}"
pool_mode = "transaction"
session_state = "{session_state}"
default_pool_size = {POOL_SIZE}
max_client_conn = {MAX_CLIENTS}
[postgres.databases.{DATABASE}]
host = "{LOOPBACK}"
port = {postgres.port}
dbname = "{DATABASE}"
user = "{USER}"
[postgres.databases.{DATABASE_BY_SOCKET}]
host = "{postgres.socket_folder}"
port = {postgres.port}
dbname = "{DATABASE}"
user = "{USER}"
[postgres.users.{USER}]
password = "{scram_verifier()}"
""")
    process = place.start(folder.name, [binary, folder / "sidepool.toml"], port)
    return Target(name, port, folder, process)


def sidepool_for_redis(place, binary, redis, name="sidepool", backend="epoll"):
    """sidepool in front of Redis, with its defaults."""
    folder = place.folder(f"{name}-{place.port()}")
    port = place.port()
    (folder / "sidepool.toml").write_text(f"""
workers = 1
{_io(backend)}[admin]
listen = "{LOOPBACK}:{place.port()}"
[redis.main]
listen = ["{LOOPBACK}:{port}"]
host = "{LOOPBACK}"
port = {redis.port}
max_client_conn = {MAX_CLIENTS}
""")
    process = place.start(folder.name, [binary, folder / "sidepool.toml"], port)
    return Target(name, port, None, process)


def nutcracker(place, redis, name="nutcracker"):
    """twemproxy in front of one Redis, with its defaults."""
    user = unprivileged()
    folder = place.folder(f"{name}-{place.port()}", user)
    port, statistics = place.port(), place.port()
    (folder / "nutcracker.yml").write_text(f"""
main:
  listen: {LOOPBACK}:{port}
  redis: true
  preconnect: true
  backlog: 4096
  servers:
   - {LOOPBACK}:{redis.port}:1 main
""")
    command = [tool("nutcracker", "nutcracker"), "-c", folder / "nutcracker.yml", "-o", folder / "log", "-a", LOOPBACK, "-s", statistics]
    process = place.start(folder.name, command, port, user)
    return Target(name, port, None, process)


def scram_verifier(iterations=4096):
    """What PostgreSQL would store for the password. A fixed salt: nothing here is secret, and runs should be alike."""
    salt = b"sidepool-bench!!"
    salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt, stored, server = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${iterations}:{salt}${stored}:{server}"
