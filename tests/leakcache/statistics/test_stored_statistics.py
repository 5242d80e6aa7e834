"""Statistics beside latents: what the file shows, once, resumed and checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from threadpoolctl import threadpool_info, threadpool_limits

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheStale
from leakcache.images.canonical import canonicalise
from leakcache.images.decode import decode
from leakcache.images.preprocess import Preprocessing
from leakcache.images.resize import centre_square
from leakcache.statistics import pixels as pixel_statistics
from leakcache.statistics.pixel_features import LENGTH
from leakcache.statistics.pixels import (
    MOST,
    REDUCED,
    SPEC,
    VIEWS,
    at_both_sizes,
    build_statistics,
    middle,
    reduced,
    statistics_of,
    stored_statistics,
)
from leakcache.store.build import build_cache
from leakcache.store.cache import Cache
from leakcache.store.derived import check_rows, one_thread_each
from leakcache.store.source_images import SourceImages
from tests.tiny_data import SMALL, array_bytes, picture, save, tiny_model, write_pictures


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Encoder:
    return Encoder.load(str(save(tiny_model(), tmp_path_factory.mktemp("vae"))))


@pytest.fixture
def cache(tmp_path, encoder) -> Cache:
    write_pictures(tmp_path / "images", count=4)
    return built(tmp_path, encoder)


def built(root: Path, encoder: Encoder, cut: Preprocessing = SMALL) -> Cache:
    index = read_index(root / "images")
    return build_cache(index, encoder, root / "cache" / "closed", preprocessing=cut).cache


def everything(cache: Cache) -> np.ndarray | None:
    return stored_statistics(cache, np.arange(len(cache)))


def test_rows_are_those_of_the_files(cache):
    assert everything(cache) is None
    report = build_statistics(cache)
    assert (report.cut, report.kept) == (len(cache), 0)
    rows = everything(cache)
    assert rows is not None
    for row, path in enumerate(SourceImages.of(cache, np.arange(len(cache))).files):
        with one_thread_each():
            expected = statistics_of(decode(path.read_bytes()))
        np.testing.assert_array_equal(rows[row], expected)
    np.testing.assert_array_equal(stored_statistics(cache, np.array([3, 1])), rows[[3, 1]])


def test_only_new_images_are_read_and_until_then_there_are_none(cache, tmp_path, encoder):
    build_statistics(cache)
    picture(500).save(tmp_path / "images" / "bob" / "new.png")
    grown = built(tmp_path, encoder)
    assert everything(grown) is None
    report = build_statistics(grown)
    assert (report.cut, report.kept) == (1, len(cache))
    assert everything(grown) is not None


def test_latents_and_their_fingerprint_know_nothing_of_them(cache, tmp_path, encoder):
    before, manifest = array_bytes(cache.path), (cache.path / "manifest.json").read_bytes()
    build_statistics(cache)
    assert array_bytes(cache.path) == before
    built(tmp_path, encoder)
    assert (cache.path / "manifest.json").read_bytes() == manifest


def test_a_changed_file_is_refused(cache):
    picture(321).save(SourceImages.of(cache, np.arange(1)).files[0])
    with pytest.raises(CacheStale, match="has changed since"):
        build_statistics(cache)


def test_damage_is_found_and_mended(cache):
    build_statistics(cache)
    store = SourceImages.of(cache, np.arange(len(cache))).store(SPEC)
    [path] = [p for p in (store.folder / "latents.zarr" / "values" / "c").rglob("*") if p.is_file()]
    content = bytearray(path.read_bytes())
    content[1000] ^= 255
    path.write_bytes(bytes(content))
    assert "statistics: shard 0 is damaged" in check_rows(cache.path.parent, [cache], 0).damaged[0]
    assert build_statistics(cache, repair=True).cut == len(cache)
    assert check_rows(cache.path.parent, [cache], 0).ok


def test_the_canonical_track_has_statistics_of_its_own(tmp_path, encoder):
    write_pictures(tmp_path / "images", count=3)
    cache = built(tmp_path, encoder, Preprocessing(size=64, canonical=True, canonical_size=64))
    build_statistics(cache)
    rows = everything(cache)
    assert rows is not None
    path = SourceImages.of(cache, np.arange(1)).files[0]
    image = canonicalise(decode(path.read_bytes()), 64)
    with one_thread_each():
        expected = statistics_of(image)
    np.testing.assert_array_equal(rows[0], expected)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), (512, 512)),
        ((2000, 1500), (512, 512)),
        ((300, 1000), (512, 300)),
        ((32, 48), (96, 64)),
        ((1, 1), (64, 64)),
    ],
)
def test_the_middle_is_native_and_bounded(size, expected):
    view = middle(Image.new("RGB", size, (1, 2, 3)))
    assert view.shape == (*expected, 3)
    assert statistics_of(Image.new("RGB", size)).shape == (VIEWS, LENGTH)


def test_linear_algebra_takes_one_thread_where_the_loader_has_several(
    tmp_path, encoder, monkeypatch
):
    seen = []

    def watched(image):
        seen.extend(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")
        return statistics_of(image)

    write_pictures(tmp_path / "images", count=3)
    cache = built(tmp_path, encoder)
    monkeypatch.setattr(pixel_statistics, "statistics_of", watched)
    with threadpool_limits(limits=2, user_api="blas"):
        build_statistics(cache)
        after = [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]
    assert set(seen) == {1}
    assert set(after) == {2}


def test_the_middle_starts_on_the_grid_of_jpeg_blocks():
    pixels = np.zeros((700, 1001, 3), np.uint8)
    pixels[::8, ::8] = 255
    view = middle(Image.fromarray(pixels))
    assert (view[::8, ::8] == 255).all()


def test_a_strip_is_cropped_before_it_is_enlarged():
    pixels = np.zeros((2, 200_000, 3), np.uint8)
    pixels[:, 100_000:] = 200
    view = middle(Image.fromarray(pixels))  # enlarged whole it would take 1.2 GB
    assert view.shape == (64, 512, 3)
    assert (view[:, :200] == 0).all()
    assert (view[:, -200:] == 200).all()


@pytest.mark.parametrize("size", [(1100, 900), (1024, 1024), (512, 512), (300, 200), (40, 90)])
def test_a_picture_and_its_middle_are_reduced_alike(size: tuple[int, int]):
    image = picture(3, size)
    small = reduced(image)
    assert small.shape == (REDUCED, REDUCED, 3)
    np.testing.assert_array_equal(small, reduced(Image.fromarray(middle(image))))
    if min(size) >= 64 and max(size) <= MOST:
        np.testing.assert_array_equal(small, centre_square(image, REDUCED))


def test_a_view_is_computed_once_where_both_sizes_are_one():
    calls: list[tuple[int, ...]] = []
    at_both_sizes(lambda view: calls.append(view.shape), picture(1, (256, 256)))
    assert calls == [(256, 256, 3)]
    at_both_sizes(lambda view: calls.append(view.shape), picture(1, (300, 256)))
    assert calls[1:] == [(256, 300, 3), (256, 256, 3)]
