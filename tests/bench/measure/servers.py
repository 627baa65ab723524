"""The database servers of a benchmark: a throwaway PostgreSQL with pgbench's tables, and a Redis that writes nothing to disk."""

import dataclasses
import pathlib
import signal
import subprocess

from measure.process import LOOPBACK, Failure, identity, unprivileged
from measure.tools import tool

USER = "bench"
DATABASE = "bench"
PASSWORD = "benchmark"


@dataclasses.dataclass
class Target:
    """Something clients can be pointed at. `process` is whose cost is counted; None for a direct connection."""

    name: str
    port: int
    socket_folder: pathlib.Path | None
    process: object | None


class Postgres:
    """A throwaway PostgreSQL with pgbench's tables: trust, fsync off, and TLS for whoever asks."""

    def __init__(self, place, scale, connections, certificates=None):
        self.user = unprivileged()
        self.port = place.port()
        self.socket_folder = place.folder("postgres-socket", self.user)
        data = place.folder("postgres", self.user)
        self._run([tool("initdb", "postgresql"), "--pgdata", data, "--auth", "trust", "--username", USER, "--no-sync", "--locale", "C",
                   "--encoding", "UTF8"])
        settings = {
            "listen_addresses": f"'{LOOPBACK}'", "port": self.port, "unix_socket_directories": f"'{self.socket_folder}'",
            "max_connections": connections, "shared_buffers": "'256MB'", "fsync": "off", "synchronous_commit": "off",
            "full_page_writes": "off", "max_wal_size": "'2GB'", "checkpoint_timeout": "'1h'", "autovacuum": "off", "logging_collector": "off",
        }
        if certificates is not None:
            certificate, key = certificates.files("ecdsa")
            settings |= {"ssl": "on", "ssl_cert_file": f"'{certificate}'", "ssl_key_file": f"'{key}'"}
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
