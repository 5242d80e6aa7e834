"""The chart of `tests/benchmarks/growth.py`: processor time and memory by the number of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT, TOP, BOTTOM, LEFT, PANEL = 780, 340, 52, 288, 64, 290
GAP = 90
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #4a5568 }
  .title { font-weight: 600; fill: #1a202c } .axis { stroke: #cbd5e0 } .tick { text-anchor: end }
  .below { text-anchor: middle }
  .streaming { stroke: #2b6cb0; fill: #2b6cb0 } .exact { stroke: #c05621; fill: #c05621 }
  polyline { fill: none !important; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #b6c2d1 } .title { fill: #f0f4f8 } .axis { stroke: #3b4a5c }
    .streaming { stroke: #63b3ed; fill: #63b3ed } .exact { stroke: #f6ad55; fill: #f6ad55 }
  }
"""
SERIES = {
    "streaming": "streaming, conjugate gradients",
    "exact": "exact, Gram matrix",
}
PANELS = (("processor time, s", "cpu_s"), ("memory of the process, GiB", "peak_gib"))

Rows = Sequence[dict[str, Any]]


def draw(rows: Rows) -> str:
    """Two panels with logarithmic axes, as one SVG."""
    parts = [_legend(), *(_panel(rows, *panel, number) for number, panel in enumerate(PANELS))]
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">\n'
        f"<title>Fit of the statistics branch by the number of images</title>\n"
        f"<style>{STYLE}</style>\n{body}\n</svg>\n"
    )


def _legend() -> str:
    marks = []
    for number, (name, words) in enumerate(SERIES.items()):
        x = LEFT + 210 * number
        marks.append(f'<circle class="{name}" cx="{x}" cy="16" r="4"/>{_text(x + 10, 20, words)}')
    return "\n".join(marks)


def _panel(rows: Rows, title: str, key: str, number: int) -> str:
    left = LEFT + number * (PANEL + GAP)
    across, up = (_decades([row[name] for row in rows]) for name in ("images", key))

    def x(value: float) -> float:
        return left + PANEL * _part(value, across)

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * _part(value, up)

    parts = [_text(left, TOP - 10, title, "title")]
    for power in range(up[0], up[1] + 1):
        level = y(10.0**power)
        parts.append(f'<path class="axis" d="M{left} {level:.1f} h{PANEL}"/>')
        parts.append(_text(left - 6, level + 4, f"{10.0**power:g}", "tick"))
    for power in range(across[0], across[1] + 1):
        place = x(10.0**power)
        parts.append(f'<path class="axis" d="M{place:.1f} {TOP} V{BOTTOM}"/>')
        parts.append(_text(place, BOTTOM + 18, f"{10**power:,}", "below"))
    parts.append(_text(left + PANEL / 2, BOTTOM + 38, "training images, 5 views each", "below"))
    for name in SERIES:
        points = [(x(row["images"]), y(row[key])) for row in rows if row["solver"] == name]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline class="{name}" points="{line}"/>')
        parts += [f'<circle class="{name}" cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>' for a, b in points]
    return "\n".join(parts)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _part(value: float, decades: tuple[int, int]) -> float:
    return (math.log10(value) - decades[0]) / (decades[1] - decades[0])


def _text(x: float, y: float, content: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{escape(content)}</text>'
