"""Files are whole or absent, JSON has no NaN, and a second writer is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakcache.errors import CacheError
from leakcache.files import (
    json_text,
    locked,
    partial_of,
    read_checked,
    replace_file,
    write_checked,
    write_json,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    write_json(file, {"a": 1})

    def fail(partial: Path) -> None:
        partial.write_text("half")
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        replace_file(file, fail)
    assert json.loads(file.read_text()) == {"a": 1}
    partial_of(file).unlink()
    write_json(file, {"a": 3})
    assert json.loads(file.read_text()) == {"a": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_json_has_plain_values_and_no_nan() -> None:
    content = {"a": np.float32(0.5), "b": np.arange(2), "c": float("nan"), "d": (1, np.inf)}
    assert json.loads(json_text(content)) == {"a": 0.5, "b": [0, 1], "c": None, "d": [1, None]}
    assert json.loads(json_text({1: Path("x")})) == {"1": "x"}


@given(content=st.dictionaries(st.text(), VALUES, max_size=3))
def test_checked_content_reads_back(tmp_path_factory, content) -> None:
    file = tmp_path_factory.mktemp("checked") / "x.json"
    write_checked(file, content)
    read = read_checked(file)
    assert json_text(read) == json_text(content)
    assert set(json.loads(file.read_text())) == {"sha256", "content"}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sha256": "0", "content": {}}'])
def test_other_content_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"."):
        read_checked(tmp_path / "x.json")


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(CacheError, match="wait for it or stop it"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass
