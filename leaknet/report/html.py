"""What every section is built from: headings, prose, tables with drawn figures, charts."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leaknet.report.metric_labels import Figure, Measure, interval_text

# HTML and SVG built so that nothing can go unescaped: text is escaped unless it is `Html`.

_VOID = frozenset({"meta", "br", "hr"})

Child = str | Iterable[str] | None
Attribute = str | float | int | None


class Html(str):
    """Text that is markup already, because `element` made it."""

    __slots__ = ()


def element(name: str, *children: Child, **attributes: Attribute) -> Html:
    """One element with its children.

    Args:
        name: of the tag.
        children: text, which is escaped; `Html`, which is not; lists of both; None for nothing.
        attributes: `class_` stands for class, `aria_label` for aria-label; None leaves it out.
    """
    start = name + "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{start}>")
    return Html(f"<{start}>{join(*children)}</{name}>")


def join(*children: Child) -> Html:
    """Children side by side, without an element around them."""
    return Html("".join(_markup(child) for child in children))


def number(value: float | int) -> str:
    """A coordinate or share, short: at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"


def _attribute(key: str, value: Attribute) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else number(value)
    return f' {key.rstrip("_").replace("_", "-")}="{html.escape(text)}"'


def _markup(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str):
        return html.escape(child)
    return "".join(_markup(item) for item in child)


HEAT_LEVELS = 10


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        key: its anchor.
        title: its heading.
        nav: the same in a word or two, for the table of contents.
        body: what it says.
    """

    key: str
    title: str
    nav: str
    body: Html

    def render(self) -> Html:
        """The section as markup."""
        return element("section", element("h2", self.title), self.body, id=self.key)


def paragraph(*children: Child, class_: str | None = None) -> Html:
    """A paragraph."""
    return element("p", *children, class_=class_)


def strong(text: str) -> Html:
    """Words that carry the sentence."""
    return element("strong", text)


def code(text: str) -> Html:
    """A name or command as it is typed."""
    return element("code", text)


def bullets(items: Sequence[Html]) -> Html:
    """A list."""
    return element("ul", [element("li", item) for item in items])


LEGEND = paragraph(
    "Drawn from 0 to 1: the figure (line), its 95 % interval (band), and guessing (dotted).",
    class_="legend",
)


def heading(text: str) -> Html:
    """A heading within a section."""
    return element("h3", text)


def folded(summary: str, *children: Child) -> Html:
    """Something to open on demand."""
    return element("details", element("summary", summary), *children)


def table(
    headings: Sequence[Child], rows: Sequence[Sequence[Html]], class_: str | None = None
) -> Html:
    """A table that scrolls sideways where it is too wide; rows hold finished cells."""
    head = element("thead", element("tr", [element("th", h, scope="col") for h in headings]))
    body = element("tbody", [element("tr", row) for row in rows])
    return element("div", element("table", head, body, class_=class_), class_="scroll", tabindex=0)


def row_name(text: str, note: str = "") -> Html:
    """The first cell of a row."""
    small = [" ", element("span", note, class_="ends")] if note else None
    return element("th", text, small, scope="row")


def cell(text: str, class_: str = "number") -> Html:
    """A cell with text."""
    return element("td", text, class_=class_)


def measured(measure: Measure, figure: Figure, chance: float | None = None) -> Html:
    """A cell with value and interval, drawn on a scale from 0 to 1 where guessing has a place."""
    chance = measure.chance if chance is None else chance
    return element(
        "td",
        element("span", measure.show(figure.value), class_="value"),
        " ",
        element("span", interval_text(measure, figure), class_="ends"),
        None if chance is None else strip(figure, chance),
        class_="number",
    )


def strip(figure: Figure, chance: float) -> Html | None:
    """A mark with its interval on a scale from 0 to 1; a dotted line where guessing would be."""
    if figure.value is None:
        return None
    low, high = figure.ends or (figure.value, figure.value)
    places = {"lo": low, "hi": high, "at": figure.value, "chance": chance}
    style = ";".join(f"--{key}:{number(100 * value)}%" for key, value in places.items())
    return element("span", element("i"), class_="strip", style=style)


def heat_class(share: float | None) -> str:
    """The class that colours a cell by a share from 0 to 1."""
    return "" if share is None else f"heat h{round(HEAT_LEVELS * min(1.0, max(0.0, share)))}"


def charts(*drawings: tuple[Child, Html], caption: Child = None, small: bool = False) -> Html:
    """Drawings side by side, each under its title, with one caption."""
    panels = [
        element("div", element("h4", title), drawing, class_="panel") for title, drawing in drawings
    ]
    legend = element("figcaption", caption) if caption else None
    return element(
        "figure", element("div", panels, class_="panels small" if small else "panels"), legend
    )


def key_values(pairs: Sequence[tuple[str, Child]]) -> Html:
    """Facts with their names."""
    items = [join(element("dt", name), element("dd", value)) for name, value in pairs]
    return element("dl", items)


def enumerate_words(names: Sequence[str]) -> str:
    """Names in a sentence: a, b and c."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"
