"""Families: the file, their probabilities, and prediction sets at their own level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leakcache.errors import RunError
from leaknet.calibration import Calibration
from leaknet.calibration.conformal import prediction_sets as conformal_sets
from leaknet.calibration.decision import FAMILY, KNOWN, UNKNOWN, UNSURE, decide, doubt
from leaknet.calibration.families import (
    FILE,
    Families,
    FamilyCalibration,
    load_families,
    read_families,
    write_families,
)
from leaknet.data.embeddings import Embeddings

CLASSES = ("ada", "bob", "cyd", "dan")
PAIR = Families.of({"a and b": ("ada", "bob")}, CLASSES)


def embeddings(fold: str, seed: int, prompts: int = 100) -> Embeddings:
    """Images whose pair ada and bob cannot be told apart, but from the others."""
    rng = np.random.default_rng(seed)
    targets = np.tile(np.arange(4), prompts)
    family = np.array([0, 0, 1, 2])
    logits = 4.0 * (family[targets][:, None] == family) + rng.normal(size=(len(targets), 4))
    names = np.array([f"{fold}{seed}{i // 4}" for i in range(len(targets))])
    return Embeddings(
        vectors=logits,
        logits=logits,
        attention=np.ones((len(targets), 1)),
        labels=np.array(CLASSES)[targets],
        groups=names,
        folds=np.full(len(targets), fold),
        hashes=names,
        paths=names,
        classes=CLASSES,
    )


def test_the_probability_of_a_family_is_the_sum_of_its_members():
    logs = np.log(np.array([[0.4, 0.3, 0.2, 0.1]]))
    assert PAIR.names == ("a and b", "cyd", "dan")
    np.testing.assert_allclose(np.exp(PAIR.log_probabilities(logs)), [[0.7, 0.2, 0.1]])
    assert PAIR.members(0, CLASSES) == ("ada", "bob")
    assert PAIR.members(2, CLASSES) == ("dan",)


@pytest.mark.parametrize("alpha", [0.02, 0.05, 0.1])
def test_the_right_family_is_missed_as_often_as_stated(alpha: float):
    val, test = embeddings("val", 1), embeddings("test", 2, prompts=1000)
    calibration = Calibration.fit(val, [])
    fitted = FamilyCalibration.fit(PAIR, calibration, val)
    logs = PAIR.log_probabilities(calibration.log_probabilities(test))
    sets = fitted.prediction_sets(logs, np.full(len(test), alpha))
    missed = 1 - sets[np.arange(len(test)), PAIR.index[test.targets]].mean()
    assert missed < alpha + 3 * np.sqrt(alpha / 200)
    alone = (sets.sum(axis=1) == 1).mean()
    of_classes = conformal_sets(
        calibration.conformity,
        calibration.log_probabilities(test),
        np.full(len(test), alpha),
    )
    assert alone > (of_classes.sum(axis=1) == 1).mean()


def test_families_are_named_rightly_where_single_generators_cannot_be():
    val, test = embeddings("val", 1), embeddings("test", 2, prompts=1000)
    calibration = Calibration.fit(val, [])
    fitted = FamilyCalibration.fit(PAIR, calibration, val)
    logs = calibration.log_probabilities(test)
    single = logs.max(axis=1) > calibration.naming_threshold(0.05)
    families = PAIR.log_probabilities(logs)
    named = families.max(axis=1) > fitted.naming_threshold(0.05)
    wrong = named & (families.argmax(axis=1) != PAIR.index[test.targets])
    assert wrong.mean() < 0.05 + 3 * np.sqrt(0.05 / 200)
    pair = test.targets < 2
    assert single[pair].mean() < 0.3
    assert named[pair].mean() > 0.9


def test_a_family_is_named_only_where_no_single_generator_is():
    several = ("ada", "bob")
    assert decide(0.5, several, 0.05).verdict == UNSURE
    named = decide(0.5, several, 0.05, family="a and b")
    assert (named.verdict, named.answer) == (FAMILY, "of the a and b family")
    assert decide(0.5, several, 0.05, family="a and b", generator="ada").verdict == KNOWN
    assert decide(0.01, several, 0.05, family="a and b").verdict == UNKNOWN
    assert doubt(named, {"flip": "known: ada"}, 8).answer == UNSURE


def test_a_file_is_read_as_written_and_as_edited(tmp_path: Path):
    assert read_families(tmp_path, CLASSES) is None
    write_families(tmp_path, {'the "first" two': ["ada", "bob"]})
    found = read_families(tmp_path, CLASSES)
    assert found is not None
    assert found.names == ('the "first" two', "cyd", "dan")
    (tmp_path / FILE).write_text('x = ["bob", "dan"]\n', encoding="utf-8")
    edited = read_families(tmp_path, CLASSES)
    assert edited is not None
    assert edited.names == ("ada", "x", "cyd")
    np.testing.assert_array_equal(edited.index, [0, 1, 2, 1])


def test_families_of_one_generator_each_are_none(tmp_path: Path):
    val = embeddings("val", 1)
    write_families(tmp_path, {})
    assert load_families(tmp_path, Calibration.fit(val, []), val) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x = [", "not readable as TOML"),
        ('x = "ada"', "must be a list"),
        ("x = []", "must be a list"),
        ('x = ["eve"]', "names eve, which is no generator"),
        ("x = [1]", "names 1"),
        ('x = ["ada"]\ny = ["ada"]', "ada is in x and in y"),
        ('cyd = ["ada", "bob"]', "is a generator outside the family"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, content: str, words: str):
    (tmp_path / FILE).write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=words) as caught:
        read_families(tmp_path, CLASSES)
    assert FILE in str(caught.value)
    assert "\n" not in str(caught.value)
