"""Run by test_train_kill: train, be killed by SIGKILL, resume, in forks of one process.

A fork costs milliseconds where a new process would import torch for seconds. The parent
computes nothing itself, so that there are no threads to lose.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import scipy.optimize  # noqa: F401  imported by training when it is called: once for all forks
import sklearn.metrics  # noqa: F401
import timm  # noqa: F401
import torch

from leaknet.features.noise import noise_levels
from leaknet.training.run_folder import RunFolder
from tests.leaknet.tiny import fit_tiny, tiny_data

RUNS = 5
KILLS = 4


def train(folder: Path) -> None:
    torch.set_num_threads(1)
    settings = ("train.epochs=8", "train.patience=0", "latents.time_dropout=0.3")
    fit_tiny(folder, *settings, data=tiny_data(count=32))


def in_fork(work: Callable[[], None]) -> int:
    """Start `work` in a child that ends without cleaning up; its process id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def finish(folder: Path) -> float:
    """Train to the end; the seconds it took."""
    start = time.perf_counter()
    _, status = os.waitpid(in_fork(lambda: train(folder)), 0)
    assert status == 0, f"training in {folder} ended with {status}"
    return time.perf_counter() - start


def kill_after(folder: Path, seconds: float) -> bool:
    """Train, and kill after some time; whether the kill came before the end."""
    child = in_fork(lambda: train(folder))
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main(root: Path) -> None:
    chance = random.Random(0)
    noise_levels("cosine", (0,))  # imports diffusers once, for all forks
    whole = finish(root / "whole")
    expected = (root / "whole" / "model.safetensors").read_bytes()
    names = sorted(path.name for path in (root / "whole").iterdir())
    killed, resumed, equal = 0, 0, []
    for number in range(RUNS):
        folder = root / f"run{number}"
        for _ in range(KILLS):
            killed += kill_after(folder, chance.uniform(0, whole / 3))
            resumed += RunFolder(folder).checkpoint.is_file()
        finish(folder)
        assert sorted(path.name for path in folder.iterdir()) == names
        equal.append((folder / "model.safetensors").read_bytes() == expected)
    print(json.dumps({"killed": killed, "resumed": resumed, "equal": equal}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
