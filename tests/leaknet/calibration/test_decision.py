"""Answers follow from p-value and set; doubt only ever turns an answer into unsure."""

from __future__ import annotations

import pytest

from leaknet.calibration.conformal import FAR
from leaknet.calibration.decision import MIN_TEXTURE, blank, decide, doubt


@pytest.mark.parametrize(
    ("p_value", "members", "answer", "words"),
    [
        (
            0.05,
            ("a",),
            "unknown generator",
            "p = 0.05, at most 0.05: its score ranks in the lowest 5 %",
        ),
        (0.02, (), "unknown generator", "lowest 2 %"),
        (0.01, (), "unknown generator", "p ≤ 0.01, at most 0.05: its score is lower than that of"),
        (0.051, ("a",), "unsure", "no generator is probable enough"),
        (1.0, ("a", "b"), "unsure", "to be named: 2 remain, a, b"),
        (1.0, ("a", "b", "c", "d"), "unsure", "to be named: 4 remain, a, b, c and 1 more"),
        (0.5, (), "unsure", "no generator is probable enough"),
    ],
)
def test_answers(p_value: float, members: tuple[str, ...], answer: str, words: str) -> None:
    decision = decide(p_value, members, 0.05, smallest_p=0.01)
    assert decision.answer == answer
    assert words in decision.explanation


def test_doubt_makes_an_answer_unsure_and_says_what_altered_it() -> None:
    known = decide(0.5, ("a", "b"), 0.05, generator="a")
    unknown = decide(0.01, (), 0.05, generator="a")
    assert known.answer == "known: a"
    assert "at most 0.05 of the known images are named wrong" in known.explanation
    assert unknown.answer == "unknown generator"
    assert doubt(known, {}, 8) == known
    for decision in (known, unknown):
        doubted = doubt(decision, {"jpeg75": "known: b", "flip": "unsure"}, 8)
        assert doubted.answer == "unsure"
        assert doubted.generator == ""
        assert f"{decision.answer} as it is" in doubted.explanation
        assert "2 of 8 mild changes alter that (jpeg75: known: b)" in doubted.explanation
    unsure = decide(0.5, ("a", "b"), 0.05)
    assert doubt(unsure, {"flip": "known: a"}, 8) == unsure


def test_a_probable_generator_without_evidence_is_not_named() -> None:
    weak = decide(0.5, ("a", "b"), 0.05, generator="a", weak=True)
    assert weak.answer == "unsure"
    assert "a is probable, but the likelihood ratio" in weak.explanation
    assert "ranks in the lowest 20 % of the calibration images" in weak.explanation
    family = decide(0.5, ("a", "b"), 0.05, family="ab", generator="a", weak=True)
    assert family.answer == "of the ab family"
    assert decide(0.01, (), 0.05, generator="a", weak=True).answer == "unknown generator"


def test_a_photograph_is_not_called_a_generator() -> None:
    found = decide(0.5, ("real",), 0.05, generator="real")
    assert found.answer == "real photograph"
    assert "a real photograph is so probable" in found.explanation


def test_a_score_far_below_calibration_is_outside_where_it_is_below_all_of_it() -> None:
    far = decide(0.01, (), 0.05, smallest_p=0.01, depth=FAR, why="its size differs")
    assert far.answer == "outside the calibrated range"
    assert far.explanation.startswith("p ≤ 0.01, and its score lies 3 times as far")
    assert far.explanation.endswith("at least 3 times: its size differs")
    assert decide(0.01, (), 0.05, depth=FAR - 0.01).answer == "unknown generator"
    assert decide(0.2, ("a",), 0.05, generator="a", depth=9.0).answer == "known: a"
    few = decide(0.2, ("a",), 0.05, smallest_p=0.2, generator="a", depth=9.0)
    assert few.answer == "outside the calibrated range"


def test_a_blank_image_is_outside_whatever_mild_changes_say() -> None:
    assert blank(MIN_TEXTURE) is None
    decision = blank(0.0)
    assert decision is not None
    assert decision.answer == "outside the calibrated range"
    assert "nearly blank" in decision.explanation
    assert doubt(decision, {"flip": "known: a"}, 8) == decision
