"""What the pictures have in common: colours that can be read on a light page and on a dark one, and an SVG's first lines."""

import html

_STYLE = """<style>
text{font:13px system-ui,sans-serif;fill:#24292f}.small{font-size:11px;fill:#57606a}.title{font-size:16px;font-weight:600}
.ground{fill:#ffffff}.line{stroke:#57606a}.grid{stroke:#d0d7de}.one{stroke:#24292f;stroke-dasharray:3 3}.better{fill:#2da44e}.worse{fill:#cf222e}
.curve0{--ink:#0969da}.curve1{--ink:#bc4c00}.curve2{--ink:#8250df}.curve{fill:none;stroke:var(--ink);stroke-width:2.2}.dot{fill:var(--ink)}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.ground{fill:#0d1117}.line{stroke:#9198a1}.grid{stroke:#3d444d}
.one{stroke:#e6edf3}.better{fill:#3fb950}.worse{fill:#f85149}.curve0{--ink:#58a6ff}.curve1{--ink:#f0883e}.curve2{--ink:#bc8cff}}
</style>"""


def opening(title, below, width, height):
    """An SVG as far as its title and the line below that."""
    return [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">',
            f"<title>{html.escape(title)}</title>", _STYLE, f'<rect class="ground" width="{width}" height="{height}"/>',
            f'<text class="title" x="16" y="26">{html.escape(title)}</text>', f'<text class="small" x="16" y="46">{html.escape(below)}</text>']
