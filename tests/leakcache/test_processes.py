"""Freed memory that a process keeps, and Ray actors of which some are killed."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from own_process import printed

from leakcache.errors import ConfigError
from leakcache.processes import RayPool

# Touches a fresh 64 MB block ten times over; each new mapping would fault all its pages in again.
FAULTS = """
import resource, sys
from leakcache.processes import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def touch():
    block = bytearray(64 << 20)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, mode], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_pages_are_not_faulted_in_again() -> None:
    assert _faults("keep") < _faults("leave") / 10


# Blocks that are served from the heap, as those below one gigabyte are when memory is kept.
RELEASE = """
from pathlib import Path
from leakcache.processes import keep_freed_memory, release_freed_memory
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
keep_freed_memory()
block = bytearray(256 << 20)
del block
kept = resident()
release_freed_memory()
print(kept - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_kept_memory_can_be_released() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RELEASE], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) > 200 << 20


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
