"""From features to coordinates of a two-covariance model, and what density detectors read of them.

In the coordinates an image of an unknown generator lies near the origin, amid all classes, where
the density of the known images is highest. At unit length images of arbitrary generators spread
evenly over the sphere, and the density of the known is a likelihood ratio up to a constant. Images
of other pipelines lie far out instead; what their evidence lacks is one more coordinate. Images
that are unlike all known ones where these do not differ, as photographs are, have novelty.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from leaknet.model.pair_calibration import PairCalibration
from leaknet.model.two_covariance import Directions, TwoCovariance

BUFFERS = (
    "weight",
    "offset",
    "variances",
    "spread",
    "centres",
    "counts",
    "score_weights",
    "temperature",
    "pairs",
)


class SourceMap(nn.Module):
    """Linear coordinates and a two-covariance model in them. All state is held in buffers."""

    weight: Tensor
    offset: Tensor
    variances: Tensor
    spread: Tensor
    centres: Tensor
    counts: Tensor
    score_weights: Tensor
    temperature: Tensor
    pairs: Tensor

    def __init__(self, length: int) -> None:
        """Build empty: `set_model` or a state dict supplies coordinates and classes.

        Args:
            length: of the features.
        """
        super().__init__()
        scalars: dict[str, tuple[int, ...]] = {"spread": (), "temperature": ()}
        shapes = {**scalars, "weight": (length, 0), "centres": (0, 0), "score_weights": (0, 0)}
        for name in BUFFERS:
            self.register_buffer(name, torch.zeros(shapes.get(name, (0,))))

    @property
    def model(self) -> TwoCovariance:
        """The model of the coordinates."""
        centres, counts = self.centres.double(), self.counts.double()
        return TwoCovariance(self.variances.double(), self.spread.double(), centres, counts)

    def set_model(
        self,
        weight: Float[Tensor, "value coordinate"],
        directions: Directions,
        model: TwoCovariance,
        score_weights: Float[np.ndarray, "class class"],
        temperature: float = 1.0,
        pairs: PairCalibration | None = None,
    ) -> None:
        """Set the map from features to coordinates, the model and its calibration on pairs.

        Args:
            weight: from features to coordinates.
            directions: of the coordinates.
            model: in the coordinates.
            score_weights: from centred ratios to their part of the class scores.
            temperature: under which held-out ratios alone are likeliest.
            pairs: calibration of `same_source`.
        """
        values = (
            weight,
            directions.offset,
            model.variances,
            torch.tensor(model.spread),
            model.centres,
            model.counts,
            torch.from_numpy(score_weights),
            torch.tensor(temperature),
            torch.zeros(0) if pairs is None else pairs.tensor(),
        )
        for name, value in zip(BUFFERS, values, strict=True):
            setattr(self, name, value.to(self.weight))

    def coordinates(self, features: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch k"]:
        """Coordinates of features."""
        found: Tensor = features @ self.weight - self.offset
        return found

    def class_scores(
        self, coordinates: Float[Tensor, "image coordinate"]
    ) -> Float[Tensor, "image class"]:
        """The part that likelihood ratios have in the scores of the trained classes."""
        trained = len(self.score_weights)
        ratios = self.model.log_likelihood_ratios(coordinates)[:, :trained].to(self.weight)
        return (ratios - ratios.mean(dim=1, keepdim=True)) @ self.score_weights

    def margin_form(
        self, features: Float[Tensor, " feature"], pair: tuple[int, int]
    ) -> tuple[Float64[Tensor, " feature"], Float64[Tensor, ""]]:
        """Weights w and constant b: the class scores of a pair differ by w · features + b.

        Exact for these features; for others too, where all classes have equally many images.
        """
        first, second = pair
        difference = (self.score_weights[:, first] - self.score_weights[:, second]).double()
        factors = difference.new_zeros(len(self.counts))
        factors[: len(difference)] = difference - difference.mean()
        coordinates = self.coordinates(features).double()
        along, constant = self.model.margin_form(coordinates, factors)
        return self.weight.double() @ along, constant - along @ self.offset.double()

    @property
    def pair_calibration(self) -> PairCalibration | None:
        """Of `same_source`; None where too few classes or prompts were known to fit one."""
        return PairCalibration.of(self.pairs)

    def same_source(
        self, coordinates: Float[Tensor, "image coordinate"], calibration: PairCalibration
    ) -> Float64[np.ndarray, "image image"]:
        """Calibrated log10 likelihood ratio that every two images have the same source."""
        return calibration.log10(self.model.pairwise(coordinates).cpu().numpy())

    def enrolled_logits(
        self,
        coordinates: Float[Tensor, "image coordinate"],
        trained: Float[Tensor, "image class"],
        model: TwoCovariance,
    ) -> Float[Tensor, "image enrolled"]:
        """Logits of enrolled classes: that of the likeliest trained class and a ratio's difference.

        Args:
            coordinates: of the images.
            trained: their logits of the trained classes.
            model: the two-covariance model with the enrolled classes.
        """
        count = trained.shape[1]
        ratios = model.log_likelihood_ratios(coordinates) / self.temperature
        best = trained.argmax(dim=1, keepdim=True)
        found: Tensor = trained.gather(1, best) + ratios[:, count:] - ratios.gather(1, best)
        return found.to(trained)

    def enrol(self, coordinates: Float[Tensor, "image coordinate"]) -> None:
        """Add one class, known by these images."""
        model = self.model.enrol(coordinates)
        self.centres, self.counts = model.centres.to(self.weight), model.counts.to(self.weight)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in BUFFERS:
            if (value := state_dict.get(prefix + name)) is not None:
                setattr(self, name, self.weight.new_zeros(value.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)


EVIDENCE_SPREAD = 2.0
"""Spread of new images for evidence; the one that suits names accepts other pipelines."""

DEFICIT_SCALE = 0.5
"""Length, on the unit sphere, of evidence as far below the median as its 5 % quantile."""

NOVELTY_SCALE = 0.5
"""Length, on the unit sphere, of one deviation of novelty."""

LEAST_SCALE = 1e-6


def evidence(
    model: TwoCovariance, coordinates: Float[Tensor, "image coordinate"]
) -> Float64[Tensor, "image"]:
    """Highest log-likelihood ratio of a known source."""
    ratios = model.with_spread(EVIDENCE_SPREAD).log_likelihood_ratios(coordinates)
    return ratios.amax(dim=1)


class SourceDensity(nn.Module):
    """Coordinates at unit length, how far evidence lies below its median, and novelty.

    All state is held in buffers.

    Attributes:
        usual: median of the evidence of held-out images, and how far its 5 % quantile lies below;
            infinity where all are equal, so that evidence never lacks.
    """

    usual: Tensor

    def __init__(self) -> None:
        """Build empty: `fit` or a state dict supplies the values."""
        super().__init__()
        self.register_buffer("usual", torch.tensor([0.0, math.inf]))

    def fit(self, held_out: Float64[Tensor, "image"]) -> None:
        """Take median and scale from the evidence of held-out training images."""
        median, low = torch.quantile(held_out, held_out.new_tensor([0.5, 0.05]))
        scale = median - low
        self.usual[0] = median
        self.usual[1] = scale if scale > LEAST_SCALE else math.inf

    def forward(
        self,
        coordinates: Float[Tensor, "image coordinate"],
        found: Float[Tensor, "image"],
        novelty: Float[Tensor, "image"],
    ) -> Float[Tensor, "image value"]:
        """The values, of one unit.

        Args:
            coordinates: of the two-covariance model.
            found: evidence.
            novelty: see `leaknet.model.novelty`.
        """
        unit = nn.functional.normalize(coordinates, dim=1)
        median, scale = self.usual
        deficit = ((median - found) / scale).clamp_min(0)
        further = torch.stack([DEFICIT_SCALE * deficit, NOVELTY_SCALE * novelty], dim=1)
        return torch.cat([unit, further], dim=1)
