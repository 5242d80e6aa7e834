"""`leak ablate` as a user types it, and the files that it leaves."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from cli import leak
from leakcache.errors import ConfigError
from tests.leaknet.experiments.ablation_tables import HEADS
from tests.leaknet.experiments.synthetic import closed_cache

SMALL = ["latents.backbone=test_resnet", "head.dimension=8", "train.batch_size=8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    closed_cache(root / "cache" / "closed")
    absent = '\n[[row]]\nname = "of <SDXL> & co"\ncache.autoencoder = "sdxl"\n'
    (root / "heads.toml").write_text(HEADS + absent)
    return root


def ablate(folder: Path, *words: str) -> Result:
    settings = [word for setting in SMALL for word in ("--set", setting)]
    places = ["--cache", str(folder / "cache"), "--out", str(folder / "out")]
    arguments = ["ablate", *words, *places, *settings, "--epochs", "1", "--seeds", "2"]
    return CliRunner().invoke(leak, arguments, catch_exceptions=False)


def test_one_object_on_stdout_and_the_same_in_every_file(folder: Path) -> None:
    result = ablate(folder, str(folder / "heads.toml"), "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["encoded"] == 0
    linear, _, absent = found["rows"]
    assert "leak cache build" in absent["reason"]
    assert linear["published"] == {"top1": 0.7263}
    written = json.loads((folder / "out" / "heads.json").read_text())
    assert {**written, "out": str(folder / "out")} == found
    table = parquet.read_table(folder / "out" / "heads.parquet").to_pylist()
    assert [row["row"] for row in table] == ["linear", "four", "of <SDXL> & co"]
    assert table[0]["top1"] == linear["top1"]
    assert table[0]["top1_seeds"] == linear["seeds"]["top1"]
    assert table[0]["top1_published"] == 0.7263
    assert table[0]["top1_difference"] == linear["difference"]["top1"]["value"]
    assert table[2]["top1"] is None
    assert table[2]["reason"] == absent["reason"]


def test_tables_are_printed_beside_the_published_and_written(folder: Path) -> None:
    result = ablate(folder, str(folder / "heads.toml"))
    assert "0 images encoded" in result.stdout
    assert "0.726" in result.stdout
    text = (folder / "out" / "heads.md").read_text()
    assert "## Heads" in text
    assert "Difference from “four”" in text
    assert "![Heads](heads.svg)" in text


def test_the_figure_is_a_picture_by_itself(folder: Path) -> None:
    ablate(folder, str(folder / "heads.toml"))
    root = ET.parse(folder / "out" / "heads.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "of <SDXL> & co (no figures)" in words
    assert {"top-1", "macro AUC"} <= set(words)
    squares = [n for n in root.iter() if n.get("class") == "dots theirs"]
    assert len(squares) == 1


def test_where_no_row_has_figures_the_exit_code_says_so(folder: Path) -> None:
    (folder / "no.toml").write_text('[[row]]\nname = "a"\ncache.autoencoder = "sdxl"\n')
    result = ablate(folder, str(folder / "no.toml"), "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["rows"][0]["reason"]


def test_wrong_names_are_refused_before_a_folder_is_made(folder: Path) -> None:
    with pytest.raises(ConfigError, match="table9 is no ablation"):
        ablate(folder, "table9", "--out", str(folder / "other"))
    assert not (folder / "other").exists()
