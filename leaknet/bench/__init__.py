"""The paper's Table 1 on our own data: every method, the same folds, detectors and metrics."""

from leaknet.bench.data import BenchData, Judged
from leaknet.bench.plan import BenchPlan
from leaknet.bench.result import BenchResult, BenchRow
from leaknet.bench.runner import run_bench

__all__ = ["BenchData", "BenchPlan", "BenchResult", "BenchRow", "Judged", "run_bench"]
