"""The classifier keeps scikit-learn's contract, and prompt groups count."""

from __future__ import annotations

from unittest import SkipTest

import numpy as np
import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from leaknet import LeakClassifier


@pytest.mark.filterwarnings("ignore")
def test_it_keeps_the_contract_of_estimators() -> None:
    failed = {}
    for estimator, check in estimator_checks_generator(LeakClassifier()):
        try:
            check(estimator)
        except SkipTest:
            continue
        except Exception as error:
            failed[check.func.__name__] = repr(error)
    assert failed == {}


def test_probabilities_are_calibrated_by_groups_left_out() -> None:
    rng = np.random.default_rng(0)
    prompts = rng.normal(size=(30, 40)) * 3
    labels = np.tile(["ada", "bob"], 30)
    shift = np.where(labels == "ada", 0.0, 1.0)[:, None] * np.eye(40)[0]
    rows = np.repeat(prompts, 2, axis=0) * 0.1 + shift + rng.normal(size=(60, 40))
    groups = np.repeat(np.arange(30), 2)
    fitted = LeakClassifier().fit(rows, labels, groups)
    fresh = rng.normal(size=(400, 40))
    fresh[200:, 0] += 1
    chances = fitted.predict_proba(fresh)
    truth = np.repeat([0, 1], 200)
    assert (fitted.predict(fresh) == fitted.classes_[truth]).mean() > 0.55
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == truth
    assert abs(confidence.mean() - right.mean()) < 0.15
