"""The interface of detectors: embeddings to fit on, a score an image; detectors on logits.

A detector learns from closed training and validation images alone. A higher score is more like
the known generators. Learned arrays are declared on the class and their names end in "_", so that
a run keeps them as tensors and never as code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.special import logsumexp

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings

_D = TypeVar("_D", bound="Detector")
_L = TypeVar("_L", bound="LogitDetector")


class Detector(ABC):
    """Scores images by how much they are like the known; saves and restores its learned arrays.

    Attributes:
        name: in tables, JSON and on the command line.
    """

    name: ClassVar[str]

    @abstractmethod
    def fit(self, train: Embeddings, val: Embeddings) -> Detector:
        """Learn from closed images; settings are chosen on `val`. Raises as `require_closed`."""

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
    """A detector that scores every class; an image has the score of its best class."""

    @abstractmethod
    def class_scores(self, e: Embeddings) -> Float[np.ndarray, "n class"]:
        """One score per image and closed class; higher = more like that class."""

    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """Score of the best class."""
        best: Float64[np.ndarray, "n"] = self.class_scores(e).max(axis=1)
        return best


class ZScored(Detector):
    """A detector on coordinates after the global z-score of the closed training images."""

    mean_: Float64[np.ndarray, "dimension"]
    scale_: Float64[np.ndarray, "dimension"]

    def fit_z_score(
        self, train: Embeddings, val: Embeddings
    ) -> tuple[Float64[np.ndarray, "train dimension"], Float64[np.ndarray, "val dimension"]]:
        """Keep the z-score of `train`, and return the standardised coordinates of both.

        Raises:
            ScoringError: as `require_closed`.
        """
        require_closed(train, val)
        z = Standardiser.of(train)
        self.mean_, self.scale_ = z.mean, z.scale
        return z(train.coordinates), z(val.coordinates)

    def z(self, e: Embeddings) -> Float64[np.ndarray, "n dimension"]:
        """Standardised coordinates; ScoringError before `fit`."""
        return self.standardise(e.coordinates)

    def standardise(
        self, coordinates: Float[np.ndarray, "n dimension"]
    ) -> Float64[np.ndarray, "n dimension"]:
        """The z-score of coordinates; ScoringError before `fit`."""
        self.require_fit()
        return Standardiser(self.mean_, self.scale_)(coordinates)


LEAST_PER_CLASS = 2


def require_closed(train: Embeddings, val: Embeddings) -> None:
    """Raise ScoringError unless a detector may be fitted to these embeddings.

    Every `fit` calls this, so that no test image and no image of an unknown generator influences
    a density or a choice. Refused are rows of the folds "test" and "open", different classes in the
    two sets, no validation images, a class of fewer than two training images, and a collapsed
    network.
    """
    for e in (train, val):
        foreign = np.flatnonzero(~np.isin(e.folds, ("train", "val")))
        if foreign.size:
            row = foreign[0]
            raise ScoringError(
                f"{e.paths[row]} of fold '{e.folds[row]}' was given to fit a detector: "
                "detectors learn from the folds train and val alone"
            )
    if train.classes != val.classes:
        raise ScoringError("training and validation embeddings come from runs of other classes")
    if not len(val):
        raise ScoringError("there are no validation images to choose a detector's settings on")
    _require_enough(train)
    _require_spread(train)


def class_counts(e: Embeddings) -> Int[np.ndarray, "class"]:
    """Images of each closed class."""
    return np.bincount(e.targets, minlength=len(e.classes))


@dataclass(frozen=True)
class Standardiser:
    """The global z-score: mean and scale of each dimension over all closed training images.

    A dimension that (almost) does not vary keeps scale 1. Coordinates of one unit,
    `Embeddings.density`, share the root mean square of the deviations as their scale: a deviation
    each would enlarge those that say little.
    """

    mean: Float64[np.ndarray, "dimension"]
    scale: Float64[np.ndarray, "dimension"]

    @classmethod
    def of(cls, train: Embeddings) -> Standardiser:
        """The z-score of these training embeddings."""
        vectors = train.coordinates.astype(np.float64)
        spread = vectors.std(axis=0)
        if train.density is not None:
            spread = np.full_like(spread, np.sqrt(np.square(spread).mean()))
        return cls(vectors.mean(axis=0), np.where(spread > 1e-6 * spread.max(), spread, 1.0))

    def __call__(
        self, vectors: Float[np.ndarray, "n dimension"]
    ) -> Float64[np.ndarray, "n dimension"]:
        """Standardised vectors in float64."""
        standard: Float64[np.ndarray, "n dimension"] = (vectors - self.mean) / self.scale
        return standard


def _require_enough(train: Embeddings) -> None:
    counts = class_counts(train)
    if counts.min() < LEAST_PER_CLASS:
        c = int(counts.argmin())
        raise ScoringError(
            f"the class {train.classes[c]!r} has {counts[c]} training images, a detector needs "
            f"{LEAST_PER_CLASS}: add images to it or leave the class out"
        )


def _require_spread(train: Embeddings) -> None:
    if not np.ptp(train.coordinates, axis=0).any():
        raise ScoringError(
            f"all {len(train)} training embeddings are identical: the network has collapsed, "
            "train again with a lower learning rate"
        )


class LogitDetector(Detector):
    """A function of the prototype logits of each image."""

    classes_: Int[np.ndarray, ""]

    def fit(self: _L, train: Embeddings, val: Embeddings) -> _L:
        """Keep the number of classes."""
        require_closed(train, val)
        self.classes_ = np.array(len(train.classes))
        return self

    def logits(self, e: Embeddings) -> Float64[np.ndarray, "n class"]:
        """The logits in float64; ScoringError for embeddings of a run with other classes."""
        self.require_fit()
        if e.logits.shape[1] != self.classes_:
            raise ScoringError(
                f"the detector {self.name} knows {self.classes_} classes but the embeddings "
                f"have {e.logits.shape[1]}: score with the run that made them"
            )
        return e.logits.astype(np.float64)


class MaxLogit(LogitDetector):
    """The highest prototype logit (Hendrycks et al. 2022).

    With this network it is minus the (soft) gated distance to the nearest of the *learned*
    prototypes, so it is also the paper's prototype distance, up to sign.
    """

    name: ClassVar[str] = "logit"

    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """The highest logit of each image."""
        highest: Float64[np.ndarray, "n"] = self.logits(e).max(axis=1)
        return highest


class Energy(LogitDetector):
    """Logsumexp of the logits at temperature 1: minus the free energy (Liu et al. 2020)."""

    name: ClassVar[str] = "energy"

    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """Log of the sum over classes of exp(logit)."""
        return np.asarray(logsumexp(self.logits(e), axis=1))


class MaxSoftmax(LogitDetector):
    """Log of the highest class probability, at most 0 (Hendrycks and Gimpel 2017).

    The logarithm ranks images as the probability does and keeps apart those whose probability
    rounds to 1.
    """

    name: ClassVar[str] = "softmax"

    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """-log(1 + sum over the other classes of exp(logit - highest logit))."""
        ordered = np.sort(self.logits(e), axis=1)
        rivals = np.exp(ordered[:, :-1] - ordered[:, -1:]).sum(axis=1)
        score: Float64[np.ndarray, "n"] = -np.log1p(rivals)
        return score


class SourceRatio(LogitDetector):
    """Highest log-likelihood ratio of a known source (`leaknet.model.two_covariance`).

    For a model without a two-covariance model it is the highest logit.
    """

    name: ClassVar[str] = "source_ratio"

    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """Evidence of each image."""
        logits = self.logits(e)
        return logits.max(axis=1) if e.evidence is None else e.evidence.astype(np.float64)


VARIANCE_KEPT = 0.9


class VirtualLogit(ZScored):
    """Virtual-logit matching (Wang et al. 2022): logsumexp of the logits less the scaled residual.

    The original asks of a linear last layer where its features are centred and by how much the
    residual outside the principal subspace must be scaled to sit among the logits. Prototype logits
    are not linear in the embedding and, being minus a distance, have no natural zero. So here the
    embedding is centred on the training mean (after the global z-score), the principal subspace
    holds 90 % of the training variance, and the residual is scaled to the *spread* of the highest
    logit over the training images, where the original matches their means. A shift of all logits
    then changes nothing but the scores' origin.

    Where the training embeddings leave no residual, the score is the energy alone.
    """

    name: ClassVar[str] = "vim"
    residual_: Float64[np.ndarray, "dimension residual"]
    alpha_: Float64[np.ndarray, ""]

    def fit(self, train: Embeddings, val: Embeddings) -> VirtualLogit:
        """Principal axes and scale of `train`; `val` chooses nothing here."""
        vectors, _ = self.fit_z_score(train, val)
        values, axes = np.linalg.eigh(vectors.T @ vectors)
        kept = np.cumsum(values[::-1]) / values.sum()
        principal = int(np.searchsorted(kept, VARIANCE_KEPT)) + 1
        self.residual_ = axes[:, : len(values) - principal]
        lengths = np.linalg.norm(vectors @ self.residual_, axis=1)
        spread = float(lengths.std())
        highest = train.logits.astype(np.float64).max(axis=1)
        self.alpha_ = np.array(highest.std() / spread if spread > 1e-9 else 0.0)
        return self

    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """Energy less alpha times the length outside the principal subspace."""
        lengths = np.linalg.norm(self.z(e) @ self.residual_, axis=1)
        energy = logsumexp(e.logits.astype(np.float64), axis=1)
        score: Float64[np.ndarray, "n"] = energy - self.alpha_ * lengths
        return score
