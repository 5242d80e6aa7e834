"""`leak audit`: what it prints and which JSON keys it has."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from audit_images import plain
from click.testing import CliRunner

from leakcache.errors import ConfigError, DataError
from leaknet.commands.base import Settings
from leaknet.commands.report import audit


def run(*arguments):
    with tempfile.TemporaryDirectory() as caches:
        settings = Settings({}, Path(caches))
        return CliRunner().invoke(
            audit, [*map(str, arguments)], obj=settings, catch_exceptions=False
        )


def wider(label, number, image):
    return plain(label, number, image.resize((64, 48)) if label == "b" else image)


@pytest.fixture(scope="module")
def root(write_data):
    return write_data("a b", 8, wider)


def test_a_table_of_figures_and_a_line_for_every_finding(root):
    out = run(root).stdout
    assert "file facts" in out
    assert "8×8 thumbnail" in out
    assert "16 closed" in out
    assert "severe  Width (or aspect ratio" in out
    assert "evaluated on 5-fold cross-validation by prompt group, 16 images" in out
    assert out.index("severe") < out.index("note")


def test_json_is_one_object_with_the_documented_keys(root, write_data):
    unknown = write_data("x", 5, seed=9000)
    result = json.loads(run(root, "--open", unknown, "--canonical", "--json").stdout)
    assert set(result) == {
        "data", "canonical", "images", "metadata", "thumbnail", "open", "duplicates",
        "crossing_groups", "unreadable", "findings",
    }  # fmt: skip
    assert result["canonical"] == 256
    assert result["images"] == {"closed": 16, "open": 5, "unreadable": 0}
    assert result["metadata"]["macro_auc"] == 0.5
    assert result["open"]["metadata"]["generators"]["x"]["auroc"] == 0.5
    assert {"level", "control", "sentence"} == set(result["findings"][0])


def test_an_impossible_canonical_size_and_a_missing_root_are_refused(root, tmp_path):
    with pytest.raises(ConfigError):
        run(root, "--canonical", "--canonical-size", 100)
    with pytest.raises(ConfigError):
        run(root, "--canonical-size", 128)
    with pytest.raises(DataError):
        run(tmp_path / "nowhere")


def test_the_help_has_an_example():
    assert "Example:\n" in run("--help").stdout
