"""Statistics of activations: what the encoder sees of unresized pixels, once and checked."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheStale, ImageError, WeightsError
from leakcache.images.canonical import canonicalise
from leakcache.images.decode import decode
from leakcache.images.preprocess import Preprocessing
from leakcache.images.resize import centre_square
from leakcache.statistics.activation_features import LENGTH, SCALES
from leakcache.statistics.activations import (
    VIEWS,
    activation_statistics_of,
    build_activation_statistics,
    encoder_activations,
    has_activation_statistics,
    look_at,
    stored_activation_statistics,
)
from leakcache.statistics.pixels import (
    REDUCED,
    build_statistics,
    stored_statistics,
)
from leakcache.store.build import build_cache
from leakcache.store.cache import Cache
from leakcache.store.derived import one_thread_each
from leakcache.store.source_images import SourceImages
from leaknet.scoring.encode_files import as_split, encode_files
from tests.tiny_data import SMALL, picture, save, tiny_model


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    return save(tiny_model(), tmp_path / "vae")


def built(root: Path, vae: Path, cut: Preprocessing = SMALL) -> Cache:
    for number, label in enumerate(("ada", "bob")):
        (root / "images" / label).mkdir(parents=True)
        for row in range(3):
            picture(10 * number + row, (100, 140)).save(root / "images" / label / f"{row}.png")
    encoder = Encoder.load(str(vae))
    folder = root / "cache" / "closed"
    return build_cache(read_index(root / "images"), encoder, folder, preprocessing=cut).cache


def rows_of(cache: Cache) -> np.ndarray | None:
    return stored_activation_statistics(cache, np.arange(len(cache)))


def expected_of(encoder: Encoder, image: Image.Image) -> np.ndarray:
    with one_thread_each():
        return activation_statistics_of(look_at(encoder, image))


def test_rows_are_those_of_native_and_reduced_pixels_whatever_the_cache_resized(
    tmp_path: Path, vae: Path
):
    cache = built(tmp_path, vae)
    assert rows_of(cache) is None
    report = build_activation_statistics(cache)
    assert (report.cut, report.kept) == (len(cache), 0)
    rows, encoder = rows_of(cache), Encoder.load(str(vae))
    assert rows is not None
    assert rows.shape == (len(cache), VIEWS, LENGTH)
    for row, path in zip(rows, SourceImages.of(cache, np.arange(len(cache))).files, strict=True):
        found = expected_of(encoder, decode(path.read_bytes()))
        np.testing.assert_allclose(row, found, rtol=2e-3, atol=2e-3)
    assert build_activation_statistics(cache).cut == 0


def test_the_canonical_track_reads_canonical_pixels(tmp_path: Path, vae: Path):
    cache = built(tmp_path, vae, Preprocessing(size=64, canonical=True, canonical_size=64))
    build_activation_statistics(cache)
    rows = rows_of(cache)
    assert rows is not None
    image = decode(SourceImages.of(cache, np.arange(1)).files[0].read_bytes())
    found = expected_of(Encoder.load(str(vae)), canonicalise(image, 64))
    np.testing.assert_allclose(rows[0], found, rtol=2e-3, atol=2e-3)


def test_what_is_brought_to_one_size_is_seen_enlarged(vae: Path):
    """Also where the picture has that size already."""
    encoder = Encoder.load(str(vae))
    for size, whole in (((300, 260), (296, 256)), ((256, 256), (256, 256))):
        image = picture(1, size)
        native, small = look_at(encoder, image)
        square = Image.fromarray(centre_square(image, REDUCED))
        large = square.resize((512, 512), Image.Resampling.LANCZOS)
        for maps, scale in zip(native, SCALES, strict=True):
            assert maps.shape[2:] == (whole[1] // scale, whole[0] // scale)
        for maps, expected in zip(
            small, encoder_activations(encoder, np.asarray(large)), strict=True
        ):
            torch.testing.assert_close(maps, expected)


def test_activations_that_are_not_finite_are_named(tmp_path: Path, vae: Path, monkeypatch):
    cache, broken = built(tmp_path, vae), tuple(torch.full((1, 8, 9, 9), torch.nan) for _ in SCALES)
    encode = lambda *_: (torch.zeros(1, 4, 9, 9), broken)  # noqa: E731
    monkeypatch.setattr(Encoder, "encode_with_activations", encode)
    with pytest.raises(ImageError, match=r"images/.*: the encoder gave activations"):
        build_activation_statistics(cache)


def test_other_weights_and_changed_files_are_refused(tmp_path: Path, vae: Path):
    cache = built(tmp_path, vae)
    shutil.rmtree(vae)
    with pytest.raises(WeightsError, match=r"autoencoder vae is not at .* any more: put it back"):
        build_activation_statistics(cache)
    save(tiny_model(seed=5), vae)
    with pytest.raises(CacheStale, match="other weights"):
        build_activation_statistics(cache)
    assert not has_activation_statistics(cache)


def test_what_is_there_is_never_encoded_again(tmp_path: Path, vae: Path):
    cache = built(tmp_path, vae)
    build_activation_statistics(cache)
    picture(500, (100, 140)).save(tmp_path / "images" / "bob" / "new.png")
    grown = build_cache(
        read_index(tmp_path / "images"), Encoder.load(str(vae)), cache.path, preprocessing=SMALL
    ).cache
    assert not has_activation_statistics(grown)
    report = build_activation_statistics(grown)
    assert (report.cut, report.kept) == (1, len(grown) - 1)
    assert has_activation_statistics(grown)


@pytest.mark.parametrize("canonical", [False, True])
def test_a_file_has_the_statistics_that_its_cache_keeps(tmp_path: Path, vae: Path, canonical: bool):
    cut = Preprocessing(size=64, canonical=canonical, canonical_size=64) if canonical else SMALL
    cache = built(tmp_path, vae, cut)
    build_statistics(cache)
    build_activation_statistics(cache)
    everything = np.arange(len(cache))
    files = encode_files(
        Encoder.load(str(vae)),
        cache.manifest.encoding,
        SourceImages.of(cache, everything).files,
        columns=["pixel_statistics", "activation_statistics"],
    )
    split = as_split(files, "open", "?")
    pixels, activations = split["pixel_statistics"], split["activation_statistics"]
    np.testing.assert_array_equal(pixels.numpy(), stored_statistics(cache, everything))
    np.testing.assert_array_equal(activations.numpy(), rows_of(cache))
