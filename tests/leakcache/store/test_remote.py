"""Caches in an object store, against a real S3 server on loopback that fails on purpose."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from tiny_data import SMALL, array_bytes, write_images

from leakcache.dataset.image_files import copy_images, find_images, local_images
from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheBusy, CacheError, CacheIncomplete, CacheStale, ConfigError
from leakcache.store import object_store, remote
from leakcache.store.build import BuildReport, build_cache
from leakcache.store.cache import Cache
from leakcache.store.remote import Mirror, cache_home, is_url, local_path
from leakcache.store.zarr_column import ColumnSpec
from leaknet.commands.base import Settings
from leaknet.commands.cache import cache
from leaknet.commands.options import copy_urls, open_roots

WHY = 'needs an S3 server: pip install "leaknet[objects]" "moto[server]"'
pytest.importorskip("obstore", reason=WHY)
pytest.importorskip("moto.server", reason=WHY)

from obstore.store import from_url  # noqa: E402

from tests.leakcache.store.s3_server import Faults, serving  # noqa: E402

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Faults]]:
    with serving() as found:
        yield found


@pytest.fixture(autouse=True)
def faults(server: tuple[str, Faults], monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    monkeypatch.setattr(ColumnSpec, "per_shard", 4)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    for name, value in {**keys, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": server[0]}.items():
        monkeypatch.setenv(name, value)
    server[1].seen.clear()
    yield server[1]
    server[1].set("")


@pytest.fixture
def url() -> str:
    return f"s3://bucket/caches/{next(NUMBERS)}"


def build(images: Path, encoder: Encoder, home: Path) -> BuildReport:
    return build_cache(read_index(images), encoder, home / "closed", preprocessing=SMALL)


@pytest.fixture(scope="module")
def local(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local cache of 12 images in three shards; copy it to change it."""
    root = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ColumnSpec, "per_shard", 4)
        build(write_images(root / "images"), encoder, root / "cache")
    return root


@pytest.fixture
def home(local: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(local / "cache", tmp_path / "cache"))


def values(home: Path) -> np.ndarray:
    cache = Cache.open(home / "closed")
    return cache.column("z0", np.arange(len(cache)))


def is_shard(method: str, path: str) -> bool:
    return method == "GET" and "/values.zarr/c/" in path


def test_what_is_pushed_is_read_shard_by_shard(home: Path, tmp_path: Path, url: str) -> None:
    Mirror.begin(url, home).push()
    copy = Mirror.open(url, tmp_path / "mirror").folder
    assert array_bytes(copy) == {}
    cache = Cache.open(copy / "closed")
    cache.column("z0", np.arange(2))
    assert len(array_bytes(copy)) == 1
    assert values(copy).tobytes() == values(home).tobytes()
    assert array_bytes(copy) == array_bytes(home)


def test_a_copy_is_read_without_the_server(
    home: Path, tmp_path: Path, url: str, faults: Faults
) -> None:
    Mirror.begin(url, home).push()
    copy = Mirror.open(url, tmp_path / "mirror").folder
    values(copy)
    Mirror.open(url, copy)
    faults.set("500", 10**6)
    assert values(copy).tobytes() == values(home).tobytes()


