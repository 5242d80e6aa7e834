"""The last step of a build: decide which images are accepted, then moments, table, manifest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leakcache.dataset.index import DatasetIndex, ImageRecord
from leakcache.errors import DataError
from leakcache.store.cache import write_table
from leakcache.store.fold_leakcache_statistics import Cell, LatentMoments, MomentTable
from leakcache.store.manifest import CacheManifest, Encoding, images_hash
from leakcache.store.workspace import DoneShard
from leakcache.store.zarr_shards import ShardArrays


def finish(
    index: DatasetIndex,
    split: str,
    encoding: Encoding,
    folder: Path,
    done: Sequence[DoneShard],
    facts: dict[str, Any],
) -> CacheManifest:
    """Write table and moments beside the latents in `folder`; returns the manifest to publish.

    Raises:
        DataError: every image was refused.
    """
    records = index.records
    hashes = [sha256 for shard in done for sha256 in shard.sha256]
    sizes = [size for shard in done for size in shard.sizes]
    reasons = [reason for shard in done for reason in shard.reasons]
    encoded = [not reason for reason in reasons]
    _refuse_duplicates(records, hashes, reasons)
    accepted = np.array([not reason for reason in reasons])
    if not accepted.any():
        raise DataError(
            f"{index.root}: none of {len(records)} images can be used "
            f"(the first, {records[0].path}: {reasons[0]})"
        )
    arrays = ShardArrays.open(folder)
    columns: dict[str, list[Any]] = {
        name: [getattr(record, name) for record in records]
        for name in ("path", "label", "group", "fold")
    }
    columns |= {"sha256": hashes, "bytes": sizes}
    columns |= {"encoded": encoded, "accepted": accepted.tolist()}
    write_table(folder, columns, _moments(records, accepted, arrays))
    kept = [row for row in range(len(records)) if accepted[row]]
    refused = [(r.path, why) for r, why in zip(records, reasons, strict=True) if why]
    refused += [(reject.path, reject.reason) for reject in index.rejects]
    return CacheManifest(
        encoding=encoding,
        split=split,
        data=str(index.root),
        layout=index.layout,
        images_sha256=images_hash(
            (hashes[r], records[r].label, records[r].group, records[r].fold) for r in kept
        ),
        images=len(kept),
        latent_shape=arrays.latent_shape,
        classes=tuple(sorted({records[r].label for r in kept if records[r].fold != "open"})),
        unknown=tuple(sorted({records[r].label for r in kept if records[r].fold == "open"})),
        rejects=tuple(refused),
        facts=facts,
    )


def _refuse_duplicates(
    records: Sequence[ImageRecord], hashes: Sequence[str], reasons: list[str]
) -> None:
    """Refuse content under two labels altogether, and content seen before under one."""
    rows = defaultdict(list)
    for row, sha256 in enumerate(hashes):
        if not reasons[row]:
            rows[sha256].append(row)
    for same in rows.values():
        first = records[same[0]]
        labels = {records[row].label for row in same}
        if len(labels) > 1:
            for row in same:
                other = next(records[o] for o in same if records[o].label != records[row].label)
                reasons[row] = f"the same content is labelled {other.label} in {other.path}"
        else:
            for row in same[1:]:
                reasons[row] = f"the same content as {first.path}"


def _moments(
    records: Sequence[ImageRecord], accepted: np.ndarray, arrays: ShardArrays
) -> MomentTable:
    total: dict[Cell, LatentMoments] = {}
    for shard in range(arrays.shards):
        latents, coefficients = arrays.read(shard), arrays.read_dct(shard)
        rows = arrays.rows(shard)
        members = defaultdict(list)
        for offset, record in enumerate(records[rows]):
            if accepted[rows.start + offset]:
                members[record.label, record.fold].append(offset)
        for cell, offsets in members.items():
            part = LatentMoments.of(latents[offsets], coefficients[offsets])
            total[cell] = total[cell].merge(part) if cell in total else part
    return MomentTable.of(total)
