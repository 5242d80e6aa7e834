"""Both branches beside each other: each as it is alone, weighted by held-out prompt groups."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from leaknet.data.columns import TrainingData
from leaknet.files import read_tensors
from leaknet.model.inference import embed
from leaknet.training.fuse import held_out_groups
from leaknet.training.run_folder import EpochRecord, RunFolder
from leaknet.training.train import TrainResult
from tests.leaknet.model.test_statistics_branch import PIXELS, data, with_statistics
from tests.leaknet.tiny import CLASSES, fit_tiny, tiny_split

CPU = torch.device("cpu")
BOTH = (*PIXELS, "statistics.degraded=false", "train.epochs=2", "train.patience=0")


class Stopped(Exception):
    """Ends a training."""


@pytest.fixture(scope="module")
def training_data() -> TrainingData:
    return data()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, training_data: TrainingData) -> TrainResult:
    return fit_tiny(tmp_path_factory.mktemp("both") / "run", *BOTH, data=training_data)


@pytest.mark.parametrize("name", ["latents", "statistics"])
def test_a_branch_is_the_same_alone_and_beside_the_other(
    name: str, both: TrainResult, training_data: TrainingData, tmp_path: Path
) -> None:
    alone = [f"{other}.enabled={str(other == name).lower()}" for other in ("latents", "statistics")]
    result = fit_tiny(tmp_path / "alone", *BOTH, *alone, data=training_data)
    one, two = (read_tensors(run.run.weights)[0] for run in (both, result))
    own = [key for key in two if key.startswith(f"{name}.")]
    assert own
    assert all(torch.equal(one[key], two[key]) for key in own)
    split = with_statistics(tiny_split(12, "test", seed=5), 5)
    single = embed(result.run.load_model(CPU), split)
    double = embed(both.run.load_model(CPU), split)
    np.testing.assert_array_equal(double.branches[name], single.logits)


def test_every_epoch_belongs_to_a_branch(both: TrainResult) -> None:
    assert [(e.branch, e.epoch) for e in both.epochs] == [
        ("latents", 1),
        ("latents", 2),
        ("statistics", 1),
        ("statistics", 2),
    ]
    assert set(both.best) == {"latents", "statistics"}


def test_the_weights_are_those_of_held_out_groups(both: TrainResult) -> None:
    fusion, model = both.run.fusion(), both.run.load_model(CPU)
    assert set(fusion["weights"]) == {"latents", "statistics"}
    assert min(fusion["weights"].values()) >= 0
    assert sum(fusion["weights"].values()) == pytest.approx(1)
    assert fusion["images"] == int(held_out_groups(data().train.groups).sum())
    assert float(model.weights.max()) >= 1


def test_one_fifth_of_the_groups_is_held_out() -> None:
    groups = np.repeat(np.arange(20), 3)
    held = held_out_groups(groups)
    assert len(set(groups[held])) == 4
    assert not set(groups[held]) & set(groups[~held])


def test_a_branch_of_weight_zero_has_no_effect(both: TrainResult) -> None:
    model = both.run.load_model(CPU)
    split = with_statistics(tiny_split(12, "test", seed=5), 5)
    model.weights.copy_(torch.tensor([0.0, 1.0]))
    found = embed(model, split)
    assert model.statistics is not None
    with torch.no_grad():
        vectors, attention = model.statistics.eval().embed(split)
        logits = model.statistics.classify(vectors, attention).logits
    np.testing.assert_array_equal(found.vectors, vectors.numpy())
    np.testing.assert_array_equal(found.logits, logits.numpy())
    np.testing.assert_array_equal(found.logits, found.branches["statistics"])


def test_embeddings_follow_the_weights(both: TrainResult) -> None:
    """Logits of the model can be computed from its embedding alone."""
    model = both.run.load_model(CPU)
    model.weights.copy_(torch.tensor([0.25, 1.0]))
    table = embed(model, with_statistics(tiny_split(12, "test", seed=5), 5))
    # Then the coordinates of the two-covariance model, one fewer than classes, and novelty.
    assert table.vectors.shape[1] == 2 * model.config.head.dimension + len(model.classes)
    with torch.no_grad():
        again = model.classify(torch.from_numpy(table.vectors))
    np.testing.assert_allclose(again.numpy(), table.logits, atol=1e-3)
    expected = 0.25 * table.branches["latents"] + table.branches["statistics"]
    np.testing.assert_allclose(table.logits, expected, atol=1e-4)


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_an_interrupted_training_of_both_ends_in_the_same_bytes(
    after: int, both: TrainResult, training_data: TrainingData, tmp_path: Path
) -> None:
    done = 0

    def stop(record: EpochRecord) -> None:
        nonlocal done
        done += 1
        if done == after:
            raise Stopped

    with pytest.raises(Stopped):
        fit_tiny(tmp_path / "run", *BOTH, data=training_data, on_epoch=stop)
    assert not RunFolder(tmp_path / "run").finished
    result = fit_tiny(tmp_path / "run", *BOTH, data=training_data)
    assert result.resumed_after == after
    assert result.run.weights.read_bytes() == both.run.weights.read_bytes()


@pytest.mark.parametrize("training", [True, False])
def test_exactly_the_columns_of_a_model_are_enough(both: TrainResult, training: bool) -> None:
    config = both.run.record().config
    images = with_statistics(tiny_split(9, "test", seed=5), 5)
    names = config.columns(training=training)
    assert set(names) == {"z0", "pixel_statistics"}
    model = both.run.load_model(CPU)
    for branch in model.branches.values():
        own = {name: images[name] for name in branch.columns(training=training)}
        branch.embed(replace(images, columns=own))
    exact = replace(images, columns={name: images[name] for name in names})
    assert embed(model, exact).logits.shape == (9, len(CLASSES))


def test_history_is_json_with_the_branch(both: TrainResult) -> None:
    lines = both.run.history.read_text().splitlines()
    assert [json.loads(line)["branch"] for line in lines] == ["latents"] * 2 + ["statistics"] * 2
