"""The branch of image statistics, fitted in closed form.

    statistics of the image and of its quarters → features (`leaknet.model.ridge`), their mean
      → ridge regression, and coordinates of a two-covariance model (`leaknet.model.two_covariance`)
        with the log-likelihood ratios of the classes
          → logistic regression on both (`leaknet.model.score_map`) → class scores along class
            directions: what the prototypes read
          → coordinates at unit length and evidence: what density detectors read
    statistics of the image's pixels → novelty (`leaknet.model.novelty`): they read it too

With a hundred images a class a strongly shrunk linear map is far ahead of one that is trained by
gradient descent (docs/LOG.md). Quarters are training images of their own: their differences within
an image tell both fits which differences carry no class. Activations are read of the image as
it is and of the image resized to one size.

With degraded copies (`statistics.degraded`) there are two regressions, because a single one loses
on original images what it gains on copies. The second is fitted to whole images and copies, as they
are and resized; its outputs are class scores and a score of being original, whose probability
weights the two. The coordinates ignore copies, so that a copy is unlike the known images.

The closed form is fitted to training and validation images. Gate and prototypes train on class
scores that fits without the image's prompt group give; otherwise they would learn from scores that
have seen the label. Validation images keep such embeddings (`leaknet.training.held_out`), so that
calibration reads none that was fitted to them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from leakcache.errors import ConfigError
from leakcache.images.preprocess import PARTS
from leakcache.statistics.activation_features import LENGTHS as ACTIVATION_LENGTHS
from leakcache.statistics.pixel_features import LENGTH, LENGTHS
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
from leaknet.model.branch import HELD_OUT, Branch, Sampler
from leaknet.model.feature_space import fit_space
from leaknet.model.fit_cache import cached_fit
from leaknet.model.head import PrototypeHead
from leaknet.model.novelty import MAX_IMAGES, Novelty
from leaknet.model.pair_calibration import calibrate_pairs, held_out_pairs
from leaknet.model.ridge import RidgeMap
from leaknet.model.score_map import fit_score_map
from leaknet.model.source_density import EVIDENCE_SPREAD, SourceDensity, evidence
from leaknet.model.source_map import SourceMap
from leaknet.model.two_covariance import TwoCovariance, held_out
from leaknet.model.views import BLOCK, Views

NOVELTY_BLOCK = 64
"""Images whose features are in memory while novelty is fitted."""

UNPENALISED = 1e4
"""Inverse strength of a logistic regression that is not regularised."""

LEAST_GAP = 1.0
"""Nats between scores, below which classes are as good as not separated."""


class StatisticsBranch(Branch):
    """From statistics of pixels and activations to an embedding.

    The embedding is class scores along class directions, `head.dimension` values, and after them
    the coordinates of the two-covariance model and novelty. All that the closed form fits is
    held in buffers; only gate and head have parameters.
    """

    name: ClassVar[str] = "statistics"
    directions: Tensor

    def __init__(self, config: StatisticsConfig, head: HeadConfig, classes: int) -> None:
        """Build empty: `fit` or a state dict supplies the closed-form part."""
        super().__init__()
        self.config, dimension = config, head.dimension
        seen = ACTIVATION_LENGTHS if config.activations else {}
        lengths = {**LENGTHS, **seen, **_resized(seen)}
        self.ridge = RidgeMap(lengths)
        self.sources = SourceMap(sum(lengths.values()))
        self.novelty = Novelty(LENGTH)
        self.density = SourceDensity()
        self.copy_ridge = RidgeMap({**lengths, **_resized(LENGTHS)}) if config.degraded else None
        self.register_buffer("directions", torch.zeros(dimension, dimension))
        self.add_head(head, classes)

    @property
    def size(self) -> int:
        """Fitted numbers, those of the closed form included."""
        return super().size + sum(values.numel() for values in self.buffers())

    @property
    def width(self) -> int:
        """Length of the embedding."""
        return len(self.directions) + len(self.sources.offset) + 1

    def columns(self, *, training: bool) -> tuple[str, ...]:
        """Cache columns that the branch reads."""
        return self.config.columns(training=training)

    def fit(
        self, data: TrainingData, classes: tuple[str, ...]
    ) -> tuple[Sampler, Float[Tensor, "image dimension"]]:
        """Fit the closed form and start the prototypes; the sampler gives held-out embeddings."""
        train, val = cached_fit(self, data, classes)
        if isinstance(self.head, PrototypeHead):
            self.head.start_at(self.centres(train, data.train.targets(classes)))
        return Sampler(lambda rows, views, noise: train[rows.cpu()].to(self.device)), val

    def fit_embedding(
        self, data: TrainingData, classes: tuple[str, ...]
    ) -> tuple[Float[Tensor, "image part"], Float[Tensor, "other dimension"]]:
        """Fit the closed form to both folds, copies to the training fold.

        Returns:
            By fits without the prompt group of an image: the class part of each training image,
            and the embedding of each validation image.

        Raises:
            ConfigError: the embedding is too short for a direction per class.
        """
        dimension = len(self.directions)
        if len(classes) > dimension:
            raise ConfigError(
                f"head.dimension = {dimension} is too small for directions of {len(classes)} "
                f"classes: set it to {len(classes)} or more"
            )
        count, targets = len(data.train), torch.from_numpy(_targets(data.train, classes))
        scores, coordinates = self._fit_originals(data, classes)
        if self.copy_ridge is not None:
            fitted = self._fit_copies(self.copy_ridge, data.train, classes)
            unseen = [self._copy_scores(whole) for whole in self._wholes(data.val)]
            copy_scores, original = (
                torch.cat([part.cpu() for part in found])
                for found in zip(fitted, *unseen, strict=True)
            )
            scores = copy_scores + original[:, None] * (scores - copy_scores)
        scores = scores - scores.mean(dim=1, keepdim=True)
        # With gates of 1/2, as initial ones are, and prototypes at the mean score of each class,
        # logits are the scores up to a constant, if directions have this length.
        own = float(scores[torch.arange(count), targets].mean())
        gap = max(own * len(classes) / (len(classes) - 1), LEAST_GAP)
        directions = torch.from_numpy(_rotation(dimension) / math.sqrt(gap))
        self.directions.copy_(directions)
        embedding = scores @ directions[: len(classes)]
        novelty = [self._novelty(whole)[:, None].cpu() for whole in self._wholes(data.val)]
        rest = torch.cat([coordinates[count:], torch.cat([coordinates[:0, :1], *novelty])], dim=1)
        val = torch.cat([embedding[count:], rest], dim=1)
        return embedding[:count].to(self.directions), val.to(self.directions)

    def _wholes(self, images: ImageColumns) -> Iterator[Float[Tensor, "k value"]]:
        """Statistics of whole images, a few at a time, on the branch's device."""
        for batch in images.batches(BLOCK):
            yield self.statistics_of(batch, 1)[:, 0].to(self.directions.device)

    def _novelty(self, whole: Float[Tensor, "image value"]) -> Float[Tensor, "image"]:
        """Novelty of the statistics of whole images."""
        features = self.ridge.features(_for_ridge(whole))
        found: Tensor = self.novelty(features[:, :LENGTH])
        return found

    def _copy_scores(
        self, whole: Float[Tensor, "image value"]
    ) -> tuple[Float[Tensor, "image class"], Float[Tensor, "image"]]:
        """Scores of the regression on copies, and the probability of being original."""
        if self.copy_ridge is None:
            raise ValueError("the branch has no regression on copies")
        outputs = self.copy_ridge(whole)
        return outputs[:, :-1], outputs[:, -1].sigmoid()

    def forward(
        self, inputs: Float[Tensor, "batch dimension"]
    ) -> tuple[Float[Tensor, "batch dimension"], Float[Tensor, "batch 1"]]:
        """Held-out embeddings, passed on."""
        return inputs, inputs.new_ones(len(inputs), 1)

    def embed(
        self, images: ImageColumns
    ) -> tuple[Float[Tensor, "image dimension"], Float[Tensor, "image 1"]]:
        """Class scores along their directions, and coordinates, of images; or held-out ones."""
        if HELD_OUT in images:
            return self.forward(images[HELD_OUT].to(self.device))
        return self.forward(self.embed_statistics(self.statistics_of(images).to(self.device)))

    def embed_statistics(
        self, statistics: Float[Tensor, "image part value"]
    ) -> Float[Tensor, "image dimension"]:
        """The embedding of what `statistics_of` returns."""
        parts = self.features_of(statistics)
        features, novelty = parts.mean(dim=1), self.novelty(parts[:, 0, :LENGTH])
        coordinates = self.sources.coordinates(features)
        scores, _ = self._weigh(features, statistics[:, 0])
        centred = scores - scores.mean(dim=1, keepdim=True)
        known = centred @ self.directions[: scores.shape[1]]
        return torch.cat([known, coordinates, novelty[:, None]], dim=1)

    def features_of(
        self, statistics: Float[Tensor, "image part value"]
    ) -> Float[Tensor, "image part feature"]:
        """Features that the regression on originals reads of each part."""
        found: Tensor = self.ridge.features(_for_ridge(statistics))
        return found

    def class_scores(
        self, statistics: Float[Tensor, "image part value"]
    ) -> tuple[Float[Tensor, "image class"], Float[Tensor, "image"]]:
        """Class scores, and the weight that the scores fitted to originals have in them.

        Args:
            statistics: what `statistics_of` returns.
        """
        return self._weigh(self.features_of(statistics).mean(dim=1), statistics[:, 0])

    def _weigh(
        self, features: Float[Tensor, "image feature"], whole: Float[Tensor, "image value"]
    ) -> tuple[Float[Tensor, "image class"], Float[Tensor, "image"]]:
        """`class_scores` of mean features and of the statistics of the whole image."""
        ridge, coordinates = self.ridge.apply_features(features), self.sources.coordinates(features)
        scores = ridge + self.sources.class_scores(coordinates)
        if self.copy_ridge is None:
            return scores, scores.new_ones(len(scores))
        copy_scores, original = self._copy_scores(whole)
        return copy_scores + original[:, None] * (scores - copy_scores), original

    def margin_form(
        self, features: Float[Tensor, " feature"], pair: tuple[int, int]
    ) -> tuple[Float64[Tensor, " feature"], float]:
        """Weights w and constant b: scores fitted to originals differ by w · features + b.

        Exact for these features; for others too, where both classes have equally many images.

        Args:
            features: of one image, mean over its parts.
            pair: numbers of the class and of the one that is subtracted.
        """
        first, second = pair
        weight, bias = self.ridge.weight.double(), self.ridge.bias.double()
        of_ratios, constant = self.sources.margin_form(features, pair)
        together = weight[:, first] - weight[:, second] + of_ratios
        return together, float(bias[first] - bias[second] + constant)

    def class_part(
        self, embedding: Float[Tensor, "*batch dimension"]
    ) -> Float[Tensor, "*batch part"]:
        """Class scores along their directions."""
        return embedding[..., : len(self.directions)]

    def coordinates(
        self, embedding: Float[Tensor, "*batch dimension"]
    ) -> Float[Tensor, "*batch coordinate"]:
        """Coordinates of the two-covariance model."""
        return embedding[..., len(self.directions) : -1]

    def evidence(self, embedding: Float[Tensor, "image dimension"]) -> Float[Tensor, "image"]:
        """Highest log-likelihood ratio of a known source."""
        return evidence(self.sources.model, self.coordinates(embedding)).to(embedding)

    def density_part(
        self, embedding: Float[Tensor, "image dimension"]
    ) -> Float[Tensor, "image coordinate"]:
        """Coordinates at unit length, how far evidence lies below its median, and novelty."""
        found: Tensor = self.density(
            self.coordinates(embedding), self.evidence(embedding), embedding[:, -1]
        )
        return found

    def enrol(self, embedding: Float[Tensor, "image dimension"]) -> None:
        """Add a source, known by images of these embeddings, to the two-covariance model."""
        self.sources.enrol(self.coordinates(embedding))

    def centres(
        self, held_out: Float[Tensor, "image dimension"], targets: Int[Tensor, "image"]
    ) -> Float[Tensor, "class dimension"]:
        """Initial centres of the prototypes, equally far from the middle of all classes.

        Their score of the own class is the mean one of held-out images. The classes' own means
        differ in their distance to the middle, so that the flat scores of degraded images would
        go to the classes near it.
        """
        means = class_means(held_out, targets)
        classes = len(means)
        directions = self.directions[:classes]
        scores = means.to(directions) @ directions.T / directions[0].square().sum()
        own = scores.diagonal().mean()
        even = (-own / (classes - 1)).expand(classes, classes).clone()
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

    def degraded_statistics_of(self, images: ImageColumns) -> Float[Tensor, "image copy value"]:
        """The same of the degraded copies of each image, as wholes."""
        native, resized = images[DEGRADED_PIXELS].unbind(dim=2)
        if not self.config.activations:
            return torch.cat([native, resized], dim=-1)
        activations = images[DEGRADED_ACTIVATIONS].unbind(dim=2)
        return torch.cat([native, *activations, resized], dim=-1)

    def _fit_originals(
        self, data: TrainingData, classes: tuple[str, ...]
    ) -> tuple[Float64[Tensor, "image class"], Float64[Tensor, "image coordinate"]]:
        """Fit sources and ridge to both folds and their parts; held-out scores, coordinates."""
        folds = data.train, data.val
        targets = np.concatenate([_targets(fold, classes) for fold in folds])
        groups = np.concatenate([fold.groups for fold in folds])

        def read(rows: Int[np.ndarray, "k"]) -> Float[Tensor, "view value"]:
            return torch.cat(
                [
                    _for_ridge(self.statistics_of(fold.take(own))).flatten(0, 1)
                    for fold, own in zip(folds, _within(rows, len(data.train)), strict=True)
                    if len(own)
                ]
            )

        space = fit_space(self.ridge.features, Views(len(targets), PARTS, read), groups)
        numbers = torch.from_numpy(targets)
        regression = space.fit_ridge(_centred_one_hot(targets).repeat(PARTS, axis=0))
        fit = space.fit_sources
        held = held_out(fit, numbers, groups, evidence_spread=EVIDENCE_SPREAD)
        directions = held.directions
        pairs = calibrate_pairs(list(held_out_pairs(fit, numbers, groups, held.spread)))
        weights = space.weights(torch.cat([regression.dual, directions.weights], dim=1))
        ridge_scores = regression.held_out.reshape(len(targets), PARTS, -1).mean(axis=1)
        model = TwoCovariance.of(directions, held.spread)
        self.density.fit(held.evidence)
        self._fit_novelty(data.train)
        outputs = {"ridge": ridge_scores, "ratios": held.ratios.numpy()}
        scores = fit_score_map(outputs, targets, groups)
        ridge = weights[:, : len(classes)].numpy()
        of_ridge = scores.weights["ridge"]
        bias = scores.bias - _centred(regression.offset[None])[0] @ of_ridge
        self.ridge.set_weights(_centred(ridge) @ of_ridge, bias)
        self.sources.set_model(
            weights[:, len(classes) :], directions, model, scores.weights["ratios"], pairs
        )
        return torch.from_numpy(scores.held_out), held.coordinates

    def _fit_novelty(self, train: ImageColumns) -> None:
        """Fit novelty to whole images, some of them where there are many."""
        rows = np.arange(0, len(train), -(-len(train) // MAX_IMAGES))
        features = [
            self.ridge.features(_for_ridge(self.statistics_of(train.take(part), 1)[:, 0]))
            for part in np.array_split(rows, -(-len(rows) // NOVELTY_BLOCK))
        ]
        self.novelty.fit(torch.cat([part[:, :LENGTH] for part in features]), train.groups[rows])

    def _fit_copies(
        self, ridge: RidgeMap, train: ImageColumns, classes: tuple[str, ...]
    ) -> tuple[Float64[Tensor, "image class"], Float64[Tensor, "image"]]:
        """Fit to whole images and copies; held-out scores, and probabilities of being original.

        The probability supposes that originals and copies are equally frequent.
        """
        images, parts = len(train), 1 + train.columns[DEGRADED_PIXELS].shape[1]
        targets = _targets(train, classes).repeat(parts)
        original = np.arange(images * parts) % parts == 0

        def read(rows: Int[np.ndarray, "k"]) -> Float[Tensor, "view value"]:
            chosen = train.take(rows)
            whole = self.statistics_of(chosen, parts=1)
            return torch.cat([whole, self.degraded_statistics_of(chosen)], dim=1).flatten(0, 1)

        space = fit_space(ridge.features, Views(images, parts, read), train.groups)
        fitted = space.fit_ridge(
            np.column_stack([_centred_one_hot(targets), original - original.mean()])
        )
        fitted_weights = space.weights(fitted.dual).numpy()
        originality, groups = fitted.held_out[:, -1:], train.groups.repeat(parts)
        scores = fit_score_map({"ridge": fitted.held_out[:, :-1]}, targets, groups)
        # Importing scikit-learn costs a second, which fitted branches need not pay.
        from sklearn.linear_model import LogisticRegression

        logistic = LogisticRegression(C=UNPENALISED, class_weight="balanced")
        logistic.fit(originality, original)
        slope, intercept = float(logistic.coef_[0, 0]), float(logistic.intercept_[0])
        of_ridge = scores.weights["ridge"]
        weights = _centred(fitted_weights[:, :-1]) @ of_ridge
        bias = scores.bias - _centred(fitted.offset[None, :-1])[0] @ of_ridge
        ridge.set_weights(
            np.column_stack([weights, slope * fitted_weights[:, -1]]),
            np.append(bias, intercept - slope * fitted.offset[-1]),
        )
        probability = logistic.predict_proba(originality[original])[:, 1]
        return torch.from_numpy(scores.held_out[original]), torch.from_numpy(probability)


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


def _within(
    rows: Int[np.ndarray, "image"], first: int
) -> tuple[Int[np.ndarray, "k"], Int[np.ndarray, "m"]]:
    """Ascending rows of two folds, one after the other, as rows of each; `first`: length of one."""
    return rows[rows < first], rows[rows >= first] - first


def _targets(train: ImageColumns, classes: tuple[str, ...]) -> Int[np.ndarray, "image"]:
    found: np.ndarray = train.targets(classes).cpu().numpy()
    return found


def _centred_one_hot(targets: Int[np.ndarray, "image"]) -> Float[np.ndarray, "image class"]:
    """One-hot classes less their mean where all are equally frequent."""
    classes = int(targets.max()) + 1
    found: np.ndarray = np.eye(classes)[targets] - 1 / classes
    return found


def _centred(weights: Float[np.ndarray, "value class"]) -> Float[np.ndarray, "value class"]:
    """Weights of outputs less their mean over the classes."""
    centred: np.ndarray = weights - weights.mean(axis=1, keepdims=True)
    return centred


def _rotation(dimension: int) -> Float[np.ndarray, "{dimension} {dimension}"]:
    """An orthonormal matrix, always the same."""
    square = np.random.default_rng(0).normal(size=(dimension, dimension))
    found: Float[np.ndarray, "{dimension} {dimension}"] = np.linalg.qr(square)[0]
    return found
