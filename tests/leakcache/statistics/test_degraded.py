"""Statistics of degraded copies: of training images alone, drawn by content, repeatable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheStale
from leakcache.images.decode import decode
from leakcache.images.preprocess import Preprocessing
from leakcache.statistics.activation_features import LENGTH as SEEN
from leakcache.statistics.activations import look_at, row_of
from leakcache.statistics.degraded import (
    CHAINS,
    COPIES,
    ROOM,
    build_degraded,
    build_degraded_activations,
    copies_of,
    degraded_spec,
    stored_degraded,
    stored_degraded_activations,
)
from leakcache.statistics.pixel_features import LENGTH
from leakcache.statistics.pixels import middle, reduced, statistics
from leakcache.store.build import build_cache
from leakcache.store.cache import Cache
from leakcache.store.derived import one_thread_each
from tests.tiny_data import picture, save, tiny_model, write_pictures


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    write_pictures(tmp_path / "images", count=6)
    encoder = Encoder.load(str(save(tiny_model(), tmp_path / "vae")))
    index = read_index(tmp_path / "images")
    folder = tmp_path / "cache" / "closed"
    return build_cache(index, encoder, folder, preprocessing=Preprocessing(size=64)).cache


def test_rows_are_those_of_the_copies_and_of_training_images_alone(cache: Cache):
    train = cache.rows("train")
    report = build_degraded(cache)
    assert (report.cut, report.kept) == (len(train), 0)
    rows = stored_degraded(cache, train)
    assert rows is not None
    assert rows.shape == (len(train), COPIES, 2, LENGTH)
    path = Path(cache.manifest.data) / str(cache.paths[train[0]])
    copies = copies_of(decode(path.read_bytes()), str(cache.hashes[train[0]]))
    with one_thread_each():
        native = np.stack([statistics(middle(copy)) for copy in copies]).astype(np.float16)
        small = np.stack([statistics(reduced(copy)) for copy in copies]).astype(np.float16)
    np.testing.assert_array_equal(rows[0, :, 0], native)
    np.testing.assert_array_equal(rows[0, :, 1], small)
    assert stored_degraded(cache, cache.rows("val")) is None
    assert build_degraded(cache).cut == 0


def test_activations_are_those_of_the_same_copies(cache: Cache):
    train = cache.rows("train")
    assert stored_degraded_activations(cache, train) is None
    report = build_degraded_activations(cache)
    assert (report.cut, report.kept) == (len(train), 0)
    rows = stored_degraded_activations(cache, train)
    assert rows is not None
    assert rows.shape == (len(train), COPIES, 2, SEEN)
    path = Path(cache.manifest.data) / str(cache.paths[train[0]])
    encoder = Encoder.load(cache.manifest.encoding.autoencoder.spec)
    for row, copy in zip(
        rows[0], copies_of(decode(path.read_bytes()), str(cache.hashes[train[0]])), strict=True
    ):
        with one_thread_each():
            found = [row_of(seen, 1)[0] for seen in look_at(encoder, copy)]
        np.testing.assert_allclose(row, np.stack(found), rtol=2e-3, atol=2e-3)
    assert build_degraded_activations(cache).cut == 0
    assert build_degraded_activations(cache, fresh=True).cut == len(train)


def test_activations_of_copies_depend_on_the_encoder_and_on_what_is_drawn(cache: Cache):
    encoding = cache.manifest.encoding
    spec = degraded_spec(encoding)
    other = replace(encoding.autoencoder, weights_sha256="f" * 64)
    assert degraded_spec(replace(encoding, autoencoder=other)).name != spec.name
    assert spec.depends["chains"] == [list(chain) for chain in CHAINS]
    assert spec.depends["autoencoder"] == encoding.autoencoder.weights_sha256


def test_copies_differ_and_repeat():
    image, other = picture(1, (96, 80)), picture(2, (96, 80))
    first, again = copies_of(image, "ab" * 32), copies_of(image, "ab" * 32)
    assert len(first) == COPIES
    assert len({copy.tobytes() for copy in [image, *first]}) == COPIES + 1
    assert [copy.tobytes() for copy in first] == [copy.tobytes() for copy in again]
    assert [copy.tobytes() for copy in first] != [
        copy.tobytes() for copy in copies_of(image, "cd" * 32)
    ]
    assert first[-1].tobytes() != copies_of(other, "ab" * 32)[-1].tobytes()
    assert len({seed for _, seed in CHAINS}) == len(CHAINS)


def test_large_pictures_are_cut_before_they_are_degraded():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 9000, 3), np.uint8))
    assert max(max(copy.size) for copy in copies_of(image, "ef" * 32)) <= 4 * ROOM


def test_an_image_that_changed_is_refused(cache: Cache):
    path = Path(cache.manifest.data) / str(cache.paths[cache.rows("train")[0]])
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(CacheStale, match="has changed"):
        build_degraded(cache)
