"""Pictures of the results as SVG, without any library: for each figure one bar a load, with the extremes of its rounds and a line at 1.00."""

import html

from measure import ink

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 720, 190, 70, 26, 64
# The figure, its title, and whether less is better.
_PLOTS = {
    "cpu_us": ("CPU per transaction or request", True),
    "tps": ("Transactions or requests a second", False),
    "p99_ms": ("Slowest percent (p99)", True),
    "kb_per_client": ("Memory per idle client", True),
}


def draw(results, target="sidepool"):
    """An SVG for each figure that has ratios, by name."""
    pictures = {}
    for figure, (title, less) in _PLOTS.items():
        rows = [(result, result["targets"][target]["ratios"][figure]) for result in results
                if figure in result.get("targets", {}).get(target, {}).get("ratios", {})]
        rows = [(f"{result['load']} / {result['anchor']}", ratio) for result, ratio in rows]
        if rows:
            pictures[figure] = _picture(f"{title}: {target} relative to the other", rows, less)
    return pictures


def _picture(title, rows, less):
    height = _TOP + _ROW * len(rows) + 30
    top = max(1.25, *(min(ratio["max"], ratio["median"] * 1.5) for _, ratio in rows))
    room = _WIDTH - _LEFT - _RIGHT

    def place(value):
        return _LEFT + room * min(value, top) / top

    parts = ink.opening(title, f'{"less" if less else "more"} is better; bar: median, line: least and most of the rounds', _WIDTH, height)
    for index, (name, ratio) in enumerate(rows):
        y = _TOP + index * _ROW
        median = ratio["median"]
        mood = "better" if (median <= 1) == less else "worse"
        middle = y + _ROW / 2
        parts += [
            f'<text x="{_LEFT - 8}" y="{middle + 4}" text-anchor="end">{html.escape(name)}</text>',
            f'<rect class="{mood}" x="{_LEFT}" y="{y + 5}" width="{place(median) - _LEFT:.1f}" height="{_ROW - 10}" opacity="0.75"/>',
            f'<line class="line" x1="{place(ratio["min"]):.1f}" x2="{place(ratio["max"]):.1f}" y1="{middle}" y2="{middle}"/>',
            f'<text x="{_WIDTH - _RIGHT + 10}" y="{middle + 4}">{median:.2f}</text>',
        ]
    bottom = _TOP + _ROW * len(rows)
    parts += [f'<line class="one" x1="{place(1):.1f}" x2="{place(1):.1f}" y1="{_TOP - 4}" y2="{bottom + 4}"/>',
              f'<text class="small" x="{place(1):.1f}" y="{bottom + 18}" text-anchor="middle">1.00</text>', "</svg>"]
    return "\n".join(parts) + "\n"
