"""Calibrated likelihood ratios that images have the same source, known or not; clusters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from leakcache.errors import RunError, ScoringError
from leaknet.calibration import verbal
from leaknet.calibration.decision import blank
from leaknet.model.inference import BATCH
from leaknet.model.pair_calibration import MIN_CLASSES, PairCalibration, clusters
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.model.statistics_branch import StatisticsBranch
from leaknet.scoring.encode_files import (
    EncodedFile,
    as_split,
    encode_files,
    encoding_of,
    load_encoder,
)

SAME, DIFFERENT, UNSURE = "same", "different", "unsure"
SURE = 0.8
"""Chance from which an answer is `same`; one of at most 1 - SURE is `different`."""


@dataclass(frozen=True)
class Pair:
    """Two images.

    Attributes:
        first, second: their files.
        log10_lr: log10 of the likelihood ratio that they have the same source.
        chance: the probability of it at even prior odds.
        verbal: the ratio in words.
        answer: `same`, `different` or `unsure`.
    """

    first: str
    second: str
    log10_lr: float
    chance: float
    verbal: str
    answer: str


@dataclass(frozen=True)
class SourceComparison:
    """Every two of some images.

    Attributes:
        paths: files of the images.
        log10_lr: of every two; symmetric, the diagonal is meaningless.
        rejected: files that could not be compared, with the reason.
        calibration: of the ratios.
    """

    paths: tuple[str, ...]
    log10_lr: Float64[np.ndarray, "image image"]
    rejected: tuple[tuple[str, str], ...]
    calibration: PairCalibration

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def chances(self) -> Float64[np.ndarray, "image image"]:
        """Probability of one source at even prior odds; 1 on the diagonal."""
        found = 1 / (1 + 10**-self.log10_lr)
        np.fill_diagonal(found, 1.0)
        return found

    def pair(self, first: int, second: int) -> Pair:
        """The pair of two images, given by number."""
        ratio = float(self.log10_lr[first, second])
        chance = 1 / (1 + 10**-ratio)
        answer = SAME if chance >= SURE else DIFFERENT if chance <= 1 - SURE else UNSURE
        words = verbal(ratio)
        return Pair(self.paths[first], self.paths[second], ratio, chance, words, answer)

    def pairs(self) -> Iterator[Pair]:
        """All pairs, row by row."""
        for first, second in zip(*np.triu_indices(len(self), 1), strict=True):
            yield self.pair(int(first), int(second))

    def nearest(self) -> list[Pair]:
        """Each image, first, with the one that it most likely shares its source with."""
        if len(self) < 2:
            return []
        ratios = self.log10_lr.copy()
        np.fill_diagonal(ratios, -np.inf)
        return [self.pair(row, int(best)) for row, best in enumerate(ratios.argmax(axis=1))]

    def facts(self) -> dict[str, Any]:
        """The calibration and the files that were rejected, for JSON."""
        calibration = asdict(self.calibration)
        rejected = [{"path": path, "reason": reason} for path, reason in self.rejected]
        return {"calibration": calibration, "rejected": rejected}


def compare_images(
    model: ProtoLeakNet,
    found: Sequence[tuple[Path, str]],
    *,
    vae: str | None = None,
    device: str = "cpu",
) -> SourceComparison:
    """Compare image files.

    Args:
        model: of a trained run.
        found: files, each with the reason why it cannot be an image, else an empty one; see
            `leakcache.dataset.image_files.find_images`.
        vae: where the run's autoencoder lies now, if not where it was.
        device: where to encode.

    Raises:
        RunError: the run cannot compare sources.
        WeightsError: the autoencoder of the run is not on this machine.
        ScoringError: fewer than two files can be read.
    """
    branch, calibration = comparing_branch(model)
    encoding = encoding_of(model)
    encoder = load_encoder(encoding, vae, device)
    columns = model.config.statistics.columns(training=False)
    paths = [path for path, reason in found if not reason]
    files = encode_files(encoder, encoding, paths, columns=columns)
    reasons = {file.path: _reason(file) for file in files}
    usable = [file for file in files if not reasons[file.path]]
    rejected = [(str(p), reason or reasons[p]) for p, reason in found if reason or reasons[p]]
    if len(usable) < 2:
        why = f" ({rejected[0][0]}: {rejected[0][1]})" if rejected else ""
        raise ScoringError(
            f"a comparison needs two images and there is {len(usable)}{why}: name more files"
        )
    ratios = branch.sources.same_source(_coordinates(branch, usable), calibration)
    return SourceComparison(
        tuple(str(file.path) for file in usable), ratios, tuple(rejected), calibration
    )


def comparing_branch(model: ProtoLeakNet) -> tuple[StatisticsBranch, PairCalibration]:
    """The branch of a model that has a two-covariance model, and its calibration on pairs.

    Raises:
        RunError: the model has none.
    """
    branch = model.statistics
    if branch is None:
        raise RunError(
            f"a run of preset {model.config.preset} has no two-covariance model: train one with "
            "--preset best"
        )
    calibration = branch.sources.pair_calibration
    if calibration is None:
        raise RunError(
            f"the run has no calibration of same-source ratios: train on {MIN_CLASSES} generators "
            f"or more (it knows {len(model.classes)}) with several prompts each"
        )
    return branch, calibration


def _reason(file: EncodedFile) -> str:
    decision = None if file.reason else blank(file.facts.texture)
    return decision.explanation if decision else file.reason


@torch.inference_mode()
def _coordinates(branch: StatisticsBranch, files: Sequence[EncodedFile]) -> torch.Tensor:
    parts = []
    for start in range(0, len(files), BATCH):
        split = as_split(files[start : start + BATCH], "open", "?")
        parts.append(branch.coordinates(branch.embed(split)[0]))
    return torch.cat(parts)


@dataclass(frozen=True)
class Cluster:
    """Images that are taken for one source's.

    Attributes:
        number: from 1, the largest cluster first.
        images: numbers in the comparison.
        within: mean log10 likelihood ratio of its pairs; None for a single image.
        nearest: number of the cluster with the highest mean ratio to it; None for the only one.
        between: that mean ratio.
    """

    number: int
    images: tuple[int, ...]
    within: float | None
    nearest: int | None
    between: float | None


@dataclass(frozen=True)
class Clustering:
    """Clusters of some images, by average linkage of calibrated log10 likelihood ratios.

    Attributes:
        comparison: of every two images.
        cut: mean ratio down to which groups are joined; chosen on held-out generators.
        clusters: the largest first.
    """

    comparison: SourceComparison
    cut: float
    clusters: tuple[Cluster, ...]

    @classmethod
    def of(cls, comparison: SourceComparison) -> Clustering:
        """Cluster the images of a comparison."""
        cut, ratios = comparison.calibration.cut, comparison.log10_lr
        labels = clusters(ratios, cut)
        sizes = np.bincount(labels)
        members = [np.flatnonzero(labels == i) for i in np.argsort(-sizes, kind="stable")]
        found = [_cluster(ratios, members, index) for index in range(len(members))]
        return cls(comparison, cut, tuple(found))

    def rows(self) -> list[tuple[str, int]]:
        """Path and cluster of each image, in the order of the files."""
        number = {image: one.number for one in self.clusters for image in one.images}
        return [(path, number[image]) for image, path in enumerate(self.comparison.paths)]


def _cluster(ratios: np.ndarray, members: list[np.ndarray], index: int) -> Cluster:
    own = members[index]
    one, other = np.triu_indices(len(own), 1)
    within = float(ratios[own[one], own[other]].mean()) if len(own) > 1 else None
    means = [float(ratios[np.ix_(own, rest)].mean()) for rest in members]
    means[index] = -np.inf
    nearest = int(np.argmax(means)) if len(members) > 1 else None
    between = None if nearest is None else means[nearest]
    number = None if nearest is None else nearest + 1
    return Cluster(index + 1, tuple(own.tolist()), within, number, between)
