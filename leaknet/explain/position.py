"""Where an image lies among the known ones: detector score, p-value, map of the embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64, Shaped
from sklearn.decomposition import PCA

from leaknet.calibration import Calibration, score_threshold
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector
from leaknet.explain.nearest import Neighbour, nearest_images


@dataclass(frozen=True)
class Position:
    """One image among the known ones.

    Attributes:
        detector: the one that decides.
        score: of the image; higher = more like the known.
        p_value: share of the calibration images whose score is as low, the image counted.
        alpha: the false-alarm rate.
        threshold: scores below it have p ≤ alpha; None with too few calibration images for that.
        known: scores of the calibration images.
        point: of the image on the map; None where no map can be drawn.
        points: of the training and validation images: a closed form fits its training images
            exactly, so that these alone lie on one point a generator.
        labels: of the same images.
        explained: variance along the two axes of the map, as fractions of the whole.
        nearest: those nearest to the image in the embedding, of any generator.
    """

    detector: str
    score: float
    p_value: float
    alpha: float
    threshold: float | None
    known: Float64[np.ndarray, " calibrating"]
    point: tuple[float, float] | None
    points: Float[np.ndarray, "image 2"]
    labels: Shaped[np.ndarray, " image"]
    explained: tuple[float, float]
    nearest: tuple[Neighbour, ...]


def position(
    image: Embeddings,
    among: Embeddings,
    detector: Detector,
    calibration: Calibration,
    alpha: float,
    root: Path | None,
) -> Position:
    """The position of one embedded image.

    Args:
        image: one row.
        among: the run's training and validation images, for the map: their first two principal
            components.
        detector: the one that decides.
        calibration: of the run.
        alpha: the false-alarm rate.
        root: folder of these images, for their thumbnails; None where it is gone.
    """
    known = calibration.references[detector.name]
    point, points, explained = None, np.zeros((0, 2)), (0.0, 0.0)
    if min(len(among), among.coordinates.shape[1]) >= 2:
        plane = PCA(2, svd_solver="full").fit(among.coordinates.astype(np.float64))
        points = plane.transform(among.coordinates.astype(np.float64))
        across, down = plane.transform(image.coordinates.astype(np.float64))[0].tolist()
        first, second = np.nan_to_num(plane.explained_variance_ratio_).tolist()
        point, explained = (across, down), (first, second)
    return Position(
        detector.name,
        float(detector.score_samples(image)[0]),
        float(calibration.p_values(image, detector)[0]),
        alpha,
        score_threshold(known, alpha),
        known,
        point,
        points,
        among.labels,
        explained,
        nearest_images(
            root, among, np.linalg.norm(among.coordinates - image.coordinates[0], axis=1)
        ),
    )