@pytest.mark.parametrize("kind", ["500", "slow", "drop"])
def test_faults_that_pass_are_not_noticed(
    home: Path, tmp_path: Path, url: str, faults: Faults, kind: str
) -> None:
    faults.set(kind, 3, lambda method, path: method == "PUT")
    Mirror.begin(url, home).push()
    faults.set(kind, 3)
    copy = Mirror.open(url, tmp_path / "mirror").folder
    faults.set(kind, 3, is_shard)
    assert values(copy).tobytes() == values(home).tobytes()
    assert faults.times == 0


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("500", "the server answers 500 Internal Server Error, 2 times"),
        ("drop", "cannot be reached"),
        ("expired", "the credentials have expired: get new ones"),
        ("denied", "access is denied: check the credentials and their rights"),
        ("key", "the access key is not known: check the credentials"),
        ("secret", "the secret key is wrong: check the credentials"),
        ("region", "the bucket is in another region: set AWS_REGION to its region"),
        ("signed", "the bucket is in another region: set AWS_REGION to its region"),
    ],
)
def test_faults_that_stay_are_one_line(
    home: Path,
    tmp_path: Path,
    url: str,
    faults: Faults,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    reason: str,
) -> None:
    monkeypatch.setattr(object_store, "TRIES", 2)
    Mirror.begin(url, home).push()
    copy = Mirror.open(url, tmp_path / "mirror").folder
    faults.set(kind, 10**6, is_shard)
    with pytest.raises(CacheError) as caught:
        values(copy)
    assert str(caught.value).startswith(f"{url}/store/columns/z0-")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bucket_or_credentials_that_are_missing_are_named(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CacheError, match="no such bucket: check the URL"):
        Mirror.open("s3://elsewhere/cache", tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(CacheIncomplete, match=rf"{url}/closed: no finished .* --cache {url}`"):
        Cache.open(Mirror.open(url, tmp_path / "b").folder / "closed")
    for text in ("s3://", "s3:///name"):
        with pytest.raises(ConfigError, match="names no bucket: write it as s3://bucket/name"):
            Mirror.open(text, tmp_path / "d")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="no credentials: set AWS_ACCESS_KEY_ID"):
        Mirror.open(url, tmp_path / "e")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(CacheError, match="no credentials: set AWS_ACCESS_KEY_ID"):
        Mirror.open(url, tmp_path / "c")


def test_the_manifest_is_written_last(home: Path, url: str, faults: Faults) -> None:
    Mirror.begin(url, home).push()
    written = [path.partition("/caches/")[2] for method, path in faults.seen if method == "PUT"]
    assert written[-1].endswith("/closed/manifest.json")
    kinds = ["shard" if "/c/" in key else "commit" if "commits" in key else "" for key in written]
    assert kinds.index("commit") > max(n for n, kind in enumerate(kinds) if kind == "shard")


def test_a_push_that_is_cut_short_publishes_nothing_and_resumes(
    home: Path, tmp_path: Path, url: str, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "TRIES", 1)
    faults.set("expired", 10**6, lambda method, path: method == "PUT" and "commits" in path)
    with pytest.raises(CacheError, match="have expired"):
        Mirror.begin(url, home).push()
    with pytest.raises(CacheIncomplete):
        Cache.open(Mirror.open(url, tmp_path / "early").folder / "closed")
    faults.set("")
    faults.seen.clear()
    Mirror.begin(url, home).push()
    assert not any(method == "PUT" and "/c/" in path for method, path in faults.seen)
    assert values(Mirror.open(url, tmp_path / "late").folder).tobytes() == values(home).tobytes()


def test_an_upload_whose_answer_is_lost_is_ours(
    home: Path, tmp_path: Path, url: str, faults: Faults
) -> None:
    mirror = Mirror.begin(url, home)
    mirror.push()
    (home / remote.ORIGIN).unlink()  # as after a kill before it was written
    with pytest.raises(CacheError, match="there is a cache already"):
        Mirror.begin(url, home)
    Mirror(home, url, {}).push()
    assert values(Mirror.open(url, tmp_path / "mirror").folder).shape[0] == 12


def test_a_build_in_a_mirror_adds_to_what_is_there(
    home: Path, local: Path, tmp_path: Path, url: str, encoder: Encoder
) -> None:
    Mirror.begin(url, home).push()
    images = Path(shutil.copytree(local / "images", tmp_path / "images"))
    write_images(images, count=2, first=50)
    mirror = Mirror.open(url, tmp_path / "mirror")
    report = build(images, encoder, mirror.folder)
    assert (report.computed, report.stored) == (4, 12)
    new = len(array_bytes(mirror.folder))  # no others were read
    assert mirror.push() == 2 * new + 1  # shards, their commits and the manifest
    assert mirror.push() == 0
    again = Mirror.open(url, tmp_path / "again").folder
    assert len(values(again)) == 16
    # The first mirror follows, and keeps what has not changed.
    assert values(Mirror.open(url, home).folder).tobytes() == values(again).tobytes()


