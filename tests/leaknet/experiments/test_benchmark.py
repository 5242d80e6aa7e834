"""The table: same evaluation for all, rows with reasons, nothing trained twice."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from leakcache.errors import ConfigError, RunError, TrainingError
from leaknet.baselines import BASELINES
from leaknet.baselines.base import BaselineOptions
from leaknet.data.embeddings import concatenate
from leaknet.detectors import GlobalKDE, MaxLogit
from leaknet.experiments.bench_trial import StepImages, raw_data
from leaknet.experiments.benchmark import (
    PUBLISHED,
    BenchPlan,
    behind_ours,
    bench_tables,
    methods_named,
    run_bench,
    write_bench,
)
from leaknet.experiments.tables import markdown
from leaknet.metrics.detection import Detection, summarise_open
from leaknet.metrics.summary import summarise_closed
from leaknet.scoring.run_embeddings import fit_all
from tests.leaknet.experiments.small_bench import Colours, Kept, Weightless


def bench(methods, data, out, **options):
    return run_bench(BenchPlan(out=out, methods=methods, **options), data)


@pytest.fixture
def data(caches):
    closed, unknown = caches
    return raw_data(closed, unknown)


def test_figures_are_those_of_the_shared_summaries(data, tmp_path):
    [row] = bench((Colours,), data, tmp_path).rows
    baseline = Colours(data.classes, BaselineOptions()).fit(data.train, data.val)
    images = data.steps[0]
    test, unknown = baseline.embed(images.test), baseline.embed(images.unknown[0])
    closed = summarise_closed([test]).metrics
    train, val = baseline.embed(data.train), baseline.embed(data.val)
    detector = fit_all([GlobalKDE], concatenate([train, val]))[0]
    opened = summarise_open("kde", [[Detection.of(detector, val, test, unknown)]])
    assert row.figures["top1"].value == closed["top1"].value
    assert row.figures["macro_auc"].value == pytest.approx(closed["macro_auc"].value)
    found = opened.as_dict()
    assert row.figures["open_oscr"].value == pytest.approx(found["oscr"], abs=1e-6)
    assert row.figures["open_auroc"].value == pytest.approx(found["auroc"], abs=1e-6)
    assert row.figures["open_mean"].value == pytest.approx(found["mean"]["auroc"], abs=1e-6)
    assert row.figures["open_worst"].value == pytest.approx(found["worst"]["auroc"], abs=1e-6)
    low, high = row.figures["macro_auc"].interval
    assert low <= row.figures["macro_auc"].value <= high


def test_rows_say_how_far_they_are_behind_ours(data, tmp_path):
    class Ours(Colours):
        name = "ours"

    class Reversed(Colours):
        name = "reversed"

        def embed(self, images):
            found = super().embed(images)
            return replace(found, logits=-found.logits)

    for methods in ((Ours, Reversed, Weightless), (Reversed, Weightless, Ours)):
        rows = {row.name: row for row in bench(methods, data, tmp_path, seeds=2).rows}
        assert behind_ours(rows["ours"]) is None
        assert behind_ours(rows["weightless"]) is None
        behind = behind_ours(rows["reversed"])
        gap = rows["ours"].figures["top1"].value - rows["reversed"].figures["top1"].value
        assert behind["top1"] == pytest.approx(gap)
        assert 0 < behind["p"] < 0.05
    result = bench((Ours, Reversed), data, tmp_path)
    assert "p = 0.0" in markdown(bench_tables(result))
    alone = bench((Reversed,), data, tmp_path).rows[0]
    assert behind_ours(alone) is None


def test_a_method_without_weights_has_a_row_and_the_rest_go_on(data, tmp_path):
    result = bench((Weightless, Colours), data, tmp_path)
    absent, there = result.rows
    assert absent.reason == "DIR/some.safetensors is not there: put it there"
    assert (absent.figures, absent.parameters, absent.seconds) == ({}, None, None)
    assert (there.reason, there.parameters) == ("", 6)
    row = result.as_dict()["rows"][0]
    assert row["top1"] is None
    assert row["method"] == "weightless"


def test_a_training_that_fails_is_a_reason_too(data, tmp_path):
    class Failing(Colours):
        name = "failing"

        def fit(self, train, val):
            raise TrainingError("the loss is not finite")

    rows = bench((Failing, Colours), data, tmp_path).rows
    assert [row.reason for row in rows] == ["the loss is not finite", ""]


def test_a_mistake_in_the_code_is_no_reason(data, tmp_path):
    class Wrong(Colours):
        name = "wrong"

        def fit(self, train, val):
            raise IndexError("a mistake")

    with pytest.raises(IndexError):
        bench((Wrong,), data, tmp_path)


def test_several_seeds_give_a_mean_and_a_spread(data, tmp_path):
    [row] = bench((Colours,), data, tmp_path, seeds=3).rows
    assert len(row.figures["macro_auc"].seeds) == 3
    assert row.figures["macro_auc"].sd is not None
    assert Colours.fits == 3


def test_what_is_finished_is_not_trained_again(data, tmp_path):
    first = bench((Colours,), data, tmp_path, seeds=2)
    assert Colours.fits == 2
    embedded = len(Colours.embedded)
    again = bench((Colours,), data, tmp_path, seeds=2)
    assert (Colours.fits, len(Colours.embedded)) == (2, embedded)
    assert again.as_dict() == first.as_dict()
    bench((Colours,), data, tmp_path, seeds=3)
    assert Colours.fits == 3


def test_another_step_is_evaluated_without_training_where_the_state_is_kept(data, tmp_path):
    bench((Colours, Kept), data, tmp_path)
    assert (Colours.fits, Kept.fits) == (1, 1)
    images = data.steps[0]
    dimmed = StepImages(images.test.take(np.arange(len(images.test))[::-1]), images.unknown)
    more = replace(data, steps={0: images, 1: dimmed})
    rows = bench((Colours, Kept), more, tmp_path).rows
    assert (Colours.fits, Kept.fits) == (2, 1)
    by_step = {(row.name, row.step): row.figures["macro_auc"].value for row in rows}
    assert by_step["kept", 1] == pytest.approx(by_step["kept", 0])


@pytest.mark.parametrize("lost", ["known.h5", "trial.json"])
def test_a_trial_that_lost_a_file_is_done_again(data, tmp_path, lost):
    before = bench((Kept,), data, tmp_path).rows
    (tmp_path / "kept" / "seed0" / lost).unlink()
    after = bench((Kept,), data, tmp_path).rows
    assert Kept.fits == 2
    assert after[0].figures == before[0].figures


def test_a_lost_step_is_made_again_from_the_state(data, tmp_path):
    before = bench((Kept,), data, tmp_path).rows
    (tmp_path / "kept" / "seed0" / "step0.h5").unlink()
    after = bench((Kept,), data, tmp_path).rows
    assert Kept.fits == 1
    assert after[0].figures == before[0].figures


def test_a_folder_of_another_bench_is_refused(data, caches, tmp_path):
    bench((Colours,), data, tmp_path)
    with pytest.raises(RunError, match="other epochs"):
        bench((Colours,), data, tmp_path, options=BaselineOptions(epochs=3))
    closed, unknown = caches
    with pytest.raises(RunError, match="images and limit"):
        bench((Colours,), raw_data(closed, unknown, 8), tmp_path)


def test_without_unknown_generators_closed_figures_remain(data, tmp_path):
    alone = replace(data, steps={0: StepImages(data.steps[0].test)})
    [row] = bench((Colours,), alone, tmp_path).rows
    assert "no unknown generators" in row.reason
    assert set(row.figures) == {"top1", "macro_auc"}


def test_a_detector_that_cannot_be_fitted_is_a_reason(data, tmp_path):
    class Flat(Colours):
        name = "flat"

        def embed(self, images):
            e = super().embed(images)
            return replace(e, vectors=np.zeros_like(e.vectors))

    rows = bench((Flat,), data, tmp_path).rows
    assert "no open figures: all" in rows[0].reason
    assert "macro_auc" in rows[0].figures


def test_the_detector_is_the_one_asked_for(data, tmp_path):
    kde = bench((Colours,), data, tmp_path).rows[0]
    result = bench((Colours,), data, tmp_path, kinds=(MaxLogit,))
    assert Colours.fits == 1
    assert result.facts["detector"] == "logit" == MaxLogit.name
    assert result.rows[0].figures["open_auroc"] != kde.figures["open_auroc"]


def test_files_say_what_the_rows_say(data, tmp_path):
    from pyarrow import parquet

    result = bench((Weightless, Colours), data, tmp_path, seeds=2)
    assert write_bench(result, tmp_path) == ["bench.json", "bench.md", "bench.parquet"]
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    table = parquet.read_table(tmp_path / "bench.parquet").to_pylist()
    for row, flat in zip(rows, table, strict=True):
        for name in ("method", "step", "top1", "macro_auc", "open_auroc", "reason", "parameters"):
            assert row[name] == flat[name], name
    assert table[1]["macro_auc_seeds"] == rows[1]["seeds"]["macro_auc"]
    text = (tmp_path / "bench.md").read_text()
    assert text == markdown(bench_tables(result))
    assert (
        "| weightless | – | – | – | – | – | – | – | – | DIR/some.safetensors is not there" in text
    )


def test_each_step_is_a_block(data, tmp_path):
    two = replace(data, steps={0: data.steps[0], 3: data.steps[0]})
    grids = bench_tables(bench((Colours, Kept), two, tmp_path))
    assert [grid.title for grid in grids] == [
        "Table 1: raw images",
        "Table 1: degraded, step 3 (WILD-like)",
    ]
    assert [[row[0] for row in grid.rows] for grid in grids] == [["colours", "kept"]] * 2


def test_rows_are_handed_on_after_every_method(data, tmp_path):
    seen = []
    bench(
        (Weightless, Colours),
        data,
        tmp_path,
        on_rows=lambda result, rows: seen.append(len(result.rows)),
    )
    assert seen == [1, 2]


def test_published_figures_stand_beside_rows_that_exist():
    names = {method.name for method in BASELINES}
    ours = {"latenttracer", "occ-clip", "latte"}
    assert PUBLISHED.keys() - ours <= names
    assert all(0.5 < value < 1 for row in PUBLISHED.values() for value in row)
    # Every published row gets worse from step to step.
    assert all(list(row) == sorted(row, reverse=True) for row in PUBLISHED.values())


def test_methods_are_taken_by_name():
    assert methods_named("all") == BASELINES
    assert [method.name for method in methods_named("npr, ours,npr")] == ["npr", "ours"]
    for wrong in ("nprr", "", " , "):
        with pytest.raises(ConfigError, match="take some of"):
            methods_named(wrong)
