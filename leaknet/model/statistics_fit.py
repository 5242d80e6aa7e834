"""The closed form of the statistics branch, fitted once for runs that differ in their seed alone.

Ridge regression and two-covariance model are fitted to training and validation images, their
regression on copies to the training fold. The closed form has no seed, so that every seed of an
evaluation, and each ablation row that changes something else, shares one fit. Fits are identified
by all that they read, byte for byte.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from leakcache.errors import ConfigError
from leakcache.images.preprocess import PARTS
from leakcache.statistics.pixel_features import LENGTH
from leaknet.config import DEGRADED_PIXELS
from leaknet.data.columns import ImageColumns, StoredColumn, TrainingData
from leaknet.model.feature_space import Views, fit_space
from leaknet.model.fusion import fit_score_map
from leaknet.model.novelty import MAX_IMAGES
from leaknet.model.pair_calibration import calibrate_pairs, held_out_pairs
from leaknet.model.ridge import RidgeMap
from leaknet.model.source_map import EVIDENCE_SPREAD
from leaknet.model.two_covariance import TwoCovariance, held_out

if TYPE_CHECKING:
    from leaknet.model.statistics_branch import StatisticsBranch

NOVELTY_BLOCK = 64
"""Images whose features are in memory while novelty is fitted."""
UNPENALISED = 1e4
"""Inverse strength of a logistic regression that is not regularised."""
LEAST_GAP = 1.0
"""Nats between scores, below which classes are as good as not separated."""
KEPT = 6
"""Fits: of all images, of four pairs left out, and one more; about 40 MB each."""

HeldOutPair = tuple[Float[Tensor, "image part"], Float[Tensor, "other dimension"]]

_fits: OrderedDict[str, tuple[dict[str, Tensor], Tensor, Tensor]] = OrderedDict()


def cached_fit(
    branch: StatisticsBranch, data: TrainingData, classes: tuple[str, ...]
) -> HeldOutPair:
    """As `fit_embedding`, or its result when last called with the same."""
    key = _key(branch, data, classes)
    if key in _fits:
        _fits.move_to_end(key)
        state, train, val = _fits[key]
        branch.load_state_dict(state, strict=False)
        return train.clone(), val.clone()
    train, val = fit_embedding(branch, data, classes)
    fitted = {name for name, _ in branch.named_buffers()}
    state = {k: v.cpu().clone() for k, v in branch.state_dict().items() if k in fitted}
    _fits[key] = state, train.clone(), val.clone()
    while len(_fits) > KEPT:
        _fits.popitem(last=False)
    return train, val


def _key(branch: StatisticsBranch, data: TrainingData, classes: tuple[str, ...]) -> str:
    settings = (branch.config, len(branch.directions), classes)
    digest = hashlib.blake2b(repr(settings).encode())
    for images, training in ((data.train, True), (data.val, False)):
        for part in _identity(images, branch.columns(training=training)):
            digest.update(part)
    return digest.hexdigest()


def _identity(images: ImageColumns, names: Iterable[str]) -> Iterator[bytes | memoryview]:
    for text in (images.labels, images.groups):
        yield "\n".join(text.tolist()).encode()
    for name in names if len(images) else ():
        column = images.columns.get(name)
        if isinstance(column, StoredColumn):
            store = column.cache.store.folder
            yield repr((name, str(store), images.hashes.tolist())).encode()
            continue
        values = images[name].cpu().contiguous()
        yield repr((name, tuple(values.shape))).encode()
        yield np.ascontiguousarray(values.numpy()).data


def fit_embedding(
    branch: StatisticsBranch, data: TrainingData, classes: tuple[str, ...]
) -> tuple[Float[Tensor, "image part"], Float[Tensor, "other dimension"]]:
    """Fit the closed form to both folds, copies to the training fold.

    Returns:
        By fits without the prompt group of an image: the class part of each training image,
        and the embedding of each validation image.

    Raises:
        ConfigError: the embedding is too short for a direction per class.
    """
    dimension = len(branch.directions)
    if len(classes) > dimension:
        raise ConfigError(
            f"head.dimension = {dimension} is too small for directions of {len(classes)} "
            f"classes: set it to {len(classes)} or more"
        )
    count, targets = len(data.train), torch.from_numpy(_targets(data.train, classes))
    scores, coordinates = _fit_originals(branch, data, classes)
    if branch.copy_ridge is not None:
        fitted = _fit_copies(branch, branch.copy_ridge, data.train, classes)
        unseen = [branch.copy_scores(whole) for whole in branch.wholes(data.val)]
        copy_scores, original = (
            torch.cat([part.cpu() for part in found]) for found in zip(fitted, *unseen, strict=True)
        )
        scores = copy_scores + original[:, None] * (scores - copy_scores)
    scores = scores - scores.mean(dim=1, keepdim=True)
    # With gates of 1/2, as initial ones are, and prototypes at the mean score of each class,
    # logits are the scores up to a constant, if directions have this length.
    own = float(scores[torch.arange(count), targets].mean())
    gap = max(own * len(classes) / (len(classes) - 1), LEAST_GAP)
    directions = torch.from_numpy(_rotation(dimension) / math.sqrt(gap))
    branch.directions.copy_(directions)
    embedding = scores @ directions[: len(classes)]
    novelty = [branch.novelty_of(whole)[:, None].cpu() for whole in branch.wholes(data.val)]
    rest = torch.cat([coordinates[count:], torch.cat([coordinates[:0, :1], *novelty])], dim=1)
    val = torch.cat([embedding[count:], rest], dim=1)
    return embedding[:count].to(branch.directions), val.to(branch.directions)


def _fit_originals(
    branch: StatisticsBranch, data: TrainingData, classes: tuple[str, ...]
) -> tuple[Float64[Tensor, "image class"], Float64[Tensor, "image coordinate"]]:
    """Fit sources and ridge to both folds and their parts; held-out scores, coordinates."""
    folds = data.train, data.val
    targets = np.concatenate([_targets(fold, classes) for fold in folds])
    groups = np.concatenate([fold.groups for fold in folds])

    def read(rows: Int[np.ndarray, "k"]) -> Float[Tensor, "view value"]:
        return torch.cat(
            [
                original_values(branch.statistics_of(fold.take(own))).flatten(0, 1)
                for fold, own in zip(folds, _within(rows, len(data.train)), strict=True)
                if len(own)
            ]
        )

    space = fit_space(branch.ridge.features, Views(len(targets), PARTS, read), groups)
    numbers = torch.from_numpy(targets)
    regression = space.fit_ridge(_centred_one_hot(targets).repeat(PARTS, axis=0))
    fit = space.fit_sources
    held = held_out(fit, numbers, groups, evidence_spread=EVIDENCE_SPREAD)
    directions = held.directions
    pairs = calibrate_pairs(list(held_out_pairs(fit, numbers, groups, held.spread)))
    weights = space.weights(torch.cat([regression.dual, directions.weights], dim=1))
    ridge_scores = regression.held_out.reshape(len(targets), PARTS, -1).mean(axis=1)
    model = TwoCovariance.of(directions, held.spread)
    branch.density.fit(held.evidence)
    _fit_novelty(branch, data.train)
    outputs = {"ridge": ridge_scores, "ratios": held.ratios.numpy()}
    scores = fit_score_map(outputs, targets, groups)
    ridge = weights[:, : len(classes)].numpy()
    of_ridge = scores.weights["ridge"]
    bias = scores.bias - _centred(regression.offset[None])[0] @ of_ridge
    branch.ridge.set_weights(_centred(ridge) @ of_ridge, bias)
    branch.sources.set_model(
        weights[:, len(classes) :],
        directions,
        model,
        scores.weights["ratios"],
        scores.temperatures["ratios"],
        pairs,
    )
    return torch.from_numpy(scores.held_out), held.coordinates


def _fit_novelty(branch: StatisticsBranch, train: ImageColumns) -> None:
    """Fit novelty to whole images, some of them where there are many."""
    rows = np.arange(0, len(train), -(-len(train) // MAX_IMAGES))
    features = [
        branch.ridge.features(original_values(branch.statistics_of(train.take(part), 1)[:, 0]))
        for part in np.array_split(rows, -(-len(rows) // NOVELTY_BLOCK))
    ]
    branch.novelty.fit(torch.cat([part[:, :LENGTH] for part in features]), train.groups[rows])


def _fit_copies(
    branch: StatisticsBranch, ridge: RidgeMap, train: ImageColumns, classes: tuple[str, ...]
) -> tuple[Float64[Tensor, "image class"], Float64[Tensor, "image"]]:
    """Fit to whole images and copies; held-out scores, and probabilities of being original.

    The probability supposes that originals and copies are equally frequent.
    """
    images, parts = len(train), 1 + train.columns[DEGRADED_PIXELS].shape[1]
    targets = _targets(train, classes).repeat(parts)
    original = np.arange(images * parts) % parts == 0

    def read(rows: Int[np.ndarray, "k"]) -> Float[Tensor, "view value"]:
        chosen = train.take(rows)
        whole = branch.statistics_of(chosen, parts=1)
        return torch.cat([whole, branch.degraded_statistics_of(chosen)], dim=1).flatten(0, 1)

    space = fit_space(ridge.features, Views(images, parts, read), train.groups)
    fitted = space.fit_ridge(
        np.column_stack([_centred_one_hot(targets), original - original.mean()])
    )
    fitted_weights = space.weights(fitted.dual).numpy()
    originality, groups = fitted.held_out[:, -1:], train.groups.repeat(parts)
    scores = fit_score_map({"ridge": fitted.held_out[:, :-1]}, targets, groups)
    # Importing scikit-learn costs a second, which fitted branches need not pay.
    from sklearn.linear_model import LogisticRegression

    logistic = LogisticRegression(C=UNPENALISED, class_weight="balanced")
    logistic.fit(originality, original)
    slope, intercept = float(logistic.coef_[0, 0]), float(logistic.intercept_[0])
    of_ridge = scores.weights["ridge"]
    weights = _centred(fitted_weights[:, :-1]) @ of_ridge
    bias = scores.bias - _centred(fitted.offset[None, :-1])[0] @ of_ridge
    ridge.set_weights(
        np.column_stack([weights, slope * fitted_weights[:, -1]]),
        np.append(bias, intercept - slope * fitted.offset[-1]),
    )
    probability = logistic.predict_proba(originality[original])[:, 1]
    return torch.from_numpy(scores.held_out[original]), torch.from_numpy(probability)


def original_values(statistics: Float[Tensor, "*batch all"]) -> Float[Tensor, "*batch value"]:
    """What the regression on originals reads: all but the resized pixels, which gain nothing."""
    return statistics[..., :-LENGTH]


def _within(
    rows: Int[np.ndarray, "image"], first: int
) -> tuple[Int[np.ndarray, "k"], Int[np.ndarray, "m"]]:
    """Ascending rows of two folds, one after the other, as rows of each; `first`: length of one."""
    return rows[rows < first], rows[rows >= first] - first


def _targets(train: ImageColumns, classes: tuple[str, ...]) -> Int[np.ndarray, "image"]:
    found: np.ndarray = train.targets(classes).cpu().numpy()
    return found


def _centred_one_hot(targets: Int[np.ndarray, "image"]) -> Float[np.ndarray, "image class"]:
    """One-hot classes less their mean where all are equally frequent."""
    classes = int(targets.max()) + 1
    found: np.ndarray = np.eye(classes)[targets] - 1 / classes
    return found


def _centred(weights: Float[np.ndarray, "value class"]) -> Float[np.ndarray, "value class"]:
    """Weights of outputs less their mean over the classes."""
    centred: np.ndarray = weights - weights.mean(axis=1, keepdims=True)
    return centred


def _rotation(dimension: int) -> Float[np.ndarray, "{dimension} {dimension}"]:
    """An orthonormal matrix, always the same."""
    square = np.random.default_rng(0).normal(size=(dimension, dimension))
    found: Float[np.ndarray, "{dimension} {dimension}"] = np.linalg.qr(square)[0]
    return found
