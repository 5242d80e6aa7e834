"""Logistic regression on measurements: choices on validation data, states, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from tiny_baselines import CLASSES, baseline_images

from leakcache.errors import TrainingError
from leaknet.baselines.base import BaselineOptions
from leaknet.baselines.linear_probe import STRENGTHS, LinearProbe


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
