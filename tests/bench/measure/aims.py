"""What the figures were to be (`aims.toml`), and which of them are."""

import pathlib
import tomllib

from measure import compare, poolers, report

_FILE = pathlib.Path(__file__).resolve().parents[1] / "aims.toml"


def judge(results):
    """Each aim whose load was run, with what was measured and whether that meets it."""
    by_load = {result["load"]: result for result in results}
    rows = []
    for aim in tomllib.loads(_FILE.read_text())["aim"]:
        target = aim.get("target", "sidepool")
        result = by_load.get(aim["load"])
        if result is None or target not in _names(result):
            continue
        measured = _measured(aim, target, result)
        met = None
        if measured is not None:
            met = measured["median"] <= aim["most"] if "most" in aim else measured["median"] >= aim["least"]
        peers = {name: flat["growth"]["median"] for name, flat in result.get("scaling", {}).items() if name != target}
        floor = _measured(aim, poolers.FLOOR, result) if target == "sidepool" and poolers.FLOOR in _names(result) else None
        rows.append({**aim, "target": target, "measured": measured, "met": met, "floor": floor, "peers": peers})
    return rows


def table(rows):
    """The rows in Markdown, beside what the floor reaches if it took part."""
    has_floor = any(row.get("floor") for row in rows)
    heads = ["load", "what", "aim", "measured (least to most)", "", *(["floor"] if has_floor else [])]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        unit = f" {row['unit']}" if "unit" in row else ""
        aim = f"≤ {row['most']:g}{unit}" if "most" in row else f"≥ {row['least']:g}{unit}"
        measured = "no such target in this run"
        if row["measured"]:
            median, least, most = (_digits(row["measured"][key]) for key in ("median", "min", "max"))
            measured = f"{median}{unit} ({least} to {most})" + "".join(f"; {name}: {_digits(value)}" for name, value in row["peers"].items())
        verdict = {True: "met", False: "**missed**", None: "not measured"}[row["met"]]
        cells = [f"`{row['load']}`", _what(row), aim, measured, verdict]
        if has_floor:
            cells.append(_digits(row["floor"]["median"]) if row.get("floor") else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _what(row):
    words = row.get("label", report.name_of(row["figure"]))
    if "minus" in row:
        words += f", minus that of {row['minus']}"
    if "of" in row:
        words += f", of {row['of']}"
    return words if row["target"] == "sidepool" else f"{row['target']}: {words}"


def _digits(value):
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _names(result):
    return result["scaling"] if "scaling" in result else result["targets"]


def _measured(aim, target, result):
    if "scaling" in result:
        return result["scaling"][target][aim["figure"]]
    figure = aim["figure"]
    runs = _of_rounds(result, target, figure)
    peer = aim.get("of", aim.get("minus"))
    if peer is None:
        return compare.spread(runs)
    if peer not in result["targets"]:
        return None
    pairs = zip(runs, _of_rounds(result, peer, figure))
    return compare.spread(compare.ratio(mine, theirs) if "of" in aim else mine - theirs for mine, theirs in pairs)


def _of_rounds(result, target, figure):
    return [run[figure] for run in result["targets"][target]["samples"] if run.get(figure) is not None]
