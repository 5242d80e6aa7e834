"""Workers share a build; whatever happens to some of them, the cache is that of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_process import printed
from tiny_data import SMALL, write_images

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheError, ConfigError
from leakcache.store.build import build_cache
from leakcache.store.build_plan import Worker, living
from leakcache.store.column_store import ColumnStore


def test_workers_give_the_bytes_of_one_process(tiny_folder: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", count=6)
    # The same content in two units, and a file that is refused.
    (images / "bob" / "twin.png").write_bytes((images / "bob" / "000.png").read_bytes())
    (images / "ada" / "half.png").write_bytes((images / "ada" / "000.png").read_bytes()[:99])
    script = Path(__file__).with_name("working.py")
    found = printed(script, images, tiny_folder, tmp_path)
    (whole,) = found["alone"]
    assert whole == 13
    assert sum(found["three"]) == whole
    assert sum(images > 0 for images in found["three"]) >= 2
    assert found["killed"][1] is None
    assert found["killed"][0] + found["killed"][2] == whole
    # What the paused worker still writes when it continues changes nothing.
    assert found["paused"][0] == whole
    assert found["late"] == [0, 0]


def test_claims_of_living_processes_are_kept_and_those_of_dead_ones_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Worker(tmp_path) as first, Worker(tmp_path) as second:
        assert first.claim("unit")
        assert not second.claim("unit")
        assert not first.claim("unit")
        assert living(tmp_path) == 2
    assert living(tmp_path) == 0
    with Worker(tmp_path) as third:
        assert third.claim("unit")
        monkeypatch.setattr("leakcache.store.build_plan.EXPIRY", -1.0)
        with Worker(tmp_path) as fourth:
            assert fourth.claim("unit")
        assert living(tmp_path) == 0


def test_other_work_waits_for_workers(image_folder: Path, encoder: Encoder, tmp_path: Path) -> None:
    home = tmp_path / "cache"
    index = read_index(image_folder)
    with Worker(home / "store" / "plan"):
        with pytest.raises(CacheError, match=r"other images or settings .* in 1 processes"):
            build_cache(index, encoder, home / "all", split="all", preprocessing=SMALL)
        with pytest.raises(CacheError, match="in 1 processes"), ColumnStore(home).writing():
            pass
        with pytest.raises(CacheError, match="in 1 processes"):
            build_cache(index, encoder, home / "all", split="all", fresh=True)
    with pytest.raises(ConfigError, match="--fresh and --repair need the cache alone"):
        build_cache(index, encoder, home / "all", fresh=True, worker=(0, 2))
    build_cache(index, encoder, home / "all", split="all", preprocessing=SMALL)
    assert not (home / "store" / "plan").exists()
