"""What the figures were to be (`aims.toml`), and which of them are."""

import pathlib
import tomllib

from measure import compare, report

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
        rows.append({**aim, "target": target, "measured": measured, "met": met, "peers": peers})
    return rows


def table(rows):
    """The rows in Markdown."""
    heads = ["load", "what", "aim", "measured (least to most)", ""]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        unit = f" {row['unit']}" if "unit" in row else ""
        aim = f"≤ {row['most']:g}{unit}" if "most" in row else f"≥ {row['least']:g}{unit}"
        measured = "no such target in this run"
        if row["measured"]:
            median, least, most = (_digits(row["measured"][key]) for key in ("median", "min", "max"))
            measured = f"{median}{unit} ({least} to {most})" + "".join(f"; {name}: {_digits(value)}" for name, value in row["peers"].items())
        verdict = {True: "met", False: "**missed**", None: "not measured"}[row["met"]]
        lines.append("| " + " | ".join([f"`{row['load']}`", _what(row), aim, measured, verdict]) + " |")
    return "\n".join(lines)


def _what(row):
    words = row.get("label", report.name_of(row["figure"]))
    if "beyond" in row:
        words += f" added to {row['beyond']}"
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
    others = [aim[key] for key in ("of", "beyond") if key in aim]
    if any(other not in result["targets"] for other in others):
        return None
    runs = _of_rounds(result, target, figure)
    if not others:
        return compare.spread(runs)
    peers = _of_rounds(result, aim["of"], figure)
    if "beyond" not in aim:
        return compare.spread(compare.ratio(mine, peer) for mine, peer in zip(runs, peers))
    # A difference of two small figures may be nothing or less in one round: the medians are what is compared.
    base = _of_rounds(result, aim["beyond"], figure)
    added, of_peer = ([value - least for value, least in zip(values, base)] for values in (runs, peers))
    typical = compare.spread(of_peer)["median"]
    if typical <= 0:
        return None
    return {key: value / typical for key, value in compare.spread(added).items()}


def _of_rounds(result, target, figure):
    return [run[figure] for run in result["targets"][target]["samples"] if run.get(figure) is not None]
