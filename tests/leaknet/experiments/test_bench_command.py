"""`leak bench` from a folder of images to its table."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from cli import leak
from leakcache.errors import ConfigError
from tests.leaknet.experiments.small_bench import KNOWN, UNKNOWN, write_shades
from tests.tiny_data import save, tiny_model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_shades(tmp_path / "images", KNOWN, 16)
    write_shades(tmp_path / "unknown", UNKNOWN, 4, first=500)
    save(tiny_model(), tmp_path / "vae")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(leak, ["bench", *arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


def test_from_images_to_a_table(folder):
    given = ["--methods", "resnet50,thumbnail,metadata", "--weights", str(folder / "no-weights")]
    given += ["--open", "unknown", "--limit", "8", "--steps", "0,1"]
    found = json.loads(run(*given, "--data", "images", "--vae", "vae", "--json"))
    rows = {(row["method"], row["step"]): row for row in found["rows"]}
    assert len(rows) == 6
    assert "resnet50.safetensors is missing" in rows["resnet50", 1]["reason"]
    for step in (0, 1):
        assert 0 <= rows["thumbnail", step]["open_auroc"] <= 1
        assert rows["metadata", step]["reason"] == ""
    assert found["images"] == {"train": 8, "val": 6, "test": 8, "open": 8}
    assert (folder / found["out"] / "bench.parquet").is_file()
    # From the cache that is there now; the table is printed, with the published figure.
    text = run(*given)
    assert "Table 1: raw images" in text
    assert "0.9540" in text


def test_rows_that_all_fail_exit_with_1(folder):
    given = ("--methods", "resnet50", "--weights", "nowhere", "--data", "images", "--vae", "vae")
    assert "resnet50.safetensors" in run(*given, code=1)


def test_wrong_usage_is_refused(folder):
    for arguments in (["--steps", "4"], ["--steps", "one"], ["--detector", "all"]):
        result = CliRunner().invoke(leak, ["bench", *arguments])
        assert result.exit_code == 2, result.output
    with pytest.raises(ConfigError, match="--methods"):
        run("--methods", "nothing", "--data", "images", "--vae", "vae")
