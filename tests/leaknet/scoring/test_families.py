"""Families of a trained run: learnt from validation images, answered with, shown in the report."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from leakcache.store.cache import Cache
from leaknet.calibration.families import FILE, read_families
from leaknet.data.embeddings import Embeddings
from leaknet.report.report import write_page
from leaknet.scoring.predict import Predictor
from leaknet.scoring.score_run import score_run
from leaknet.scoring.validation_facts import families_of, read_relations, relations
from leaknet.training.run_folder import RunFolder
from tests.leaknet.scoring.conftest import GENERATORS


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
