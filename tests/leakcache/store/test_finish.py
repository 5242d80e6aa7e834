"""The end of a build: who is accepted, and what the manifest then says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leakcache.dataset.index import DatasetIndex, ImageRecord, Reject
from leakcache.errors import DataError
from leakcache.images.decode import Preprocessing
from leakcache.store.build import finish
from leakcache.store.cache import Cache
from leakcache.store.manifest import CacheManifest, Encoding, images_hash
from leakcache.store.workspace import DoneShard
from leakcache.store.zarr_shards import ShardArrays
from tests.leakcache.store.test_manifest import AUTOENCODER

ENCODING = Encoding(AUTOENCODER, Preprocessing(size=64), "fp32", "float16")
RECORDS = (
    ImageRecord("a/1.png", "a", "1", "train"),
    ImageRecord("b/1.png", "b", "1", "train"),
    ImageRecord("a/2.png", "a", "2", "test"),
    ImageRecord("z/3.png", "z", "3", "open"),
)


def finished(folder: Path, hashes: str, refused: str = "    ") -> CacheManifest:
    """One letter an image: its content, and why it was refused (a blank where it was not)."""
    arrays = ShardArrays.create(folder, 4, (1, 4, 8, 8), "float16")
    values = np.ones((4, 1, 4, 8, 8), np.float16) * np.arange(1, 5).reshape(4, 1, 1, 1, 1)
    arrays.write(0, values.astype(np.float16), values.astype(np.float16))
    done = DoneShard(tuple(hashes), (5, 6, 7, 8), tuple(reason.strip() for reason in refused))
    index = DatasetIndex(folder, RECORDS, (Reject("c", "no images"),), "made up")
    manifest = finish(index, "all", ENCODING, folder, [done], {"seconds": 1})
    manifest.write(folder)
    return manifest


def test_all_different_are_all_accepted(tmp_path: Path) -> None:
    manifest = finished(tmp_path, "wxyz")
    assert manifest.images == 4
    assert manifest.classes == ("a", "b")
    assert manifest.unknown == ("z",)
    assert manifest.rejects == (("c", "no images"),)
    rows = [(h, r.label, r.group, r.fold) for h, r in zip("wxyz", RECORDS, strict=True)]
    assert manifest.images_sha256 == images_hash(rows)
    moments = Cache.open(tmp_path).moments("train")
    assert moments.latent.mean == pytest.approx([1.5] * 4)
    assert moments.latent.variance == pytest.approx([0.25] * 4)


def test_a_copy_in_another_fold_is_left_out_once(tmp_path: Path) -> None:
    manifest = finished(tmp_path, "wxwz")
    assert manifest.rejects[0] == ("a/2.png", "the same content as a/1.png")
    assert Cache.open(tmp_path).paths.tolist() == ["a/1.png", "b/1.png", "z/3.png"]


def test_content_of_a_known_and_an_unknown_generator_is_left_out_twice(tmp_path: Path) -> None:
    manifest = finished(tmp_path, "wxyw")
    assert dict(manifest.rejects) == {
        "a/1.png": "the same content is labelled z in z/3.png",
        "z/3.png": "the same content is labelled a in a/1.png",
        "c": "no images",
    }
    assert manifest.unknown == ()
    cache = Cache.open(tmp_path)
    assert cache.moments("train").latent.mean == pytest.approx([2.0] * 4)  # b alone
    assert len(cache.encoded_rows()) == 3  # what is refused for its label has a latent


def test_refused_copies_are_not_compared(tmp_path: Path) -> None:
    manifest = finished(tmp_path, "wwyz", "x   ")
    assert manifest.rejects[0] == ("a/1.png", "x")
    assert Cache.open(tmp_path).paths.tolist() == ["b/1.png", "a/2.png", "z/3.png"]


def test_nobody_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of 4 images can be used \(the first, a/1.png: x\)"):
        finished(tmp_path, "wxyz", "xxxx")
