"""Families of the block DCT, of the high-pass residual and of pixel differences.

Amplitudes of the block DCT, how often each has which strength and which vary together, tell
generators apart (Frank et al., "Leveraging frequency analysis for deep fake image recognition",
2020). Blocks of 8 pixels are those of a JPEG file, whose tables they also show: see docs/AUDIT.md
and the canonical track. The power spectrum of the residual has the peaks and the roll-off that
up-sampling leaves: averaged over tiles (Welch, "The use of fast Fourier transform for the
estimation of power spectra", 1967); of denoised images: Corvi et al., "Intriguing properties of
synthetic images", 2023. Co-occurrences of quantised differences, along rows and columns, say which
three steps follow one another: features of rich models (Fridrich and Kodovský, "Rich models for
steganalysis of digital images", 2012).
"""

from __future__ import annotations

import torch
from jaxtyping import Float32, Float64, Int16
from torch import Tensor

from leakcache.statistics.parts import part_counts, part_covariances, triangle_length
from leakcache.statistics.planes import Planes, residuals
from leakcache.statistics.rows import GRID, Span

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


TILE = 64
"""Frequencies are multiples of 1/64: those of lattices of 2, 4, 8, 16 pixels are among them."""
HALF = TILE // 2 + 1
RESIDUAL_SPECTRUM_LENGTH = 3 * HALF * HALF
LIMIT = 20.0
"""Grey levels at which residuals are clipped."""
FLOOR = 1e-4


def residual_spectrum(planes: Planes) -> Float32[Tensor, "batch part value"]:
    """log(power + FLOOR) per plane and |frequency|, for Y, Cb and Cr; (u, v) and (-u, v) as one."""
    return planes.of_each_part(_spectrum)


def _spectrum(
    luma_chroma: Float32[Tensor, "view 3 height width"],
) -> Float32[Tensor, "view value"]:
    found = residuals(luma_chroma, LIMIT)
    rows, columns = (length // TILE for length in found.shape[2:])
    tiles = found[:, :, : rows * TILE, : columns * TILE]
    tiles = tiles.reshape(-1, 3, rows, TILE, columns, TILE).transpose(3, 4)
    transform = torch.view_as_real(torch.fft.rfft2(tiles)).flatten(2, 3)
    power = transform.square().mean(2).sum(-1) / TILE**2
    mirrored = power[:, :, -torch.arange(TILE, device=power.device) % TILE]
    folded = (power + mirrored)[:, :, :HALF] / 2
    return (folded + FLOOR).log().flatten(1)


STEP, MAX_STEP = 2.0, 3
LEVELS = 2 * MAX_STEP + 1
TRIPLES = LEVELS**3
COOCCURRENCE_LENGTH = 3 * TRIPLES
RARE = 1e-5


def cooccurrence(planes: Planes) -> Float32[Tensor, "batch part value"]:
    """log(share + RARE) of each triple of differences, for Y, Cb and Cr.

    Differences of neighbours are divided by 2, rounded and clipped to ±3.
    """
    values, parts = planes.luma_chroma, planes.parts
    along = part_counts(_triples(values, 3), TRIPLES, parts.positions(1, (1, 4)))
    down = part_counts(_triples(values, 2), TRIPLES, parts.positions(1, (4, 1)))
    counts = along + down
    shares = counts / counts.sum(-1, keepdim=True)
    return (shares + RARE).log().flatten(2)


def _triples(
    planes: Float32[Tensor, "batch plane height width"], axis: int
) -> Int16[Tensor, "batch plane row column"]:
    """Number of the triple that starts at each pixel, along an axis."""
    length = planes.shape[axis]
    steps = planes.narrow(axis, 1, length - 1) - planes.narrow(axis, 0, length - 1)
    levels = (steps * (1 / STEP)).round_().clamp_(-MAX_STEP, MAX_STEP).short() + MAX_STEP
    first, second, third = (levels.narrow(axis, start, length - 3) for start in range(3))
    return (first * LEVELS + second) * LEVELS + third
