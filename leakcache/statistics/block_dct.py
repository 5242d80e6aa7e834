"""Amplitudes of the block DCT: how often each has which strength, and which vary together.

The statistics that tell generators apart in the DCT domain (Frank et al., "Leveraging frequency
analysis for deep fake image recognition", 2020), of luma and chroma. Blocks of 8 pixels are those
of a JPEG file, whose tables they also show: see docs/AUDIT.md and the canonical track.
"""

from __future__ import annotations

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from leakcache.statistics.part_grid import GRID, Span
from leakcache.statistics.parts import part_counts, part_covariances, triangle_length
from leakcache.statistics.planes import Planes

FREQUENCIES = GRID * GRID
EDGES = (0.2, 0.5, 0.8, 1.1, 1.5, 2.0, 2.5, 3.0)
"""Inner edges of the bins of log(1 + |d|)."""
BINS = len(EDGES) + 1
DCT_HISTOGRAM_LENGTH = 3 * FREQUENCIES * BINS

DCT_CORRELATION_LENGTH = triangle_length(FREQUENCIES) + FREQUENCIES
CONSTANT = 1e-3
"""A standard deviation below this is that of a constant, which correlates with nothing."""


def dct_histogram(planes: Planes) -> Float32[Tensor, "batch part value"]:
    """√(share of blocks in each bin of the amplitude), per plane and frequency.

    Histograms of coefficients separate generators and histories of compression (Bonettini et al.,
    "On the use of Benford's law to detect GAN-generated images", 2020).
    """
    bins = torch.zeros_like(planes.amplitudes, dtype=torch.uint8)
    for edge in torch.tensor(EDGES).expm1().tolist():
        bins += planes.amplitudes >= edge
    grid = planes.parts.positions(GRID, (GRID, GRID))
    counts = part_counts(bins.permute(0, 3, 1, 2), BINS, grid)
    return (counts / counts.sum(-1, keepdim=True)).sqrt().flatten(2)


def dct_correlation(planes: Planes) -> Float32[Tensor, "batch part value"]:
    """Correlations of log(1 + |d|) of luma over blocks, upper triangle, then its deviations.

    Second-order statistics of DCT magnitudes, independent of how strong each frequency is by
    itself (Kodovský and Fridrich, "Calibration revisited", 2009).
    """
    logs = planes.amplitudes[..., :FREQUENCIES].log1p()
    logs = logs - logs.mean((1, 2), keepdim=True)

    def vectors(rows: Span, spans: list[Span]) -> list[Float32[Tensor, "batch value position"]]:
        return [logs[:, slice(*rows), slice(*columns)].flatten(1, 2).mT for columns in spans]

    grid = planes.parts.positions(GRID, (GRID, GRID))
    return correlations_of(part_covariances(vectors, FREQUENCIES, logs, grid))


def correlations_of(
    matrices: Float64[Tensor, "batch part value value"],
) -> Float32[Tensor, "batch part entry"]:
    """Correlations of covariances, upper triangle, then the deviations."""
    spread = matrices.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    scale = spread.clamp_min(CONSTANT)
    correlations = matrices / (scale[..., :, None] * scale[..., None, :])
    rows, columns = torch.triu_indices(FREQUENCIES, FREQUENCIES, device=matrices.device)
    return torch.cat([correlations[..., rows, columns], spread], dim=-1).float()
