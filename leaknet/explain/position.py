"""Where an image lies among the known ones: score, map, nearest images, nearest prototypes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped
from sklearn.decomposition import PCA
from torch import Tensor

from leakcache.errors import CacheError, ImageError
from leakcache.images.archive import read_image
from leakcache.images.decode import decode
from leakcache.store.manifest import CacheManifest
from leaknet.calibration import Calibration, score_threshold
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector
from leaknet.model.branch import Branch, PrototypeHead
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.report.page import thumbnail

NEIGHBOURS = 6


@dataclass(frozen=True)
class Neighbour:
    """A training image.

    Attributes:
        path: below the data root.
        label: its generator.
        sha256: of its file.
        distance: to what it is near.
        image: a thumbnail, PNG; empty where the file is not there or has changed.
    """

    path: str
    label: str
    sha256: str
    distance: float
    image: bytes


def nearest_images(
    root: Path | None, train: Embeddings, distances: Float[np.ndarray, " train"]
) -> tuple[Neighbour, ...]:
    """The training images of the smallest distances, the nearest first."""
    found = []
    for row in np.argsort(distances, kind="stable")[:NEIGHBOURS].tolist():
        path, sha256 = str(train.paths[row]), str(train.hashes[row])
        image = _thumbnail(root, path, sha256)
        found.append(Neighbour(path, str(train.labels[row]), sha256, float(distances[row]), image))
    return tuple(found)


def data_root(model: ProtoLeakNet) -> Path | None:
    """Where the images of the run's cache lay; None where the cache is gone."""
    if model.cache is None:
        return None
    try:
        return Path(CacheManifest.read(Path(model.cache.folder)).data)
    except CacheError:
        return None


def _thumbnail(root: Path | None, path: str, sha256: str) -> bytes:
    if root is None:
        return b""
    try:
        data = read_image(root / path)
        if hashlib.sha256(data).hexdigest() != sha256:
            return b""
        return thumbnail(decode(data, least=128))
    except (OSError, ImageError):
        return b""


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


@dataclass(frozen=True)
class Prototypes:
    """How the prototypes of one branch decide.

    With the gate w, the margin of a branch is that of its nearest prototypes plus what the others
    add:

        logit_a - logit_b = Σ_i w_i [(h̄_i - p_b,i)² - (h̄_i - p_a,i)²] + rest

    p_a and p_b are the nearest prototypes of the two classes (the paper, Eq. 14-15).

    Attributes:
        margin: logit of the first class less that of the second, of this branch alone.
        responsibilities: of the prototypes of the first and of the second class; each sums to 1.
        nearest: number of the nearest prototype of each, from 0.
        features: terms of the margin, one for each feature; positive for the first class.
        rest: what the other prototypes add; `features` and this sum to the margin.
        neighbours: training images nearest to the first class's prototype, the nearest first.
    """

    margin: float
    responsibilities: tuple[tuple[float, ...], tuple[float, ...]]
    nearest: tuple[int, int]
    features: Float[np.ndarray, " dimension"]
    rest: float
    neighbours: tuple[Neighbour, ...]


@torch.inference_mode()
def prototypes_of(
    branch: Branch,
    embedding: Float[Tensor, "1 dimension"],
    pair: tuple[int, int],
    nearby: Callable[[tuple[int, int]], tuple[Neighbour, ...]],
) -> Prototypes | None:
    """How the prototypes decide between two classes; None for a branch with a linear head.

    Args:
        branch: of the model.
        embedding: of the image in this branch.
        pair: numbers of the first and of the second class.
        nearby: gives the training images near a prototype, from the numbers of its class and of
            itself; see `neighbours`.
    """
    if not isinstance(branch.head, PrototypeHead):
        return None
    output = branch.classify(embedding, embedding.new_ones(1, 1))
    distances = output.distances[0].double()
    shares = (-distances / branch.head.temperature.double()).softmax(dim=1)
    nearest = tuple(int(distances[c].argmin()) for c in pair)
    read, gate = branch.class_part(embedding)[0].double(), output.gate[0].double()
    terms = [
        gate * (read - branch.head.prototypes[c, m].double()).square()
        for c, m in zip(pair, nearest, strict=True)
    ]
    features = (terms[1] - terms[0]).cpu().numpy()
    margin = float(output.logits[0, pair[0]].double() - output.logits[0, pair[1]].double())
    first, second = (tuple(shares[c].tolist()) for c in pair)
    rest, near = margin - float(features.sum()), nearby((pair[0], nearest[0]))
    return Prototypes(margin, (first, second), (nearest[0], nearest[1]), features, rest, near)


@torch.inference_mode()
def neighbours(
    model: ProtoLeakNet,
    name: str,
    embedding: Float[Tensor, "1 dimension"],
    prototype: tuple[int, int],
    train: Embeddings,
) -> tuple[Neighbour, ...]:
    """Training images of a prototype's class, the nearest to the prototype first.

    Args:
        model: of the run.
        name: of the branch.
        embedding: of the explained image in this branch, whose gate weighs the features.
        prototype: number of its class and its number in the class.
        train: of the run.
    """
    branch = model.branches[name]
    assert isinstance(branch.head, PrototypeHead)
    own = train.take(train.targets == prototype[0])
    vectors = torch.from_numpy(own.vectors).to(model.device)
    read = branch.class_part(model.split(vectors)[name])
    gate = branch.classify(embedding, embedding.new_ones(1, 1)).gate
    point = branch.head.prototypes[prototype]
    distances = (gate * (read - point).square()).sum(dim=1).cpu().numpy()
    return nearest_images(data_root(model), own, distances)
