"""Degraded copies on disk: layout, folds, records, resuming, bad images."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from tiny_data import tiny_image, write_images

from leakcache.dataset.degraded_copies import FILE, write_copies
from leakcache.dataset.index import read_index
from leakcache.errors import DataError
from leakcache.images.archive import hash_file
from leakcache.images.degrade import degrade, operations

SIZE = (24, 20)


@pytest.fixture
def wild(tmp_path):
    """WILD in small: two known classes of six prompts, one unknown, no split."""
    for side, label in (("Closed_Set", "ada"), ("Closed_Set", "bob"), ("Open_Set", "eve")):
        folder = tmp_path / "wild" / side / label
        folder.mkdir(parents=True)
        for number in range(6):
            seed = 100 * "ade".index(label[0] if label != "bob" else "d") + number
            tiny_image(seed, SIZE).save(folder / f"{number}.png")
    return tmp_path / "wild"


def lines(folder):
    rows = [json.loads(row) for row in (folder / FILE).read_text().splitlines()]
    return rows[0], rows[1:]


def test_the_copies_read_like_the_originals(wild, tmp_path):
    index = read_index(wild, seed=5)
    report = write_copies(index, tmp_path / "out", step=2)
    assert (report.written, report.kept, report.rejects) == (18, 0, ())
    for root in (tmp_path / "out" / "step2", tmp_path / "out" / "step2" / "index.csv"):
        copies = read_index(root)
        assert [(r.path, r.label, r.group, r.fold) for r in copies.records] == [
            (r.path, r.label, r.group, r.fold) for r in index.records
        ]
        assert copies.rejects == ()


def test_every_copy_is_what_its_record_says(wild, tmp_path):
    write_copies(read_index(wild), tmp_path, step=3, seed=4)
    header, rows = lines(tmp_path / "step3")
    assert (header["step"], header["seed"]) == (3, 4)
    assert len(rows) == 18
    for row in rows:
        source = wild / row["source"]
        assert row["sha256"] == hash_file(source)
        assert row["operations"] == [o.record() for o in operations(3, 4, row["sha256"])]
        expected, _ = degrade(Image.open(source), 3, 4, row["sha256"])
        with Image.open(tmp_path / "step3" / row["path"]) as copy:
            assert copy.format == "PNG"
            assert (np.asarray(copy) == np.asarray(expected)).all()


def test_one_fold_now_and_the_others_later_make_one_index(wild, tmp_path):
    index = read_index(wild)
    first = write_copies(index, tmp_path, step=1, folds=("test",))
    assert {copy.fold for copy in first.copies} == {"test"}
    assert {r.fold for r in read_index(tmp_path / "step1").records} == {"test"}
    rest = write_copies(index, tmp_path, step=1)
    assert (rest.written, rest.kept) == (18 - first.written, first.written)
    assert read_index(tmp_path / "step1").counts() == index.counts()


def test_a_run_that_was_cut_short_goes_on(wild, tmp_path):
    index = read_index(wild)
    write_copies(index, tmp_path, step=1)
    folder = tmp_path / "step1"
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    text = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(text[: len(text) // 2])
    victim = sorted(folder.rglob("*.png"))[0]
    victim.with_name(f".{victim.name}.partial").write_bytes(victim.read_bytes()[:20])
    victim.unlink()
    again = write_copies(index, tmp_path, step=1)
    assert 0 < again.written < 18
    for path, content in whole.items():
        assert path.read_bytes() == content


def test_another_image_under_the_same_name_is_copied_again(wild, tmp_path):
    write_copies(read_index(wild), tmp_path, step=1)
    tiny_image(999, SIZE).save(wild / "Closed_Set" / "ada" / "0.png")
    report = write_copies(read_index(wild), tmp_path, step=1)
    assert (report.written, report.kept) == (1, 17)
    _, rows = lines(tmp_path / "step1")
    assert all(row["sha256"] == hash_file(wild / row["source"]) for row in rows)


def test_copies_of_images_that_are_gone_go_too(wild, tmp_path):
    write_copies(read_index(wild), tmp_path, step=1)
    (wild / "Open_Set" / "eve" / "3.png").unlink()
    write_copies(read_index(wild), tmp_path, step=1)
    assert read_index(tmp_path / "step1").counts()["eve"]["open"] == 5


def test_bad_images_are_listed_and_skipped(wild, tmp_path):
    bad = wild / "Closed_Set" / "ada" / "bad.png"
    bad.write_bytes((wild / "Closed_Set" / "ada" / "0.png").read_bytes()[:200])
    (wild / "Open_Set" / "eve" / "empty.jpg").touch()
    report = write_copies(read_index(wild), tmp_path, step=1)
    reasons = {reject.path: reject.reason for reject in report.rejects}
    assert set(reasons) == {"Closed_Set/ada/bad.png", "Open_Set/eve/empty.jpg"}
    assert "cannot be decoded" in reasons["Closed_Set/ada/bad.png"]
    assert read_index(tmp_path / "step1").rejects == ()
    assert len(read_index(tmp_path / "step1").records) == 18


def test_an_image_that_went_bad_loses_its_copy(wild, tmp_path):
    write_copies(read_index(wild), tmp_path, step=1)
    (wild / "Open_Set" / "eve" / "0.png").write_bytes(b"broken")
    report = write_copies(read_index(wild), tmp_path, step=1)
    assert [reject.path for reject in report.rejects] == ["Open_Set/eve/0.png"]
    assert not (tmp_path / "step1" / "Open_Set" / "eve" / "0.png").exists()


def test_names_that_differ_by_suffix_or_lie_below_keep_their_stems(tmp_path):
    root = write_images(tmp_path / "pics", count=4)
    tiny_image(77).save(root / "ada" / "000.jpg")
    (root / "ada" / "more" / "deep").mkdir(parents=True)
    tiny_image(78).save(root / "ada" / "more" / "deep" / "9.webp")
    index = read_index(root)
    write_copies(index, tmp_path, step=1)
    copies = read_index(tmp_path / "step1")
    assert sorted((r.label, r.group, r.fold) for r in copies.records) == sorted(
        (r.label, r.group, r.fold) for r in index.records
    )
    assert {"Closed_Set/ada/2/000.png", "Closed_Set/ada/more/deep/9.png"} <= {
        r.path for r in copies.records
    }


def test_groups_and_folds_of_a_table_are_kept(tmp_path):
    root = write_images(tmp_path / "pics", count=3)
    rows = [
        f"{root}/{label}/{n:03d}.png,{label},prompt {n},{fold}"
        for label in ("ada", "bob")
        for n, fold in enumerate(("train", "val", "test"))
    ]
    table = tmp_path / "some.csv"
    table.write_text("path,label,group,fold\n" + "\n".join(rows) + "\n")
    write_copies(read_index(table), tmp_path, step=1)
    copies = read_index(tmp_path / "step1" / "index.csv")
    assert {(r.label, r.group, r.fold) for r in copies.records} == {
        (label, f"prompt {n}", fold)
        for label in ("ada", "bob")
        for n, fold in enumerate(("train", "val", "test"))
    }


def test_copies_beside_the_originals_are_left_out_of_the_originals(wild):
    index = read_index(wild)
    write_copies(index, wild, step=1)
    assert read_index(wild).records == index.records
    write_copies(read_index(wild), wild, step=1)
    assert read_index(wild / "step1").counts() == index.counts()


def test_an_open_folder_has_open_copies(tmp_path):
    write_images(tmp_path / "pics", labels=("eve",), count=3)
    write_copies(read_index(tmp_path / "pics", open_set=True), tmp_path, step=1)
    assert read_index(tmp_path / "step1").counts()["eve"]["open"] == 3


def test_what_cannot_be_is_refused_with_the_cure(wild, tmp_path):
    index = read_index(wild)
    write_copies(index, tmp_path / "out", step=1)
    with pytest.raises(DataError, match=r"drawn otherwise.*another --out"):
        write_copies(index, tmp_path / "out", step=1, seed=1)
    moved = shutil.copytree(wild, tmp_path / "other")
    with pytest.raises(DataError, match="drawn otherwise"):
        write_copies(read_index(moved), tmp_path / "out", step=1)
    with pytest.raises(DataError, match="no images in the folds"):
        write_copies(index.select("open"), tmp_path, step=1, folds=("test",))
    table = tmp_path / "odd.csv"
    table.write_text("path,label\nwild/Closed_Set/ada/0.png,a/b\n")
    with pytest.raises(DataError, match="'a/b' cannot be a class folder"):
        write_copies(read_index(table), tmp_path / "odd", step=1)
    for file in wild.rglob("*.png"):
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match="none of 18 images could be copied"):
        write_copies(read_index(wild), tmp_path / "none", step=1)
