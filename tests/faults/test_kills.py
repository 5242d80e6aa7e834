"""Killed and interrupted at random moments, a command run again gives what it gives unkilled."""

from __future__ import annotations

import random
import signal

import pytest

from tests.faults.conftest import Tally
from tests.faults.world import COMMANDS, SCORE, TRAIN, Outcome, Stages, state

NEXT = {"build": ("train", TRAIN), "fill": ("train", TRAIN), "train": ("score", SCORE)}
"""What reads the result of a command, which it may have left unfinished."""
SAMPLE = {"build": 3, "fill": 2, "train": 3, "score": 2, "enroll": 2, "evaluate": 1}


@pytest.mark.timeout(5400)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_killed_command_run_again_gives_the_same(
    command: str, stages: Stages, rng: random.Random, tally: Tally, full: bool
) -> None:
    wrong = []
    for number in range(36 if full else SAMPLE[command]):
        killed = stopped(command, stages, rng, signal.SIGKILL)
        if command in NEXT and number % 3 == 0:
            wrong += reader_after(command, stages, tally)
        outcome, found = again(command, stages)
        tally[command, "SIGKILL", f"{'killed' if killed.code < 0 else 'ended'}, {found}"] += 1
        if found != "then the same":
            wrong.append(f"try {number}: {found} {outcome.err[-2000:]}")
    assert not wrong


@pytest.mark.timeout(5400)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupted_command_says_so_in_one_line_and_goes_on(
    command: str,
    number: signal.Signals,
    stages: Stages,
    rng: random.Random,
    tally: Tally,
    full: bool,
) -> None:
    wrong = []
    for _ in range(5 if full else 1):
        stop = stopped(command, stages, rng, number)
        how = "interrupted" if stop.interrupted else "ended" if stop.code == 0 else "WRONG"
        if stop.code == -number and not stop.out + stop.err:  # before `leak` could catch it
            how = "killed at its start"
        outcome, found = again(command, stages)
        tally[command, number.name, f"{how}, {found}"] += 1
        if how == "WRONG" or found != "then the same":
            wrong.append(f"{how} {found} {stop.code} {stop.err[-2000:]} {outcome.err[-2000:]}")
    assert not wrong


def stopped(command: str, stages: Stages, rng: random.Random, number: signal.Signals) -> Outcome:
    """What the command did that got a signal at a random moment of its run."""
    before, argv = COMMANDS[command]
    after = rng.uniform(0, 1.05) * stages.outcome(command).seconds
    stages.reset(before)
    return stages.leak.run(stages.world, *argv, signal=number, after=after)


def again(command: str, stages: Stages) -> tuple[Outcome, str]:
    """Run the command once more; whether all files are then as after one run."""
    outcome = stages.leak.run(stages.world, *COMMANDS[command][1])
    if outcome.code:
        return outcome, f"then exit {outcome.code}"
    expected, found = dict(stages.state(command)), state(stages.world)
    if command == "enroll":  # each that comes to its end makes another version, of equal content
        newest = max(name.split("/")[1] for name in found if name.startswith("runs/r@"))
        found = {
            name.replace(newest, "r@2"): value
            for name, value in found.items()
            if not name.startswith("runs/r@") or name.startswith(f"runs/{newest}/")
        }
    differing = [n for n in sorted({*expected, *found}) if expected.get(n) != found.get(n)]
    return outcome, f"then other files: {differing}" if differing else "then the same"


def reader_after(command: str, stages: Stages, tally: Tally) -> list[str]:
    """What the command that reads an unfinished result does: refuse, or give the same."""
    reader, argv = NEXT[command]
    stages.keep("stopped")
    outcome = stages.leak.run(stages.world, *argv)
    found = "refused" if outcome.refused else "WRONG"
    if outcome.code == 0:
        expected = stages.outcome(reader).out
        found = "the same" if outcome.out == expected or reader == "train" else "WRONG"
        if reader == "train":
            weights = "runs/r/model.safetensors"
            same = state(stages.world)[weights] == stages.state("train")[weights]
            found = "the same" if same else "WRONG"
    stages.reset("stopped")
    tally[f"{reader} after a killed {command}", "SIGKILL", found] += 1
    return [f"{reader} after {command}: {outcome}"] if found == "WRONG" else []
