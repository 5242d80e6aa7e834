"""A small pair of caches for all tests of benches."""

from __future__ import annotations

import pytest

from tests.leaknet.experiments.small_bench import forget, small_caches


@pytest.fixture(scope="session")
def caches(tmp_path_factory):
    return small_caches(tmp_path_factory.mktemp("bench"))


@pytest.fixture(autouse=True)
def _counts():
    forget()
