"""Score a run: closed set by prototype logits and Mahalanobis, open set by detectors.

One function embeds and scores every image, closed or open. Detectors see training and
validation images of known generators alone; test and open images are only judged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leakcache.errors import CacheStale, ScoringError
from leakcache.progress import track
from leakcache.store import LatentCache
from leaknet.detectors import Detector, DiagonalMahalanobis, GlobalKDE
from leaknet.durable import write_text
from leaknet.embed import embed
from leaknet.embeddings import Embeddings
from leaknet.judge import ClosedResult, OpenResult, concatenate, judge_closed, judge_open
from leaknet.latents import load_split
from leaknet.model import ProtoLeakNet
from leaknet.runfolder import RunFolder
from leaknet.score_table import write_score_table
from leaknet.scorers import fit_all, save_scorers

CLOSED_FOLDS = ("train", "val", "test")
CPU = torch.device("cpu")


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
        facts: by detector, the settings chosen on closed data, such as the bandwidth.
    """

    run: Path
    model: str
    seed: int
    preset: str
    closed: dict[str, ClosedResult]
    validation: ClosedResult
    images: dict[str, int]
    open: dict[str, OpenResult]
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
            "facts": self.facts,
        }
        if self.open:
            result["open"] = next(iter(self.open.values())).as_dict()
            result["detectors"] = {name: item.as_dict() for name, item in self.open.items()}
        return result


def score_run(
    folder: Path,
    closed: LatentCache,
    unknown: Sequence[LatentCache] = (),
    kinds: Sequence[type[Detector]] = (),
    device: torch.device = CPU,
) -> RunScores:
    """Embed, fit the detectors, judge; writes embeddings, scorers and metrics into the run.

    Args:
        folder: a trained run.
        closed: the cache it was trained on.
        unknown: caches of generators that it was not trained on.
        kinds: open-set detectors, the reported one first.
        device: where to embed.

    Raises:
        RunError: the run is incomplete, or was trained on another cache.
        CacheStale: an open cache was encoded in another way.
        ScoringError: an unknown image is also a known one, or the test fold is empty.
    """
    run = RunFolder(folder)
    model = run.load_model(device)
    run.check_cache(closed)
    known = closed_embeddings(run, model, closed)
    if len(known.select("test")) == 0:
        raise ScoringError(f"{closed.path}: has no test fold; see `leak data index`")
    strangers = open_embeddings(run, model, unknown, known)
    fitted = fit_all(kinds, known)
    naming = DiagonalMahalanobis().fit(known.select("train"), known.select("val"))
    save_scorers(folder, [*fitted, naming], known.run)
    scores = _judge(run, model, known, strangers, fitted, naming)
    rows = known if strangers is None else concatenate([known, strangers])
    write_score_table(folder, rows, {d.name: d.score_samples(rows) for d in [naming, *fitted]})
    write_text(run.metrics, json.dumps(_finite(scores.as_dict()), indent=1) + "\n")
    return scores


def prepare_run(folder: Path, closed: LatentCache, device: torch.device = CPU) -> ClosedResult:
    """After training: embed the training and validation folds, fit what scores single images.

    The test fold is not looked at. Returns the judgement on the validation fold.

    Raises:
        RunError: the run is incomplete, or was trained on another cache.
    """
    run = RunFolder(folder)
    model = run.load_model(device)
    run.check_cache(closed)
    parts = [embed_fold(model, closed, fold, run.fingerprint()) for fold in ("train", "val")]
    known = concatenate(parts)
    known.save(run.embeddings)
    save_scorers(folder, fit_all([GlobalKDE, DiagonalMahalanobis], known), known.run)
    val = known.select("val")
    return judge_closed(val.logits, val)


def closed_embeddings(run: RunFolder, model: ProtoLeakNet, cache: LatentCache) -> Embeddings:
    """Embeddings of all closed folds, from the run folder where they are of these weights."""
    digest = run.fingerprint()
    if run.embeddings.is_file():
        stored = Embeddings.load(run.embeddings)
        hashes = np.concatenate([cache.hashes[cache.rows(fold)] for fold in CLOSED_FOLDS])
        if stored.run == digest and np.array_equal(stored.hashes, hashes):
            return stored
    embeddings = concatenate([embed_fold(model, cache, fold, digest) for fold in CLOSED_FOLDS])
    embeddings.save(run.embeddings)
    return embeddings


def open_embeddings(
    run: RunFolder, model: ProtoLeakNet, caches: Sequence[LatentCache], known: Embeddings
) -> Embeddings | None:
    """Embeddings of unknown generators; None where there is no open cache.

    Raises:
        CacheStale: a cache was encoded otherwise than the run expects.
        ScoringError: an image is also a known one.
    """
    for cache in caches:
        expected = model.cache.encoding if model.cache else cache.manifest.encoding
        if words := expected.difference(cache.manifest.encoding):
            raise CacheStale(
                f"{cache.path}: was encoded otherwise than {run.path} expects ({words}); "
                "build it again"
            )
    if not caches:
        return None
    strangers = concatenate([embed_fold(model, cache, "open", known.run) for cache in caches])
    _refuse_known(known, strangers)
    return strangers


def embed_fold(model: ProtoLeakNet, cache: LatentCache, fold: str, digest: str) -> Embeddings:
    """Embed one fold of a cache; `open` for a cache of unknown generators."""
    split = load_split(cache, fold, CPU)
    with track(f"embedding {fold}", len(split), "images") as advance:
        return embed(model, split, run=digest, advance=advance)


def _judge(
    run: RunFolder,
    model: ProtoLeakNet,
    known: Embeddings,
    strangers: Embeddings | None,
    fitted: Sequence[Detector],
    naming: DiagonalMahalanobis,
) -> RunScores:
    test, val = known.select("test"), known.select("val")
    images = {fold: len(known.select(fold)) for fold in CLOSED_FOLDS}
    opened = {}
    if strangers is not None:
        images["open"] = len(strangers)
        opened = {d.name: judge_open(d, test, strangers) for d in fitted}
    return RunScores(
        run=run.path,
        model=known.run,
        seed=model.config.train.seed,
        preset=model.config.preset,
        closed={
            "prototype": judge_closed(test.logits, test),
            "mahalanobis": judge_closed(naming.class_scores(test), test),
        },
        validation=judge_closed(val.logits, val),
        images=images,
        open=opened,
        facts={detector.name: _settings(detector) for detector in fitted},
    )


def _refuse_known(known: Embeddings, strangers: Embeddings) -> None:
    seen = dict(zip(known.hashes.tolist(), known.paths.tolist(), strict=True))
    for sha256, path in zip(strangers.hashes.tolist(), strangers.paths.tolist(), strict=True):
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
