"""What can be known before the work is refused before it, without importing torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from leakcache.errors import DataError, LeakError, RunError
from leakcache.files import write_checked
from leaknet.commands.preflight import (
    check_output,
    check_same_classes,
    check_trainable,
)

ROOT = Path(__file__).resolve().parents[2]


def cache(folder: Path, counts: Mapping[str, tuple[int, int, int]]) -> Path:
    """A cache as far as it is read: the manifest with labels and folds."""
    rows = [
        (label, fold)
        for label, of_folds in counts.items()
        for fold, count in zip(("train", "val", "test"), of_folds, strict=True)
        for _ in range(count)
    ]
    table = {"label": [label for label, _ in rows], "fold": [fold for _, fold in rows]}
    (folder / "closed").mkdir(parents=True)
    write_checked(folder / "closed" / "manifest.json", {"table": table})
    return folder


def run_of(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.toml").write_text("")
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "classes.json").write_text(json.dumps(["a", "b"]))
    return folder


def leak(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys, cli\ntry:\n    cli.main()\nfinally:\n"
        "    print('torch' in sys.modules, file=sys.stderr)"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["train"], "no cache yet"),
        (["train", "--cache", "nowhere"], "no finished cache"),
        (["train", "--cache", "small"], "class c has 2 images, and training needs 3"),
        (["train", "--cache", "good", "--preset", "bets"], "preset 'bets' is unknown"),
        (["evaluate", "--cache", "small"], "class c has 2 images"),
        (["ablate", "table5", "--cache", "nowhere"], "no finished cache"),
        (["bench", "--cache", "good", "--open", "nowhere"], "nowhere does not exist"),
        (["score", "x.png", "--run", "run"], "x.png: no such file"),
        (["score", "run", "--run", "run"], "run: no images in this folder"),
        (["score", "a.png", "--run", "run", "--csv", "none/x.csv"], "there is no folder"),
        (
            ["score", "--run", "run", "--cache", "good"],
            "not the cache of run: it has the classes a",
        ),
        (["score", "--run", "good"], "good is no run folder"),
        (["report", "good"], "good is no run folder"),
        (["report", "run", "--out", "none/x.html"], "cannot be written"),
        (["compare", "run", "good"], "good is no run folder"),
        (["enroll", "new", "run", "--run", "run"], "no images in this folder"),
        (["audit", "nowhere"], "nowhere does not exist"),
        (["bench", "--data", "nowhere"], "nowhere does not exist"),
        (["score", "--run", "nowhere"], "nowhere is no run folder"),
        (["explain", "a.png", "--run", "nowhere"], "nowhere is no run folder"),
        (["same", "a.png", "a.png", "--run", "nowhere"], "nowhere is no run folder"),
        (["serve", "--run", "nowhere"], "nowhere is no run folder"),
        (["export", "nowhere"], "nowhere is no run folder"),
        (["push", "nowhere", "me/run"], "nowhere is no run folder"),
        (["cache", "info", "--cache", "nowhere"], "no finished cache"),
        (["cache", "verify", "--cache", "nowhere"], "no finished cache"),
        (["cache", "export", "--cache", "good", "--split", "open"], "no finished cache"),
        (["cache", "push", "s3://bucket/x", "--cache", "nowhere"], "no finished cache"),
        (["cache", "build", "--data", "one"], "a single class, only"),
        (["cache", "build", "--data", "nowhere"], "nowhere does not exist"),
    ],
)
def test_a_refusal_comes_before_the_work_in_one_line(
    tmp_path: Path, words: list[str], complaint: str
) -> None:
    cache(tmp_path / "good", {"a": (5, 3, 3), "b": (5, 3, 3), "c": (5, 3, 3)})
    cache(tmp_path / "small", {"a": (5, 3, 3), "b": (5, 3, 3), "c": (1, 1, 0)})
    run_of(tmp_path / "run")
    (tmp_path / "a.png").touch()
    (tmp_path / "one" / "only").mkdir(parents=True)
    (tmp_path / "one" / "only" / "1.png").touch()
    said = leak(tmp_path, *words)
    *lines, imported = said.stderr.splitlines()
    assert said.returncode == 1
    assert imported == "False"
    assert complaint in lines[-1]
    assert sum(line.startswith("error: ") for line in lines) == 1


def test_misspelt_commands_and_flags_name_the_nearest(tmp_path: Path) -> None:
    assert "Did you mean 'score'?" in leak(tmp_path, "scroe").stderr
    assert "Did you mean 'build'?" in leak(tmp_path, "cache", "biuld").stderr
    assert "Did you mean one of: '--cache'" in leak(tmp_path, "train", "--cach", "x").stderr


def test_names_in_errors_cannot_forge_lines(tmp_path: Path) -> None:
    said = leak(tmp_path, "audit", "no\x1b[2J\nerror: all is well\u202e")
    assert "no\\x1b[2J\\nerror: all is well\\u202e does not exist" in said.stderr
    assert sum(line.startswith("error: ") for line in said.stderr.splitlines()) == 1


def test_folds_that_are_missing_are_refused(tmp_path: Path) -> None:
    check_trainable(cache(tmp_path / "good", {"a": (5, 3, 3), "b": (5, 3, 3)}))
    with pytest.raises(DataError, match="no image is in the fold val"):
        check_trainable(cache(tmp_path / "bad", {"a": (5, 0, 3), "b": (5, 0, 3)}))
    with pytest.raises(DataError, match="a single class, a"):
        check_trainable(cache(tmp_path / "one", {"a": (5, 3, 3)}))


def test_a_cache_of_the_same_classes_passes(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    check_same_classes(run, cache(tmp_path / "good", {"a": (5, 3, 3), "b": (5, 3, 3)}))
    with pytest.raises(RunError, match="give the right --cache or --run"):
        check_same_classes(run, cache(tmp_path / "bad", {"a": (5, 3, 3), "x": (5, 3, 3)}))


@pytest.mark.parametrize("damage", ["[" * 100_000, "3", "{", ""])
def test_a_damaged_manifest_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    folder = cache(tmp_path / "bad", {"a": (5, 3, 3)})
    (folder / "closed" / "manifest.json").write_text(damage)
    with pytest.raises(LeakError, match=r"is damaged .*--repair"):
        check_trainable(folder)


def test_an_output_that_can_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    check_output(tmp_path / "x.csv")
    check_output(None)
    assert list(tmp_path.iterdir()) == []
    for path in (tmp_path, tmp_path / "none" / "x.csv", Path("/proc/x.csv")):
        with pytest.raises(DataError, match="cannot be written"):
            check_output(path)
