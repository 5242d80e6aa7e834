"""Rows by content hash: computed once, whole or ignored, checked on every read."""

from __future__ import annotations

import fcntl
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leakcache.errors import CacheCorrupt, CacheError, CacheStale
from leakcache.store.array_store import Rows, RowSpec, RowStore, stored_spec

SPEC = RowSpec("numbers", (2, 3), "float32", {"weights": "ab", "sizes": (1, 2)})
LARGE = RowSpec("large", (2**12, 2**10), "uint8")
NAMES = [f"{number:064x}" for number in range(700)]


def values_of(hashes: list[str]) -> np.ndarray:
    """A row that only its own hash can give."""
    seeds = [int(name, 16) for name in hashes]
    return np.array([np.random.default_rng(seed).random((2, 3)) for seed in seeds], np.float32)


def fill(store: RowStore, hashes: list[str]) -> list[int]:
    """Fill; the number of rows of each call for values."""
    calls = []

    def compute(rows: np.ndarray) -> np.ndarray:
        calls.append(len(rows))
        return values_of([hashes[row] for row in rows.tolist()])

    store.fill(hashes, compute, lambda done: None)
    return calls


def shard_file(folder: Path, shard: int) -> Path:
    return folder / "latents.zarr" / "values" / "c" / str(shard) / "0" / "0"


@settings(max_examples=8, deadline=None)
@given(asked=st.lists(st.lists(st.sampled_from(NAMES[:20]), max_size=9), max_size=3))
def test_every_image_is_computed_once_whatever_is_asked(tmp_path_factory, asked):
    store = RowStore(tmp_path_factory.mktemp("rows"), SPEC)
    seen: set[str] = set()
    for hashes in asked:
        assert sum(fill(store, hashes)) == len(set(hashes) - seen)
        seen |= set(hashes)
        np.testing.assert_array_equal(
            store.read(hashes), values_of(hashes).reshape(-1, *SPEC.shape)
        )
    assert len(store) == len(seen)


def test_another_process_finds_what_was_kept(tmp_path):
    fill(RowStore(tmp_path, SPEC), NAMES)
    store = RowStore(tmp_path, SPEC)
    assert fill(store, NAMES) == []
    order = np.random.default_rng(0).permutation(len(NAMES))
    rows = Rows(store, NAMES)
    np.testing.assert_array_equal(rows[order], values_of(NAMES)[order])
    assert rows.shape == (700, 2, 3)
    assert store.shards == 3


def test_rows_on_disk_and_in_memory_are_the_same(tmp_path, monkeypatch):
    store = RowStore(tmp_path, SPEC)
    fill(store, NAMES)
    few = np.array([511, 3, 3, 699])
    kept = Rows(store, NAMES)[few]
    monkeypatch.setattr(Rows, "IN_MEMORY", 0)
    np.testing.assert_array_equal(Rows(store, NAMES)[few], kept)
    np.testing.assert_array_equal(Rows(store, NAMES)[5:9], values_of(NAMES[5:9]))


def test_a_stopped_fill_goes_on_where_it_was(tmp_path):
    store = RowStore(tmp_path, SPEC)

    def compute(rows: np.ndarray) -> np.ndarray:
        if rows[0] >= 256:
            raise KeyboardInterrupt
        return values_of([NAMES[row] for row in rows.tolist()])

    with pytest.raises(KeyboardInterrupt):
        store.fill(NAMES, compute, lambda done: None)
    # As a kill leaves a shard that is not marked as done.
    shard_file(tmp_path, 1).parent.mkdir(parents=True)
    shard_file(tmp_path, 1).write_bytes(b"half of a shard")
    again = RowStore(tmp_path, SPEC)
    assert len(again) == 256
    assert sum(fill(again, NAMES)) == len(NAMES) - 256
    np.testing.assert_array_equal(again.read(NAMES), values_of(NAMES))
    assert again.damaged() == {}


