"""`leak cluster`: groups of images of generators that the run does not know."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli import leak
from leaknet.model.pair_calibration import PairCalibration
from leaknet.sources.clustering import Clustering
from leaknet.sources.comparison import SourceComparison

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
