"""Table 2: the dual mode detects its own treatment of the images, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KernelDensity

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings, concatenate
from leaknet.experiments.attention_modes import (
    MODES,
    detect,
    gate_of,
    gate_weights,
    halves,
    summarise_modes,
    untrained_gate,
)
from tests.leaknet.experiments.synthetic import embeddings
from tests.leaknet.tiny import tiny_model


@pytest.fixture(scope="module")
def known() -> Embeddings:
    sizes = {"train": 150, "val": 60, "test": 120}
    return concatenate([embeddings(n, fold, seed=7, dimension=64) for fold, n in sizes.items()])


@pytest.fixture(scope="module")
def same() -> Embeddings:
    """Images of the very distribution of the known, called open."""
    return embeddings(60, "open", seed=8, dimension=64, label="eve")


def test_dual_scores_near_one_on_equal_distributions_with_an_untrained_gate(
    known: Embeddings, same: Embeddings
) -> None:
    gate = untrained_gate(64, seed=0)
    values = {m: detect(m, gate, known, same).values(None)[""]["auroc"][0] for m in MODES}
    assert values["dual"] > 0.99
    assert 0.35 < values["both_off"] < 0.65
    assert 0.35 < values["both_on"] < 0.65


def test_the_control_gives_dual_away(known: Embeddings) -> None:
    found = summarise_modes([known, known], [], [untrained_gate(64, seed=s) for s in (1, 2)])
    assert found["dual"].unknown is None
    assert found["dual"].control["auroc"].value > 0.99
    assert found["dual"].control_untrained["auroc"].value > 0.99
    for honest in ("both_off", "both_on"):
        assert 0.35 < found[honest].control["auroc"].value < 0.65


def test_modes_are_kernel_densities_of_the_gated_embeddings(
    known: Embeddings, same: Embeddings
) -> None:
    gate = untrained_gate(64, seed=3)
    found = detect("both_on", gate, known, same)

    def gated(e: Embeddings) -> np.ndarray:
        weights = torch.sigmoid(gate.linear(torch.from_numpy(e.vectors))).detach().numpy()
        return e.vectors * weights

    train = gated(known.select("train"))
    mean, scale = train.mean(axis=0), train.std(axis=0)
    density = KernelDensity(bandwidth=1.0).fit((train - mean) / scale)
    inside, outside = (
        density.score_samples((gated(e) - mean) / scale) for e in (known.select("test"), same)
    )
    truth = np.repeat([1, 0], [len(inside), len(outside)])
    expected = roc_auc_score(truth, np.concatenate([inside, outside]))
    ours = found.values(None)[""]["auroc"][0]
    # The bandwidth is chosen on validation images: near the reference's, not equal to it.
    assert ours == pytest.approx(expected, abs=0.05)


def test_the_gate_is_that_of_the_model() -> None:
    model = tiny_model()
    vectors = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    with torch.inference_mode():
        expected = model.latents.gate(torch.from_numpy(vectors))
    np.testing.assert_array_equal(gate_weights(gate_of(model), vectors), expected.numpy())


def test_a_model_without_a_gate_is_refused(known: Embeddings, same: Embeddings) -> None:
    with pytest.raises(ScoringError, match="has no gate"):
        detect("dual", gate_of(tiny_model("head.gate=false")), known, same)


def test_halves_part_prompts_and_lose_no_image(known: Embeddings) -> None:
    kept, posing = halves(known)
    assert len(kept) + len(posing) == len(known)
    test = kept.select("test")
    assert not set(test.groups.tolist()) & set(posing.groups.tolist())
    assert set(posing.folds.tolist()) == {"open"}
    assert not set(kept.hashes.tolist()) & set(posing.hashes.tolist())
