"""The loads by name: what each sends, and how many clients send it. Runs nothing."""

import dataclasses
import re

POSTGRES = {
    "S": "one SELECT by primary key, simple protocol",
    "E": "one SELECT by primary key, extended protocol",
    "P": "one SELECT by primary key, prepared statement",
    "N": "transaction of 7 statements (pgbench -N), simple protocol",
    "W": "one row of 100 KB",
    "U": "one SELECT by primary key, Unix sockets on both sides",
}
LOGIN = {"C": "a new connection with a SCRAM login for each SELECT"}
REDIS = {"GET": "GET", "SET": "SET"}
MEMORY = {"IDLE": "logged-in PostgreSQL clients that idle after one query", "REDISIDLE": "Redis clients that idle after one GET"}

DEFAULT = ("S1 S16 S64 S256 S1000 E64 P64 N64 W16 U64 S64@2000 C64 IDLE10000 "
           "GET50 SET50 GET500 SET500 GET50x16 SET50x16 GET500x16 SET500x16 REDISIDLE5000")


@dataclasses.dataclass(frozen=True)
class Load:
    """One load. `rate` is in transactions a second; `pipeline` in requests sent without waiting."""

    name: str
    kind: str
    clients: int
    rate: int | None = None
    pipeline: int = 1

    @property
    def group(self):
        """What `--only` selects by."""
        for group, kinds in (("postgres", POSTGRES), ("login", LOGIN), ("redis", REDIS)):
            if self.kind in kinds:
                return group
        return "memory"

    @property
    def title(self):
        """The load in words."""
        what = {**POSTGRES, **LOGIN, **REDIS, **MEMORY}[self.kind]
        if self.group == "memory":
            return f"{self.clients:,} {what}"
        text = f"{what}; {self.clients:,} client{'s' if self.clients > 1 else ''}"
        if self.rate:
            text += f", {self.rate:,} transactions/s"
        if self.group == "redis":
            text += f", pipeline of {self.pipeline}"
        return text


def parse(name):
    """The load called `name`: KIND CLIENTS, then @RATE for PostgreSQL or xPIPELINE for Redis."""
    match = re.fullmatch(r"([A-Z]+)(\d+)(?:@(\d+)|x(\d+))?", name)
    if match is None or int(match[2]) < 1:
        raise ValueError(f"{name} is no load: write KIND and a number of clients, such as S64, S64@2000, GET500x16")
    load = Load(name, match[1], int(match[2]), int(match[3]) if match[3] else None, int(match[4] or 1))
    kinds = {**POSTGRES, **LOGIN, **REDIS, **MEMORY}
    if load.kind not in kinds:
        raise ValueError(f"{name} is no load: {load.kind} is none of {' '.join(kinds)}")
    if load.rate and load.group != "postgres" or load.pipeline > 1 and load.group != "redis":
        raise ValueError(f"{name}: @RATE is for {' '.join(POSTGRES)}, xPIPELINE for {' '.join(REDIS)}")
    return load