def test_of_two_builds_one_is_refused(
    home: Path, local: Path, tmp_path: Path, url: str, encoder: Encoder
) -> None:
    Mirror.begin(url, home).push()
    mirrors = []
    for n in range(2):
        images = Path(shutil.copytree(local / "images", tmp_path / f"images{n}"))
        write_images(images, count=2, first=50 + 10 * n)
        mirrors.append(Mirror.open(url, tmp_path / f"mirror{n}"))
        build(images, encoder, mirrors[n].folder)
    mirrors[0].push()
    with pytest.raises(CacheBusy, match="another process has written it meanwhile"):
        mirrors[1].push()
    first = values(mirrors[0].folder).tobytes()
    assert values(Mirror.open(url, tmp_path / "mirror").folder).tobytes() == first
    # The second finds the new state, and computes again what stood in the same places.
    again = Mirror.open(url, tmp_path / "mirror1")
    assert 0 < build(tmp_path / "images1", encoder, again.folder).computed <= 4
    again.push()
    assert len(values(Mirror.open(url, tmp_path / "last").folder)) == 16


def test_a_shard_that_is_replaced_meanwhile_is_stale(home: Path, tmp_path: Path, url: str) -> None:
    mirror = Mirror.begin(url, home)
    mirror.push()
    copy = Mirror.open(url, tmp_path / "mirror").folder
    shard = home / "store" / "columns" / next(iter(array_bytes(home)))
    shard.write_bytes(shard.read_bytes()[::-1])
    assert mirror.push() == 1
    with pytest.raises(CacheStale, match="was replaced meanwhile"):
        values(copy)


def test_images_are_copied_once_and_read_as_a_folder_or_as_archives(
    local: Path, tmp_path: Path, faults: Faults
) -> None:
    store = from_url("s3://bucket/data", client_options={"allow_http": True})
    for path in sorted((local / "images").rglob("*.png")):
        key = path.relative_to(local).as_posix()
        store.put(key, path.read_bytes())
    for n in range(3):
        store.put(f"shards/{n}.tar", b"x" * n)
    copy = copy_images("s3://bucket/data/images", tmp_path / "copy")
    index = read_index(copy)
    assert index.records == read_index(local / "images").records
    faults.set("expired", 1, lambda method, path: path.endswith("004.png"))
    with pytest.raises(CacheError, match="have expired"):
        copy_images("s3://bucket/data/images", tmp_path / "part")
    some = len(list((tmp_path / "part").rglob("*.png")))
    faults.seen.clear()
    copy_images("s3://bucket/data/images", tmp_path / "part")
    assert len(faults.seen) == 1 + 12 - some
    faults.seen.clear()
    copy_images("s3://bucket/data/images/", tmp_path / "copy")
    assert [method for method, _ in faults.seen] == ["GET"]  # the list
    pattern = copy_images("s3://bucket/data/shards/{1..2}.tar", tmp_path / "shards")
    assert pattern == tmp_path / "shards" / "{1..2}.tar"
    assert sorted(path.name for path in (tmp_path / "shards").glob("*.tar")) == ["1.tar", "2.tar"]
    with pytest.raises(CacheError, match="there are no objects"):
        copy_images("s3://bucket/data/nothing", tmp_path / "nothing")


