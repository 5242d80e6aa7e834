"""HTML and SVG built so that nothing can go unescaped: text is escaped unless it is `Html`."""

from __future__ import annotations

import html
from collections.abc import Iterable

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
