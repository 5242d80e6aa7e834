"""Tables of runs that differ from one another in named settings, all over one cache."""

from leaknet.ablation.result import AblationResult, RowResult
from leaknet.ablation.runner import Request, run_ablation
from leaknet.ablation.shelf import Shelf
from leaknet.ablation.spec import Ablation, Row, find_ablation

__all__ = [
    "Ablation",
    "AblationResult",
    "Request",
    "Row",
    "RowResult",
    "Shelf",
    "find_ablation",
    "run_ablation",
]
