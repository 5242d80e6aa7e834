"""`leak evaluate` and `leak compare` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli import leak
from leakcache.errors import ScoringError
from leaknet.calibration import Calibration
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import GlobalKDE
from leaknet.scoring.run_embeddings import fit_all
from tests.leaknet.experiments.synthetic import closed_cache
from tests.leaknet.tiny import CLASSES

SMALL = ["latents.backbone=test_resnet", "head.dimension=8", "train.batch_size=8", "train.epochs=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    closed_cache(root / "cache" / "closed")
    return root


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(leak, arguments, catch_exceptions=False)


def evaluate(folder: Path, *more: str) -> Result:
    settings = [word for setting in SMALL for word in ("--set", setting)]
    places = ["--cache", str(folder / "cache"), "--out", str(folder / "out")]
    return invoke("evaluate", *places, "--preset", "paper", *settings, *more)


def test_evaluate_prints_one_object_and_writes_it(folder: Path) -> None:
    result = evaluate(folder, "--seeds", "2", "--leave-out", "1", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert 0 <= found["leave_out"]["worst"]["auroc"] <= found["leave_out"]["mean"]["auroc"] <= 1
    assert found["protocol"]["seeds"] == [0, 1]
    written = json.loads((folder / "out" / "evaluation.json").read_text())
    assert {**written, "out": str(folder / "out")} == found


def test_answers_are_those_that_each_run_gives(folder: Path) -> None:
    found = json.loads(evaluate(folder, "--seeds", "2", "--leave-out", "1", "--json").stdout)
    alarms = []
    for seed in (0, 1):
        known = Embeddings.load(folder / "out" / f"seed{seed}" / "embeddings.h5")
        kde = fit_all([GlobalKDE], known)[0]
        p_values = Calibration.fit(known, [kde]).p_values(known.select("test"), kde)
        alarms.append(float((p_values <= 0.05).mean()))
    answers = found["answers"]["all"]
    assert answers["known"]["false_alarms"] == pytest.approx(np.mean(alarms))
    assert answers["sd"]["known"]["false_alarms"] == pytest.approx(np.std(alarms, ddof=1))
    left = found["answers"]["leave_out"]["unknown"]
    assert sorted(left) == sorted(CLASSES)
    assert all(sum(row.values()) == pytest.approx(1) for row in left.values())


def test_answers_follow_the_false_alarm_rate(folder: Path) -> None:
    shares = [
        json.loads(evaluate(folder, "--seeds", "1", "--alpha", alpha, "--json").stdout)
        for alpha in ("0.05", "0.5")
    ]
    strict, lax = (one["answers"]["all"]["known"] for one in shares)
    assert strict["false_alarms"] <= lax["false_alarms"]
    assert strict["coverage"] >= lax["coverage"]
    assert evaluate(folder, "--alpha", "1").exit_code == 2


def test_compare_speaks_of_two_runs(folder: Path) -> None:
    evaluate(folder, "--seeds", "2")
    runs = [str(folder / "out" / f"seed{seed}") for seed in (0, 1)]
    found = json.loads(invoke("compare", *runs, "--json").stdout)
    assert set(found["closed"]["top1"]) == {"value", "low", "high", "p"}
    text = invoke("compare", *runs).stdout
    assert "macro_auc" in text
    assert "95 % interval" in text


def test_tables_are_printed_with_their_words(folder: Path) -> None:
    text = evaluate(folder, "--seeds", "1", "--leave-out", "1").stdout
    assert "Closed set: which of 3 generators?" in text
    assert "Leave-generators-out" in text


def test_wrong_usage_is_refused_before_anything_is_trained(folder: Path) -> None:
    assert evaluate(folder, "--seeds", "0").exit_code == 2
    assert evaluate(folder, "--detectors", " ").exit_code == 2
    with pytest.raises(ScoringError, match="--detectors magic"):
        evaluate(folder, "--detectors", "magic")
    with pytest.raises(ScoringError, match="--real zed"):
        evaluate(folder, "--real", "zed")