def test_one_image_is_copied_without_a_listing(local: Path, tmp_path: Path, faults: Faults) -> None:
    store = from_url("s3://bucket/single", client_options={"allow_http": True})
    image = next((local / "images").rglob("*.png"))
    store.put("folder/a b.png", image.read_bytes())
    faults.seen.clear()
    copy = local_images("s3://bucket/single/folder/a b.png", tmp_path)
    assert copy.read_bytes() == image.read_bytes()
    assert [method for method, _ in faults.seen] == ["HEAD", "GET"]
    assert local_images("s3://bucket/single/folder/a b.png", tmp_path) == copy
    assert [method for method, _ in faults.seen] == ["HEAD", "GET", "HEAD"]
    store.put("folder/a b.png", b"changed")
    assert local_images("s3://bucket/single/folder/a b.png", tmp_path).read_bytes() == b"changed"
    with pytest.raises(CacheError, match=r"folder/b\.png: there are no objects"):
        local_images("s3://bucket/single/folder/b.png", tmp_path)
    assert local_images("a/b.png", tmp_path) == Path("a/b.png")


def test_arguments_take_urls(local: Path, tmp_path: Path) -> None:
    store = from_url("s3://bucket/arguments", client_options={"allow_http": True})
    for path in (local / "images").rglob("*.png"):
        store.put(path.relative_to(local).as_posix(), path.read_bytes())

    @click.command()
    @open_roots
    @click.argument("images", nargs=-1, callback=copy_urls)
    def show(open_roots: tuple[str, ...], images: tuple[str, ...]) -> None:
        click.echo(json.dumps([len(find_images([one])) for one in (*open_roots, *images)]))

    words = ["--open", "s3://bucket/arguments/images/ada", "s3://bucket/arguments/images/bob/"]
    words += ["s3://bucket/arguments/images/ada/000.png", str(local / "images")]
    done = CliRunner().invoke(
        show, words, obj=Settings({}, caches=tmp_path), catch_exceptions=False
    )
    assert json.loads(done.stdout) == [6, 6, 1, 12]


def test_a_mirror_that_cannot_be_written_is_named(home: Path, tmp_path: Path, url: str) -> None:
    resource = pytest.importorskip("resource", reason="no limits of file sizes on this system")
    Mirror.begin(url, home).push()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(CacheError, match=r"mirror: cannot be written \(File too large\): make"):
            Mirror.open(url, tmp_path / "mirror")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert values(Mirror.open(url, tmp_path / "mirror").folder).shape[0] == 12


def test_a_folder_that_is_no_mirror_of_the_url_is_left_alone(home: Path, url: str) -> None:
    with pytest.raises(CacheError, match="holds other files"):
        Mirror.open(url, home)
    Mirror.begin(url, home).push()
    with pytest.raises(CacheError, match="mirrors s3://bucket"):
        Mirror.open(f"{url}-other", home)


def test_commands_push_and_read_a_cache_by_url(home: Path, tmp_path: Path, url: str) -> None:
    def run(*words: str) -> dict[str, Any]:
        done = CliRunner().invoke(
            cache, [*words, "--json"], obj=Settings({}), catch_exceptions=False
        )
        return dict(json.loads(done.stdout))

    mirror = tmp_path / "mirror"
    assert run("push", url, "--cache", str(home)) == {"url": url, "objects": 9}
    found = run("info", "--cache", url, "--cache-mirror", str(mirror))
    assert (found["cache"], found["closed"]["images"]) == (str(mirror), 12)
    assert values(cache_home(url, tmp_path)).tobytes() == values(home).tobytes()


def test_urls_and_paths_are_told_apart() -> None:
    assert [is_url(text) for text in ("s3://b/c", "GS://b", "file:///c", "c", "s3:")] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert local_path("file:///a%20b") == "/a b"
    assert local_path("a/b") == "a/b"
    for text in ("http://host/cache", "file://host/cache", "s3:/bucket/cache", "S3:bucket/c"):
        with pytest.raises(ConfigError, match="takes s3://"):
            local_path(text)


def test_obstore_that_is_not_installed_is_named(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ConfigError, match=r'pip install "leaknet\[objects\]"'):
        Mirror.open(url, tmp_path / "mirror")
