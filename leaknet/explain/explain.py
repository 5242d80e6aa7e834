"""The explanation of one image: scores, evidence of each branch, and tests of the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from leakcache.errors import ImageError
from leakcache.images.preprocess import refuse_tiny
from leakcache.store.column import ColumnComputer, DecodedImage
from leakcache.store.columns import columns_named
from leaknet.data.columns import ImageColumns
from leaknet.explain.contributions import (
    Box,
    Contributions,
    MarginWeights,
    shuffled_agreement,
    tile_boxes,
    tile_margins,
    tile_statistics,
    weigh,
)
from leaknet.explain.patterns import (
    LatentMap,
    LatentMargin,
    Pattern,
    deletion,
    integrated_gradients,
    patterns,
)
from leaknet.explain.patterns import shuffled_agreement as latent_agreement
from leaknet.explain.position import (
    Position,
    Prototypes,
    data_root,
    neighbours,
    position,
    prototypes_of,
)
from leaknet.model.inference import embed
from leaknet.scoring.answers import Answer
from leaknet.scoring.encode_files import EncodedFile, Source, as_split, name_of, opened_source
from leaknet.scoring.predict import Predictor, score_embeddings
from leaknet.scoring.scores import ImageFacts, with_origin

AGREES = 0.5
"""Rank correlation with maps of shuffled weights from which a map says little of the model."""


@dataclass(frozen=True)
class Checks:
    """Two tests of a map.

    Attributes:
        agreement: median |rank correlation| with maps of shuffled weights; None where it cannot
            be computed.
        drop: of the margin where the most important quarter of the map is removed.
        chance: mean drop where as much is removed at random.
    """

    agreement: float | None
    drop: float
    chance: float

    @property
    def depends_on_weights(self) -> bool:
        """Whether shuffled weights give another map."""
        return self.agreement is not None and self.agreement < AGREES

    @property
    def finds_evidence(self) -> bool:
        """Whether removing what the map calls important costs more than removing at random."""
        return self.drop > max(self.chance, 0.0)


@dataclass(frozen=True)
class StatisticsEvidence:
    """Why the statistics branch prefers the first class to the second.

    Attributes:
        contributions: exact terms of the margin of class scores.
        boxes: tiles of the view, in pixels.
        tiles: the margin that each tile has by itself.
        patterns: the strongest pattern of patches, then of frequencies.
        checks: of the map of tiles.
        prototypes: of the branch; None with a linear head.
        view: the pixels that statistics are measured on.
    """

    contributions: Contributions
    boxes: tuple[Box, ...]
    tiles: tuple[float, ...]
    patterns: tuple[Pattern, ...]
    checks: Checks
    prototypes: Prototypes | None
    view: UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class LatentEvidence:
    """Why the branch of noisy latents prefers the first class to the second.

    Attributes:
        steps: noise steps t.
        attention: a_t, the weight of each step.
        map: integrated gradients of the margin on the clean latent.
        checks: of that map.
        prototypes: of the branch; None with a linear head.
        views: the pixels that latents are encoded from.
    """

    steps: tuple[int, ...]
    attention: tuple[float, ...]
    map: LatentMap
    checks: Checks
    prototypes: Prototypes | None
    views: UInt8[np.ndarray, "view size size 3"]


@dataclass(frozen=True)
class Explanation:
    """Why a run answers as it does for one image.

    Attributes:
        path: the file.
        fold: "train", "val" or "test" where the run knows the very file; empty for other images.
        score: the answer, with all scores.
        first: the likeliest known generator.
        second: the next one.
        margin: logit of `first` less that of `second`, over all branches.
        weights: of the branches in that margin.
        position: where the image lies among the known ones.
        statistics: evidence of the statistics branch; None for a run without it, or where it has
            weight 0 or no score for one of the two.
        latents: evidence of the branch of noisy latents; None for a run without it, or with
            weight 0.
    """

    path: str
    fold: str
    score: Answer
    first: str
    second: str
    margin: float
    weights: Mapping[str, float]
    position: Position
    statistics: StatisticsEvidence | None
    latents: LatentEvidence | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without pixels and thumbnails."""
        found: dict[str, Any] = _plain(self)
        return found


_OMITTED = {"view", "views", "image", "points", "labels", "known"}
_COMPUTED = {Contributions: ("by_group", "by_family", "by_part"), LatentMap: ("gap",)}
_CHECKS = ("depends_on_weights", "finds_evidence")


def _plain(value: Any) -> Any:
    if isinstance(value, Answer):
        return value.as_dict()
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value) if field.name not in _OMITTED]
        names += _COMPUTED.get(type(value), ())
        names += _CHECKS if isinstance(value, Checks) else ()
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


SHUFFLES = 20
"""Maps of shuffled weights of statistics; maps of latents take longer and need fewer."""
LATENT_SHUFFLES = 5
DELETIONS = 4
"""Random deletions in the pixels; those in the latent are cheap."""
LATENT_DELETIONS = 16
BLUR = 4
"""Radius in pixels of the Gaussian blur that removes the traces in a tile."""


def explain_image(run: Predictor, image: Source, alpha: float = 0.05) -> Explanation:
    """Explain the answer to one image.

    Args:
        run: the run that answers.
        image: a file, or what else `leaknet.scoring.encode_files.Source` allows.
        alpha: rate at which images of known generators may be called unknown, in (0, 1).

    Raises:
        ImageError: it cannot be used as an image.
        WeightsError: the autoencoder of the run is not on this machine.
        RunError: it is there with other weights.
    """
    name = name_of(image, 1)
    try:
        with opened_source(image) as (sha256, pixels, facts, origin):
            refuse_tiny(pixels.size, run.encoding.preprocessing)
            decoded = DecodedImage.of(pixels, sha256, run.encoding.preprocessing)
            found = _explained(run, name, decoded, facts, alpha)
            return replace(found, score=with_origin(found.score, origin, run.classes))
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error


