"""Markup that cannot be broken by what it says."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaknet.report.html import Html, element, number
from tests.leaknet.report.parsed import parse

# Neither a form feed nor a lone carriage return survives any HTML parser.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"))


@given(TEXT, TEXT)
def test_any_text_comes_back_as_it_was(inside: str, title: str) -> None:
    node = parse(element("p", inside, element("i", inside), title=title)).one("p")
    assert node.text == inside + inside
    assert node.attributes["title"] == title
    assert [child.tag for child in node.all()] == ["i"]


def test_markup_is_not_escaped_twice() -> None:
    inner = element("b", "a & b")
    assert element("p", [inner, "<"]) == "<p><b>a &amp; b</b>&lt;</p>"
    assert element("p", Html("<hr>"), None, "&") == "<p><hr>&amp;</p>"


def test_attributes_are_named_as_in_html() -> None:
    node = parse(element("p", class_="x", aria_label="y", id=None, data_n=1.5)).one("p")
    assert node.attributes == {"class": "x", "aria-label": "y", "data-n": "1.5"}


@given(st.floats(-1e4, 1e4))
def test_numbers_are_short_and_close(value: float) -> None:
    text = number(value)
    assert set(text) <= set(string.digits + ".-")
    assert float(text) == pytest.approx(value, abs=0.0051)
