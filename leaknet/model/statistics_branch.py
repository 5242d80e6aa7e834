"""The branch of image statistics, fitted in closed form.

    statistics of the image and of its quarters → class scores of each (`leaknet.model.ridge`)
      → their mean → softmax → class probabilities as coordinates along class directions
    statistics of its pixels → novelty (`leaknet.model.novelty`) → a direction of its own

With a hundred images a class a strongly shrunk linear map is far ahead of one that is trained by
gradient descent (docs/LOG.md). Quarters are training images of their own: their differences within
an image tell the regression which differences carry no class. Activations are read of the image as
it is and of the image resized to one size.

Probabilities are embedded, because an image that two classes claim is then far from both, and
densities of distances separate unknown relatives of known generators better.

With degraded copies (`statistics.degraded`) there are two regressions, because a single one loses
on original images what it gains on copies. The second is fitted to whole images and copies, as they
are and resized; its outputs are class scores and a score of being original, whose probability
weights the two. Novelty ignores it: a copy is novel. Novelty reads pixels only, where it works
better than beside activations (docs/LOG.md).

Gate and prototypes train on the embedding that a fit without the image's prompt group gives;
otherwise they would learn from an embedding that has seen the label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from leakcache.errors import ConfigError
from leakcache.images.views import PARTS
from leakcache.statistics.activation_features import LENGTHS as ACTIVATION_LENGTHS
from leakcache.statistics.pixel_features import LENGTH, LENGTHS
from leaknet.calibration.temperature import fit_temperature
from leaknet.config import (
    ACTIVATIONS,
    DEGRADED_ACTIVATIONS,
    DEGRADED_PIXELS,
    PIXELS,
    HeadConfig,
    StatisticsConfig,
)
from leaknet.data.columns import ImageColumns
from leaknet.data.training_data import TrainingData
from leaknet.model.branch import Branch, Sampler
from leaknet.model.fit_cache import cached_fit
from leaknet.model.head import PrototypeHead
from leaknet.model.novelty import Novelty
from leaknet.model.ridge import RidgeMap

MAX_VIEWS = 12_000
"""Views that a regression is fitted to, at most, unless there are more images: time grows with the
cube of their number, and the more images there are, the fewer views of each are needed."""

UNPENALISED = 1e4
"""Inverse strength of a logistic regression that is not regularised."""

INVERSE_TEMPERATURE = 0.2
"""Of class probabilities, relative to the likeliest one: at 1 all certain images coincide."""

NOVELTY_SCALE = 1.0
"""Length of one deviation of novelty, in standard deviations of the class probabilities."""


class StatisticsBranch(Branch):
    """From statistics of pixels and activations to an embedding.

    The state of the embedding is held in buffers; only gate and head have parameters.
    """

    name: ClassVar[str] = "statistics"
    directions: Tensor
    novelty_direction: Tensor

    def __init__(self, config: StatisticsConfig, head: HeadConfig, classes: int) -> None:
        """Build empty: `fit` or a state dict supplies the closed-form part."""
        super().__init__()
        self.config, dimension = config, head.dimension
        seen = ACTIVATION_LENGTHS if config.activations else {}
        lengths = {**LENGTHS, **seen, **_resized(seen)}
        self.ridge = RidgeMap(lengths)
        self.copy_ridge = RidgeMap({**lengths, **_resized(LENGTHS)}) if config.degraded else None
        self.novelty = Novelty(LENGTH)
        self.register_buffer("directions", torch.zeros(dimension, dimension))
        self.register_buffer("novelty_direction", torch.zeros(dimension))
        self.add_head(head, classes)

    @property
    def size(self) -> int:
        """Fitted numbers, those of the closed form included."""
        return super().size + sum(values.numel() for values in self.buffers())

    def columns(self, *, training: bool) -> tuple[str, ...]:
        """Cache columns that the branch reads."""
        return self.config.columns(training=training)

    def fit(self, data: TrainingData, classes: tuple[str, ...]) -> Sampler:
        """Fit the closed form and start the prototypes; the sampler gives held-out embeddings."""
        held_out = cached_fit(self, data.train, classes)
        if isinstance(self.head, PrototypeHead):
            self.head.start_at(self.centres(held_out, data.train.targets(classes)))
        return lambda rows, views, noise: held_out[rows.to(held_out.device)].to(self.device)

    def fit_embedding(
        self, train: ImageColumns, classes: tuple[str, ...]
    ) -> Float[Tensor, "image dimension"]:
        """Fit the closed form; the embedding of each image by a fit without its prompt group.

        Held-out embeddings lack novelty, which gate and prototypes do not read.

        Raises:
            ConfigError: the embedding is too short for a direction per class and one of novelty.
        """
        dimension = len(self.directions)
        if len(classes) >= dimension:
            raise ConfigError(
                f"head.dimension = {dimension} is too small for directions of {len(classes)} "
                f"classes and of unknown generators: set it to {len(classes) + 1} or more"
            )
        scores = self._fit_ridge(train, classes)
        if self.copy_ridge is not None:
            copy_scores, original = self._fit_copy_ridge(self.copy_ridge, train, classes)
            scores = copy_scores + original[:, None] * (scores - copy_scores)
        probabilities = torch.from_numpy(scores).softmax(dim=1)
        # With w = 1/2, as an initial gate gives, and prototypes at certain images, logits are the
        # squared length of a direction times the probabilities, up to a constant.
        length = math.sqrt(1 / fit_temperature(probabilities.numpy(), _targets(train, classes)))
        directions = torch.from_numpy(length * _rotation(dimension))
        self.directions.copy_(directions)
        self._fit_novelty(train, len(classes))
        return (probabilities @ directions[: len(classes)]).to(self.directions)

    def forward(
        self, inputs: Float[Tensor, "batch dimension"]
    ) -> tuple[Float[Tensor, "batch dimension"], Float[Tensor, "batch 1"]]:
        """Held-out embeddings, passed on."""
        return inputs, inputs.new_ones(len(inputs), 1)

    def embed(
        self, images: ImageColumns
    ) -> tuple[Float[Tensor, "image dimension"], Float[Tensor, "image 1"]]:
        """Class probabilities and novelty of images, along their directions."""
        return self.forward(self.embed_statistics(self.statistics_of(images).to(self.device)))

    def embed_statistics(
        self, statistics: Float[Tensor, "image part value"]
    ) -> Float[Tensor, "image dimension"]:
        """The embedding of what `statistics_of` returns."""
        parts = _for_ridge(statistics)
        scores: Tensor = self.ridge(parts).mean(dim=1)
        if self.copy_ridge is not None:
            outputs = self.copy_ridge(statistics[:, 0])
            copy_scores, original = outputs[:, :-1], outputs[:, -1:].sigmoid()
            scores = copy_scores + original * (scores - copy_scores)
        novelty = self.novelty(self.ridge.features(parts[:, 0])[:, :LENGTH])
        probabilities = scores.softmax(dim=1)
        known = probabilities @ self.directions[: probabilities.shape[1]]
        return known + torch.outer(novelty, self.novelty_direction)

    def class_part(
        self, embedding: Float[Tensor, "*batch dimension"]
    ) -> Float[Tensor, "*batch dimension"]:
        """The embedding without novelty, which does not say which generator it is."""
        direction = self.novelty_direction
        square = direction.square().sum().clamp_min(torch.finfo(embedding.dtype).tiny)
        return embedding - (embedding @ direction / square)[..., None] * direction

    def centres(
        self, held_out: Float[Tensor, "image dimension"], targets: Int[Tensor, "image"]
    ) -> Float[Tensor, "class dimension"]:
        """Initial centres of the prototypes, equally far from the middle of all classes.

        Their probability of the own class is the mean one of held-out images. The classes' own
        means differ in their distance to the middle, so that the flat probabilities of degraded
        images would go to the classes near it.
        """
        means = class_means(held_out, targets)
        classes = len(means)
        directions = self.directions[:classes]
        probabilities = means.to(directions) @ directions.T / directions[0].square().sum()
        own = probabilities.diagonal().mean()
        even = ((1 - own) / (classes - 1)).expand(classes, classes).clone()
        even.fill_diagonal_(float(own))
        return even @ directions

    def statistics_of(
        self, images: ImageColumns, parts: int = PARTS
    ) -> Float[Tensor, "image part value"]:
        """Statistics of the first parts of images: the whole, then its quarters.

        Of a part's pixels; of its activations as it is and resized to one size, if they are read;
        last, of the pixels of the whole resized.
        """
        pixels = images[PIXELS]
        native, resized = pixels[:, :parts], pixels[:, PARTS:].expand(-1, parts, -1)
        if not self.config.activations:
            return torch.cat([native, resized], dim=-1)
        activations = [size[:, :parts] for size in images[ACTIVATIONS].chunk(2, dim=1)]
        return torch.cat([native, *activations, resized], dim=-1)

    def degraded_statistics_of(
        self, images: ImageColumns, copies: int
    ) -> Float[Tensor, "image copy value"]:
        """The same of the first degraded copies of each image, as wholes."""
        native, resized = images[DEGRADED_PIXELS][:, :copies].unbind(dim=2)
        if not self.config.activations:
            return torch.cat([native, resized], dim=-1)
        activations = images[DEGRADED_ACTIVATIONS][:, :copies].unbind(dim=2)
        return torch.cat([native, *activations, resized], dim=-1)

    def _fit_novelty(self, train: ImageColumns, classes: int) -> None:
        """Fit to whole images; its direction is orthogonal to those of the classes."""
        whole = _for_ridge(self.statistics_of(train, parts=1))[:, 0].to(self.directions.device)
        features = self.ridge.features(whole)
        self.novelty.fit(features[:, :LENGTH], train.groups)
        probabilities = (features @ self.ridge.weight + self.ridge.bias).softmax(dim=1)
        length = NOVELTY_SCALE * probabilities.std(dim=0).mean()
        self.novelty_direction.copy_(length * self.directions[classes])

    def _fit_ridge(
        self, train: ImageColumns, classes: tuple[str, ...]
    ) -> Float[np.ndarray, "image class"]:
        """Fit to images and their parts; held-out scores."""
        images = len(train)
        parts = max(1, min(PARTS, MAX_VIEWS // images))
        targets = _targets(train, classes)
        fitted = self.ridge.fit(
            _for_ridge(self.statistics_of(train, parts)).flatten(0, 1),
            _centred_one_hot(targets).repeat(parts, axis=0),
            train.groups.repeat(parts),
        )
        held_out = fitted.held_out.reshape(images, parts, -1).mean(axis=1)
        scale = INVERSE_TEMPERATURE / fit_temperature(held_out, targets)
        self.ridge.set_weights(scale * fitted.weights)
        scores: np.ndarray = scale * held_out
        return scores

    def _fit_copy_ridge(
        self, ridge: RidgeMap, train: ImageColumns, classes: tuple[str, ...]
    ) -> tuple[Float[np.ndarray, "image class"], Float[np.ndarray, "image"]]:
        """Fit to whole images and copies; held-out scores, and probabilities of being original.

        The probability supposes that originals and copies are equally frequent.
        """
        images = len(train)
        count = max(1, min(train[DEGRADED_PIXELS].shape[1], MAX_VIEWS // images - 1))
        whole = self.statistics_of(train, parts=1)[:, 0]
        copies = self.degraded_statistics_of(train, count)
        targets = np.tile(_targets(train, classes), 1 + count)
        original = np.arange(images * (1 + count)) < images
        fitted = ridge.fit(
            torch.cat([whole, *copies.unbind(dim=1)]),
            np.column_stack([_centred_one_hot(targets), original - original.mean()]),
            np.tile(train.groups, 1 + count),
        )
        scores, originality = fitted.held_out[:, :-1], fitted.held_out[:, -1:]
        scale = INVERSE_TEMPERATURE / fit_temperature(scores, targets)
        # Importing scikit-learn costs a second, which fitted branches need not pay.
        from sklearn.linear_model import LogisticRegression

        logistic = LogisticRegression(C=UNPENALISED, class_weight="balanced")
        logistic.fit(originality, original)
        slope, intercept = float(logistic.coef_[0, 0]), float(logistic.intercept_[0])
        zeros = np.zeros(scores.shape[1])
        ridge.set_weights(
            np.append(zeros + scale, slope) * fitted.weights, np.append(zeros, intercept)
        )
        return scale * scores[:images], logistic.predict_proba(originality[:images])[:, 1]


def class_means(
    embedding: Float[Tensor, "image dimension"], targets: Int[Tensor, "image"]
) -> Float[Tensor, "class dimension"]:
    """Mean embedding of each class, all of which have images."""
    classes = range(int(targets.max()) + 1)
    return torch.stack([embedding[targets == number].mean(dim=0) for number in classes])


def _resized(lengths: Mapping[str, int]) -> dict[str, int]:
    return {f"resized_{name}": length for name, length in lengths.items()}


def _for_ridge(statistics: Float[Tensor, "*batch all"]) -> Float[Tensor, "*batch value"]:
    """All but the resized pixels, which gain nothing on original images."""
    return statistics[..., :-LENGTH]


def _targets(train: ImageColumns, classes: tuple[str, ...]) -> Int[np.ndarray, "image"]:
    found: np.ndarray = train.targets(classes).cpu().numpy()
    return found


def _centred_one_hot(targets: Int[np.ndarray, "image"]) -> Float[np.ndarray, "image class"]:
    """One-hot classes less their mean where all are equally frequent."""
    classes = int(targets.max()) + 1
    found: np.ndarray = np.eye(classes)[targets] - 1 / classes
    return found


def _rotation(dimension: int) -> Float[np.ndarray, "{dimension} {dimension}"]:
    """An orthonormal matrix, always the same."""
    square = np.random.default_rng(0).normal(size=(dimension, dimension))
    found: Float[np.ndarray, "{dimension} {dimension}"] = np.linalg.qr(square)[0]
    return found
