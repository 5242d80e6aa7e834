"""A build: the part of one process, which computes free units, and the manifest at its end."""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
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
from leakcache.images.archive import image_stat
from leakcache.names import visible
from leakcache.processes import RayPool, keep_freed_memory
from leakcache.progress import Advance
from leakcache.store.build_plan import BuildPlan, Worker
from leakcache.store.column import Column
from leakcache.store.column_store import ColumnStore
from leakcache.store.columns import columns_named
from leakcache.store.manifest import CacheManifest, Encoding, refuse_other_format
from leakcache.store.one_pass import ImageFile, OnePass, ReadFile, StoredUnit, WorkUnit, work_units
from leakcache.store.remote import address

JOIN_WAIT = 60.0
"""Seconds that one of several processes waits for the lock before it starts."""
POLL = 0.5
"""Seconds between two checks of the units of other processes."""


@dataclass(frozen=True)
class Collected:
    """What all processes of a build read.

    Attributes:
        files: in their order.
        computed: number of images of which something was computed.
        relative_error: of reduced precision; None at full precision, or where none was computed.
    """

    files: tuple[ReadFile, ...]
    computed: int
    relative_error: float | None


@dataclass(frozen=True)
class BuildSession:
    """One process's part in a build.

    Attributes:
        store: that is filled.
        files: all files of the build.
        columns: that their images shall have.
        encoding: of the cache.
        encoder: whose latents and activations.
        identity: of the plan; see `plan_identity`.
        worker: number of this process and how many there are; None where it is alone.
        pool: actors that compute in place of this process; None for none.
        advance: called with the number of images done, by whatever process.
    """

    store: ColumnStore
    files: Sequence[ImageFile]
    columns: Sequence[Column]
    encoding: Encoding
    encoder: Encoder
    identity: str
    worker: tuple[int, int] | None
    pool: RayPool | None
    advance: Advance

    def run(self, manifest: Publication) -> OnePass | None:
        """Take part in the build; returns when its manifest is written.

        Args:
            manifest: writes it, in the process that finds all units done.

        Returns:
            What this process computed; None where the build was finished before.

        Raises:
            CacheError: another process writes here, or the disk is full.
            CacheStale: the images were decoded by other libraries.
        """
        alone = self.worker is None
        with self.store.writing(self.identity) if alone else self.store.reporting():
            with self._locked(JOIN_WAIT):
                if not BuildPlan.find(self.store.folder) and not alone and manifest.done():
                    return None
                self._lay_out()
                plan = BuildPlan.enter(self.store.folder, self.identity, self.store.next_number)
            with Worker(plan.folder) as me:
                run = self._one_pass(plan, me)
                try:
                    if self.pool:
                        self._compute_on_actors(plan, run, self.pool)
                    else:
                        self._compute(plan, run, me)
                except FileNotFoundError:
                    # Another process has published meanwhile, because this one was paused.
                    if plan.open:
                        raise
                with self._locked(-1.0):
                    if plan.open:
                        self.store.load()
                        manifest.write(run, self._collect(plan))
                        plan.close()
        return run

    def _one_pass(self, plan: BuildPlan, me: Worker) -> OnePass:
        """The pass of this process, on the store as it was when the plan was made."""
        self.store.load(before=plan.first)
        return OnePass(
            self.store, self.columns, self.encoding, self.encoder, self.advance, plan.staging(me)
        )

    def _locked(self, wait: float) -> AbstractContextManager[None]:
        """The lock of the cache; one process alone holds it all the time."""
        return self.store.writing(self.identity, wait) if self.worker else nullcontext()

    def _lay_out(self) -> None:
        training = any(file.training for file in self.files)
        wanted = [column for column in self.columns if training or not column.training_only]
        self.store.lay_out([column.spec(self.encoding) for column in wanted])

    def _compute(self, plan: BuildPlan, run: OnePass, me: Worker) -> None:
        units = work_units(self.files, self.columns, self.encoding, plan.first)
        number, of = self.worker or (0, 1)
        start = number * len(units) // of
        todo = [*range(start, len(units)), *range(start)]
        while todo and plan.open:
            mine = set[int]()
            for stored in run.run(units[place] for place in plan.unclaimed(todo, me)):
                mine.add(record_unit(plan, run, stored, me))
            others = {place for place in todo if place not in mine and plan.done(place)}
            self.advance(sum(len(units[place].files) for place in others))
            todo = [place for place in todo if place not in mine | others]
            if todo and not mine:
                time.sleep(POLL)

    def _compute_on_actors(
        self,
        plan: BuildPlan,
        run: OnePass,
        pool: RayPool,
        stored: Callable[[WorkUnit], object] = lambda unit: None,
    ) -> None:
        units = work_units(self.files, self.columns, self.encoding, plan.first)
        todo = [place for place in range(len(units)) if not plan.done(place)]
        self.advance(sum(len(u.files) for p, u in enumerate(units) if p not in set(todo)))
        names = [column.name for column in self.columns]
        factory = _ActorFactory(self.store.home, self.files, names, self.encoding, plan)
        for place, (images, computed) in pool.map(factory, todo):
            stored(units[place])
            self.advance(len(units[place].files))
            run.images += images
            for name, count in computed.items():
                run.computed[name] += count

    def _collect(self, plan: BuildPlan) -> Collected:
        units = len(work_units(self.files, self.columns, self.encoding, plan.first))
        records = [plan.done(place) or {} for place in range(units)]
        files = (ReadFile(*file) for record in records for file in record["files"])
        errors = (record["relative_error"] for record in records)
        return Collected(
            tuple(files),
            sum(record["computed"] for record in records),
            next((error for error in errors if error is not None), None),
        )


