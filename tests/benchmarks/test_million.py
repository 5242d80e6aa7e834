"""The cache of a million latents in a small form: what it holds, and that it opens."""

from __future__ import annotations

from pathlib import Path

from benchmarks.million import make, measure

from leaknet.data.columns import LatentDataset


def test_a_made_up_cache_opens_and_gives_batches(tmp_path: Path) -> None:
    make(tmp_path / "cache", 200)
    found = measure(tmp_path / "cache")
    assert (found["images"], found["batch"]) == (200, 64)
    assert 0 < found["open_s"] < found["first_batch_s"]
    data = LatentDataset(tmp_path / "cache")
    assert data[3][0].shape == (1, 4, 32, 32)
    assert data[199][1] == len(data.classes) - 1 == 9
