"""Score a run: closed set by prototype logits and Mahalanobis, open set by detectors.

One function embeds and scores every image, closed or open. Detectors see training and
validation images of known generators alone; test and open images are only looked at here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from leakcache.errors import CacheStale, RunError, ScoringError
from leakcache.progress import track
from leakcache.store import LatentCache
from leaknet.detectors import Detector, DiagonalMahalanobis, GlobalKDE
from leaknet.durable import write_text
from leaknet.embed import embed
from leaknet.embeddings import Embeddings
from leaknet.intervals import OpenIntervals, closed_intervals, open_intervals
from leaknet.latents import load_split
from leaknet.metrics import ClosedScores, OpenReport, closed_scores, open_report
from leaknet.metrics.closed import correct
from leaknet.model import WEIGHTS, ProtoLeakNet
from leaknet.record import CacheIdentity
from leaknet.score_table import write_score_table
from leaknet.scorers import fit_all, save_scorers

METRICS = "metrics.json"
EMBEDDINGS = "embeddings.h5"
CLOSED_FOLDS = ("train", "val", "test")


@dataclass(frozen=True)
class ClosedResult:
    """One way of naming the generator, on one fold.

    Attributes:
        scores: the metrics.
        intervals: [low, high] by metric; empty where the fold has too few prompt groups.
    """

    scores: ClosedScores
    intervals: dict[str, list[float]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self.scores.as_dict(), "interval": self.intervals}


@dataclass(frozen=True)
class OpenResult:
    """One detector against the unknown generators.

    Attributes:
        detector: its name.
        report: the metrics.
        intervals: the same layout with [low, high].
    """

    detector: str
    report: OpenReport
    intervals: OpenIntervals | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: metrics at the top, `interval` beside them."""
        intervals = self.intervals.as_dict() if self.intervals else {}
        return {"detector": self.detector, **self.report.as_dict(), "interval": intervals}


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
        images: number of images by fold.
        open: by detector; empty without an open set.
        facts: bandwidths and the like.
    """

    run: Path
    model: str
    seed: int
    preset: str
    closed: dict[str, ClosedResult]
    validation: ClosedResult
    images: dict[str, int]
    open: dict[str, OpenResult]
    facts: dict[str, Any]

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
            "facts": self.facts,
        }
        if self.open:
            result["open"] = next(iter(self.open.values())).as_dict()
            result["detectors"] = {name: item.as_dict() for name, item in self.open.items()}
        return result


def score_run(
    run: Path,
    closed: LatentCache,
    unknown: Sequence[LatentCache] = (),
    kinds: Sequence[type[Detector]] = (),
    device: torch.device | None = None,
) -> RunScores:
    """Embed, fit the detectors, judge; writes embeddings, scorers and metrics into the run.

    Args:
        run: a trained run.
        closed: the cache it was trained on.
        unknown: caches of generators that it was not trained on.
        kinds: open-set detectors, the reported one first; the global KDE where there is an
            open set and none is named.
        device: where to embed.

    Raises:
        RunError: the run is incomplete, or was trained on another cache.
        CacheStale: an open cache was encoded in another way.
        ScoringError: an unknown image is also a known one, or a fold is empty.
    """
    model = ProtoLeakNet.from_pretrained(run).to(device or torch.device("cpu"))
    _require_cache(run, model, closed)
    for cache in unknown:
        _require_encoding(run, model, cache)
    digest = weights_hash(run)
    known = closed_embeddings(run, model, closed, digest)
    if len(known.select("test")) == 0:
        raise ScoringError(f"{closed.path}: has no test fold; see `leak data index`")
    strangers = [embed_fold(model, cache, "open", digest) for cache in unknown]
    _refuse_known_strangers(known, strangers)
    chosen = list(kinds) or ([GlobalKDE] if unknown else [])
    fitted = fit_all(chosen, known)
    naming = DiagonalMahalanobis().fit(known.select("train"), known.select("val"))
    save_scorers(run, [*fitted, naming], digest)
    test, val = known.select("test"), known.select("val")
    scores = RunScores(
        run=run,
        model=digest,
        seed=model.config.train.seed,
        preset=model.config.preset,
        closed={
            "prototype": judge_closed(test.logits, test),
            "mahalanobis": judge_closed(naming.class_scores(test), test),
        },
        validation=judge_closed(val.logits, val),
        images={fold: len(known.select(fold)) for fold in CLOSED_FOLDS}
        | ({"open": sum(map(len, strangers))} if strangers else {}),
        open={d.name: judge_open(d, test, strangers) for d in fitted} if strangers else {},
        facts={d.name: _settings(d) for d in fitted},
    )
    rows = concatenate([known, *strangers])
    write_score_table(run, rows, {d.name: d.score_samples(rows) for d in [*fitted, naming]})
    write_text(run / METRICS, json.dumps(_finite(scores.as_dict()), indent=1) + "\n")
    return scores


def prepare_run(run: Path, closed: LatentCache, device: torch.device | None = None) -> ClosedResult:
    """After training: embed the training and validation folds, fit what scores single images.

    The test fold is not looked at. Returns the judgement on the validation fold.

    Raises:
        RunError: the run is incomplete, or was trained on another cache.
    """
    model = ProtoLeakNet.from_pretrained(run).to(device or torch.device("cpu"))
    _require_cache(run, model, closed)
    digest = weights_hash(run)
    known = concatenate([embed_fold(model, closed, fold, digest) for fold in ("train", "val")])
    known.save(run / EMBEDDINGS)
    save_scorers(run, fit_all([GlobalKDE, DiagonalMahalanobis], known), digest)
    val = known.select("val")
    return judge_closed(val.logits, val)


def weights_hash(run: Path) -> str:
    """sha256 of a run's weights: what embeddings and scorers belong to.

    Raises:
        RunError: the run has none yet.
    """
    try:
        return hashlib.sha256((run / WEIGHTS).read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"{run}: has no {WEIGHTS}; `leak train` finishes it") from error


def closed_embeddings(
    run: Path, model: ProtoLeakNet, cache: LatentCache, digest: str
) -> Embeddings:
    """Embeddings of all closed folds, from the run folder where they are of these weights."""
    path = run / EMBEDDINGS
    if path.is_file():
        stored = Embeddings.load(path)
        if stored.run == digest and np.array_equal(stored.hashes, _hashes(cache)):
            return stored
    parts = [embed_fold(model, cache, fold, digest) for fold in CLOSED_FOLDS]
    embeddings = concatenate(parts)
    embeddings.save(path)
    return embeddings


def _hashes(cache: LatentCache) -> np.ndarray:
    return np.concatenate([cache.hashes[cache.rows(fold)] for fold in CLOSED_FOLDS])


def embed_fold(model: ProtoLeakNet, cache: LatentCache, fold: str, digest: str) -> Embeddings:
    """Embed one fold of a cache; `open` for a cache of unknown generators."""
    split = load_split(cache, fold, torch.device("cpu"))
    with track(f"embedding {fold}", len(split), "images") as advance:
        return embed(model, split, run=digest, advance=advance)


def concatenate(parts: Sequence[Embeddings]) -> Embeddings:
    """Embeddings of several folds as one table."""
    names = ("vectors", "logits", "attention", "labels", "groups", "folds", "hashes", "paths")
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Embeddings(**columns, classes=parts[0].classes, run=parts[0].run, seed=parts[0].seed)


def judge_closed(scores: Float[np.ndarray, "n class"], fold: Embeddings) -> ClosedResult:
    """Metrics of class scores on one fold, with intervals clustered by prompt group."""
    if len(fold) == 0:
        raise ScoringError("a closed fold holds no images; see `leak data index` for the folds")
    intervals = {}
    if len(set(fold.groups.tolist())) > 1:
        found = closed_intervals(scores, fold.targets, fold.groups)
        intervals = {name: [item.low, item.high] for name, item in found.items()}
    return ClosedResult(closed_scores(scores, fold.targets, fold.classes), intervals)


def judge_open(detector: Detector, test: Embeddings, strangers: Sequence[Embeddings]) -> OpenResult:
    """Known test images against all unknown ones, by the same scoring call."""
    unknown = concatenate(strangers)
    known, others = detector.score_samples(test), detector.score_samples(unknown)
    right = correct(test.logits, test.targets)
    report = open_report(known, others, right, unknown.labels)
    intervals = None
    if _enough_groups(test, unknown):
        intervals = open_intervals(
            known, others, right, unknown.labels, test.groups, unknown.groups
        )
    return OpenResult(detector.name, report, intervals)


def _enough_groups(test: Embeddings, unknown: Embeddings) -> bool:
    sets = [test.groups] + [unknown.groups[unknown.labels == n] for n in np.unique(unknown.labels)]
    return all(len(set(groups.tolist())) > 1 for groups in sets)


def _require_cache(run: Path, model: ProtoLeakNet, cache: LatentCache) -> None:
    if model.cache is None:
        raise RunError(f"{run}: does not say which cache it was trained on; train it with `leak`")
    now = CacheIdentity.of(cache)
    if words := model.cache.encoding.difference(now.encoding):
        raise RunError(
            f"{run}: was trained on another encoding than {cache.path} ({words}); "
            "name its own cache with --cache"
        )
    if model.cache.training_sha256 != now.training_sha256:
        raise RunError(
            f"{run}: was trained on other images than the training fold of {cache.path} "
            f"({model.cache.fingerprint[:8]} against {now.fingerprint[:8]}); "
            "name its own cache with --cache, or train again"
        )


def _require_encoding(run: Path, model: ProtoLeakNet, cache: LatentCache) -> None:
    expected = model.cache.encoding if model.cache else cache.manifest.encoding
    if words := expected.difference(cache.manifest.encoding):
        raise CacheStale(
            f"{cache.path}: was encoded otherwise than {run} expects ({words}); build it again"
        )


def _refuse_known_strangers(known: Embeddings, strangers: Sequence[Embeddings]) -> None:
    seen = dict(zip(known.hashes.tolist(), known.paths.tolist(), strict=True))
    for part in strangers:
        for sha256, path in zip(part.hashes.tolist(), part.paths.tolist(), strict=True):
            if sha256 in seen:
                raise ScoringError(
                    f"the open image {path} is also the closed image {seen[sha256]}: "
                    "take it out of the open set"
                )


def _settings(detector: Detector) -> dict[str, Any]:
    """What was chosen on closed data: the scalars among the learned state."""
    return {name: array.item() for name, array in detector.state().items() if np.ndim(array) == 0}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
