"""Two processes train the model that one trains, with the same batches."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from leakcache.errors import TrainingError
from leaknet.training.parallel import Parallel, from_first
from leaknet.training.run_folder import RunFolder
from tests.leaknet.model.test_statistics_branch import PIXELS, data
from tests.leaknet.tiny import fit_tiny

ROOT = Path(__file__).resolve().parents[3]
# 48 images in batches of 9: the last one has 3, and parts differ in size.
SETTINGS = ("train.batch_size=9",)
SHORT = (*SETTINGS, "train.epochs=1", "train.patience=0")
BOTH = (*SHORT, *PIXELS, "statistics.degraded=false")


def train_by_two(folder: Path, *overrides: str) -> list[dict[str, torch.Tensor]]:
    """Train into FOLDER/run; the weights of each process."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = Path(__file__).with_name("parallel_training.py")
    done = subprocess.run(
        [sys.executable, *words, script, folder, *overrides],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [load_file(folder / f"weights{rank}.safetensors") for rank in (0, 1)]


def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    first, second = train_by_two(tmp_path, *SHORT)
    one = fit_tiny(tmp_path / "one", *SHORT)
    assert all(torch.equal(first[key], second[key]) for key in first)
    together = RunFolder(tmp_path / "run")
    (mine,), (theirs,) = one.epochs, together.epochs()
    np.testing.assert_allclose(theirs.loss, mine.loss, rtol=1e-4)
    np.testing.assert_allclose(theirs.val_loss, mine.val_loss, rtol=1e-3)
    stored = load_file(together.weights)
    for key, value in load_file(one.run.weights).items():
        torch.testing.assert_close(stored[key], value, rtol=1e-4, atol=1e-4, msg=key)


def test_closed_forms_are_bit_for_bit_those_of_one_process(tmp_path: Path) -> None:
    first, second = train_by_two(tmp_path, *BOTH)
    assert all(torch.equal(first[key], second[key]) for key in first)
    one = load_file(fit_tiny(tmp_path / "one", *BOTH, data=data()).run.weights)
    stored = load_file(RunFolder(tmp_path / "run").weights)
    closed = [key for key in one if re.match(r"statistics\.(ridge|novelty|directions)", key)]
    assert len(closed) >= 7
    assert all(torch.equal(stored[key], one[key]) for key in closed)
    torch.testing.assert_close(stored, one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("count", "sizes"), [(9, [3, 3, 3]), (10, [3, 3, 4]), (2, [2, 2, 2])])
def test_parts_cover_a_batch_and_their_weights_its_mean(count: int, sizes: list[int]) -> None:
    rows = torch.arange(count)
    parts = [Parallel(rank, 3).part(count) for rank in range(3)]
    assert [len(rows[part]) for part, _ in parts] == sizes
    assert sum(weight for _, weight in parts) == pytest.approx(1)
    means = [float(rows[part].float().mean()) * weight for part, weight in parts]
    assert sum(means) == pytest.approx(float(rows.float().mean()))


def test_one_process_is_not_parallel_and_other_norms_are_refused() -> None:
    assert Parallel.join(torch.device("cpu")) is None
    assert from_first(None, lambda: 3) == 3
    with pytest.raises(TrainingError, match="BatchNorm1d cannot be trained by several"):
        Parallel(0, 2).synchronise(torch.nn.BatchNorm1d(3))
