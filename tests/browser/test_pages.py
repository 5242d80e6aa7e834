"""Pages that are files: accessible, no wider than the window, without errors and requests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leaknet.explain import explain_image
from leaknet.explain.page import PAGE, write_explanations
from leaknet.report.comparison_pages import write_atlas, write_clusters, write_comparison
from leaknet.report.page import MARGIN, write_figures
from leaknet.report.report import write_page
from leaknet.report.traces import make_atlas
from leaknet.scoring.predict import Predictor
from leaknet.scoring.same_source import Clustering, SourceComparison
from tests.browser.conftest import CHROMIUM, Visit
from tests.leaknet.report.runs import Recipe, write_run
from tests.leaknet.report.test_atlas import images
from tests.leaknet.scoring.test_same_source import CALIBRATION
from tests.leaknet.small_run import small_run
from tests.tiny_data import tiny_image

Open = Callable[[str], Visit]
SORTED = """(column) => [...document.querySelectorAll("#closed table.compact tbody tr")]
  .map((row) => Number(row.cells[column].dataset.sort))"""


def test_report(tmp_path: Path, visit: Open, screenshots: Path | None) -> None:
    run = write_run(
        tmp_path / "run", Recipe(preset="best", keep_unknown=True, images=20, apart=1.2)
    )
    found = visit(write_page([run]).as_uri())
    heading = found.page.locator("#closed table.compact th").nth(2)
    heading.get_by_role("button").click()
    falling = found.page.evaluate(SORTED, 2)
    assert falling == sorted(falling, reverse=True)
    heading.get_by_role("button").click()
    assert found.page.evaluate(SORTED, 2) == falling[::-1]
    assert heading.get_attribute("aria-sort") == "ascending"
    found.check("report", screenshots)
    found.page.emulate_media(media="print")
    found.page.set_viewport_size({"width": 720, "height": 1000})  # A4 less its margins
    assert found.page.evaluate("document.documentElement.scrollWidth") <= 720
    assert not found.page.locator("nav").is_visible()
    assert found.page.locator("details dl").first.is_visible()
    assert found.page.pdf(format="A4").startswith(b"%PDF")


def test_runs_side_by_side(tmp_path: Path, visit: Open, screenshots: Path | None) -> None:
    runs = [write_run(tmp_path / name, Recipe(preset=name)) for name in ("best", "paper")]
    visit(write_page(runs).as_uri()).check("comparison", screenshots)


def test_atlas(tmp_path: Path, visit: Open, screenshots: Path | None) -> None:
    page = tmp_path / "atlas.html"
    write_atlas(make_atlas(images()), "caches/photos", tmp_path, page)
    visit(page.as_uri()).check("atlas", screenshots)


def test_explanation(
    tmp_path: Path, predictor: Predictor, visit: Open, screenshots: Path | None
) -> None:
    path = tmp_path / "suspect.png"
    tiny_image(5, (144, 136)).save(path)
    latents = Predictor(small_run(tmp_path, 10, "paper"), device="cpu")
    write_explanations([explain_image(run, path) for run in (predictor, latents)], "run", tmp_path)
    visit((tmp_path / PAGE).as_uri()).check("explanation", screenshots)


@pytest.fixture
def compared(tmp_path: Path) -> SourceComparison:
    """Nine images whose chances of one source have every colour, and a file that is none."""
    ratios = np.linspace(-1.5, 1.5, 81).reshape(9, 9)
    ratios = (ratios + ratios.T) / 2
    paths = [tmp_path / f"suspects/a rather long name of an image {i}.png" for i in range(9)]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        Image.fromarray(np.asarray(tiny_image(number))).save(path)
    return SourceComparison(
        tuple(map(str, paths)), ratios, (("junk.png", "no image"),), CALIBRATION
    )


def test_sources(
    tmp_path: Path, compared: SourceComparison, visit: Open, screenshots: Path | None
) -> None:
    page = tmp_path / "same.html"
    write_comparison(compared, tmp_path / "run", page)
    visit(page.as_uri()).check("same", screenshots)
    write_clusters(Clustering.of(compared), tmp_path / "run", page)
    visit(page.as_uri()).check("cluster", screenshots)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_figures_as_png(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    square = '<i style="display: block; width: {0}px; height: 50px; background: {1}"></i>'
    page.write_text(
        "<html><head></head><body><h1>Heading</h1>"
        f'<p>Words</p><figure id="figure-one">{square.format(100, "#f00")}</figure>'
        f'<div class="scroll" id="figure-two">{square.format(300, "#00f")}</div></body></html>'
    )
    files = write_figures(str(CHROMIUM), page, tmp_path / "figures")
    assert [file.name for file in files] == ["one.png", "two.png"]
    for file, width, colour in zip(files, (200, 600), ((255, 0, 0), (0, 0, 255)), strict=True):
        with Image.open(file) as image:
            assert image.size[0] == pytest.approx(width + 2 * MARGIN, abs=MARGIN)
            colours = image.getcolors()
        assert {found for _, found in colours} == {(255, 255, 255), colour}