def _explained(
    run: Predictor, name: str, image: DecodedImage, facts: ImageFacts, alpha: float
) -> Explanation:
    columns = _columns(run, [image], name)
    embedded = embed(run.model, columns)
    score = score_embeddings(
        embedded, run.detectors, run.calibration, alpha, [facts], run.families, run.range
    )[0]
    order = np.argsort(-embedded.logits[0], kind="stable").tolist()
    pair = order[0], order[1]
    weights = run.model.weighted
    among = run.known.take(np.isin(run.known.folds, ("train", "val")))
    folds = run.known.folds[run.known.hashes == image.sha256]
    return Explanation(
        name,
        str(folds[0]) if len(folds) else "",
        score,
        run.classes[pair[0]],
        run.classes[pair[1]],
        float(embedded.logits[0, pair[0]] - embedded.logits[0, pair[1]]),
        weights,
        position(embedded, among, run.detectors[0], run.calibration, alpha, data_root(run.model)),
        _statistics(run, name, image, columns, pair) if "statistics" in weights else None,
        _latents(run, image, columns, pair) if "latents" in weights else None,
    )


def _columns(run: Predictor, images: Sequence[DecodedImage], name: str) -> ImageColumns:
    """The columns that the model reads, of variants of one image."""
    wanted = columns_named(run.model.config.columns(training=False))
    compute = ColumnComputer(wanted, run.encoding, run.encoder)
    rows = []
    for row in compute([{c.name: c.views(image) for c in wanted} for image in images]):
        if isinstance(row, str):
            raise ImageError(row)
        rows.append(row)
    columns = {c.name: c.read(np.stack([row[c.name] for row in rows])) for c in wanted}
    return as_split([EncodedFile(Path(name), images[0].sha256, columns)], "open", "?")


def _prototypes(
    run: Predictor, name: str, columns: ImageColumns, pair: tuple[int, int]
) -> Prototypes | None:
    branch = run.model.branches[name]
    with torch.inference_mode():
        embedding, _ = branch.embed(columns)
    return prototypes_of(
        branch,
        embedding,
        pair,
        lambda prototype: neighbours(
            run.model, name, embedding, prototype, run.known.select("train")
        ),
    )


# Statistics.


def _statistics(
    run: Predictor, name: str, image: DecodedImage, columns: ImageColumns, pair: tuple[int, int]
) -> StatisticsEvidence | None:
    branch = run.model.statistics
    assert branch is not None
    if max(pair) >= branch.ridge.weight.shape[1]:  # an enrolled class, which has no class score
        return None
    with torch.inference_mode():
        statistics = branch.statistics_of(columns).to(branch.device)
        contributions, weights = weigh(branch, statistics, pair)
        encoder = run.encoder if branch.config.activations else None
        tiles = tile_statistics(image.native, tile_boxes(*image.native.shape[:2]), encoder)
        margins = tile_margins(weights, tiles)
        agreement = shuffled_agreement(weights, tiles, margins, SHUFFLES)
        drop, chance = _deletion(run, name, image, weights, tiles.boxes, margins)
    return StatisticsEvidence(
        contributions,
        tuple(tiles.boxes),
        tuple(margins.tolist()),
        patterns(weights, statistics),
        Checks(agreement, drop, chance),
        _prototypes(run, "statistics", columns, pair),
        image.native,
    )


def _deletion(
    run: Predictor,
    name: str,
    image: DecodedImage,
    weights: MarginWeights,
    boxes: list[Box],
    margins: np.ndarray,
) -> tuple[float, float]:
    """Drop of the margin where a quarter of the tiles is blurred, the highest and at random."""
    count, rng = max(1, len(boxes) // 4), np.random.default_rng(0)
    chosen = [np.argsort(-margins, kind="stable")[:count]]
    chosen += [rng.choice(len(boxes), count, replace=False) for _ in range(DELETIONS)]
    # All statistics are of the native view, so that the view is an image with the same statistics.
    variants = [image.native, *(_blurred(image.native, [boxes[i] for i in c]) for c in chosen)]
    decoded = [
        DecodedImage(Image.fromarray(one), image.sha256, image.preprocessing) for one in variants
    ]
    branch, (first, second) = weights.branch, weights.pair
    statistics = branch.statistics_of(_columns(run, decoded, name)).to(branch.device)
    scores, _ = branch.class_scores(statistics)
    found = (scores[:, first] - scores[:, second]).tolist()
    drops = [found[0] - other for other in found[1:]]
    return drops[0], float(np.mean(drops[1:]))


def _blurred(view: np.ndarray, boxes: list[Box]) -> np.ndarray:
    smooth = np.asarray(Image.fromarray(view).filter(ImageFilter.GaussianBlur(BLUR)))
    found = view.copy()
    for top, bottom, left, right in boxes:
        found[top:bottom, left:right] = smooth[top:bottom, left:right]
    return found


# Noisy latents.


def _latents(
    run: Predictor, image: DecodedImage, columns: ImageColumns, pair: tuple[int, int]
) -> LatentEvidence:
    branch = run.model.latents
    assert branch is not None
    with torch.inference_mode():
        _, attention = branch.embed(columns)
    margin = LatentMargin(branch, columns, pair)
    found = integrated_gradients(margin)
    agreement = latent_agreement(margin, found, LATENT_SHUFFLES)
    return LatentEvidence(
        branch.config.timesteps,
        tuple(attention[0].tolist()),
        found,
        Checks(agreement, *deletion(margin, found, LATENT_DELETIONS)),
        _prototypes(run, "latents", columns, pair),
        image.latent_views,
    )
