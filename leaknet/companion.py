"""The branch that reads statistics: fitted in closed form, added to h̄.

    statistics of the picture and of its quarters → class scores of each (`leaknet.ridge_map`)
      → their mean → a fixed rotation into D dimensions
    statistics of the picture → how unusual it is (`leaknet.novelty`) → a direction of its own

With a hundred images a class a strongly shrunk linear map is far ahead of one that was learnt by
gradient descent (docs/LOG.md). Quarters are learnt from as images of their own: how far they
differ within a picture tells the regression which differences mean nothing.

Where copies are learnt from as well (`features.degraded`) there are two maps, as one alone would
lose on pictures as they were made what it gains on copies: the second learns from pictures and
copies alike, whole ones and their pixels alone, classes and which of the two a picture is: what it
says of that weighs the maps. How unusual a picture is does not depend on that: a copy is unusual.

While the rest of the network trains, each training image is embedded as a fit without its prompt
group would embed it; otherwise the head would learn from an embedding that knows the answers.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from leakcache.latent_statistics import latent_lengths
from leakcache.pixel_statistics import LENGTH, LENGTHS
from leaknet.latents import SplitLatents
from leaknet.novelty import Novelty
from leaknet.ridge_map import RidgeMap
from leaknet.sections import FeatureConfig

MOST_VIEWS = 6000
"""Views that a map learns from, at most, where there are not more images than that: the fit takes
time with the cube of their number, and the more images, the fewer views of each are needed."""

UNPENALISED = 1e4

WORTH = 2.0
"""A deviation beyond what is usual moves the embedding as far as two of a class score's do."""


