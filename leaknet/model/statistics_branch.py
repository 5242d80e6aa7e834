"""The branch that reads statistics: fitted in closed form, added to h̄.

    statistics of the picture and of its quarters → class scores of each (`leaknet.model.ridge`)
      → their mean → softmax: how the classes share the picture → a fixed rotation
    statistics of its pixels → how unusual it is (`leaknet.model.novelty`) → a direction of its own

With a hundred images a class a strongly shrunk linear map is far ahead of one that was learnt by
gradient descent (docs/LOG.md). Quarters are learnt from as images of their own: how far they
differ within a picture tells the regression which differences mean nothing. What the encoder sees
of each is read as it is and from the picture brought to one size.

Scores are embedded as shares because a picture that two classes claim is thereby far from both:
distances, which every density is made of, then tell unknown siblings of known generators better.

Where copies are learnt from as well (`features.degraded`) there are two maps, as one alone would
lose on pictures as they were made what it gains on copies. The second learns from whole pictures
and copies alike, as they are and brought to one size: classes and which of the two a picture is;
what it says of that weighs the maps. How unusual a picture is does not depend on that: a copy is
unusual. Pixels alone tell it: beside activations they tell it less well (docs/LOG.md).

While the rest of the network trains, each training image is embedded as a fit without its prompt
group would embed it; otherwise the head would learn from an embedding that knows the answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from leakcache.errors import ConfigError
from leakcache.statistics.activation_features import LENGTHS as ACTIVATIONS
from leakcache.statistics.pixel_features import LENGTH, LENGTHS
from leakcache.statistics.pixels import PARTS
from leaknet.config import FeatureConfig
from leaknet.data.split import SplitLatents
from leaknet.model.novelty import Novelty
from leaknet.model.ridge import RidgeMap

MOST_VIEWS = 12_000
"""Views that a map learns from, at most, where there are not more images than that: the fit takes
time with the cube of their number, and the more images, the fewer views of each are needed."""

UNPENALISED = 1e4

SHARPNESS = 0.2
"""Of shares, where 1 makes them probabilities: those of certain pictures would all be alike."""

WORTH = 1.0
"""A deviation beyond what is usual moves the embedding as far as so many of a class's share do."""


