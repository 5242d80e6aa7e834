"""The branch of image statistics, fitted in closed form.

    statistics of the image and of its quarters → features (`leaknet.model.ridge`), their mean
      → ridge regression, and coordinates of a two-covariance model (`leaknet.model.two_covariance`)
        with the log-likelihood ratios of the classes
          → logistic regression on both (`leaknet.model.fusion`) → class scores along class
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
have seen the label. Validation images keep such embeddings (`leaknet.training.run_folder`), so that
calibration reads none that was fitted to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

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
from leaknet.data.columns import ImageColumns, TrainingData
from leaknet.model.branch import HELD_OUT, Branch, BranchOutput, PrototypeHead, Sampler
from leaknet.model.feature_space import BLOCK
from leaknet.model.novelty import Novelty
from leaknet.model.ridge import RidgeMap
from leaknet.model.source_map import SourceDensity, SourceMap, evidence
from leaknet.model.statistics_fit import cached_fit, original_values


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

    def wholes(self, images: ImageColumns) -> Iterator[Float[Tensor, "k value"]]:
        """Statistics of whole images, a few at a time, on the branch's device."""
        for batch in images.batches(BLOCK):
            yield self.statistics_of(batch, 1)[:, 0].to(self.directions.device)

    def novelty_of(self, whole: Float[Tensor, "image value"]) -> Float[Tensor, "image"]:
        """Novelty of the statistics of whole images."""
        features = self.ridge.features(original_values(whole))
        found: Tensor = self.novelty(features[:, :LENGTH])
        return found

    def copy_scores(
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
        found: Tensor = self.ridge.features(original_values(statistics))
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
        copy_scores, original = self.copy_scores(whole)
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

    def classify(
        self, embedding: Float[Tensor, "batch dimension"], attention: Float[Tensor, "batch step"]
    ) -> BranchOutput:
        """As any branch; an enrolled class has the logit of its likelihood ratio."""
        output, trained = super().classify(embedding, attention), len(self.sources.score_weights)
        if trained in (0, output.logits.shape[1]):
            return output
        known, coordinates = output.logits[:, :trained], self.coordinates(embedding)
        enrolled = self.sources.enrolled_logits(coordinates, known, self.sources.model)
        return replace(output, logits=torch.cat([known, enrolled], dim=1))

    def source_logits(
        self, embedding: Float[Tensor, "image dimension"], images: Float[Tensor, "own dimension"]
    ) -> Float[Tensor, "image"]:
        """Logits of a class whose images have these embeddings, by its likelihood ratio."""
        coordinates, trained = self.coordinates(embedding), len(self.sources.score_weights)
        output = super().classify(embedding, embedding.new_ones(len(embedding), 1))
        model = self.sources.model.enrol(self.coordinates(images))
        return self.sources.enrolled_logits(coordinates, output.logits[:, :trained], model)[:, -1]

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


def class_means(
    embedding: Float[Tensor, "image dimension"], targets: Int[Tensor, "image"]
) -> Float[Tensor, "class dimension"]:
    """Mean embedding of each class, all of which have images."""
    classes = range(int(targets.max()) + 1)
    return torch.stack([embedding[targets == number].mean(dim=0) for number in classes])


def _resized(lengths: Mapping[str, int]) -> dict[str, int]:
    return {f"resized_{name}": length for name, length in lengths.items()}
