"""What has changed since a cache was built, in words."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from tiny_data import SMALL

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import AutoencoderIdentity, Encoder
from leakcache.errors import CacheStale
from leakcache.images.decode import Preprocessing
from leakcache.store.build import build_cache
from leakcache.store.cache import Cache
from leakcache.store.changes import Changes, find_changes, open_current
from leakcache.store.manifest import CacheManifest, Encoding


@pytest.fixture
def cache(image_folder: Path, encoder: Encoder, tmp_path: Path) -> Cache:
    index = read_index(image_folder)
    return build_cache(
        index, encoder, tmp_path / "c" / "all", split="all", preprocessing=SMALL
    ).cache


def manifest_of(**columns: list[str]) -> CacheManifest:
    cut = Preprocessing()
    identity = AutoencoderIdentity("tiny", "tiny", "here", "AutoencoderTiny", "a" * 64, 4, 1.0, 0.0)
    given = {name: ["a", "b", "c", "d"] for name in ("path", "label", "group", "fold", "sha256")}
    table = {**given, "bytes": [1] * 4, **columns}
    return CacheManifest(Encoding(identity, cut, "fp32", "float16"), "all", "data", "", table)


def test_without_a_cache_nothing_has_changed() -> None:
    changes = find_changes(None, manifest_of())
    assert not changes
    assert str(changes) == "nothing changed"


def test_each_kind_of_change_is_found() -> None:
    then = manifest_of()
    assert not find_changes(then, manifest_of())
    now = manifest_of(path=["a", "b", "c", "e"], sha256=["a", "x", "c", "d"], fold=list("vbcd"))
    assert find_changes(then, now) == Changes(("e",), ("d",), ("b",), ("a",))


@pytest.mark.parametrize("field", ["label", "group", "fold"])
def test_a_change_of_the_table_alone_is_a_move(field: str) -> None:
    now = manifest_of(**{field: ["x", "b", "c", "d"]})
    assert find_changes(manifest_of(), now) == Changes(moved=("a",))


def test_words_count_and_name_a_few() -> None:
    changes = Changes(added=tuple("abcde"), altered=("x",))
    assert str(changes) == "5 added (a, b, c, …); 1 changed (x)"
    assert str(Changes(moved=("m",))) == "1 relabelled or in another fold (m)"


def test_a_cache_of_unchanged_images_opens(cache: Cache, image_folder: Path) -> None:
    later = time.time() + 60
    for path in image_folder.rglob("*.png"):
        os.utime(path, (later, later))
    assert open_current(cache.path).manifest == cache.manifest


@pytest.mark.parametrize("same_size", [True, False])
def test_a_cache_of_altered_images_is_refused(
    same_size: bool, cache: Cache, image_folder: Path
) -> None:
    path = image_folder / cache.paths[1]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if same_size else content + b"0")
    later = time.time() + 60
    os.utime(path, (later, later))
    with pytest.raises(CacheStale, match=rf"1 changed \({cache.paths[1]}\)"):
        open_current(cache.path)


def test_a_cache_stands_alone_without_its_images(cache: Cache, image_folder: Path) -> None:
    shutil.rmtree(image_folder)
    assert len(open_current(cache.path)) == len(cache)
