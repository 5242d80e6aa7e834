"""A linear map from features of an image to the coordinates of a two-covariance model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from leaknet.model.pair_calibration import PairCalibration
from leaknet.model.two_covariance import Directions, TwoCovariance

BUFFERS = ("weight", "offset", "variances", "spread", "centres", "counts", "score_weights", "pairs")


class SourceMap(nn.Module):
    """Linear coordinates and a two-covariance model in them. All state is held in buffers."""

    weight: Tensor
    offset: Tensor
    variances: Tensor
    spread: Tensor
    centres: Tensor
    counts: Tensor
    score_weights: Tensor
    pairs: Tensor

    def __init__(self, length: int) -> None:
        """Build empty: `set_model` or a state dict supplies coordinates and classes.

        Args:
            length: of the features.
        """
        super().__init__()
        shapes = {"weight": (length, 0), "centres": (0, 0), "spread": (), "score_weights": (0, 0)}
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
        pairs: PairCalibration | None = None,
    ) -> None:
        """Set the map from features to coordinates, the model and its calibration on pairs.

        Args:
            weight: from features to coordinates.
            directions: of the coordinates.
            model: in the coordinates.
            score_weights: from centred ratios to their part of the class scores.
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

    def enrol(self, coordinates: Float[Tensor, "image coordinate"]) -> None:
        """Add one class, known by these images."""
        model = self.model.enrol(coordinates)
        self.centres, self.counts = model.centres.to(self.weight), model.counts.to(self.weight)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in BUFFERS:
            if (value := state_dict.get(prefix + name)) is not None:
                setattr(self, name, self.weight.new_zeros(value.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)
