"""What ONNX graphs are exported from: encoder, statistics of one part of a view, model.

The statistics are those of `leakcache.statistics` for a part by itself, computed at once where
that code works in chunks. Matrix logarithms are missing, because ONNX has no eigendecomposition:
graphs return the covariances, and `leaknet.export.scorer` takes the logarithms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from leakcache.encoder.autoencoder import AutoencoderIdentity, halvings
from leakcache.statistics import activation_features, patch_covariance, pixel_families
from leakcache.statistics.patch_covariance import without_mean
from leakcache.statistics.pixel_features import FAMILIES
from leakcache.statistics.planes import Planes, residuals
from leaknet.calibration import Calibration
from leaknet.config import ACTIVATIONS, PIXELS, Z0
from leaknet.data.columns import ImageColumns
from leaknet.detectors import GlobalKDE
from leaknet.model.branch import Branch
from leaknet.model.latent_branch import LatentBranch
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.model.statistics_branch import StatisticsBranch
from leaknet.scoring.families import Families

NOISE = "noise"
Matrices = Float64[Tensor, "batch value value"]


class EncoderGraph(nn.Module):
    """RGB views, sides a multiple of 8, to scaled latents and the activations at three scales."""

    def __init__(self, network: nn.Module, identity: AutoencoderIdentity) -> None:
        super().__init__()
        self.network, self.identity = network, identity

    def forward(self, views: UInt8[Tensor, "view height width 3"]) -> tuple[Tensor, ...]:
        """Latents, then activations at a half, a quarter and an eighth of the size."""
        found: list[Tensor] = []
        hooks = [
            module.register_forward_hook(lambda _, __, output: found.append(output))
            for module in halvings(self.network)
        ]
        mean = self.network(views.permute(0, 3, 1, 2).float() / 127.5 - 1)
        for hook in hooks:
            hook.remove()
        return (mean - self.identity.shift_factor) * self.identity.scaling_factor, *found


class PixelGraph(nn.Module):
    """Statistics of the pixels of a part of a view."""

    def forward(self, views: UInt8[Tensor, "part height width 3"]) -> tuple[Tensor, ...]:
        """Values of each family, or the matrix of which they are the logarithm."""
        planes, found = Planes(views), []
        for name, (family, _) in FAMILIES.items():
            own = EXPORTED.get(name)
            found.append(family(planes)[:, 0] if own is None else own(planes))
        return tuple(found)


class ActivationGraph(nn.Module):
    """Covariances of the encoder's activations in a part of a view."""

    def forward(self, half: Tensor, quarter: Tensor, eighth: Tensor) -> tuple[Tensor, ...]:
        """Of each scale the covariances of activations and of their two differences."""
        return tuple(self._covariances(maps) for maps in (half, quarter, eighth))

    def _covariances(
        self, maps: Float[Tensor, "part channel height width"]
    ) -> Float64[Tensor, "part step value value"]:
        centred, found = activation_features.centred(maps), []
        height, width = maps.shape[2:]
        for down, right in activation_features.STEPS.values():
            spans = (0, height - down), (0, width - right)
            found.append(
                _covariance(activation_features.differences(centred, *spans, (down, right)))
            )
        matrices = activation_features.widened(torch.stack(found, dim=1))
        floors = _floors(matrices)[..., None, None]
        return matrices + floors * torch.eye(activation_features.CHANNELS, dtype=torch.float64)


