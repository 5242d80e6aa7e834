"""The images of a bench at each step of degradation, and one method fitted to them under one seed.

DIR/steps/closed/step1/…            lossless copies, by `leakcache.dataset.degraded_copies`
DIR/steps/closed/latents-step1/     their latents, encoded as the originals were
DIR/steps/closed/rows/              pixels and whatever else methods derive from them

DIR is the cache's folder; a limited bench has `steps-limitN` in place of `steps`. Models learn
from raw images alone: only test and open images are copied. A method under a seed has a folder:

FOLDER/known.h5             training and validation folds
FOLDER/step0.h5, step1.h5   evaluated images of each step
FOLDER/state.safetensors    what was learned, where the method keeps it
FOLDER/trial.json           parameters and seconds
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache as once
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from leakcache.dataset.degraded_copies import write_copies
from leakcache.dataset.records import DatasetIndex, ImageRecord, canonical
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import RunError, ScoringError
from leakcache.files import parse_json
from leakcache.store.build import build_alike
from leakcache.store.cache import Cache
from leaknet.baselines.base import COLUMNS, Baseline, BaselineImages, BaselineOptions
from leaknet.checksums import read_text
from leaknet.data.columns import ImageColumns
from leaknet.data.embeddings import Embeddings, concatenate
from leaknet.detectors import Detector
from leaknet.experiments.trial import Trial
from leaknet.files import read_tensors, save_tensors, write_json
from leaknet.scoring.run_embeddings import require_same_encoding

STEPS = "steps"
"""Folder of degraded copies in a cache's folder."""


@dataclass(frozen=True)
class StepImages:
    """The images evaluated at one step.

    Attributes:
        test: images of known generators.
        unknown: images of unknown ones, a table for each of their caches; empty without any.
    """

    test: BaselineImages
    unknown: tuple[BaselineImages, ...] = ()


@dataclass(frozen=True)
class BenchData:
    """Folds of one cache, and its unknown generators.

    Attributes:
        classes: the known generators, in the order of the logits.
        train: raw images to learn from.
        val: raw images to choose on.
        steps: images to evaluate, by step; 0 for images as they are.
        limit: at most so many images of each fold were taken; None for all.
        encoding: fingerprint of the encoding of the images.
    """

    classes: tuple[str, ...]
    train: BaselineImages
    val: BaselineImages
    steps: Mapping[int, StepImages] = field(default_factory=dict)
    limit: int | None = None
    encoding: str = ""

    @property
    def fingerprint(self) -> str:
        """Hash of the training and validation images."""
        head = [self.classes, self.limit, self.encoding]
        digest = hashlib.sha256(json.dumps(head).encode())
        for images in (self.train, self.val):
            for name in ("hashes", "labels", "groups"):
                digest.update(json.dumps(getattr(images, name).tolist()).encode())
        return digest.hexdigest()


def raw_data(closed: Cache, unknown: Sequence[Cache] = (), limit: int | None = None) -> BenchData:
    """The images as they are: step 0.

    Args:
        closed: cache of the known generators.
        unknown: caches of the unknown ones, encoded alike.
        limit: at most so many images of each fold and of each unknown cache, spread over
            generators and prompts; None for all.

    Raises:
        CacheStale: an unknown cache was encoded otherwise than the closed one.
        ScoringError: an image is both known and unknown.
    """
    train, val, test = (_fold(closed, fold, limit) for fold in ("train", "val", "test"))
    others = tuple(_unknown(cache, closed, limit) for cache in unknown)
    _refuse_shared((train, val, test), others)
    encoding = closed.manifest.encoding.fingerprint
    return BenchData(closed.classes, train, val, {0: StepImages(test, others)}, limit, encoding)


def spread(
    labels: Shaped[np.ndarray, "image"], groups: Shaped[np.ndarray, "image"], limit: int
) -> Int[np.ndarray, "kept"]:
    """Positions of `limit` images at most, ascending: generators in turn, groups in one order.

    So generators are equally common as far as they go, and show the same prompts.
    """
    rank: defaultdict[str, int] = defaultdict(int)
    turns = []
    for row in np.argsort(groups, kind="stable").tolist():
        label = str(labels[row])
        turns.append((rank[label], label, row))
        rank[label] += 1
    return np.sort(np.array([row for _, _, row in sorted(turns)[:limit]], np.int64))


