"""Verification: silent on a sound cache, and each fault is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_data import SMALL, picture, save, tiny_model

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheStale
from leakcache.store import zarr_shards as shards
from leakcache.store.build import build_cache
from leakcache.store.cache import Cache
from leakcache.store.verify import verify
from leakcache.store.zarr_shards import ShardArrays


@pytest.fixture
def cache(
    pictures: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Cache:
    monkeypatch.setattr(shards, "SHARD", 4)
    index = read_index(pictures)
    return build_cache(index, encoder, tmp_path / "c", split="all", preprocessing=SMALL).cache


def test_a_sound_cache_is_sound(cache: Cache, encoder: Encoder) -> None:
    found = verify(cache, encoder, spot=5)
    assert found.ok
    assert (found.shards, found.reencoded) == (3, 5)
    assert 0 < found.worst < 0.001  # rounding to half precision
    assert verify(cache, encoder, spot=99).reencoded == 12
    assert verify(cache, None, spot=5).reencoded == 0


def test_the_draw_of_images_depends_on_the_seed_alone(cache: Cache, encoder: Encoder) -> None:
    worst = [verify(cache, encoder, 3, seed).worst for seed in (0, 0, 1, 2)]
    assert worst[0] == worst[1]
    assert len(set(worst)) > 1


@pytest.mark.parametrize("array", ["z0", "dct_low"])
def test_damaged_shards_are_named(array: str, cache: Cache, encoder: Encoder) -> None:
    for shard in ("0", "2"):
        (file,) = [
            path
            for path in (cache.path / "latents.zarr" / array / "c" / shard).rglob("*")
            if path.is_file()
        ]
        file.write_bytes(file.read_bytes()[:-1])
    found = verify(cache, encoder, spot=5)
    assert not found.ok
    assert len(found.damaged) == 2
    assert f"shard 0 of {array}" in found.damaged[0]
    assert f"shard 2 of {array}" in found.damaged[1]


def test_latents_of_something_else_are_found(cache: Cache, encoder: Encoder) -> None:
    arrays = ShardArrays.resume(cache.path)
    wrong = arrays.read(1) * np.float16(1.05)  # sound bytes, other values
    arrays.write(1, wrong, arrays.read_dct(1))
    found = verify(cache, encoder, spot=12)
    assert not found.ok
    assert found.damaged == ()
    assert len(found.differing) == 4
    assert all("encodes differently now" in line for line in found.differing)
    assert found.worst == pytest.approx(0.05 / 1.05, rel=0.05)


def test_images_that_changed_or_went_are_named(
    cache: Cache, encoder: Encoder, pictures: Path
) -> None:
    picture(700).save(pictures / "ada" / "000.png")
    (pictures / "bob" / "001.png").unlink()
    found = verify(cache, encoder, spot=12)
    assert sorted(found.differing) == [
        "ada/000.png: its content has changed since",
        "bob/001.png: cannot be read any more",
    ]
    assert found.worst < 0.001


def test_moments_that_do_not_fit_the_images_are_found(
    cache: Cache, encoder: Encoder, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "ada" / "000.png").unlink()
    fewer = build_cache(
        read_index(pictures), encoder, tmp_path / "d", split="all", preprocessing=SMALL
    ).cache
    mine, theirs = (c.path / "latents.zarr" / "moments" for c in (cache, fewer))
    for file in (path for path in theirs.rglob("*") if path.is_file()):
        (mine / file.relative_to(theirs)).write_bytes(file.read_bytes())
    found = verify(Cache.open(cache.path), None, spot=0)
    assert not found.ok
    assert "moments count 11 images" in found.damaged[0]


def test_an_encoder_of_other_weights_is_refused(cache: Cache, tmp_path: Path) -> None:
    other = Encoder.load(str(save(tiny_model(5), tmp_path / "other")))
    with pytest.raises(CacheStale, match="name the one it was built with"):
        verify(cache, other, spot=1)
