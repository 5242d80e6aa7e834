"""Score a run: closed set by prototype logits and Mahalanobis, open set by detectors.

One function embeds and scores every image, closed or open. Detectors see training and
validation images of known generators alone; test and open images are only evaluated.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from scipy.special import softmax

from leakcache.errors import RunError, ScoringError
from leakcache.names import cell, from_cell
from leakcache.store.cache import Cache
from leaknet.calibration import calibrate
from leaknet.checksums import is_there, read_text
from leaknet.data.columns import CPU, load_fold
from leaknet.data.embeddings import Embeddings, concatenate
from leaknet.detectors import Detector, DiagonalMahalanobis, GlobalKDE
from leaknet.files import write_json, write_text
from leaknet.metrics.detection import Detection, OpenSummary, summarise_open
from leaknet.metrics.summary import ClosedSummary, summarise_closed
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.scoring.families import learn_families
from leaknet.scoring.run_embeddings import (
    CLOSED_FOLDS,
    closed_embeddings,
    embed_split,
    facts_of_cache,
    fit_all,
    open_splits,
    save_scorers,
    unknown_embeddings,
    write_range,
)
from leaknet.training.run_folder import RunFolder, with_held_out


@dataclass(frozen=True)
class RunScores:
    """Everything that `leak score` says of a run.

    Attributes:
        run: its folder.
        model: sha256 of its weights.
        seed: of its training.
        preset: it started from.
        closed: by scorer (`prototype`, `mahalanobis`), on the test fold.
        validation: the prototype scorer on the validation fold, where choices were made.
        branches: of each branch of the model alone, as `closed` and `validation`, by its name.
        fusion: how the branches are weighted; see `leaknet.model.fusion.Fusion`.
        images: number of images by fold.
        open: by detector; empty without an open set.
        facts: by detector, the settings chosen on closed data, such as the bandwidth.
    """

    run: Path
    model: str
    seed: int
    preset: str
    closed: dict[str, ClosedSummary]
    validation: ClosedSummary
    branches: dict[str, dict[str, ClosedSummary]]
    fusion: dict[str, Any]
    images: dict[str, int]
    open: dict[str, OpenSummary]
    facts: dict[str, dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `closed` is the prototype scorer, `open` the first detector."""
        result: dict[str, Any] = {
            "run": str(self.run),
            "model": self.model,
            "preset": self.preset,
            "seed": self.seed,
            "images": self.images,
            "closed": {
                **self.closed["prototype"].as_dict(),
                "mahalanobis": self.closed["mahalanobis"].as_dict(),
            },
            "validation": self.validation.as_dict(),
            "branches": branches_as_dict(self.branches, self.fusion),
            "facts": self.facts,
        }
        if self.open:
            result["open"] = next(iter(self.open.values())).as_dict()
            result["detectors"] = {name: item.as_dict() for name, item in self.open.items()}
        return result


def score_run(
    folder: Path,
    closed: Cache,
    unknown: Sequence[Cache] = (),
    kinds: Sequence[type[Detector]] = (),
    device: torch.device = CPU,
    *,
    force: bool = False,
) -> RunScores:
    """Embed, fit the detectors, evaluate; writes embeddings, scorers and metrics into the run.

    Args:
        folder: a trained run.
        closed: the cache it was trained on.
        unknown: caches of generators that it was not trained on.
        kinds: open-set detectors, the reported one first.
        device: where to embed.
        force: leave open images out that are also closed ones, instead of refusing.

    Raises:
        RunError: the run is incomplete, or was trained on another cache.
        CacheStale: an open cache was encoded in another way.
        ScoringError: an unknown image is also a known one, or the test fold is empty.
    """
    run = RunFolder(folder)
    model = run.load_model(device)
    run.check_cache(closed)
    known = closed_embeddings(run, model, closed)
    splits = open_splits(unknown, closed, model.config)
    unknown_images = unknown_embeddings(run, model, splits, known, force=force) if splits else None
    return evaluate_run(run, model, known, unknown_images, fit_run(run, known, kinds))


