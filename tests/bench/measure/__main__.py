"""The command: reads the options, starts the servers, runs the loads one after the other, and cleans up."""

import argparse
import os
import pathlib
import resource
import signal
import subprocess
import sys

from measure import compare, idle, loads, login, plot, postgres, redis, report, servers
from measure.process import Failure, Place

_GROUPS = ("postgres", "login", "memory", "redis")
# A connection each, and PostgreSQL forks a process for each: beyond this a direct connection is no sensible comparison.
_DIRECT_CLIENTS = 300
_WORKSPACE = pathlib.Path(__file__).resolve().parents[3]


def options():
    parser = argparse.ArgumentParser(prog="tests/bench/run", description="Compares sidepool with PgBouncer, nutcracker and a direct "
                                     "connection, in alternating runs on this machine.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs of each target and load (default 5)")
    parser.add_argument("--seconds", type=int, default=4, metavar="T", help="length of one run (default 4)")
    parser.add_argument("--loads", metavar="NAMES", help=f"which, space-separated (default {loads.DEFAULT})")
    parser.add_argument("--only", choices=_GROUPS, help="of these loads only one group")
    parser.add_argument("--targets", metavar="NAMES", default="pgbouncer,nutcracker,sidepool,direct",
                        help="which, comma-separated; pgbouncer-again and nutcracker-again are second instances, for an A/A comparison; "
                             "sidepool-stateless has session_state = off, sidepool-io_uring has io_backend = io_uring")
    parser.add_argument("--sidepool", metavar="BINARY", type=pathlib.Path, default=os.environ.get("BINARY"),
                        help="this binary instead of one built with the release profile")
    parser.add_argument("--against", metavar="BINARY", type=pathlib.Path, help="another sidepool binary, compared as `sidepool-other`")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="where all figures go")
    parser.add_argument("--svg", metavar="FOLDER", type=pathlib.Path, help="where pictures of the ratios go")
    parser.add_argument("--scale", type=int, default=10, help="pgbench's scale (default 10)")
    parser.add_argument("--nice", type=int, default=0, metavar="N", help="priority of everything that takes part; below 0 needs root")
    chosen = parser.parse_args()
    try:
        chosen.loads = [loads.parse(name) for name in (chosen.loads or loads.DEFAULT).split()]
    except ValueError as error:
        parser.error(str(error))
    chosen.loads = [load for load in chosen.loads if chosen.only in (None, load.group)]
    chosen.targets = chosen.targets.split(",")
    if chosen.against:
        chosen.targets.insert(chosen.targets.index("sidepool") + 1 if "sidepool" in chosen.targets else 0, "sidepool-other")
    start = pathlib.Path(os.environ.get("SIDEPOOL_BENCH_FROM", "."))
    for name in ("sidepool", "against", "json", "svg"):
        if getattr(chosen, name) is not None:
            setattr(chosen, name, start / getattr(chosen, name))
    return chosen


