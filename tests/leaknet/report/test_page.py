"""The report page: sound, self-contained, and true to the files of the run."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest

from cli import leak
from leaknet.calibration import Calibration
from leaknet.calibration.conformal import FAR
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import GlobalKDE, MaxLogit
from leaknet.files import write_json
from leaknet.report.report import write_page
from leaknet.report.terminal import print_images
from leaknet.scoring.answers import Answer, Answers, write_csv
from leaknet.scoring.run_embeddings import UNKNOWN
from tests.leaknet.report.parsed import Node, parse
from tests.leaknet.report.runs import Recipe, write_run

SECTIONS = ["closed", "open", "reading", "branches", "training", "map", "provenance"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("full") / "run", Recipe(keep_unknown=True))


@pytest.fixture(scope="module")
def page(run: Path) -> Node:
    return read_page(run)


@pytest.fixture(scope="module")
def metrics(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def read_page(run: Path) -> Node:
    return parse(write_page([run]).read_text(encoding="utf-8"))


def section(page: Node, key: str) -> Node:
    return page.one("section", id=key)


def shown(text: str) -> float:
    """The first number of a cell; percentages as fractions."""
    value = float(re.findall(r"[\d.]+", text)[0])
    return value / 100 if "%" in text else value


def path_points(path: Node) -> np.ndarray:
    numbers = re.findall(r"[\d.]+", path.attributes["d"])
    return np.array(numbers, dtype=float).reshape(-1, 2)


def dot_count(path: Node) -> int:
    return path.attributes["d"].count("M")


def test_every_section_is_there_and_linked(page: Node) -> None:
    assert [node.attributes["id"] for node in page.all("section")] == SECTIONS
    links = [node.attributes["href"] for node in page.one("nav").all("a")]
    assert links == ["#summary", *(f"#{key}" for key in SECTIONS)]
    ids = [node.attributes["id"] for node in page.all() if "id" in node.attributes]
    assert len(set(ids)) == len(ids)
    targets = [node.attributes.get("href", "") for node in page.all()]
    assert {target[1:] for target in targets if target} <= set(ids)


def test_nothing_is_fetched_or_executed(page: Node) -> None:
    assert not {"link", "img", "iframe", "object"} & {node.tag for node in page.all()}
    (script,) = page.all("script")
    assert script.attributes == {}
    assert not re.search(r"fetch|import|http|//|innerHTML|XMLHttp|WebSocket", script.text)
    for node in page.all():
        for name, value in node.attributes.items():
            assert not name.startswith("on")
            assert name == "xmlns" or "//" not in value
    style = page.one("style").text
    assert "url(" not in style
    assert "@import" not in style


def test_the_same_run_gives_the_same_bytes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_page([run], tmp_path / "first.html").read_bytes()
    monkeypatch.chdir(run.parent)
    assert write_page([Path("run")], tmp_path / "deep" / "second.html").read_bytes() == first


def test_the_answer_states_figure_interval_and_chance(page: Node, metrics: dict) -> None:
    closed, opened = metrics["closed"], metrics["open"]
    text = " ".join(page.one("header").text.split())
    low, high = closed["interval"]["top1"]
    assert f"It does for {100 * closed['top1']:.1f}" in text
    assert f"{100 * low:.1f}–{100 * high:.1f}" in text
    assert "Always naming the most frequent generator gets 33.3" in text
    assert f"AUROC {opened['auroc']:.3f}" in text
    assert f"the known one scores higher in {100 * opened['auroc']:.0f};" in text


def test_closed_table_holds_the_metrics(page: Node, metrics: dict) -> None:
    rows = section(page, "closed").one("table").rows()
    groups = [metrics["closed"], metrics["closed"]["mahalanobis"], metrics["validation"]]
    for row, group in zip(rows, groups, strict=True):
        expected = [group[key] for key in ("top1", "balanced", "macro_auc", "ece")]
        assert [shown(text) for text in row[1:]] == pytest.approx(expected, abs=6e-4)


def test_confusion_counts_and_colours_are_those_of_the_metrics(page: Node, metrics: dict) -> None:
    tables = list(section(page, "closed").all("table", class_="confusion"))
    groups = [metrics["closed"], metrics["closed"]["mahalanobis"]]
    for table, group in zip(tables, groups, strict=True):
        rows = table.rows()
        assert [row[0] for row in rows] == metrics["closed"]["classes"]
        assert [[int(text) for text in row[1:]] for row in rows] == group["confusion"]
        for row, counts in zip(table.one("tbody").all("tr"), group["confusion"], strict=True):
            for cell, count in zip(row.all("td"), counts, strict=True):
                level = f"h{round(10 * count / sum(counts))}" if count else "none"
                assert level in cell.attributes["class"].split()


def test_each_generator_has_its_own_figures(page: Node, metrics: dict) -> None:
    table = section(page, "closed").one("table", class_="compact")
    confusion = np.array(metrics["closed"]["confusion"])
    for row in table.rows():
        place = metrics["closed"]["classes"].index(row[0])
        own = confusion[place, place]
        assert int(row[1]) == confusion[place].sum()
        assert shown(row[2]) == pytest.approx(metrics["closed"]["per_class_auc"][row[0]], abs=6e-4)
        assert shown(row[4]) == pytest.approx(own / confusion[place].sum(), abs=6e-4)
        assert shown(row[5]) == pytest.approx(own / confusion[:, place].sum(), abs=6e-4)


def test_intervals_are_drawn_where_they_lie(page: Node, metrics: dict) -> None:
    strip = section(page, "open").one("table").one("span", class_="strip")
    places = dict(re.findall(r"--(\w+):([\d.]+)%", strip.attributes["style"]))
    low, high = metrics["open"]["interval"]["auroc"]
    expected = {"lo": low, "hi": high, "at": metrics["open"]["auroc"], "chance": 0.5}
    assert {k: float(v) / 100 for k, v in places.items()} == pytest.approx(expected, abs=1e-4)


def test_open_tables_hold_all_generators_and_detectors(page: Node, metrics: dict) -> None:
    tables = list(section(page, "open").all("table"))
    areas = {row[0]: shown(row[1]) for row in tables[0].rows()}
    opened = metrics["open"]
    assert areas == pytest.approx(
        {
            "All together": opened["auroc"],
            "Mean over generators": opened["mean"]["auroc"],
            "eve": opened["eve"]["auroc"],
            "fay": opened["fay"]["auroc"],
        },
        abs=6e-4,
    )
    detectors = section(page, "open").one("div", aria_label="All detectors").rows()
    assert [row[0] for row in detectors] == ["kde reported", "logit"]
    for row, group in zip(detectors, metrics["detectors"].values(), strict=True):
        assert shown(row[1]) == pytest.approx(group["auroc"], abs=6e-4)
        assert shown(row[-1]) == pytest.approx(group["worst"]["auroc"], abs=6e-4)


def test_curves_enclose_the_area_that_is_printed(page: Node, metrics: dict) -> None:
    drawing = section(page, "open").one("div", class_="beside").one("svg")
    chance = path_points(drawing.one("path", class_="chance"))
    (left, bottom), (right, top) = chance
    for number, name in enumerate(("eve", "fay")):
        points = path_points(drawing.one("path", class_=f"c{number}"))
        x = (points[:, 0] - left) / (right - left)
        y = (bottom - points[:, 1]) / (bottom - top)
        assert np.trapezoid(y, x) == pytest.approx(metrics["open"][name]["auroc"], abs=1e-3)


def test_histograms_hold_every_image(page: Node) -> None:
    figure = section(page, "open").one("figure")
    for drawing in figure.all("svg"):
        ticks = [
            node for node in drawing.all("text", class_="end") if "tick" in node.attributes["class"]
        ]
        values = [float(node.text) for node in ticks]
        places = [float(node.attributes["y"]) for node in ticks]
        scale = (places[1] - places[0]) / (values[1] - values[0])
        for class_ in ("known", "unknown"):
            points = path_points(drawing.one("path", class_=class_))[1:-1:2]
            base = path_points(drawing.one("path", class_=class_))[0, 1]
            fractions = (points[:, 1] - base) / scale
            assert fractions.sum() == pytest.approx(1.0, abs=0.02)


def test_answers_are_those_of_the_calibrated_run(run: Path, page: Node) -> None:
    known, unknown = (Embeddings.load(run / name) for name in ("embeddings.h5", UNKNOWN))
    detector = GlobalKDE().fit(known.select("train"), known.select("val"))
    calibration = Calibration.fit(known, [detector])
    table = section(page, "open").one("div", aria_label="Answers")
    rows = {row[0]: row[1:] for row in table.rows()}
    sets = {"Known generators": known.select("test")}
    sets |= {name: unknown.take(unknown.labels == name) for name in ("eve", "fay")}
    assert set(rows) == set(sets)
    for name, images in sets.items():
        p_values = calibration.p_values(images, detector)
        logs = calibration.log_probabilities(images)
        alarms = p_values <= 0.05
        named = ~alarms & (logs.max(axis=1) > calibration.naming_threshold(0.05))
        right = named & (logs.argmax(axis=1) == images.targets)
        outside = p_values <= max(0.05, calibration.smallest_p)
        outside &= calibration.depths(images, detector) >= FAR
        found = [right, named & ~right, ~alarms & ~named, alarms]
        expected = [*(mask & ~outside for mask in found), outside]
        shown_counts = [int(text.split()[0]) if text != "–" else 0 for text in rows[name][1:]]
        assert int(rows[name][0]) == len(images)
        assert shown_counts == [int(mask.sum()) for mask in expected]


def test_the_map_shows_every_image_once(run: Path, page: Node) -> None:
    drawings = {node.attributes["aria-label"]: node for node in section(page, "map").all("svg")}
    embeddings = Embeddings.load(run / "embeddings.h5")
    test = embeddings.select("test")
    right = test.logits.argmax(axis=1) == test.targets
    assert sum(dot_count(n) for n in section(page, "map").all("path", id="cloud")) == len(test)
    for name in embeddings.classes:
        drawing = drawings[f"Embeddings of {name} among all test images"]
        own = test.labels == name
        for class_, count in (("known", (own & right).sum()), ("wrong", (own & ~right).sum())):
            assert sum(map(dot_count, drawing.all("path", class_=class_))) == count
    drawing = drawings["Embeddings of eve among all test images"]
    assert dot_count(drawing.one("path", class_="unknown")) == 12
    together = drawings["Embeddings of all generators"]
    assert dot_count(together.one("path", class_="other")) == 24
    for number, name in enumerate(embeddings.classes):
        assert dot_count(together.one("path", class_=f"c{number}")) == (test.labels == name).sum()


def test_attention_is_the_mean_over_the_images(run: Path, page: Node) -> None:
    rows = {row[0]: row[1:] for row in section(page, "branches").one("table").rows()}
    embeddings = Embeddings.load(run / "embeddings.h5")
    test = embeddings.select("test")
    assert list(rows) == ["All test images", "ada", "bob", "cyd", "eve (unknown)", "fay (unknown)"]
    for name in embeddings.classes:
        expected = test.attention[test.labels == name].mean(axis=0)
        assert [shown(text) for text in rows[name]] == pytest.approx(expected, abs=6e-4)


def test_training_names_the_epoch_that_was_kept(page: Node) -> None:
    text = " ".join(section(page, "training").text.split())
    assert "Epoch 3 of 3 was kept" in text
    assert "0.867" in text
    assert "The last epoch is the best" in text


def test_provenance_is_enough_to_do_it_again(page: Node, metrics: dict) -> None:
    body = section(page, "provenance")
    for digest in ("f" * 64, "e" * 64, "c" * 64, metrics["model"]):
        assert digest in body.text
    rows = {row[0]: row[1:] for row in body.one("table").rows()}
    assert rows["head.dimension"] == ["128", "8"]
    assert "train.seed" not in rows
    commands = body.one("pre").text.splitlines()
    assert [line.split()[1] for line in commands] == ["cache", "train", "score", "report"]
    assert "--vae 'weights/toy vae.safetensors'" in commands[0]
    assert "--set head.dimension=8" in commands[1]
    assert "--detectors kde,logit" in commands[2]


def test_printed_commands_are_understood(page: Node) -> None:
    for line in section(page, "provenance").one("pre").text.splitlines():
        words = shlex.split(line)[1:]
        command, depth = leak, 0
        while isinstance(command, click.Group):
            command = command.get_command(click.Context(command), words[depth])
            depth += 1
        command.make_context("leak", words[depth:])


def test_reading_says_what_was_not_done(page: Node) -> None:
    text = " ".join(section(page, "reading").text.split())
    assert "Not measured." in text
    assert "seed 0" in text
    assert "No prompt group of the test images occurs among the training images." in text


def test_controls_are_printed_once_they_are_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Recipe(unknown=()))
    content = json.loads((run / "metrics.json").read_text())
    content["controls"] = {"metadata": {"top1": 0.98, "n": 7}, "thumbnail": {"top1": None}}
    write_json(run / "metrics.json", content)
    rows = section(read_page(run), "reading").one("table").rows()
    assert rows == [["metadata", "0.980", "7"], ["thumbnail", "–", "–"]]


def test_a_run_of_ten_thousand_images_has_a_small_page(tmp_path: Path) -> None:
    recipe = Recipe(images=910, per_prompt=1, kinds=(MaxLogit,), keep_unknown=True)
    run = write_run(tmp_path / "run", recipe)
    assert len(Embeddings.load(run / "embeddings.h5")) + 2 * 910 >= 10_000
    assert write_page([run]).stat().st_size < 5_000_000


NAMES = ["=1+1.png", "cr\rx.png", "\x1b[2Jx.png", "[red]x.png", os.fsdecode(b"latin\xe9.png")]


@pytest.fixture
def results() -> Answers:
    images = tuple(Answer(name, reason="not an image") for name in NAMES)
    return Answers(images, "runs/x", 0.05, "kde", {})


def test_every_row_reaches_the_csv_without_a_formula(results: Answers, tmp_path: Path) -> None:
    write_csv(results, tmp_path / "out.csv")
    text = (tmp_path / "out.csv").read_bytes().decode("utf-8")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["path"] for row in rows] == [
        "'=1+1.png", "cr\rx.png", "\x1b[2Jx.png", "[red]x.png", "latin\\udce9.png",
    ]  # fmt: skip


def test_the_terminal_shows_control_characters_as_escapes(
    results: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    print_images(results, "runs/x")
    out = capsys.readouterr().out
    for shown in ("=1+1.png", "cr\\rx.png", "\\x1b[2Jx.png", "[red]x.png", "latin\\xe9.png"):
        assert shown in out
    assert "\x1b[2J" not in out