class Companion(nn.Module):
    """From statistics of an image's pixels and latents to an embedding of `dimension` values.

    All of it are buffers, saved with the model: nothing is learnt by gradient descent.
    """

    unusual: Tensor

    def __init__(self, features: FeatureConfig, dimension: int, channels: int) -> None:
        """Build without statistics: `fit` or a state dict supplies them.

        Args:
            features: whether statistics of native latents are read, and whether there is a
                second map, for copies.
            dimension: of the embedding.
            channels: of a latent.
        """
        super().__init__()
        self.native_latents = features.native_latents
        beside = latent_lengths(channels) if features.native_latents else {}
        lengths = {**LENGTHS, **beside}
        self.map = RidgeMap(dimension, lengths)
        self.novelty = Novelty(sum(lengths.values()))
        self.register_buffer("unusual", torch.zeros(dimension))
        self.copies = RidgeMap(dimension + 1, LENGTHS) if features.degraded else None

    def fit(
        self, train: SplitLatents, classes: tuple[str, ...]
    ) -> Float[Tensor, "image dimension"]:
        """Fit to the training fold; what the head learns from.

        That is the embedding of each image by a fit without its own group, less its novelty.

        Args:
            train: with statistics, and with those of copies where the second map needs them.
            classes: in the order of the logits.
        """
        embedded = self._fit_map(train, classes)
        if self.copies is not None:
            copies, original = self._fit_copies(self.copies, train, classes)
            embedded = copies + original[:, None] * (embedded - copies)
        self._fit_novelty(train, classes)
        return torch.from_numpy(embedded).to(self.map.weight)

    def forward(
        self, statistics: Float[Tensor, "batch part value"]
    ) -> Float[Tensor, "batch dimension"]:
        """The embedding."""
        embedded: Tensor = self.map(statistics).mean(dim=1)
        if self.copies is not None:
            found = self.copies(statistics[:, 0, :LENGTH])
            copies, original = found[:, :-1], found[:, -1:].sigmoid()
            embedded = copies + original * (embedded - copies)
        novelty = self.novelty(self.map.features(statistics[:, 0]))
        return embedded + torch.outer(novelty, self.unusual)

    def without_novelty(
        self, embedded: Float[Tensor, "*batch dimension"]
    ) -> Float[Tensor, "*batch dimension"]:
        """The part in which the known generators differ, which alone says which of them it is."""
        square = self.unusual.square().sum().clamp_min(torch.finfo(embedded.dtype).tiny)
        return embedded - (embedded @ self.unusual / square)[..., None] * self.unusual

    def _fit_novelty(self, train: SplitLatents, classes: tuple[str, ...]) -> None:
        """Fit to whole pictures; its direction is one that class scores leave free, if any."""
        if len(classes) >= len(self.unusual):
            return
        whole = train.evidence(slice(None), native_latents=self.native_latents)[:, 0]
        features = self.map.features(whole.to(self.map.mean.device))
        self.novelty.fit(features, train.groups)
        rows = torch.from_numpy(_rotation(len(classes) + 1, len(self.unusual))).to(features)
        scores = features @ (self.map.weight @ rows[:-1].T)
        self.unusual.copy_(WORTH * scores.std(dim=0).mean() * rows[-1])

    def _fit_map(
        self, train: SplitLatents, classes: tuple[str, ...]
    ) -> Float[np.ndarray, "image dimension"]:
        """Fit to pictures and their parts; held-out embeddings."""
        statistics = train.evidence(slice(None), native_latents=self.native_latents)
        images, parts = statistics.shape[:2]
        parts = max(1, min(parts, MOST_VIEWS // images))
        wanted, targets = _wanted(train, classes)
        found = self.map.regress(
            statistics[:, :parts].flatten(0, 1),
            wanted.repeat(parts, axis=0),
            train.groups.repeat(parts),
        )
        held_out = found.held_out.reshape(images, parts, -1).mean(axis=1)
        rotation = _rotation(len(classes), self.map.weight.shape[1]) * _reach(held_out, targets)
        self.map.weight.copy_(torch.from_numpy(found.weights @ rotation))
        embedded: np.ndarray = held_out @ rotation
        return embedded

    def _fit_copies(
        self, copies: RidgeMap, train: SplitLatents, classes: tuple[str, ...]
    ) -> tuple[Float[np.ndarray, "image dimension"], Float[np.ndarray, "image"]]:
        """Fit to whole pictures and copies; held-out embeddings of the pictures, and their weights.

        The weight of the first map is the probability that a picture is as it was made, pictures
        and copies being equally frequent.
        """
        assert train.statistics is not None
        assert train.degraded is not None
        images = len(train)
        count = max(1, min(train.degraded.shape[1], MOST_VIEWS // images - 1))
        wanted, targets = _wanted(train, classes)
        original = np.arange(images * (1 + count)) < images
        found = copies.regress(
            torch.cat([train.statistics[:, 0], *train.degraded[:, :count].unbind(dim=1)]),
            np.column_stack([np.tile(wanted, (1 + count, 1)), original - original.mean()]),
            np.tile(train.groups, 1 + count),
        )
        scores, makes = found.held_out[:, :-1], found.held_out[:, -1:]
        rotation = _rotation(len(classes), copies.weight.shape[1] - 1)
        rotation *= _reach(scores, np.tile(targets, 1 + count))
        told = LogisticRegression(C=UNPENALISED, class_weight="balanced").fit(makes, original)
        slope, start = float(told.coef_[0, 0]), float(told.intercept_[0])
        weights = np.column_stack([found.weights[:, :-1] @ rotation, slope * found.weights[:, -1]])
        copies.weight.copy_(torch.from_numpy(weights))
        copies.start[-1] = start
        return scores[:images] @ rotation, told.predict_proba(makes[:images])[:, 1]


def _wanted(
    train: SplitLatents, classes: tuple[str, ...]
) -> tuple[Float[np.ndarray, "image class"], Int[np.ndarray, "image"]]:
    """One-hot classes less their mean, and class numbers."""
    targets = train.targets(classes).cpu().numpy()
    return np.eye(len(classes))[targets] - 1 / len(classes), targets


def class_means(
    embedded: Float[Tensor, "image dimension"], targets: Int[Tensor, "image"]
) -> Float[Tensor, "class dimension"]:
    """Mean embedding of each class, all of which have images."""
    classes = range(int(targets.max()) + 1)
    return torch.stack([embedded[targets == number].mean(dim=0) for number in classes])


def _reach(held_out: Float[np.ndarray, "image class"], targets: Int[np.ndarray, "image"]) -> float:
    """How long the embedding of a certain class should be.

    With w = 1/2, as an untrained gate has it, and prototypes where certain images lie, logits are
    reach² times the scores, up to a constant; it is taken where their cross-entropy is least.
    """
    right = torch.from_numpy(targets)
    squares = np.geomspace(1, 100, 25)
    losses = [
        float(F.cross_entropy(torch.from_numpy(square * held_out), right)) for square in squares
    ]
    return math.sqrt(squares[int(np.argmin(losses))])


def _rotation(classes: int, dimension: int) -> Float[np.ndarray, "{classes} {dimension}"]:
    """Orthonormal rows as far as there is room for them, always the same."""
    generator = np.random.default_rng(0)
    square = generator.normal(size=(max(classes, dimension), max(classes, dimension)))
    orthonormal, _ = np.linalg.qr(square)
    found: Float[np.ndarray, "{classes} {dimension}"] = orthonormal[:classes, :dimension]
    return found
