"""Degraded copies of the judged images, with latents and pixels of their own.

DIR/steps/closed/step1/…            lossless copies, by `leakcache.degrade.copies`
DIR/steps/closed/latents-step1/     their latents, encoded as the originals were
DIR/steps/closed/rows/              pixels and whatever else methods derive from them

DIR is the cache's folder; a limited bench has `steps-limitN` in place of `steps`. Models learn
from raw images alone: only test and open images are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache as once
from pathlib import Path

import numpy as np

from leakcache.dataset.records import DatasetIndex, ImageRecord, canonical
from leakcache.degrade.copies import write_copies
from leakcache.encoder.autoencoder import Encoder
from leakcache.statistics.build import complete_alike
from leakcache.store.build import build_cache
from leakcache.store.cache import LatentCache
from leakcache.store.manifest import Encoding
from leaknet.baselines.images import PeerImages
from leaknet.experiments.benchmark.data import BenchData, Judged


def with_steps(
    data: BenchData,
    closed: LatentCache,
    unknown: Sequence[LatentCache],
    steps: Sequence[int],
    device: str,
) -> BenchData:
    """The same bench with degraded copies of what it judges; nothing that exists is made again.

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
    home = closed.path.parent / ("steps" if data.limit is None else f"steps-limit{data.limit}")
    encoding = closed.manifest.encoding
    raw = data.steps[0]
    encoder = once(lambda: encoding.encoder(device))
    found = {}
    for step in steps:
        if step == 0:
            found[0] = raw
            continue
        sources = [(raw.test, closed)] + list(zip(raw.unknown, unknown, strict=True))
        tables = [
            _degraded(images, source, home / source.path.name, step, encoding, encoder())
            for images, source in sources
        ]
        found[step] = Judged(tables[0], tuple(tables[1:]))
    return replace(data, steps=found)


def _degraded(
    images: PeerImages,
    source: LatentCache,
    home: Path,
    step: int,
    encoding: Encoding,
    encoder: Encoder,
) -> PeerImages:
    columns = (images.paths, images.labels, images.groups, images.folds)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    records = canonical(ImageRecord(*row) for row in rows)
    index = DatasetIndex(Path(source.manifest.data), records, (), "judged images")
    report = write_copies(index, home, step=step)
    wanted = {record.path for record in records}
    copies = [copy for copy in report.copies if copy.source in wanted]
    copied = canonical(ImageRecord(c.path, c.label, c.group, c.fold) for c in copies)
    built = build_cache(
        DatasetIndex(report.folder, copied, report.rejects, f"degraded copies, step {step}"),
        encoder,
        home / f"latents-step{step}",
        split="all",
        preprocessing=encoding.preprocessing,
        stored=encoding.stored,
    )
    complete_alike(source, [built.cache], str(encoder.device))
    return PeerImages.of(built.cache, np.arange(len(built.cache)))