class Bench:
    """The servers of one benchmark, started when a load first needs them."""

    def __init__(self, place, chosen):
        self.place, self.chosen = place, chosen
        self._postgres = self._redis = None
        self._fleets = {}

    @property
    def postgres(self):
        if self._postgres is None:
            self._postgres = servers.Postgres(self.place, self.chosen.scale)
        return self._postgres

    @property
    def redis(self):
        if self._redis is None:
            self._redis = servers.Redis(self.place)
        return self._redis

    def wanted(self, *names):
        """Of these targets, those that were asked for and are installed, in the order asked for."""
        return [name for name in self.chosen.targets if name in names and servers.has(name) | name.startswith(("sidepool", "direct"))
                | (name.endswith("-again") and servers.has(name.removesuffix("-again")))]

    def binary(self, name):
        return self.chosen.against if name == "sidepool-other" else self.chosen.sidepool

    def backend(self, name):
        return "io_uring" if name == "sidepool-io_uring" else "epoll"

    def start_postgres(self, name, auth="trust"):
        if name.startswith("sidepool"):
            state = "off" if name == "sidepool-stateless" else "follow"
            return servers.sidepool_for_postgres(self.place, self.binary(name), self.postgres, name, auth, state, self.backend(name))
        return servers.pgbouncer(self.place, self.postgres, name, auth, 65536 if name == "pgbouncer-64k" else None)

    def start_redis(self, name):
        if name.startswith("sidepool"):
            return servers.sidepool_for_redis(self.place, self.binary(name), self.redis, name, self.backend(name))
        return servers.nutcracker(self.place, self.redis, name)

    def fleet(self, key, names, start):
        """The running targets for one kind of load: started once, so that every load meets the same processes."""
        running = self._fleets.setdefault(key, {})
        for name in names:
            if name not in running:
                running[name] = start(name)
        return [running[name] for name in names]

    def run(self, load):
        """One load on all its targets: the samples and the name of the anchor."""
        chosen = self.chosen
        if load.group == "memory":
            return self.run_memory(load)
        if load.group == "redis":
            names = self.wanted("nutcracker", "nutcracker-again", "sidepool", "sidepool-other", "sidepool-io_uring")
            targets = self.fleet("redis", names, self.start_redis)
            targets += [self.redis.target()] if "direct" in chosen.targets else []
            rates = [redis.warm(target, load) for target in targets]
            requests = max(1, round(min(rates) * chosen.seconds))
            return compare.alternate(targets, chosen.rounds, lambda target: redis.run(target, load, requests, self.redis.process))
        names = self.wanted("pgbouncer", "pgbouncer-again", "sidepool", "sidepool-other", "sidepool-stateless", "sidepool-io_uring")
        if load.kind == "P":
            # Debian's PgBouncer 1.18 knows no prepared statements in transaction mode; 1.21 and later do.
            names = [name for name in names if not name.startswith("pgbouncer") or self.pgbouncer_prepares()]
        if load.kind == "W" and "pgbouncer" in names:
            names.insert(1, "pgbouncer-64k")
        if load.kind == "C":
            targets = self.fleet("login", names, lambda name: self.start_postgres(name, "scram-sha-256"))
            return compare.alternate(targets, chosen.rounds, lambda target: login.run(target, load, chosen.seconds))
        targets = self.fleet("postgres", names, self.start_postgres)
        if "direct" in chosen.targets and load.clients <= _DIRECT_CLIENTS:
            targets.append(self.postgres.target())
        for target in targets:
            postgres.warm(target, load)
        return compare.alternate(targets, chosen.rounds, lambda target: postgres.run(target, load, chosen.seconds))

    def run_memory(self, load):
        """Each run gets a process of its own: resident memory does not fall when clients leave."""
        is_postgres = load.kind == "IDLE"
        known = ("pgbouncer", "pgbouncer-again") if is_postgres else ("nutcracker", "nutcracker-again")
        start = self.start_postgres if is_postgres else self.start_redis
        samples = {name: [] for name in self.wanted(*known, "sidepool", "sidepool-other", "sidepool-io_uring")}
        for index in range(min(self.chosen.rounds, 3)):
            for name in samples if index % 2 == 0 else reversed(samples):
                target = start(name)
                samples[name].append(idle.run(target, load))
                self.place.stop(target.process)
        return samples

    def pgbouncer_prepares(self):
        words = report.versions(None).get("pgbouncer", "").split()
        return len(words) > 1 and tuple(map(int, words[1].split(".")[:2])) >= (1, 21)


def build():
    """The release profile's binary."""
    print("building sidepool with the release profile (BINARY=… measures another) …", flush=True)
    subprocess.run(["cargo", "build", "--quiet", "--release", "--package", "sidepool"], cwd=_WORKSPACE, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", _WORKSPACE / "target")
    return pathlib.Path(target) / "release" / "sidepool"


def prepare(chosen):
    """What must hold before anything is started."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = servers.MAX_CLIENTS * 2
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    except (OSError, ValueError):  # not ours to raise: make do with what there is
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    if chosen.nice:
        os.setpriority(os.PRIO_PROCESS, 0, chosen.nice)
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, lambda number, _: sys.exit(128 + number))
    if "sidepool" in chosen.targets and chosen.sidepool is None:
        chosen.sidepool = build()


def measure_all(chosen):
    """Every load, each reported as soon as it is known. True when none failed."""
    about = {"machine": report.machine(), "versions": report.versions(chosen.sidepool), "rounds": chosen.rounds, "seconds": chosen.seconds,
             "pool_size": servers.POOL_SIZE}
    print("  ".join(f"{key}: {value}" for key, value in {**about["machine"], **about["versions"]}.items()))
    results, failed = [], []
    with Place() as place:
        bench = Bench(place, chosen)
        for load in chosen.loads:
            try:
                samples = bench.run(load)
            except Failure as error:
                print(f"\n{load.name}: FAILED: {error}", flush=True)
                failed.append(load.name)
                continue
            if not samples:
                continue  # nothing that was asked for can do it
            anchor = next(iter(samples))  # the first pooler asked for is what the others are measured by
            summary = compare.summarise(samples, anchor)
            report.print_load(load, summary, anchor)
            results.append({"load": load.name, "title": load.title, "anchor": anchor, "targets": summary})
            if chosen.json:
                report.write(chosen.json, about, results)
    report.print_table(results)
    if chosen.svg:
        chosen.svg.mkdir(parents=True, exist_ok=True)
        for name, picture in plot.draw(results).items():
            (chosen.svg / f"{name}.svg").write_text(picture)
    if failed:
        print(f"\nfailed: {' '.join(failed)}")
    return not failed


def main():
    chosen = options()
    try:
        prepare(chosen)
        return 0 if measure_all(chosen) else 1
    except Failure as error:
        print(f"tests/bench/run: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"tests/bench/run: {' '.join(error.cmd)} failed", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; everything started has been ended", file=sys.stderr)
        return 130


sys.exit(main())
