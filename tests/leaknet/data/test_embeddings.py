from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from leakcache.errors import RunError, ScoringError
from leaknet.data.embeddings import Embeddings

N = 6
COLUMNS = ("vectors", "logits", "attention", "labels", "groups", "folds", "hashes", "paths")


def build(**changes: Any) -> Embeddings:
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "vectors": rng.standard_normal((N, 4)),
        "logits": rng.standard_normal((N, 2)),
        "attention": np.full((N, 3), 1 / 3),
        "labels": np.array(["a", "b", "a", "b", "strange", "a"]),
        "groups": np.array([f"prompt {i}" for i in range(N)]),
        "folds": np.array(["train", "train", "val", "test", "open", "open"]),
        "hashes": np.array([f"{i:064x}" for i in range(N)]),
        "paths": np.array([f"été/{i}.png" for i in range(N)]),
        "classes": ("a", "b"),
        "run": "runs/one",
        "seed": 7,
    }
    return Embeddings(**columns | changes)


def with_value(name: str, row: int, value: Any) -> dict[str, np.ndarray]:
    column = getattr(build(), name).astype(object if isinstance(value, str) else np.float64)
    column[row] = value
    return {name: column.astype(np.str_) if isinstance(value, str) else column}


def test_survives_a_round_trip(tmp_path: Path) -> None:
    e = build()
    e.save(tmp_path / "embeddings.h5")
    again = Embeddings.load(tmp_path / "embeddings.h5")
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(again, name), getattr(e, name))
        assert getattr(again, name).dtype == getattr(e, name).dtype
    assert (again.classes, again.run, again.seed) == (("a", "b"), "runs/one", 7)
    assert sorted(p.name for p in tmp_path.glob("[!.]*")) == ["checksums.json", "embeddings.h5"]


def test_an_empty_selection_survives_a_round_trip(tmp_path: Path) -> None:
    none = build().take(np.zeros(N, dtype=bool))
    none.save(tmp_path / "none.h5")
    again = Embeddings.load(tmp_path / "none.h5")
    assert len(again) == 0
    assert again.vectors.shape == (0, 4)


def test_selects_folds_and_rows() -> None:
    e = build()
    assert e.select("open").labels.tolist() == ["strange", "a"]
    assert e.select("open").targets.tolist() == [-1, 0]
    assert len(e.select("train")) == 2
    assert e.take(np.array([3, 0])).paths.tolist() == ["été/3.png", "été/0.png"]
    with pytest.raises(ScoringError, match="no fold is called 'closed'"):
        e.select("closed")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["vectors", "logits", "attention"])
def test_names_the_first_image_that_is_not_finite(name: str, value: float) -> None:
    with pytest.raises(ScoringError, match=rf"{name} of été/2\.png .*\(1 images"):
        build(**with_value(name, 2, value))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (with_value("labels", 2, "strange"), "'strange' is not a class of this run"),
        (with_value("folds", 1, "holdout"), "unknown fold 'holdout'"),
        ({"classes": ("a", "a")}, "differ from one another"),
    ],
)
def test_refuses_labels_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ScoringError, match=message) as caught:
        build(**changes)
    assert "\n" not in str(caught.value)


def test_refuses_files_that_are_not_its_own(tmp_path: Path) -> None:
    path = tmp_path / "embeddings.h5"
    with pytest.raises(RunError, match="does not exist"):
        Embeddings.load(path)
    path.write_bytes(b"not HDF5 at all")
    with pytest.raises(RunError, match="damaged"):
        Embeddings.load(path)
    with h5py.File(path, "w") as file:
        file.attrs["format"] = "other"
    with pytest.raises(RunError, match="not in the format"):
        Embeddings.load(path)


@pytest.mark.parametrize(
    ("name", "replacement", "error", "message"),
    [
        ("vectors", np.zeros((N - 1, 4), np.float32), ScoringError, "differ in length"),
        ("logits", np.zeros((N, 3), np.float32), ScoringError, "3 classes came with 2"),
        ("attention", np.zeros(N, np.float32), ScoringError, "must be tables"),
        ("attention", None, RunError, "damaged"),
    ],
)
def test_refuses_files_that_were_tampered_with(
    tmp_path: Path, name: str, replacement: np.ndarray | None, error: type, message: str
) -> None:
    path = tmp_path / "embeddings.h5"
    build().save(path)
    with h5py.File(path, "a") as file:
        del file[name]
        if replacement is not None:
            file[name] = replacement
    (tmp_path / "checksums.json").unlink()
    with pytest.raises(error, match=message):
        Embeddings.load(path)
