"""Families: learnt where their generators are confused, calibrated, named in answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from leakcache.errors import RunError
from leakcache.store.cache import Cache
from leaknet.calibration import Calibration
from leaknet.calibration.conformal import prediction_sets as conformal_sets
from leaknet.calibration.decision import FAMILY, KNOWN, UNKNOWN, UNSURE, decide, doubt
from leaknet.data.embeddings import Embeddings
from leaknet.report.report import write_page
from leaknet.scoring.families import (
    FILE,
    Families,
    FamilyCalibration,
    families_of,
    load_families,
    read_families,
    read_relations,
    relations,
    write_families,
)
from leaknet.scoring.predict import Predictor
from leaknet.scoring.score_run import score_run
from leaknet.training.run_folder import RunFolder
from tests.leaknet.scoring.conftest import GENERATORS

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


@pytest.fixture
def run(source_run: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(source_run, tmp_path / "run"))


def test_relations_are_mean_ratios_between_images_of_different_prompts(source_run: Path) -> None:
    folder = RunFolder(source_run)
    model = folder.load_model(torch.device("cpu"))
    val = Embeddings.load(folder.embeddings).select("val")
    found = relations(model, val)
    assert found is not None
    stored = read_relations(source_run, folder.fingerprint())
    assert stored is not None
    np.testing.assert_allclose(stored[0], found[0], atol=1e-6)
    assert read_relations(source_run, "other weights") is None
    branch = model.statistics
    assert branch is not None
    calibration = branch.sources.pair_calibration
    assert calibration is not None
    vectors = torch.from_numpy(val.vectors)
    coordinates = branch.coordinates(model.split(vectors)["statistics"])
    ratios = branch.sources.same_source(coordinates, calibration)
    one, other = val.labels == "ada", val.labels == "cyd"
    pairs = [
        ratios[i, j]
        for i in np.flatnonzero(one)
        for j in np.flatnonzero(other)
        if val.groups[i] != val.groups[j]
    ]
    assert found[0][0, 2] == pytest.approx(np.mean(pairs))
    np.testing.assert_array_equal(found[0], found[0].T)


def test_families_are_named_after_what_their_members_share() -> None:
    classes = ("sd-1.5", "other", "sd-2.1", "flux", "abc")
    matrix = np.full((5, 5), -1.0)
    for one, two in ((0, 2), (3, 4)):
        matrix[one, two] = matrix[two, one] = 1.0
    np.fill_diagonal(matrix, 2.0)
    found = families_of(matrix, classes, 0.3)
    assert list(found.values()) == [["sd-1.5", "sd-2.1"], ["flux", "abc"]]
    assert list(found) == ["sd-1.5", "flux"]
    assert families_of(matrix, classes, -100.0) == {}
    longer = families_of(matrix, ("play-1", "play", "play-2", "flux", "abc"), 0.3)
    assert list(longer) == ["play-1 and related", "flux"]


def test_an_edited_family_is_the_answer_where_its_members_remain(
    source_run: Path, run: Path
) -> None:
    assert (run / FILE).is_file()
    (run / FILE).write_text('everything = ["ada", "bob", "cyd", "dan"]\n', encoding="utf-8")
    predictor = Predictor(run)
    images = sorted((source_run.parent / "images").rglob("*.png"))
    verdicts = []
    for answer in predictor.score(images[::3], alpha=0.3):
        assert answer.family == "everything"
        assert answer.family_probability == pytest.approx(1)
        if answer.known:
            named = answer.probability is not None and answer.probability >= 0.8
            assert answer.verdict in (("known", "family") if named else ("family",))
            verdicts.append(answer.verdict)
    assert verdicts
    (run / FILE).unlink()
    (plain,) = Predictor(run).score(images[:1])
    assert (plain.family, plain.family_probability) == ("", None)


def test_the_report_shows_tree_and_members(source_run: Path, run: Path) -> None:
    (run / FILE).write_text('first = ["ada", "bob"]\n', encoding="utf-8")
    score_run(run, Cache.open(source_run.parent / "cache"))
    page = write_page([run]).read_text(encoding="utf-8")
    section = page.split('<section id="families">')[1].split("</section>")[0]
    assert section.count('class="note"') == len(GENERATORS)
    assert "first" in section
    assert "ada, bob" in section
    named = read_families(run, GENERATORS)
    assert named is not None
    assert named.names == ("first", "cyd", "dan")
