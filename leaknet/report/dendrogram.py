"""A dendrogram as inline SVG: the root on the left, leaves with their labels on the right."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxtyping import Float64
from numpy import ndarray

from leakcache.names import visible
from leaknet.report.html import Html, element, number
from leaknet.report.svg import Axis

MAX_LEAVES = 400
"""Beyond, labels cannot be read, and SciPy's recursion is deep."""
ROW, WIDTH, LABELS, BELOW = 15, 720, 300, 34


def leaf_order(tree: Float64[ndarray, "merge 4"]) -> list[int]:
    """Leaves from top to bottom."""
    from scipy.cluster.hierarchy import leaves_list

    return [int(leaf) for leaf in leaves_list(tree)]


def dendrogram(
    tree: Float64[ndarray, "merge 4"],
    labels: Sequence[str],
    axis: Axis,
    height_of: Callable[[float], float],
    description: str,
    cut: float | None = None,
) -> Html:
    """Draw a linkage matrix.

    Args:
        tree: SciPy's linkage matrix of at most `MAX_LEAVES` leaves.
        labels: of the leaves.
        axis: of the heights; its low end is on the left.
        height_of: value on the axis of a height in the matrix.
        description: text alternative.
        cut: value on the axis at which a line is drawn.
    """
    from scipy.cluster.hierarchy import dendrogram as arrange

    span, bottom = WIDTH - LABELS - 20, ROW * len(labels) + 6

    def across(value: float) -> float:
        return 10 + span * float(axis.part([value])[0])

    marks: list[Html] = []
    for value, text in axis.ticks:
        x = number(across(value))
        marks.append(element("path", class_="grid", d=f"M{x} 0V{bottom}"))
        marks.append(element("text", text, class_="tick middle", x=across(value), y=bottom + 13))
    middle = 10 + span / 2
    marks.append(element("text", axis.label, class_="label middle", x=middle, y=bottom + 29))
    found = arrange(tree, no_plot=True)
    for places, heights in zip(found["icoord"], found["dcoord"], strict=True):
        points = [
            f"{number(across(height_of(h)))} {number(4 + ROW * place / 10)}"
            for h, place in zip(heights, places, strict=True)
        ]
        marks.append(element("path", class_="branch", d="M" + "L".join(points)))
    for row, leaf in enumerate(found["leaves"]):
        y = 4 + ROW * (row + 0.5) + 3.5
        text = visible(labels[leaf])
        marks.append(element("text", text, class_="note", x=span + 16, y=y))
    if cut is not None:
        marks.append(element("path", class_="rule", d=f"M{number(across(cut))} 0V{bottom}"))
    return element(
        "svg",
        *marks,
        viewBox=f"0 0 {WIDTH} {bottom + BELOW}",
        class_="dendrogram",
        role="img",
        aria_label=description,
        xmlns="http://www.w3.org/2000/svg",
    )
