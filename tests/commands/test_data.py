"""`leak data index`: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import io
import json
import shutil

import pytest
from click.testing import CliRunner
from tiny_data import write_images

from leakcache.dataset.index import read_index
from leakcache.errors import DataError
from leaknet.commands.data import data


@pytest.fixture
def root(tmp_path):
    for label in ("a", "[b]"):
        for number in range(10):
            file = tmp_path / "pics" / label / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    (tmp_path / "pics" / "a" / "model.ckpt").touch()
    (tmp_path / "pics" / "loose.png").touch()
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
    assert "left out: loose.png: lies beside the class folders" in result.stdout
    assert "model.ckpt" not in result.stdout
    assert "If that is wrong, give --layout" in result.stdout
    assert "folds cut by group 50/20/30 with seed 0" in result.stdout


def test_json_is_one_object_with_the_documented_keys(root):
    result = json.loads(run(root, "--json", "--seed", 3).stdout)
    assert set(result) == {
        "root", "layout", "classes", "unknown", "counts", "groups", "crossing_groups",
        "findings", "rejects", "out", "written",
    }  # fmt: skip
    assert result["counts"]["a"] == {"train": 5, "val": 2, "test": 3, "open": 0}
    assert result["groups"] == 10
    reason = "lies beside the class folders, so it has no class"
    assert result["rejects"] == [{"path": "loose.png", "reason": reason}]


def test_the_file_written_is_an_index(root, tmp_path):
    result = run(root, "--out", tmp_path / "index.csv")
    assert f"written to {tmp_path / 'index.csv'}" in result.stdout
    assert read_index(tmp_path / "index.csv").counts() == read_index(root).counts()


def test_without_a_name_the_index_lies_beside_the_caches(root, tmp_path):
    assert "written to caches/pics-" in run(root).stdout
    [file] = (tmp_path / "caches").glob("pics-*.index.csv")
    assert read_index(file).counts() == read_index(root).counts()


def test_the_index_of_photographs_too_is_what_the_next_command_reads(root, tmp_path):
    write_images(tmp_path / "cameras", ("canon", "nikon", "sony"), 2)
    out = tmp_path / "index.csv"
    result = run(root, "--photographs", tmp_path / "cameras", "--out", out)
    assert result.stdout.splitlines()[-1].endswith(f"leak cache build --data {out}")
    index = read_index(out)
    assert sum(index.counts()["real"].values()) == 6
    groups = {record.group for record in index.records if record.label == "real"}
    assert groups == {"cameras/canon", "cameras/nikon", "cameras/sony"}


def test_an_edited_index_is_kept_and_one_as_written_is_renewed(root, tmp_path):
    out = tmp_path / "index.csv"
    run(root, "--out", out)
    (root / "a" / "new.png").touch()
    assert "written to" in run(root, "--out", out).stdout
    assert "new.png" in out.read_text()
    edited = out.read_text().replace(",train", ",val", 1)
    out.write_text(edited)
    assert "was edited and is kept" in run(root, "--out", out).stdout
    assert json.loads(run(root, "--out", out, "--json").stdout)["written"] is False
    assert out.read_text() == edited


def test_roots_of_one_name_have_indices_of_their_own(root, tmp_path):
    (tmp_path / "other").mkdir()
    twin = shutil.copytree(root, tmp_path / "other" / "pics")
    assert run(root).stdout.splitlines()[-3] != run(twin).stdout.splitlines()[-3]
    assert len(list((tmp_path / "caches").glob("pics-*.index.csv"))) == 2


def test_an_error_in_the_data_is_shown_and_exits_with_1(tmp_path):
    for number in range(3):
        file = tmp_path / "one" / "only" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    result = run(tmp_path / "one")
    assert result.exit_code == 1
    assert "error: " in result.stdout
    assert "has a single class, only" in result.stdout


def test_a_layout_and_a_group_can_be_given(tmp_path):
    for name in ("x/a/1.png", "x/a/2.png", "x/b/1.png", "x/b/2.png"):
        (tmp_path / "pics" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pics" / name).touch()
    words = ("--layout", "*/class", "--group", "file", "--json")
    shown = json.loads(run(tmp_path / "pics", *words).stdout)
    assert (shown["classes"], shown["groups"]) == (["a", "b"], 4)


NAMES = [
    "cr\rx.png",
    "new\nline.png",
    "=1+1.png",
    "-rf.png",
    "\u202egnp.x.png",
    " lead.png",
    "a,b.png",
]


def test_names_that_could_do_harm_are_shown_escaped_and_read_back(tmp_path):
    for label in ("=cmd()", "[b]\x1b[2J"):
        for name in NAMES:
            file = tmp_path / "pics" / label / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    out = tmp_path / "pics" / "index.csv"
    shown = run(tmp_path / "pics", "--out", out)
    assert "[b]\\x1b[2J" in shown.stdout
    assert not {"\x1b", "\r", "\u202e"} & set(shown.stdout)
    shown = json.loads(run(tmp_path / "pics", "--json").stdout)
    assert shown["classes"] == ["=cmd()", "[b]\x1b[2J"]
    assert read_index(out).records == read_index(tmp_path / "pics").records
    table = list(csv.reader(io.StringIO(out.read_text("utf-8"), newline="")))[1:]
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in table for cell in row)


def test_open_reads_all_classes_as_unknown(root):
    result = json.loads(run(root, "--open", "--json").stdout)
    assert (result["classes"], result["unknown"]) == ([], ["[b]", "a"])


def test_the_default_root_is_the_data_folder_here(root, monkeypatch):
    monkeypatch.chdir(root.rename(root.with_name("data")).parent)
    assert json.loads(run("--json").stdout)["classes"] == ["[b]", "a"]


def test_a_long_list_of_rejects_is_cut(root):
    for number in range(30):
        (root / f"{number}.png").touch()
    out = run(root).stdout
    assert out.count("left out: ") == 21
    assert "left out: 11 more, listed by --json" in out


def test_a_root_that_cannot_be_read_is_a_data_error(tmp_path):
    with pytest.raises(DataError):
        run(tmp_path / "nowhere")


def test_the_help_has_an_example():
    assert "Example:\n" in run("--help").stdout


def degraded(*arguments):
    return CliRunner().invoke(data, ["degrade", *map(str, arguments)], catch_exceptions=False)


def test_degrade_writes_a_root_and_says_what_it_did(tmp_path):
    write_images(tmp_path / "pics", count=4)
    (tmp_path / "pics" / "ada" / "bad.png").touch()
    words = (tmp_path / "pics", "--step", 2, "--out", tmp_path / "out")
    first = json.loads(degraded(*words, "--fold", "test", "--json").stdout)
    assert (first["written"], first["kept"]) == (first["images"], 0)
    assert sum(first["operations"].values()) == 2 * first["images"]
    assert {r.fold for r in read_index(tmp_path / "out" / "step2").records} == {"test"}
    said = degraded(*words)
    assert f"8 copies in {tmp_path / 'out' / 'step2'} ({8 - first['images']} written" in said.stdout
    assert "left out: ada/bad.png: the file is empty" in said.stdout


def test_degrade_wants_a_step_and_a_place(tmp_path):
    assert degraded(tmp_path, "--step", 4, "--out", tmp_path).exit_code == 2
    assert degraded(tmp_path, "--step", 1).exit_code == 2


def wild(*arguments):
    return CliRunner().invoke(data, ["wild", *map(str, arguments)], catch_exceptions=False)


def test_wild_says_how_to_get_it():
    assert "leak data wild FOLDER" in wild().stdout
    assert "kaggle" in json.loads(wild("--json").stdout)


def test_wild_exits_with_1_where_something_is_missing(root):
    said = wild(root)
    assert said.exit_code == 1
    assert "missing: no class Midjourney in Closed_Set" in said.stdout
    assert "odd: [b] is no generator of WILD" in said.stdout
    shown = json.loads(wild(root, "--json").stdout)
    assert shown["complete"] is False
    assert shown["generators"]["Midjourney"] is None
    assert {"level": "missing", "sentence": "no class Freepik in Closed_Set"} in shown["findings"]
