"""`leak data index`: what it prints, writes and refuses."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from leakcache.errors import DataError
from leakcache.index import read_index
from leaknet.commands.data import data


@pytest.fixture
def root(tmp_path):
    for label in ("a", "[b]"):
        for number in range(10):
            file = tmp_path / "pics" / label / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    (tmp_path / "pics" / "a" / "model.ckpt").touch()
    return tmp_path / "pics"


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    return CliRunner().invoke(data, ["index", *map(str, arguments)], catch_exceptions=False)


def test_the_table_counts_classes_and_folds_and_names_what_is_left_out(root):
    result = run(root)
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    cells = [[cell for cell in row if cell not in "│┃"] for row in rows]
    assert ["a", "5", "2", "3", "10"] in cells
    assert ["[b]", "5", "2", "3", "10"] in cells
    assert ["all", "10", "4", "6", "0", "10"] in cells
    assert "left out: a/model.ckpt: not an image file extension" in result.stdout
    assert "folds cut by group 50/20/30 with seed 0" in result.stdout


def test_json_is_one_object_with_the_documented_keys(root):
    result = json.loads(run(root, "--json", "--seed", 3).stdout)
    assert set(result) == {
        "root", "layout", "classes", "unknown", "counts", "groups", "crossing_groups",
        "rejects", "out",
    }  # fmt: skip
    assert result["counts"]["a"] == {"train": 5, "val": 2, "test": 3, "open": 0}
    assert result["groups"] == 10
    assert result["rejects"] == [{"path": "a/model.ckpt", "reason": "not an image file extension"}]


def test_the_file_written_is_an_index(root, tmp_path):
    result = run(root, "--out", tmp_path / "index.csv")
    assert f"written to {tmp_path / 'index.csv'}" in result.stdout
    assert read_index(tmp_path / "index.csv").counts() == read_index(root).counts()


def test_without_a_name_the_index_lies_beside_the_caches(root, tmp_path):
    assert "written to caches/pics.index.csv" in run(root).stdout
    assert read_index(tmp_path / "caches" / "pics.index.csv").counts() == read_index(root).counts()


def test_open_reads_all_classes_as_unknown(root):
    result = json.loads(run(root, "--open", "--json").stdout)
    assert (result["classes"], result["unknown"]) == ([], ["[b]", "a"])


def test_the_default_root_is_the_data_folder_here(root, monkeypatch):
    monkeypatch.chdir(root.rename(root.with_name("data")).parent)
    assert json.loads(run("--json").stdout)["classes"] == ["[b]", "a"]


def test_a_long_list_of_rejects_is_cut(root):
    for number in range(30):
        (root / "a" / f"{number}.bin").touch()
    out = run(root).stdout
    assert out.count("not an image file extension") == 20
    assert "left out: 11 more, listed by --json" in out


def test_a_root_that_cannot_be_read_is_a_data_error(tmp_path):
    with pytest.raises(DataError):
        run(tmp_path / "nowhere")


def test_the_help_has_an_example():
    assert "Example:\n" in run("--help").stdout
