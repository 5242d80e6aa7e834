"""Columns by content hash: computed once, whole or ignored, checked whenever they are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leakcache.errors import CacheCorrupt, CacheError, CacheIncomplete, CacheStale, DecoderWarning
from leakcache.files import locked
from leakcache.store.build import repair_metadata
from leakcache.store.column_store import ColumnStore
from leakcache.store.source_images import Rows
from leakcache.store.zarr_column import ColumnSpec, decoder_versions, key_of

SPEC = ColumnSpec("numbers", (2, 3), "float32", {"weights": "ab", "sizes": (1, 2)})
LARGE = ColumnSpec("large", (2**12, 2**11), "uint8")
NAMES = [f"{number:064x}" for number in range(90)]


def values_of(hashes: list[str]) -> np.ndarray:
    """Values that only their own hash can give."""
    seeds = [int(name, 16) for name in hashes]
    return np.array([np.random.default_rng(seed).random((2, 3)) for seed in seeds], np.float32)


def fill(store: ColumnStore, hashes: list[str], spec: ColumnSpec = SPEC) -> list[int]:
    """Fill; the number of images of each call for values."""
    calls = []

    def compute(rows: np.ndarray) -> np.ndarray:
        calls.append(len(rows))
        return values_of([hashes[row] for row in rows.tolist()]).astype(spec.dtype)

    store.fill(spec, hashes, compute, lambda done: None)
    return calls


def shard_file(home: Path, shard: int, spec: ColumnSpec = SPEC) -> Path:
    return home / "store" / "columns" / key_of(spec) / "values.zarr" / "c" / f"{shard}/0/0"


@settings(max_examples=8, deadline=None)
@given(asked=st.lists(st.lists(st.sampled_from(NAMES[:20]), max_size=9), max_size=3))
def test_every_image_is_computed_once_whatever_is_asked(tmp_path_factory, asked):
    store = ColumnStore(tmp_path_factory.mktemp("cache"))
    seen: set[str] = set()
    for hashes in asked:
        assert sum(fill(store, hashes)) == len(set(hashes) - seen)
        seen |= set(hashes)
        if hashes:
            np.testing.assert_array_equal(store.read(SPEC, hashes), values_of(hashes))
    assert store.count(key_of(SPEC)) == len(seen)


def test_another_process_finds_what_was_stored(tmp_path):
    fill(ColumnStore(tmp_path), NAMES)
    store = ColumnStore(tmp_path)
    assert fill(store, NAMES) == []
    order = np.random.default_rng(0).permutation(len(NAMES))
    rows = Rows(store, SPEC, NAMES)
    np.testing.assert_array_equal(rows[order], values_of(NAMES)[order])
    assert rows.shape == (90, 2, 3)
    assert [count for _, _, count in store.shards()] == [32, 32, 26]


def test_rows_on_disk_and_in_memory_are_the_same(tmp_path, monkeypatch):
    store = ColumnStore(tmp_path)
    fill(store, NAMES)
    few = np.array([51, 3, 3, 69])
    kept = Rows(store, SPEC, NAMES)[few]
    monkeypatch.setattr(Rows, "IN_MEMORY", 0)
    np.testing.assert_array_equal(Rows(store, SPEC, NAMES)[few], kept)
    np.testing.assert_array_equal(Rows(store, SPEC, NAMES)[5:9], values_of(NAMES[5:9]))


def test_a_stopped_fill_resumes(tmp_path):
    store = ColumnStore(tmp_path)

    def compute(rows: np.ndarray) -> np.ndarray:
        if rows[0] >= 32:
            raise KeyboardInterrupt
        return values_of([NAMES[row] for row in rows.tolist()])

    with pytest.raises(KeyboardInterrupt):
        store.fill(SPEC, NAMES, compute, lambda done: None)
    # As a kill leaves a shard without a commit.
    shard_file(tmp_path, 1).parent.mkdir(parents=True)
    shard_file(tmp_path, 1).write_bytes(b"half of a shard")
    again = ColumnStore(tmp_path)
    assert again.count(key_of(SPEC)) == 32
    assert sum(fill(again, NAMES)) == len(NAMES) - 32
    np.testing.assert_array_equal(again.read(SPEC, NAMES), values_of(NAMES))
    assert again.damaged() == {}


@pytest.mark.parametrize("fault", ["flip", "empty", "delete"])
def test_damage_is_found_and_repaired_in_place(tmp_path, fault):
    store = ColumnStore(tmp_path)
    fill(store, NAMES)
    path = shard_file(tmp_path, 1)
    before = path.read_bytes()
    if fault == "delete":
        path.unlink()
    else:
        path.write_bytes(b"" if fault == "empty" else before[:100] + b"\x01" + before[101:])
    store = ColumnStore(tmp_path)
    damaged = store.damaged()
    assert list(damaged) == [(key_of(SPEC), 1)]
    with pytest.raises(CacheCorrupt, match=r"shard 1 is damaged.*--repair"):
        store.read(SPEC, NAMES)
    np.testing.assert_array_equal(store.read(SPEC, NAMES[:32]), values_of(NAMES[:32]))
    with store.writing():
        store.forget(damaged)
    assert sum(fill(store, NAMES)) == 32
    np.testing.assert_array_equal(store.read(SPEC, NAMES), values_of(NAMES))
    assert path.read_bytes() == before


def test_damaged_metadata_are_refused_and_their_images_computed_again(tmp_path):
    fill(ColumnStore(tmp_path), NAMES)
    other = replace(SPEC, name="other")
    fill(ColumnStore(tmp_path), NAMES[:3], other)
    files = [p for p in (tmp_path / "store").rglob("*.json") if p.parent.name != "c"]
    assert len(files) == 2 * 2 + 3 + 1  # spec and zarr.json of two columns, four commits
    for file in files:
        before = file.read_bytes()
        for place in range(0, len(before), max(1, len(before) // 20)):
            file.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])
            with pytest.raises(CacheCorrupt, match="--repair"):
                ColumnStore(tmp_path)
        assert len(repair_metadata(tmp_path)) == 1
        store = ColumnStore(tmp_path)
        fill(store, NAMES)
        fill(store, NAMES[:3], other)
        np.testing.assert_array_equal(store.read(SPEC, NAMES), values_of(NAMES))
        np.testing.assert_array_equal(store.read(other, NAMES[:3]), values_of(NAMES[:3]))


def test_what_was_never_computed_is_not_invented(tmp_path):
    store = ColumnStore(tmp_path)
    fill(store, NAMES[:3])
    with pytest.raises(CacheIncomplete, match="lacks numbers"):
        store.read(SPEC, NAMES[:4])


@pytest.mark.parametrize(
    "change",
    [
        {"depends": {"weights": "ac", "sizes": (1, 2)}},
        {"dtype": "float64"},
        {"version": 2},
    ],
)
def test_values_of_other_settings_are_another_column(tmp_path, change):
    fill(ColumnStore(tmp_path), NAMES[:4])
    other = replace(SPEC, **change)
    assert ColumnStore(tmp_path).missing(other, NAMES[:4]) == [0, 1, 2, 3]
    assert other.fingerprint != SPEC.fingerprint


def test_the_decoder_is_part_of_the_fingerprint_and_is_never_mixed(tmp_path):
    old = replace(SPEC, decoder={**decoder_versions(), "Pillow": "9.0.0"})
    assert (old.fingerprint != SPEC.fingerprint, old.settings) == (True, SPEC.settings)
    store = ColumnStore(tmp_path)
    fill(store, NAMES[:4], old)
    store = ColumnStore(tmp_path)
    np.testing.assert_array_equal(store.read(SPEC, NAMES[:4]), values_of(NAMES[:4]))
    with pytest.warns(DecoderWarning, match=r"decoded by Pillow 9\.0\.0, .* this is Pillow"):
        store.warn_other_decoder()
    with pytest.raises(CacheStale, match=r"Pillow 9\.0\.0, .*must not be mixed: .*--fresh"):
        fill(store, NAMES[:5])
    assert fill(store, NAMES[:4]) == []


def test_two_writers_are_refused(tmp_path):
    store = ColumnStore(tmp_path)
    with locked(tmp_path), pytest.raises(CacheError, match="another process is writing"):
        fill(store, NAMES[:1])
    assert fill(store, NAMES[:1]) == [1]


def test_what_another_process_added_meanwhile_is_not_computed_again(tmp_path):
    mine, theirs = ColumnStore(tmp_path), ColumnStore(tmp_path)
    fill(theirs, NAMES[:10])
    assert sum(fill(mine, NAMES[:12])) == 2
    np.testing.assert_array_equal(mine.read(SPEC, NAMES[:12]), values_of(NAMES[:12]))


def test_shards_are_bounded_in_bytes_and_chunks_divide_them():
    assert (LARGE.per_shard, LARGE.per_chunk) == (8, 1)
    assert SPEC.per_shard == 32
    for side in range(1, 300, 7):
        spec = ColumnSpec("x", (side, side, 3), "uint8")
        assert spec.per_shard % spec.per_chunk == 0


def test_slow_columns_have_small_shards(tmp_path):
    slow = replace(SPEC, rows=8)
    assert fill(ColumnStore(tmp_path), NAMES[:20], slow) == [8, 8, 4]
    found = ColumnStore(tmp_path).read(slow, NAMES[5:20])
    np.testing.assert_array_equal(found, values_of(NAMES[5:20]))
