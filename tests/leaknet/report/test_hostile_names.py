"""Names of scored files: escaped on the terminal, safe in the CSV, none lost."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest

from leaknet.report.terminal import print_images
from leaknet.scoring.answers import Answer, Answers, write_csv

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
