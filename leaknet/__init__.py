"""Stage two: columns of a cache become attributions, scores and reports.

    import leaknet

    model = leaknet.load("runs/best")
    answers = model.score(["a.png", "folder/"])

Names are imported when they are first asked for, so that `import leaknet` takes no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leaknet.api import build_cache, load, train
    from leaknet.classifier import LeakClassifier
    from leaknet.data.columns import LatentDataset
    from leaknet.explain import Explanation, explain_image
    from leaknet.model.protoleaknet import ProtoLeakNet
    from leaknet.scoring.answers import Answer, Answers
    from leaknet.scoring.predict import Predictor

_MODULES = {
    "Answer": "leaknet.scoring.answers",
    "Answers": "leaknet.scoring.answers",
    "Explanation": "leaknet.explain",
    "LatentDataset": "leaknet.data.columns",
    "LeakClassifier": "leaknet.classifier",
    "Predictor": "leaknet.scoring.predict",
    "ProtoLeakNet": "leaknet.model.protoleaknet",
    "build_cache": "leaknet.api",
    "explain_image": "leaknet.explain",
    "load": "leaknet.api",
    "train": "leaknet.api",
}

__all__ = [
    "Answer",
    "Answers",
    "Explanation",
    "LatentDataset",
    "LeakClassifier",
    "Predictor",
    "ProtoLeakNet",
    "build_cache",
    "explain_image",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'leaknet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
