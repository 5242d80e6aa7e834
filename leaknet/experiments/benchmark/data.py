"""The images of a bench: the folds to train on, and those evaluated at each step of degradation."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache as once
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped

from leakcache.dataset.degraded_copies import write_copies
from leakcache.dataset.records import DatasetIndex, ImageRecord, canonical
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheStale, ScoringError
from leakcache.store.build import build_alike
from leakcache.store.cache import Cache
from leaknet.baselines.base import COLUMNS, BaselineImages
from leaknet.data.columns import ImageColumns

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
    if words := closed.manifest.encoding.difference(cache.manifest.encoding):
        raise CacheStale(
            f"{cache.path}: was encoded otherwise than {closed.path} ({words}); build it again"
        )
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


# Degraded copies of the evaluated images, with latents and pixels of their own.
#
# DIR/steps/closed/step1/…            lossless copies, by `leakcache.dataset.degraded_copies`
# DIR/steps/closed/latents-step1/     their latents, encoded as the originals were
# DIR/steps/closed/rows/              pixels and whatever else methods derive from them
#
# DIR is the cache's folder; a limited bench has `steps-limitN` in place of `steps`. Models learn
# from raw images alone: only test and open images are copied.


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
