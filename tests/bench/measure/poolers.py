"""The poolers between clients and servers, and how each is configured: alike in what a comparison fixes, at its own defaults else."""

import base64
import dataclasses
import hashlib
import hmac
import pathlib

from measure.loads import Tls
from measure.process import LOOPBACK, Group, unprivileged
from measure.servers import DATABASE, PASSWORD, USER, Target
from measure.tools import pgbouncer_prepares, tool

# The same database under another name, reached through the server's Unix socket.
DATABASE_BY_SOCKET = "benchsocket"
POOL_SIZE = 20
MAX_CLIENTS = 20_000
# What the targets called sidepool-… are told beyond the rest: in front of everything, and of PostgreSQL alone.
SIDEPOOLS = {
    "sidepool": ("", ""),
    "sidepool-other": ("", ""),
    "sidepool-stateless": ("", 'session_state = "off"'),
    "sidepool-io_uring": ('io_backend = "io_uring"', ""),
}
# Of these, those that are something of their own in front of Redis.
SIDEPOOLS_FOR_REDIS = tuple(name for name, (_, postgres_alone) in SIDEPOOLS.items() if not postgres_alone)
PGBOUNCERS = ("pgbouncer", "pgbouncer-again", "pgbouncer-64k")
# A relay that only copies (`floor`): no pooler that uses sockets in the usual way costs less.
FLOOR = "floor"


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a load asks of the poolers in front of PostgreSQL. `pools` counts further databases `pool0`, `pool1` …, each one pool. `by_socket`: the
    server is reached through its Unix socket by whoever has one way to it only."""

    auth: str = "trust"
    tls: Tls = Tls()
    pools: int = 0
    workers: int = 1
    by_socket: bool = False

    def databases(self, postgres):
        """Name, host and pool size of each database. However many pools are in use, the server has about as many connections or one each."""
        named = [(DATABASE, LOOPBACK, POOL_SIZE), (DATABASE_BY_SOCKET, postgres.socket_folder, POOL_SIZE)]
        return named + [(f"pool{index}", LOOPBACK, max(1, POOL_SIZE // (index + 1))) for index in range(self.pools)]


@dataclasses.dataclass
class Recipe:
    """A pooler that is ready to be started: one process, or for PgBouncer with several workers as many behind one port."""

    name: str
    commands: list
    port: int
    socket_folder: pathlib.Path | None = None
    user: str | None = None

    def start(self, place, waits=True):
        """Starts it; without `waits` it may not listen yet."""
        begun = [place.start(f"{self.name}-{self.port}-{index}", command, self.port if waits else None, self.user)
                 for index, command in enumerate(self.commands)]
        return Target(self.name, self.port, self.socket_folder, begun[0] if len(begun) == 1 else Group(begun))


def for_postgres(place, name, setup, postgres, certificates, binary):
    """The pooler called `name` in front of PostgreSQL."""
    if name == FLOOR:
        return _floor(place, setup, postgres, binary)
    if name.startswith("sidepool"):
        return _sidepool(place, name, setup, postgres, certificates, binary)
    return _pgbouncer(place, name, setup, postgres, certificates)


def for_redis(place, name, redis, binary):
    """The pooler called `name` in front of Redis."""
    if name == FLOOR:
        port = place.port()
        return Recipe(name, [[binary, "redis", port, redis.port]], port)
    if name.startswith("sidepool"):
        return _sidepool_for_redis(place, name, redis, binary)
    return _nutcracker(place, name, redis)


def _pgbouncer(place, name, setup, postgres, certificates):
    user = unprivileged()
    port = place.port()
    folder = place.folder(f"{name}-{port}", user)
    (folder / "users.txt").write_text(f'"{USER}" "{scram_verifier()}"\n')
    lines = ["[databases]"]
    for database, host, size in setup.databases(postgres):
        size = max(1, size // setup.workers)
        lines.append(f"{database} = host={host} port={postgres.port} dbname={DATABASE} user={USER} pool_size={size}")
    lines += [
        "[pgbouncer]", f"listen_addr = {LOOPBACK}", f"listen_port = {port}", f"auth_type = {setup.auth}", f"auth_file = {folder}/users.txt",
        "pool_mode = transaction", f"max_client_conn = {MAX_CLIENTS}", "listen_backlog = 4096", "log_connections = 0",
        "log_disconnections = 0", "stats_period = 3600", "ignore_startup_parameters = extra_float_digits",
    ]
    # A process has one thread: several share the port, and nothing else.
    lines += ["so_reuseport = 1", "unix_socket_dir ="] if setup.workers > 1 else [f"unix_socket_dir = {folder}"]
    if pgbouncer_prepares():
        lines.append("max_prepared_statements = 200")  # the default since 1.24; before, none
    if name == "pgbouncer-64k":
        lines.append("pkt_buf = 65536")
    lines += [f"{key} = {value}" for key, value in _tls_settings(setup.tls, certificates).items()]
    lines.append(f"server_tls_sslmode = {'require' if setup.tls.server else 'disable'}")
    (folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
    command = [tool("pgbouncer", "pgbouncer"), "-q", folder / "pgbouncer.ini"]
    return Recipe(name, [command] * setup.workers, port, folder, user)


def _floor(place, setup, postgres, binary):
    port = place.port()
    folder = place.folder(f"{FLOOR}-{port}")
    command = [binary, "postgres", port, postgres.port, "--pool-size", POOL_SIZE, "--user", USER, "--database", DATABASE, "--socket-folder", folder]
    if setup.by_socket:
        command += ["--server-folder", postgres.socket_folder]
    if setup.auth != "trust":
        command += ["--verifier", scram_verifier()]
    return Recipe(FLOOR, [command], port, folder)


def _sidepool(place, name, setup, postgres, certificates, binary):
    port = place.port()
    folder = place.folder(f"{name}-{port}")
    of_all, of_postgres = SIDEPOOLS[name]
    lines = [
        f"workers = {setup.workers}", of_all, "[admin]", f'listen = "{LOOPBACK}:{place.port()}"', "[postgres]",
        f'listen = ["{LOOPBACK}:{port}", "unix:{folder}"]', f'auth_type = "{setup.auth}"', 'pool_mode = "transaction"',
        f"max_client_conn = {MAX_CLIENTS}", of_postgres,
        *(f'{key} = "{value}"' for key, value in _tls_settings(setup.tls, certificates).items()),
        f"[postgres.users.{USER}]", f'password = "{scram_verifier()}"',
    ]
    for database, host, size in setup.databases(postgres):
        lines += [f"[postgres.databases.{database}]", f'host = "{host}"', f"port = {postgres.port}", f'dbname = "{DATABASE}"',
                  f'user = "{USER}"', f"pool_size = {size}", f'sslmode = "{"require" if setup.tls.server else "disable"}"']
    (folder / "sidepool.toml").write_text("\n".join(lines) + "\n")
    return Recipe(name, [[binary, folder / "sidepool.toml"]], port, folder)


def _tls_settings(tls, certificates):
    """The same words for both: sidepool has PgBouncer's."""
    settings = {}
    if tls.clients:
        certificate, key = certificates.files(tls.key)
        settings |= {"client_tls_sslmode": "require", "client_tls_cert_file": certificate, "client_tls_key_file": key,
                     "client_tls_protocols": f"tlsv{tls.version}"}
    if tls.server:
        settings["server_tls_protocols"] = f"tlsv{tls.version}"
    return settings


def _sidepool_for_redis(place, name, redis, binary):
    port = place.port()
    folder = place.folder(f"{name}-{port}")
    (folder / "sidepool.toml").write_text(f"""
workers = 1
{SIDEPOOLS[name][0]}
[admin]
listen = "{LOOPBACK}:{place.port()}"
[redis.main]
listen = ["{LOOPBACK}:{port}"]
host = "{LOOPBACK}"
port = {redis.port}
max_client_conn = {MAX_CLIENTS}
""")
    return Recipe(name, [[binary, folder / "sidepool.toml"]], port)


def _nutcracker(place, name, redis):
    user = unprivileged()
    port, statistics = place.port(), place.port()
    folder = place.folder(f"{name}-{port}", user)
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
    return Recipe(name, [command], port, None, user)


def scram_verifier(iterations=4096):
    """What PostgreSQL would store for the password. A fixed salt: nothing here is secret, and runs should be alike."""
    salt = b"sidepool-bench!!"
    salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt, stored, server = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${iterations}:{salt}${stored}:{server}"
