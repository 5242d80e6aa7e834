"""The benchmark of a streamed epoch, on a tiny cache."""

from __future__ import annotations

from pathlib import Path

from benchmarks.streamed_epoch import measure

from leakcache.processes import memory_limit
from tests.leaknet.tiny import tiny_cache, tiny_config


def test_epochs_in_memory_and_from_disk_are_timed(tmp_path: Path) -> None:
    before = memory_limit()
    found = measure(tiny_cache(tmp_path / "closed", extra=400), tiny_config(), rounds=1)
    assert min(found.values()) > 0
    assert memory_limit() == before
