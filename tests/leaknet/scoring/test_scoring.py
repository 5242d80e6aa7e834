"""Scoring a run: honest, repeatable, and refused where it would not be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from leakcache.errors import CacheStale, RunError, ScoringError
from leakcache.store.cache import Cache
from leaknet.data.embeddings import Embeddings, concatenate
from leaknet.detectors import Energy, GlobalKDE, MaxSoftmax
from leaknet.metrics import closed_values
from leaknet.metrics.summary import summarise_closed
from leaknet.scoring.run_embeddings import SCORERS, detectors_named, fit_all, load_scorers
from leaknet.scoring.score_run import prepare_run, read_score_table, score_run
from leaknet.training.run_folder import RunFolder
from leaknet.training.train import train
from tests.leaknet.tiny import silent, tiny_cache, tiny_config


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return tiny_cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def run(cache: Cache, tmp_path: Path) -> Path:
    config = tiny_config("train.epochs=2", "train.learning_rate=3e-3")
    train(config, cache, tmp_path / "run", device="cpu", track=silent)
    return tmp_path / "run"


def test_figures_are_those_of_the_test_fold(run: Path, cache: Cache) -> None:
    scores = score_run(run, cache, [cache], [GlobalKDE, MaxSoftmax])
    stored = Embeddings.load(RunFolder(run).embeddings)
    test = stored.select("test")
    expected = {k: v[0] for k, v in closed_values(test.logits, test.targets).items()}
    result = scores.as_dict()
    assert result["closed"]["top1"] == expected["top1"]
    assert result["closed"]["macro_auc"] == expected["macro_auc"]
    assert result["images"] == {"train": 48, "val": 24, "test": 24, "open": 12}
    assert result["open"] == result["detectors"]["kde"]
    assert result["open"]["eve"]["auroc"] == pytest.approx(result["open"]["auroc"])
    assert json.loads((run / "metrics.json").read_text())["closed"]["top1"] == expected["top1"]


def test_an_interval_holds_its_value(run: Path, cache: Cache) -> None:
    result = score_run(run, cache, [cache], [GlobalKDE]).as_dict()
    for group, key in (("closed", "top1"), ("closed", "macro_auc"), ("open", "auroc")):
        low, high = result[group]["interval"][key]
        assert low <= result[group][key] <= high
        assert low < high


def test_scoring_twice_writes_the_same_bytes(run: Path, cache: Cache) -> None:
    names = ("metrics.json", "scores.csv", SCORERS)
    score_run(run, cache, [cache], [GlobalKDE])
    first = [(run / name).read_bytes() for name in names]
    RunFolder(run).embeddings.unlink()
    score_run(run, cache, [cache], [GlobalKDE])
    assert [(run / name).read_bytes() for name in names] == first


def test_open_images_change_nothing_that_is_learned(
    run: Path, cache: Cache, tmp_path: Path
) -> None:
    alone = score_run(run, cache, [], [GlobalKDE])
    without = (run / SCORERS).read_bytes()
    beside = score_run(run, cache, [cache], [GlobalKDE])
    assert (run / SCORERS).read_bytes() == without
    assert alone.as_dict()["closed"] == beside.as_dict()["closed"]
    assert alone.facts == beside.facts


def test_raw_scores_are_those_of_the_detector(run: Path, cache: Cache) -> None:
    score_run(run, cache, [cache], [GlobalKDE])
    table = read_score_table(run)
    known = Embeddings.load(RunFolder(run).embeddings)
    (detector,) = fit_all([GlobalKDE], known)
    inside = table.folds != "open"
    np.testing.assert_allclose(
        table.scores["kde"][inside], detector.score_samples(known), rtol=1e-4
    )
    assert set(table.labels[~inside]) == {"eve"}


def test_new_weights_are_not_scored_with_old_embeddings(run: Path, cache: Cache) -> None:
    before = score_run(run, cache)
    model = RunFolder(run).load_model(torch.device("cpu"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    model.save_pretrained(run)
    after = score_run(run, cache)
    assert before.model != after.model
    assert Embeddings.load(RunFolder(run).embeddings).run == after.model


def test_another_cache_is_refused_with_the_reason(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="aaaaaaaa"):
        score_run(run, tiny_cache(tmp_path / "weights", weights="b" * 64))
    with pytest.raises(RunError, match="training or validation images differ"):
        score_run(run, tiny_cache(tmp_path / "images", extra=3))


def test_an_open_set_encoded_otherwise_is_refused(run: Path, cache: Cache, tmp_path: Path) -> None:
    other = tiny_cache(tmp_path / "open", weights="b" * 64)
    with pytest.raises(CacheStale, match="encoded otherwise"):
        score_run(run, cache, [other], [GlobalKDE])


def test_an_open_image_that_is_also_closed_is_refused(
    run: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = cache.rows("open")
    hashes = cache.hashes.copy()
    hashes[rows[0]] = hashes[cache.rows("train")[5]]
    monkeypatch.setattr(cache, "hashes", hashes)
    with pytest.raises(ScoringError, match="is also the closed image train/1/"):
        score_run(run, cache, [cache], [GlobalKDE])


def test_preparing_a_run_does_not_look_at_the_test_fold(run: Path, cache: Cache) -> None:
    result = prepare_run(run, cache)
    stored = Embeddings.load(RunFolder(run).embeddings)
    assert set(stored.folds.tolist()) == {"train", "val"}
    expected = score_run(run, cache).validation.metrics["top1"]
    assert result.validation.metrics["top1"] == expected


def test_preparing_again_loses_nothing(run: Path, cache: Cache) -> None:
    prepare_run(run, cache)
    assert set(json.loads((run / "metrics.json").read_text())) >= {"model", "validation"}
    score_run(run, cache, [cache], [GlobalKDE])
    names = ("metrics.json", "scores.csv", "embeddings.h5", SCORERS)
    before = [(run / name).read_bytes() for name in names]
    prepare_run(run, cache)
    assert [(run / name).read_bytes() for name in names] == before


def test_detectors_are_fitted_again_only_for_other_weights(run: Path, cache: Cache) -> None:
    prepare_run(run, cache)
    known = Embeddings.load(RunFolder(run).embeddings)
    (kde,) = load_scorers(run, [GlobalKDE], known, known.run)
    shifted = replace(known, vectors=known.vectors + np.float32(1))
    (kept,) = load_scorers(run, [GlobalKDE], shifted, known.run)
    assert kept.score_samples(known).tolist() == kde.score_samples(known).tolist()
    (fresh,) = load_scorers(run, [GlobalKDE], shifted, "another")
    assert fresh.score_samples(known).tolist() != kde.score_samples(known).tolist()


def test_detectors_by_name() -> None:
    assert detectors_named(["kde", "energy"]) == (GlobalKDE, Energy)
    assert detectors_named(["energy", "kde"]) == (GlobalKDE, Energy)
    assert detectors_named(["all"])[0] is GlobalKDE
    assert len(detectors_named(["all"])) == 14
    with pytest.raises(ScoringError, match="--detectors nosuch: take some of"):
        detectors_named(["nosuch"])


def test_one_prompt_group_has_no_interval(run: Path, cache: Cache) -> None:
    prepare_run(run, cache)
    val = Embeddings.load(RunFolder(run).embeddings).select("val")
    single = replace(val, groups=np.full(len(val), "one"))
    assert summarise_closed([single]).metrics["top1"].interval is None
    assert summarise_closed([val]).metrics["top1"].interval[0] <= 1


def test_folds_put_together_keep_their_order(run: Path, cache: Cache) -> None:
    prepare_run(run, cache)
    stored = Embeddings.load(RunFolder(run).embeddings)
    again = concatenate([stored.select("train"), stored.select("val")])
    np.testing.assert_array_equal(again.hashes, stored.hashes)
    np.testing.assert_array_equal(again.vectors, stored.vectors)
