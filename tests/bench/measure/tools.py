"""The programs that take part: where each is, and of which version."""

import os
import pathlib
import re
import shutil
import subprocess

from measure.process import Failure

# Programs that were named on the command line, by their usual name.
_named = {}


def name(program, path):
    """From now on `program` is the one at `path`."""
    _named[program] = str(path)


def tool(program, package):
    """Where a program is, or what to install."""
    places = [os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]
    places += sorted(map(str, pathlib.Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    found = shutil.which(_named.get(program, program), path=os.pathsep.join(places))
    if found is None:
        raise Failure(f"{_named.get(program, program)} is missing: apt-get install {package}")
    return found


def has(program):
    """Whether a program is installed."""
    try:
        tool(program, "")
        return True
    except Failure:
        return False


def versions(sidepool):
    """What each program says of itself, in a line."""
    commands = {"postgres": ["--version"], "pgbouncer": ["--version"], "redis-server": ["--version"], "nutcracker": ["-V"]}
    found = {program: _first_line([tool(program, ""), *options]) for program, options in commands.items() if has(program)}
    if sidepool:
        found["sidepool"] = _first_line([str(sidepool), "--version"])
    return found


def pgbouncer_prepares():
    """Whether this PgBouncer knows prepared statements in transaction mode: since 1.21."""
    match = re.search(r"(\d+)\.(\d+)", versions(None).get("pgbouncer", ""))
    return match is not None and (int(match[1]), int(match[2])) >= (1, 21)


def _first_line(command):
    done = subprocess.run(command, capture_output=True, text=True)
    return next(iter((done.stdout + done.stderr).strip().splitlines()), "?")
