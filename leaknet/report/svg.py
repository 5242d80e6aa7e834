"""Small charts as inline SVG: a frame with axes, and marks in it.

Colours and fonts come from the page's style sheet by class, so that one drawing serves light and
dark screens and print.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from leaknet.report.html import Html, element, number

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
