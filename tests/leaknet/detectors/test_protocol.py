"""What holds for every detector alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import DETECTORS, ClassScorer, Detector
from leaknet.metrics import auroc

Maker = Callable[..., Embeddings]

every = pytest.mark.parametrize("kind", DETECTORS, ids=lambda kind: kind.name)


def joined(*parts: Embeddings) -> Embeddings:
    columns = ("vectors", "logits", "attention", "labels", "groups", "folds", "hashes", "paths")
    stacked = {name: np.concatenate([getattr(p, name) for p in parts]) for name in columns}
    return replace(parts[0], **stacked)


def test_names_are_unique() -> None:
    assert len({kind.name for kind in DETECTORS}) == len(DETECTORS)


@every
def test_scores_are_finite_and_one_per_image(
    kind: type[Detector], train: Embeddings, val: Embeddings, test: Embeddings
) -> None:
    detector = kind().fit(train, val)
    scores = detector.score_samples(test)
    assert scores.shape == (60,)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    assert detector.score_samples(test.select("train")).shape == (0,)
    alone = [detector.score_samples(test.take(np.array([i])))[0] for i in range(3)]
    np.testing.assert_allclose(alone, scores[:3], rtol=1e-9)


@every
def test_higher_is_more_like_the_known(
    kind: type[Detector], train: Embeddings, val: Embeddings, test: Embeddings, unknown: Embeddings
) -> None:
    detector = kind().fit(train, val)
    assert auroc(detector.score_samples(test), detector.score_samples(unknown)) > 0.9


@every
def test_class_scores_attribute(
    kind: type[Detector], train: Embeddings, val: Embeddings, test: Embeddings
) -> None:
    detector = kind().fit(train, val)
    if not isinstance(detector, ClassScorer):
        pytest.skip("scores images only")
    scores = detector.class_scores(test)
    assert (scores.argmax(axis=1) == test.targets).mean() > 0.9
    np.testing.assert_array_equal(detector.score_samples(test), scores.max(axis=1))


@every
def test_state_survives_as_tensors(
    kind: type[Detector], train: Embeddings, val: Embeddings, test: Embeddings, tmp_path: Path
) -> None:
    fitted = kind().fit(train, val)
    save_file(fitted.state(), tmp_path / "scorer.safetensors")
    again = kind.from_state(load_file(tmp_path / "scorer.safetensors"))
    np.testing.assert_array_equal(again.score_samples(test), fitted.score_samples(test))


@every
def test_state_is_complete_or_refused(
    kind: type[Detector], train: Embeddings, val: Embeddings
) -> None:
    with pytest.raises(ScoringError, match=f"{kind.name} has not been fitted"):
        kind().state()
    with pytest.raises(ScoringError, match="has not been fitted"):
        kind().score_samples(val)
    state = kind().fit(train, val).state()
    state.pop(sorted(state)[0])
    with pytest.raises(ScoringError, match="fit it again"):
        kind.from_state(state)


@every
@pytest.mark.parametrize("fold", ["open", "test"])
@pytest.mark.parametrize("where", [0, 1])
def test_refuses_to_learn_from_open_or_test_images(
    kind: type[Detector], fold: str, where: int, train: Embeddings, val: Embeddings, make: Maker
) -> None:
    sets = [train, val]
    sets[where] = joined(sets[where], make((1, 0, 0), fold))
    with pytest.raises(ScoringError, match=rf"{fold}/0\.png of fold '{fold}'"):
        kind().fit(*sets)


@every
def test_no_open_image_can_influence_any_choice(
    kind: type[Detector], train: Embeddings, val: Embeddings, make: Maker
) -> None:
    """The same table but for its open rows gives the same state, to the last bit."""
    states = []
    for seed, size in ((5, 30), (6, 3)):
        extreme = make((size, 0, 0, size), "open", seed=seed)
        extreme = replace(extreme, vectors=100 * extreme.vectors, logits=-extreme.logits)
        table = joined(extreme, train, val, make((2, 2, 2), "test", seed=seed))
        states.append(kind().fit(table.select("train"), table.select("val")).state())
    assert states[0].keys() == states[1].keys()
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name])


@every
@pytest.mark.parametrize("counts", [(40, 0, 20), (40, 1, 20)])
def test_a_class_without_images_is_named_instead_of_winning(
    kind: type[Detector], counts: tuple[int, ...], make: Maker, val: Embeddings
) -> None:
    message = rf"'beta' has {counts[1]} training images"
    with pytest.raises(ScoringError, match=message):
        kind().fit(make(counts, "train"), val)


@every
def test_identical_embeddings_are_refused_in_one_line(
    kind: type[Detector], train: Embeddings, val: Embeddings
) -> None:
    same = replace(train, vectors=np.full_like(train.vectors, 0.1))
    with pytest.raises(ScoringError, match="90 training embeddings are identical") as caught:
        kind().fit(same, val)
    assert "\n" not in str(caught.value)


@every
def test_refuses_other_classes_and_no_validation(
    kind: type[Detector], train: Embeddings, val: Embeddings
) -> None:
    with pytest.raises(ScoringError, match="no validation images"):
        kind().fit(train, val.select("train"))
    with pytest.raises(ScoringError, match="other classes"):
        kind().fit(train, replace(val, classes=("alpha", "gamma", "beta")))


@every
def test_two_classes_of_two_images_with_a_dead_dimension_are_enough(
    kind: type[Detector], make: Maker
) -> None:
    def small(e: Embeddings) -> Embeddings:
        vectors = e.vectors.copy()
        vectors[:, 0] = 3.3
        return replace(e, vectors=vectors, logits=e.logits[:, :2], classes=("alpha", "beta"))

    train, val = small(make((2, 2), "train")), small(make((1, 0), "val", seed=1))
    test = small(make((5, 5), "test", seed=2))
    scores = kind().fit(train, val).score_samples(test)
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) > 1
