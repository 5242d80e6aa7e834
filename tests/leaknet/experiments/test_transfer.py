"""Transfer: images of known generators from another collection."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score

from cli import leak
from leakcache.dataset.index import ImageRecord
from leakcache.errors import CacheStale, ScoringError
from leakcache.store.cache import Cache
from leaknet.calibration import Calibration
from leaknet.data.columns import load_fold
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import GlobalKDE
from leaknet.experiments.answers import Rule
from leaknet.experiments.evaluation import Evaluation, EvaluationPlan
from leaknet.experiments.evaluation_tables import evaluation_tables, write_evaluation
from leaknet.experiments.protocols import evaluate
from leaknet.experiments.transfer import Collection, load_collections, read_same_as
from leaknet.metrics import closed_values
from leaknet.scoring.run_embeddings import fit_all
from tests.leaknet.experiments.small_bench import small_caches
from tests.leaknet.experiments.synthetic import ENCODING, closed_cache, write_cache
from tests.leaknet.tiny import random_latents, tiny_config

CONFIG = tiny_config("train.epochs=3", "train.learning_rate=3e-3")
SAME_AS = {"Ada-1": "ada"}
LABELS = ("Ada-1", "bob", "zed")


def other_cache(folder: Path, **options: Any) -> Cache:
    """The patterns of `closed_cache`, weaker, for two known generators; prompts of other data."""
    folds = {"train": 6, "val": 2, "test": 4}
    records = [
        ImageRecord(f"{label}/{fold}{n}.png", label, f"{fold}{n}", fold)
        for fold, count in folds.items()
        for label in LABELS
        for n in range(count)
    ]
    patterns = random_latents(3, seed=77)
    numbers = torch.tensor([LABELS.index(record.label) for record in records])
    z0 = random_latents(len(records), seed=9) + 0.5 * patterns[numbers]
    return write_cache(folder / "closed", records, z0, root="/far/elsewhere", **options)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return closed_cache(tmp_path_factory.mktemp("caches") / "closed")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return other_cache(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def collection(closed: Cache, elsewhere: Cache) -> Collection:
    (found,) = load_collections([elsewhere], closed, SAME_AS)
    return found


@pytest.fixture(scope="module")
def result(
    closed: Cache, collection: Collection, tmp_path_factory: pytest.TempPathFactory
) -> Evaluation:
    plan = EvaluationPlan(out=tmp_path_factory.mktemp("runs"), config=CONFIG, seeds=2, alpha=0.2)
    found = evaluate(plan, closed, [], [collection])
    write_evaluation(found)
    return found


def test_images_of_shared_generators_take_known_names(collection: Collection) -> None:
    assert collection.same_as == {"Ada-1": "ada", "bob": "bob"}
    assert sum(map(len, collection.splits)) == 24
    assert collection.left_out == 12
    for split in collection.splits:
        assert set(split.labels.tolist()) == {"ada", "bob"}
        assert all(group.startswith("elsewhere/") for group in split.groups.tolist())


def test_figures_are_those_of_the_kept_embeddings(result: Evaluation) -> None:
    found = result.as_dict()["transfer"]["elsewhere"]
    assert (found["images"], found["left_out"], found["detector"]) == (24, 12, "kde")
    for number, fact in enumerate(result.facts):
        known = Embeddings.load(fact.run / "embeddings.h5")
        other = Embeddings.load(fact.run / "transfer-elsewhere.h5")
        test, seed = known.select("test"), result.as_dict()["seeds"][str(number)]
        ours = seed["transfer"]["elsewhere"]
        values = closed_values(other.logits, other.targets)
        for key in ("top1", "macro_auc", "balanced", "ece"):
            assert ours[key] == pytest.approx(values[key][0])
        truth = np.repeat([1, 0], [len(test), len(other)])
        highest = np.concatenate([test.logits.max(axis=1), other.logits.max(axis=1)])
        assert ours["auroc"] == pytest.approx(roc_auc_score(truth, highest))
        kde = fit_all([GlobalKDE], known)[0]
        scores = np.concatenate([kde.score_samples(test), kde.score_samples(other)])
        assert ours["detector_auroc"] == pytest.approx(roc_auc_score(truth, scores))
        columns = Rule(Calibration.fit(known, [kde]), kde, 0.2).known_columns(other)
        assert ours["coverage"] == pytest.approx(columns["coverage"].mean())
        assert ours["unknown"] == pytest.approx(columns["false_alarms"].mean())
        assert sum(ours[v] for v in ("right", "wrong", "unsure", "unknown")) == pytest.approx(1)
        same = test.take(test.labels != "cyd")
        top1 = float((same.logits.argmax(axis=1) == same.targets).mean())
        assert ours["test"]["top1"] == pytest.approx(top1)
        ada = other.take(other.labels == "ada")
        recall = float((ada.logits.argmax(axis=1) == 0).mean())
        assert ours["recall"]["ada"]["other"] == pytest.approx(recall)
    low, high = found["interval"]["top1"]
    assert low <= found["top1"] <= high


def test_tables_and_files_have_them(result: Evaluation) -> None:
    titles = [grid.title for grid in evaluation_tables(result)]
    assert "Transfer to elsewhere" in titles
    assert "Answers by situation, at a false-alarm rate of 0.2 (kde)" in titles
    written = json.loads((result.plan.out / "evaluation.json").read_text())
    assert written["transfer"]["elsewhere"]["same_as"] == {"Ada-1": "ada", "bob": "bob"}
    own = json.loads((result.facts[1].run / "metrics.json").read_text())["transfer"]["elsewhere"]
    assert own["top1"] == written["seeds"]["1"]["transfer"]["elsewhere"]["top1"]


def test_a_single_shared_generator_has_no_area(closed: Cache, elsewhere: Cache) -> None:
    collections = [Collection.load(elsewhere, closed, {})]
    assert collections[0].same_as == {"bob": "bob"}
    plan = EvaluationPlan(out=elsewhere.path.parent / "one", config=CONFIG)
    found = evaluate(plan, closed, [], collections).transfer["elsewhere"]
    assert "macro_auc" not in found.other
    assert 0 <= found.other["top1"].value <= 1
    assert set(found.recall) == {"bob"}


def test_an_image_that_is_also_known_is_refused_unless_forced(
    closed: Cache, tmp_path: Path
) -> None:
    own = closed.hashes[closed.rows("train")[0]].item()
    hashes = [own, *(f"{number:064x}" for number in range(35))]
    collections = load_collections([other_cache(tmp_path, hashes=hashes)], closed, SAME_AS)
    plan = EvaluationPlan(out=tmp_path / "out", config=CONFIG)
    with pytest.raises(ScoringError, match=r"the transfer image Ada-1/.*is also the closed image"):
        evaluate(plan, closed, [], collections)
    forced = evaluate(replace(plan, force=True), closed, [], collections)
    assert forced.transfer["elsewhere"].images == 23


def test_what_cannot_be_evaluated_is_refused(
    closed: Cache, elsewhere: Cache, tmp_path: Path
) -> None:
    with pytest.raises(ScoringError, match="--same-as Ada-1=eve: take a known generator: ada"):
        load_collections([elsewhere], closed, {"Ada-1": "eve"})
    with pytest.raises(ScoringError, match="no collection has the label nobody"):
        load_collections([elsewhere], closed, {"nobody": "ada"})
    with pytest.raises(ScoringError, match="same name"):
        load_collections([elsewhere, elsewhere], closed, {})
    with pytest.raises(ScoringError, match="none of Ada-1, bob, zed is a known generator"):
        Collection.load(elsewhere, closed_cache(tmp_path / "closed", ("eve", "fay")), {})
    rough = other_cache(tmp_path / "rough", encoding=replace(ENCODING, precision="bf16"))
    with pytest.raises(CacheStale, match="encoded otherwise"):
        Collection.load(rough, closed, {})


def test_names_come_from_pairs_and_files(tmp_path: Path) -> None:
    file = tmp_path / "names.csv"
    file.write_text('a, ada\n"b,c",bob\n', encoding="utf-8")
    assert read_same_as([str(file), "d=cyd=1"]) == {"a": "ada", "b,c": "bob", "d": "cyd=1"}
    with pytest.raises(ScoringError, match="cannot be read"):
        read_same_as([str(tmp_path / "none.csv")])
    file.write_text("only\n", encoding="utf-8")
    with pytest.raises(ScoringError, match="is not a label and a generator"):
        read_same_as([str(file)])


def test_the_command_takes_a_cache(closed: Cache, elsewhere: Cache, tmp_path: Path) -> None:
    settings = ["latents.backbone=test_resnet", "head.dimension=8", "train.epochs=1"]
    words = ["evaluate", "--cache", str(closed.path.parent), "--out", str(tmp_path / "out")]
    words += ["--preset", "paper", "--seeds", "1", "--json"]
    words += [word for setting in settings for word in ("--set", setting)]
    words += ["--transfer", str(elsewhere.path.parent), "--same-as", "Ada-1=ada"]
    found = CliRunner().invoke(leak, words, catch_exceptions=False)
    assert found.exit_code == 0
    transfer = json.loads(found.stdout)["transfer"]["elsewhere"]
    assert transfer["images"] == 24
    assert {"top1", "macro_auc", "coverage", "auroc", "test", "recall"} <= set(transfer)


def test_degraded_test_images_are_a_situation(tmp_path: Path) -> None:
    cache, _ = small_caches(tmp_path, count=20)
    encoder = cache.manifest.encoding.encoder("cpu")
    found = Collection.degraded(cache, 2, encoder)
    (copies,) = found.splits
    test = load_fold(cache, "test", ["z0"])
    assert found.name == "step2"
    assert sorted(copies.labels.tolist()) == sorted(test.labels.tolist())
    assert set(copies.groups.tolist()) == set(test.groups.tolist())
    assert set(copies.folds.tolist()) == {"open"}
    assert not set(copies.hashes.tolist()) & set(test.hashes.tolist())
    plan = EvaluationPlan(out=tmp_path / "runs", config=CONFIG, alpha=0.2)
    result = evaluate(plan, cache, [], [found])
    summary = result.transfer["step2"]
    assert summary.images == len(test)
    assert summary.other["covered"].value >= summary.other["coverage"].value
    (grid,) = [one for one in evaluation_tables(result) if one.title.startswith("Answers by")]
    assert [row[0] for row in grid.rows] == ["test images", f"step2 ({len(test)} images)"]


def test_other_numbers_of_operations_are_refused() -> None:
    result = CliRunner().invoke(leak, ["evaluate", "--steps", "0,1"])
    assert result.exit_code == 2
    assert "takes some of 1, 2, 3" in result.output
