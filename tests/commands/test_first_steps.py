"""First steps: own data without an open set, next commands, the default run, `leak runs`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli import leak
from leakcache.errors import RunError
from leaknet.commands.base import read_settings
from tests.tiny_data import save, tiny_model, write_images

SMALL = ["latents.backbone=test_resnet", "head.dimension=8", "train.epochs=1", "latents.dct_size=4"]
TRAIN = ["train", "--preset", "paper", *(word for item in SMALL for word in ("--set", item))]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    save(tiny_model(), root / "vae")
    write_images(root / "photos", ("ada", "bob"), 20)
    (root / "leak.toml").write_text('vae = "vae"\n[cache.build]\nsize = 64\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        _say("cache", "build", "--data", "photos")
        _say(*TRAIN, "--run", "runs/first")
    return root


@pytest.fixture
def say(project: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(project)
    return _say


def _say(*words: str) -> Result:
    return CliRunner().invoke(leak, list(words), obj=read_settings(), catch_exceptions=False)


def test_figures_are_printed_whole_however_narrow_the_terminal(
    say: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = say("score").stdout
    closed = json.loads(say("score", "--json").stdout)["closed"]
    assert "…" not in text
    for key in ("top1", "balanced", "macro_auc", "ece"):
        assert f"{closed[key]:.3f}" in text


def test_kde_without_an_open_set_gives_the_closed_figures(say: Any) -> None:
    said = say("score", "--kde")
    assert said.exit_code == 0
    assert "photos has no open set: closed-set figures only" in said.stderr
    assert "top-1" in said.stdout
    assert "Open set" not in said.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("data", "index", "photos"),
        ("audit", "photos"),
        ("cache", "build", "--data", "photos"),
        ("cache", "info"),
        ("cache", "verify"),
        ("cache", "export"),
        (*TRAIN, "--run", "runs/first"),
        ("score",),
        ("score", "photos/ada"),
        ("score", "photos/ada/000.png", "-v", "--stability"),
        ("report",),
        ("runs",),
        ("runs", "use", "first"),
    ],
)
def test_a_command_ends_with_the_next_one(say: Any, words: tuple[str, ...]) -> None:
    if words == ("report",):
        say("score")
    said = say(*words)
    assert said.exit_code == 0, said.output
    steps = [line for line in said.stdout.splitlines()[-2:] if line.startswith(("next:", "  or:"))]
    assert steps
    assert said.stdout.splitlines()[-1] == steps[-1]
    for step in steps:
        command = leak.get_command(None, step.split()[2])  # type: ignore[arg-type]
        assert command is not None


def test_a_calibration_that_is_too_small_is_said_before_training(say: Any) -> None:
    said = say(*TRAIN, "--run", "runs/first")
    assert said.stderr.startswith("warning: only ")
    assert "no image can be called unknown at a false-alarm rate below" in said.stderr


def test_a_new_default_run_is_announced_and_can_be_taken_back(say: Any, project: Path) -> None:
    say("runs", "use", "first")
    said = say(*TRAIN, "--seed", "1", "--run", "runs/second")
    assert "default of runs: now runs/second; it was runs/first" in said.stderr
    assert "default of" not in say(*TRAIN, "--seed", "1", "--run", "runs/second").stderr
    assert (
        "default of runs: now runs/first; it was runs/second" in say("runs", "use", "first").stderr
    )
    image = str(next((project / "photos" / "ada").iterdir()))
    assert say("score", image).stdout.startswith("run runs/first (the default; preset paper")
    assert "the default" not in say("score", image, "--run", "runs/second").stdout
    with pytest.raises(RunError, match="holds no run named third; `leak runs` lists them"):
        say("runs", "use", "third")


def test_runs_are_listed_with_their_figures(say: Any, project: Path) -> None:
    say(*TRAIN, "--seed", "1", "--run", "runs/second")
    scored = say("score", "--run", "runs/first", "--json").stdout
    say("runs", "use", "first")
    (project / "runs" / "broken").mkdir(exist_ok=True)
    (project / "runs" / "broken" / "config.toml").write_text("not = [toml")
    listed = say("runs").stdout.splitlines()
    rows = {line[3:].split()[0]: line for line in listed[1:] if line[:1] in ("*", " ")}
    assert {"first", "second"} <= set(rows)
    assert "broken" not in rows
    assert rows["first"].startswith("*")
    assert not rows["second"].startswith("*")
    found = {
        Path(run["path"]).name: run for run in json.loads(say("runs", "--json").stdout)["runs"]
    }
    top1 = json.loads(scored)["closed"]["top1"]
    assert found["first"]["figures"]["top1"] == top1
    assert f"{top1:.3f}" in rows["first"]
    assert (found["first"]["fold"], found["second"]["fold"]) == ("test", "val")
    assert found["first"]["data"] == "photos-vae-resize64"
    assert np.isfinite(found["second"]["figures"]["top1"])


def test_a_damaged_run_is_listed_with_its_reason(say: Any, project: Path) -> None:
    shutil.copytree(project / "runs" / "first", project / "runs" / "harmed", dirs_exist_ok=True)
    file = project / "runs" / "harmed" / "classes.json"
    file.write_text(file.read_text().replace("ada", "eve"))
    try:
        said, table = say("runs"), say("runs", "--json")
    finally:
        shutil.rmtree(project / "runs" / "harmed")
    assert (said.exit_code, table.exit_code) == (1, 1)
    assert "first" in said.stdout  # the others are listed all the same
    (line,) = said.stderr.splitlines()
    assert line.startswith("error: runs/harmed is damaged: ")
    assert "classes.json" in line
    assert json.loads(table.stdout)["damaged"] == [line.removeprefix("error: ")]
    assert say("runs").exit_code == 0
