"""Pictures of the scaling loads as SVG, without any library: what a transaction costs over the number of clients, pools or workers."""

import html
import math

from measure import ink

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 400, 60, 24, 96, 44
_NAMES = {"CLIENTS": "clients", "POOLS": "pools", "WORKERS": "workers"}


def draw(results):
    """An SVG for each kind of scaling load, by name. Loads of one kind share a picture: the second is dashed."""
    pictures = {}
    for kind, word in _NAMES.items():
        series = [(result, name) for result in results if "scaling" in result and result["load"].startswith(kind) for name in result["scaling"]]
        if series:
            pictures[f"scaling_{word}"] = _picture(f"CPU per transaction over the number of {word}", word, series)
    return pictures


def _picture(title, word, series):
    curves = [_Curve(result, name, series) for result, name in series]
    numbers = sorted({at for curve in curves for at, _ in curve.points})
    top = _round_up(max(figure["max"] for curve in curves for _, figure in curve.points))
    parts = ink.opening(title, "process CPU in µs, medians, and their extremes; in the legend the dearest point that is judged", _WIDTH, _HEIGHT)
    for step in range(6):
        value = top * step / 5
        y = _y(value, top)
        parts += [f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>',
                  f'<text class="small" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>']
    for at in numbers:
        parts.append(f'<text class="small" x="{_x(at, numbers):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{at:,}</text>')
    parts.append(f'<text class="small" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end">{word}</text>')
    for index, curve in enumerate(curves):
        parts += curve.drawn(numbers, top) + curve.explained(_LEFT + 330 * (index % 2), 66 + 18 * (index // 2))
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Curve:
    """One target's costs under one load."""

    def __init__(self, result, name, series):
        self.points = [(point["at"], point["targets"][name]["figures"]["cpu_us"]) for point in result["points"]]
        loads = list(dict.fromkeys(other["load"] for other, _ in series))
        names = list(dict.fromkeys(other for _, other in series))
        self._class = f"curve{names.index(name) % 3}"
        self._dashes = ' stroke-dasharray="7 5"' if loads.index(result["load"]) else ""
        growth = result["scaling"][name]["growth"]["median"]
        self._label = f"{name}, {result['load']}: {growth:.2f} of that at {result['scaling'][name]['reference']:,}"

    def drawn(self, numbers, top):
        """The line, its dots and their extremes."""
        places = [(_x(at, numbers), figure) for at, figure in self.points]
        path = " ".join(f"{x:.1f},{_y(figure['median'], top):.1f}" for x, figure in places)
        parts = [f'<g class="{self._class}"><polyline class="curve" points="{path}"{self._dashes}/>']
        for x, figure in places:
            least, median, most = (f"{_y(figure[key], top):.1f}" for key in ("min", "median", "max"))
            parts += [f'<line class="curve" x1="{x:.1f}" x2="{x:.1f}" y1="{least}" y2="{most}" opacity="0.5"/>',
                      f'<circle class="dot" cx="{x:.1f}" cy="{median}" r="3.5"/>']
        return [*parts, "</g>"]

    def explained(self, x, y):
        """Its line of the legend."""
        return [f'<g class="{self._class}"><line class="curve" x1="{x}" x2="{x + 26}" y1="{y}" y2="{y}"{self._dashes}/></g>',
                f'<text class="small" x="{x + 32}" y="{y + 4}">{html.escape(self._label)}</text>']


def _x(at, numbers):
    """Numbers that grow by factors are as far apart as their logarithms."""
    room = _WIDTH - _LEFT - _RIGHT - 30
    most = math.log(max(numbers)) or 1
    return _LEFT + 15 + room * math.log(at) / most


def _y(value, top):
    return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * value / top


def _round_up(value):
    """The next number that five steps lead to evenly."""
    unit = 10 ** math.floor(math.log10(value))
    return next(step * unit for step in (1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10) if step * unit >= value)
