"""`leak cache build --with`, and what `info` and `verify` then say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_data import write_pictures

from leakcache.store.cache import Cache

Call = Callable[..., Any]


@pytest.fixture
def build(call: Call, tmp_path: Path, vae: Path) -> Call:
    """`build("--json")` builds both splits of `tmp_path/data`, with pixels."""
    write_pictures(tmp_path / "data" / "Closed_Set", count=3)
    write_pictures(tmp_path / "data" / "Open_Set", ("eve",), count=3, first=50)
    given = ("--vae", vae, "--size", 64, "--split", "all", "--with", "pixels")
    return lambda *words: call("cache", "build", *given, *words)


def pixels(said: Any) -> dict[str, tuple[int, int]]:
    """Images cut and images already there, of the resized pixels, by split."""
    assert said.code == 0, said.err
    found = said.json["pixels"]
    return {
        split: (one["resize256"]["cut"], one["resize256"]["kept"]) for split, one in found.items()
    }


def test_pixels_are_cut_once_for_both_splits(build: Call) -> None:
    assert pixels(build("--json")) == {"closed": (6, 0), "open": (3, 0)}
    assert pixels(build("--json")) == {"closed": (0, 6), "open": (0, 3)}
    assert pixels(build("--json", "--fresh")) == {"closed": (6, 0), "open": (3, 0)}
    said = build()
    assert "closed: pixels crop256x2: 0 images read, 6 already there" in said.out


def test_statistics_are_of_all_images_and_those_of_copies_of_training_images(
    call: Call, tmp_path: Path, vae: Path
) -> None:
    write_pictures(tmp_path / "data" / "Closed_Set", count=6)
    write_pictures(tmp_path / "data" / "Open_Set", ("eve",), count=3, first=50)
    given = ("--vae", vae, "--size", 64, "--split", "all", "--with", "statistics", "--json")
    said = call("cache", "build", *given)
    assert said.code == 0, said.err
    train = len(Cache.open(tmp_path / said.json["cache"] / "closed").rows("train"))
    found = said.json["statistics"]
    assert found["closed"]["statistics"]["cut"] == 12
    assert found["closed"]["statistics-degraded"]["cut"] == train < 12
    [seen] = [name for name in found["open"] if name.startswith("activation-statistics-")]
    assert set(found["open"]) == {"statistics", seen}
    assert found["closed"][seen]["cut"] == 12
    [copied] = [name for name in found["closed"] if name.startswith("activations-degraded-")]
    assert found["closed"][copied]["cut"] == train
    again = call("cache", "build", *given).json["statistics"]["closed"]
    assert [one["cut"] for one in again.values()] == [0, 0, 0, 0]


def test_info_lists_them_and_verify_finds_damage(build: Call, call: Call, tmp_path: Path) -> None:
    folder = tmp_path / build("--json").json["cache"]
    rows = call("cache", "info", "--json").json["rows"]
    assert {name: one["images"] for name, one in rows.items()} == {"crop256x2": 9, "resize256": 9}
    assert "rows/resize256: 9 images" in call("cache", "info").out
    sound = call("cache", "verify", "--spot", 2)
    assert sound.code == 0
    assert "0 damaged; 4 images cut again, 0 differ" in sound.out
    values = folder / "rows" / "resize256" / "latents.zarr" / "values" / "c"
    shard = next(path for path in values.rglob("*") if path.is_file())
    content = bytearray(shard.read_bytes())
    content[5000] ^= 4
    shard.write_bytes(bytes(content))
    broken = call("cache", "verify", "--spot", 0, "--json")
    assert broken.code == 1
    assert not broken.json["rows"]["ok"]
    assert broken.json["closed"]["ok"]
    mended = pixels(build("--json", "--repair"))
    assert mended["closed"][0] + mended["open"][0] in (3, 6)
    assert call("cache", "verify", "--spot", 2).code == 0
