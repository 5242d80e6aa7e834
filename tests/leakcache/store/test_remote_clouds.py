"""Caches in Google Cloud Storage and Azure, as far as their clients can be tested on loopback."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_data import SMALL, array_bytes, write_images

from leakcache.dataset.image_files import copy_images
from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheBusy, CacheError, CacheStale
from leakcache.store.build import BuildReport, build_cache
from leakcache.store.cache import Cache
from leakcache.store.remote import Mirror
from leakcache.store.zarr_column import ColumnSpec

pytest.importorskip("obstore", reason='needs obstore: pip install "leaknet[objects]"')

from tests.leakcache.store.cloud_servers import azure, azurite, google


@pytest.fixture(params=["az", "gs"])
def url(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    if request.param == "az" and not azurite():
        pytest.skip("needs a server: npm install -g azurite, or AZURITE=its bin folder")
    (tmp_path / "server").mkdir()
    monkeypatch.setattr(ColumnSpec, "per_shard", 4)
    with (azure if request.param == "az" else google)(tmp_path / "server") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield f"{request.param}://bucket/caches/a b"


def build(
    images: Path, encoder: Encoder, home: Path, *, upload: bool = False, fresh: bool = False
) -> BuildReport:
    index = read_index(images)
    folder = home / "closed"
    return build_cache(index, encoder, folder, preprocessing=SMALL, upload=upload, fresh=fresh)


def values(home: Path) -> np.ndarray:
    cache = Cache.open(home / "closed")
    return cache.column("z0", np.arange(len(cache)))


def test_a_cache_is_written_read_extended_and_replaced(
    tmp_path: Path, encoder: Encoder, url: str
) -> None:
    images = write_images(tmp_path / "images")
    build(images, encoder, tmp_path / "local")
    alone = values(tmp_path / "local").tobytes()
    # Built there, and read through another mirror.
    first = Mirror.open(url, tmp_path / "first")
    assert build(images, encoder, first.folder, upload=True).objects == 9
    copy = Mirror.open(url, tmp_path / "copy")
    assert array_bytes(copy.folder) == {}
    assert values(copy.folder).tobytes() == alone
    assert array_bytes(copy.folder) == array_bytes(tmp_path / "local")
    # What has not changed is not copied again, nor uploaded.
    assert Mirror.open(url, copy.folder).push() == 0
    assert array_bytes(copy.folder) == array_bytes(tmp_path / "local")
    # Of two that add to it, the second is refused, and adds when it has seen the first.
    mirrors = [Mirror.open(url, tmp_path / f"mirror{n}") for n in range(2)]
    for n, mirror in enumerate(mirrors):
        more = write_images(Path(shutil.copytree(images, tmp_path / f"more{n}")), count=2, first=50)
        build(more, encoder, mirror.folder)
    assert mirrors[0].push() > 0
    shard = mirrors[1].folder / "store" / "columns" / next(iter(array_bytes(mirrors[1].folder)))
    shard.write_bytes(shard.read_bytes()[::-1])
    with pytest.raises(CacheBusy, match="another process has written it meanwhile"):
        mirrors[1].push()
    again = Mirror.open(url, tmp_path / "mirror1")
    build(tmp_path / "more1", encoder, again.folder, upload=True)
    assert len(values(Mirror.open(url, tmp_path / "third").folder)) == 16
    # A shard that is replaced is stale for those who opened the cache before.
    late = Mirror.open(url, tmp_path / "late").folder
    assert build(images, encoder, again.folder, upload=True, fresh=True).computed == 12
    with pytest.raises(CacheError):
        values(late)
    assert values(Mirror.open(url, late).folder).tobytes() == alone


def test_images_are_copied(tmp_path: Path, url: str) -> None:
    mirror = Mirror(tmp_path, url, {})
    for name in ("ada/0.png", "bob/0 1.png"):
        mirror.objects.put(f"images/{name}", name.encode(), "")
    copy = copy_images(f"{url}/images", tmp_path / "images")
    assert (copy / "bob" / "0 1.png").read_text() == "bob/0 1.png"
    one = copy_images(f"{url}/images/ada/0.png", tmp_path / "one")
    assert one.read_text() == "ada/0.png"
    version = mirror.objects.head("images/ada/0.png")["images/ada/0.png"][0]
    mirror.objects.put("images/ada/0.png", b"new", version)
    with pytest.raises(CacheBusy):
        mirror.objects.put("images/ada/0.png", b"newer", version)
    with pytest.raises(CacheStale):
        mirror.objects.get("images/ada/0.png", version)
    assert copy_images(f"{url}/images/ada/0.png", tmp_path / "one").read_text() == "new"
    mirror.objects.delete(["images/ada/0.png", "nothing", "images/bob/0 1.png"])
    assert mirror.objects.list() == {}
