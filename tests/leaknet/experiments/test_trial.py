"""Trainings: left-out generators leave no trace in them; actors give the tables of one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from own_process import printed

from leakcache.store.cache import Cache
from leaknet.experiments.trial import ClosedSet
from leaknet.model.run_record import training_hash
from tests.leaknet.experiments.synthetic import closed_cache
from tests.leaknet.tiny import moments_of, tiny_config


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return closed_cache(tmp_path_factory.mktemp("caches") / "closed")


@pytest.fixture(scope="module")
def data(cache: Cache) -> ClosedSet:
    return ClosedSet.load(cache, tiny_config())


def test_left_out_generators_are_in_no_closed_fold(data: ClosedSet) -> None:
    task = data.without(("bob",))
    assert task.classes == ("ada", "cyd")
    for fold in task.folds:
        assert set(fold.labels.tolist()) == {"ada", "cyd"}
    (unknown,) = task.unknown
    assert set(unknown.labels.tolist()) == {"bob"}
    assert set(unknown.folds.tolist()) == {"open"}


def test_only_test_images_of_a_left_out_generator_are_evaluated(data: ClosedSet) -> None:
    (unknown,) = data.without(("bob",)).unknown
    expected = data.test.hashes[data.test.labels == "bob"]
    assert unknown.hashes.tolist() == expected.tolist()
    rows = data.test.labels == "bob"
    np.testing.assert_array_equal(unknown.z0.numpy(), data.test.z0.numpy()[rows])


def test_standardisation_knows_nothing_of_left_out_generators(data: ClosedSet) -> None:
    task = data.without(("bob",))
    found, expected = task.data.moments, moments_of(task.data.train.z0.flatten(0, 1))
    np.testing.assert_allclose(found.latent.mean, expected.latent.mean, atol=1e-6)
    np.testing.assert_allclose(found.dct.variance, expected.dct.variance, rtol=1e-3)
    assert not np.allclose(found.latent.mean, data.whole().data.moments.latent.mean)


def test_a_task_on_everything_is_the_cache_itself(data: ClosedSet, cache: Cache) -> None:
    assert data.whole().cache.training_sha256 == training_hash(cache)
    assert data.without(()).cache == data.whole().cache


def test_runs_recognise_their_task(data: ClosedSet) -> None:
    tasks = [data.whole(), data.without(("ada",)), data.without(("bob",)), data.shuffled(0)]
    tasks.append(data.shuffled(1))
    assert len({task.cache.training_sha256 for task in tasks}) == len(tasks)
    assert data.shuffled(1).cache == data.shuffled(1).cache


def test_shuffling_keeps_counts_and_the_test_fold(data: ClosedSet) -> None:
    task = data.shuffled(3)
    for before, after in ((data.train, task.data.train), (data.val, task.data.val)):
        assert sorted(before.labels.tolist()) == sorted(after.labels.tolist())
        assert before.labels.tolist() != after.labels.tolist()
        assert before.hashes.tolist() == after.hashes.tolist()
    assert task.test.labels.tolist() == data.test.labels.tolist()


def test_a_killed_training_runs_again_alone_and_the_tables_are_the_same(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    pytest.importorskip("ray", reason='Ray is not installed: pip install "leaknet[ray]"')
    if not pytestconfig.getoption("--full"):
        pytest.skip("four processes train: run it with --full")
    begun = printed(Path(__file__).with_name("acting.py"), tmp_path)
    assert begun.pop("leave-1-out-fold1-seed3") == 2
    # 1 on all generators, 2 further leave-out folds, 1 on shuffled labels, 2 rows of the ablation.
    assert sorted(begun.values()) == [1] * 6
