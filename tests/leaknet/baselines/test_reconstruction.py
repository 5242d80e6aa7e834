"""Logistic regression on measurements; LPIPS by its definition, one column an autoencoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from tiny_baselines import CLASSES, baseline_images
from tiny_data import save, tiny_model
from torch.nn import functional as F

from leakcache.errors import TrainingError, WeightsError
from leakcache.store.columns import CROPS
from leaknet.baselines.base import BaselineOptions
from leaknet.baselines.reconstruction import (
    FILE,
    KEY,
    STRENGTHS,
    Aeroblade,
    LinearProbe,
    Lpips2,
    ReconstructionMSE,
)


class Noisy(LinearProbe):
    """Three columns, drawn from each image's hash: the class, noise, and a constant."""

    name = "noisy"
    noise = 0.5

    def measure(self, images):
        draws = [np.random.default_rng(int(h[:8], 16)).normal(size=2) for h in images.hashes]
        places = np.array([CLASSES.index(label) for label in images.labels])
        noise = np.array(draws).reshape(-1, 2)
        return np.column_stack([places + self.noise * noise[:, 0], noise[:, 1], 0 * places + 7.0])

    @property
    def parameters(self):
        return 0


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("linear")
    return tuple(
        baseline_images(folder, fold, count, side=8)
        for fold, count in (("train", 20), ("val", 10), ("test", 10))
    )


def fitted(train, val, kind=Noisy):
    return kind(CLASSES, BaselineOptions()).fit(train, val)


def test_the_logits_are_those_of_scikit_learn_at_the_best_strength(folds):
    train, val, test = folds
    baseline = fitted(train, val)
    centre, scale = baseline.measure(train).mean(axis=0), baseline.measure(train).std(axis=0)
    scale[scale == 0] = 1

    def standard(images):
        return (baseline.measure(images) - centre) / scale

    models = [
        LogisticRegression(C=c, max_iter=2000).fit(standard(train), train.targets(CLASSES))
        for c in STRENGTHS
    ]
    losses = [
        -model.predict_log_proba(standard(val))[np.arange(len(val)), val.targets(CLASSES)].sum()
        for model in models
    ]
    expected = models[int(np.argmin(losses))].predict_log_proba(standard(test))
    np.testing.assert_allclose(baseline.embed(test).logits, expected, atol=1e-3)
    assert (baseline.embed(test).logits.argmax(axis=1) == test.targets(CLASSES)).mean() > 0.6


def test_a_state_is_all_that_was_learned(folds):
    train, val, test = folds
    baseline = fitted(train, val)
    again = Noisy(CLASSES, BaselineOptions()).restore(baseline.state())
    assert (again.embed(test).logits == baseline.embed(test).logits).all()


def test_folds_may_be_tiny_and_classes_absent(folds):
    train, val, test = folds
    two = np.isin(train.labels, ("ada", "cyd"))
    baseline = fitted(train.take(two), val.take(np.arange(0)))
    logits = baseline.embed(test).logits
    assert logits.shape == (30, 3)
    assert (logits.argmax(axis=1) != 1).all()
    assert len(baseline.embed(test.take(np.arange(0)))) == 0
    model = LogisticRegression(C=1.0, max_iter=2000)
    x = baseline.measure(train.take(two))[:, :2]
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    model.fit(x, train.take(two).labels)
    mine = baseline.embed(train.take(two)).logits[:, [0, 2]]
    np.testing.assert_allclose(mine, model.predict_log_proba(x), atol=1e-3)


def test_one_class_cannot_be_learned_from(folds):
    train, val, _ = folds
    with pytest.raises(TrainingError, match="fewer than two classes"):
        fitted(train.take(train.labels == "ada"), val)


class SmallAeroblade(Aeroblade):
    name = "small-aeroblade"
    side = 32


class SmallMSE(ReconstructionMSE):
    name = "small-mse"
    side = 64


SHAPES = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128)}


def tensors(seed=0):
    draws = torch.manual_seed(seed)
    found = {KEY: torch.rand(1, 128, 1, 1, generator=draws)}
    for number, (width, channels) in SHAPES.items():
        weight = torch.randn(width, channels, 3, 3, generator=draws) / (9 * channels) ** 0.5
        found[f"features.{number}.weight"] = weight
        found[f"features.{number}.bias"] = torch.randn(width, generator=draws) / 10
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    save(tiny_model(), folder / "one")
    save_file(tensors(), folder / FILE)
    return folder


def by_hand(x, y, w):
    """The definition, written with functions alone."""

    def features(image):
        shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
        scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
        h = (image - shift) / scale
        for number in SHAPES:
            h = h if number != 5 else F.max_pool2d(h, 2)
            h = F.conv2d(h, w[f"features.{number}.weight"], w[f"features.{number}.bias"], padding=1)
            h = h.relu()
        return h / h.norm(dim=1, keepdim=True)

    return F.conv2d((features(x) - features(y)) ** 2, w[KEY]).mean(dim=(1, 2, 3))


def test_lpips_is_the_published_distance(weights):
    network = Lpips2.load(weights)
    assert sum(p.numel() for p in network.trunk.parameters()) == 260_160
    x, y = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(network(x, y), by_hand(x, y, tensors()), rtol=1e-4, atol=1e-6)
        assert network(x, x).abs().max() == 0
        torch.testing.assert_close(network(x, y), network(y, x))


def test_without_lpips_the_row_is_refused_with_the_cure(tmp_path, weights):
    for folder in (None, tmp_path):
        with pytest.raises(WeightsError, match=r"lpips-vgg.safetensors is missing: save") as error:
            Aeroblade(CLASSES, BaselineOptions(weights=folder))
        assert "\n" not in str(error.value)
    save_file({KEY: torch.ones(1, 128, 1, 1)}, tmp_path / FILE)
    with pytest.raises(WeightsError, match="contains other weights"):
        Aeroblade(CLASSES, BaselineOptions(weights=tmp_path))


@pytest.mark.parametrize("kind", [SmallAeroblade, SmallMSE])
def test_a_row_has_one_column_an_autoencoder(kind, weights, images):
    baseline = kind(CLASSES, BaselineOptions(weights=weights)).fit(images["train"], images["val"])
    found = baseline.embed(images["test"])
    assert found.vectors.shape == (3, 2)
    assert found.logits.shape == (3, 3)
    lpips = 260_160 + 128 if kind is SmallAeroblade else 0
    assert (
        baseline.parameters == sum(one.parameters for one in baseline.autoencoders) + 3 * 3 + lpips
    )


def test_the_plain_distance_is_the_mean_square(weights, images):
    baseline = SmallMSE(CLASSES, BaselineOptions(weights=weights))
    measured = 10 ** baseline.measure(images["test"])
    views = images["test"].pixels(CROPS)[:][:, 0, 96:160, 96:160]
    x = torch.from_numpy(views).permute(0, 3, 1, 2) / 127.5 - 1
    for column, one in enumerate(baseline.autoencoders):
        expected = (x - one.reconstruct(x)).square().mean(dim=(1, 2, 3))
        np.testing.assert_allclose(measured[:, column], expected, rtol=1e-4)
