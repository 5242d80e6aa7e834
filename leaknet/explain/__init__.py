"""Why a run answers as it does: evidence for one image, exact where the model is linear."""

from leaknet.explain.explain import explain_image
from leaknet.explain.explanation import Explanation

__all__ = ["Explanation", "explain_image"]
