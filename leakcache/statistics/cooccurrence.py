"""Co-occurrences of quantised differences: which three steps follow one another.

The features of rich models (Fridrich and Kodovský, "Rich models for steganalysis of digital
images", 2012), along rows and columns.
"""

from __future__ import annotations

from jaxtyping import Float32, Int16
from torch import Tensor

from leakcache.statistics.parts import part_counts
from leakcache.statistics.planes import Planes

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
