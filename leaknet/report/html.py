"""Elements of inline drawings, with their text escaped; the pages themselves are in templates/."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from markupsafe import Markup, escape

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
