"""One process's part in a build of a cache in an object store.

There are no claims: a process computes its own part first, then, in random order, what nobody has
uploaded. So nobody waits for a process that is slow or dead; what two compute is the same.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count, takewhile
from pathlib import Path

from leakcache.distributed.plan import FOLDER, BuildPlan
from leakcache.distributed.worker import Worker
from leakcache.errors import CacheBusy
from leakcache.store.one_pass import OnePass, WorkUnit, work_units
from leakcache.store.remote import Mirror
from leakcache.store.remote_plan import RemotePlan
from leakcache.store.session import BuildSession, Manifest, record_unit


class _Finished(Exception):
    """All units are uploaded, or the plan is closed."""


@dataclass(frozen=True)
class RemoteSession(BuildSession):
    """One process's part in a build; it alone writes to its mirror.

    Attributes:
        mirror: of the cache.
    """

    mirror: Mirror

    def run(self, manifest: Manifest) -> OnePass | None:
        """Take part in the build; see `BuildSession.run`.

        Raises:
            CacheBusy: a build of other images or settings has begun there meanwhile.
            CacheError: the store cannot be reached or refuses, or the disk is full.
            CacheStale: the images were decoded by other libraries.
        """
        with self.store.writing(self.identity):
            if self.worker and not RemotePlan.there(self.mirror, self.identity):
                self.mirror.refresh()
                if manifest.done():
                    return None
            units = len(self._all_units(0))
            remote = RemotePlan.enter(self.mirror, self.identity, units, self._next_number)
            plan = self._copy(remote)
            with Worker(plan.folder) as me:
                computing = True

                def advance(images: int) -> None:
                    self.advance(images)
                    # Others may have finished what this process is in the middle of.
                    if computing and not remote.pull(plan, plan.staging(me)):
                        raise _Finished

                run = replace(self, advance=advance)._one_pass(plan, me)
                try:
                    with suppress(_Finished):
                        self._compute_and_upload(plan, remote, run, me)
                finally:
                    computing = False
                    remote.wait()
                self._publish(plan, remote, run, manifest)
        return run

    def _next_number(self) -> int:
        self.store.load()
        return self.store.next_number

    def _copy(self, remote: RemotePlan) -> BuildPlan:
        """A local plan; what the mirror alone has of before is uploaded."""
        shutil.rmtree(self.store.folder / FOLDER, ignore_errors=True)
        self.store.load(before=remote.first)
        self.store.refuse_other_decoder()
        self._lay_out()
        files = [file for column in self.store.columns.values() for file in column.metadata]
        files += [file for number in self.store.numbers for file in self.store.files(number)]
        self.mirror.uploaded += self.mirror.upload(file for file in files if file.is_file())
        return BuildPlan.enter(self.store.folder, self.identity, remote.first)

    def _compute_and_upload(
        self, plan: BuildPlan, remote: RemotePlan, run: OnePass, me: Worker
    ) -> None:
        def upload(unit: WorkUnit) -> None:
            place = unit.number - plan.first
            remote.push(place, self._files(unit), plan.done(place) or {})

        if self.pool:
            remote.pull(plan, plan.staging(me))
            self._compute_on_actors(plan, run, self.pool, upload)
        else:
            for stored in run.run(self._units(plan, remote, me)):
                record_unit(plan, run, stored, me)
                upload(stored.unit)

    def _units(self, plan: BuildPlan, remote: RemotePlan, me: Worker) -> Iterator[WorkUnit]:
        """Units that nobody has uploaded, as far as is known when each is asked for."""
        units = self._all_units(plan.first)
        number, of = self.worker or (0, 1)
        own = range(number * len(units) // of, (number + 1) * len(units) // of)
        others = [place for place in range(len(units)) if place not in own]
        random.Random(number).shuffle(others)
        for place in (*own, *others):
            if not remote.pull(plan, plan.staging(me)):
                return
            if plan.done(place):
                self.advance(len(units[place].files))
            else:
                yield units[place]

    def _all_units(self, first: int) -> list[WorkUnit]:
        return work_units(self.files, self.columns, self.encoding, first)

    def _files(self, unit: WorkUnit) -> list[Path]:
        commits = map(self.store.files, count(unit.number, unit.step))
        return [file for files in takewhile(bool, commits) for file in files]

    def _publish(
        self, plan: BuildPlan, remote: RemotePlan, run: OnePass, manifest: Manifest
    ) -> None:
        try:
            if remote.open:
                self.mirror.refresh()
                self.store.load()
                manifest.write(run, self._collect(plan))
                remote.close()
                return
        except CacheBusy:  # another process has published at the same time
            pass
        finally:
            plan.close()
        remote.clear()  # this process may have noted a unit since
        self.mirror.refresh()
        if not manifest.done():
            raise CacheBusy(
                f"{self.mirror.url}: a build of other images (by path, size and time of change) or "
                "settings has begun there; run this one again when that has ended"
            )
