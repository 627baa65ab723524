"""The loads by name: what each sends, and how many clients send it. Runs nothing."""

import dataclasses
import re

POSTGRES = {
    "S": "one SELECT by primary key, simple protocol",
    "E": "one SELECT by primary key, extended protocol",
    "P": "one SELECT by primary key, prepared statement",
    "N": "transaction of 7 statements (pgbench -N), simple protocol",
    "W": "one row of 100 KB",
    "R": "1,000 rows of 25 bytes",
    "U": "one SELECT by primary key, Unix sockets on both sides",
}
LOGIN = {"C": "a new connection with a SCRAM login for each SELECT"}
REDIS = {"GET": "GET", "SET": "SET"}
MEMORY = {"IDLE": "logged-in PostgreSQL clients that idle after one query", "REDISIDLE": "Redis clients that idle after one GET"}
SCALING = {"CLIENTS": "clients", "POOLS": "pools", "WORKERS": "workers"}
START = {"START": "from the start of the process to its first answer"}
_FAMILIES = {"postgres": POSTGRES, "login": LOGIN, "memory": MEMORY, "redis": REDIS, "scaling": SCALING, "start": START}
GROUPS = (*_FAMILIES, "tls")

# Where a scaling load is measured, up to the number in its name.
_POINTS = {"CLIENTS": (1, 4, 16, 64, 256, 1000, 4000, 10_000), "POOLS": (1, 10, 50, 200, 500), "WORKERS": (1, 2, 4)}
# What others are held against: a crowd that is usual, for clients. As fast as it can, one client has each wake-up to itself, which 64 share.
_REFERENCE_OF_CLIENTS = 64

DEFAULT = ("S1 S16 S64 S256 S1000 E64 P64 N64 W16 R16 U64 S64@2000 S64+tls S64+server-tls S64+tls+server-tls "
           "C64 C64+tls C64+tls+resumed C64+tls+rsa C64+tls+rsa+resumed IDLE10000 START CLIENTS10000 CLIENTS10000@2000 POOLS500@2000 WORKERS4 "
           "GET50 SET50 GET500 SET500 GET50x16 SET50x16 GET500x16 REDISIDLE5000")


@dataclasses.dataclass(frozen=True)
class Tls:
    """Where TLS is spoken, and how. Both poolers get the same certificate and are held to the same version."""

    clients: bool = False
    server: bool = False
    key: str = "ecdsa"
    version: str = "1.3"
    resumed: bool = False

    @property
    def title(self):
        """In words."""
        sides = [words for is_on, words in ((self.clients, "with clients"), (self.server, "with the server")) if is_on]
        keys = {"ecdsa": "ECDSA P-256", "rsa": "RSA-2048"}
        return f"TLS {self.version} {' and '.join(sides)}, {keys[self.key]}{', resumed' if self.resumed else ''}"


@dataclasses.dataclass(frozen=True)
class Load:
    """One load. `rate` is in transactions a second; `pipeline` in requests sent without waiting; `number` that of its name, mostly clients."""

    name: str
    kind: str
    number: int
    rate: int | None = None
    pipeline: int = 1
    tls: Tls | None = None

    @property
    def clients(self):
        """How many there are."""
        return self.number

    @property
    def family(self):
        """What kind of run it is."""
        return next(family for family, kinds in _FAMILIES.items() if self.kind in kinds)

    @property
    def group(self):
        """What `--only` selects by."""
        return "tls" if self.tls else self.family

    @property
    def points(self):
        """The numbers a scaling load is measured at."""
        return [point for point in _POINTS[self.kind] if point <= self.number]

    @property
    def reference(self):
        """The point that the others are held against."""
        return min(_REFERENCE_OF_CLIENTS, self.points[-1]) if self.kind == "CLIENTS" else self.points[0]

    @property
    def judged(self):
        """The points that are held against it: the larger ones; at a fixed rate, where nothing is shared, the smaller ones too."""
        return [point for point in self.points if point > self.reference or self.rate and point != self.reference]

    @property
    def title(self):
        """The load in words."""
        what = next(kinds[self.kind] for kinds in _FAMILIES.values() if self.kind in kinds)
        if self.family == "start":
            return what
        if self.family == "memory":
            return f"{self.clients:,} {what}"
        pace = f", {self.rate:,} transactions/s" if self.rate else ""
        if self.family == "scaling":
            return f"cost per transaction from 1 to {self.points[-1]:,} {what}{pace or ', as fast as they can'}"
        text = f"{what}; {self.clients:,} client{'s' if self.clients > 1 else ''}{pace}"
        if self.family == "redis":
            text += f", pipeline of {self.pipeline}"
        return f"{text}; {self.tls.title}" if self.tls else text


def parse(name):
    """The load called `name`: KIND NUMBER, then @RATE for PostgreSQL or xPIPELINE for Redis, then what is said of TLS."""
    match = re.fullmatch(r"([A-Z]+)(\d*)(?:@(\d+)|x(\d+))?((?:\+[a-z0-9.-]+)*)", name)
    if match is None or match[2] == "0":
        raise ValueError(f"{name} is no load: write KIND and a number of clients, such as S64, S64@2000, GET500x16, S64+tls")
    load = Load(name, match[1], int(match[2] or 1), int(match[3]) if match[3] else None, int(match[4] or 1), _tls(name, match[5]))
    if not any(load.kind in kinds for kinds in _FAMILIES.values()):
        raise ValueError(f"{name} is no load: {load.kind} is none of {' '.join(kind for kinds in _FAMILIES.values() for kind in kinds)}")
    if (load.family == "start") == bool(match[2]):
        raise ValueError(f"{name} is no load: START has no number, and every other load has one")
    if load.rate and (load.family not in ("postgres", "scaling") or load.kind == "WORKERS"):
        raise ValueError(f"{name}: @RATE is for {' '.join(POSTGRES)} CLIENTS POOLS")
    if load.kind == "POOLS" and not load.rate:
        raise ValueError(f"{name}: write POOLS with a rate, such as POOLS500@2000: pgbench cannot speak to many databases at once")
    if load.pipeline > 1 and load.family != "redis":
        raise ValueError(f"{name}: xPIPELINE is for {' '.join(REDIS)}")
    if load.tls and (load.family not in ("postgres", "login") or load.kind == "U"):
        raise ValueError(f"{name}: TLS is for {' '.join(kind for kind in (*POSTGRES, *LOGIN) if kind != 'U')}")
    if load.tls and load.tls.resumed and load.family != "login":
        raise ValueError(f"{name}: resumed sessions are for {' '.join(LOGIN)}; pgbench always begins anew")
    return load


def _tls(name, words):
    if not words:
        return None
    said = words[1:].split("+")
    unknown = [word for word in said if word not in ("tls", "server-tls", "rsa", "tls1.2", "resumed")]
    if unknown or not {"tls", "server-tls"} & set(said) or "resumed" in said and "tls" not in said:
        raise ValueError(f"{name}: after +tls (with clients), +server-tls or both there may be +rsa, +tls1.2 and, for clients, +resumed")
    return Tls("tls" in said, "server-tls" in said, "rsa" if "rsa" in said else "ecdsa", "1.2" if "tls1.2" in said else "1.3", "resumed" in said)
