"""Folders of classes, WILD, step copies: what is taken, what is left out and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from leakcache.dataset.index import ImageRecord, read_index
from leakcache.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


def wild(root: Path, prompts: int = 10) -> Path:
    names = [f"{number:03}.png" for number in range(prompts)]
    touch(root, *(f"Closed_Set/{label}/{name}" for label in ("Adobe", "FLUX") for name in names))
    return touch(root, *(f"Open_Set/{label}/{name}" for label in ("GAN", "Sana") for name in names))


def paths(index, fold=None):
    return [r.path for r in index.records if fold in (None, r.fold)]


def test_class_folders_are_taken_with_what_is_nested_in_them(tmp_path):
    touch(tmp_path, "a/1.png", "a/deep/er/2.JPG", "b/3.webp")
    index = read_index(tmp_path)
    assert {(r.path, r.label, r.group) for r in index.records} == {
        ("a/1.png", "a", "1"),
        ("a/deep/er/2.JPG", "a", "2"),
        ("b/3.webp", "b", "3"),
    }
    assert index.classes == ("a", "b")
    assert index.unknown == ()
    assert index.root == tmp_path


def test_records_are_in_canonical_order(tmp_path):
    index = read_index(wild(tmp_path))
    order = {"train": 0, "val": 1, "test": 2, "open": 3}
    keys = [(order[r.fold], r.label, r.path) for r in index.records]
    assert keys == sorted(set(keys))


def test_wild_has_known_and_unknown_classes(tmp_path):
    index = read_index(wild(tmp_path))
    assert index.classes == ("Adobe", "FLUX")
    assert index.unknown == ("GAN", "Sana")
    assert index.counts()["FLUX"] == {"train": 5, "val": 2, "test": 3, "open": 0}
    assert index.counts()["GAN"] == {"train": 0, "val": 0, "test": 0, "open": 10}
    assert "WILD" in index.layout
    assert "file stem" in index.layout


def test_set_folders_are_found_in_any_case_and_spelling(tmp_path):
    touch(tmp_path, "closed set/a/1.png", "OPEN-SET/b/1.png")
    index = read_index(tmp_path)
    assert (index.classes, index.unknown) == (("a",), ("b",))


def test_one_prompt_never_falls_into_two_folds(tmp_path):
    index = read_index(wild(tmp_path, prompts=37))
    assert index.crossing_groups == ()
    folds = {}
    for record in index.select("closed").records:
        assert folds.setdefault(record.group, record.fold) == record.fold


def test_select_parts_the_index(tmp_path):
    index = read_index(wild(tmp_path))
    closed, opened = index.select("closed"), index.select("open")
    assert closed.unknown == ()
    assert opened.classes == ()
    assert closed.records + opened.records == index.records
    assert index.select("all") == index


def test_the_seed_changes_the_cut_and_nothing_else(tmp_path):
    wild(tmp_path, prompts=40)
    first, again, other = (read_index(tmp_path, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert paths(first, "test") != paths(other, "test")
    assert sorted(paths(first)) == sorted(paths(other))


def test_files_that_are_not_named_like_images_are_passed_over(tmp_path):
    touch(tmp_path, "a/1.png", "a/Thumbs.db", "a/prompts.txt", "a/.DS_Store", ".git/x.png")
    touch(tmp_path, "a/model.ckpt", "a/noending", "readme.md", "loose.png")
    index = read_index(tmp_path)
    assert paths(index) == ["a/1.png"]
    assert {(r.path, r.reason) for r in index.rejects} == {
        ("loose.png", "lies beside the class folders, so it has no class"),
    }


def test_an_empty_class_is_listed_and_the_rest_goes_on(tmp_path):
    touch(tmp_path, "a/1.png", "c/notes.txt")
    (tmp_path / "b").mkdir()
    index = read_index(tmp_path)
    assert index.classes == ("a",)
    assert index.rejects == ()
    sentences = [finding.sentence for finding in index.findings]
    assert sentences == ["b has no images", "c has no images"]


def test_one_class_is_enough_for_an_index(tmp_path):
    assert read_index(touch(tmp_path, "only/1.png")).classes == ("only",)


def test_unsupported_formats_are_left_to_the_decoder(tmp_path):
    assert len(read_index(touch(tmp_path, "a/1.heic", "a/2.svg")).records) == 2


@pytest.mark.parametrize(
    "layout",
    [
        "step1/Closed_Set/Adobe",
        "Closed_Set/step1/Adobe",
        "Closed_Set/Adobe/step1",
        "Closed_Set/Adobe/x/step1",
    ],
)
def test_step_copies_never_mix_with_the_raw_images(tmp_path, layout):
    wild(tmp_path)
    raw = read_index(tmp_path)
    touch(tmp_path, *(f"{layout}/{number:03}.jpg" for number in range(10)))
    index = read_index(tmp_path)
    assert index.records == raw.records
    assert any("step1 left out" in finding.sentence for finding in index.findings)


@pytest.mark.parametrize(
    "layout",
    [
        "step1/Closed_Set/{}",
        "step1/{}",
        "Closed_Set/step1/{}",
        "Closed_Set/{}/step1",
        "Closed_Set/{}/part/step1/more",
    ],
)
def test_a_step_is_read_as_a_root_with_the_split_of_its_parent(tmp_path, layout):
    wild(tmp_path)
    names = [f"{number:03}.png" for number in range(10)]
    (tmp_path / "Split.json").write_text(
        f'{{"train": {list(range(6))}, "val": [6], "test": {[7, 8, 9]}}}'
    )
    for label in ("Adobe", "FLUX"):
        touch(tmp_path / layout.format(label), *(name.replace("png", "webp") for name in names))
        touch(tmp_path / layout.format(label).replace("step1", "step2"), *names)
    index = read_index(tmp_path / "step1")
    assert index.counts()["FLUX"] == {"train": 6, "val": 1, "test": 3, "open": 0}
    assert index.classes == ("Adobe", "FLUX")
    assert len(index.records) == 20
    assert all((index.root / r.path).is_file() for r in index.records)
    assert all("step1" in str(index.root / r.path) for r in index.records)
    raw = read_index(tmp_path)
    assert {(r.label, r.group, r.fold) for r in index.records} == {
        (r.label, r.group, r.fold) for r in raw.select("closed").records
    }


def test_copies_in_another_format_follow_the_names_of_the_split(tmp_path):
    touch(tmp_path, "a/1.png", "a/2.png", "step2/a/1.jpg", "step2/a/2.webp")
    (tmp_path / "Split.json").write_text('{"train": {"a": ["1.png"]}, "test": {"a": ["2.png"]}}')
    index = read_index(tmp_path / "step2")
    assert paths(index, "train") == ["a/1.jpg"]
    assert paths(index, "test") == ["a/2.webp"]
    assert index.rejects == ()


def test_a_root_of_copies_alone_says_where_they_lie(tmp_path):
    touch(tmp_path, "step1/a/1.png", "step3/a/1.png")
    with pytest.raises(DataError, match=r"give .*step1"):
        read_index(tmp_path)


def test_folders_beside_the_sets_are_named_and_left_out(tmp_path):
    wild(tmp_path)
    touch(tmp_path, "recipes/plot.png", "figure.png")
    index = read_index(tmp_path)
    assert [f.sentence for f in index.findings] == ["recipes beside the sets left out"]
    assert not any("recipes" in path for path in paths(index))
    assert [r.path for r in index.rejects] == ["figure.png"]


def test_open_set_reads_wilds_open_set_only(tmp_path):
    wild(tmp_path)
    (tmp_path / "Split.json").write_text('{"train": {"Adobe": ["000.png"]}}')
    index = read_index(tmp_path, open_set=True)
    assert index.unknown == ("GAN", "Sana")
    assert index.classes == ()
    assert index.rejects == ()


def test_open_set_reads_all_of_a_plain_root_whatever_its_split_says(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "Split.json").write_text('{"train": {"a": ["1.png"]}}')
    index = read_index(tmp_path, open_set=True)
    assert index.unknown == ("a", "b")
    assert {r.fold for r in index.records} == {"open"}


def test_open_set_takes_a_flat_folder_as_one_class(tmp_path):
    root = touch(tmp_path / "finds", "1.png", "2.jpg", "odd.bin")
    (root / "empty").mkdir()
    index = read_index(root, open_set=True)
    assert index.records == (
        ImageRecord("1.png", "finds", "1", "open"),
        ImageRecord("2.jpg", "finds", "2", "open"),
    )
    assert index.rejects == ()


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ([], "no images"),
        (["a/notes.txt"], "no images"),
        (["1.png", "2.png"], "no class folders"),
        (["WILD/Closed_Set/a/1.png"], "too high: give .*WILD"),
        (["Closed_Set/a/1.png", "Open_Set/A/1.png"], "A lies in both"),
        (["Closed_Set/1.png"], "no images in class folders"),
    ],
)
def test_what_cannot_be_understood_is_refused_in_one_line(tmp_path, names, complaint):
    with pytest.raises(DataError, match=complaint) as caught:
        read_index(touch(tmp_path, *names))
    assert "\n" not in str(caught.value)


def test_a_missing_root_names_the_cure(tmp_path):
    with pytest.raises(DataError, match="does not exist: --data takes"):
        read_index(tmp_path / "nowhere")


def test_a_file_that_is_no_index_is_refused(tmp_path):
    touch(tmp_path, "image.png")
    with pytest.raises(DataError, match="neither a folder nor a CSV"):
        read_index(tmp_path / "image.png")


def test_open_images_must_be_there_when_asked_for(tmp_path):
    touch(tmp_path, "Closed_Set/a/1.png")
    with pytest.raises(DataError, match="no Open_Set"):
        read_index(tmp_path, open_set=True)


def test_gallery8_has_its_own_split(shared):
    index = read_index(shared / "bench" / "gallery8")
    assert len(index.classes) == 8
    assert all(
        row == {"train": 105, "val": 42, "test": 63, "open": 0} for row in index.counts().values()
    )
    assert index.rejects == ()
    assert index.crossing_groups == ()


def test_the_open_bench_reads_as_known_or_unknown(shared):
    root = shared / "bench" / "open"
    assert read_index(root, open_set=True).unknown == ("dalle-mini", "disco-diffusion")
    assert read_index(root).counts()["dalle-mini"] == {
        "train": 30,
        "val": 12,
        "test": 18,
        "open": 0,
    }
