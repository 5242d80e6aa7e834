"""Train a tiny model with the processes that torchrun starts, for `test_parallel`.

    torchrun --nproc-per-node 2 parallel_training.py FOLDER [OVERRIDE …]

Every process writes its weights to FOLDER/weightsRANK.safetensors.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import distributed

from leaknet.training.epoch import Stepper
from leaknet.training.parallel import Parallel
from tests.leaknet.model.test_statistics_branch import data
from tests.leaknet.tiny import fit_tiny


def main(folder: Path, overrides: list[str]) -> None:
    parallel = Parallel.join(torch.device("cpu"))
    assert parallel is not None
    steppers, plain = [], Stepper.__init__

    def noted(stepper, *given):
        plain(stepper, *given)
        steppers.append(stepper)

    Stepper.__init__ = noted
    statistics = any(override.startswith("statistics.") for override in overrides)
    found = data() if statistics else None
    fit_tiny(folder / "run", *overrides, data=found, parallel=parallel)
    weights = {
        f"{stepper.branch.name}.{key}": value.clone()
        for stepper in reversed(steppers)  # the first process alone has more, of the fusion
        for key, value in stepper.branch.state_dict().items()
    }
    save_file(weights, folder / f"weights{parallel.rank}.safetensors")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
