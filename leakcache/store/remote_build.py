"""A build of a cache in an object store, by processes that share nothing else.

URL/store/plan/plan.json       what is built, the first commit, and the name of the plan
URL/store/plan/NAME/000007     what was read of unit 7; its shards and commits are there before

Each process builds in a mirror of its own and uploads every unit that it has finished. There are no
claims: a process computes its own part first, then, in random order, what nobody has uploaded. So
nobody waits for a process that is slow or dead; what two compute is the same.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count, takewhile
from pathlib import Path
from secrets import token_hex
from typing import Any

from leakcache.errors import CacheBusy
from leakcache.files import parse_json
from leakcache.store.build_plan import FILE, FOLDER, BuildPlan, Worker
from leakcache.store.column_store import STORE
from leakcache.store.object_store import on_threads
from leakcache.store.one_pass import OnePass, WorkUnit, work_units
from leakcache.store.remote import Mirror
from leakcache.store.session import BuildSession, Publication, record_unit

FOLDER_KEY = f"{STORE}/{FOLDER}"
KEY = f"{FOLDER_KEY}/{FILE}"
_KINDS: dict[str, Callable[[Any], Any]] = {"identity": str, "name": str, "first": int}
PULL = 5.0
"""Seconds between two listings of what others have uploaded."""
PENDING = 4
"""Units that are uploaded at once, while the next one is computed."""


class RemotePlan:
    """A plan in an object store.

    Attributes:
        first: number of the first commit of the build.
        units: how many units it has.
    """

    def __init__(self, mirror: Mirror, name: str, first: int, units: int) -> None:
        self.first, self.units = first, units
        self._mirror, self._name, self._pulled = mirror, name, -PULL
        self._executor = ThreadPoolExecutor(PENDING)
        self._pending: deque[Future[int]] = deque()

    @classmethod
    def enter(
        cls, mirror: Mirror, identity: str, units: int, first: Callable[[], int]
    ) -> RemotePlan:
        """The plan of this identity that is there, or a new one in place of any other.

        The mirror is brought up to date: it has all commits before the first one of the plan.

        Args:
            mirror: of the cache.
            identity: hash of everything that the result depends on.
            units: how many it has.
            first: gives the number of the first commit of a new plan.

        Raises:
            CacheError: the store cannot be reached or refuses; says why.
        """
        while True:
            found, version = _read(mirror)
            mirror.refresh()
            if found.get("identity") != identity:
                old = found.get("name")
                # Its first commit is chosen afterwards, when no other plan can end any more.
                found = {"identity": identity, "name": token_hex(8), "first": -1}
            elif found["first"] < 0:
                old, found["first"] = None, first()
            else:
                return cls(mirror, found["name"], found["first"], units)
            try:
                mirror.objects.put(KEY, json.dumps(found).encode(), version)
            except CacheBusy:  # another process was faster: see what it has written
                continue
            if old:
                mirror.objects.delete(mirror.objects.list(f"{FOLDER_KEY}/{old}"))

    @staticmethod
    def there(mirror: Mirror, identity: str) -> bool:
        """Whether the plan of this identity is in the store."""
        return _read(mirror)[0].get("identity") == identity

    @property
    def open(self) -> bool:
        """Whether nobody has finished or replaced it."""
        return _read(self._mirror)[0].get("name") == self._name

    def pull(self, plan: BuildPlan, staging: Path) -> bool:
        """Note in the local plan which units others have uploaded, at most every few seconds.

        Returns:
            Whether there may be something to do: the plan is open, and units are missing.

        Raises:
            CacheError: the store cannot be reached or refuses; says why.
        """
        if time.monotonic() - self._pulled < PULL:
            return True
        if not self.open:
            return False
        keys = self._mirror.objects.list(self._folder)
        units = [int(name) for key in keys if (name := key.rpartition("/")[2]).isdecimal()]

        def note(unit: int) -> None:
            content, _ = self._mirror.objects.read(self._key(unit))
            plan.record(unit, json.loads(content), staging)

        on_threads(note, [unit for unit in units if not plan.done(unit)])
        if len(units) < self.units:
            self._pulled = time.monotonic()
        return len(units) < self.units

    def push(self, unit: int, files: Sequence[Path], content: dict[str, Any]) -> None:
        """Upload a unit beside the next computation; raises what an earlier upload met.

        Args:
            unit: its number.
            files: shards and commits.
            content: what was read of it.
        """
        while len(self._pending) >= PENDING:
            self._mirror.uploaded += self._pending.popleft().result()
        self._pending.append(self._executor.submit(self._push, unit, files, content))

    def wait(self) -> None:
        """Wait for all uploads, and note in the mirror what was uploaded; raises as `push`."""
        try:
            while self._pending:
                self._mirror.uploaded += self._pending.popleft().result()
        finally:
            self._executor.shutdown(cancel_futures=True)
            self._mirror.save()

    def close(self) -> None:
        """Upload what is left, the manifest last, and delete the plan.

        Raises:
            CacheBusy: another process has written the manifest meanwhile.
            CacheError: the store cannot be reached or refuses; says why.
        """
        files = (path for path in self._mirror.folder.rglob("*") if path.is_file())
        try:
            self._mirror.uploaded += self._mirror.upload(files, lambda: self.open)
        finally:
            self._mirror.save()
        self._mirror.objects.delete([KEY])
        self.clear()

    def clear(self) -> None:
        """Delete what was noted of units of a plan that is closed."""
        self._mirror.objects.delete(self._mirror.objects.list(self._folder))

    def _push(self, unit: int, files: Sequence[Path], content: dict[str, Any]) -> int:
        if not self.open:
            return 0
        count = self._mirror.upload(files, lambda: self.open)
        with suppress(CacheBusy):  # another process has computed the same
            self._mirror.objects.put(self._key(unit), json.dumps(content).encode(), "")
        return count

    @property
    def _folder(self) -> str:
        return f"{FOLDER_KEY}/{self._name}"

    def _key(self, unit: int) -> str:
        return f"{self._folder}/{unit:06d}"


def _read(mirror: Mirror) -> tuple[dict[str, Any], str]:
    """The plan in the store, and its version; empty where there is none that can be read."""
    content, version = mirror.objects.read(KEY)
    try:
        found = parse_json(content.decode())
        known = {name: kind(found[name]) for name, kind in _KINDS.items()}
    except (ValueError, KeyError, TypeError):
        return {}, version
    return known, version


class _Finished(Exception):
    """All units are uploaded, or the plan is closed."""


@dataclass(frozen=True)
class RemoteSession(BuildSession):
    """One process's part in a build; it alone writes to its mirror.

    Attributes:
        mirror: of the cache.
    """

    mirror: Mirror

    def run(self, manifest: Publication) -> OnePass | None:
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
        self, plan: BuildPlan, remote: RemotePlan, run: OnePass, manifest: Publication
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
