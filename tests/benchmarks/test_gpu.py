"""The benchmark of a GPU runs through on a CPU, in a tiny form."""

from __future__ import annotations

from pathlib import Path

import torch
from benchmarks.gpu import measure
from tiny_data import save, tiny_model


def test_every_goal_is_measured(tmp_path: Path) -> None:
    weights = save(tiny_model(), tmp_path / "tiny")
    found = measure(torch.device("cpu"), str(weights), images=2, side=96, batch=2)
    for name in ("build_z0", "build_best"):
        assert found[name]["of_bare_encoder"] > 0
    assert found["bottleneck"] in found["stages"]
    assert min(found["stages"].values()) > 0
    parts = [operation["part"] for operation in found["operations"]]
    assert min(parts) > 0
    assert sum(parts) <= 1 + 1e-6
    assert found["train"]["images_per_second"] > 0
