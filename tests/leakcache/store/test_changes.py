"""What has changed since a cache was built, in words."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_data import SMALL, picture

from leakcache.dataset.index import DatasetIndex, Reject, read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheStale
from leakcache.store.build import build_cache
from leakcache.store.cache import Cache
from leakcache.store.changes import Changes, find_changes, index_differs, open_current


@pytest.fixture
def cache(pictures: Path, encoder: Encoder, tmp_path: Path) -> Cache:
    index = read_index(pictures)
    return build_cache(index, encoder, tmp_path / "c", split="all", preprocessing=SMALL).cache


def test_without_a_cache_nothing_has_changed(pictures: Path) -> None:
    changes = find_changes(None, read_index(pictures))
    assert not changes
    assert str(changes) == "nothing changed"


def test_each_kind_of_change_is_found(cache: Cache, pictures: Path) -> None:
    index = read_index(pictures)
    assert not find_changes(cache, index)
    first, second, third, fourth, *rest = index.records
    picture(99).save(pictures / second.path)
    (pictures / third.path).write_bytes(b"")
    records = (
        replace(first, fold="val"),
        second,
        third,
        replace(fourth, path="ada/new.png"),
        *rest,
    )
    changes = find_changes(cache, DatasetIndex(pictures, records, (), ""))
    assert changes == Changes(
        added=("ada/new.png",),
        removed=(fourth.path,),
        altered=(second.path, third.path),
        moved=(first.path,),
    )


@pytest.mark.parametrize("field", ["label", "group", "fold"])
def test_a_change_of_the_table_alone_is_a_move(field: str, cache: Cache, pictures: Path) -> None:
    index = read_index(pictures)
    other = replace(index.records[0], **{field: "val"})
    changed = replace(index, records=(other, *index.records[1:]))
    assert find_changes(cache, changed) == Changes(moved=(other.path,))


def test_words_count_and_name_a_few() -> None:
    changes = Changes(added=tuple("abcde"), altered=("x",))
    assert str(changes) == "5 added (a, b, c, …); 1 changed (x)"
    assert str(Changes(moved=("m",))) == "1 relabelled or in another fold (m)"


def test_what_the_index_leaves_out_is_compared_too(cache: Cache, pictures: Path) -> None:
    index = read_index(pictures)
    assert not index_differs(cache, index)
    assert index_differs(cache, replace(index, root=pictures / "ada"))
    assert index_differs(cache, replace(index, layout="as a table"))
    assert index_differs(cache, replace(index, rejects=(Reject("cyd", "no images"),)))


def test_a_cache_of_unchanged_images_opens(cache: Cache, pictures: Path) -> None:
    later = time.time() + 60
    for path in pictures.rglob("*.png"):
        os.utime(path, (later, later))
    assert open_current(cache.path).manifest == cache.manifest


@pytest.mark.parametrize("same_size", [True, False])
def test_a_cache_of_altered_images_is_refused(
    same_size: bool, cache: Cache, pictures: Path
) -> None:
    path = pictures / cache.paths[1]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if same_size else content + b"0")
    later = time.time() + 60
    os.utime(path, (later, later))
    with pytest.raises(CacheStale, match=rf"1 changed \({cache.paths[1]}\)"):
        open_current(cache.path)


def test_a_cache_stands_alone_without_its_images(cache: Cache, pictures: Path) -> None:
    shutil.rmtree(pictures)
    assert len(open_current(cache.path)) == len(cache)
