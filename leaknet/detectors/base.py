"""What every detector is: closed embeddings in, one score per image out, nothing hidden.

A detector learns from closed training and validation images alone. Its score is higher the
more an image is like the known generators; no detector turns the sign. What it has learned
are arrays whose names end in "_", declared on its class, so that a run can keep them as
tensors and never as code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, TypeVar

import numpy as np
from jaxtyping import Float, Float64

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings

_D = TypeVar("_D", bound="Detector")


class Detector(ABC):
    """The calls that scoring relies on; keeps and restores the arrays that a detector declares.

    Attributes:
        name: the column's name in tables and JSON.
    """

    name: ClassVar[str]

    @abstractmethod
    def fit(self, train: Embeddings, val: Embeddings) -> Detector:
        """Learn from closed images; settings are chosen on `val`. ScoringError if it can't."""

    @abstractmethod
    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """One score per image; higher = more like the known."""

    def state(self) -> dict[str, np.ndarray]:
        """Copies of the learned arrays by name, without the underscore; ScoringError before `fit`.

        They lie in C order: safetensors writes the memory of an array and forgets its strides.
        """
        self.require_fit()
        learned = {name: getattr(self, name) for name in self._learned()}
        return {name.removesuffix("_"): np.array(a, order="C") for name, a in learned.items()}

    @classmethod
    def from_state(cls: type[_D], state: Mapping[str, np.ndarray]) -> _D:
        """A fitted detector from what `state` gave; ScoringError where arrays are missing."""
        detector = cls()
        expected = {name.removesuffix("_") for name in cls._learned()}
        if state.keys() != expected:
            raise ScoringError(
                f"the saved state of the detector {cls.name} holds {sorted(state)} "
                f"where {sorted(expected)} belong: fit it again with `leak score`"
            )
        for name, array in state.items():
            setattr(detector, name + "_", np.asarray(array))
        return detector

    def require_fit(self) -> None:
        """Raise ScoringError before `fit`."""
        if not all(hasattr(self, name) for name in self._learned()):
            raise ScoringError(f"the detector {self.name} has not been fitted: call fit first")

    @classmethod
    def _learned(cls) -> list[str]:
        declared = {n for base in cls.__mro__ for n in vars(base).get("__annotations__", ())}
        return sorted(name for name in declared if name.endswith("_"))


class ClassScorer(Detector):
    """A detector that also scores every class, so that it can attribute as well as detect."""

    @abstractmethod
    def class_scores(self, e: Embeddings) -> Float[np.ndarray, "n class"]:
        """One score per image and closed class; higher = more like that class."""
