"""One process's part in a build: it computes free units, and waits for those of other processes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from leakcache.columns.column import Column
from leakcache.columns.table import columns_named
from leakcache.dataset.index import DatasetIndex
from leakcache.encoder.autoencoder import Encoder
from leakcache.images.archive import image_stat
from leakcache.processes import RayPool, keep_freed_memory
from leakcache.progress import Advance
from leakcache.store.build_plan import BuildPlan, Worker
from leakcache.store.column_store import ColumnStore
from leakcache.store.manifest import Encoding
from leakcache.store.one_pass import (
    ImageFile,
    OnePass,
    ReadFile,
    StoredUnit,
    WorkUnit,
    work_units,
)

JOIN_WAIT = 60.0
"""Seconds that one of several processes waits for the lock before it starts."""
POLL = 0.5
"""Seconds between two looks at units of other processes."""


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


@runtime_checkable
class Manifest(Protocol):
    """The manifest that a build ends with."""

    def done(self) -> bool:
        """Whether another process has written the manifest of this very build."""

    def write(self, run: OnePass, collected: Collected) -> None:
        """Write it; called with the lock of the cache."""


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

    def run(self, manifest: Manifest) -> OnePass | None:
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
                plan = self._enter()
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

    def _enter(self) -> BuildPlan:
        self._lay_out()
        return BuildPlan.enter(self.store.folder, self.identity, self.store.next_number)

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
