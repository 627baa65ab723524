"""The command: reads the options, runs the loads one after the other, says what came of them, and cleans up."""

import argparse
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys

from measure import aims, compare, curves, loads, plot, poolers, report, scaling, tools
from measure.bench import Bench
from measure.process import Failure, Place

_WORKSPACE = pathlib.Path(__file__).resolve().parents[3]


def options():
    parser = argparse.ArgumentParser(prog="tests/bench/run", description="Compares sidepool with PgBouncer, nutcracker and a direct "
                                     "connection, in alternating runs on this machine.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs of each target and load (default 5)")
    parser.add_argument("--seconds", type=int, default=2, metavar="T", help="what is measured of one run (default 2)")
    parser.add_argument("--loads", metavar="NAMES", help=f"which, space-separated (default {loads.DEFAULT})")
    parser.add_argument("--only", choices=loads.GROUPS, help="of these loads only one group")
    parser.add_argument("--targets", metavar="NAMES", default="pgbouncer,nutcracker,sidepool,direct",
                        help="which, comma-separated; pgbouncer-again and nutcracker-again are second instances, for an A/A comparison; "
                             f"further {', '.join(name for name in poolers.SIDEPOOLS if name != 'sidepool')}, and floor: a relay that only copies, "
                             "the least that a pooler could cost")
    parser.add_argument("--sidepool", metavar="BINARY", type=pathlib.Path, default=os.environ.get("BINARY"),
                        help="this binary instead of one built with the release profile")
    parser.add_argument("--shipped", metavar="BINARY", type=pathlib.Path, default=os.environ.get("SHIPPED"),
                        help="START is that of this binary: what deploy/docker/static makes is smaller than cargo's")
    parser.add_argument("--floor", metavar="BINARY", type=pathlib.Path, default=os.environ.get("FLOOR"),
                        help="this binary as the target floor, instead of one built with the release profile")
    parser.add_argument("--against", metavar="BINARY", type=pathlib.Path, help="another sidepool binary, compared as `sidepool-other`")
    parser.add_argument("--pgbouncer", metavar="BINARY", type=pathlib.Path, default=os.environ.get("PGBOUNCER"),
                        help="this PgBouncer instead of the installed one")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="where all figures go")
    parser.add_argument("--from", metavar="FILES", dest="earlier", help="runs nothing: tables and pictures of what earlier runs wrote, comma-separated "
                        "(of a load that is in several the last counts)")
    parser.add_argument("--markdown", metavar="FILE", type=pathlib.Path, help="where the tables go")
    parser.add_argument("--svg", metavar="FOLDER", type=pathlib.Path, help="where pictures of the ratios and of scaling go")
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
    chosen.start = start = pathlib.Path(os.environ.get("SIDEPOOL_BENCH_FROM", "."))
    for name in ("sidepool", "shipped", "floor", "against", "pgbouncer", "json", "markdown", "svg"):
        if getattr(chosen, name) is not None:
            setattr(chosen, name, start / getattr(chosen, name))
    if chosen.pgbouncer:
        tools.name("pgbouncer", chosen.pgbouncer)
    return chosen


def build(package, program):
    """The release profile's binary."""
    print(f"building {package} with the release profile (an option measures another binary) …", flush=True)
    subprocess.run(["cargo", "build", "--quiet", "--release", "--package", package], cwd=_WORKSPACE, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", _WORKSPACE / "target")
    return pathlib.Path(target) / "release" / program


def prepare(chosen):
    """What must hold before anything is started."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = poolers.MAX_CLIENTS * 2
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    except (OSError, ValueError):  # not ours to raise: make do with what there is
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    if chosen.nice:
        os.setpriority(os.PRIO_PROCESS, 0, chosen.nice)
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, lambda number, _: sys.exit(128 + number))
    if any(name.startswith("sidepool") for name in chosen.targets) and chosen.sidepool is None:
        chosen.sidepool = build("sidepool", "sidepool")
    if poolers.FLOOR in chosen.targets and chosen.floor is None:
        chosen.floor = build("sidepool-floor", "floor")
    if chosen.pgbouncer:
        tools.tool("pgbouncer", "pgbouncer")


def measure_all(chosen):
    """Every load, each reported as soon as it is known. True when none failed."""
    about = {"machine": report.machine(), "versions": tools.versions(chosen.sidepool), "rounds": chosen.rounds, "seconds": chosen.seconds,
             "pool_size": poolers.POOL_SIZE}
    print(in_short(about))
    results, failed = [], []
    with Place() as place:
        bench = Bench(place, chosen)
        for load in chosen.loads:
            try:
                samples = bench.samples(load)
            except Failure as error:
                print(f"\n{load.name}: FAILED: {error}", flush=True)
                failed.append(load.name)
                continue
            if not (samples[load.reference] if load.family == "scaling" else samples):
                continue  # nothing that was asked for can do it
            results.append(summarise(load, samples))
            report.print_load(load, results[-1])
            if chosen.json:
                report.write(chosen.json, about, results, aims.judge(results))
    present(chosen, in_short(about), results)
    if failed:
        print(f"\nfailed: {' '.join(failed)}")
    return not failed


def measure_nothing(chosen):
    """What earlier runs found, as one."""
    earlier = [json.loads((chosen.start / name).read_text()) for name in chosen.earlier.split(",")]
    about = earlier[-1]["about"]
    results = {result["load"]: result for run in earlier for result in run["results"]}
    present(chosen, in_short(about), list(results.values()))


def in_short(about):
    """Machine and versions in a line."""
    return "  ".join(f"{key}: {value}" for key, value in {**about["machine"], **about["versions"]}.items())


def present(chosen, heading, results):
    """Tables, and where asked for pictures."""
    tables = [table for table in (aims.table(aims.judge(results)), report.table(results), report.scaling_table(results)) if table]
    print("", *tables, sep="\n\n")
    if chosen.markdown:
        chosen.markdown.write_text("\n\n".join([heading, *tables]) + "\n")
    if chosen.svg:
        chosen.svg.mkdir(parents=True, exist_ok=True)
        for name, picture in {**plot.draw(results), **curves.draw(results)}.items():
            (chosen.svg / f"{name}.svg").write_text(picture)


def summarise(load, samples):
    """What is kept of a load. The first pooler asked for is what the others are measured by."""
    about = {"load": load.name, "title": load.title}
    if load.family == "scaling":
        anchor = next(iter(samples[load.reference]))
        return {**about, "anchor": anchor, **scaling.summarise(load, samples, anchor)}
    anchor = next(iter(samples))
    return {**about, "anchor": anchor, "targets": compare.summarise(samples, anchor)}


def main():
    chosen = options()
    if chosen.earlier:
        measure_nothing(chosen)
        return 0
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
