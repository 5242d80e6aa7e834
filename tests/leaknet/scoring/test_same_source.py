"""`leak same` and `leak cluster` on images of generators that the run does not know."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli import leak
from leakcache.errors import RunError, ScoringError
from leaknet.model.pair_calibration import PairCalibration
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.report.comparison_pages import write_comparison
from leaknet.scoring.same_source import Clustering, SourceComparison, comparing_branch
from tests.leaknet.tiny import tiny_model


def same(run: Path, *words: str) -> Result:
    arguments = ["same", "--run", str(run), *words]
    return CliRunner().invoke(leak, arguments, catch_exceptions=False)


@pytest.fixture(scope="module")
def answers(source_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON for a folder of two unknown generators and two files that are no such images."""
    folder = tmp_path_factory.mktemp("folder") / "all"
    shutil.copytree(source_run.parent / "new", folder)
    Image.new("RGB", (64, 64), (120, 130, 140)).save(folder / "flat.png")
    (folder / "junk.png").write_bytes(b"junk")
    table = folder.parent / "pairs.csv"
    result = same(source_run, str(folder), "--json", "--csv", str(table))
    assert result.exit_code == 0
    return {**json.loads(result.stdout), "table": table}


def test_unknown_generators_are_told_apart(answers: dict[str, Any]) -> None:
    pairs = answers["pairs"]
    assert len(pairs) == 8 * 7 / 2
    for pair in pairs:
        one = Path(pair["first"]).parent == Path(pair["second"]).parent
        assert (pair["chance"] > 0.5) == one
        assert pair["answer"] in ("unsure", "same" if one else "different")
        assert pair["chance"] == pytest.approx(1 / (1 + 10 ** -pair["log10_lr"]))
        assert pair["verbal"].endswith("for it" if one else "against it")
    assert any(pair["answer"] == "same" for pair in pairs)
    calibration = answers["calibration"]
    assert calibration["generators"] == 4
    assert all(calibration["low"] <= p["log10_lr"] <= calibration["high"] for p in pairs)


def test_files_that_cannot_be_compared_are_listed(answers: dict[str, Any]) -> None:
    reasons = {Path(one["path"]).name: one["reason"] for one in answers["rejected"]}
    assert set(reasons) == {"flat.png", "junk.png"}
    assert "nearly blank" in reasons["flat.png"]


def test_the_table_holds_every_pair(answers: dict[str, Any]) -> None:
    with answers["table"].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["first"] for row in rows] == [pair["first"] for pair in answers["pairs"]]
    assert [float(row["log10_lr"]) for row in rows] == [p["log10_lr"] for p in answers["pairs"]]


def test_the_page_shows_matrix_and_dendrogram(answers: dict[str, Any]) -> None:
    page = Path(answers["page"]).read_text(encoding="utf-8")
    assert page.count("<svg") == 1
    assert page.count('class="note"') == 8
    assert page.count("eve/050.png, eve/051.png") == 1
    assert "nearly blank" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_two_images_get_a_line_and_no_page(source_run: Path, tmp_path: Path) -> None:
    (source_run / "same.html").unlink(missing_ok=True)
    files = [str(source_run.parent / "new" / name) for name in ("eve/050.png", "fay/051.png")]
    result = same(source_run, *files)
    assert result.exit_code == 0
    assert "at even prior odds" in result.stdout
    assert not (source_run / "same.html").exists()


def test_one_image_is_refused(source_run: Path) -> None:
    with pytest.raises(ScoringError, match="needs two images and there is 1"):
        same(source_run, str(source_run.parent / "new" / "eve" / "050.png"))


def test_runs_that_cannot_compare_are_refused() -> None:
    with pytest.raises(RunError, match="--preset best"):
        comparing_branch(tiny_model())
    few = ProtoLeakNet(tiny_model("statistics.enabled=true").config, ("a", "b"), (4, 16, 16))
    with pytest.raises(RunError, match="train on 4 generators or more"):
        comparing_branch(few)