@pytest.mark.parametrize("fault", ["flip", "empty", "delete"])
def test_damage_is_found_and_mended(tmp_path, fault):
    store = RowStore(tmp_path, SPEC)
    fill(store, NAMES)
    path = shard_file(tmp_path, 1)
    content = bytearray(path.read_bytes())
    if fault == "flip":
        content[100] ^= 1
        path.write_bytes(bytes(content))
    elif fault == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    store = RowStore(tmp_path, SPEC)
    assert list(store.damaged()) == [1]
    with pytest.raises(CacheCorrupt, match="shard 1"):
        store.read(NAMES)
    np.testing.assert_array_equal(store.read(NAMES[:256]), values_of(NAMES[:256]))
    store.forget(list(store.damaged()))
    assert sum(fill(store, NAMES)) == 256
    np.testing.assert_array_equal(store.read(NAMES), values_of(NAMES))


def test_rows_that_were_never_computed_are_not_invented(tmp_path):
    store = RowStore(tmp_path, SPEC)
    fill(store, NAMES[:3])
    with pytest.raises(CacheCorrupt, match="no row of image"):
        store.read(NAMES[:4])


def test_other_settings_are_refused(tmp_path):
    RowStore(tmp_path, SPEC)
    assert stored_spec(tmp_path).fingerprint == SPEC.fingerprint
    for other in (
        RowSpec("numbers", (2, 3), "float32", {"weights": "ac", "sizes": (1, 2)}),
        RowSpec("numbers", (3, 2), "float32", SPEC.depends),
        RowSpec("numbers", (2, 3), "float64", SPEC.depends),
    ):
        with pytest.raises(CacheStale, match="other settings"):
            RowStore(tmp_path, other)


def test_a_damaged_description_is_said_so(tmp_path):
    RowStore(tmp_path, SPEC)
    (tmp_path / "rows.json").write_text("{")
    with pytest.raises(CacheCorrupt, match="delete this folder"):
        RowStore(tmp_path, SPEC)


def test_two_writers_keep_apart(tmp_path):
    store = RowStore(tmp_path, SPEC)
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CacheError, match="another process"):
            fill(store, NAMES[:1])
    assert fill(store, NAMES[:1]) == [1]


def test_what_another_process_added_meanwhile_is_not_computed_again(tmp_path):
    mine, theirs = RowStore(tmp_path, SPEC), RowStore(tmp_path, SPEC)
    fill(theirs, NAMES[:10])
    assert sum(fill(mine, NAMES[:12])) == 2
    np.testing.assert_array_equal(mine.read(NAMES[:12]), values_of(NAMES[:12]))


def test_shards_are_bounded_in_bytes_and_chunks_divide_them():
    assert (LARGE.per_shard, LARGE.per_chunk) == (16, 1)
    assert SPEC.per_shard == 256
    for side in range(1, 300, 7):
        spec = RowSpec("x", (side, side, 3), "uint8")
        assert spec.per_shard % spec.per_chunk == 0


def test_slow_rows_are_kept_in_small_shards_and_old_stores_are_read(tmp_path):
    slow = replace(SPEC, shard=8)
    store = RowStore(tmp_path / "slow", slow)
    assert fill(store, NAMES[:20]) == [8, 8, 4]
    np.testing.assert_array_equal(
        RowStore(tmp_path / "slow", slow).read(NAMES[5:20]), values_of(NAMES[5:20])
    )
    with pytest.raises(CacheStale):
        RowStore(tmp_path / "slow", SPEC)
    fill(RowStore(tmp_path / "old", SPEC), NAMES[:20])
    described = tmp_path / "old" / "rows.json"
    described.write_text(
        json.dumps({k: v for k, v in json.loads(described.read_text()).items() if k != "shard"})
    )
    np.testing.assert_array_equal(
        RowStore(tmp_path / "old", SPEC).read(NAMES[:20]), values_of(NAMES[:20])
    )
