"""Rows become figures: nothing is trained twice, and a failed row spares the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from leakcache.errors import ConfigError
from leakcache.store.cache import Cache
from leaknet.config import PAPER, RunConfig
from leaknet.data.embeddings import Embeddings
from leaknet.experiments.ablation_run import RUNS, CachePool, run_ablation
from leaknet.experiments.ablation_spec import Ablation, Row, Scoring, find_ablation
from leaknet.experiments.ablation_tables import AblationResult
from leaknet.experiments.evaluation import EvaluationPlan
from leaknet.experiments.protocols import evaluate
from leaknet.experiments.trial import Task
from leaknet.metrics import closed_values
from leaknet.scoring.run_embeddings import open_splits
from tests.leaknet.experiments.ablation_tables import HEADS, cache_of, plan, written
from tests.leaknet.experiments.synthetic import closed_cache, open_cache


class _PoolWith(CachePool):
    """A pool whose open set has no image files any more."""

    def __init__(self, unknown: Cache, main: Cache) -> None:
        super().__init__(main)
        self.others = open_splits([unknown], main, PAPER)

    def task(self, cache: Cache, config: RunConfig) -> Task:
        found = super().task(cache, config)
        return replace(found, unknown=tuple(self.others))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablation")


@pytest.fixture(scope="module")
def pool(root: Path) -> CachePool:
    return CachePool(closed_cache(root / "cache" / "closed"))


@pytest.fixture(scope="module")
def heads(root: Path) -> Ablation:
    return written(root, HEADS)


@pytest.fixture(scope="module")
def first(root: Path, pool: CachePool, heads: Ablation) -> AblationResult:
    return run_ablation(plan(heads, root / "out"), pool)


def test_figures_are_those_of_the_runs(first: AblationResult) -> None:
    assert [row.name for row in first.rows] == ["linear", "four"]
    for row in first.rows:
        tests = [Embeddings.load(run / "embeddings.h5").select("test") for run in row.runs]
        for key in ("top1", "macro_auc"):
            values = [float(closed_values(t.logits, t.targets)[key][0]) for t in tests]
            assert row.figures[key].seeds == pytest.approx(values)
            assert row.figures[key].sd == pytest.approx(np.std(values, ddof=1))
        assert row.parameters > 100_000
        assert row.seconds > 0
    linear, four = first.rows
    assert set(linear.difference) >= {"top1", "macro_auc"}
    for key in linear.figures:
        found = linear.difference[key]
        gaps = np.subtract(linear.figures[key].seeds, four.figures[key].seeds)
        assert found.seeds == pytest.approx(gaps)
        assert found.interval[0] <= found.value <= found.interval[1]
    assert four.difference == {}
    assert linear.settings == ("head.prototypes: 4, now 0",)


def test_nothing_is_done_twice(
    first: AblationResult, root: Path, pool: CachePool, heads: Ablation
) -> None:
    assert (first.trained, first.reused, first.encoded) == (4, 0, 0)
    before = {path: path.stat().st_mtime_ns for path in (root / "out" / RUNS).rglob("*.h5")}
    again = run_ablation(plan(heads, root / "out"), pool)
    assert (again.trained, again.reused) == (0, 4)
    assert before == {path: path.stat().st_mtime_ns for path in (root / "out" / RUNS).rglob("*.h5")}
    assert [row.figures for row in again.rows] == [row.figures for row in first.rows]


def test_a_row_of_two_tables_is_trained_once(
    first: AblationResult, root: Path, pool: CachePool
) -> None:
    other = written(root, '[[row]]\nname = "M = 4"', "other.toml")
    found = run_ablation(plan(other, root / "out", seeds=3), pool)
    assert found.trained == 1
    assert found.rows[0].runs[:2] == first.rows[1].runs


def test_rows_that_differ_in_scoring_share_their_runs(
    first: AblationResult, root: Path, pool: CachePool
) -> None:
    rows = (Row("logits"), Row("distance", score=Scoring(naming="mahalanobis")))
    found = run_ablation(plan(Ablation("scoring", "?", rows), root / "out"), pool)
    assert found.trained == 0
    assert found.rows[0].runs == found.rows[1].runs == first.rows[1].runs
    assert found.rows[0].figures["macro_auc"] != found.rows[1].figures["macro_auc"]


def test_an_interrupted_table_goes_on(root: Path, pool: CachePool, heads: Ablation) -> None:
    asked = plan(heads, root / "stopped", "train.seed=5")

    def stop(row: Row, number: int) -> None:
        if (row.name, number) == ("linear", 1):
            raise KeyboardInterrupt

    kept: list[AblationResult] = []
    with pytest.raises(KeyboardInterrupt):
        run_ablation(
            replace(asked, on_start=stop, on_rows=lambda table, row: kept.append(table)), pool
        )
    assert [row.name for row in kept[-1].rows] == ["four"]
    assert run_ablation(asked, pool).trained == 1


def test_a_failed_row_spares_the_others(root: Path, pool: CachePool) -> None:
    rows = (
        Row("none", {"latents": {"backbone": "resnet_of_mine"}}),
        Row("wide", {"latents": {"dct_size": 16, "backbone": "test_vit"}}),
        Row("elsewhere", cache=replace(Row("").cache, autoencoder=("sdxl",))),
        Row("diverges", {"train": {"learning_rate": 1e30}}),
        Row("plain"),
    )
    found = run_ablation(plan(Ablation("x", "?", rows), root / "out"), pool)
    reasons = {row.name: row.reason for row in found.rows}
    assert "no timm model" in reasons["none"]
    assert "add --also DIR" in reasons["elsewhere"]
    assert "is not finite" in reasons["diverges"]
    assert reasons["plain"] == reasons["wide"] == ""
    assert found.rows[1].notes == ("tokens: 1 (patches of 16×16, maps of 16×16)",)
    assert all("\n" not in reason for reason in reasons.values())


def test_settings_that_are_wrong_are_refused_before_anything_runs(
    root: Path, pool: CachePool
) -> None:
    rows = (Row("fine"), Row("wrong", {"train": {"epochs": 0}}))
    with pytest.raises(ConfigError, match=r"x\.toml, row 'wrong': train\.epochs = 0"):
        run_ablation(plan(Ablation("x", "?", rows), root / "nothing"), pool)
    assert not list((root / "nothing").iterdir())


def test_pretrained_weights_that_cannot_be_had_are_said_and_shared(
    first: AblationResult, root: Path, pool: CachePool
) -> None:
    ablation = Ablation("x", "?", (Row("pretrained", prefer_pretrained=True),))
    (row,) = run_ablation(plan(ablation, root / "out"), pool).rows
    assert row.notes[0].startswith("from scratch")
    assert row.runs == first.rows[1].runs


def test_another_autoencoder_has_runs_of_its_own(
    first: AblationResult, root: Path, pool: CachePool, heads: Ablation
) -> None:
    other = cache_of(root / "xl", "taesd_xl", "b")
    rows = (
        Row("xl", cache=replace(Row("").cache, autoencoder=("taesd_xl",))),
        replace(heads.rows[1]),
    )
    both = CachePool(pool.main, [other])
    found = run_ablation(plan(Ablation("x", "?", rows, "four"), root / "out"), both)
    assert [row.trained for row in found.rows] == [2, 0]
    assert found.rows[0].notes == (f"cache {root / 'xl'}",)
    # The latents are the same, and so are the figures.
    assert found.rows[0].difference["top1"].seeds == (0.0, 0.0)


def test_table_2_is_what_evaluation_says(root: Path, pool: CachePool) -> None:
    eve = open_cache(root / "open-eve", "eve", seed=41)
    asked = plan(find_ablation("table2"), root / "modes", seeds=1)
    modes = EvaluationPlan(out=root / "evaluation", config=asked.base, modes=True)
    expected = evaluate(modes, pool.main, [eve]).modes
    found = run_ablation(asked, _PoolWith(eve, pool.main))
    assert found.trained == 1
    for row, spec in zip(found.rows, asked.ablation.rows, strict=True):
        mode = expected[spec.score.attention]
        assert row.figures["open_auroc"] == mode.unknown["auroc"]
        assert row.figures["control_ovl"] == mode.control["ovl"]
        assert row.figures["untrained_auroc"] == mode.control_untrained["auroc"]
    assert found.rows[2].figures["control_auroc"].value > 0.9
