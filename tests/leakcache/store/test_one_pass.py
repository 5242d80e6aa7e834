"""One pass: a file is opened once, decoded once, every view encoded once; all columns or none."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import SMALL, array_bytes, tiny_image, write_images

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheIncomplete, CacheStale
from leakcache.images.decode import Preprocessing, decode
from leakcache.images.decode import decoded as decoding
from leakcache.store import one_pass
from leakcache.store.build import BuildReport, build_cache, ensure_columns, fill_columns
from leakcache.store.cache import Cache
from leakcache.store.column import Column, ColumnComputer, DecodedImage
from leakcache.store.columns import COLUMNS
from leakcache.store.zarr_column import ColumnSpec
from leaknet.config import preset

BEST = preset("best").columns()


class Counting(Encoder):
    """An encoder that counts every view that goes through it, by its content."""

    seen: Counter[str]

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        for view in pixels:
            self.seen[hashlib.sha256(view.contiguous().numpy().tobytes()).hexdigest()] += 1
        return super().encode(pixels)


@pytest.fixture
def counting(encoder: Encoder) -> Counting:
    found = Counting(encoder.network, encoder.identity, "fp32", "cpu")
    found.seen = Counter()
    return found


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of images of 256 pixels, the size of a view, and of others."""
    root = write_images(tmp_path / "images", count=3)
    for number, label in enumerate(("ada", "bob")):
        for size in ((256, 256), (300, 280)):
            image = tiny_image(100 + 10 * number + size[0], size)
            image.save(root / label / f"{size[0]}.png")
    return root


def build(root: Path, encoder: Encoder, home: Path, **options: Any) -> BuildReport:
    given = {"preprocessing": Preprocessing(), "columns": BEST, **options}
    return build_cache(read_index(root), encoder, home / "closed", **given)


