"""Runs that lack something, have odd names, or are of unusual size; and refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from leakcache.errors import RunError
from leaknet.commands.base import Settings
from leaknet.commands.report import report
from leaknet.data.embeddings import Embeddings
from leaknet.files import write_json, write_text
from leaknet.report.report import write_page
from leaknet.scoring.run_embeddings import UNKNOWN
from tests.leaknet.report.parsed import Node, parse
from tests.leaknet.report.runs import Recipe, score_again, write_run

LIMIT = 1_500_000


def page_of(tmp_path: Path, recipe: Recipe) -> Node:
    return parse(write_page([write_run(tmp_path / "run", recipe)]).read_text(encoding="utf-8"))


def section(page: Node, key: str) -> str:
    return " ".join(page.one("section", id=key).text.split())


def test_without_an_open_set_the_page_says_so(tmp_path: Path) -> None:
    page = page_of(tmp_path, Recipe(classes=("ada", "bob"), unknown=()))
    assert "leak score --kde --open FOLDER" in section(page, "open")
    assert "has not been scored against unknown generators" in page.one("header").text
    assert "Unknown generators were not measured." in section(page, "reading")
    assert "--open" not in page.one("pre").text


def test_without_intervals_nothing_is_claimed_of_them(tmp_path: Path) -> None:
    page = page_of(tmp_path, Recipe(per_prompt=0))
    header = page.one("header").text
    assert "95 % interval" not in header
    assert "a difference from guessing cannot be tested" in header
    assert "too few prompt groups" in section(page, "reading")


def test_images_without_prompts_are_not_called_new_prompts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Recipe(unknown=()))
    embeddings = Embeddings.load(run / "embeddings.h5")
    alone = {**vars(embeddings), "groups": embeddings.paths}
    Embeddings(**alone).save(run / "embeddings.h5")
    assert "Each image counts as its own prompt group" in write_page([run]).read_text("utf-8")
    shared = {**vars(embeddings), "groups": np.full(len(embeddings), "same")}
    Embeddings(**shared).save(run / "embeddings.h5")
    assert "36 of 36 test images belong to a prompt group" in write_page([run]).read_text("utf-8")


def test_without_history_and_embeddings_the_rest_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Recipe(epochs=0))
    (run / "embeddings.h5").unlink()
    page = parse(write_page([run]).read_text(encoding="utf-8"))
    assert "kept no history.jsonl" in section(page, "training")
    for key in ("branches", "map"):
        assert "holds no embeddings.h5" in section(page, key)
    assert list(page.one("section", id="open").all("svg"))
    assert "no answer can be given here" in section(page, "open")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("latents.timesteps=5", "There is a single step, so there is no attention"),
        ("latents.attention=false", "Attention is off"),
    ],
)
def test_attention_that_is_not_there_is_explained(
    tmp_path: Path, override: str, words: str
) -> None:
    page = page_of(tmp_path, Recipe(unknown=(), overrides=(override,)))
    assert words in section(page, "branches")


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    names = ("<script>alert(1)</script>", 'a&b "c"', "生成器 №1", "x' onload='y")
    page = page_of(tmp_path, Recipe(classes=names, unknown=("</style><b>", "Ж" * 200)))
    tags = {node.tag for node in page.all()}
    assert "b" not in tags
    assert len(list(page.all("script"))) == 1
    assert not [n for node in page.all() for n in node.attributes if n.startswith("on")]
    confusion = page.one("section", id="closed").one("table", class_="confusion")
    assert [row[0] for row in confusion.rows()] == list(names)
    titles = [panel.text for panel in page.one("section", id="open").all("p", class_="title")]
    assert titles == ["</style><b>", "Ж" * 200]


def test_forty_generators_and_twelve_unknown_fit(tmp_path: Path) -> None:
    recipe = Recipe(
        classes=tuple(f"generator number {i:02d} with a long name" for i in range(40)),
        unknown=tuple(f"unknown {i:02d}" for i in range(12)),
        images=6,
        per_prompt=0,
        keep_unknown=True,
    )
    run = write_run(tmp_path / "run", recipe)
    file = write_page([run])
    assert file.stat().st_size < LIMIT
    page = parse(file.read_text(encoding="utf-8"))
    metrics = json.loads((run / "metrics.json").read_text())
    confusion = page.one("section", id="closed").one("table", class_="confusion")
    counts = [[int(text) for text in row[1:]] for row in confusion.rows()]
    assert counts == metrics["closed"]["confusion"]
    curves = page.one("section", id="open").one("div", class_="beside").one("svg")
    assert len(list(curves.all("path", class_="faint"))) == 10
    order = sorted(recipe.unknown, key=lambda name: metrics["open"][name]["auroc"])
    legend = page.one("section", id="open").one("table", class_="curve-legend").rows()
    assert (legend[0][0], legend[-1][0]) == (order[-1], order[0])


def test_a_generator_absent_from_the_test_fold_gets_a_dash(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Recipe(unknown=()))
    metrics = json.loads((run / "metrics.json").read_text())
    for group in (metrics["closed"], metrics["closed"]["mahalanobis"]):
        group["per_class_auc"]["bob"] = None
        group["confusion"][1] = [0, 0, 0]
    write_json(run / "metrics.json", metrics)
    page = parse(write_page([run]).read_text(encoding="utf-8"))
    last = page.one("section", id="closed").one("table", class_="compact").rows()[-1]
    assert last[0] == "bob"
    assert last[1:5] == ["0", "–", "–", "–"]


def test_a_run_that_is_not_scored_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Recipe(unknown=()))
    (run / "metrics.json").unlink()
    with pytest.raises(RunError, match=r"has not been scored; run `leak score --run .*run`"):
        write_page([run])
    assert not (run / "report.html").exists()


def test_a_run_that_is_only_trained_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Recipe(unknown=()))
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["closed"], metrics["images"], metrics["facts"]
    write_json(run / "metrics.json", metrics)
    with pytest.raises(RunError, match="has not been scored"):
        write_page([run])


def test_embeddings_of_other_unknown_images_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Recipe(keep_unknown=True))
    unknown = Embeddings.load(run / UNKNOWN)
    for stale in (
        {**vars(unknown), "run": "0" * 64},
        {**vars(unknown), "labels": np.full(len(unknown), "gil")},
    ):
        Embeddings(**stale).save(run / UNKNOWN)
        page = parse(write_page([run]).read_text(encoding="utf-8"))
        assert "did not keep the embeddings of the unknown images" in section(page, "map")
        answers = list(page.one("section", id="open").all("table"))[2].rows()
        assert answers[1][:5] == ["eve", "12", "–", "–", "–"]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder"):
        write_page([tmp_path])


def test_damaged_metrics_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Recipe(unknown=()))
    for content, words in (("{", "cannot be read"), ('{"closed": {}}', "no run, model")):
        write_text(run / "metrics.json", content)
        with pytest.raises(RunError, match=words) as caught:
            write_page([run])
        assert "\n" not in str(caught.value)


def test_scoring_again_removes_the_page_of_the_old_figures(tmp_path: Path) -> None:
    recipe = Recipe(unknown=())
    run = write_run(tmp_path / "run", recipe)
    page = write_page([run])
    assert page == run / "report.html"
    score_again(run, recipe)
    assert not page.exists()


def test_weights_that_changed_since_scoring_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Recipe(unknown=()))
    embeddings = Embeddings.load(run / "embeddings.h5")
    Embeddings(**{**vars(embeddings), "run": "0" * 64}).save(run / "embeddings.h5")
    with pytest.raises(RunError, match="weights changed since it was scored"):
        write_page([run])


def test_a_page_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Recipe(unknown=()))
    write_text(tmp_path / "file", "")
    with pytest.raises(RunError, match="cannot be made a folder"):
        write_page([run], tmp_path / "file" / "report.html")


def test_the_command_prints_where_the_page_is(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Recipe(unknown=()))
    out = tmp_path / "page.html"
    arguments = [str(run), "--out", str(out)]
    result = CliRunner().invoke(report, [*arguments, "--json"], obj=Settings({}))
    size = out.stat().st_size
    assert json.loads(result.stdout) == {"report": str(out), "bytes": size, "figures": []}
    plain = CliRunner().invoke(report, arguments, obj=Settings({}))
    said, step = plain.stdout.splitlines()
    assert re.fullmatch(rf"{re.escape(str(out))} \(\d+ kB\)", said)
    assert step == f"next: leak score IMAGE --run {run}"
