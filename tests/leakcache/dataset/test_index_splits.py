"""Split.json in all its forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leakcache.dataset.findings import inspect
from leakcache.dataset.index import read_index
from leakcache.errors import DataError

NAMES = ("b.png", "A.png", "c.png", "D.png")  # in order of lower-cased name: A b c D


@pytest.fixture
def root(tmp_path):
    for label in ("Adobe", "FLUX.1"):
        (tmp_path / label).mkdir()
        for name in NAMES:
            (tmp_path / label / name).touch()
    return tmp_path


def read(root: Path, content: object, name: str = "Split.json"):
    (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return read_index(root)


def folds(index, label="Adobe"):
    return {r.path.split("/")[1]: r.fold for r in index.records if r.label == label}


EXPECTED = {"A.png": "train", "b.png": "train", "c.png": "val", "D.png": "test"}


def by_class(train, val, test):
    return {
        fold: dict.fromkeys(("Adobe", "FLUX.1"), entries)
        for fold, entries in (("train", train), ("val", val), ("test", test))
    }


@pytest.mark.parametrize(
    "content",
    [
        by_class(["A.png", "b.png"], ["c.png"], ["D.png"]),
        by_class([0, 1], [2], [3]),
        by_class(["adobe/A.png", "b.PNG"], ["./c.png"], ["D.png"]),
        by_class(["A", "b"], ["c"], ["D"]),
        {"train": [0, 1], "val": [2], "test": [3]},
        {"train": ["A.png", "b.png"], "val": ["c.png"], "test": ["D.png"]},
        {
            "train": ["Adobe/A.png", "Closed_Set/Adobe/b.png", "FLUX.1\\A.png", "flux.1/b.png"],
            "val": ["c.png"],
            "test": ["D.png"],
        },
        {"Training": {"ADOBE": [0, 1], "flux.1": [0, 1]}, "VALID": [2], "testing": [3]},
        {"training": [0, 1], "validation": [2], "Test": [3], "seed": 7, "notes": ["kept"]},
    ],
)
def test_all_forms_say_the_same(root, content):
    index = read(root, content)
    assert folds(index, "Adobe") == EXPECTED
    assert folds(index, "FLUX.1") == EXPECTED
    assert index.rejects == ()
    assert "folds from Split.json" in index.layout


def test_the_file_is_found_in_any_case(root):
    assert folds(read(root, {"train": [0], "test": [1, 2, 3]}, "split.JSON"))["A.png"] == "train"


def test_images_that_the_split_does_not_name_are_left_out_with_the_reason(root):
    index = read(root, by_class(["A.png"], ["b.png"], ["c.png"]))
    assert [(r.path, r.reason) for r in index.rejects] == [
        ("Adobe/D.png", "not named in Split.json"),
        ("FLUX.1/D.png", "not named in Split.json"),
    ]
    assert len(index.records) == 6


def test_names_without_an_image_are_listed(root):
    index = read(root, by_class(["A.png", "lost.png"], ["b.png", "c.png"], ["D.png"]))
    assert [(r.path, r.reason) for r in index.rejects] == [
        ("Adobe/lost.png", "named in Split.json, not on disk"),
        ("FLUX.1/lost.png", "named in Split.json, not on disk"),
    ]


def test_a_class_without_a_folder_is_listed_once(root):
    content = by_class([0, 1], [2], [3])
    for part in content.values():
        part["Midjourney"] = [0, 1, 2]
    index = read(root, content)
    assert [(r.path, r.reason) for r in index.rejects] == [
        ("Midjourney", "a class that Split.json names but the root lacks")
    ]


def test_a_position_beyond_a_smaller_class_is_listed(root):
    (root / "FLUX.1" / "D.png").unlink()
    index = read(root, by_class([0, 1], [2], [3]))
    assert [(r.path, r.reason) for r in index.rejects] == [
        ("FLUX.1", "position 3, named in Split.json, has no image")
    ]


def test_a_bare_name_needs_to_exist_in_one_class_only(root):
    (root / "FLUX.1" / "D.png").unlink()
    index = read(root, {"train": ["A.png", "b.png"], "val": ["c.png"], "test": ["D.png"]})
    assert index.rejects == ()
    assert folds(index, "FLUX.1") == {"A.png": "train", "b.png": "train", "c.png": "val"}


def test_nested_images_are_named_by_their_path_or_their_base_name(tmp_path):
    for name in ("a/x/1.png", "a/y/1.png", "a/y/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    index = read(tmp_path, {"train": {"a": ["x/1.png"]}, "test": {"a": ["2.png", "1.png"]}})
    assert {r.path: r.fold for r in index.records} == {"a/x/1.png": "train", "a/y/2.png": "test"}
    assert {r.path for r in index.rejects} == {"a/1.png", "a/y/1.png"}


def test_open_classes_that_the_split_names_stay_open(tmp_path):
    for name in ("Closed_Set/a/1.png", "Closed_Set/a/2.png", "Open_Set/u/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    index = read(tmp_path, {"train": {"a": [0]}, "test": {"a": [1], "u": [0]}})
    assert index.counts()["u"]["open"] == 1
    assert index.counts()["a"] == {"train": 1, "val": 0, "test": 1, "open": 0}
    assert index.rejects == ()


def test_groups_that_the_split_parts_are_named(root):
    index = read(root, {"train": {"Adobe": [0, 1], "FLUX.1": [1]}, "test": {"FLUX.1": [0]}})
    assert index.crossing_groups == ("A",)
    [crossing] = [f.sentence for f in inspect(index) if "several folds" in f.sentence]
    assert "several folds: A" in crossing


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "cannot be read as JSON"),
        ("[1, 2]", "none of the keys"),
        ({"fold1": [0]}, "none of the keys"),
        ({"train": [0], "training": [1]}, "names the fold train twice"),
        ({"train": 3}, "lists of files or positions"),
        ({"train": {"Adobe": "A.png"}}, "must list file names or positions"),
        ({"train": {"Adobe": [0, "b.png"]}}, "must list file names or positions"),
        ({"train": {"Adobe": [True]}}, "must list file names or positions"),
        ({"train": [0, 9]}, "position 9 but no class has more than 4 images"),
        ({"train": [0], "test": [0]}, "in both train and test"),
        ({"train": {"Adobe": ["x.png"]}}, "names none of the images"),
    ],
)
def test_a_split_that_cannot_be_followed_is_refused_in_one_line(root, content, complaint):
    with pytest.raises(DataError, match=complaint) as caught:
        read(root, content)
    assert "\n" not in str(caught.value)


def test_classes_that_differ_by_case_alone_are_refused(root):
    (root / "adobe").mkdir()
    (root / "adobe" / "1.png").touch()
    with pytest.raises(DataError, match="cannot tell Adobe from adobe"):
        read(root, {"train": [0]})
