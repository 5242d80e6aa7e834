"""Inline SVG: elements with escaped text, charts with axes, lines with a legend, dendrograms.

Colours and fonts come from the page's style sheet by class, so that one drawing serves light and
dark screens and print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64
from markupsafe import Markup, escape

from leakcache.names import visible
from leaknet.metrics.values import Roc

Html = Markup
Child = str | Iterable[str] | None
Attribute = str | float | int | None


def element(name: str, *children: Child, **attributes: Attribute) -> Html:
    """One element with its children.

    Args:
        name: of the tag.
        children: text, which is escaped; `Html`, which is not; lists of both; None for nothing.
        attributes: `class_` stands for class, `aria_label` for aria-label; None leaves it out.
    """
    start = name + "".join(_attribute(key, value) for key, value in attributes.items())
    return Html(f"<{start}>") + Html("").join(_flat(children)) + Html(f"</{name}>")


def number(value: float | int) -> str:
    """A coordinate with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"


def _attribute(key: str, value: Attribute) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else number(value)
    return f' {key.rstrip("_").replace("_", "-")}="{escape(text)}"'


def _flat(children: Iterable[Child]) -> Iterator[str]:
    for child in children:
        if isinstance(child, str):
            yield child
        elif child is not None:
            yield from child


Values = Sequence[float | int] | np.ndarray


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: what is measured.
        low, high: the range shown.
        ticks: positions and texts.
    """

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...] = ()

    @classmethod
    def spanning(cls, label: str, low: float, high: float, count: int = 4) -> Axis:
        """An axis with about `count` ticks at round numbers within the range."""
        if high <= low:
            low, high = low - 0.5, high + 0.5
        step = _round_step((high - low) / count)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step)))
        ticks = tuple((i * step, _signed(i * step, digits)) for i in range(first, last + 1))
        return cls(label, low, high, ticks)

    @classmethod
    def fraction(cls, label: str) -> Axis:
        """From 0 to 1."""
        return cls.spanning(label, 0.0, 1.0, count=5)

    def part(self, values: Values) -> np.ndarray:
        """Positions of values, from 0 at the low end to 1 at the high end; clipped to that."""
        part = (np.asarray(values, dtype=np.float64) - self.low) / (self.high - self.low)
        return np.clip(part, 0.0, 1.0)


@dataclass(frozen=True)
class Frame:
    """A plotting area of fixed proportions in the units of its viewBox.

    Attributes:
        x, y: the axes.
        width, height: of the whole drawing.
        left, bottom, top: margins for tick texts, labels and words above.
    """

    x: Axis
    y: Axis
    width: int = 340
    height: int = 210
    left: int = 46
    bottom: int = 36
    top: int = 18

    _RIGHT = 12

    def across(self, values: Values) -> np.ndarray:
        """Horizontal coordinates."""
        span = self.width - self.left - self._RIGHT
        return self.left + span * self.x.part(values)

    def down(self, values: Values) -> np.ndarray:
        """Vertical coordinates: they grow downwards."""
        base = self.height - self.bottom
        return base - (base - self.top) * self.y.part(values)

    def line(self, x: Values, y: Values, class_: str) -> Html:
        """A line through points."""
        return element("path", class_=f"line {class_}", d=self._path(x, y))

    def filled_steps(self, edges: Values, heights: Values, class_: str) -> Html:
        """A histogram: heights between neighbouring edges, filled down to the axis."""
        x = np.repeat(np.asarray(edges), 2)
        y = np.concatenate([[self.y.low], np.repeat(np.asarray(heights), 2), [self.y.low]])
        return element("path", class_=class_, d=self._path(x, y))

    def dots(
        self, points: Float[np.ndarray, "n 2"], class_: str, name: str | None = None
    ) -> Html | None:
        """Points, as one path; `name` lets another drawing of the page repeat them."""
        pairs = zip(self.across(points[:, 0]), self.down(points[:, 1]), strict=True)
        data = "".join(f"M{number(round(a, 1))} {number(round(b, 1))}h0" for a, b in pairs)
        return element("path", class_=f"dots {class_}", id=name, d=data) if data else None

    def vertical(self, at: float, before: str, after: str) -> list[Html]:
        """A line from top to bottom, with words above it on either side."""
        x, base = float(self.across([at])[0]), self.height - self.bottom
        y = self.top - 6
        return [
            element("path", class_="rule", d=f"M{number(x)} {y - 8}V{base}"),
            element("text", before, class_="note end", x=x - 5, y=y),
            element("text", after, class_="note", x=x + 5, y=y),
        ]

    def draw(self, description: str, *marks: Html | None) -> Html:
        """The whole drawing.

        Args:
            description: its text alternative.
            marks: what lies over the grid, the lowest first.
        """
        size = f"0 0 {self.width} {self.height}"
        return element(
            "svg",
            *self._grid(),
            *marks,
            viewBox=size,
            role="img",
            aria_label=description,
            xmlns="http://www.w3.org/2000/svg",
        )

    def panel(self, x: float | int, y: float | int, *marks: Html | None) -> Html:
        """The drawing as part of a larger one, with its top left corner at (x, y)."""
        place = f"translate({number(x)} {number(y)})"
        return element("g", *self._grid(), *marks, transform=place)

    def _path(self, x: Values, y: Values) -> str:
        points = zip(self.across(x), self.down(y), strict=True)
        return "M" + "L".join(f"{number(a)} {number(b)}" for a, b in points)

    def _grid(self) -> list[Html]:
        base, end = self.height - self.bottom, self.width - self._RIGHT
        marks = []
        for value, text in self.x.ticks:
            x = float(self.across([value])[0])
            marks.append(element("path", class_="grid", d=f"M{number(x)} {self.top}V{base}"))
            marks.append(element("text", text, class_="tick middle", x=x, y=base + 13))
        for value, text in self.y.ticks:
            y = float(self.down([value])[0])
            marks.append(element("path", class_="grid", d=f"M{self.left} {number(y)}H{end}"))
            marks.append(element("text", text, class_="tick end", x=self.left - 5, y=y + 3.5))
        return [*marks, *self._labels(base, end)]

    def _labels(self, base: int, end: int) -> list[Html]:
        middle, centre = (self.left + end) / 2, (base + self.top) / 2
        turn = f"rotate(-90 11 {number(centre)})"
        return [
            element("path", class_="axis", d=f"M{self.left} {base}H{end}"),
            element("text", self.x.label, class_="label middle", x=middle, y=self.height - 5),
            element("text", self.y.label, class_="label middle", x=11, y=centre, transform=turn),
        ]


def _signed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _round_step(rough: float) -> float:
    scale: float = 10.0 ** math.floor(math.log10(rough))
    return scale * min((m for m in (1, 2, 5, 10) if m * scale >= rough * 0.999), default=10)


COLOURS = 7
"""Names at most that have a colour each."""
POINTS = 300
"""Points of a curve at most; beyond that it is thinned evenly along its length."""


@dataclass(frozen=True)
class Curves:
    """A chart and its legend.

    Attributes:
        drawing: the chart.
        legend: name, value and class of each line, largest value first.
    """

    drawing: Html
    legend: list[tuple[str, float, str]]


def curves(
    frame: Frame,
    lines: Mapping[str, tuple[Values, Values]],
    values: Mapping[str, float],
    description: str,
    *under: Html,
) -> Curves:
    """One line a name; among too many for colours, only the best and the worst stand out.

    Args:
        frame: of the chart.
        lines: x and y by name.
        values: by which the names are ranked.
        description: text alternative of the chart.
        under: marks below the lines.
    """
    order = sorted(lines, key=lambda name: values[name], reverse=True)
    if len(order) <= COLOURS:
        classes = {name: f"c{i}" for i, name in enumerate(lines)}
    else:
        classes = dict.fromkeys(lines, "faint") | {order[0]: "c0", order[-1]: "c1"}
    above = sorted(lines, key=lambda name: classes[name] != "faint")
    marks = [frame.line(*lines[name], classes[name]) for name in above]
    legend = [(name, values[name], classes[name]) for name in order]
    return Curves(frame.draw(description, *under, *marks), legend)


def roc_curves(
    found: Mapping[str, Roc], areas: Mapping[str, float], axes: tuple[str, str], description: str
) -> Curves:
    """One ROC curve a generator, ranked by area."""
    frame = Frame(Axis.fraction(axes[0]), Axis.fraction(axes[1]), width=400, height=330)
    lines: dict[str, tuple[Values, Values]] = {}
    for name, curve in found.items():
        rows = _thinned_curve(curve)
        lines[name] = curve.fpr[0][rows], curve.tpr[0][rows]
    return curves(frame, lines, areas, description, frame.line([0, 1], [0, 1], "chance"))


def _thinned_curve(curve: Roc) -> np.ndarray:
    along = curve.fpr[0] + curve.tpr[0]
    if len(along) <= POINTS:
        return np.arange(len(along))
    return np.unique(np.searchsorted(along, np.linspace(0.0, along[-1], POINTS)))


MAX_LEAVES = 400
"""Beyond, labels cannot be read, and SciPy's recursion is deep."""
ROW, WIDTH, LABELS, BELOW = 15, 720, 300, 34


def leaf_order(tree: Float64[np.ndarray, "merge 4"]) -> list[int]:
    """Leaves from top to bottom."""
    from scipy.cluster.hierarchy import leaves_list

    return [int(leaf) for leaf in leaves_list(tree)]


def dendrogram(
    tree: Float64[np.ndarray, "merge 4"],
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
