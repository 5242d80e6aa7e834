"""Verification: silent on a sound cache, and each fault is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_data import SMALL, save, tiny_image, tiny_model

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheStale
from leakcache.store.build import build_cache
from leakcache.store.cache import Cache
from leakcache.store.columns import COLUMNS
from leakcache.store.verify import verify
from leakcache.store.zarr_column import ColumnSpec, key_of


@pytest.fixture
def cache(
    image_folder: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Cache:
    monkeypatch.setattr(ColumnSpec, "per_shard", 4)
    index = read_index(image_folder)
    folder, columns = tmp_path / "c" / "all", ["z0", "pixels_resize256"]
    given = {"split": "all", "preprocessing": SMALL, "columns": columns}
    return build_cache(index, encoder, folder, **given).cache


def test_a_sound_cache_is_sound(cache: Cache, encoder: Encoder) -> None:
    found = verify([cache], encoder, spot=5)
    assert found.ok
    assert (found.shards, found.recomputed) == (6, 5)
    assert found.worst < 0.001
    assert verify([cache], encoder, spot=99).recomputed == 12
    assert verify([cache], None, spot=5).recomputed == 0


def test_the_draw_of_images_depends_on_the_seed_alone(cache: Cache, encoder: Encoder) -> None:
    array = cache.store.columns[key_of(COLUMNS["z0"].spec(cache.manifest.encoding))]
    for shard in range(3):
        array.write(shard, array.read(shard, np.arange(4)) + np.float16(1))
    drawn = [verify([cache], encoder, 3, seed).differing for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("name", ["z0", "pixels_resize256"])
def test_damaged_shards_are_named(name: str, cache: Cache, encoder: Encoder) -> None:
    for shard in ("0", "2"):
        (file,) = [
            path
            for path in cache.path.parent.glob(f"store/columns/{name}-*/values.zarr/c/{shard}/**/*")
            if path.is_file()
        ]
        content = bytearray(file.read_bytes())
        content[100] ^= 1
        file.write_bytes(content)
    found = verify([cache], encoder, spot=5)
    assert not found.ok
    assert len(found.damaged) == 2
    assert all(f"/{name}-" in line for line in found.damaged)


def test_values_of_something_else_are_found(cache: Cache, encoder: Encoder) -> None:
    spec = COLUMNS["z0"].spec(cache.manifest.encoding)
    array = cache.store.columns[key_of(spec)]
    array.write(1, array.read(1, np.arange(4)) * np.float16(1.05))  # sound bytes, other values
    found = verify([cache], encoder, spot=12)
    assert not found.ok
    assert found.damaged == ()
    assert len(found.differing) == 4
    assert all("its z0 differs now" in line for line in found.differing)
    assert found.worst == pytest.approx(0.05 / 1.05, rel=0.05)


def test_images_that_changed_or_went_are_named(
    cache: Cache, encoder: Encoder, image_folder: Path
) -> None:
    tiny_image(700).save(image_folder / "ada" / "000.png")
    (image_folder / "bob" / "001.png").unlink()
    found = verify([cache], encoder, spot=12)
    assert sorted(found.differing) == [
        f"{image_folder}/ada/000.png: its content has changed since",
        f"{image_folder}/bob/001.png: cannot be read any more",
    ]
    assert found.worst < 0.001


def test_an_encoder_of_other_weights_is_refused(cache: Cache, tmp_path: Path) -> None:
    other = Encoder.load(str(save(tiny_model(5), tmp_path / "other")))
    with pytest.raises(CacheStale, match="name the one it was built with"):
        verify([cache], other, spot=1)
