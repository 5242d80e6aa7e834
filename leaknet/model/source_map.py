"""From features or scores of an image to likelihood ratios of its source.

A linear map to the coordinates of a two-covariance model, and the model. It is fitted either to a
Gram matrix of features, or directly to a few scores, whose within-class covariance is inverted.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from leaknet.model.two_covariance import LEAST_VARIANCE, Directions, TwoCovariance

SHRINKAGE = 0.1
"""Of the covariance of scores, towards a multiple of the identity."""
BUFFERS = ("weight", "offset", "variances", "spread", "centres", "counts")


class SourceMap(nn.Module):
    """Linear coordinates and a two-covariance model in them. All state is held in buffers."""

    weight: Tensor
    offset: Tensor
    variances: Tensor
    spread: Tensor
    centres: Tensor
    counts: Tensor

    def __init__(self, length: int) -> None:
        """Build empty: `set_model` or a state dict supplies coordinates and classes.

        Args:
            length: of the features.
        """
        super().__init__()
        shapes = {"weight": (length, 0), "centres": (0, 0), "spread": ()}
        for name in BUFFERS:
            self.register_buffer(name, torch.zeros(shapes.get(name, (0,))))

    @property
    def model(self) -> TwoCovariance:
        """The model of the coordinates."""
        centres, counts = self.centres.double(), self.counts.double()
        return TwoCovariance(self.variances.double(), float(self.spread), centres, counts)

    def set_model(
        self,
        weight: Float[Tensor, "value coordinate"],
        directions: Directions,
        model: TwoCovariance,
    ) -> None:
        """Set the map from features to coordinates and the model."""
        values = (
            weight,
            directions.offset,
            model.variances,
            torch.tensor(model.spread),
            model.centres,
            model.counts,
        )
        for name, value in zip(BUFFERS, values, strict=True):
            setattr(self, name, value.to(self.weight))

    def coordinates(self, features: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch k"]:
        """Coordinates of features."""
        found: Tensor = features @ self.weight - self.offset
        return found

    def forward(self, features: Float[Tensor, "image value"]) -> Float[Tensor, "image class"]:
        """Log-likelihood ratio of every class."""
        return self.ratios(self.coordinates(features))

    def ratios(self, coordinates: Float[Tensor, "image k"]) -> Float[Tensor, "image class"]:
        """Log-likelihood ratio of every class, from coordinates."""
        return self.model.log_likelihood_ratios(coordinates).to(coordinates)

    def fit_scores(
        self, scores: Float64[Tensor, "image score"], targets: Int64[Tensor, "image"], classes: int
    ) -> SourceMap:
        """Fit to scores of images that the scores were not fitted to."""
        found = score_directions(scores, targets, classes)
        self.set_model(found.weights, found, TwoCovariance.of(found))
        return self

    def enrol(self, coordinates: Float[Tensor, "image coordinate"]) -> None:
        """Add one class, known by these images."""
        model = self.model.enrol(coordinates)
        self.centres, self.counts = model.centres.to(self.weight), model.counts.to(self.weight)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in BUFFERS:
            if (value := state_dict.get(prefix + name)) is not None:
                setattr(self, name, self.weight.new_zeros(value.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def score_directions(
    scores: Float64[Tensor, "image score"], targets: Int64[Tensor, "image"], classes: int
) -> Directions:
    """Discriminant directions of a few scores, whose covariance can be inverted.

    Args:
        scores: one row an image, not fitted to that image.
        targets: class numbers; at least two classes occur.
        classes: number of classes; those without images have count 0.
    """
    known, own = torch.unique(targets, return_inverse=True)
    counts = torch.bincount(own).double()
    means = torch.zeros(len(known), scores.shape[1], dtype=torch.float64)
    means = means.index_add(0, own, scores) / counts[:, None]
    residuals = scores - means[own]
    covariance = residuals.T @ residuals / max(len(scores) - len(known), 1)
    level = covariance.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    shrunk = (1 - SHRINKAGE) * covariance
    shrunk.diagonal().add_(SHRINKAGE * level)
    values, vectors = torch.linalg.eigh(shrunk)
    whitener = vectors / values.sqrt()
    centre = means.mean(dim=0)
    white = (means - centre) @ whitener
    _, strengths, axes = torch.linalg.svd(white, full_matrices=False)
    kept = strengths.square() / max(len(known) - 1, 1) > LEAST_VARIANCE
    weight = whitener @ axes[kept].T
    centres, number = torch.zeros(classes, weight.shape[1]).double(), torch.zeros(classes).double()
    centres[known], number[known] = white @ axes[kept].T, counts
    return Directions(weight, centre @ weight, centres, number)
