"""Write the manifest of a build whose images are all stored: which are accepted, and which not."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from leakcache.dataset.findings import join_equal_pixels, refuse_vanished
from leakcache.dataset.index import DatasetIndex, Finding, ImageRecord, Split
from leakcache.dataset.records import canonical
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheCorrupt, CacheIncomplete, CacheStale, DataError
from leakcache.names import visible
from leakcache.store.manifest import CacheManifest, Encoding, refuse_other_format
from leakcache.store.one_pass import ImageFile, OnePass, ReadFile
from leakcache.store.remote import address
from leakcache.store.session import Collected


@dataclass
class Publication:
    """Writes the manifest of a build.

    Attributes:
        index: images of the split in the order of reading, before equal pixels are put into one
            group.
        encoding, encoder, folder, split: of the cache.
        former: the manifest that was here when the build began.
        identity: of the plan.
        start: time at which this process began.
        findings: what only decoded pixels tell; empty where another process wrote the manifest.
    """

    index: DatasetIndex
    encoding: Encoding
    encoder: Encoder
    folder: Path
    split: Split
    former: CacheManifest | None
    identity: str
    start: float
    findings: tuple[Finding, ...] = ()

    def done(self) -> bool:
        """Whether another process has written the manifest of this very build."""
        found = former_manifest(self.folder, self.encoding, repair=False)
        return found is not None and found.facts.get("plan") == self.identity

    def write(self, run: OnePass, collected: Collected) -> None:
        """Write the manifest; call it with the lock of the cache.

        Raises:
            DataError: every image was refused, or every image of a class.
        """
        read = run.explained(collected.files)
        files = {r.path: file for r, file in zip(self.index.records, read, strict=True)}
        ordered = replace(self.index, records=canonical(self.index.records))
        index, table, refused, self.findings = _accepted(ordered, files)
        _fill_moved(run, self.index, index)
        manifest = CacheManifest(
            self.encoding,
            self.split,
            str(index.root),
            index.layout,
            table,
            refused,
            self._facts(collected),
            source=str(index.source or index.root),
            reading=index.reading,
        )
        if manifest != self.former:
            manifest.write(self.folder)

    def _facts(self, collected: Collected) -> dict[str, Any]:
        """How the build went; but for the plan the former facts where nothing was computed."""
        former = self.former.facts if self.former else {}
        if former and not collected.computed:
            return {**former, "plan": self.identity}
        error = collected.relative_error
        if error is None:
            error = former.get("relative_latent_error")
        return {
            "seconds": round(time.monotonic() - self.start, 3),
            "computed": collected.computed,
            "relative_latent_error": former.get("relative_latent_error")
            if error is None
            else error,
            "torch": str(torch.__version__),
            "diffusers": version("diffusers"),
            "device": str(self.encoder.device),
            "plan": self.identity,
        }


def former_manifest(folder: Path, encoding: Encoding, repair: bool) -> CacheManifest | None:
    """The manifest that is here; refuses one of another encoding."""
    refuse_other_format(folder)
    try:
        former = CacheManifest.read(folder)
    except CacheIncomplete:
        return None
    except CacheCorrupt:
        if repair:
            return None
        raise
    if former.encoding.fingerprint != encoding.fingerprint:
        raise CacheStale(
            f"{address(folder.parent)}: was built with {former.encoding.difference(encoding)}; "
            "choose another --cache or throw it away with --fresh"
        )
    return former


def _accepted(
    index: DatasetIndex, files: Mapping[str, ReadFile]
) -> tuple[DatasetIndex, dict[str, list[Any]], tuple[tuple[str, str], ...], tuple[Finding, ...]]:
    """Decide which images are accepted, and put equal pixels into one group.

    Returns:
        The index with groups and folds as they are now; the table of the accepted images; path
        and reason of the others; findings on equal pixels.

    Raises:
        DataError: every image was refused, or every image of a class.
    """
    records = index.records
    reasons = [files[record.path].reason for record in records]
    _refuse_duplicates(records, [files[record.path].sha256 for record in records], reasons)
    refused = {r.path: why for r, why in zip(records, reasons, strict=True) if why}
    if len(refused) == len(records):
        raise DataError(
            f"{index.root}: none of {len(records)} images can be used "
            f"(the first, {visible(records[0].path)}: {reasons[0]})"
        )
    refuse_vanished(index.root, records, refused)
    pixels = {p: f.pixels for p, f in files.items() if f.pixels and p not in refused}
    index, findings = join_equal_pixels(index, pixels)
    kept = [record for record in index.records if record.path not in refused]
    names = ("path", "label", "group", "fold")
    table: dict[str, list[Any]] = {n: [getattr(record, n) for record in kept] for n in names}
    table["sha256"] = [files[record.path].sha256 for record in kept]
    table["bytes"] = [files[record.path].size for record in kept]
    rejects = [*refused.items(), *((reject.path, reject.reason) for reject in index.rejects)]
    return index, table, tuple(rejects), findings


def _fill_moved(run: OnePass, before: DatasetIndex, now: DatasetIndex) -> None:
    """Fill the columns of images that came into the training fold after their pixels were known."""
    known = {record.path for record in before.records if record.fold == "train"}
    moved = [r.path for r in now.records if r.fold == "train" and r.path not in known]
    counted = run.images
    run.fill([ImageFile(now.root / path, training=True) for path in moved])
    run.images = counted  # these images were counted with their other columns


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
                reasons[row] = (
                    f"the same content is labelled {visible(other.label)} in {visible(other.path)}"
                )
        else:
            for row in same[1:]:
                reasons[row] = f"the same content as {visible(first.path)}"
