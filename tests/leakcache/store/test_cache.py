"""What has changed since a cache was built, and moments in any order of merging."""

from __future__ import annotations

import os
import shutil
import time
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_data import SMALL

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import AutoencoderIdentity, Encoder
from leakcache.errors import CacheStale
from leakcache.images.decode import Preprocessing
from leakcache.store.build import build_cache
from leakcache.store.cache import Cache, Changes, Moments, find_changes, open_current
from leakcache.store.manifest import CacheManifest, Encoding


@pytest.fixture
def cache(image_folder: Path, encoder: Encoder, tmp_path: Path) -> Cache:
    index = read_index(image_folder)
    return build_cache(
        index, encoder, tmp_path / "c" / "all", split="all", preprocessing=SMALL
    ).cache


def manifest_of(**columns: list[str]) -> CacheManifest:
    cut = Preprocessing()
    identity = AutoencoderIdentity("tiny", "tiny", "here", "AutoencoderTiny", "a" * 64, 4, 1.0, 0.0)
    given = {name: ["a", "b", "c", "d"] for name in ("path", "label", "group", "fold", "sha256")}
    table = {**given, "bytes": [1] * 4, **columns}
    return CacheManifest(Encoding(identity, cut, "fp32", "float16"), "all", "data", "", table)


def test_without_a_cache_nothing_has_changed() -> None:
    changes = find_changes(None, manifest_of())
    assert not changes
    assert str(changes) == "nothing changed"


def test_each_kind_of_change_is_found() -> None:
    then = manifest_of()
    assert not find_changes(then, manifest_of())
    now = manifest_of(path=["a", "b", "c", "e"], sha256=["a", "x", "c", "d"], fold=list("vbcd"))
    assert find_changes(then, now) == Changes(("e",), ("d",), ("b",), ("a",))


@pytest.mark.parametrize("field", ["label", "group", "fold"])
def test_a_change_of_the_table_alone_is_a_move(field: str) -> None:
    now = manifest_of(**{field: ["x", "b", "c", "d"]})
    assert find_changes(manifest_of(), now) == Changes(moved=("a",))


def test_words_count_and_name_a_few() -> None:
    changes = Changes(added=tuple("abcde"), altered=("x",))
    assert str(changes) == "5 added (a, b, c, …); 1 changed (x)"
    assert str(Changes(moved=("m",))) == "1 relabelled or in another fold (m)"


def test_a_cache_of_unchanged_images_opens(cache: Cache, image_folder: Path) -> None:
    later = time.time() + 60
    for path in image_folder.rglob("*.png"):
        os.utime(path, (later, later))
    assert open_current(cache.path).manifest == cache.manifest


@pytest.mark.parametrize("same_size", [True, False])
def test_a_cache_of_altered_images_is_refused(
    same_size: bool, cache: Cache, image_folder: Path
) -> None:
    path = image_folder / cache.paths[1]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if same_size else content + b"0")
    later = time.time() + 60
    os.utime(path, (later, later))
    with pytest.raises(CacheStale, match=rf"1 changed \({cache.paths[1]}\)"):
        open_current(cache.path)


def test_a_cache_stands_alone_without_its_images(cache: Cache, image_folder: Path) -> None:
    shutil.rmtree(image_folder)
    assert len(open_current(cache.path)) == len(cache)


SAMPLES = hnp.arrays(
    np.float64,
    st.tuples(st.integers(0, 40), st.just(2), st.just(3)),
    elements=st.floats(-1e6, 1e6, allow_subnormal=False),
)


def assert_equal(found: Moments, samples: np.ndarray) -> None:
    scale = np.abs(samples).max(initial=1.0)
    assert found.count == len(samples)
    np.testing.assert_allclose(found.mean, samples.mean(axis=0), atol=1e-12 * scale)
    np.testing.assert_allclose(found.variance, samples.var(axis=0), atol=1e-11 * scale**2)


@given(samples=SAMPLES.filter(len), data=st.data())
def test_any_split_in_any_order_equals_numpy(samples: np.ndarray, data: st.DataObject) -> None:
    owner = data.draw(hnp.arrays(np.int64, len(samples), elements=st.integers(0, 5)))
    order = data.draw(st.permutations(range(6)))
    parts = (Moments.of(samples[owner == part]) for part in order)
    assert_equal(reduce(Moments.merge, parts, Moments.empty((2, 3))), samples)


@given(first=SAMPLES, second=SAMPLES, third=SAMPLES.filter(len))
def test_merging_is_associative(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> None:
    a, b, c = Moments.of(first), Moments.of(second), Moments.of(third)
    together = np.concatenate([first, second, third])
    assert_equal(a.merge(b).merge(c), together)
    assert_equal(a.merge(b.merge(c)), together)


def test_no_samples_are_neutral_and_have_no_variance() -> None:
    samples = np.random.default_rng(0).normal(size=(7, 4))
    empty, some = Moments.empty((4,)), Moments.of(samples)
    for merged in (empty.merge(some), some.merge(empty)):
        assert_equal(merged, samples)
    nothing = Moments.of(samples[:0])
    assert nothing.count == 0
    assert empty.merge(nothing).count == 0
    assert np.isnan(nothing.variance).all()
    assert not np.isnan(nothing.mean).any()


def test_a_large_offset_does_not_cancel_the_variance() -> None:
    noise = np.random.default_rng(1).normal(size=(1000, 1))
    parts = [Moments.of(1e8 + part) for part in np.array_split(noise, 9)]
    assert reduce(Moments.merge, parts).variance == pytest.approx(noise.var(axis=0), rel=1e-6)


def test_half_precision_is_summed_exactly_enough() -> None:
    samples = np.random.default_rng(2).normal(3, 1, size=(50_000, 2)).astype(np.float16)
    assert_equal(Moments.of(samples), samples.astype(np.float64))