def test_every_file_is_read_and_decoded_once_and_every_view_encoded_once(
    images: Path, counting: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Counter[Path] = Counter()
    decoded: Counter[str] = Counter()
    index, plain = read_index(images), Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        read[path] += path.is_relative_to(images)
        return plain(path)

    def counted(data: bytes) -> AbstractContextManager[Image.Image]:
        decoded[hashlib.sha256(data).hexdigest()] += 1
        return decoding(data)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr(one_pass, "decoded", counted)
    cache = build_cache(index, counting, tmp_path / "c" / "closed", columns=BEST).cache
    assert [count for count in read.values() if count] == [1] * len(cache)
    assert set(decoded.values()) == {1}
    assert len(decoded) == len(cache)
    assert set(counting.seen.values()) == {1}
    # Of an image: the latent's view, the native one, the enlarged one, and two of each copy. Where
    # the image is 256 pixels wide and high the first two are one.
    train = len(cache.rows("train"))
    square = sum(path.endswith("256.png") for path in cache.paths.tolist())
    assert len(counting.seen) == 3 * len(cache) - square + 4 * train


def test_values_are_those_of_each_image_alone(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    cache = build(images, encoder, tmp_path / "c", columns=COLUMNS).cache
    encoding = cache.manifest.encoding
    compute = ColumnComputer(list(COLUMNS.values()), encoding, encoder)
    for row, path in enumerate(cache.paths.tolist()):
        image = decode((images / path).read_bytes())
        one = DecodedImage.of(image, str(cache.hashes[row]), encoding.preprocessing)
        place = np.array([row])
        columns = [c for name, c in COLUMNS.items() if not cache.lacking(name, place)]
        assert len(columns) == 7 if cache.folds[row] == "train" else 5
        (values,) = compute([{column.name: column.views(one) for column in columns}])
        assert isinstance(values, dict)
        for name, value in values.items():
            found = COLUMNS[name].read(value)
            np.testing.assert_array_equal(cache.column(name, place)[0], found, err_msg=name)


def test_adding_a_column_computes_that_column_alone(
    images: Path, counting: Counting, tmp_path: Path
) -> None:
    home = tmp_path / "c"
    first = build(images, counting, home, columns=["z0"]).cache
    before, views = array_bytes(home), len(counting.seen)
    report = build(images, counting, home, columns=["z0", "pixel_statistics"])
    assert report.columns == {"z0": 0, "pixel_statistics": len(first)}
    assert len(counting.seen) == views
    assert before.items() <= array_bytes(home).items()
    assert report.cache.manifest.fingerprint == first.manifest.fingerprint
    with pytest.raises(CacheIncomplete) as caught:
        ensure_columns([report.cache], BEST, fill=False)
    assert (
        f"lacks activation_statistics, degraded_pixel_statistics, degraded_activation_statistics; "
        f"run `leak cache build --data {images} --cache {home} --vae "
    ) in str(caught.value)


def test_a_finished_cache_is_filled_and_changed_files_are_refused(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    cache = build(images, encoder, tmp_path / "c", columns=["z0"]).cache
    assert not cache.has("pixel_statistics")
    ensure_columns([cache], ["pixel_statistics"], fill=True)
    assert cache.has("pixel_statistics")
    assert Cache.open(cache.path).has("pixel_statistics")
    path = images / str(cache.paths[0])
    tiny_image(900).save(path)
    with pytest.raises(CacheStale, match="has changed since"):
        fill_columns(cache, ["activation_statistics"])
    path.unlink()
    with pytest.raises(CacheStale, match=r"No such file or directory\) any more"):
        fill_columns(cache, ["pixels_resize256"])


def test_splits_share_the_columns_of_the_same_content(
    images: Path, counting: Counting, tmp_path: Path
) -> None:
    build(images, counting, tmp_path / "c", columns=["z0"])
    again = build_cache(read_index(images), counting, tmp_path / "c" / "other")
    assert (again.computed, again.stored) == (0, 10)
    assert set(counting.seen.values()) == {1}


class Stopping(Column):
    """A column whose values raise for one image."""

    name = "stopping"
    left = 5

    def spec(self, encoding):
        return ColumnSpec(self.name, (1,), "float32")

    def views(self, image):
        return COLUMNS["z0"].views(image)

    def values(self, views):
        Stopping.left -= 1
        if Stopping.left < 0:
            raise KeyboardInterrupt
        return np.zeros(1)


def test_an_image_has_all_columns_of_a_build_or_none(
    images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {**COLUMNS, "stopping": Stopping()}
    monkeypatch.setattr("leakcache.store.columns.COLUMNS", table)
    monkeypatch.setattr(ColumnSpec, "per_shard", 2)
    monkeypatch.setattr(one_pass, "IMAGES", 2)
    names = ["z0", "pixel_statistics", "stopping"]
    with pytest.raises(KeyboardInterrupt):
        build(images, encoder, tmp_path / "c", columns=names, preprocessing=SMALL)
    Stopping.left = 10**9
    report = build(images, encoder, tmp_path / "c", columns=names, preprocessing=SMALL)
    assert report.columns == {"z0": 6, "pixel_statistics": 6, "stopping": 6}
    assert report.stored == 4
    build(images, encoder, tmp_path / "w", columns=names, preprocessing=SMALL)
    assert array_bytes(tmp_path / "c") == array_bytes(tmp_path / "w")


def test_a_column_that_is_not_finite_refuses_the_image(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    class Overflowing(Encoder):
        def encode_with_activations(self, views):
            z0, maps = super().encode_with_activations(views)
            bright = views.float().mean((1, 2, 3)) > 250
            return z0, tuple(m.where(~bright[:, None, None, None], torch.nan) for m in maps)

    Image.new("RGB", (64, 64), (255, 255, 255)).save(images / "bob" / "white.png")
    overflowing = Overflowing(encoder.network, encoder.identity, "fp32", "cpu")
    columns = ["z0", "activation_statistics"]
    cache = build(images, overflowing, tmp_path / "c", columns=columns).cache
    assert dict(cache.manifest.rejects) == {
        "bob/white.png": "its activation_statistics is not finite in fp32"
    }
    assert np.isfinite(cache.column("activation_statistics", np.arange(len(cache)))).all()