def test_a_page_of_many_images_and_hostile_names(source_run: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    import torch

    from leaknet.training.run_folder import RunFolder

    model = RunFolder(source_run).load_model(torch.device("cpu"))
    _, calibration = comparing_branch(model)
    for count in (3, 61, 450):
        names = tuple(f"a/<b>{i}\x1b[2J.png" for i in range(count))
        ratios = np.random.default_rng(0).uniform(-1, 1, size=(count, count))
        found = SourceComparison(names, (ratios + ratios.T) / 2, (), replace(calibration))
        write_comparison(found, source_run, tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert "<b>" not in page
        assert ('id="matrix"' in page) == (count <= 60)
        assert ("<svg" in page) == (count <= 400)


CALIBRATION = PairCalibration(1.0, 0.0, -2.0, 2.0, 0.2, 0.9, 0.5, 100, 10)


def cluster(run: Path, *words: str) -> Result:
    arguments = ["cluster", "--run", str(run), *words]
    return CliRunner().invoke(leak, arguments, catch_exceptions=False)


def comparison(truth: list[int]) -> SourceComparison:
    labels = np.array(truth)
    ratios = np.where(labels[:, None] == labels, 1.0, -1.0)
    return SourceComparison(tuple(f"{i}.png" for i in range(len(truth))), ratios, (), CALIBRATION)


def test_clusters_are_the_largest_first_with_their_mean_ratios() -> None:
    found = Clustering.of(comparison([0, 1, 1, 2, 1, 2]))
    assert [one.images for one in found.clusters] == [(1, 2, 4), (3, 5), (0,)]
    assert [one.within for one in found.clusters] == [1.0, 1.0, None]
    assert [(one.nearest, one.between) for one in found.clusters] == [(2, -1.0), (1, -1.0), (1, -1)]
    assert [number for _, number in found.rows()] == [3, 1, 1, 2, 1, 2]


def test_images_of_one_source_are_one_cluster() -> None:
    (one,) = Clustering.of(comparison([0, 0, 0])).clusters
    assert (one.images, one.nearest, one.between) == ((0, 1, 2), None, None)


@pytest.fixture(scope="module")
def answer(source_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("folder") / "new"
    shutil.copytree(source_run.parent / "new", folder)
    (folder / "junk.png").write_bytes(b"junk")
    files = {name: str(folder.parent / name) for name in ("clusters.csv", "clusters.html")}
    options = ["--csv", files["clusters.csv"], "--out", files["clusters.html"]]
    result = cluster(source_run, str(folder), "--json", *options)
    assert result.exit_code == 0
    return {**json.loads(result.stdout), **files}


def test_unknown_generators_get_a_cluster_each(answer: dict[str, Any]) -> None:
    groups = [{Path(path).parent.name for path in one["images"]} for one in answer["clusters"]]
    assert groups in ([{"eve"}, {"fay"}], [{"fay"}, {"eve"}])
    assert [Path(one["path"]).name for one in answer["rejected"]] == ["junk.png"]
    with Path(answer["clusters.csv"]).open(encoding="utf-8", newline="") as file:
        rows = [(row["path"], int(row["cluster"])) for row in csv.DictReader(file)]
    assert dict(rows) == {
        path: one["number"] for one in answer["clusters"] for path in one["images"]
    }


def test_the_page_has_every_image(answer: dict[str, Any]) -> None:
    page = Path(answer["page"]).read_text(encoding="utf-8")
    assert page.count('src="data:image/jpeg;base64,') == 8
    assert page.count("<svg") == 1
    assert "2 sources in 8 images" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_the_terminal_says_how_many(source_run: Path) -> None:
    result = cluster(source_run, str(source_run.parent / "new"))
    assert result.exit_code == 0
    assert "2 sources in 8 images" in result.stdout
    assert (source_run / "clusters.html").is_file()
