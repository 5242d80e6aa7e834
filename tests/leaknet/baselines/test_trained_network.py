"""The loop that compared networks share: what it learns, keeps, repeats and refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_baselines import CLASSES
from torch import nn

from leakcache.errors import TrainingError
from leakcache.store.columns import ContrastTiles
from leakcache.store.source_images import SourceImages
from leaknet.baselines.base import BaselineOptions
from leaknet.baselines.pixel_networks import FreqNetwork
from leaknet.baselines.trained_network import (
    Recipe,
    TrainedNetwork,
    cropped,
    flipped,
    mean_over_views,
    standardised,
    step_decay,
)
from leaknet.metrics import closed_values

TILES = ContrastTiles(32, 2)

COUNTS = {"train": 8, "val": 4, "test": 6, "open": 2}


class Differences(nn.Module):
    """Mean absolute differences of neighbours, which the traces of `tiny_baselines` change."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.1)
        self.out = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        down = x.diff(dim=2).abs().mean(dim=(2, 3))
        right = x.diff(dim=3).abs().mean(dim=(2, 3))
        vectors = self.hidden(5 * torch.cat([down, right], dim=1))
        return vectors, self.out(torch.relu(self.drop(self.norm(vectors))))


class Small(TrainedNetwork):
    name = "small"
    recipe = Recipe(learning_rate=0.03, batch=8, epochs=20, patience=0)

    def build(self, classes):
        return Differences(classes)

    def rows(self, images):
        return images.pixels(TILES)

    def prepare(self, views, rng):
        return standardised(flipped(cropped(views, 24, rng), rng))


def fitted(images, kind=Small, **options):
    return kind(CLASSES, BaselineOptions(**options)).fit(images["train"], images["val"])


def test_it_learns_what_can_be_learnt(images):
    e = fitted(images).embed(images["test"])
    assert closed_values(e.logits, e.targets)["macro_auc"][0] > 0.95
    assert e.vectors.shape == (18, 8)
    assert (e.attention == 1).all()
    assert e.classes == CLASSES


class FrequencyNetwork(Small):
    """FreqNet, whose transforms have no low precision, in the shared loop."""

    recipe = Recipe(learning_rate=1e-3, batch=8, epochs=1)

    def build(self, classes):
        return FreqNetwork(classes)


@pytest.mark.parametrize("kind", [Small, FrequencyNetwork])
def test_bf16_rounds_the_network_and_nothing_else(images, kind):
    exact = kind(CLASSES, BaselineOptions())
    rounded = kind(CLASSES, BaselineOptions(precision="bf16")).restore(exact.state())
    expected, found = (one.embed(images["test"]).logits for one in (exact, rounded))
    assert found.dtype == np.float32
    error = np.abs(found - expected).max()
    assert 0 < error < 0.05 * np.abs(expected).max()
    learned = fitted(images, kind, precision="bf16", epochs=1).state().values()
    assert all(value.dtype != torch.bfloat16 for value in learned)


