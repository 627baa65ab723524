"""What a person reads while it runs, and what a program reads afterwards."""

import json
import os
import pathlib
import platform
import time

# The columns: each figure's name and its digits.
_FIGURES = {
    "cpu_us": ("CPU µs/txn", 2), "total_cpu_us": ("with the server's", 2), "tps": ("per s", 0), "p50_ms": ("p50 ms", 3),
    "p99_ms": ("p99 ms", 3), "rss_mb": ("RSS MB", 1), "kb_per_client": ("kB/client", 3), "idle_cpu_us_per_s": ("idle µs/s", 1),
    "login_cpu_us": ("login µs", 1), "resumed": ("resumed", 2), "start_ms": ("first answer ms", 2), "start_cpu_ms": ("CPU ms", 2),
    "rss_start_mb": ("RSS at start MB", 1), "binary_mb": ("program MB", 1),
}
# What those are called whose ratio to another target's says something.
_NAMES = {
    "cpu_us": "CPU", "total_cpu_us": "CPU with the server's", "tps": "throughput", "p50_ms": "p50", "p99_ms": "p99",
    "kb_per_client": "memory of an idle client", "idle_cpu_us_per_s": "CPU of idle clients",
    "start_ms": "time to the first answer", "start_cpu_ms": "CPU to the first answer", "rss_start_mb": "memory at start",
    "binary_mb": "size of the program", "growth": "cost of the dearest point, of the reference's",
}
_IN_THE_TABLE = ("cpu_us", "total_cpu_us", "tps", "p50_ms", "p99_ms", "kb_per_client", "start_ms")


def name_of(figure):
    """A figure in words, as of a ratio."""
    return _NAMES[figure]


def machine():
    """Where this ran: figures of two machines, or of two moments, are not to be compared."""
    model = next((line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release(), "load_average": os.getloadavg()[0],
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def print_load(load, result):
    """One load: a line for each target, and below it the ratios to the anchor and to a direct connection."""
    print(f"\n{load.name}: {load.title} (load average {os.getloadavg()[0]:.1f})")
    if "points" in result:
        _print_points(result)
    else:
        _print_targets(result["targets"], result["anchor"])
    print(end="", flush=True)


def _print_targets(targets, anchor):
    columns = [key for key in _FIGURES if any(key in target["figures"] for target in targets.values())]
    print(f"  {'':18}" + "".join(f"{_FIGURES[key][0]:>26}" for key in columns))
    for name, target in targets.items():
        cells = [_cell(target["figures"].get(key), _FIGURES[key][1]) for key in columns]
        print(f"  {name:18}" + "".join(f"{cell:>26}" for cell in cells))
    for key, other in (("ratios", anchor), ("ratios_to_direct", "direct")):
        for name, target in targets.items():
            texts = [f"{_NAMES[figure]} {_spread(ratio, 3)}" for figure, ratio in target.get(key, {}).items() if figure in _NAMES]
            if texts:
                print(f"  {name} / {other}: " + "  ".join(texts))


def _print_points(result):
    names = list(result["scaling"])
    print(f"  {'CPU µs/txn at':18}" + "".join(f"{name:>26}" for name in names) + f"{'per s':>14}")
    for point in result["points"]:
        of_point = [point["targets"][name]["figures"] for name in names]
        print(f"  {point['at']:<18,}" + "".join(f"{_cell(figures['cpu_us'], 2):>26}" for figures in of_point)
              + f"{of_point[-1]['tps']['median']:>14,.0f}")
    for name, flat in result["scaling"].items():
        print(f"  {name}: at most {_spread(flat['growth'], 3)} (at {flat['worst_at']:,}) of what it costs at {flat['reference']:,}; "
              f"dearest by cheapest of all points {_spread(flat['span'], 3)}")


def _spread(figure, digits):
    return f"{figure['median']:.{digits}f} [{figure['min']:.{digits}f}-{figure['max']:.{digits}f}]"


def _cell(figure, digits):
    if figure is None:
        return "-"
    return f"{figure['median']:,.{digits}f} ({figure['min']:,.{digits}f}-{figure['max']:,.{digits}f})"


def table(results):
    """All loads in the short form that a README shows, in Markdown; nothing if there is nothing to compare."""
    rows = []
    for result in results:
        for name, target in result.get("targets", {}).items():
            ratios = target.get("ratios")
            if ratios and name != "direct":
                cells = [f"{ratios[key]['median']:.2f}" if key in ratios else "" for key in _IN_THE_TABLE]
                rows.append([f"`{result['load']}`", f"{name} / {result['anchor']}", *cells])
    heads = ["load", "ratio of", *(_NAMES[key] for key in _IN_THE_TABLE)]
    return _markdown(heads, rows) if rows else ""


def scaling_table(results):
    """What a transaction costs at each point of the scaling loads, in Markdown; nothing if there are none."""
    rows = []
    for result in results:
        for name in result.get("scaling", {}):
            costs = [(point["at"], point["targets"][name]["figures"]["cpu_us"]["median"]) for point in result["points"]]
            flat = result["scaling"][name]
            rows.append([f"`{result['load']}`", name, ", ".join(f"{at:,}: {cost:.1f}" for at, cost in costs),
                         f"{flat['growth']['median']:.2f} (at {flat['worst_at']:,}, of {flat['reference']:,})", f"{flat['span']['median']:.2f}"])
    return _markdown(["load", "target", "CPU µs per transaction at", "growth", "dearest / cheapest"], rows) if rows else ""


def _markdown(heads, rows):
    return "\n".join(["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *("| " + " | ".join(row) + " |" for row in rows)])


def write(path, about, results, aims):
    """Everything, each single run included."""
    text = json.dumps({"about": about, "results": results, "aims": aims}, indent=1)
    scratch = path.with_name(path.name + ".part")
    scratch.write_text(text + "\n")
    scratch.replace(path)
