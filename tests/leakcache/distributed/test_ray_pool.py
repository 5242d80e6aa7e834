"""Ray actors compute all items, though some are killed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from own_process import printed

from leakcache.distributed.ray_pool import RayPool
from leakcache.errors import ConfigError


def test_a_killed_actor_costs_the_items_that_it_had(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason='Ray is not installed: pip install "leaknet[ray]"')
    found = printed(Path(__file__).with_name("pooling.py"), tmp_path)
    assert found["results"] == [number**2 for number in range(20)]
    assert found["actors"] == 5
    assert 1 <= found["again"] <= 2  # it had two items at most
    assert found["deadly"].startswith("LeakError: unit 7: 3 actors died over it")
    assert found["error"] == "DataError: a number below zero"


def test_ray_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r'pip install "leaknet\[ray\]"'):
        next(RayPool().map(lambda device: str, [1]))
