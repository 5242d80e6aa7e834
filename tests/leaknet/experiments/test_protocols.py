"""Protocols: generators are left out equally often, nothing open influences a choice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakcache.errors import RunError, ScoringError
from leakcache.store.cache import Cache
from leaknet.calibration import Calibration
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import DETECTORS, GlobalKDE, MaxSoftmax
from leaknet.experiments.answers import Rule
from leaknet.experiments.evaluation import (
    Evaluation,
    EvaluationPlan,
    compare_runs,
    comparison_table,
)
from leaknet.experiments.evaluation_tables import evaluation_tables, write_evaluation
from leaknet.experiments.protocols import evaluate, groups_of, left_out
from leaknet.experiments.tables import markdown
from leaknet.scoring.run_embeddings import SCORERS, UNKNOWN, fit_all
from leaknet.training.run_folder import RunFolder
from tests.leaknet.experiments.synthetic import closed_cache, open_cache
from tests.leaknet.tiny import tiny_config

EIGHT = ["a", "b", "c", "d", "e", "f", "g", "h"]


def test_eight_in_pairs_make_one_round_of_four() -> None:
    assert left_out(EIGHT, 2) == (("a", "e"), ("b", "f"), ("c", "g"), ("d", "h"))


def test_five_in_pairs_walk_the_circle_until_it_closes() -> None:
    blocks = left_out(EIGHT[:5], 2)
    assert len(blocks) == len(set(blocks)) == 5
    assert set(Counter(name for block in blocks for name in block).values()) == {2}


@given(count=st.integers(3, 12), together=st.integers(1, 10), data=st.data())
def test_every_generator_is_left_out_equally_often(
    count: int, together: int, data: st.DataObject
) -> None:
    names = [f"g{number:02d}" for number in range(count)]
    if count - together < 2:
        with pytest.raises(ScoringError, match="fewer than two known classes"):
            left_out(names, together)
        return
    blocks = left_out(data.draw(st.permutations(names)), together)
    assert blocks == left_out(names, together)
    assert {len(set(block)) for block in blocks} == {together}
    times = Counter(name for block in blocks for name in block)
    assert set(times) == set(names)
    assert len(set(times.values())) == 1
    if count % together == 0:
        assert set(times.values()) == {1}


def test_versions_of_one_model_are_not_left_out_together() -> None:
    for block in left_out(["pixart-512", "pixart-1024", "sd-1.5", "sd-2.1"], 2):
        assert len({name.split("-")[0] for name in block}) == 2


def test_photographs_count_among_the_known() -> None:
    assert left_out(["a", "b"], 1, always_known=1) == (("a",), ("b",))
    with pytest.raises(ScoringError, match="fewer than two"):
        left_out(["a", "b"], 2, always_known=3)


def test_groups_of_a_file_are_left_out_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "families.toml"
    path.write_text('# comment\nsome = ["c", "a"]\nother = ["h"]\n')
    assert groups_of(path, EIGHT) == (("a", "c"), ("h",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('some = ["a", "z"]', "z is no known generator; a line is NAME"),
        ("", "names no generators"),
        ("some = []", "names no generators"),
        ("some = [1, 2", "give TOML"),
        ("some = 3", "give TOML"),
        ('some = ["a", "b", "c", "d", "e", "f", "g"]', "fewer than two known"),
    ],
)
def test_a_file_that_names_no_groups_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "families.toml"
    path.write_text(text)
    with pytest.raises(ScoringError, match=message):
        groups_of(path, EIGHT)


CONFIG = tiny_config("train.epochs=2", "train.learning_rate=3e-3", "train.seed=3")


def plan(out: Path, **options: Any) -> EvaluationPlan:
    return EvaluationPlan(**{"out": out, "config": CONFIG, **options})


def full_plan(out: Path) -> EvaluationPlan:
    return plan(
        out,
        seeds=2,
        kinds=(GlobalKDE, MaxSoftmax),
        leave_out=1,
        real=("ada",),
        modes=True,
        shuffle=True,
    )


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return closed_cache(tmp_path_factory.mktemp("caches") / "closed")


@pytest.fixture(scope="module")
def eve(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return open_cache(tmp_path_factory.mktemp("caches") / "open-eve", "eve", seed=41)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def full(closed: Cache, eve: Cache, out: Path) -> Evaluation:
    result = evaluate(full_plan(out), closed, [eve])
    write_evaluation(result)
    return result


@pytest.fixture(scope="module")
def figures(full: Evaluation) -> dict[str, Any]:
    return full.as_dict()


def test_every_protocol_is_there(figures: dict[str, Any], out: Path) -> None:
    for path in (
        "closed.top1",
        "closed.mahalanobis.macro_auc",
        "closed.interval.ece",
        "validation.balanced",
        "open.mean.auroc",
        "open.worst.auroc",
        "open.eve.ccr5",
        "open.sd.mean.fpr95",
        "leave_out.mean.auroc",
        "leave_out.worst.unknown_accepted",
        "leave_out.bob.oscr",
        "leave_out.closed.top1",
        "detectors.softmax.leave_out.mean.auroc",
        "table2.dual.control.auroc",
        "real.auroc",
        "controls.label_shuffle.chance",
        "seeds.3.closed.top1",
        "seeds.4.open.mean.auroc",
    ):
        value: Any = figures
        for key in path.split("."):
            value = value[key]
        assert value is not None, path
    assert figures["open"]["detector"] == "kde"
    assert json.loads((out / "evaluation.json").read_text()) == json.loads(json.dumps(figures))


def test_a_marked_class_is_never_left_out(figures: dict[str, Any]) -> None:
    assert figures["protocol"]["folds"] == [["bob"], ["cyd"]]
    assert figures["images"] == {"train": 72, "val": 36, "test": 36, "open": 10}


def test_photographs_have_answers_of_their_own(full: Evaluation) -> None:
    assert full.answers is not None
    runs = [Embeddings.load(fact.run / "embeddings.h5") for fact in full.facts]
    expected = []
    for known in runs:
        kde = fit_all([GlobalKDE], known)[0]
        test = known.select("test")
        columns = Rule(Calibration.fit(known, [kde]), kde, 0.05).known_columns(test)
        expected.append(columns["named_wrong"][test.labels == "ada"].mean())
    assert full.answers.real["named_wrong"].seeds == pytest.approx(expected)
    rows = [grid for grid in evaluation_tables(full) if grid.title.startswith("Answers by")]
    assert [row[0] for row in rows[0].rows] == ["test images", "test photographs"]


def test_means_are_those_of_the_seeds(figures: dict[str, Any]) -> None:
    each = [figures["seeds"][seed]["leave_out"]["cyd"]["auroc"] for seed in ("3", "4")]
    assert figures["leave_out"]["cyd"]["auroc"] == pytest.approx(sum(each) / 2)
    assert each[0] != each[1]


def test_the_tables_show_controls_first_and_warn_of_dual(full: Evaluation, out: Path) -> None:
    tables = evaluation_tables(full)
    assert tables[0].title.startswith("Control")
    for table in tables:
        assert {len(row) for row in table.rows} == {len(table.headings)}
    text = (out / "evaluation.md").read_text()
    assert "A high figure for `dual` means nothing" in text
    assert f"{full.closed['prototype'].metrics['top1'].value:.3f}" in text


def test_finished_runs_are_not_trained_again(
    full: Evaluation, closed: Cache, eve: Cache, out: Path
) -> None:
    weights = sorted(out.rglob("model.safetensors"))
    assert len(weights) == 2 + 4 + 2
    before = [path.stat().st_mtime_ns for path in weights]
    again = evaluate(full_plan(out), closed, [eve])
    assert [path.stat().st_mtime_ns for path in weights] == before
    assert json.dumps(again.as_dict()) == json.dumps(full.as_dict())


def test_an_open_set_changes_nothing_but_its_own_figures(
    full: Evaluation, closed: Cache, tmp_path: Path
) -> None:
    results = []
    for seed, name in ((41, "eve"), (97, "fay")):
        cache = open_cache(tmp_path / f"open-{name}", name, seed)
        results.append(evaluate(plan(tmp_path / name, kinds=DETECTORS), closed, [cache]))
    results.append(evaluate(plan(tmp_path / "none", kinds=DETECTORS), closed))
    first, second, alone = (result.as_dict() for result in results)
    assert first["open"]["mean"] != second["open"]["mean"]
    for key in ("closed", "validation"):
        assert first[key] == second[key] == alone[key]
    for key in ("model", "settings", "thresholds"):
        assert first["seeds"]["3"][key] == second["seeds"]["3"][key] == alone["seeds"]["3"][key]
    for name in (SCORERS, "model.safetensors"):
        content = [(tmp_path / n / "seed3" / name).read_bytes() for n in ("eve", "fay", "none")]
        assert content[0] == content[1] == content[2], name
    # Nor does what else is evaluated beside it.
    assert full.facts[0].model == results[0].facts[0].model


def test_other_settings_do_not_go_on_in_the_same_folder(
    full: Evaluation, closed: Cache, out: Path
) -> None:
    with pytest.raises(RunError, match=r"train\.epochs: 2, now 3"):
        evaluate(plan(out, config=CONFIG.with_overrides(["train.epochs=3"])), closed)


def test_prompts_of_other_data_are_not_those_of_the_closed_set(
    full: Evaluation, eve: Cache
) -> None:
    assert "test0" in eve.groups.tolist()
    table = (full.facts[0].run / "scores.csv").read_text()
    assert "eve/test0,open" in table


def test_a_single_prompt_group_has_figures_without_intervals(tmp_path: Path) -> None:
    cache = closed_cache(tmp_path / "closed", one_prompt=True)
    result = evaluate(plan(tmp_path / "out"), cache)
    assert result.as_dict()["closed"]["interval"]["top1"] is None
    assert "No interval" in markdown(evaluation_tables(result))


def test_images_on_both_sides_are_refused_unless_forced(closed: Cache, tmp_path: Path) -> None:
    own = closed.hashes[closed.rows("train")[0]].item()
    hashes = [own, *(f"{number:064x}" for number in range(9))]
    strange = open_cache(tmp_path / "open-eve", "eve", seed=1, hashes=hashes)
    config = CONFIG.with_overrides(["train.epochs=1"])
    with pytest.raises(ScoringError, match=r"is also the closed image closed/ada/.*--force"):
        evaluate(plan(tmp_path / "out", config=config), closed, [strange])
    forced = plan(tmp_path / "out", config=config, force=True)
    assert evaluate(forced, closed, [strange]).images["open"] == 9


def test_two_known_generators_are_too_few_to_leave_one_out(tmp_path: Path) -> None:
    cache = closed_cache(tmp_path / "closed", ("ada", "bob"))
    with pytest.raises(ScoringError, match="--leave-out 1 of 2 generators"):
        evaluate(plan(tmp_path / "out", leave_out=1), cache)
    assert not (tmp_path / "out").exists()


def test_runs_compare_on_the_same_images_alone(full: Evaluation, out: Path) -> None:
    a, b = (fact.run for fact in full.facts)
    same = compare_runs(a, a, GlobalKDE)
    assert {d.value for d in [*same.closed.values(), *same.open.values()]} == {0}
    assert {d.p for d in same.closed.values()} == {1}
    found = compare_runs(a, b, GlobalKDE)
    figures = full.as_dict()["seeds"]
    for group in ("closed", "open"):
        key = "macro_auc" if group == "closed" else "auroc"
        gap = figures["4"][group][key] - figures["3"][group][key]
        assert getattr(found, group)[key].value == pytest.approx(gap)
    assert found.images == {"test": 36, "open": 10}
    assert len(comparison_table(found).rows) == len(found.closed) + len(found.open)


def test_runs_on_other_images_do_not_compare(full: Evaluation, out: Path) -> None:
    left = out / "leave-1-out" / "fold0-seed3"
    with pytest.raises(RunError, match=r"different test images \(36 and 24, 24 in common\)"):
        compare_runs(full.facts[0].run, left, GlobalKDE)
    with pytest.raises(RunError, match="different test images"):
        compare_runs(left, out / "leave-1-out" / "fold1-seed3", GlobalKDE)


def test_a_run_trained_since_does_not_compare(full: Evaluation, tmp_path: Path) -> None:
    run = RunFolder(full.facts[0].run)
    stale = tmp_path / "stale"
    stale.mkdir()
    for path in (run.config, run.classes, run.embeddings, run.path / UNKNOWN):
        (stale / path.name).write_bytes(path.read_bytes())
    (stale / "model.safetensors").write_bytes(b"others")
    with pytest.raises(RunError, match="has not been scored"):
        compare_runs(run.path, stale, GlobalKDE)
