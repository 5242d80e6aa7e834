"""Explanations of image files by small runs, their page, and the command."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import cli
from leakcache.errors import ImageError, LeakError
from leaknet.calibration import conformal_p_values, score_threshold
from leaknet.explain import Explanation, explain_image
from leaknet.explain.page import render, signed, write_explanations
from leaknet.scoring.predict import Predictor
from tests.leaknet.report.parsed import Node, parse
from tests.leaknet.small_run import small_run
from tests.tiny_data import tiny_image

STATISTICS = (
    "latents.enabled=false",
    "statistics.activations=false",
    "statistics.degraded=false",
)
HOSTILE = "<img src=x onerror=alert(1)>&\"'.png"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each branch."""
    root = tmp_path_factory.mktemp("runs")
    found = {}
    for name, overrides in (("best", STATISTICS), ("paper", ())):
        (root / name).mkdir()
        found[name] = small_run(root / name, 10, name, *overrides)
    return found


@pytest.fixture(scope="module")
def runs(folders: dict[str, Path]) -> dict[str, Predictor]:
    return {name: Predictor(folder, device="cpu") for name, folder in folders.items()}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image under a hostile name, large enough for several tiles."""
    path = tmp_path_factory.mktemp("images") / HOSTILE
    tiny_image(5, (144, 136)).save(path)
    return path


@pytest.fixture(scope="module")
def explained(runs: dict[str, Predictor], image: Path) -> dict[str, Explanation]:
    return {name: explain_image(run, image, 0.2) for name, run in runs.items()}


@pytest.mark.parametrize("name", ["best", "paper"])
def test_the_answer_is_that_of_scoring(
    name: str, runs: dict[str, Predictor], explained: dict[str, Explanation], image: Path
) -> None:
    run, found = runs[name], explained[name]
    (score,) = run.score([image], alpha=0.2)
    assert found.score == score
    assert found.first == score.generator
    assert {found.first, found.second} == {"ada", "bob"}
    assert found.margin >= 0
    assert found.position.p_value == score.p_value
    assert found.position.score == (score.scores or {})["kde"]


def test_statistics_explain_their_margin(explained: dict[str, Explanation]) -> None:
    found = explained["best"]
    assert found.latents is None
    assert found.statistics is not None
    c = found.statistics.contributions
    assert c.total == pytest.approx(c.margin, rel=1e-5, abs=1e-5)
    assert set(c.by_group) == {"pixels"}
    assert len(found.statistics.tiles) == len(found.statistics.boxes) == 4
    assert np.isfinite(found.statistics.tiles).all()
    assert found.statistics.view.shape == (136, 144, 3)
    assert found.statistics.prototypes is not None
    # The statistics branch alone has a weight, so its logits are those of the run.
    assert found.statistics.prototypes.margin == pytest.approx(found.margin, abs=1e-5)


def test_latents_explain_their_margin(explained: dict[str, Explanation]) -> None:
    found = explained["paper"]
    assert found.statistics is None
    assert found.latents is not None
    assert sum(found.latents.attention) == pytest.approx(1)
    assert found.latents.map.margin == pytest.approx(found.margin, abs=1e-4)
    assert found.latents.map.gap < 0.2
    assert found.latents.prototypes is not None
    assert found.latents.prototypes.margin == pytest.approx(found.margin, abs=1e-4)


def test_neighbours_are_training_images_of_the_class(
    runs: dict[str, Predictor], explained: dict[str, Explanation], folders: dict[str, Path]
) -> None:
    for name, found in explained.items():
        evidence = found.statistics or found.latents
        assert evidence is not None
        assert evidence.prototypes is not None
        near = evidence.prototypes.neighbours
        train = runs[name].known.select("train")
        assert near
        distances = [one.distance for one in near]
        assert distances == sorted(distances)
        for one in near:
            assert one.path in train.paths[train.labels == found.first]
            assert one.image.startswith(b"\x89PNG")
        changed = folders[name].parent / "images" / near[0].path
        before = changed.read_bytes()
        changed.write_bytes(before + b" ")
        try:
            again = explain_image(runs[name], folders[name].parent / "images" / near[1].path)
        finally:
            changed.write_bytes(before)
        assert again.fold == "train"
        assert found.fold == ""
        evidence = again.statistics or again.latents
        assert evidence is not None
        assert evidence.prototypes is not None
        by_path = {one.path: one.image for one in evidence.prototypes.neighbours}
        assert by_path.get(near[0].path, b"") == b""


def test_images_in_memory_are_explained(runs: dict[str, Predictor]) -> None:
    found = explain_image(runs["paper"], tiny_image(5, (80, 70)))
    (score,) = runs["paper"].score([tiny_image(5, (80, 70))])
    assert found.path == "image 1"
    assert found.score == score


def test_what_is_no_image_is_refused(runs: dict[str, Predictor], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    Image.new("RGB", (3, 3)).save(tmp_path / "b.png")
    for name in ("a.png", "b.png", "none.png"):
        with pytest.raises(ImageError, match=name):
            explain_image(runs["paper"], tmp_path / name)


@pytest.mark.parametrize("name", ["best", "paper"])
def test_the_page_is_sound_and_names_are_escaped(
    name: str, explained: dict[str, Explanation], tmp_path: Path
) -> None:
    content = write_explanations([explained[name]], "runs/<b>", tmp_path / "deep" / "out")
    folder = tmp_path / "deep" / "out"
    page = parse((folder / "index.html").read_text(encoding="utf-8"))
    assert page.one("section").one("h2").text == HOSTILE
    for node in page.all("img"):
        assert node.attributes["alt"]
        assert node.attributes["src"].startswith("data:image/png;base64,")
        assert "onerror" not in node.attributes
    for drawing in page.all("svg"):
        assert drawing.attributes["aria-label"]
    assert not {"link", "iframe", "object", "b"} & {node.tag for node in page.all()}
    files = sorted(path.name for path in (folder / "figures").iterdir())
    assert len(files) == len(list(page.all("img")))
    assert json.loads((folder / "explanation.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(content)
    )


def test_the_page_says_what_the_explanation_says(explained: dict[str, Explanation]) -> None:
    found = explained["best"]
    page = parse(render([found], "run", [{}]))
    tables = {n.attributes["aria-label"]: n for n in page.all("div", class_="scroll")}
    assert found.statistics is not None
    c = found.statistics.contributions
    rows = tables["Terms by part of the image"].rows()
    assert {row[0]: float(row[1]) for row in rows} == pytest.approx(c.by_part, abs=6e-4)
    families = {row[0]: float(row[1]) for row in tables["Terms by family of statistics"].rows()}
    assert families == pytest.approx(c.by_family, abs=6e-4)
    assert verdicts_of(page) == [
        "Depends" if found.statistics.checks.depends_on_weights else "Hardly",
        "Finds" if found.statistics.checks.finds_evidence else "Does",
    ]


def verdicts_of(page: Node) -> list[str]:
    """First words of what the page says of the two tests of a map."""
    return [item.text.split()[0] for item in page.one("ul", class_="checks").all("li")]


def test_bars_start_in_the_middle() -> None:
    assert signed({"a": 2.0, "b": -1.0}) == [("a", 2.0, 50.0, 50.0), ("b", -1.0, 25.0, 25.0)]
    assert signed({"a": 0.0}) == [("a", 0.0, 50.0, 0.0)]


def test_scores_below_the_threshold_are_unknown() -> None:
    known = np.random.default_rng(0).normal(size=60)
    limit = score_threshold(known, 0.05)
    assert limit is not None
    p_values = conformal_p_values(known, np.array([limit - 1e-9, limit + 1e-9]))
    assert p_values[0] <= 0.05 < p_values[1]
    assert score_threshold(known[:18], 0.05) is None


def test_a_pdf_needs_a_browser(
    explained: dict[str, Explanation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LeakError, match="--pdf: neither Chromium"):
        write_explanations([explained["paper"]], "run", tmp_path / "out", pdf=True)
    assert not (tmp_path / "out").exists()
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\nexit 3\n")
    browser.chmod(0o755)
    with pytest.raises(LeakError, match="did not write"):
        write_explanations([explained["paper"]], "run", tmp_path / "out", pdf=True)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_a_browser_prints_the_page(explained: dict[str, Explanation], tmp_path: Path) -> None:
    write_explanations([explained["paper"]], "run", tmp_path / "out", pdf=True)
    assert (tmp_path / "out" / "index.pdf").read_bytes().startswith(b"%PDF")


def test_the_command_explains_what_it_can(
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(folders["paper"].parent / "images" / "ada" / "000.png", "good.png")
    Path("bad.png").write_bytes(b"no image")

    def call(*words: str) -> tuple[int, str, str]:
        arguments = ["leak", "explain", *words, "--run", str(folders["paper"]), "--alpha", ".3"]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    code, out, err = call("good.png", "bad.png")
    assert code == 0
    assert re.search(r"good\.png: .*ada against bob|good\.png: .*bob against ada", out)
    assert f"explanation{os.sep}index.html" in out
    assert "bad.png" in err
    code, out, _ = call("good.png", "bad.png", "--json", "--out", "why")
    found = json.loads(out)
    assert code == 0
    assert [Path(one["path"]).name for one in found["images"]] == ["good.png", "bad.png"]
    assert found["images"][0]["latents"]["checks"]["depends_on_weights"] in (True, False)
    assert "reason" in found["images"][1]
    code, _, err = call("bad.png")
    assert code == 1
    assert "bad.png" in err


def test_the_page_shows_what_the_file_says_beside_the_answer(
    runs: dict[str, Predictor], tmp_path: Path
) -> None:
    info = PngInfo()
    info.add_text("parameters", "a <cat>\nSteps: 20, Sampler: Euler, Model: other-model")
    tiny_image(5, (96, 96)).save(tmp_path / "said.png", pnginfo=info)
    plain, said = (
        explain_image(runs["paper"], one) for one in (tiny_image(5), tmp_path / "said.png")
    )
    assert plain.score.origin is None
    assert said.score.origin is not None
    pages = [render([one], "run", [{}]) for one in (plain, said)]
    assert "The file says" not in pages[0]
    assert "The file says (not part of the answer): PNG text parameters" in pages[1]
    assert "other-model" in pages[1]
