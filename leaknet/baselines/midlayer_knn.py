"""Nearest neighbours in the middle of a frozen CLIP or DINO, without training (arXiv 2408.09153).

Images are represented by the normalised class token after the middle block (resized to 256,
central crop of 224). A class's score is the mean cosine similarity of its k nearest training
images; k is the one of `NEIGHBOURS` with the best validation macro AUC.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import timm
import torch
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from leakcache.columns.table import RESIZED
from leakcache.errors import TrainingError
from leakcache.store.zarr_column import ColumnSpec
from leaknet.baselines.base import Baseline, BaselineImages, BaselineOptions
from leaknet.baselines.trained_network import cropped, standardised
from leaknet.baselines.weights import count, fingerprint, frozen, pretrained
from leaknet.data.embeddings import Embeddings
from leaknet.metrics import closed_values

NEIGHBOURS = (1, 3, 5, 10, 20)
ABSENT = -1.0
"""Score of a class without training images: the lowest cosine."""


class MidLayerNeighbours(Baseline):
    """A frozen vision transformer of timm.

    Attributes:
        model: timm's name.
        size: side of its input.
    """

    name: ClassVar[str]
    model: ClassVar[str]
    size: ClassVar[int] = 224
    fitted: dict[str, Tensor]

    def __init__(self, classes: tuple[str, ...], options: BaselineOptions) -> None:
        super().__init__(classes, options)
        network: Any = pretrained(self.model, 0, options.weights)
        self.block = len(network.blocks) // 2 - 1
        # Later blocks and the last normalisation are not needed.
        network.prune_intermediate_layers([self.block], prune_norm=True, prune_head=True)
        self.network = frozen(network, options.device)

    def fit(self, train: BaselineImages, val: BaselineImages) -> MidLayerNeighbours:
        """Store the training images; choose k on `val`, the middle one if `val` is empty.

        Raises:
            TrainingError: there are no training images.
        """
        if not len(train):
            raise TrainingError(f"{self.name}: the training fold is empty")
        self.fitted = {
            "known": torch.from_numpy(self.vectors(train)),
            "targets": torch.from_numpy(train.targets(self.classes)),
            "neighbours": torch.tensor(NEIGHBOURS[len(NEIGHBOURS) // 2]),
        }
        targets = val.targets(self.classes)
        if len(np.unique(targets)) > 1:
            vectors = self.vectors(val)
            aucs = [_macro_auc(self.similarities(vectors, k), targets) for k in NEIGHBOURS]
            self.fitted["neighbours"] = torch.tensor(NEIGHBOURS[int(np.argmax(aucs))])
        return self

    def embed(self, images: BaselineImages) -> Embeddings:
        """Class tokens, and similarities per class."""
        vectors = self.vectors(images)
        neighbours = int(self.fitted["neighbours"])
        return self.embeddings(images, vectors, self.similarities(vectors, neighbours))

    @property
    def parameters(self) -> int:
        """Of the blocks in use."""
        return count(self.network)

    def similarities(
        self, vectors: Float32[np.ndarray, "image dimension"], neighbours: int
    ) -> Float32[np.ndarray, "image class"]:
        """Mean cosine to the nearest images of each class (all, if it has fewer)."""
        known, targets = self.fitted["known"], self.fitted["targets"]
        cosines = torch.from_numpy(vectors) @ known.T
        scores = torch.full((len(vectors), len(self.classes)), ABSENT)
        for number in np.unique(targets.numpy()).tolist():
            own = cosines[:, targets == number]
            nearest = own.topk(min(neighbours, own.shape[1]), dim=1).values
            scores[:, number] = nearest.mean(dim=1)
        return scores.numpy()

    def vectors(self, images: BaselineImages) -> Float32[np.ndarray, "image dimension"]:
        """Unit class tokens, stored once computed."""
        depends = {"weights": fingerprint(self.network), "size": self.size, "block": self.block}
        spec = ColumnSpec(self.name, (int(self.network.embed_dim),), "float32", depends)
        return images.extract(spec, RESIZED, self._tokens)[:]

    @torch.inference_mode()
    def _tokens(
        self, views: UInt8[np.ndarray, "k side side 3"], _: Int[np.ndarray, "k"]
    ) -> Float32[np.ndarray, "k dimension"]:
        settings = timm.get_pretrained_cfg(self.model)
        x = standardised(cropped(views, self.size, None), settings.mean, settings.std)
        tokens: Tensor = self.network.forward_features(x.to(self.options.device))[:, 0].float()
        unit: np.ndarray = F.normalize(tokens, dim=1).cpu().numpy()
        return unit


def _macro_auc(
    scores: Float[np.ndarray, "image class"], targets: Int[np.ndarray, "image"]
) -> float:
    return float(closed_values(scores, targets)["macro_auc"][0])


class ClipNeighbours(MidLayerNeighbours):
    """OpenAI's CLIP ViT-B/16."""

    name = "clip-midlayer-knn"
    model = "vit_base_patch16_clip_224.openai"


class DinoNeighbours(MidLayerNeighbours):
    """DINO's ViT-B/16."""

    name = "dino-midlayer-knn"
    model = "vit_base_patch16_224.dino"
