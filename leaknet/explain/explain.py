"""The explanation of one image: scores, evidence of each branch, and tests of the maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from leakcache.columns.column import ColumnComputer, DecodedImage
from leakcache.columns.table import columns_named
from leakcache.errors import ImageError
from leakcache.images.preprocess import refuse_tiny
from leaknet.data.columns import ImageColumns
from leaknet.explain.contributions import MarginWeights, weigh
from leaknet.explain.explanation import Checks, Explanation, LatentEvidence, StatisticsEvidence
from leaknet.explain.latent_map import (
    LatentMargin,
    deletion,
    integrated_gradients,
)
from leaknet.explain.latent_map import shuffled_agreement as latent_agreement
from leaknet.explain.nearest import data_root
from leaknet.explain.patterns import patterns
from leaknet.explain.position import position
from leaknet.explain.prototypes import Prototypes, neighbours, prototypes_of
from leaknet.explain.tiles import (
    Box,
    shuffled_agreement,
    tile_boxes,
    tile_margins,
    tile_statistics,
)
from leaknet.model.inference import embed
from leaknet.scoring.encode_files import EncodedFile, Source, as_split, name_of, opened_source
from leaknet.scoring.image_facts import ImageFacts
from leaknet.scoring.predict import Predictor, score_embeddings
from leaknet.scoring.scores import with_origin

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
