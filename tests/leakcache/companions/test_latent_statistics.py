"""Statistics of native latents: what the encoder makes of unresized pixels, once and checked."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from leakcache.autoencoder import Encoder
from leakcache.build import build_cache
from leakcache.canonical import canonicalise
from leakcache.errors import CacheStale, ImageError, WeightsError
from leakcache.images import decode, to_unit_range
from leakcache.index import read_index
from leakcache.latent_statistics import (
    build_latent_statistics,
    has_latent_statistics,
    latent_lengths,
    latent_statistics,
    native_latent,
    stored_latent_statistics,
)
from leakcache.originals import Originals
from leakcache.pixel_statistics import PARTS, build_statistics, middle, stored_statistics
from leakcache.statistic_rows import one_thread_each
from leakcache.store import LatentCache
from leakcache.views import Preprocessing
from leaknet.image_files import as_split, encode_files
from leaknet.sections import FeatureConfig
from tests.tiny_data import SMALL, picture, save, tiny_model


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    return save(tiny_model(), tmp_path / "vae")


def built(root: Path, vae: Path, cut: Preprocessing = SMALL) -> LatentCache:
    for number, label in enumerate(("ada", "bob")):
        (root / "images" / label).mkdir(parents=True)
        for row in range(3):
            picture(10 * number + row, (100, 140)).save(root / "images" / label / f"{row}.png")
    encoder = Encoder.load(str(vae))
    folder = root / "cache" / "closed"
    return build_cache(read_index(root / "images"), encoder, folder, preprocessing=cut).cache


def rows_of(cache: LatentCache) -> np.ndarray | None:
    return stored_latent_statistics(cache, np.arange(len(cache)))


def expected_of(encoder: Encoder, pixels: np.ndarray) -> np.ndarray:
    height, width = (side // 8 * 8 for side in pixels.shape[:2])
    z0 = encoder.encode(torch.from_numpy(to_unit_range(pixels[None, :height, :width])))
    with one_thread_each():
        return latent_statistics(z0[0].numpy())


def test_rows_are_those_of_native_latents_whatever_the_cache_resized(tmp_path: Path, vae: Path):
    cache = built(tmp_path, vae)
    assert rows_of(cache) is None
    report = build_latent_statistics(cache)
    assert (report.cut, report.kept) == (len(cache), 0)
    rows, encoder = rows_of(cache), Encoder.load(str(vae))
    assert rows is not None
    assert rows.shape == (len(cache), PARTS, sum(latent_lengths(4).values()))
    for row, path in zip(rows, Originals.of(cache, np.arange(len(cache))).files, strict=True):
        found = expected_of(encoder, middle(decode(path.read_bytes())))
        np.testing.assert_allclose(row, found, rtol=2e-3, atol=2e-3)
    assert build_latent_statistics(cache).cut == 0


def test_the_canonical_track_reads_canonical_pixels(tmp_path: Path, vae: Path):
    cache = built(tmp_path, vae, Preprocessing(size=64, canonical=True, canonical_size=64))
    build_latent_statistics(cache)
    rows = rows_of(cache)
    assert rows is not None
    image = decode(Originals.of(cache, np.arange(1)).files[0].read_bytes())
    found = expected_of(Encoder.load(str(vae)), middle(canonicalise(image, 64)))
    np.testing.assert_allclose(rows[0], found, rtol=2e-3, atol=2e-3)


def test_views_are_the_whole_and_its_corners():
    z0 = np.random.default_rng(0).normal(size=(4, 20, 31)).astype(np.float32)
    corners = [z0[:, :10, :15], z0[:, :10, 16:], z0[:, 10:, :15], z0[:, 10:, 16:]]
    found = latent_statistics(z0)
    assert found.shape[0] == PARTS == 1 + len(corners)
    for row, corner in zip(found[1:], corners, strict=True):
        np.testing.assert_array_equal(row, latent_statistics(corner)[0])


def test_equal_contrast_ignores_how_strong_a_texture_is_and_nothing_else():
    z0 = np.random.default_rng(1).normal(size=(4, 32, 32)).astype(np.float32)
    plain, normalised = np.split(latent_statistics(z0)[0], 2)
    louder, same = np.split(latent_statistics(3 * z0)[0], 2)
    np.testing.assert_allclose(normalised, same, atol=2e-3)
    assert np.abs(louder - plain).max() > 1
    smooth = (z0 + np.roll(z0, 1, axis=2)) / 2
    assert np.abs(np.split(latent_statistics(smooth)[0], 2)[1] - normalised).max() > 0.3


@pytest.mark.parametrize("channels", [4, 16])
def test_blank_latents_of_any_kind_stay_finite(channels: int):
    found = latent_statistics(np.zeros((channels, 8, 8), np.float32))
    assert found.shape == (PARTS, sum(latent_lengths(channels).values()))
    values = {4: 4 * 3 * 3, 16: 16 * 2 * 2}[channels]  # of a patch, over all channels
    assert set(latent_lengths(channels).values()) == {values * (values + 1) // 2}
    assert np.isfinite(found).all()


def test_latents_that_are_not_finite_are_named(tmp_path: Path, vae: Path, monkeypatch):
    cache, broken = built(tmp_path, vae), torch.full((1, 4, 12, 17), torch.nan)
    monkeypatch.setattr(Encoder, "encode_bytes", lambda *_: broken)
    with pytest.raises(ImageError, match="not finite"):
        native_latent(Encoder.load(str(vae)), np.zeros((96, 136, 3), np.uint8))
    with pytest.raises(ImageError, match=r"images/.*: the encoder gave"):
        build_latent_statistics(cache)


def test_other_weights_and_changed_files_are_refused(tmp_path: Path, vae: Path):
    cache = built(tmp_path, vae)
    shutil.rmtree(vae)
    with pytest.raises(WeightsError, match=r"autoencoder vae is not at .* any more: put it back"):
        build_latent_statistics(cache)
    save(tiny_model(seed=5), vae)
    with pytest.raises(CacheStale, match="other weights"):
        build_latent_statistics(cache)
    assert not has_latent_statistics(cache)


def test_what_is_there_is_never_encoded_again(tmp_path: Path, vae: Path):
    cache = built(tmp_path, vae)
    build_latent_statistics(cache)
    picture(500, (100, 140)).save(tmp_path / "images" / "bob" / "new.png")
    grown = build_cache(
        read_index(tmp_path / "images"), Encoder.load(str(vae)), cache.path, preprocessing=SMALL
    ).cache
    assert not has_latent_statistics(grown)
    report = build_latent_statistics(grown)
    assert (report.cut, report.kept) == (1, len(grown) - 1)
    assert has_latent_statistics(grown)


@pytest.mark.parametrize("canonical", [False, True])
def test_a_file_has_the_statistics_that_its_cache_keeps(tmp_path: Path, vae: Path, canonical: bool):
    cut = Preprocessing(size=64, canonical=canonical, canonical_size=64) if canonical else SMALL
    cache = built(tmp_path, vae, cut)
    build_statistics(cache)
    build_latent_statistics(cache)
    everything = np.arange(len(cache))
    files = encode_files(
        Encoder.load(str(vae)),
        cache.manifest.encoding,
        Originals.of(cache, everything).files,
        features=FeatureConfig(statistics=True, native_latents=True),
    )
    split = as_split(files, "open", "?")
    assert split.statistics is not None
    assert split.latent_statistics is not None
    np.testing.assert_array_equal(split.statistics.numpy(), stored_statistics(cache, everything))
    np.testing.assert_array_equal(split.latent_statistics.numpy(), rows_of(cache))
