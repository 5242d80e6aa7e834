"""A build that is killed goes on with the same command and ends as if it had not been."""

from __future__ import annotations

from pathlib import Path

from own_process import printed
from tiny_data import write_images


def test_kills_at_any_step_lose_and_change_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", count=9)
    script = Path(__file__).with_name("killing.py")
    found = printed(script, images, tiny_folder, tmp_path)
    # Some builds were killed when much was left to compute, some little or nothing.
    assert len(found["random"]) == 16
    assert min(found["random"]) < 9 < max(found["random"])
    assert found["computed"] == 18
