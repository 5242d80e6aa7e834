"""The plan of a build in an object store, for processes that share nothing else.

URL/store/plan/plan.json       what is built, the first commit, and the name of the plan
URL/store/plan/NAME/000007     what was read of unit 7; its shards and commits are there before

Each process builds in a mirror of its own and uploads every unit that it has finished.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from leakcache.distributed.plan import FILE, FOLDER, BuildPlan
from leakcache.errors import CacheBusy
from leakcache.files import parse_json
from leakcache.store.column_store import STORE
from leakcache.store.object_store import on_threads
from leakcache.store.remote import Mirror

FOLDER_KEY = f"{STORE}/{FOLDER}"
KEY = f"{FOLDER_KEY}/{FILE}"
_KINDS: dict[str, Callable[[Any], Any]] = {"identity": str, "name": str, "first": int}
PULL = 5.0
"""Seconds between two looks at what others have uploaded."""
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
