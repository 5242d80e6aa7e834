"""Why a run answers as it does: evidence for one image, exact where the model is linear."""

from leaknet.explain.explain import Explanation, explain_image

__all__ = ["Explanation", "explain_image"]
