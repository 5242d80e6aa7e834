"""The chart of growth in a small form: both solvers fit the same synthetic columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from benchmarks.growth import Source, fit
from benchmarks.growth_chart import draw

from leakcache.images.preprocess import PARTS

VALUES, CLASSES = 40, 4


def test_both_solvers_fit_columns_drawn_from_moments(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    targets = np.arange(80) % CLASSES
    classes = rng.normal(size=(CLASSES, VALUES))
    images = classes[targets] + rng.normal(size=(80, VALUES))
    rows = images[:, None] + 0.5 * rng.normal(size=(80, PARTS, VALUES))
    source = Source.of(rows.astype(np.float32), targets)
    source.write(tmp_path / "columns", 64)
    lengths = {"pixels": 10, "activations": VALUES - 10}
    found = [
        fit(tmp_path / "columns", 64, CLASSES, lengths, name) for name in ("exact", "streaming")
    ]
    assert found[0]["held_out"] == found[1]["held_out"]
    assert found[0]["held_out"]["ridge"] > 0.5
    assert all(row["peak_gib"] > 0 and set(row["steps"]) for row in found)
    assert draw(found).count("<circle") == 2 + 2 * len(found)
