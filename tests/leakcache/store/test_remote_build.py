"""Processes that share only an object store build one cache; whatever happens to some of them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from own_process import printed
from tiny_data import write_images

WHY = 'needs an S3 server: pip install "leaknet[objects]" "moto[server]"'
pytest.importorskip("obstore", reason=WHY)
pytest.importorskip("moto.server", reason=WHY)

from tests.leakcache.store.s3_server import serving  # noqa: E402


def test_builds_in_a_store_give_the_bytes_of_one_process(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_images(tmp_path / "images", count=4)
    # The same content in two units, and a file that is refused.
    (images / "bob" / "twin.png").write_bytes((images / "bob" / "000.png").read_bytes())
    (images / "ada" / "half.png").write_bytes((images / "ada" / "000.png").read_bytes()[:99])
    with serving() as (endpoint, faults):
        requests = itertools.count()
        faults.set("mixed", 10**6, lambda method, path: next(requests) % 23 == 0)
        variables = {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint,
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        script = Path(__file__).with_name("remote_working.py")
        found = printed(script, images, tiny_folder, tmp_path, "s3://bucket/caches")
    whole = 9
    killed, rest = found["resumed"]
    assert killed is None
    assert 0 < rest <= whole - 4  # two images a unit; three units were uploaded before
    first, dead, last = found["three"]
    assert dead is None
    assert first + last >= whole - 2
    assert min(first, last) > 0
    assert found["late"] == [0]
    assert found["paused"][0] >= whole - 4
    taken, stopped = found["taken"]
    assert taken > 0
    assert stopped.startswith("CacheBusy: s3://bucket/caches/taken: a build of other images")
    assert found["fresh"] == [whole]
    assert found["left"] == []