class ModelGraph(nn.Module):
    """The weighted branches, the deciding detector and the calibration of a run.

    Attributes:
        inputs: names of the inputs, in their order.
        outputs: names of the outputs, in their order.
    """

    z_mean: Tensor
    z_scale: Tensor
    references: Tensor
    slope: Tensor
    offset: Tensor
    low: Tensor
    high: Tensor
    families: Tensor | None

    def __init__(
        self,
        model: ProtoLeakNet,
        detector: GlobalKDE,
        calibration: Calibration,
        families: Families | None,
    ) -> None:
        super().__init__()
        self.model, self.temperature = model, calibration.temperature
        model.fixed_weights = model.weighted
        self.chosen = {name: model.branches[name] for name in model.weighted}
        self.inputs = [name for branch in self.chosen.values() for name in inputs_of(branch)]
        self.outputs = ["logits", "embedding", "score", "log_probabilities", "log10_ratios"]
        if len(calibration.evidence):
            self.outputs.append("evidence")
        constants = {
            "z_mean": detector.mean_,
            "z_scale": detector.scale_,
            "references": detector.standardise(detector.references_) / float(detector.bandwidth_),
            **{name: getattr(calibration.ratios, name) for name in ("slope", "offset")},
            **{name: getattr(calibration.ratios, name) for name in ("low", "high")},
        }
        for name, values in constants.items():
            self.register_buffer(name, torch.from_numpy(np.asarray(values, np.float64)))
        self.bandwidth = float(detector.bandwidth_)
        self.register_buffer("families", None)
        if families is not None:
            self.outputs.append("family_log_probabilities")
            members = families.index[None] == np.arange(len(families.names))[:, None]
            self.families = torch.from_numpy(members)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Values of `outputs`, from those of `inputs`."""
        columns = dict(zip(self.inputs, given, strict=True))
        output = self.model.combine(
            {
                name: branch.classify(*_embedded(branch, columns))
                for name, branch in self.chosen.items()
            }
        )
        coordinates, evidence = self.model.density(output.embedding)
        read = output.embedding if coordinates is None else coordinates
        scaled = output.logits.double() / self.temperature
        logs = scaled.log_softmax(dim=1)
        found = [output.logits, output.embedding, self._density(read), logs, self._ratios(scaled)]
        if evidence is not None:
            found.append(evidence.double())
        if self.families is not None:
            found.append(_log_sums(logs, self.families))
        return tuple(found)

    def _density(self, coordinates: Float[Tensor, "image coordinate"]) -> Float64[Tensor, " image"]:
        """As `leaknet.detectors.density.log_density`."""
        centre = self.references.mean(dim=0)
        x = (coordinates.double() - self.z_mean) / self.z_scale / self.bandwidth - centre
        y = self.references - centre
        exponents = x @ y.mT - y.square().sum(dim=1) / 2
        constant = np.log(len(y)) + y.shape[1] * np.log(self.bandwidth * np.sqrt(2 * np.pi))
        return exponents.logsumexp(dim=1) - x.square().sum(dim=1) / 2 - float(constant)

    def _ratios(self, scaled: Float64[Tensor, "image class"]) -> Float64[Tensor, "image class"]:
        """As `leaknet.calibration.likelihood_ratio.ClassRatios.log10`."""
        others = ~torch.eye(scaled.shape[1], dtype=torch.bool)
        odds = scaled - _log_sums(scaled, others)
        found: Tensor = self.offset + self.slope * odds
        return torch.minimum(torch.maximum(found, self.low), self.high)


def inputs_of(branch: Branch) -> list[str]:
    """Names of what a branch reads: columns of an image, and noise."""
    if isinstance(branch, LatentBranch):
        return [Z0, NOISE] if branch.config.noise else [Z0]
    return list(branch.columns(training=False))


def _embedded(branch: Branch, columns: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    if isinstance(branch, StatisticsBranch):
        given = {name: columns[name] for name in (PIXELS, ACTIVATIONS) if name in columns}
        statistics = branch.statistics_of(cast(ImageColumns, given))
        return branch.forward(branch.embed_statistics(statistics))
    assert isinstance(branch, LatentBranch)
    z0, noise = columns[Z0], columns.get(NOISE)
    maps = branch.features(z0.flatten(0, 1), None if noise is None else noise.flatten(0, 1))
    pooled, attention = (values.unflatten(0, (-1, z0.shape[1])).mean(1) for values in branch(maps))
    return pooled, attention


def _log_sums(
    logs: Float64[Tensor, "image class"], members: Tensor
) -> Float64[Tensor, "image set"]:
    """Log of the sum of the exponentials of the members of each set of classes."""
    return logs[:, None].masked_fill(~members, -torch.inf).logsumexp(dim=2)


def _covariance(vectors: Float[Tensor, "part *position value"]) -> Matrices:
    values = vectors.flatten(1, -2).double()
    values = values - values.mean(dim=1, keepdim=True)
    return values.mT @ values / values.shape[1]


def _floors(
    matrices: Float64[Tensor, "part step value value"],
) -> Float64[Tensor, "part step"]:
    """As `activation_features.floors`, in units of the least variance, 1e-8.

    The exporter takes an addition of 1e-8 for one of 0 and leaves it out.
    """
    unit = activation_features.LEAST_VARIANCE
    traces = matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
    return (activation_features.FLOOR / unit * traces / activation_features.CHANNELS + 1) * unit


def _dct_histogram(planes: Planes) -> Float32[Tensor, "part entry"]:
    found = planes.amplitudes
    edges = torch.tensor(pixel_families.EDGES).expm1()
    above = (found[..., None] >= edges).float().sum((1, 2))
    every = torch.ones_like(found).sum((1, 2))[..., None]
    counts = torch.cat([every, above], dim=2) - torch.cat([above, torch.zeros_like(every)], dim=2)
    return (counts / every).sqrt().flatten(1)


def _dct_correlation(planes: Planes) -> Float32[Tensor, "part entry"]:
    luma = _covariance(planes.amplitudes[..., : pixel_families.FREQUENCIES].log1p())
    return pixel_families.correlations_of(luma[:, None])[:, 0]


def _cooccurrence(planes: Planes) -> Float32[Tensor, "part entry"]:
    values = planes.luma_chroma
    counts = torch.zeros_like(values[:, :, :1, :1]).flatten(2).repeat(1, 1, pixel_families.TRIPLES)
    for axis in (2, 3):
        numbers = _triples(values, axis).flatten(2).long()
        counts = counts.scatter_add(2, numbers, torch.ones_like(numbers, dtype=torch.float32))
    return (counts / counts.sum(2, keepdim=True) + pixel_families.RARE).log().flatten(1)


def _triples(values: Tensor, axis: int) -> Tensor:
    """As in `pixel_families`, in floats: ONNX Runtime adds no short integers."""
    length, most = values.shape[axis], pixel_families.MAX_STEP
    steps = values.narrow(axis, 1, length - 1) - values.narrow(axis, 0, length - 1)
    levels = (steps / pixel_families.STEP).round().clamp(-most, most) + most
    first, second, third = (levels.narrow(axis, start, length - 3) for start in range(3))
    return (first * pixel_families.LEVELS + second) * pixel_families.LEVELS + third


def _patch_covariance(planes: Tensor, side: int, contrast: float | None = None) -> Matrices:
    """Covariance of patches, with the floor of its logarithm added."""
    count = planes.shape[1] * side**2
    kernel = torch.eye(count).reshape(count, planes.shape[1], side, side)
    patches = functional.conv2d(planes, kernel, stride=patch_covariance.STRIDE)
    patches = patches - patches.mean(1, keepdim=True)
    if contrast is not None:
        patches = patches / patches.square().mean(1, keepdim=True).sqrt().clamp_min(contrast)
    matrices: Tensor = without_mean(_covariance(patches.permute(0, 2, 3, 1)))
    floor = patch_covariance.FLOOR if contrast is None else patch_covariance.NORMALISED_FLOOR
    return matrices + floor * torch.eye(count, dtype=torch.float64)


def _colours(planes: Planes) -> Float32[Tensor, "part 3 height width"]:
    return planes.views.permute(0, 3, 1, 2).float()


def _luma(planes: Planes, start: int = 0) -> Float32[Tensor, "part 1 height width"]:
    return planes.luma_chroma[:, :1, start:, start:]


def _residual(planes: Planes) -> Float32[Tensor, "part 1 height width"]:
    return residuals(_luma(planes), patch_covariance.RESIDUAL_LIMIT)


_own = patch_covariance
EXPORTED: Mapping[str, Callable[[Planes], Tensor]] = {
    "dct_histogram": _dct_histogram,
    "dct_correlation": _dct_correlation,
    "cooccurrence": _cooccurrence,
    "colour_covariance": lambda p: _patch_covariance(_colours(p), _own.COLOUR_SIDE),
    "luma_covariance": lambda p: _patch_covariance(_luma(p), _own.LUMA_SIDE),
    "normalised_luma": lambda p: _patch_covariance(
        _luma(p), _own.NORMALISED_SIDE, _own.NORMALISED_CONTRAST
    ),
    "normalised_residual": lambda p: _patch_covariance(
        _residual(p), _own.LUMA_SIDE, _own.RESIDUAL_CONTRAST
    ),
    "odd_luma": lambda p: _patch_covariance(_luma(p, 1), _own.LUMA_SIDE, _own.ODD_CONTRAST),
}
"""Families that are computed otherwise: in one piece where their code works in chunks, and without
the matrix logarithm. Any other family is exported as it is."""