def named_apart(images: BaselineImages, root: Path, closed: Path) -> BaselineImages:
    """The images with prompt groups of their own, where they come from another data set.

    Files of two data sets may well have the same names, and names are what groups are made of.
    """
    if root == closed:
        return images
    groups = np.array([f"{root.name}/{group}" for group in images.groups.tolist()], np.str_)
    latent = images.latent and replace(images.latent, groups=groups)
    return replace(images, groups=groups, latent=latent)


def _fold(cache: Cache, fold: str, limit: int | None) -> BaselineImages:
    rows = cache.rows(fold)
    if limit is not None:
        rows = rows[spread(cache.labels[rows], cache.groups[rows], limit)]
    return BaselineImages.of(cache, rows)


def _unknown(cache: Cache, closed: Cache, limit: int | None) -> BaselineImages:
    require_same_encoding(cache, closed)
    images = _fold(cache, "open", limit)
    return named_apart(images, Path(cache.manifest.data), Path(closed.manifest.data))


def _refuse_shared(known: Sequence[BaselineImages], unknown: Sequence[BaselineImages]) -> None:
    seen = {
        sha256: path
        for images in known
        for sha256, path in zip(images.hashes.tolist(), images.paths.tolist(), strict=True)
    }
    for images in unknown:
        for sha256, path in zip(images.hashes.tolist(), images.paths.tolist(), strict=True):
            if sha256 in seen:
                raise ScoringError(
                    f"the open image {path} is also the closed image {seen[sha256]}: take it out "
                    "of the open set"
                )


def columns_of(parts: Sequence[BaselineImages]) -> dict[str, Shaped[np.ndarray, "image"]]:
    """The columns of several tables, one after another."""
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS}


def with_steps(
    data: BenchData,
    closed: Cache,
    unknown: Sequence[Cache],
    steps: Sequence[int],
    device: str,
) -> BenchData:
    """The same bench with degraded copies of its evaluated images; what exists is kept.

    Args:
        data: the raw images of these caches.
        closed: cache of the known generators.
        unknown: caches of the unknown ones, in the order of the raw images.
        steps: which, 0 to 3.
        device: where to encode the copies.

    Raises:
        ConfigError: a step is not 0, 1, 2 or 3.
        CacheStale: the autoencoder is not that of the cache any more.
        DataError: no image could be copied.
    """
    home = closed.path.parent / (STEPS if data.limit is None else f"{STEPS}-limit{data.limit}")
    raw = data.steps[0]
    encoder = once(lambda: closed.manifest.encoding.encoder(device))
    found = {}
    for step in steps:
        if step == 0:
            found[0] = raw
            continue
        sources = [(raw.test, closed)] + list(zip(raw.unknown, unknown, strict=True))
        tables = [
            _degraded(images, source, home / source.path.name, step, encoder())
            for images, source in sources
        ]
        found[step] = StepImages(tables[0], tuple(tables[1:]))
    return replace(data, steps=found)


def _degraded(
    images: BaselineImages, source: Cache, home: Path, step: int, encoder: Encoder
) -> BaselineImages:
    built = degraded_cache(images, source, home, step, encoder)
    return BaselineImages.of(built, np.arange(len(built)))


def degraded_cache(
    images: BaselineImages | ImageColumns, source: Cache, home: Path, step: int, encoder: Encoder
) -> Cache:
    """Lossless degraded copies of images of a cache, encoded as these were; what exists is kept.

    Args:
        images: of the cache.
        source: the cache.
        home: folder of the copies and of their cache.
        step: 1 to 3.
        encoder: that of the cache.

    Raises:
        ConfigError: a step is not 1, 2 or 3.
        DataError: no image could be copied.
    """
    columns = (images.paths, images.labels, images.groups, images.folds)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    records = canonical(ImageRecord(*row) for row in rows)
    index = DatasetIndex(Path(source.manifest.data), records, (), "evaluated images")
    report = write_copies(index, home, step=step)
    selected = {record.path for record in records}
    copies = [copy for copy in report.copies if copy.source in selected]
    copied = canonical(ImageRecord(c.path, c.label, c.group, c.fold) for c in copies)
    return build_alike(
        source,
        DatasetIndex(report.folder, copied, report.rejects, f"degraded copies, step {step}"),
        encoder,
        home / f"latents-step{step}",
        split="all",
    ).cache


STATE = "state.safetensors"
FACTS = "trial.json"


