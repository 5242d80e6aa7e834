"""Charts: round ticks within the range, and marks where the numbers are."""

from __future__ import annotations

import re
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaknet.report.svg import Axis, Frame, Html, element, number
from tests.leaknet.report.parsed import parse

VALUES = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(VALUES, st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_are_few_round_and_within(low: float, span: float, count: int) -> None:
    axis = Axis.spanning("x", low, low + span, count)
    places = [place for place, _ in axis.ticks]
    assert len(places) <= count + 1
    assert places == sorted(places)
    slack = 1e-6 * span
    assert all(axis.low - slack <= place <= axis.high + slack for place in places)
    if len(places) > 1:
        step = places[1] - places[0]
        assert step / 10 ** np.floor(np.log10(step * 1.001)) == pytest.approx(
            min((1, 2, 5), key=lambda m: abs(step / 10 ** np.floor(np.log10(step * 1.001)) - m)),
            rel=1e-3,
        )


@given(VALUES)
def test_a_range_of_nothing_still_has_room(value: float) -> None:
    axis = Axis.spanning("x", value, value)
    assert axis.low < value < axis.high or abs(value) > 1e15


def test_tick_texts_tell_their_places() -> None:
    axis = Axis.spanning("x", -0.25, 0.25)
    assert [text for _, text in axis.ticks] == ["−0.2", "0.0", "0.2"]


def test_points_lie_where_the_axes_say() -> None:
    frame = Frame(Axis.fraction("x"), Axis.fraction("y"))
    drawing = parse(frame.draw("a line", frame.line([0, 0.5, 1], [0, 1, 0.5], "c0")))
    path = drawing.one("path", class_="c0").attributes["d"]
    points = np.array(re.findall(r"[\d.]+", path), dtype=float).reshape(-1, 2)
    x, y = points.T
    assert (x[1] - x[0], y[0] - y[1]) == pytest.approx((x[2] - x[1], 2 * (y[0] - y[2])))
    assert x[0] == frame.left
    assert y[0] == frame.height - frame.bottom


def test_values_beyond_the_axes_are_drawn_at_the_edge() -> None:
    axis = Axis("x", 0.0, 1.0)
    assert axis.part([-5.0, 0.25, 7.0]).tolist() == [0.0, 0.25, 1.0]


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
