"""Pixels beside latents: what the file shows, once, checked, and nothing to the latents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheStale
from leakcache.images.canonical import canonicalise
from leakcache.images.decode import decode, preprocess
from leakcache.images.preprocess import Preprocessing
from leakcache.store.build import build_cache
from leakcache.store.cache import Cache
from leakcache.store.derived import CUTS, build_pixels, check_rows, describe_rows
from leakcache.store.source_images import SourceImages
from leakcache.store.views import CROPS, RESIZED, Views
from tests.tiny_data import SMALL, array_bytes, picture, save, tiny_model, write_pictures

SMALL_CUT = Views(Preprocessing("resize", 64))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Encoder:
    return Encoder.load(str(save(tiny_model(), tmp_path_factory.mktemp("vae"))))


@pytest.fixture
def cache(tmp_path, encoder) -> Cache:
    write_pictures(tmp_path / "images", count=4)
    (tmp_path / "images" / "ada" / "wide.jpg").parent.mkdir(exist_ok=True)
    picture(99, (200, 120)).save(tmp_path / "images" / "ada" / "wide.jpg", quality=90)
    return built(tmp_path, encoder)


def built(root: Path, encoder: Encoder, cut: Preprocessing = SMALL) -> Cache:
    index = read_index(root / "images")
    return build_cache(index, encoder, root / "cache" / "closed", preprocessing=cut).cache


def originals(cache: Cache) -> SourceImages:
    return SourceImages.of(cache, np.arange(len(cache)))


def test_pixels_are_those_of_the_files(cache):
    reports = build_pixels(cache)
    assert [(r.name, r.cut, r.kept) for r in reports] == [
        ("resize256", 9, 0),
        ("crop256x2", 9, 0),
    ]
    files = originals(cache)
    for cut in CUTS:
        rows = files.pixels(cut)
        for row, path in enumerate(files.files):
            expected = preprocess(decode(path.read_bytes()), cut.preprocessing)
            np.testing.assert_array_equal(rows[np.array([row])][0], expected)


def test_a_second_build_decodes_nothing(cache, monkeypatch):
    build_pixels(cache)
    monkeypatch.setattr(SourceImages, "data", lambda self, row: pytest.fail("a file was read"))
    assert [(r.cut, r.kept) for r in build_pixels(cache)] == [(0, 9), (0, 9)]


def test_only_new_images_are_cut(cache, tmp_path, encoder):
    build_pixels(cache)
    picture(500).save(tmp_path / "images" / "bob" / "new.png")
    assert [(r.cut, r.kept) for r in build_pixels(built(tmp_path, encoder))] == [(1, 9), (1, 9)]


def test_latents_and_their_fingerprint_know_nothing_of_pixels(cache, tmp_path, encoder):
    before, fingerprint = array_bytes(cache.path), cache.manifest.fingerprint
    manifest = (cache.path / "manifest.json").read_bytes()
    build_pixels(cache)
    assert array_bytes(cache.path) == before
    again = built(tmp_path, encoder)
    assert again.manifest.fingerprint == fingerprint
    assert (cache.path / "manifest.json").read_bytes() == manifest


def test_a_changed_file_is_refused(cache):
    picture(321).save(originals(cache).files[0])
    with pytest.raises(CacheStale, match="has changed since"):
        build_pixels(cache)
    originals(cache).files[0].unlink()
    with pytest.raises(CacheStale, match="cannot be read"):
        build_pixels(cache)


def test_the_canonical_track_has_pixels_of_its_own(tmp_path, encoder):
    write_pictures(tmp_path / "images", count=4)
    track = Preprocessing(size=64, canonical=True, canonical_size=64)
    files = originals(built(tmp_path, encoder, track))
    rows = files.pixels(SMALL_CUT)
    raw = replace(files, canonical=None)
    for row, path in enumerate(files.files):
        whole = decode(path.read_bytes())
        expected = preprocess(canonicalise(whole, 64), SMALL_CUT.preprocessing)
        np.testing.assert_array_equal(rows[np.array([row])][0], expected)
        assert not np.array_equal(raw.pixels(SMALL_CUT)[np.array([row])][0], expected)
        np.testing.assert_array_equal(
            np.asarray(files.picture(row)), np.asarray(canonicalise(whole, 64))
        )
    assert set(describe_rows(tmp_path / "cache")) == {"resize64", "resize64-canonical64"}


def test_checks_find_damage_and_a_rebuild_mends_it(cache):
    build_pixels(cache)
    folder = cache.path.parent
    assert check_rows(folder, [cache], spot=9).ok
    assert check_rows(folder, [cache], spot=9).recut == 9
    store = originals(cache).store(RESIZED.spec)
    [path] = [p for p in (store.folder / "latents.zarr" / "values" / "c").rglob("*") if p.is_file()]
    content = bytearray(path.read_bytes())
    content[1000] ^= 255
    path.write_bytes(bytes(content))
    found = check_rows(folder, [cache], spot=0)
    assert not found.ok
    assert "resize256: shard 0 is damaged" in found.damaged[0]
    assert [r.cut for r in build_pixels(cache, repair=True)] == [9, 0]
    assert check_rows(folder, [cache], spot=9).ok


def test_checks_find_pixels_of_another_picture(cache):
    files = originals(cache)
    wrong = np.zeros((9, 1, 256, 256, 3), np.uint8)
    files.store(RESIZED.spec).fill(files.hashes, lambda rows: wrong[rows], lambda done: None)
    found = check_rows(cache.path.parent, [cache], spot=3)
    assert len(found.differing) == 3
    assert "its resize256 differs" in found.differing[0]


def test_fresh_throws_away_what_is_there(cache):
    build_pixels(cache)
    assert [r.cut for r in build_pixels(cache, fresh=True)] == [9, 9]


def test_what_is_kept_is_told(cache):
    build_pixels(cache)
    kept = describe_rows(cache.path.parent)
    assert kept["crop256x2"]["shape"] == [2, 256, 256, 3]
    assert kept["crop256x2"]["images"] == 9
    assert kept["crop256x2"]["bytes"] > 9 * 2 * 256 * 256 * 3
    assert CROPS.spec.dtype == kept["crop256x2"]["dtype"] == "uint8"


def test_an_animation_and_a_grey_picture_have_pixels_too(tmp_path, encoder):
    write_pictures(tmp_path / "images", count=3)
    Image.new("L", (64, 64), 7).save(tmp_path / "images" / "ada" / "grey.png")
    files = originals(built(tmp_path, encoder))
    row = [path.name for path in files.files].index("grey.png")
    assert (files.pixels(SMALL_CUT)[np.array([row])] == 7).all()
