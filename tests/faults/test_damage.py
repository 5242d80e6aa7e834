"""A damaged or missing file of a cache or run: refused in one line, or the figures are the same."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Tally
from tests.faults.world import (
    BUILD,
    CACHE,
    ENROLL,
    SCORE,
    SCORE_IMAGE,
    TRAIN,
    Outcome,
    Stages,
    content,
)

RUN_FILES = (
    "config.toml",
    "classes.json",
    "model.safetensors",
    "history.jsonl",
    "embeddings.h5",
    "unknown.h5",
    "scorers.safetensors",
    "calibration.safetensors",
    "metrics.json",
    "scores.csv",
    "range.json",
    "checksums.json",
)
CACHE_FILES = (
    "closed/manifest.json",
    "open-unknown/manifest.json",
    "store/columns/*/column.json",
    "store/columns/*/values.zarr/zarr.json",
    "store/columns/*/values.zarr/c/0/**/0",
    "store/columns/*/values.zarr/c/3/**/0",
    "store/commits/000000.json",
    "store/commits/000003.json",
)
"""Shard and commit 0 are of the closed set, 3 of the open set."""
RESULT_FILES = ("evaluation.json", "checksums.json")
VERSION_FILES = ("enrolment.json", "embeddings.h5", "model.safetensors", "history.jsonl")

SCORE_VERSION = ("score", "--run", "runs/r@2", "--json")
REPORT = ("report", "runs/r")
REPORT_RESULTS = ("report", "eval/seed0")
UNDO = ("enroll", "--undo", "--run", "runs/r@2")
TRAIN_OTHER = tuple(word.replace("runs/r", "runs/q") for word in TRAIN)
VERIFY = ("cache", "verify", "--spot", "4", "--json")
RUNS, INFO = ("runs", "--json"), ("cache", "info", "--json")
READERS = {
    "run": (SCORE, SCORE_IMAGE, REPORT, ENROLL, RUNS),
    "cache": (SCORE, TRAIN_OTHER, VERIFY, INFO),
    "version": (SCORE_VERSION, UNDO),
    "evaluation": (REPORT_RESULTS,),
}
LISTINGS = (RUNS, INFO, VERIFY, REPORT, REPORT_RESULTS)
"""Commands that show what is there: of what was deleted they say nothing."""
CURE = re.compile(r"again|restore|--repair|delete|leak cache build|leak train|leak score")
Fault = Callable[[Path, random.Random], None]


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.choice((0, rng.randrange(len(data)), len(data) - 1))])


def delete(path: Path, rng: random.Random) -> None:
    path.unlink()


COUNTS: dict[Fault, int] = {flip: 14, truncate: 5, delete: 2}
"""Tries of the full matrix on each file."""


class Reading:
    """What each reader gives of undamaged files, and of damaged ones."""

    def __init__(self, stages: Stages) -> None:
        self._stages, self._expected = stages, dict[tuple[str, ...], str]()

    def of(self, argv: tuple[str, ...], before: str) -> tuple[Outcome, str]:
        """What a command did, and everything that it gave."""
        leak, world = self._stages.leak, self._stages.world
        outcome = leak.run(world, *argv)
        return outcome, result(argv, outcome, world)

    def expected(self, argv: tuple[str, ...], before: str) -> str:
        """What the command gives where nothing is damaged."""
        if argv not in self._expected:
            prepare(self._stages, before)
            outcome, self._expected[argv] = self.of(argv, before)
            assert outcome.code == 0, outcome.err
        return self._expected[argv]


def result(argv: tuple[str, ...], outcome: Outcome, world: Path) -> str:
    """Everything that a command gave but times: its figures, weights or page."""
    if argv == TRAIN_OTHER and outcome.code == 0:
        return hashlib.sha256((world / "runs/q/model.safetensors").read_bytes()).hexdigest()
    if argv[0] == "report" and outcome.code == 0:
        return content(world / argv[1])["report.html"]
    return outcome.out


def prepare(stages: Stages, kind: str) -> None:
    """The world that holds files of this kind, where every command reads them."""
    stages.reset({"version": "enroll", "evaluation": "evaluate"}.get(kind, "score"))
    if kind == "cache":  # kept embeddings would do without the cache
        for name in ("embeddings.h5", "unknown.h5", "metrics.json", "scores.csv"):
            (stages.world / "runs/r" / name).unlink()


@pytest.fixture(scope="module")
def reading(stages: Stages) -> Reading:
    return Reading(stages)


def cases(full: bool) -> Iterator[tuple[str, str, Fault, tuple[str, ...]]]:
    """Kind and pattern of a file, what happens to it, and who reads it."""
    folders = {
        "run": RUN_FILES,
        "cache": CACHE_FILES,
        "version": VERSION_FILES,
        "evaluation": RESULT_FILES,
    }
    number = 0
    for kind, patterns in folders.items():
        readers = READERS[kind]
        for pattern in patterns:
            faults = [fault for fault, count in COUNTS.items() for _ in range(count)]
            for fault in faults if full else [list(COUNTS)[number % len(COUNTS)]]:
                number += 1
                able = [one for one in readers if fault is not delete or one not in LISTINGS]
                if "/c/" in pattern:  # it tells the size of a shard, and reads none
                    able = [one for one in able if one != INFO]
                if able:
                    yield kind, pattern, fault, able[number % len(able)]


@pytest.mark.timeout(7200)
def test_damage_is_refused_or_changes_no_figure(
    stages: Stages, reading: Reading, rng: random.Random, tally: Tally, full: bool
) -> None:
    wrong = []
    for kind, pattern, fault, argv in cases(full):
        expected = reading.expected(argv, kind)
        prepare(stages, kind)
        path = only(stages.world, kind, pattern)
        fault(path, rng)
        outcome, found = reading.of(argv, kind)
        what = classified(outcome, found, expected, path)
        tally[f"{kind} {pattern}", fault.__name__, what] += 1
        if what not in ("refused", "the same figures"):
            wrong.append(f"{path} {fault.__name__} {argv}: {what}: {outcome.code} {outcome.err}")
    assert not wrong, "\n\n".join(wrong)


def only(world: Path, kind: str, pattern: str) -> Path:
    """The file of a pattern."""
    folders = {"run": "runs/r", "cache": CACHE, "version": "runs/r@2", "evaluation": "eval"}
    (path,) = (path for path in (world / folders[kind]).glob(pattern) if path.is_file())
    return path


def classified(outcome: Outcome, found: str, expected: str, path: Path) -> str:
    """What a damaged file led to, in words."""
    if outcome.code == 0:
        return "the same figures" if found == expected else "OTHER FIGURES"
    text = outcome.err + outcome.out
    if outcome.code == 1 and '"ok": false' in outcome.out:  # `leak cache verify` lists damage
        return "refused"
    if not outcome.refused:
        return "NO REFUSAL"
    if not any(name in text for name in (path.name, *path.parts[-5:-1])):
        return "NO NAME"
    return "refused" if CURE.search(text) else "NO CURE"


@pytest.mark.timeout(3600)
def test_repair_gives_the_same_figures(
    stages: Stages, reading: Reading, rng: random.Random, tally: Tally, full: bool
) -> None:
    wrong = []
    for number, pattern in enumerate(CACHE_FILES * 3 if full else CACHE_FILES[4:5]):
        fault = list(COUNTS)[number % len(COUNTS)]
        expected = reading.expected(SCORE, "cache")
        prepare(stages, "cache")
        path = only(stages.world, "cache", pattern)
        fault(path, rng)
        repaired = stages.leak.run(stages.world, *BUILD, "--repair")
        outcome, found = reading.of(SCORE, "cache")
        same = repaired.code == outcome.code == 0 and found == expected
        what = "the same figures after --repair" if same else "WRONG after --repair"
        tally[f"cache {pattern}", fault.__name__, what] += 1
        if not same:
            wrong.append(f"{path} {fault.__name__}: {repaired.err} {outcome.err}")
    assert not wrong, "\n\n".join(wrong)
