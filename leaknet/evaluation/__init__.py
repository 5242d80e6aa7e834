"""Protocols: what is trained, what counts as unknown, and how the figures are summed up."""

from leaknet.evaluation.comparing import RunComparison, compare_runs
from leaknet.evaluation.plan import Plan
from leaknet.evaluation.protocol import evaluate
from leaknet.evaluation.result import Evaluation

__all__ = ["Evaluation", "Plan", "RunComparison", "compare_runs", "evaluate"]
