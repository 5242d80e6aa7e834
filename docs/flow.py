"""Write docs/flow.svg, the drawing of the data flow: `python docs/flow.py`."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 1104, 560
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #4a5568; text-anchor: middle }
  .title { font-weight: 600; font-size: 14.5px; fill: #1a202c }
  .band { fill: #eef2f7; stroke: none } .label { text-anchor: start; font-weight: 600 }
  .box { fill: #ffffff; stroke: #2b6cb0; stroke-width: 1.5 }
  .arrow { fill: none; stroke: #4a5568; stroke-width: 1.6; marker-end: url(#head) }
  #head path { fill: #4a5568 }
  @media (prefers-color-scheme: dark) {
    text { fill: #b6c2d1 } .title { fill: #f0f4f8 } .band { fill: #1b2430 }
    .box { fill: #26313f; stroke: #63b3ed } .arrow { stroke: #b6c2d1 }
    #head path { fill: #b6c2d1 }
  }
"""
# Name: (x, y, width, height, title, lines)
BOXES = {
    "files": (24, 110, 110, 62, "Files", ("PNG, JPEG, …",)),
    "dataset": (172, 100, 150, 82, "dataset", ("index, labels,", "prompt groups, folds")),
    "images": (356, 100, 142, 82, "images", ("decode, canonical", "form, views")),
    "encoder": (560, 50, 160, 76, "encoder", ("frozen autoencoder:", "one pass per view")),
    "statistics": (560, 156, 160, 76, "statistics", ("pixels, activations,", "degraded copies")),
    "store": (790, 50, 266, 182, "store", ("columns by content hash,", "resumable, checksummed:")),
    "latent": (790, 318, 266, 92, "Latent branch", (
        "noise, DCT map → ResNet-18 →", "temporal attention, prototypes")),
    "closed": (790, 434, 266, 92, "Statistics branch", (
        "closed-form class scores of", "statistics, prototypes")),
    "embedding": (594, 376, 150, 92, "Embedding", ("both branches,", "weighted")),
    "detectors": (408, 376, 146, 92, "Detectors", ("KDE, Mahalanobis,", "kNN, energy, …")),
    "calibration": (222, 376, 146, 92, "Calibration", (
        "p-value, prediction", "set, likelihood ratio")),
    "verdict": (24, 318, 158, 92, "Verdict", ("known: name,", "unknown, or unsure")),
    "report": (24, 434, 158, 92, "Report", ("tables, figures,", "controls, HTML")),
}  # fmt: skip
COLUMNS = ("z0 · DCT map · moments", "pixel statistics", "activation statistics", "degraded copies")
ARROWS = (
    "M134 141 H164", "M322 141 H348", "M498 141 H530 V88 H552", "M530 141 V194 H552",
    "M640 126 V148", "M720 88 H782", "M720 194 H782", "M923 232 V310",
    "M1056 141 H1076 V480 H1062", "M790 364 H768 V408 H750", "M790 480 H768 V436 H750",
    "M594 422 H560", "M408 422 H374", "M222 422 H204 V364 H188", "M204 422 V480 H188",
)  # fmt: skip
BANDS = (
    (10, 12, 1084, 236, "leakcache: once per image"),
    (10, 280, 1084, 268, "leaknet: every run, on stored columns"),
)


def text(x: float, y: float, content: str, style: str = "") -> str:
    """One line of text, centred at x unless the style says otherwise."""
    return f'<text x="{x:g}" y="{y:g}" class="{style}">{escape(content)}</text>'


def box(x: int, y: int, width: int, height: int, title: str, lines: tuple[str, ...]) -> str:
    """A rounded box with a title and lines, centred vertically."""
    lines += COLUMNS if title == "store" else ()
    top = y + height / 2 - 9 * len(lines) + 5
    return "\n".join(
        [
            f'<rect class="box" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>',
            text(x + width / 2, top, title, "title"),
            *(text(x + width / 2, top + 18 * (k + 1), line) for k, line in enumerate(lines)),
        ]
    )


def drawing() -> str:
    """The whole SVG."""
    bands = [
        f'<rect class="band" x="{x}" y="{y}" width="{width}" height="{height}" rx="12"/>'
        + text(x + 14, y + 22, label, "label")
        for x, y, width, height, label in BANDS
    ]
    arrows = [f'<path class="arrow" d="{path}"/>' for path in ARROWS]
    head = (
        '<marker id="head" markerWidth="8" markerHeight="8" refX="6" refY="4" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 Z"/></marker>'
    )
    parts = [*bands, *(box(*values) for values in BOXES.values()), *arrows]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="Files become an index, views, stored columns, an embedding and a verdict">\n'
        f"<style>{STYLE}</style>\n<defs>{head}</defs>\n" + "\n".join(parts) + "\n</svg>\n"
    )


if __name__ == "__main__":
    Path(__file__).with_name("flow.svg").write_text(drawing(), encoding="utf-8")
