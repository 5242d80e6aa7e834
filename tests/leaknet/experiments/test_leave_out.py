"""Which generators are left out together: each equally often, related generators apart."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakcache.errors import ScoringError
from leaknet.experiments.protocols import groups_of, left_out

EIGHT = ["a", "b", "c", "d", "e", "f", "g", "h"]


def test_eight_in_pairs_make_one_round_of_four() -> None:
    assert left_out(EIGHT, 2) == (("a", "e"), ("b", "f"), ("c", "g"), ("d", "h"))


def test_five_in_pairs_walk_the_circle_until_it_closes() -> None:
    blocks = left_out(EIGHT[:5], 2)
    assert len(blocks) == len(set(blocks)) == 5
    assert set(Counter(name for block in blocks for name in block).values()) == {2}


@given(count=st.integers(3, 12), together=st.integers(1, 10), data=st.data())
def test_every_generator_is_left_out_equally_often(
    count: int, together: int, data: st.DataObject
) -> None:
    names = [f"g{number:02d}" for number in range(count)]
    if count - together < 2:
        with pytest.raises(ScoringError, match="fewer than two known classes"):
            left_out(names, together)
        return
    blocks = left_out(data.draw(st.permutations(names)), together)
    assert blocks == left_out(names, together)
    assert {len(set(block)) for block in blocks} == {together}
    times = Counter(name for block in blocks for name in block)
    assert set(times) == set(names)
    assert len(set(times.values())) == 1
    if count % together == 0:
        assert set(times.values()) == {1}


def test_versions_of_one_model_are_not_left_out_together() -> None:
    for block in left_out(["pixart-512", "pixart-1024", "sd-1.5", "sd-2.1"], 2):
        assert len({name.split("-")[0] for name in block}) == 2


def test_photographs_count_among_the_known() -> None:
    assert left_out(["a", "b"], 1, always_known=1) == (("a",), ("b",))
    with pytest.raises(ScoringError, match="fewer than two"):
        left_out(["a", "b"], 2, always_known=3)


def test_groups_of_a_file_are_left_out_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "families.toml"
    path.write_text('# comment\nsome = ["c", "a"]\nother = ["h"]\n')
    assert groups_of(path, EIGHT) == (("a", "c"), ("h",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('some = ["a", "z"]', "z is no known generator; a line is NAME"),
        ("", "names no generators"),
        ("some = []", "names no generators"),
        ("some = [1, 2", "give TOML"),
        ("some = 3", "give TOML"),
        ('some = ["a", "b", "c", "d", "e", "f", "g"]', "fewer than two known"),
    ],
)
def test_a_file_that_names_no_groups_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "families.toml"
    path.write_text(text)
    with pytest.raises(ScoringError, match=message):
        groups_of(path, EIGHT)
