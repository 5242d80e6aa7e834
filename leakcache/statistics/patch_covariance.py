"""Log-covariances of small patches of pixels: how neighbours depend on one another.

Second-order statistics from which linear prediction residuals follow (Gallagher and Chen, "Image
authentication by detecting traces of demosaicing", 2008; Fridrich and Kodovský, "Rich models for
steganalysis of digital images", 2012). Of every patch its own mean is subtracted. Normalised
families also divide each patch by its root mean square, so that edges do not outweigh the rest
(spatial sign covariance: Visuri, Koivunen and Oja, "Sign and rank covariance matrices", 2000).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional

from leakcache.statistics.parts import log_triangle, part_covariances, triangle_length
from leakcache.statistics.planes import Planes, residuals
from leakcache.statistics.rows import Parts, Span

STRIDE = 2
"""Every other row and column of patches: a quarter of the work, and hardly less information."""
_PHASES = tuple(product(range(STRIDE), repeat=2))
FLOOR = 1e-2
"""Added to every variance, so that a blank view has a logarithm; below that of rounding, 1/12."""
NORMALISED_FLOOR = 1e-4
"""The same for patches of unit contrast."""

COLOUR_SIDE = 3
COLOUR_COVARIANCE_LENGTH = triangle_length(3 * COLOUR_SIDE**2)
LUMA_SIDE = 7
LUMA_COVARIANCE_LENGTH = triangle_length(LUMA_SIDE**2)
NORMALISED_SIDE = 9
NORMALISED_LUMA_LENGTH = triangle_length(NORMALISED_SIDE**2)
NORMALISED_CONTRAST = 1.0
"""Grey levels: patches flatter than this are divided by this, as rounding is all they hold."""
ODD_CONTRAST = 4.0
"""The same for `odd_luma`."""
RESIDUAL_CONTRAST = 0.5
"""The same for `normalised_residual`, of the residual."""
RESIDUAL_LIMIT = 20.0
"""Grey levels at which residuals are clipped."""


def colour_covariance(planes: Planes) -> Float32[Tensor, "batch part value"]:
    """3×3 patches of red, green and blue.

    Correlations that a decoder's last convolution leaves between channels and neighbours, like
    those of demosaicing (Popescu and Farid, "Exposing digital forgeries in color filter array
    interpolated images", 2005).
    """
    colours = planes.views.permute(0, 3, 1, 2).float()
    # The mean of a colour changes no covariance, but costs digits of the products.
    colours = colours - colours.mean((2, 3), keepdim=True)
    return log_covariance(colours, planes.parts, COLOUR_SIDE)


def luma_covariance(planes: Planes) -> Float32[Tensor, "batch part value"]:
    """7×7 patches of luma: linear dependence up to six pixels away."""
    return log_covariance(planes.luma_chroma[:, :1], planes.parts, LUMA_SIDE)


def normalised_luma(planes: Planes) -> Float32[Tensor, "batch part value"]:
    """9×9 patches of luma, of unit root mean square."""
    luma = planes.luma_chroma[:, :1]
    return log_covariance(luma, planes.parts, NORMALISED_SIDE, contrast=NORMALISED_CONTRAST)


def odd_luma(planes: Planes) -> Float32[Tensor, "batch part value"]:
    """7×7 patches of luma from the odd rows and columns, of unit root mean square.

    The other families start on even ones. Decoders double the size of their maps, and JPEG halves
    that of chroma, so patches of either kind depend on their neighbours in other ways.
    """
    luma = planes.luma_chroma[:, :1]
    return log_covariance(luma, planes.parts, LUMA_SIDE, contrast=ODD_CONTRAST, start=1)


def normalised_residual(planes: Planes) -> Float32[Tensor, "batch part value"]:
    """7×7 patches of luma's high-pass residual, of unit root mean square.

    Contrast is that of the finest detail alone: a smooth gradient and a flat wall weigh alike.
    """

    def one(luma_chroma: Float32[Tensor, "view 3 height width"]) -> Float32[Tensor, "view value"]:
        found = residuals(luma_chroma[:, :1], RESIDUAL_LIMIT)
        whole = Parts.whole(*found.shape[2:])
        return log_covariance(found, whole, LUMA_SIDE, contrast=RESIDUAL_CONTRAST)[:, 0]

    return planes.of_each_part(one)


def log_covariance(
    planes: Float32[Tensor, "batch plane height width"],
    parts: Parts,
    side: int,
    contrast: float | None = None,
    start: int = 0,
) -> Float32[Tensor, "batch part entry"]:
    """`log_triangle` of the covariance of the patches in each part, each less its own mean.

    Args:
        planes: at least `start + side` high and wide.
        parts: of the planes; they start on multiples of `STRIDE`.
        side: of a patch, which reaches over all planes.
        contrast: each patch is divided by its root mean square, or by this where that is less;
            None for patches as they are.
        start: first row and column of the patches in a part, 0 or 1.
    """
    windows = _Windows.of(planes, side, start)

    def vectors(rows: Span, spans: list[Span]) -> list[Float32[Tensor, "batch value position"]]:
        patches = windows.patches(rows, spans[-1][1])
        patches -= patches.mean(1, keepdim=True)
        if contrast is not None:
            patches /= patches.square().mean(1, keepdim=True).sqrt_().clamp_min_(contrast)
        return [patches[..., slice(*columns)].flatten(2) for columns in spans]

    grid = parts.positions(STRIDE, (start + side, start + side))
    matrices = part_covariances(vectors, len(windows.order), planes, grid)
    matrices = without_mean(matrices[..., windows.order[:, None], windows.order])
    return log_triangle(matrices, FLOOR if contrast is None else NORMALISED_FLOOR)


def without_mean(
    matrices: Float64[Tensor, "*batch value value"],
) -> Float64[Tensor, "*batch value value"]:
    """Covariances of values whose sum is zero, as rounding left it in `matrices` only nearly."""
    across = matrices - matrices.mean(-1, keepdim=True)
    return across - across.mean(-2, keepdim=True)


@dataclass(frozen=True)
class _Windows:
    """Patches at every other row and column, read from even and odd ones apart.

    So neighbouring patches are contiguous in memory, which makes them several times faster to
    read.

    Attributes:
        phases: even and odd rows and columns of the planes.
        start: first row and column of the first patch.
        side: of a patch.
        order: places of a patch's values, by plane, row and column, in what `patches` gives.
    """

    phases: Float32[Tensor, "batch plane 2 2 row column"]
    start: int
    side: int
    order: Int64[Tensor, " value"]

    @classmethod
    def of(
        cls, planes: Float32[Tensor, "batch plane height width"], side: int, start: int
    ) -> _Windows:
        """Windows of planes."""
        count, height, width = planes.shape[1:]
        even = functional.pad(planes, (0, width % STRIDE, 0, height % STRIDE))
        phases = functional.pixel_unshuffle(even, STRIDE)
        phases = phases.reshape(-1, count, STRIDE, STRIDE, *phases.shape[2:])
        places = torch.arange(count * side**2, device=planes.device).reshape(count, side, side)
        given = [
            places[:, (down - start) % STRIDE :: STRIDE, (right - start) % STRIDE :: STRIDE]
            for down, right in _PHASES
        ]
        return cls(phases, start, side, torch.cat([part.flatten() for part in given]).argsort())

    def patches(self, rows: Span, columns: int) -> Float32[Tensor, "batch value row column"]:
        """Patches in some rows and in the first columns of the grid of patches."""
        batch, planes = self.phases.shape[:2]
        height = rows[1] - rows[0]
        found = self.phases.new_empty(batch, len(self.order), height, columns)
        first = 0
        for down, right in _PHASES:
            (top, tall), (left, wide) = (self._reach(phase) for phase in (down, right))
            phase = self.phases[:, :, down, right, rows[0] + top :, left:]
            windows = phase[:, :, : height + tall - 1, : columns + wide - 1]
            windows = windows.unfold(2, height, 1).unfold(3, columns, 1)
            values = planes * tall * wide
            target = found[:, first : first + values]
            target.view(batch, planes, tall, wide, height, columns).copy_(windows)
            first += values
        return found

    def _reach(self, phase: int) -> tuple[int, int]:
        """First row of a patch among those of a phase, and how many it has there."""
        rows = [row for row in range(self.start, self.start + self.side) if row % STRIDE == phase]
        return rows[0] // STRIDE, len(rows)
