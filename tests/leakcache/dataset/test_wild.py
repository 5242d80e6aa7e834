"""WILD: what is missing or odd in a copy of it; how to get it."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from leakcache.dataset import wild
from leakcache.dataset.wild import CLOSED, OPEN, check, download
from leakcache.errors import DataError


@pytest.fixture
def root(tmp_path, monkeypatch):
    """WILD with ten images a class, spelt in ways of its own; two levels below a download."""
    monkeypatch.setattr(wild, "IMAGES", 10)
    monkeypatch.setattr(wild, "FOLD_IMAGES", {"train": 50, "val": 20, "test": 30})
    root = tmp_path / "versions" / "1" / "WILD"
    spellings = {"DALL·E 3": "DALL-E_3", "Leonardo AI": "leonardo", "SD Attend & Excite": "a&e"}
    spellings["SD Attend & Excite"] = "attend_and_excite"
    for side, names in (("Closed_Set", CLOSED), ("Open_Set", OPEN)):
        for name in names:
            folder = root / side / spellings.get(name, name)
            folder.mkdir(parents=True)
            for number in range(10):
                (folder / f"{number}.png").write_bytes(b"x")
    names = [f"{number}.png" for number in range(10)]
    cut = {"train": names[:5], "val": names[5:7], "test": names[7:]}
    split = {
        fold: {folder.name: files for folder in (root / "Closed_Set").iterdir()}
        for fold, files in cut.items()
    }
    (root / "Split.json").write_text(json.dumps(split))
    return root


def sentences(found, level):
    return [finding.sentence for finding in found.findings if finding.level == level]


def test_a_whole_copy_is_complete_wherever_it_lies(root, tmp_path):
    found = check(tmp_path)
    assert found.findings == ()
    assert found.complete
    assert found.index.root == root
    assert len(found.folders) == 20
    assert found.folders["DALL·E 3"] == "DALL-E_3"
    assert found.folders["SD Attend & Excite"] == "attend_and_excite"
    assert found.steps == {"step1": 0, "step2": 0, "step3": 0}


def test_a_missing_class_and_missing_images_are_told(root):
    for number in range(10):
        (root / "Open_Set" / "StyleGAN2" / f"{number}.png").unlink()
    (root / "Closed_Set" / "Freepik" / "3.png").unlink()
    (root / "Closed_Set" / "Midjourney" / "4.png").write_bytes(b"")
    found = check(root)
    assert not found.complete
    missing = sentences(found, "missing")
    assert "no class StyleGAN2 in Open_Set" in missing
    assert "Freepik has 9 of 10 images" in missing
    assert any("Closed_Set/Midjourney/4.png for one" in sentence for sentence in missing)
    assert "StyleGAN2" not in found.folders


def test_what_is_odd_does_not_make_it_incomplete(root):
    (root / "Closed_Set" / "Freepik").rename(root / "Open_Set" / "Freepik")
    extra = root / "Closed_Set" / "holiday"
    extra.mkdir()
    (extra / "1.jpg").write_bytes(b"x")
    (root / "Open_Set" / "StyleGAN" / "more.png").write_bytes(b"x")
    (root / "Split.json").write_text(
        (root / "Split.json").read_text().replace('"Freepik"', '"holiday"')
    )
    found = check(root)
    assert found.complete
    odd = sentences(found, "odd")
    assert "Freepik should lie in Closed_Set" in odd
    assert "holiday is no generator of WILD" in odd
    assert "StyleGAN has 11 images, not 10" in odd
    assert any(sentence.startswith("1 .jpg") for sentence in odd)
    assert any(sentence.startswith("folds are not") for sentence in odd)


def test_prompts_in_several_folds_are_odd(root):
    split = json.loads((root / "Split.json").read_text())
    split["train"]["Freepik"], split["test"]["Freepik"] = ["0.png"], ["7.png", "1.png"]
    (root / "Split.json").write_text(json.dumps(split))
    assert any("1 for one" in sentence for sentence in sentences(check(root), "odd"))


def test_folds_of_our_own_are_told(root):
    (root / "Split.json").unlink()
    assert sentences(check(root), "missing") == [
        "no Split.json: the folds were cut here, not as published"
    ]


def test_copies_are_counted(root):
    for path in (root / "step2" / "Closed_Set" / "Freepik" / "0.png",):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    assert check(root).steps == {"step1": 0, "step2": 1, "step3": 0}


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(DataError, match="no images in class folders"):
        check(tmp_path)


@pytest.mark.skipif(find_spec("kagglehub") is not None, reason="kagglehub is installed")
def test_without_kagglehub_the_cure_is_told():
    with pytest.raises(DataError, match=r"pip install kagglehub.*by hand") as raised:
        download()
    assert "\n" not in str(raised.value)
