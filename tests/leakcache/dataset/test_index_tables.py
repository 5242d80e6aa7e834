"""CSV and Parquet index files, and the round trip through write_csv."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leakcache.dataset.findings import merge_alike
from leakcache.dataset.index import DatasetIndex, ImageRecord, read_index
from leakcache.dataset.records import canonical
from leakcache.errors import DataError


@pytest.fixture
def root(tmp_path):
    for name in ("pics/1.png", "pics/2.png", "pics/3.png", "pics/4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def read(root: Path, text: str, **options):
    (root / "index.csv").write_text(text, encoding="utf-8")
    return read_index(root / "index.csv", **options)


def test_all_columns_are_used_and_extra_ones_ignored(root):
    index = read(
        root,
        "\ufeffLabel,note,PATH,group,fold\n"
        "a,x,pics/1.png,p,train\nb,x,./pics/2.png,p,Training\nu,,pics/3.png,q,open\n",
    )
    assert index.records == (
        ImageRecord("pics/1.png", "a", "p", "train"),
        ImageRecord("pics/2.png", "b", "p", "train"),
        ImageRecord("pics/3.png", "u", "q", "open"),
    )
    assert index.root == root
    assert "fold column" in index.layout
    assert "group column" in index.layout


def test_without_groups_and_folds_stems_are_groups_and_folds_are_cut(root):
    index = read(root, "path,label\n" + "".join(f"pics/{i}.png,a\n" for i in range(1, 5)))
    assert {r.group for r in index.records} == {"1", "2", "3", "4"}
    assert {r.fold for r in index.records} == {"train", "val", "test"}
    assert "50/20/30" in index.layout


def test_open_rows_stay_open_when_the_rest_is_cut(root):
    index = read(root, "path,label,fold\npics/1.png,a,\npics/2.png,a,\npics/3.png,u,open\n")
    assert index.counts()["u"]["open"] == 1
    assert sum(index.counts()["a"].values()) == 2


def test_paths_may_be_absolute_inside_or_outside(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "5.png"
    other.touch()
    index = read(root, f"path,label,fold\n{root}/pics/1.png,a,train\n{other},a,train\n")
    assert [r.path for r in index.records] == [other.as_posix(), "pics/1.png"]
    assert all((index.root / r.path).is_file() for r in index.records)


def test_backslashes_separate_folders(root):
    assert read(root, "path,label\npics\\1.png,a\n").records[0].path == "pics/1.png"


def test_what_is_not_on_disk_or_listed_twice_is_left_out(root):
    index = read(root, "path,label,fold\npics/1.png,a,test\npics/9.png,a,test\npics/1.png,a,test\n")
    assert [r.path for r in index.records] == ["pics/1.png"]
    assert [(r.path, r.reason) for r in index.rejects] == [
        ("pics/1.png", "listed twice in index.csv"),
        ("pics/9.png", "named in index.csv, not on disk"),
    ]


def test_open_set_takes_the_open_rows_or_else_all(root):
    some = read(root, "path,label,fold\npics/1.png,a,train\npics/2.png,u,open\n", open_set=True)
    assert [r.label for r in some.records] == ["u"]
    every = read(root, "path,label,fold\npics/1.png,a,train\npics/2.png,b,test\n", open_set=True)
    assert every.unknown == ("a", "b")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no column path and label"),
        ("pfad;klasse\npics/1.png;a\n", "no column path and label"),
        ("path,label\n", "no rows"),
        ("path,label\npics/1.png,a\npics/1.png,b\n", "pics/1.png with two labels, a and b"),
        ("path,label\npics/1.png,a\npics/../pics/1.png,b\n", "pics/1.png with two labels"),
        ("path,label,group\npics/1.png,a,x\npics/1.png,a,y\n", "with two groups, x and y"),
        ("path,label,fold\npics/1.png,a,train\npics/1.png,a,test\n", "two folds, train and test"),
        ("path,label\npics/1.png,\n", "row 2 has no label"),
        ("path,label\n,a\n", "row 2 has no path"),
        ("path,label,fold\npics/1.png,a,holdout\n", "unknown fold 'holdout'"),
        ("path,label,fold\npics/1.png,a,train\npics/2.png,a,\n", "gives pics/2.png no fold"),
        ("path,label,fold\npics/1.png,a,train\npics/2.png,a,open\n", "open and known images of a"),
        ("path,label\nlost.png,a\n", "none is on disk"),
        ('path,label\n"pics/1.png,a' + "x" * 200_000, "cannot be read as CSV"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused_in_one_line(root, text, complaint):
    with pytest.raises(DataError, match=complaint) as caught:
        read(root, text)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(root):
    (root / "index.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    with pytest.raises(DataError, match="save it as UTF-8 CSV"):
        read_index(root / "index.csv")


def test_parquet_says_the_same_as_csv(root):
    frame = pandas.DataFrame(
        {
            "path": ["pics/1.png", "pics/2.png", "pics/3.png"],
            "label": ["a", "b", "u"],
            "group": [1, 1, 2],
            "fold": ["train", "val", "open"],
            "extra": [None, 0.5, None],
        }
    )
    frame.to_parquet(root / "index.parquet")
    index = read_index(root / "index.parquet")
    frame.to_csv(root / "index.csv", index=False)
    assert index.records == read_index(root / "index.csv").records
    assert [r.group for r in index.records] == ["1", "1", "2"]


def test_parquet_with_empty_cells_counts_them_as_missing(root):
    pandas.DataFrame(
        {"path": ["pics/1.png", "pics/2.png"], "label": ["a", "a"], "group": ["p", None]}
    ).to_parquet(root / "index.parquet")
    assert {r.group for r in read_index(root / "index.parquet").records} == {"p", "2"}


def test_parquet_without_its_reader_names_the_cure(root, monkeypatch):
    (root / "index.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'leaknet\[parquet\]'"):
        read_index(root / "index.parquet")


def test_damaged_parquet_is_refused(root):
    (root / "index.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"index\.parquet cannot be read"):
        read_index(root / "index.parquet")


def test_an_index_written_at_the_root_reads_back_and_can_be_moved(root, tmp_path):
    index = read(root, "path,label\n" + "".join(f"pics/{i}.png,a\n" for i in range(1, 5)))
    index.write_csv(root / "again.csv")
    assert read_index(root / "again.csv").records == index.records
    moved = root.rename(root.with_name("moved"))
    assert read_index(moved / "again.csv").records == index.records


def test_an_index_written_elsewhere_finds_the_same_files(root, tmp_path_factory):
    index = read(root, "path,label\n" + "".join(f"pics/{i}.png,a\n" for i in range(1, 5)))
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "new" / "index.csv"
    index.write_csv(elsewhere)
    again = read_index(elsewhere)
    full = [(index.root / r.path, r.label, r.group, r.fold) for r in index.records]
    assert [(again.root / r.path, r.label, r.group, r.fold) for r in again.records] == full


def test_an_index_that_cannot_be_written_says_so(root):
    index = read(root, "path,label\npics/1.png,a\n")
    with pytest.raises(DataError, match="cannot be written"):
        index.write_csv(root / "pics" / "1.png" / "index.csv")


words = (
    st.text(
        st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="/\\"), min_size=1
    )
    .map(str.strip)
    .filter(lambda text: text.casefold() not in ("", ".", "..", "nan", "<na>", "null"))
)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(words, words, words, st.sampled_from(["train", "val", "test"])),
        min_size=1,
        unique_by=lambda row: row[0][:40],
    )
)
def test_any_text_survives_the_round_trip(tmp_path, rows):
    records = []
    for name, label, group, fold in rows:
        file = tmp_path / f"{name[:40]}.png"
        file.touch()
        records.append(ImageRecord(file.name, label, group, fold))
    index = DatasetIndex(tmp_path, canonical(records), (), "")
    index.write_csv(tmp_path / "index.csv")
    again = read_index(tmp_path / "index.csv").records
    assert again == canonical(merge_alike(index.records)[0])
