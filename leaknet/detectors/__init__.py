"""Open-set detectors, one file each: `fit`, then `score_samples`, higher = more like the known."""

from leaknet.detectors.base import ClassScorer, Detector
from leaknet.detectors.gmm import ClassMixture
from leaknet.detectors.kde import ClassKDE, GlobalKDE
from leaknet.detectors.kmeans import PrototypeDistance
from leaknet.detectors.knn import NearestNeighbour
from leaknet.detectors.logits import Energy, MaxLogit, MaxSoftmax
from leaknet.detectors.mahalanobis import (
    DiagonalMahalanobis,
    LikelihoodRatio,
    RelativeMahalanobis,
    TiedMahalanobis,
)
from leaknet.detectors.source_ratio import SourceRatio
from leaknet.detectors.vim import VirtualLogit

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