def test_the_seed_decides_everything_and_the_global_generator_nothing(images):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = fitted(images, epochs=2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = fitted(images, epochs=2), fitted(images, epochs=2, seed=1)
    same = [torch.equal(a, b) for a, b in zip(*_states(first, again), strict=True)]
    assert all(same)
    assert not torch.equal(first.network.out.weight, other.network.out.weight)


def _states(*baselines):
    return [list(baseline.state().values()) for baseline in baselines]


def test_an_image_has_the_same_row_in_any_company(images):
    baseline = fitted(images, epochs=1)
    whole = baseline.embed(images["test"])
    alone = baseline.embed(images["test"].take(np.array([7, 0])))
    np.testing.assert_allclose(whole.vectors[[7, 0]], alone.vectors, atol=1e-5)
    np.testing.assert_allclose(whole.logits[[7, 0]], alone.logits, atol=1e-5)


def test_open_images_pass_through_the_same_call(images):
    baseline = fitted(images, epochs=1)
    e = baseline.embed(replace(images["open"], labels=np.array(["eve"] * 6)))
    assert set(e.labels.tolist()) == {"eve"}
    assert np.isfinite(e.logits).all()


def test_what_was_learned_can_be_taken_over(images):
    baseline = fitted(images, epochs=2)
    other = Small(CLASSES, BaselineOptions(seed=9)).restore(baseline.state())
    np.testing.assert_array_equal(
        baseline.embed(images["test"]).logits, other.embed(images["test"]).logits
    )
    assert baseline.parameters == 6 * 8 + 8 + 2 * 8 + 8 * 3 + 3


class Scripted(Small):
    """Validation goes as the test says; its weights tell how many epochs they have seen."""

    ranks: tuple[tuple[float, float], ...] = ()
    seen = 0

    def _train(self, optimiser, data, epoch, epochs, advance):
        self.seen = epoch
        with torch.no_grad():
            self.network.out.bias.fill_(float(epoch))

    def _validate(self, rows, targets):
        return self.ranks[self.seen - 1]


@pytest.mark.parametrize(
    ("ranks", "patience", "kept", "seen"),
    [
        ([(0.5, -1), (0.8, -2), (0.7, 0), (0.6, 0)], 0, 2, 4),
        ([(0.5, -1), (0.8, -2), (0.8, -1), (0.6, 0)], 0, 3, 4),
        ([(0.9, -1), (0.8, -1), (0.8, -1), (1.0, 0)], 2, 1, 3),
        ([(0.0, 0), (0.0, 0), (0.0, 0), (0.0, 0)], 2, 4, 4),
    ],
)
def test_the_best_epoch_is_kept_and_patience_ends(images, ranks, patience, kept, seen):
    class Case(Scripted):
        recipe = Recipe(learning_rate=0.1, batch=8, epochs=4, patience=patience)

    Case.ranks = tuple(ranks)
    baseline = fitted(images, Case)
    assert baseline.network.out.bias[0] == kept
    assert baseline.seen == seen


def test_gradients_of_parts_add_up_to_those_of_the_batch(images):
    class NoNorm(Small):
        recipe = Recipe(learning_rate=0.1, batch=48, epochs=1, optimiser=torch.optim.SGD)

        def build(self, classes):
            network = Differences(classes)
            network.norm, network.drop = nn.Identity(), nn.Identity()
            return network

    class InParts(NoNorm):
        at_once = 7

    NoNorm.at_once = 48

    whole, parts = (fitted(images, kind) for kind in (NoNorm, InParts))
    for a, b in zip(*_states(whole, parts), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_a_rate_that_falls_in_steps():
    rate = step_decay(0.8, 10)
    assert [rate(epoch, 85) for epoch in (0, 9.99, 10, 25)] == [1, 1, 0.8, 0.8**2]


def test_folds_that_cannot_be_learnt_from(images):
    nothing = images["train"].take(np.array([], np.int64))
    with pytest.raises(TrainingError, match="the training fold is empty"):
        Small(CLASSES, BaselineOptions()).fit(nothing, images["val"])
    one = images["train"].take(np.array([0, 8]))
    val = images["val"].take(np.array([0]))
    assert len(Small(CLASSES, BaselineOptions(epochs=1)).fit(one, val).embed(val)) == 1


def test_a_loss_that_is_not_finite_is_refused(images):
    class Broken(Small):
        def prepare(self, views, rng):
            return super().prepare(views, rng) * math.inf

    with pytest.raises(TrainingError, match="loss is not finite"):
        fitted(images, Broken)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 99))
def test_views_are_pooled_by_their_mean_probabilities(views, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(3, views, classes, generator=generator, dtype=torch.float64)
    pooled = mean_over_views(logits)
    torch.testing.assert_close(
        torch.softmax(pooled, dim=-1), torch.softmax(logits, dim=-1).mean(dim=1)
    )
    torch.testing.assert_close(pooled.logsumexp(dim=-1), logits.logsumexp(dim=-1).mean(dim=1))
    torch.testing.assert_close(mean_over_views(logits[:, :1]), logits[:, 0])


def test_crops_lie_within_and_on_the_grid():
    views = np.arange(2 * 20 * 30 * 3, dtype=np.uint32).reshape(2, 20, 30, 3)
    views = (views % 251).astype(np.uint8)
    rng = np.random.default_rng(0)
    places = set()
    for _ in range(60):
        for number, crop in enumerate(cropped(views, 16, rng, grid=2)):
            found = [
                (top, left)
                for top in range(5)
                for left in range(15)
                if np.array_equal(views[number, top : top + 16, left : left + 16], crop)
            ]
            places |= set(found[:1])
    assert places == {(top, left) for top in (0, 2, 4) for left in range(0, 15, 2)}
    np.testing.assert_array_equal(cropped(views, 16, None, grid=2), views[:, 2:18, 6:22])
    with pytest.raises(IndexError):
        cropped(views, 24, None)


def test_flips_mirror_some_views_left_to_right():
    views = np.random.default_rng(0).integers(0, 256, (40, 4, 5, 3), np.uint8)
    done = flipped(views, np.random.default_rng(1))
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(done, views, strict=True)]
    kept = [np.array_equal(a, b) for a, b in zip(done, views, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 8 < sum(mirrored) < 32
    assert flipped(views, None) is views


def test_colours_are_standardised_per_channel():
    views = np.full((1, 2, 2, 3), (0, 255, 51), np.uint8)
    x = standardised(views, (0.5, 0.5, 0.1), (0.5, 0.25, 0.1))
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([-1.0, 2.0, 1.0]))
    assert x.shape == (1, 3, 2, 2)


def test_pixels_are_decoded_once(images, monkeypatch):
    fitted(images, epochs=1)
    monkeypatch.setattr(SourceImages, "data", lambda self, row: pytest.fail("a file was read"))
    fitted(images, epochs=1)
