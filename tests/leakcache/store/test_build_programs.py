"""Builds that are killed, by several workers, on actors of Ray, and on large images: programs."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_process import printed
from tiny_data import SMALL, save, tiny_image, tiny_model, write_images

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheError, ConfigError
from leakcache.store.build import build_cache
from leakcache.store.build_plan import Worker, living
from leakcache.store.column_store import ColumnStore


def test_kills_at_any_step_lose_and_change_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", count=9)
    script = Path(__file__).with_name("killing.py")
    found = printed(script, images, tiny_folder, tmp_path)
    # Some builds were killed when much was left to compute, some little or nothing.
    assert len(found["random"]) == 16
    assert min(found["random"]) < 9 < max(found["random"])
    assert found["computed"] == 18


PIXELS = 128 * 128 * 3
# More than a shard in either, since it takes about one until the allocator has settled.
MANY, FEW = 1120, 280
SLACK = 20 * 2**20


def test_peak_memory_does_not_depend_on_the_number_of_images(tmp_path: Path) -> None:
    (tmp_path / "images" / "ada").mkdir(parents=True)
    image = tiny_image(0, (128, 128))
    for row in range(MANY):
        image.putpixel((0, 0), (row % 256, row // 256, 0))
        image.save(tmp_path / "images" / "ada" / f"{row}.bmp")
    weights = save(tiny_model(width=2), tmp_path / "weights")
    places = [tmp_path / "images", weights, tmp_path]
    few, many = printed(Path(__file__).with_name("peaking.py"), *places, FEW, MANY)
    # Held to the end, the pixels alone would be twice the slack.
    assert (MANY - FEW) * PIXELS > 1.9 * SLACK
    assert (many - few) * 1024 < SLACK


def test_a_killed_actor_costs_its_units_only(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason='Ray is not installed: pip install "leaknet[ray]"')
    images = write_images(tmp_path / "images", count=30)
    script = Path(__file__).with_name("acting.py")
    found = printed(script, images, tiny_folder, tmp_path)
    # Another actor took the place of the killed one.
    assert found == {"alone": 60, "actors": 60, "begun": 5}


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
