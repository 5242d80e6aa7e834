"""Compared methods: one file each, all with the same three calls (`leaknet.peers.protocol`)."""

from leaknet.peers.aeroblade import Aeroblade, ReconstructionMSE
from leaknet.peers.backbones import (
    EfficientNetB4,
    EfficientNetB4Scratch,
    ResNet50,
    ResNet50Scratch,
    Xception,
    XceptionScratch,
)
from leaknet.peers.freqnet import FreqNet
from leaknet.peers.images import PeerImages
from leaknet.peers.latenttracer import LatentTracer, LatentTracerQuick
from leaknet.peers.latte import Latte
from leaknet.peers.leak_controls import Metadata, Thumbnail
from leaknet.peers.midlayer import ClipNeighbours, DinoNeighbours
from leaknet.peers.npr import NPR, NPRResized
from leaknet.peers.occ_clip import OccClip
from leaknet.peers.ours import Ours, OursPaper
from leaknet.peers.protocol import Peer, PeerOptions
from leaknet.peers.residual import LatentTracerResidual
from leaknet.peers.susy import SuSy

PEERS: tuple[type[Peer], ...] = (
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
    Metadata,
    Thumbnail,
)
"""Every row of `leak bench`, in the order of the paper's Table 1, then what is beyond it."""

__all__ = ["PEERS", "Peer", "PeerImages", "PeerOptions"]
