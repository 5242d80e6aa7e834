"""Shapes are checked while the tests run; the shared bench is optional."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The tensors of tests are small: a second thread costs more than it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOOK = install_import_hook(["leakcache", "leaknet"], "beartype.beartype")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """`cli.main` ends a process: in one that goes on, signals act as before."""
    former = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real weights and images, where this machine has it."""
    if not (SHARED / "weights" / "taesd.safetensors").is_file():
        pytest.skip(f"{SHARED} is not on this machine")
    return SHARED


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full", action="store_true", help="The full matrix of tests/faults, not a sample of it."
    )
    parser.addoption(
        "--screenshots", metavar="FOLDER", help="Where tests/browser saves what it has seen."
    )
