"""Full disk, read-only folder, other processes and a wrong clock: then the same command goes on."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Tally
from tests.faults.test_kills import again
from tests.faults.world import (
    COMMANDS,
    SCORE,
    SCORE_IMAGE,
    TRAIN,
    Outcome,
    Stages,
)

WRITING = ("build", "fill", "train", "score", "enroll")
YEAR = 365 * 86400


@pytest.fixture
def disk(stages: Stages, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The world as a file system of its own, in memory."""
    stages.outcome(request.node.callspec.params["command"])  # a mount point cannot be renamed
    mounted = mount(stages.world, "-t", "tmpfs", "-o", "size=64m", "tmpfs")
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.strip()}")
    try:
        yield stages.world
    finally:
        subprocess.run(["umount", "--lazy", str(stages.world)], check=True)


def mount(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["mount", *options, str(folder)]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 1, "", "there is no mount")


def bytes_of(names: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in names if path.is_file())


def fill_up(disk: Path, free: int) -> Path:
    """A file that leaves so many bytes free."""
    ballast = disk / "ballast"
    found = os.statvfs(disk)
    ballast.write_bytes(b"\1" * max(0, found.f_bavail * found.f_frsize - free))
    return ballast


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", WRITING)
def test_a_full_disk_is_said_in_one_line(
    command: str, disk: Path, stages: Stages, rng: random.Random, tally: Tally, full: bool
) -> None:
    if not full and command not in ("build", "train"):
        pytest.skip("the full matrix alone")
    before, argv = COMMANDS[command]
    stages.reset(command)
    after = bytes_of(disk.rglob("*"))
    stages.reset(before)
    written, wrong = after - bytes_of(disk.rglob("*")), []
    for _ in range(6 if full else 1):
        stages.reset(before)
        ballast = fill_up(disk, int(rng.uniform(0, 1) * written))
        outcome = stages.leak.run(disk, *argv)
        ballast.unlink()
        how = "refused" if outcome.refused else "ended" if outcome.code == 0 else "WRONG"
        second, found = again(command, stages)
        tally[command, "full disk", f"{how}, {found}"] += 1
        if how == "WRONG" or found != "then the same":
            wrong.append(f"{how} {found} {outcome.err[-2000:]} {second.err[-2000:]}")
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", WRITING)
def test_a_read_only_folder_is_said_in_one_line(
    command: str, disk: Path, stages: Stages, tally: Tally, full: bool
) -> None:
    if not full and command not in ("fill", "score"):
        pytest.skip("the full matrix alone")
    stages.reset(COMMANDS[command][0])
    assert mount(disk, "-o", "remount,ro").returncode == 0
    outcome = stages.leak.run(disk, *COMMANDS[command][1])
    assert mount(disk, "-o", "remount,rw").returncode == 0
    second, found = again(command, stages)
    how = "refused" if outcome.refused else "WRONG"
    tally[command, "read-only folder", f"{how}, {found}"] += 1
    assert outcome.refused, outcome.err
    assert found == "then the same", second.err


@pytest.mark.parametrize("command", ["train"])
def test_images_are_scored_with_a_read_only_run(
    command: str, disk: Path, stages: Stages, tally: Tally
) -> None:
    stages.reset(command)
    expected = stages.leak.run(disk, *SCORE_IMAGE)
    stages.reset(command)
    assert mount(disk, "-o", "remount,ro").returncode == 0
    outcome = stages.leak.run(disk, *SCORE_IMAGE)
    assert mount(disk, "-o", "remount,rw").returncode == 0
    tally["score IMAGE", "read-only folder", "the same answers"] += 1
    assert outcome.code == 0, outcome.err
    assert outcome.out == expected.out


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", WRITING)
def test_of_two_writers_one_waits_or_is_refused(
    command: str, stages: Stages, tally: Tally, full: bool
) -> None:
    wrong, argv = [], COMMANDS[command][1]
    for _ in range(4 if full else 1):
        stages.outcome(command)
        stages.reset(COMMANDS[command][0])
        both = stages.leak.run_together(stages.world, argv, argv)
        ends = sorted(end(one) for one in both)
        second, found = again(command, stages)
        tally[command, "two writers", f"{' and '.join(ends)}, {found}"] += 1
        if "WRONG" in ends or found != "then the same":
            wrong.append(f"{ends} {found} {both} {second}")
    assert not wrong, "\n\n".join(wrong)


def end(outcome: Outcome) -> str:
    return "ended" if outcome.code == 0 else "refused" if outcome.refused else "WRONG"


BESIDE = {
    "fill and train": ("fill", TRAIN, "train"),
    "train and score": ("train", SCORE, "score"),
    "score and score IMAGE": ("score", SCORE_IMAGE, ""),
    "enroll and score": ("enroll", SCORE, "score"),
}
"""A command that writes, one that reads beside it, and whose output that has."""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("pair", BESIDE)
def test_a_reader_beside_a_writer_is_refused_or_gives_the_same(
    pair: str, stages: Stages, tally: Tally, full: bool
) -> None:
    if not full and pair != "train and score":
        pytest.skip("the full matrix alone")
    writer, argv, name = BESIDE[pair]
    stages.outcome(writer)
    stages.reset("train")
    expected = stages.outcome(name).out if name else stages.leak.run(stages.world, *argv).out
    for _ in range(4 if full else 1):
        stages.reset(COMMANDS[writer][0])
        wrote, read = stages.leak.run_together(stages.world, COMMANDS[writer][1], argv)
        how = end(read)
        if read.code == 0:
            how = "the same" if read.out == expected or "train" in argv else "OTHER FIGURES"
        if "train" in argv:
            shutil.rmtree(stages.world / "runs", ignore_errors=True)  # what the reader wrote
        second, found = again(writer, stages)
        tally[pair, "reader beside a writer", f"{end(wrote)}, {how}, {found}"] += 1
        assert how in ("refused", "the same"), read
        assert found == "then the same", second.err


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", WRITING)
@pytest.mark.parametrize("years", [-10, 10])
def test_times_of_files_change_nothing(
    command: str, years: int, stages: Stages, tally: Tally, full: bool
) -> None:
    if not full and command != "score":
        pytest.skip("the full matrix alone")
    stages.outcome(command)
    stages.reset(COMMANDS[command][0])
    for path in stages.world.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (path.stat().st_mtime + years * YEAR,) * 2)
    outcome, found = again(command, stages)
    tally[command, f"clock {years:+} years", found] += 1
    assert found == "then the same", outcome.err
