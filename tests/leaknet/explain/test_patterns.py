"""Evidence of the branch of noisy latents: planted places and features are found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from leaknet.data.columns import ImageColumns
from leaknet.explain.patterns import (
    LatentMap,
    LatentMargin,
    deletion,
    integrated_gradients,
    shuffled_agreement,
)
from leaknet.explain.position import prototypes_of
from leaknet.model.branch import PrototypeHead
from leaknet.model.latent_branch import LatentBranch
from leaknet.model.protoleaknet import ProtoLeakNet
from tests.leaknet.tiny import SHAPE, tiny_model, tiny_split

PLACE = (5, 9)


@pytest.fixture(scope="module")
def model() -> ProtoLeakNet:
    return tiny_model().eval()


@pytest.fixture(scope="module")
def branch(model: ProtoLeakNet) -> LatentBranch:
    assert model.latents is not None
    return model.latents


@pytest.fixture(scope="module")
def image() -> ImageColumns:
    return tiny_split(1, "test", views=2, seed=8)


class Planted(LatentMargin):
    """A margin that reads the square of one place alone."""

    def __call__(self, z0: torch.Tensor) -> torch.Tensor:
        return z0[:, :, PLACE[0], PLACE[1]].square().sum()


def test_gradients_sum_to_the_change_of_the_margin(
    branch: LatentBranch, image: ImageColumns
) -> None:
    found = integrated_gradients(LatentMargin(branch, image, (0, 1)), 64)
    assert found.values.shape == (2, *SHAPE[1:])
    assert found.gap < 0.05
    assert LatentMap(2 * found.values, found.margin, found.baseline).gap > 0.5


def test_the_margin_is_that_of_the_model(
    model: ProtoLeakNet, branch: LatentBranch, image: ImageColumns
) -> None:
    with torch.inference_mode():
        logits = model(image).branches["latents"][0]
        margin = LatentMargin(branch, image, (2, 1))
        assert float(margin(margin.z0)) == pytest.approx(float(logits[2] - logits[1]), abs=1e-5)


def test_the_baseline_is_the_channel_means(image: ImageColumns) -> None:
    branch = tiny_model().latents
    assert branch is not None
    from leakcache.store.cache import LatentMoments, Moments
    from tests.leaknet.tiny import moments_of, random_latents

    moments = moments_of(random_latents(64))
    shifted = Moments(moments.latent.count, moments.latent.mean + 3.0, moments.latent.m2)
    branch.features.fit(*vars(LatentMoments(shifted, moments.dct)).values())
    expected = torch.from_numpy(shifted.mean).float()[:, None, None].expand(SHAPE)
    torch.testing.assert_close(LatentMargin(branch, image, (0, 1)).baseline[1], expected)


def test_a_planted_place_is_found(branch: LatentBranch, image: ImageColumns) -> None:
    margin = Planted(branch, image, (0, 1))
    found = integrated_gradients(margin)
    assert set(zip(*np.nonzero(found.values)[1:], strict=True)) == {PLACE}
    assert found.gap < 1e-3
    drop, chance = deletion(margin, found, 16)
    change = found.margin - found.baseline
    assert drop == pytest.approx(change, rel=1e-4)
    assert chance < 0.7 * change


def test_deleting_by_a_wrong_map_finds_nothing(branch: LatentBranch, image: ImageColumns) -> None:
    margin = Planted(branch, image, (0, 1))
    right = integrated_gradients(margin)
    drop, chance = deletion(margin, replace(right, values=-right.values), 16)
    assert drop == pytest.approx(0, abs=1e-6)
    assert chance > drop


def test_shuffled_weights_show_whether_a_map_depends_on_the_weights(
    branch: LatentBranch, image: ImageColumns
) -> None:
    margin = LatentMargin(branch, image, (0, 1))
    free = shuffled_agreement(margin, integrated_gradients(margin, 8), 3)
    planted = Planted(branch, image, (0, 1))
    bound = shuffled_agreement(planted, integrated_gradients(planted), 3)
    assert free is not None
    assert free < 0.5
    assert bound == pytest.approx(1.0)
    flat = LatentMap(np.zeros((1, 4, 4)), 1.0, 1.0)
    assert shuffled_agreement(margin, flat, 1) is None


def test_terms_of_prototypes_sum_to_the_margin(
    model: ProtoLeakNet, branch: LatentBranch, image: ImageColumns
) -> None:
    with torch.inference_mode():
        output = branch.classify(*branch.embed(image))
    found = prototypes_of(branch, output.embedding, (1, 2), lambda prototype: ())
    assert found is not None
    expected = float(output.logits[0, 1] - output.logits[0, 2])
    assert found.margin == pytest.approx(expected, abs=1e-6)
    assert float(found.features.sum()) + found.rest == pytest.approx(expected, abs=1e-6)
    nearest = output.distances[0].argmin(dim=1)
    assert found.nearest == (int(nearest[1]), int(nearest[2]))
    difference = output.distances[0, 2, nearest[2]] - output.distances[0, 1, nearest[1]]
    assert float(found.features.sum()) == pytest.approx(float(difference), abs=1e-5)
    for shares, place in zip(found.responsibilities, found.nearest, strict=True):
        assert sum(shares) == pytest.approx(1)
        assert int(np.argmax(shares)) == place


def test_a_planted_feature_decides() -> None:
    branch = tiny_model("head.prototypes=1", "head.gate=false").latents
    assert branch is not None
    assert isinstance(branch.head, PrototypeHead)
    with torch.no_grad():
        branch.head.prototypes.zero_()
        branch.head.prototypes[1, 0, 3] = 2.0
    embedding = torch.zeros(1, 8)
    embedding[0, 3] = 2.0
    found = prototypes_of(branch, embedding, (1, 0), lambda prototype: ())
    assert found is not None
    np.testing.assert_allclose(found.features, np.eye(8)[3] * 4.0, atol=1e-6)
    assert found.rest == pytest.approx(0, abs=1e-6)


def test_a_linear_head_has_no_prototypes(image: ImageColumns) -> None:
    branch = tiny_model("head.prototypes=0").latents
    assert branch is not None
    assert prototypes_of(branch, torch.zeros(1, 8), (0, 1), lambda prototype: ()) is None
