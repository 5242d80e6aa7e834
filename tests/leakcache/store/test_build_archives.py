"""Caches of archives: the arrays of the unpacked images, resumed within a shard."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_data import SMALL, array_bytes, tiny_image

from leakcache.dataset.image_files import unpack
from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheStale
from leakcache.store.build import BuildReport, build_cache, fill_columns
from leakcache.store.cache import open_current
from leakcache.store.zarr_column import ColumnSpec

COLUMNS = ("z0",)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ColumnSpec, "per_shard", 4)


def image(number: int) -> bytes:
    buffer = io.BytesIO()
    tiny_image(number).save(buffer, "PNG")
    return buffer.getvalue()


def label(number: int) -> str:
    return ("ada", "bob")[number % 2]


def tar_shards(folder: Path) -> Path:
    """Three shards of two classes in turn; prompts of two images each."""
    folder.mkdir()
    for k in range(3):
        with tarfile.open(folder / f"{k:04d}.tar", "w") as archive:
            for n in range(6 * k, 6 * k + 6):
                said = json.dumps({"label": label(n), "prompt": f"p{n // 2}"}).encode()
                for name, data in ((f"{n:04d}.png", image(n)), (f"{n:04d}.json", said)):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return folder


def parquet_shards(folder: Path) -> Path:
    pandas = pytest.importorskip("pandas")
    folder.mkdir()
    for k in range(3):
        numbers = range(6 * k, 6 * k + 6)
        rows = {
            "image": [{"bytes": image(n), "path": None} for n in numbers],
            "label": [label(n) for n in numbers],
            "prompt": [f"p{n // 2}" for n in numbers],
        }
        frame = pandas.DataFrame(rows)
        frame.to_parquet(folder / f"data-{k:05d}-of-00003.parquet", row_group_size=4)
    return folder


def build(root: Path, encoder: Encoder, folder: Path, **options: Any) -> BuildReport:
    return build_cache(
        read_index(root), encoder, folder, preprocessing=SMALL, columns=COLUMNS, **options
    )


@pytest.mark.parametrize("write", [tar_shards, parquet_shards])
def test_arrays_are_those_of_the_unpacked_folder(
    tmp_path: Path, encoder: Encoder, write: Any
) -> None:
    shards = write(tmp_path / "shards")
    unpack(shards, tmp_path / "plain")
    packed = build(shards, encoder, tmp_path / "packed" / "closed").cache
    plain = build(tmp_path / "plain", encoder, tmp_path / "cache" / "closed").cache
    assert packed.classes == plain.classes
    other = {sha256: row for row, sha256 in enumerate(plain.hashes.tolist())}
    rows = np.array([other[sha256] for sha256 in packed.hashes.tolist()])
    assert sorted(rows.tolist()) == list(range(18))
    for name in ("labels", "groups", "folds", "sizes"):
        np.testing.assert_array_equal(getattr(packed, name), getattr(plain, name)[rows])
    for name in COLUMNS:
        ours, theirs = packed.column(name, np.arange(18)), plain.column(name, rows)
        assert ours.tobytes() == theirs.tobytes()


def test_a_build_that_is_stopped_resumes_in_the_shard(tmp_path: Path, encoder: Encoder) -> None:
    shards, done = tar_shards(tmp_path / "shards"), []

    def stop(images: int) -> None:
        done.append(images)
        if sum(done) >= 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(shards, encoder, tmp_path / "a" / "closed", advance=stop)
    report = build(shards, encoder, tmp_path / "a" / "closed")
    assert 0 < report.computed < 18
    whole = build(shards, encoder, tmp_path / "b" / "closed")
    assert array_bytes(tmp_path / "a") == array_bytes(tmp_path / "b")
    assert build(shards, encoder, tmp_path / "a" / "closed").computed == 0
    assert report.cache.manifest.table == whole.cache.manifest.table


def test_columns_are_filled_from_the_archive_and_its_change_is_noticed(
    tmp_path: Path, encoder: Encoder
) -> None:
    shards = tar_shards(tmp_path / "shards")
    cache = build(shards, encoder, tmp_path / "a" / "closed").cache
    fill_columns(cache, ["pixels_resize256"])
    assert open_current(cache.path).has("pixels_resize256")
    path = shards / "0001.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        data[archive.getmember("0008.png").offset_data + 200] ^= 255
    path.write_bytes(data)
    later = (cache.path / "manifest.json").stat().st_mtime + 5
    os.utime(path, (later, later))
    with pytest.raises(CacheStale, match=r"1 changed \(0001\.tar/0008\.png\)"):
        open_current(cache.path)


def test_a_member_that_is_no_image_is_left_out(tmp_path: Path, encoder: Encoder) -> None:
    shards = tar_shards(tmp_path / "shards")
    path = shards / "0002.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        begin = archive.getmember("0013.png").offset_data
    data[begin : begin + 8] = b"no image"
    path.write_bytes(data)
    cache = build(shards, encoder, tmp_path / "a" / "closed").cache
    assert len(cache) == 17
    assert [p for p, _ in cache.manifest.rejects] == ["0002.tar/0013.png"]