@dataclass(frozen=True)
class Scorers:
    """What a run scores with.

    Attributes:
        detectors: fitted ones for the open set, in the order asked for.
        naming: names the generator, beside the prototypes.
    """

    detectors: tuple[Detector, ...]
    naming: DiagonalMahalanobis


def fit_run(run: RunFolder, known: Embeddings, kinds: Sequence[type[Detector]]) -> Scorers:
    """Fit detectors on the training and validation folds, and keep them in the run folder.

    Raises:
        ScoringError: the test fold is empty, or a detector cannot be fitted.
    """
    if len(known.select("test")) == 0:
        raise ScoringError(f"{run.path}: its data has no test fold; see `leak data index`")
    fitted = tuple(fit_all(kinds, known))
    naming = DiagonalMahalanobis().fit(known.select("train"), known.select("val"))
    save_scorers(run.path, [*fitted, naming], known.run)
    return Scorers(fitted, naming)


def evaluate_run(
    run: RunFolder,
    model: ProtoLeakNet,
    known: Embeddings,
    unknown_images: Embeddings | None,
    scorers: Scorers,
) -> RunScores:
    """Evaluate the test fold and the unknown generators; writes metrics.json and scores.csv."""
    scores = _evaluate(run, model, known, unknown_images, scorers)
    rows = known if unknown_images is None else concatenate([known, unknown_images])
    columns = [scorers.naming, *scorers.detectors]
    write_score_table(run.path, rows, {d.name: d.score_samples(rows) for d in columns})
    _write_metrics(run, scores.as_dict())
    return scores


def _write_metrics(run: RunFolder, metrics: dict[str, Any]) -> None:
    """Write metrics.json, and remove the report of the metrics before."""
    write_json(run.metrics, metrics)
    run.report.unlink(missing_ok=True)


@dataclass(frozen=True)
class ValidationScores:
    """What `leak train` says of a run: results on the validation fold.

    Attributes:
        validation: of the model.
        branches: of each branch alone, by its name.
        fusion: how the branches are weighted.
    """

    validation: ClosedSummary
    branches: dict[str, dict[str, ClosedSummary]]
    fusion: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "validation": self.validation.as_dict(),
            "branches": branches_as_dict(self.branches, self.fusion),
        }


def branches_as_dict(
    branches: dict[str, dict[str, ClosedSummary]], fusion: dict[str, Any]
) -> dict[str, Any]:
    """Results of each branch by its name, their weights, and how these were found."""
    alone = {
        name: (results["closed"].as_dict() if "closed" in results else {})
        | {"validation": results["validation"].as_dict()}
        for name, results in branches.items()
    }
    weights = {name: fusion["weights"][name] for name in branches}
    found = {key: fusion[key] for key in ("gain", "error", "images", "groups")}
    return {**alone, "weights": weights, "held_out": found}


def prepare_run(folder: Path, closed: Cache, device: torch.device = CPU) -> ValidationScores:
    """After training: embed the training and validation folds, fit what scores single images.

    The test fold is not read. metrics.json then holds the results on the validation fold, which
    are returned too; a run that is already prepared or scored stays as it is.

    Raises:
        RunError: the run is incomplete, or was trained on another cache.
    """
    run = RunFolder(folder)
    run.check_cache(closed)
    if run.embeddings.is_file() and run.scorers.is_file() and run.metrics.is_file():
        known = Embeddings.load(run.embeddings)
        if known.run == run.fingerprint():
            return _validation(run, known)
    model = run.load_model(device)
    names = model.config.columns(training=False)
    splits = [with_held_out(folder, load_fold(closed, fold, names)) for fold in ("train", "val")]
    known = concatenate([embed_split(model, split, run.fingerprint()) for split in splits])
    known.save(run.embeddings)
    detectors = fit_all([GlobalKDE, DiagonalMahalanobis], known)
    save_scorers(folder, detectors, known.run)
    calibrate(folder, detectors, known)
    learn_families(folder, model, known)
    write_range(folder, facts_of_cache(closed))
    found = _validation(run, known)
    metrics = {
        "run": str(folder),
        "model": known.run,
        "preset": model.config.preset,
        "seed": model.config.train.seed,
        **found.as_dict(),
    }
    _write_metrics(run, metrics)
    return found