@dataclass(frozen=True)
class BaselineTrial:
    """One training.

    Attributes:
        known: embeddings of the training and validation folds.
        steps: embeddings of the evaluated images, by step.
        parameters: of the method.
        fitting: seconds that fitting took, cutting pixels included where they were not cached.
        embedding: seconds that embedding took, by step.
    """

    known: Embeddings
    steps: dict[int, Embeddings]
    parameters: int
    fitting: float
    embedding: dict[int, float]

    def seconds(self, step: int) -> float:
        """Of fitting and of embedding one step."""
        return self.fitting + self.embedding[step]

    def at(self, step: int, detectors: tuple[Detector, ...]) -> Trial:
        """The images of one step under fitted detectors; without any, known images alone."""
        images = self.steps[step]
        unknown = images.select("open") if detectors else None
        return Trial(self.known, images.select("test"), unknown, detectors)


def run_baseline(
    method: type[Baseline], data: BenchData, options: BaselineOptions
) -> BaselineTrial:
    """Fit and embed what is not done yet in `options.folder`.

    Raises:
        LeakError: the method cannot run, or cannot learn from the data.
    """
    trial = _Trial(method, data, options)
    known = trial.known()
    steps = {step: trial.embedded(step, images) for step, images in data.steps.items()}
    facts = trial.facts
    return BaselineTrial(
        known=known,
        steps=steps,
        parameters=int(facts["parameters"]),
        fitting=float(facts["fitting"]),
        embedding={step: float(facts["embedding"][str(step)]) for step in steps},
    )


class _Trial:
    """One trial; the method is built only where something is missing."""

    def __init__(self, method: type[Baseline], data: BenchData, options: BaselineOptions) -> None:
        if options.folder is None:
            raise RunError("a trial needs a folder to keep its embeddings in")
        self.folder = options.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.facts: dict[str, Any] = self._read_facts()
        self._method, self._data, self._options = method, data, options
        self._baseline: Baseline | None = None

    def known(self) -> Embeddings:
        """Embeddings of the training and validation folds."""
        parts = [self._data.train, self._data.val]
        found = self._kept("known", parts)
        if found is None:
            # What another fit embedded is no longer of this one.
            self.facts = {}
            self._forget_steps()
            baseline = self._fitted()
            found = concatenate([baseline.embed(part) for part in parts])
            self._keep("known", found)
        return found

    def embedded(self, step: int, images: StepImages) -> Embeddings:
        """Embeddings of the test images and the unknown ones of a step."""
        parts = [images.test, *images.unknown]
        found = self._kept(f"step{step}", parts)
        if found is None or str(step) not in self.facts.get("embedding", {}):
            baseline = self._fitted()
            start = time.perf_counter()
            found = concatenate([_embedded(baseline, part) for part in parts if len(part)])
            self.facts.setdefault("embedding", {})[str(step)] = time.perf_counter() - start
            self._keep(f"step{step}", found)
            self._write_facts()
        return found

    def _fitted(self) -> Baseline:
        if self._baseline is None:
            baseline = self._method(self._data.classes, self._options)
            state = self.folder / STATE
            if self.facts and state.is_file():
                self._baseline = baseline.restore(read_tensors(state)[0])
            else:
                self._baseline = self._fit(baseline)
        return self._baseline

    def _fit(self, baseline: Baseline) -> Baseline:
        start = time.perf_counter()
        baseline.fit(self._data.train, self._data.val)
        self.facts |= {"fitting": time.perf_counter() - start, "parameters": baseline.parameters}
        learned = baseline.state()
        if learned is not None:
            save_tensors(self.folder / STATE, learned)
        self._write_facts()
        return baseline

    def _kept(self, name: str, parts: Sequence[BaselineImages]) -> Embeddings | None:
        path = self.folder / f"{name}.h5"
        if not (path.is_file() and self.facts):
            return None
        found, expected = Embeddings.load(path), columns_of(parts)
        same = all(np.array_equal(getattr(found, key), expected[key]) for key in expected)
        return found if same and found.classes == self._data.classes else None

    def _keep(self, name: str, embeddings: Embeddings) -> None:
        embeddings.save(self.folder / f"{name}.h5")

    def _forget_steps(self) -> None:
        for path in (*self.folder.glob("step*.h5"), self.folder / STATE):
            path.unlink(missing_ok=True)

    def _read_facts(self) -> dict[str, Any]:
        path = self.folder / FACTS
        try:
            found: dict[str, Any] = parse_json(read_text(path))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise RunError(f"{path}: is damaged ({error}); delete its folder") from error
        return found

    def _write_facts(self) -> None:
        write_json(self.folder / FACTS, self.facts)


def _embedded(baseline: Baseline, images: BaselineImages) -> Embeddings:
    """Embeddings in float32, of images that keep the names of their table."""
    found = baseline.embed(images)
    return replace(found, run=baseline.name)
