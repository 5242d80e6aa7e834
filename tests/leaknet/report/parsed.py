"""A strict reading of a page: every element that opens must close, in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "link", "img", "input"}


@dataclass
class Node:
    tag: str
    attributes: dict[str, str]
    children: list[Node | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text within."""
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def all(self, tag: str | None = None, **expected: str) -> Iterator[Node]:
        """Elements within of this tag; `class_` matches one of an element's classes."""
        for child in self.children:
            if isinstance(child, str):
                continue
            if tag in (None, child.tag) and child._has(expected):
                yield child
            yield from child.all(tag, **expected)

    def one(self, tag: str | None = None, **expected: str) -> Node:
        """The first such element."""
        return next(self.all(tag, **expected))

    def rows(self) -> list[list[str]]:
        """Texts of the cells of the table body within."""
        body = self.one("tbody")
        return [
            [" ".join(cell.text.split()) for cell in row.children if isinstance(cell, Node)]
            for row in body.all("tr")
        ]

    def _has(self, expected: dict[str, str]) -> bool:
        classes = self.attributes.get("class", "").split()
        return all(
            value in classes
            if key == "class_"
            else self.attributes.get(key.replace("_", "-")) == value
            for key, value in expected.items()
        )


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> repeats an attribute: {names}"
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(page: str) -> Node:
    """The page as a tree; fails where an element is not closed."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert [node.tag for node in reader.open] == [""], "left open"
    return reader.root
