"""One HDF5 file holds what the cache holds."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from tiny_data import SMALL

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.store import verify as export
from leakcache.store.build import build_cache
from leakcache.store.cache import Cache
from leakcache.store.verify import describe, describe_columns


@pytest.fixture
def cache(image_folder: Path, encoder: Encoder, tmp_path: Path) -> Cache:
    (image_folder / "ada" / "bad.png").write_bytes(b"")
    index = read_index(image_folder)
    return build_cache(
        index, encoder, tmp_path / "c" / "all", split="all", preprocessing=SMALL
    ).cache


def test_reads_back_equal(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "AT_ONCE", 5)  # several pieces
    target = export.export_h5(cache, tmp_path / "new" / "latents.h5")
    rows = np.arange(len(cache))
    with h5py.File(target) as file:
        assert file["z0"].dtype == np.float16
        assert np.array_equal(file["z0"][...], cache.column("z0", rows))
        assert np.array_equal(file["dct_low"][...], cache.column("dct_low", rows))
        for name in ("paths", "labels", "groups", "folds", "hashes"):
            assert file[name].asstr()[...].tolist() == getattr(cache, name).tolist()
        assert file["bytes"][...].tolist() == cache.sizes.tolist()
        assert list(file.attrs["classes"]) == ["ada", "bob"]
        manifest = json.loads(file.attrs["manifest"])
    assert manifest["content"]["table"]["path"] == cache.paths.tolist()
    assert [path.name for path in target.parent.iterdir()] == ["latents.h5"]


def test_a_failure_leaves_the_former_file(cache: Cache, tmp_path: Path) -> None:
    target = export.export_h5(cache, tmp_path / "latents.h5")
    before = target.read_bytes()
    for file in cache.path.parent.glob("store/columns/z0-*/values.zarr/c/**/0"):
        if file.is_file():
            file.unlink()
    with pytest.raises(ValueError, match="damaged"):
        export.export_h5(cache, target)
    assert target.read_bytes() == before


def test_description_says_what_it_is(cache: Cache, image_folder: Path) -> None:
    found = describe(cache)
    assert found["images"] == 12
    assert found["classes"] == ["ada", "bob"]
    assert sum(found["folds"].values()) == 12
    assert found["groups"] == 6
    assert found["autoencoder"] == "tiny (AutoencoderTiny)"
    assert found["weights_sha256"] == cache.manifest.encoding.autoencoder.weights_sha256
    assert found["preprocessing"].startswith("resize 64, 1 view")
    assert found["precision"] == "fp32, stored as float16"
    assert found["latent_shape"] == [1, 4, 8, 8]
    assert "libjpeg-turbo" in found["decoder"]
    assert found["fingerprint"] == cache.manifest.fingerprint
    assert found["data"] == str(image_folder)
    assert found["rejects"] == [{"path": "ada/bad.png", "reason": "the file is empty (0 bytes)"}]
    assert json.loads(json.dumps(found)) == found


def test_columns_are_described(cache: Cache) -> None:
    ((key, found),) = describe_columns(cache.path.parent).items()
    assert key.startswith("z0-")
    assert (found["images"], found["shape"], found["dtype"]) == (12, [1, 4, 8, 8], "float16")
    assert found["bytes"] > 12 * 4 * 8 * 8 * 2
