"""Open-set detectors: `fit`, then `score_samples`; a higher score is more like the known."""

from leaknet.detectors.base import (
    ClassScorer,
    Detector,
    Energy,
    MaxLogit,
    MaxSoftmax,
    SourceRatio,
    VirtualLogit,
)
from leaknet.detectors.density import ClassKDE, ClassMixture, GlobalKDE
from leaknet.detectors.distances import (
    DiagonalMahalanobis,
    LikelihoodRatio,
    NearestNeighbour,
    PrototypeDistance,
    RelativeMahalanobis,
    TiedMahalanobis,
)

DETECTORS: tuple[type[Detector], ...] = (
    PrototypeDistance,
    MaxSoftmax,
    MaxLogit,
    Energy,
    DiagonalMahalanobis,
    TiedMahalanobis,
    RelativeMahalanobis,
    GlobalKDE,
    ClassKDE,
    NearestNeighbour,
    ClassMixture,
    LikelihoodRatio,
    VirtualLogit,
    SourceRatio,
)

__all__ = [
    "DETECTORS",
    "ClassKDE",
    "ClassMixture",
    "ClassScorer",
    "Detector",
    "DiagonalMahalanobis",
    "Energy",
    "GlobalKDE",
    "LikelihoodRatio",
    "MaxLogit",
    "MaxSoftmax",
    "NearestNeighbour",
    "PrototypeDistance",
    "RelativeMahalanobis",
    "SourceRatio",
    "TiedMahalanobis",
    "VirtualLogit",
]
