"""What a person reads while it runs, and what a program reads afterwards."""

import json
import os
import pathlib
import platform
import subprocess
import time

from measure.servers import has, tool

_COLUMNS = {
    "cpu_us": ("CPU µs/txn", 2), "total_cpu_us": ("+server", 2), "tps": ("per s", 0), "p50_ms": ("p50 ms", 3), "p99_ms": ("p99 ms", 3),
    "rss_mb": ("RSS MB", 1), "kb_per_client": ("kB/client", 3), "idle_cpu_us_per_s": ("idle µs/s", 1),
    "login_cpu_us": ("login µs", 1), "rss_start_mb": ("RSS at start MB", 1),
}
_RATIOS = {"cpu_us": "CPU", "total_cpu_us": "CPU+server", "tps": "per s", "p50_ms": "p50", "p99_ms": "p99", "kb_per_client": "kB/client"}


def machine():
    """Where this ran: figures of two machines, or of two moments, are not to be compared."""
    model = next((line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release(), "load_average": os.getloadavg()[0],
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def versions(binary):
    """Of everything that takes part."""
    commands = {"postgres": ["--version"], "pgbouncer": ["--version"], "redis-server": ["--version"], "nutcracker": ["-V"]}
    found = {name: _first_line([tool(name, ""), *options]) for name, options in commands.items() if has(name)}
    if binary:
        found["sidepool"] = _first_line([str(binary), "--version"])
    return found


def _first_line(command):
    done = subprocess.run(command, capture_output=True, text=True)
    return next(iter((done.stdout + done.stderr).strip().splitlines()), "?")


def print_load(load, summary, anchor):
    """One load: a line for each target, and below it the ratios to the anchor."""
    columns = [key for key in _COLUMNS if any(key in target["figures"] for target in summary.values())]
    print(f"\n{load.name}: {load.title} (load average {os.getloadavg()[0]:.1f})")
    print(f"  {'':16}" + "".join(f"{_COLUMNS[key][0]:>26}" for key in columns))
    for name, target in summary.items():
        cells = [_cell(target["figures"].get(key), _COLUMNS[key][1]) for key in columns]
        print(f"  {name:16}" + "".join(f"{cell:>26}" for cell in cells))
    for name, target in summary.items():
        ratios = target.get("ratios", {})
        texts = [f"{_RATIOS[key]} {ratios[key]['median']:.3f} [{ratios[key]['min']:.3f}-{ratios[key]['max']:.3f}]" for key in _RATIOS
                 if key in ratios]
        if texts:
            print(f"  {name} / {anchor}: " + "  ".join(texts))
    print(end="", flush=True)


def _cell(figure, digits):
    if figure is None:
        return "-"
    return f"{figure['median']:,.{digits}f} ({figure['min']:,.{digits}f}-{figure['max']:,.{digits}f})"


def print_table(results):
    """All loads in the short form that a README shows."""
    names = [("sidepool", "cpu_us", "CPU"), ("sidepool", "total_cpu_us", "CPU+server"), ("sidepool", "tps", "per s"),
             ("sidepool", "p50_ms", "p50"), ("sidepool", "p99_ms", "p99"), ("sidepool", "kb_per_client", "kB/client")]
    rows = []
    for result in results:
        for target in result["targets"]:
            ratios = result["targets"][target].get("ratios")
            if ratios and target != "direct":
                rows.append([result["load"], f"{target} / {result['anchor']}"]
                            + [f"{ratios[key]['median']:.2f}" if key in ratios else "" for _, key, _ in names])
    if not rows:
        return
    heads = ["load", "ratio of"] + [head for _, _, head in names]
    print("\n| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def write(path, about, results):
    """Everything, each single run included."""
    text = json.dumps({"about": about, "results": results}, indent=1)
    scratch = path.with_name(path.name + ".part")
    scratch.write_text(text + "\n")
    scratch.replace(path)
