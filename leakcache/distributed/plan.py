"""The plan of a build on disk: which units it has, where they are stored, which are done.

STORE/plan/plan.json       what is built, and the first commit of the build
STORE/plan/done/000007     what was read of unit 7; it is stored before this file appears
STORE/plan/staging/TOKEN/  files that a process has not finished
STORE/plan/workers/ and claims/   see `leakcache.distributed.worker`

The first commit is fixed when the plan is made, and from there each unit has commits and shards of
its own: whoever computes a unit, in whatever order, writes the same bytes to the same places.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leakcache.distributed.worker import Worker, living
from leakcache.errors import CacheError
from leakcache.files import read_checked, write_checked

FOLDER = "plan"
FILE = "plan.json"


@dataclass(frozen=True)
class BuildPlan:
    """A plan that is not finished.

    Attributes:
        folder: where it is kept.
        identity: hash of everything that the result depends on.
        first: number of the first commit of the build.
    """

    folder: Path
    identity: str
    first: int

    @classmethod
    def find(cls, store: Path) -> BuildPlan | None:
        """The plan in the folder of a store; None where there is none that can be read."""
        try:
            return cls(store / FOLDER, **read_checked(store / FOLDER / FILE))
        except (OSError, ValueError, TypeError):
            return None

    @classmethod
    def enter(cls, store: Path, identity: str, first: int) -> BuildPlan:
        """The plan of this identity that is there, or a new one.

        Call it with the lock of the cache; raises as `close_other_plan`.
        """
        close_other_plan(store, identity)
        if found := cls.find(store):
            return found
        plan = cls(store / FOLDER, identity, first)
        (plan.folder / "done").mkdir(parents=True, exist_ok=True)
        write_checked(plan.folder / FILE, {"identity": identity, "first": first})
        return plan

    @property
    def open(self) -> bool:
        """Whether nobody has finished or replaced it."""
        return BuildPlan.find(self.folder.parent) == self

    def close(self) -> None:
        """Remove it; call it with the lock of the cache."""
        (self.folder / FILE).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def staging(self, worker: Worker) -> Path:
        """Folder for files that this process has not finished; it is gone with the plan."""
        folder = self.folder / "staging" / worker.token
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def done(self, unit: int) -> dict[str, Any] | None:
        """What was noted of a unit; None where it is not stored yet."""
        try:
            found: dict[str, Any] = json.loads(self._record(unit).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # empty after a loss of power: it is computed again
            return None
        return found

    def record(self, unit: int, content: Mapping[str, Any], staging: Path) -> None:
        """Note that a unit is stored."""
        partial = staging / f"{unit:06d}"
        partial.write_text(json.dumps(content), encoding="utf-8")
        partial.replace(self._record(unit))

    def unclaimed(self, todo: Sequence[int], worker: Worker) -> Iterator[int]:
        """Units of a list that this process may compute, each claimed when it is asked for."""
        for unit in todo:
            # The second look is for a unit that was stored between the first one and the claim.
            if not self.done(unit) and worker.claim(f"{unit:06d}") and not self.done(unit):
                yield unit

    def _record(self, unit: int) -> Path:
        return self.folder / "done" / f"{unit:06d}"


def close_other_plan(store: Path, identity: str = "") -> None:
    """Remove a plan of another identity that nobody works on; call it with the cache's lock.

    Raises:
        CacheError: processes work on it.
    """
    found = BuildPlan.find(store)
    if found and found.identity == identity:
        return
    folder = store / FOLDER
    if workers := living(folder):
        raise CacheError(
            f"{store.parent}: a build of other images or settings is running here, in {workers} "
            "processes; wait for it or stop it"
        )
    shutil.rmtree(folder, ignore_errors=True)
