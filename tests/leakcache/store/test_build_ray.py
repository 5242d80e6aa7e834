"""A build by actors of a local Ray cluster is that of one process, though an actor is killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_process import printed
from tiny_data import write_images


def test_a_killed_actor_costs_its_units_only(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason='Ray is not installed: pip install "leaknet[ray]"')
    images = write_images(tmp_path / "images", count=30)
    script = Path(__file__).with_name("acting.py")
    found = printed(script, images, tiny_folder, tmp_path)
    # Another actor took the place of the killed one.
    assert found == {"alone": 60, "actors": 60, "begun": 5}