@dataclass(frozen=True)
class _ActorFactory:
    """Makes the function that an actor computes units with.

    Attributes:
        home, files, columns, encoding: of the build.
        plan: of the build.
    """

    home: Path
    files: Sequence[ImageFile]
    columns: Sequence[str]
    encoding: Encoding
    plan: BuildPlan

    def __call__(self, device: str) -> Callable[[int], tuple[int, dict[str, int]]]:
        """Load the encoder, and show a heartbeat as long as the actor lives."""
        keep_freed_memory()
        columns, store = columns_named(self.columns), ColumnStore(self.home)
        store.load(before=self.plan.first)
        units = work_units(self.files, columns, self.encoding, self.plan.first)
        me = Worker(self.plan.folder).__enter__()
        encoder = self.encoding.encoder(device)
        run = OnePass(
            store, columns, self.encoding, encoder, lambda images: None, self.plan.staging(me)
        )

        def compute(place: int) -> tuple[int, dict[str, int]]:
            before, images = dict(run.computed), run.images
            with store.reporting():
                for stored in run.run([units[place]]):
                    record_unit(self.plan, run, stored, me)
            new = {name: count - before[name] for name, count in run.computed.items()}
            return run.images - images, new

        return compute


def record_unit(plan: BuildPlan, run: OnePass, stored: StoredUnit, me: Worker) -> int:
    """Note that a unit is stored; returns its place in the plan."""
    files = [[file.sha256, file.size, file.reason] for file in stored.files]
    about = {"computed": stored.images, "relative_error": run.relative_error}
    place = stored.unit.number - plan.first
    plan.record(place, {"files": files, **about}, plan.staging(me))
    return place


def plan_identity(
    index: DatasetIndex, files: Sequence[ImageFile], columns: Sequence[Column], encoding: Encoding
) -> str:
    """Hash of all that a build depends on: settings, and images by path, size and time."""
    digest = hashlib.sha256(encoding.fingerprint.encode())
    for column in columns:
        digest.update(column.spec(encoding).fingerprint.encode())
    for record, file in zip(index.records, files, strict=True):
        stat: tuple[int | None, ...] = ()
        with suppress(OSError):
            stat = image_stat(file.path)
        row = [record.path, record.label, record.group, record.fold, *stat]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


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
            "relative_latent_error": error,
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
