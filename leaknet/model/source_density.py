"""What density detectors read: coordinates in which unknown generators are unlike the known ones.

In the coordinates an image of an unknown generator lies near the origin, amid all classes, where
the density of the known images is highest. At unit length images of arbitrary generators spread
evenly over the sphere, and the density of the known is a likelihood ratio up to a constant. Images
of other pipelines lie far out instead; what their evidence lacks is one more coordinate. Images
that are unlike all known ones where these do not differ, as photographs are, have novelty.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from leaknet.model.two_covariance import TwoCovariance

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
