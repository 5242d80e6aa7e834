"""Exact Gaussian KDE at 5,000 references, 1,000 queries and 128 dimensions, ours and theirs.

    pytest tests/benchmarks/test_kde.py --benchmark-enable --benchmark-group-by=group

scikit-learn is timed twice: as it comes, with a tree of leaves of 40, and with one leaf. Only
the second gives the right densities at this dimension: the bounds of the tree, added and
subtracted in log space, cost all digits of small densities.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from sklearn.neighbors import KernelDensity

from leaknet.detectors.density import log_density

REFERENCES, QUERIES, DIMENSION = 5000, 1000, 128
BANDWIDTH = 0.8


@pytest.fixture(scope="module")
def references() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((REFERENCES, DIMENSION))


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((QUERIES, DIMENSION))


@pytest.fixture(scope="module")
def ours(references: np.ndarray, queries: np.ndarray) -> np.ndarray:
    return log_density(queries, references, BANDWIDTH)


@pytest.mark.benchmark(group="kde 5000 x 1000 x 128")
def test_ours(
    benchmark: BenchmarkFixture, references: np.ndarray, queries: np.ndarray, ours: np.ndarray
) -> None:
    result = benchmark(log_density, queries, references, BANDWIDTH)
    np.testing.assert_array_equal(result, ours)


@pytest.mark.benchmark(group="kde 5000 x 1000 x 128")
@pytest.mark.parametrize("leaf_size", [40, REFERENCES])
def test_scikit_learn(
    benchmark: BenchmarkFixture,
    references: np.ndarray,
    queries: np.ndarray,
    ours: np.ndarray,
    leaf_size: int,
) -> None:
    kde = KernelDensity(bandwidth=BANDWIDTH, leaf_size=leaf_size).fit(references)
    result = benchmark(kde.score_samples, queries)
    if leaf_size == REFERENCES:
        assert np.abs(result - ours).max() < 1e-5
    else:
        assert result.shape == ours.shape


def test_memory_is_flat_in_both_counts() -> None:
    """8,000 by 8,000 in double precision would be 512 MB: blocks need a small part of that."""
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not reset.exists():
        pytest.skip("the peak of resident memory can be reset on Linux alone")
    points = np.random.default_rng(0).standard_normal((8000, 4))
    log_density(points[:500], points[:500], BANDWIDTH)
    reset.write_text("5")
    before = _peak_bytes(status)
    log_density(points, points, BANDWIDTH)
    assert _peak_bytes(status) - before < 50e6


def _peak_bytes(status: Path) -> int:
    line = next(s for s in status.read_text().splitlines() if s.startswith("VmHWM"))
    return 1024 * int(line.split()[1])