def _validation(run: RunFolder, known: Embeddings) -> ValidationScores:
    val = known.select("val")
    branches = {name: {"validation": summarise_closed([val.branch(name)])} for name in val.branches}
    return ValidationScores(summarise_closed([val]), branches, run.fusion())


def _evaluate(
    run: RunFolder,
    model: ProtoLeakNet,
    known: Embeddings,
    unknown_images: Embeddings | None,
    scorers: Scorers,
) -> RunScores:
    test, val = known.select("test"), known.select("val")
    images = {fold: len(known.select(fold)) for fold in CLOSED_FOLDS}
    opened = {}
    if unknown_images is not None:
        images["open"] = len(unknown_images)
        opened = {
            d.name: summarise_open(d.name, [[Detection.of(d, val, test, unknown_images)]])
            for d in scorers.detectors
        }
    return RunScores(
        run=run.path,
        model=known.run,
        seed=model.config.train.seed,
        preset=model.config.preset,
        closed={
            "prototype": summarise_closed([test]),
            "mahalanobis": summarise_closed([test], [scorers.naming.class_scores(test)]),
        },
        validation=summarise_closed([val]),
        branches={
            name: {
                "closed": summarise_closed([test.branch(name)]),
                "validation": summarise_closed([val.branch(name)]),
            }
            for name in test.branches
        },
        fusion=run.fusion(),
        images=images,
        open=opened,
        facts={detector.name: settings_of(detector) for detector in scorers.detectors},
    )


def settings_of(detector: Detector) -> dict[str, Any]:
    """What was chosen on closed data: the scalars among the learned state."""
    return {name: array.item() for name, array in detector.state().items() if np.ndim(array) == 0}


SCORES = "scores.csv"
_FIXED = ("path", "label", "group", "fold", "predicted", "probability")


@dataclass(frozen=True)
class ScoreTable:
    """The columns of `scores.csv`.

    Attributes:
        paths, labels, folds, predicted: text, one per image.
        scores: by detector, higher = more like the known.
    """

    paths: Shaped[np.ndarray, " image"]
    labels: Shaped[np.ndarray, " image"]
    folds: Shaped[np.ndarray, " image"]
    predicted: Shaped[np.ndarray, " image"]
    scores: dict[str, Float[np.ndarray, " image"]]


def write_score_table(
    run: Path, rows: Embeddings, scores: Mapping[str, Float[np.ndarray, " image"]]
) -> None:
    """Write `scores.csv` into a run: prediction and raw scores of each image."""
    best = rows.logits.argmax(axis=1)
    probability = softmax(rows.logits.astype(np.float64), axis=1).max(axis=1)
    predicted = np.array(rows.classes)[best]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([*_FIXED, *scores])
    columns = (rows.paths, rows.labels, rows.groups, rows.folds, predicted)
    for row, values in enumerate(zip(*columns, strict=True)):
        raw = [f"{column[row]:.6g}" for column in scores.values()]
        texts = [cell(str(value)) for value in values]
        writer.writerow([*texts, f"{probability[row]:.6f}", *raw])
    write_text(run / SCORES, text.getvalue())


def read_score_table(run: Path) -> ScoreTable:
    """Read `scores.csv` of a run.

    Raises:
        RunError: the run has not been scored, or the file was changed.
    """
    path = run / SCORES
    if not is_there(path):
        raise RunError(f"{run}: has not been scored; run `leak score --run {run}` first")
    try:
        heading, *rows = csv.reader(io.StringIO(read_text(path), newline=""))
        columns = {name: np.array(values) for name, *values in zip(heading, *rows, strict=True)}
        names = [name for name in heading if name not in _FIXED]
        return ScoreTable(
            _restored(columns["path"]),
            _restored(columns["label"]),
            _restored(columns["fold"]),
            _restored(columns["predicted"]),
            {name: columns[name].astype(np.float64) for name in names},
        )
    except (OSError, ValueError, KeyError, csv.Error) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} cannot be read ({error}): run `leak score` again") from error


def _restored(cells: Shaped[np.ndarray, " image"]) -> Shaped[np.ndarray, " image"]:
    """Text that was written as cells."""
    return np.array([from_cell(text) for text in cells.tolist()])
