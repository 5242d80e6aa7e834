"""Real or generated: against scikit-learn, and refused where there is nothing to tell."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from leakcache.errors import ScoringError
from leaknet.experiments.real_or_generated import check_real, summarise_real
from tests.leaknet.experiments.synthetic import embeddings
from tests.leaknet.tiny import CLASSES


@pytest.mark.parametrize("real", [("ada",), ("ada", "cyd")])
def test_equal_to_scikit_learn(real: tuple[str, ...]) -> None:
    e = embeddings(60, "test", seed=1, dimension=6, signal=0.5)
    found = summarise_real([e], [], real)
    truth = np.isin(e.labels, real)
    marked = np.isin(CLASSES, real)
    probability = softmax(e.logits.astype(np.float64), axis=1)[:, marked].sum(axis=1)
    assert found.known["auroc"].value == pytest.approx(roc_auc_score(truth, probability))
    said = probability > 0.5
    assert found.known["accuracy"].value == pytest.approx((said == truth).mean())
    assert found.known["balanced"].value == pytest.approx(balanced_accuracy_score(truth, said))
    assert not found.unknown


def test_unknown_generators_are_generated_too() -> None:
    e = embeddings(60, "test", seed=1, dimension=6)
    unknown = embeddings(30, "open", seed=5, dimension=6, signal=0.1, label="eve")
    found = summarise_real([e, e], [unknown, unknown], ("ada",))
    truth = np.repeat([1, 0], [(e.labels == "ada").sum(), len(unknown)])
    odds = [
        one.logits[:, 0] - np.logaddexp(one.logits[:, 1], one.logits[:, 2])
        for one in (e.take(e.labels == "ada"), unknown)
    ]
    assert found.unknown["auroc"].value == pytest.approx(roc_auc_score(truth, np.concatenate(odds)))
    assert found.unknown["called_generated"].value == pytest.approx((odds[1] <= 0).mean())
    assert found.as_dict()["unknown.auroc"] == found.unknown["auroc"].value


def test_marks_that_tell_nothing_apart_are_refused() -> None:
    with pytest.raises(ScoringError, match="--real zed"):
        check_real(("zed",), CLASSES)
    with pytest.raises(ScoringError, match="marks every class"):
        check_real(CLASSES, CLASSES)
    only = embeddings(30, "test").take(np.arange(0, 30, 3))
    with pytest.raises(ScoringError, match="no real or no generated"):
        summarise_real([only], [], ("ada",))
