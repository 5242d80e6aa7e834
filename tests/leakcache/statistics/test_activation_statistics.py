"""Statistics of activations: what the encoder sees of unresized pixels, once and checked."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import logm

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheStale, ImageError, WeightsError
from leakcache.images.canonical import canonicalise
from leakcache.images.decode import decode, to_unit_range
from leakcache.images.preprocess import Preprocessing
from leakcache.images.resize import centre_square
from leakcache.statistics.activations import (
    FLOOR,
    KINDS,
    LEAST_VARIANCE,
    LENGTH,
    LENGTHS,
    SCALES,
    VIEWS,
    activation_statistics,
    activation_statistics_of,
    build_activation_statistics,
    has_activation_statistics,
    look,
    look_at,
    stored_activation_statistics,
)
from leakcache.statistics.pixels import (
    PARTS,
    REDUCED,
    build_statistics,
    stored_statistics,
)
from leakcache.store.build import build_cache
from leakcache.store.cache import Cache
from leakcache.store.derived import one_thread_each
from leakcache.store.source_images import SourceImages
from leaknet.config import FeatureConfig
from leaknet.scoring.encode_files import as_split, encode_files
from tests.tiny_data import SMALL, kl_model, picture, save, tiny_model


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


def pixels_of(seed: int, size: tuple[int, int] = (96, 80)) -> np.ndarray:
    return np.asarray(picture(seed, size))


def test_families_are_log_covariances_of_what_the_strided_convolutions_give(tmp_path: Path):
    model = tiny_model(width=64)
    view = pixels_of(1)
    found = activation_statistics(look(Encoder.load(str(save(model, tmp_path / "vae"))), view))[0]
    assert list(LENGTHS) == [f"{kind}_{scale}" for scale in SCALES for kind in KINDS]
    families = dict(
        zip(LENGTHS, np.split(found, np.cumsum(list(LENGTHS.values()))[:-1]), strict=True)
    )
    hidden = (torch.from_numpy(to_unit_range(view[None])) + 1) / 2
    rows, columns = np.triu_indices(64)
    scales = iter(SCALES)
    with torch.inference_mode():
        for layer in model.encoder.layers:
            hidden = layer(hidden)
            if getattr(layer, "stride", None) != (2, 2):
                continue
            maps, scale = hidden[0].double().numpy(), next(scales)
            kinds = (maps, np.diff(maps, axis=2), np.diff(maps, axis=1))
            for kind, values in zip(KINDS, kinds, strict=True):
                matrix = np.cov(values.reshape(64, -1), bias=True)
                floor = FLOOR * np.trace(matrix) / 64 + LEAST_VARIANCE
                expected = logm(matrix + floor * np.eye(64))
                expected *= np.where(np.eye(64), 1, np.sqrt(2))
                np.testing.assert_allclose(
                    families[f"{kind}_{scale}"], expected[rows, columns], atol=2e-3
                )
    assert next(scales, None) is None


@pytest.mark.parametrize("model", [tiny_model(width=80), tiny_model(width=8), kl_model()])
def test_encoders_of_any_kind_and_width_tell_textures_apart(tmp_path: Path, model):
    encoder = Encoder.load(str(save(model, tmp_path / "vae")))
    with one_thread_each():
        first, again, other, blank = (
            activation_statistics(look(encoder, view))[0]
            for view in (
                pixels_of(1),
                pixels_of(1),
                pixels_of(1)[:, ::-1].copy() // 2,
                np.zeros((64, 64, 3), np.uint8),
            )
        )
    assert first.shape == (LENGTH,)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    assert np.isfinite(blank).all()


def test_other_widths_keep_distances(tmp_path: Path):
    """Eight channels as sixty-four: a rotation of them changes no distance of two pictures."""
    model = tiny_model(width=8)
    plain = Encoder.load(str(save(model, tmp_path / "plain")))
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0))).Q
    with torch.no_grad():
        last = [layer for layer in model.encoder.layers if getattr(layer, "stride", 0) == (2, 2)][
            -1
        ]
        last.weight.copy_(torch.einsum("oc,cihw->oihw", turn, last.weight))
    turned = Encoder.load(str(save(model, tmp_path / "turned")))

    def distance(encoder: Encoder) -> float:
        first, other = (activation_statistics(look(encoder, pixels_of(seed)))[0] for seed in (1, 2))
        return float(np.linalg.norm(first - other))

    assert distance(turned) == pytest.approx(distance(plain), rel=1e-3)


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
            assert maps.shape[1:] == (whole[1] // scale, whole[0] // scale)
        for maps, expected in zip(small, look(encoder, np.asarray(large)), strict=True):
            torch.testing.assert_close(maps, expected)


def test_parts_are_the_whole_and_its_corners(vae: Path):
    encoder, generator = Encoder.load(str(vae)), np.random.default_rng(0)
    quarters = [
        generator.integers(0, 8 * 4**k, (96, 128, 3)).astype(np.uint8) for k in (0, 1, 2, 2.45)
    ]
    view = np.concatenate([np.hstack(quarters[:2]), np.hstack(quarters[2:])])
    found = activation_statistics(look(encoder, view), PARTS)
    assert found.shape == (PARTS, LENGTH)
    np.testing.assert_array_equal(found[0], activation_statistics(look(encoder, view))[0])
    alone = np.stack([activation_statistics(look(encoder, quarter))[0] for quarter in quarters])
    distances = np.linalg.norm(found[1:, None] - alone, axis=2)
    np.testing.assert_array_equal(distances.argmin(1), np.arange(4))


def test_activations_that_are_not_finite_are_named(tmp_path: Path, vae: Path, monkeypatch):
    cache, broken = built(tmp_path, vae), tuple(torch.full((8, 9, 9), torch.nan) for _ in SCALES)
    monkeypatch.setattr(Encoder, "activations", lambda *_: broken)
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
        features=FeatureConfig(statistics=True, activations=True),
    )
    split = as_split(files, "open", "?")
    assert split.statistics is not None
    assert split.activations is not None
    np.testing.assert_array_equal(split.statistics.numpy(), stored_statistics(cache, everything))
    np.testing.assert_array_equal(split.activations.numpy(), rows_of(cache))
