"""Arrays on disk: shards, rows across them, and what a read costs or refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leakcache.dataset.index import DatasetIndex, ImageRecord
from leakcache.errors import CacheCorrupt
from leakcache.images.decode import Preprocessing
from leakcache.store import zarr_shards as shards
from leakcache.store.build import finish
from leakcache.store.cache import Cache
from leakcache.store.manifest import Encoding
from leakcache.store.workspace import DoneShard
from leakcache.store.zarr_shards import ShardArrays, dct_side
from tests.leakcache.store.test_manifest import AUTOENCODER

SHAPE = (2, 4, 8, 8)
COUNT = 11


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cache, np.ndarray]:
    """A cache of eleven images in three shards, of which the fourth and tenth are refused."""
    folder = tmp_path_factory.mktemp("store")
    latents = np.random.default_rng(0).normal(size=(COUNT, *SHAPE)).astype(np.float16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD", 4)
        arrays = ShardArrays.create(folder, COUNT, SHAPE, "float16")
    done = []
    for shard in range(arrays.shards):
        rows = range(COUNT)[arrays.rows(shard)]
        arrays.write(shard, latents[rows], latents[rows])
        done.append(
            DoneShard(
                tuple(f"{row:064d}" for row in rows),
                tuple(rows),
                tuple("bad" if row in (3, 9) else "" for row in rows),
            )
        )
    records = [
        ImageRecord(f"{label}/{row}.png", label, str(row), fold)
        for row, (label, fold) in enumerate([("a", "train")] * 5 + [("b", "test")] * 6)
    ]
    encoding = Encoding(AUTOENCODER, Preprocessing("crop", 64, 2), "fp32", "float16")
    index = DatasetIndex(Path("images"), tuple(records), (), "made up")
    finish(index, "closed", encoding, folder, done, {}).write(folder)
    kept = np.array([row for row in range(COUNT) if row not in (3, 9)])
    return Cache.open(folder), latents[kept]


def test_shards_hold_what_was_written(written: tuple[Cache, np.ndarray]) -> None:
    cache, latents = written
    arrays = ShardArrays.open(cache.path)
    assert (arrays.images, arrays.shards, arrays.per_shard) == (COUNT, 3, 4)
    assert arrays.latent_shape == SHAPE
    assert [len(arrays.read(shard)) for shard in range(3)] == [4, 4, 3]
    assert np.array_equal(arrays.read(0)[:3], latents[:3])
    assert np.array_equal(arrays.read_dct(2)[-1], latents[-1])


@given(rows=st.lists(st.integers(0, COUNT - 3), max_size=20))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_rows_come_in_their_order(rows: list[int], written: tuple[Cache, np.ndarray]) -> None:
    cache, latents = written
    wanted = np.array(rows, dtype=np.int64)
    assert np.array_equal(cache.column("z0", wanted), latents[wanted])
    assert np.array_equal(cache.column("dct_low", wanted), latents[wanted])


def test_refused_rows_are_in_the_table_alone(written: tuple[Cache, np.ndarray]) -> None:
    cache, _ = written
    assert len(cache) == len(cache.paths) == COUNT - 2
    assert cache.sizes.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 10]
    assert len(cache.table()["path"]) == COUNT
    assert "a/3.png" in cache.table()["path"]
    assert "a/3.png" not in cache.paths
    assert sorted(cache.encoded_rows().values()) == [0, 1, 2, 4, 5, 6, 7, 8, 10]
    assert cache.rows("train").tolist() == [0, 1, 2, 3]
    assert cache.rows("test").tolist() == [4, 5, 6, 7, 8]
    assert cache.rows("val").tolist() == []


def test_a_shard_of_zeros_is_told_from_a_lost_one(tmp_path: Path) -> None:
    arrays = ShardArrays.create(tmp_path, 3, SHAPE, "float32")
    nothing = np.zeros((3, *SHAPE), np.float32)
    with pytest.raises(CacheCorrupt, match="missing or empty"):
        arrays.read(0)
    arrays.write(0, nothing, nothing)
    assert np.array_equal(arrays.read(0), nothing)
    reopened = ShardArrays.resume(tmp_path)
    reopened.write(0, nothing, nothing)
    assert np.array_equal(reopened.read_dct(0), nothing)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    arrays = ShardArrays.create(tmp_path, 2, (1, 4, 8, 8), "float16")
    values = np.random.default_rng(1).normal(size=(2, 1, 4, 8, 8)).astype(np.float16)
    arrays.write(0, values, values)
    (file,) = [p for p in (tmp_path / "latents.zarr" / "z0" / "c").rglob("*") if p.is_file()]
    sound = file.read_bytes()
    generator = np.random.default_rng(2)
    for place in generator.choice(len(sound), 60, replace=False):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << int(generator.integers(8))
        file.write_bytes(damaged)
        with pytest.raises(CacheCorrupt, match="shard 0 of z0 is damaged"):
            arrays.read(0)
    file.write_bytes(sound)
    assert np.array_equal(arrays.read(0), values)


def test_a_block_of_coefficients_never_exceeds_the_latent() -> None:
    assert dct_side((1, 4, 32, 32)) == 16
    assert dct_side((3, 16, 8, 8)) == 8
    assert dct_side((1, 4, 64, 12)) == 12


def test_another_count_than_the_manifest_says_is_refused(
    written: tuple[Cache, np.ndarray],
) -> None:
    cache, _ = written
    text = (cache.path / "manifest.json").read_text()
    try:
        (cache.path / "manifest.json").write_text(text.replace('"images": 9', '"images": 8'))
        with pytest.raises(CacheCorrupt, match="holds 9 images, its manifest says 8"):
            Cache.open(cache.path)
    finally:
        (cache.path / "manifest.json").write_text(text)
