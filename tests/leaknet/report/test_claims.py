"""The page claims what is true of the run: its branches, its threshold, its intervals, its data."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from leakcache.errors import RunError
from leakcache.files import write_checked
from leaknet.calibration import conformal_p_values
from leaknet.files import write_json
from leaknet.report.related import audit_file
from leaknet.report.report import render, write_page
from leaknet.report.run_data import ALPHA, ScoredRun
from leaknet.scoring.score_run import ScoreTable
from tests.leaknet.report.parsed import Node, parse
from tests.leaknet.report.runs import CACHE, Recipe, write_run

OF_LATENTS = (
    "attention",
    "noise",
    "schedule",
    "latents",
    "dct",
    "scaled to",
    "resnet",
    "backbone",
    "timesteps",
)
OF_STATISTICS = ("statistics", "activations", "closed form", "ridge", "degraded", "quarters")


def page_of(run: Path) -> Node:
    return parse(write_page([run]).read_text(encoding="utf-8"))


def text_of(page: Node) -> str:
    """What a reader sees, without the command lines and the settings by name."""
    main = page.one("main")
    commands = main.one("section", id="provenance").one("pre").text
    return " ".join(main.text.replace(commands, "").split()).lower()


@pytest.fixture(scope="module", params=["paper", "best", "statistics"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    alone = request.param == "statistics"
    preset, overrides = ("best", ("latents.enabled=false",)) if alone else (request.param, ())
    recipe = Recipe(preset=preset, overrides=overrides, keep_unknown=True)
    return write_run(tmp_path_factory.mktemp(request.param) / "run", recipe)


def test_a_run_is_described_by_its_own_branches(run: Path) -> None:
    config = ScoredRun.read(run).record.config
    name = config.preset if config.latents.enabled else "statistics"
    text = text_of(page_of(run))
    own, other = OF_LATENTS, OF_STATISTICS
    if name == "statistics":
        own, other = other, own
    elif name == "best":
        own, other = own + other, ()
    text = re.sub(r"(latents|statistics)\.enabled", "", text)
    assert [word for word in other if word in text] == []
    assert len([word for word in own if word in text]) >= 4


def test_both_branches_are_shown_alone_and_together(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Recipe(unknown=(), overrides=("statistics.enabled=true",)))
    metrics = json.loads((run / "metrics.json").read_text())
    one, two = ({**metrics["closed"], "top1": value, "interval": {}} for value in (0.25, 0.75))
    metrics["branches"] = {
        "latents": one,
        "statistics": two,
        "weights": {"latents": 0.1, "statistics": 0.9},
        "held_out": {"gain": 0.1, "error": 0.01, "images": 7, "groups": 3},
    }
    write_json(run / "metrics.json", metrics)
    section = page_of(run).one("section", id="branches")
    assert "held-out prompt groups (7 images)" in " ".join(section.text.split())
    table = section.one("div", aria_label="Each branch alone")
    rows = {row[0]: row[1:] for row in table.rows()}
    assert rows["Noisy latents alone"][:2] == ["0.10", "25.0 %"]
    assert rows["Statistics alone"][:2] == ["0.90", "75.0 %"]
    assert rows["Both"][1].startswith(f"{100 * metrics['closed']['top1']:.1f}")


@pytest.mark.parametrize("images", [8, 14, 40])
def test_the_threshold_separates_what_is_called_unknown(tmp_path: Path, images: int) -> None:
    run = ScoredRun.read(write_run(tmp_path / "run", Recipe(images=images)))
    assert run.reference is not None
    grid = np.concatenate([run.reference + shift for shift in (-1e-6, 0, 1e-6)])
    alarms = conformal_p_values(run.reference, grid) <= ALPHA
    if run.threshold is None:
        assert not alarms.any()
        assert len(run.reference) + 1 < 1 / ALPHA
    else:
        assert alarms.tolist() == (grid < run.threshold).tolist()


def test_the_threshold_is_drawn_in_every_histogram(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Recipe(images=14, apart=3.0))
    threshold = ScoredRun.read(run).threshold
    assert threshold is not None
    figure = page_of(run).one("section", id="open").one("figure")
    drawings = list(figure.all("svg"))
    assert len(drawings) == 2
    for drawing in drawings:
        x = float(drawing.one("path", class_="rule").attributes["d"][1:].split()[0])
        assert 46 < x < 328
    few = write_run(tmp_path / "few", Recipe(images=4))
    text = " ".join(page_of(few).one("section", id="open").text.split())
    assert "No threshold is drawn: there are too few calibration images" in text


def test_an_interval_without_spread_is_said_in_words(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Recipe(apart=30.0, unknown=()))
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["closed"]["interval"]["top1"] == [1.0, 1.0]
    page = page_of(run)
    header = " ".join(page.one("header").text.split())
    assert "(no interval: all bootstrap resamples gave this value)" in header
    assert "100.0–100.0" not in page.text
    assert "no spread" in page.one("section", id="closed").one("table").rows()[0][1]


def test_findings_of_an_audit_of_the_same_data_appear(tmp_path: Path) -> None:
    closed = tmp_path / "caches" / "photos" / "closed"
    closed.mkdir(parents=True)
    write_checked(closed / "manifest.json", {"data": str(tmp_path / "photos")})
    finding = {"level": "severe", "control": "metadata", "sentence": "Sizes tell <all>."}
    audit = {"data": str(tmp_path / "photos"), "canonical": None, "findings": [finding]}
    file = audit_file(tmp_path / "caches", tmp_path / "photos", None)
    recipe = Recipe(unknown=(), cache=replace(CACHE, folder=str(closed)))
    run = write_run(tmp_path / "runs" / "run", recipe)
    assert "Run leak audit on the data" in " ".join(page_of(run).text.split())
    for data, shown in ((audit, True), ({**audit, "data": "elsewhere"}, False)):
        file.write_text(json.dumps(data))
        text = " ".join(page_of(run).one("section", id="reading").text.split())
        assert ("severe: Sizes tell <all>." in text) == shown


def test_results_on_the_same_data_are_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "run", Recipe(unknown=()))
    figures = {"top1": 0.5, "balanced": 0.5, "macro_auc": 0.7, "ece": 0.1}
    summary = {**figures, "interval": {"top1": [0.4, 0.6]}}
    ends = {"mean": {"auroc": [0.6, 0.8]}}
    other = {"top1": 0.3, "macro_auc": 0.6, "unknown": 0.25}
    transfer = {
        **other,
        "images": 40,
        "test": {**other, "top1": 0.8},
        "recall": {"ada": {"other": 0.1, "test": 0.9}},
        "interval": {"top1": [0.2, 0.4]},
    }
    left_out = {"mean": {"auroc": 0.7}, "worst": {"auroc": 0.6}, "bob": {"auroc": 0.6}}
    contents = {
        "evaluation-x/evaluation.json": {
            "protocol": {"cache": CACHE.folder, "seeds": [0, 1], "config": {"preset": "paper"}},
            "closed": {**summary, "mahalanobis": summary},
            "leave_out": {**left_out, "interval": ends, "sd": {}, "closed": figures},
            "transfer": {"els<ewhere": transfer, "step2": {**transfer, "steps": 2}},
            "answers": {
                "all": {
                    "known": {"named_right": 0.5, "covered": 0.97},
                    "real": {"named_wrong": 0.02},
                    "interval": {"known": {"covered": [0.9, 1.0]}, "real": {}},
                }
            },
            "controls": {},
        },
        "ablations-x/table3.json": {
            "ablation": "table3",
            "title": "Steps",
            "cache": CACHE.folder,
            "seeds": [0],
            "rows": [{"name": "t = 0", "reason": "", **summary}],
        },
        "bench-x/bench.json": {
            "classes": ["ada", "bob", "cyd"],
            "steps": [0, 2],
            "limit": 24,
            "rows": [
                {"method": "npr", "step": s, "top1": 0.25, "macro_auc": 0.9 - s / 10, "reason": ""}
                for s in (0, 2)
            ],
        },
        "other/table3.json": {"ablation": "table3", "title": "Of other data", "cache": "/x"},
        "other/broken.json": ["no", "table"],
    }
    for name, content in contents.items():
        (tmp_path / "runs" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "runs" / name).write_text(json.dumps(content))
    section = page_of(run).one("section", id="related")
    titles = [heading.text for heading in section.all("h3")]
    assert titles == [
        "Ablation table3: Steps",
        "Robustness: macro AUC by step",
        "Methods, step 0",
        "Methods, step 2",
        "Known generators over seeds",
        "Generators left out in turn",
        "Answers by situation",
        "Another collection: els<ewhere",
        "Another collection: els<ewhere, each generator",
    ]
    rows = [row for table in section.all("table") for row in table.rows()]
    assert ["npr", "25.0 %", "0.900", "–"] in rows
    assert ["npr", "0.900", "0.700"] in rows
    assert ["els<ewhere (40 images)", "30.0 % 20.0–40.0 %", "0.600"] in rows
    assert ["own test images", "80.0 %", "0.600"] in rows
    by_situation = {row[0]: row[1:] for row in rows if len(row) == 7}
    assert by_situation["test images"][2:] == ["50.0 %", "–", "–", "97.0 % 90.0–100.0 %"]
    assert by_situation["test photographs"] == ["–", "–", "–", "2.0 %", "–", "–"]
    after = by_situation["after 2 degradation operations (40 images)"]
    assert after == ["30.0 % 20.0–40.0 %", "0.600", "–", "–", "25.0 %", "–"]
    assert ["ada", "10.0 %", "90.0 %"] in rows
    assert next(row for row in rows if row[0] == "mean")[1] == "0.700 0.600–0.800"


@pytest.mark.parametrize("number", [2, 30, -3])
def test_a_changed_file_of_results_is_refused(tmp_path: Path, number: int) -> None:
    run = write_run(tmp_path / "runs" / "run", Recipe(unknown=()))
    file = tmp_path / "runs" / "bench-x" / "bench.json"
    file.parent.mkdir()
    write_json(file, {"classes": ["ada", "bob", "cyd"], "steps": [0], "limit": None, "rows": []})
    page_of(run)
    data = bytearray(file.read_bytes())
    data[number] ^= 1
    file.write_bytes(data)
    with pytest.raises(RunError, match=r"bench\.json is damaged .* again"):
        page_of(run)


def test_runs_side_by_side(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", Recipe(apart=0.3))
    two = write_run(tmp_path / "two", Recipe(preset="best", apart=0.9))
    page = parse(write_page([one, two]).read_text(encoding="utf-8"))
    assert (tmp_path / "comparison.html").is_file()
    assert "leak compare" in page.one("header").text
    rows = {row[0]: row[1:] for row in page.one("div", aria_label="Known generators").rows()}
    for column, run in enumerate((one, two)):
        top1 = json.loads((run / "metrics.json").read_text())["closed"]["top1"]
        assert rows["Top-1"][column].startswith(f"{100 * top1:.1f}")
    settings = page.one("div", aria_label="Settings that differ").rows()
    assert ["preset", "paper", "best"] in settings
    other = write_run(tmp_path / "other", Recipe(images=10))
    apart = parse(write_page([one, other]).read_text(encoding="utf-8"))
    assert "cannot be compared" in apart.one("header").text


def test_ten_thousand_images_fit_into_five_megabytes(tmp_path: Path) -> None:
    classes = tuple(f"generator {i}" for i in range(12))
    recipe = Recipe(classes=classes, images=21, keep_unknown=True, per_prompt=3)
    run = ScoredRun.read(write_run(tmp_path / "run", recipe))
    assert run.embeddings is not None
    rows = np.repeat(np.arange(len(run.embeddings)), 40)
    embeddings = run.embeddings.take(rows)
    jitter = np.random.default_rng(0).normal(0, 0.3, embeddings.vectors.shape)
    table = ScoreTable(
        *(getattr(run.table, name)[rows] for name in ("paths", "labels", "folds", "predicted")),
        {name: scores[rows] for name, scores in run.table.scores.items()},
    )
    many = replace(
        run,
        table=table,
        embeddings=replace(embeddings, vectors=embeddings.vectors + jitter),
    )
    assert int((many.table.folds == "test").sum()) == 10_080
    text = render(many)
    assert len(text.encode()) < 5_000_000
    assert "Top-5" in text