class Companion(nn.Module):
    """From statistics of an image's pixels and activations to an embedding of `dimension` values.

    All of it are buffers, saved with the model: nothing is learnt by gradient descent.
    """

    frame: Tensor
    unusual: Tensor

    def __init__(self, features: FeatureConfig, dimension: int) -> None:
        """Build without statistics: `fit` or a state dict supplies them.

        Args:
            features: whether statistics of activations are read, and whether there is a
                second map, for copies.
            dimension: of the embedding.
        """
        super().__init__()
        self.activations = features.activations
        seen = ACTIVATIONS if features.activations else {}
        lengths = {**LENGTHS, **seen, **_reduced(seen)}
        self.map = RidgeMap(lengths)
        small = _reduced(LENGTHS)
        self.copies = RidgeMap({**lengths, **small}) if features.degraded else None
        self.novelty = Novelty(LENGTH)
        self.register_buffer("frame", torch.zeros(dimension, dimension))
        self.register_buffer("unusual", torch.zeros(dimension))

    def fit(
        self, train: SplitLatents, classes: tuple[str, ...]
    ) -> Float[Tensor, "image dimension"]:
        """Fit to the training fold; what the head learns from.

        That is the embedding of each image by a fit without its own group, less its novelty.

        Args:
            train: with statistics, and with those of copies where the second map needs them.
            classes: in the order of the logits.

        Raises:
            ConfigError: the embedding has no room for a direction of each class and of novelty.
        """
        dimension = len(self.frame)
        if len(classes) >= dimension:
            raise ConfigError(
                f"model.dimension = {dimension} has no room for {len(classes)} classes and a "
                f"direction for unknown ones: set it to {len(classes) + 1} or more"
            )
        scores = self._fit_map(train, classes)
        if self.copies is not None:
            copies, original = self._fit_copies(self.copies, train, classes)
            scores = copies + original[:, None] * (scores - copies)
        shares = torch.from_numpy(scores).softmax(dim=1)
        # With w = 1/2, as an untrained gate has it, and prototypes where certain images lie,
        # logits are the square of the frame's scale times the shares, up to a constant.
        reach = math.sqrt(_sharpest(shares.numpy(), _targets(train, classes)))
        frame = torch.from_numpy(reach * _rotation(dimension))
        self.frame.copy_(frame)
        self._fit_novelty(train, len(classes))
        return (shares @ frame[: len(classes)]).to(self.frame)

    def forward(
        self, evidence: Float[Tensor, "batch part value"]
    ) -> Float[Tensor, "batch dimension"]:
        """The embedding."""
        parts = self._for_map(evidence)
        scores: Tensor = self.map(parts).mean(dim=1)
        if self.copies is not None:
            found = self.copies(evidence[:, 0])
            copies, original = found[:, :-1], found[:, -1:].sigmoid()
            scores = copies + original * (scores - copies)
        novelty = self.novelty(self.map.features(parts[:, 0])[:, :LENGTH])
        shares = scores.softmax(dim=1)
        return shares @ self.frame[: shares.shape[1]] + torch.outer(novelty, self.unusual)

    def without_novelty(
        self, embedded: Float[Tensor, "*batch dimension"]
    ) -> Float[Tensor, "*batch dimension"]:
        """The part in which the known generators differ, which alone says which of them it is."""
        square = self.unusual.square().sum().clamp_min(torch.finfo(embedded.dtype).tiny)
        return embedded - (embedded @ self.unusual / square)[..., None] * self.unusual

    def centres(
        self, held_out: Float[Tensor, "image dimension"], targets: Int[Tensor, "image"]
    ) -> Float[Tensor, "class dimension"]:
        """Where prototypes start: as certain as held-out pictures are on average, all alike.

        The classes' own means are not equally far from a picture that all classes share, and the
        flat shares of degraded pictures would fall to those that lie in the midst.
        """
        means = class_means(held_out, targets)
        classes = len(means)
        corners = self.frame[:classes]
        shares = means.to(corners) @ corners.T / corners[0].square().sum()
        own = shares.diagonal().mean()
        even = ((1 - own) / (classes - 1)).expand(classes, classes).clone()
        even.fill_diagonal_(float(own))
        return even @ corners

    def _for_map(
        self, evidence: Float[Tensor, "picture part all"]
    ) -> Float[Tensor, "picture part value"]:
        """All but the reduced pixels, which gain nothing on pictures as they were made."""
        return evidence[..., :-LENGTH]

    def _fit_novelty(self, train: SplitLatents, classes: int) -> None:
        """Fit to whole pictures; its direction is one that no class has."""
        evidence = train.evidence(slice(None), activations=self.activations, parts=1)
        whole = self._for_map(evidence)[:, 0]
        features = self.map.features(whole.to(self.map.mean.device))
        self.novelty.fit(features[:, :LENGTH], train.groups)
        shares = (features @ self.map.weight + self.map.start).softmax(dim=1)
        self.unusual.copy_(WORTH * shares.std(dim=0).mean() * self.frame[classes])

    def _fit_map(
        self, train: SplitLatents, classes: tuple[str, ...]
    ) -> Float[np.ndarray, "image class"]:
        """Fit to pictures and their parts; held-out scores."""
        images = len(train)
        parts = max(1, min(PARTS, MOST_VIEWS // images))
        evidence = train.evidence(slice(None), activations=self.activations, parts=parts)
        targets = _targets(train, classes)
        found = self.map.regress(
            self._for_map(evidence).flatten(0, 1),
            _wanted(targets).repeat(parts, axis=0),
            train.groups.repeat(parts),
        )
        held_out = found.held_out.reshape(images, parts, -1).mean(axis=1)
        scale = SHARPNESS * _sharpest(held_out, targets)
        self.map.place(scale * found.weights)
        scores: np.ndarray = scale * held_out
        return scores

    def _fit_copies(
        self, copies: RidgeMap, train: SplitLatents, classes: tuple[str, ...]
    ) -> tuple[Float[np.ndarray, "image class"], Float[np.ndarray, "image"]]:
        """Fit to whole pictures and copies; held-out scores of the pictures, and their weights.

        The weight of the first map is the probability that a picture is as it was made, pictures
        and copies being equally frequent.
        """
        assert train.degraded is not None
        images = len(train)
        count = max(1, min(train.degraded.shape[1], MOST_VIEWS // images - 1))
        pictures = train.evidence(slice(None), activations=self.activations, parts=1)[:, 0]
        degraded = train.degraded_evidence(count, activations=self.activations)
        targets = np.tile(_targets(train, classes), 1 + count)
        original = np.arange(images * (1 + count)) < images
        found = copies.regress(
            torch.cat([pictures, *degraded.unbind(dim=1)]),
            np.column_stack([_wanted(targets), original - original.mean()]),
            np.tile(train.groups, 1 + count),
        )
        scores, makes = found.held_out[:, :-1], found.held_out[:, -1:]
        scale = SHARPNESS * _sharpest(scores, targets)
        told = LogisticRegression(C=UNPENALISED, class_weight="balanced").fit(makes, original)
        slope, start = float(told.coef_[0, 0]), float(told.intercept_[0])
        gains = np.append(np.full(scores.shape[1], scale), slope)
        copies.place(gains * found.weights, np.append(np.zeros(scores.shape[1]), start))
        return scale * scores[:images], told.predict_proba(makes[:images])[:, 1]


def _reduced(lengths: Mapping[str, int]) -> dict[str, int]:
    return {f"reduced_{name}": length for name, length in lengths.items()}


def class_means(
    embedded: Float[Tensor, "image dimension"], targets: Int[Tensor, "image"]
) -> Float[Tensor, "class dimension"]:
    """Mean embedding of each class, all of which have images."""
    classes = range(int(targets.max()) + 1)
    return torch.stack([embedded[targets == number].mean(dim=0) for number in classes])


def _targets(train: SplitLatents, classes: tuple[str, ...]) -> Int[np.ndarray, "image"]:
    found: np.ndarray = train.targets(classes).cpu().numpy()
    return found


def _wanted(targets: Int[np.ndarray, "image"]) -> Float[np.ndarray, "image class"]:
    """One-hot classes less their mean where all are equally frequent."""
    classes = int(targets.max()) + 1
    found: np.ndarray = np.eye(classes)[targets] - 1 / classes
    return found


def _sharpest(scores: Float[np.ndarray, "image class"], targets: Int[np.ndarray, "image"]) -> float:
    """The factor under which held-out scores are the best log-probabilities (least entropy)."""
    right = torch.from_numpy(targets)
    factors = np.geomspace(1, 1000, 37)
    losses = [float(F.cross_entropy(torch.from_numpy(by * scores), right)) for by in factors]
    return float(factors[int(np.argmin(losses))])


def _rotation(dimension: int) -> Float[np.ndarray, "{dimension} {dimension}"]:
    """An orthonormal matrix, always the same."""
    square = np.random.default_rng(0).normal(size=(dimension, dimension))
    found: Float[np.ndarray, "{dimension} {dimension}"] = np.linalg.qr(square)[0]
    return found
