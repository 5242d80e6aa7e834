"""Compared methods, with the interface of `leaknet.baselines.base`."""

from leaknet.baselines.base import Baseline, BaselineImages, BaselineOptions
from leaknet.baselines.frozen_transformers import ClipNeighbours, DinoNeighbours, OccClip
from leaknet.baselines.latte import Latte
from leaknet.baselines.own_rows import Metadata, Ours, OursPaper, Thumbnail
from leaknet.baselines.pixel_networks import (
    NPR,
    EfficientNetB4,
    EfficientNetB4Scratch,
    FreqNet,
    NPRResized,
    ResNet50,
    ResNet50Scratch,
    SuSy,
    Xception,
    XceptionScratch,
)
from leaknet.baselines.reconstruction import Aeroblade, ReconstructionMSE
from leaknet.baselines.tracing import AEDR, LatentTracer, LatentTracerQuick, LatentTracerResidual

BASELINES: tuple[type[Baseline], ...] = (
    EfficientNetB4,
    EfficientNetB4Scratch,
    Xception,
    XceptionScratch,
    ResNet50,
    ResNet50Scratch,
    FreqNet,
    SuSy,
    LatentTracer,
    LatentTracerQuick,
    LatentTracerResidual,
    OccClip,
    NPR,
    NPRResized,
    Latte,
    OursPaper,
    Ours,
    ClipNeighbours,
    DinoNeighbours,
    Aeroblade,
    ReconstructionMSE,
    AEDR,
    Metadata,
    Thumbnail,
)
"""All rows of `leak bench`: in the order of the paper's Table 1, then further methods."""

__all__ = ["BASELINES", "Baseline", "BaselineImages", "BaselineOptions"]
