"""Compared methods: one file each, with the interface of `leaknet.baselines.base`."""

from leaknet.baselines.aedr import AEDR
from leaknet.baselines.aeroblade import Aeroblade, ReconstructionMSE
from leaknet.baselines.base import Baseline, BaselineImages, BaselineOptions
from leaknet.baselines.cnn import (
    EfficientNetB4,
    EfficientNetB4Scratch,
    ResNet50,
    ResNet50Scratch,
    Xception,
    XceptionScratch,
)
from leaknet.baselines.controls import Metadata, Thumbnail
from leaknet.baselines.freqnet import FreqNet
from leaknet.baselines.latenttracer import LatentTracer, LatentTracerQuick, LatentTracerResidual
from leaknet.baselines.latte import Latte
from leaknet.baselines.midlayer_knn import ClipNeighbours, DinoNeighbours
from leaknet.baselines.npr import NPR, NPRResized
from leaknet.baselines.occ_clip import OccClip
from leaknet.baselines.ours import Ours, OursPaper
from leaknet.baselines.susy import SuSy

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
