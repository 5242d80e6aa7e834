"""Images in tar archives and Parquet files as data: what is read, and what is left out and why."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from leakcache.dataset.image_files import find_images
from leakcache.dataset.index import read_index
from leakcache.dataset.index_file import save_index
from leakcache.dataset.records import DatasetIndex
from leakcache.errors import DataError
from leakcache.images import archive
from leakcache.images.archive import read_image


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 2 * number, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def add(file: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    file.addfile(member, io.BytesIO(data))


def write_shard(path: Path, numbers: range, facts: Mapping[str, object] | None = None) -> Path:
    """Samples of two classes, `ada` and `bob` in turn, with a prompt for each pair."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for n in numbers:
            said = {"label": ("ada", "bob")[n % 2], "prompt": f"prompt {n // 2}"}
            add(file, f"{n:05d}.png", png(n))
            add(file, f"{n:05d}.json", json.dumps({**said, **(facts or {})}).encode())
    return path


def contents(index: DatasetIndex) -> set[bytes]:
    return {read_image(index.root / record.path) for record in index.records}


def reasons(index: DatasetIndex) -> dict[str, str]:
    return {reject.path: reject.reason for reject in index.rejects}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for k in range(3):
        write_shard(tmp_path / "shards" / f"{k:04d}.tar", range(8 * k, 8 * k + 8))
    return tmp_path / "shards"


def test_a_pattern_a_folder_and_an_index_name_the_same_images(shards: Path) -> None:
    index = read_index(shards / "{0000..0002}.tar")
    assert index.classes == ("ada", "bob")
    assert {r.group for r in index.records} == {f"prompt {n}" for n in range(12)}
    assert index.records[0].path.startswith("000")
    assert ".tar/" in index.records[0].path
    assert contents(index) == {png(n) for n in range(24)}
    assert index.crossing_groups == ()
    assert read_index(shards).records == index.records
    save_index(index, shards.parent / "index.csv")
    again = read_index(shards.parent / "index.csv")
    assert [r.path for r in again.records] == [f"shards/{r.path}" for r in index.records]


def test_a_pattern_takes_words_and_numbers(shards: Path) -> None:
    for n, name in enumerate(("train-9", "train-10", "test-9")):
        write_shard(shards.parent / "x" / f"{name}.tar", range(100 + 8 * n, 108 + 8 * n))
    index = read_index(shards.parent / "x" / "{train,test}-{9..9}.tar")
    assert len(index.records) == 16
    assert {r.fold for r in index.records if "/test" in f"/{r.path}"} == {"test"}
    with pytest.raises(DataError, match=r"1 of 4 archives are missing, .*0003\.tar"):
        read_index(shards / "{0000..0003}.tar")
    with pytest.raises(DataError, match="does not exist"):
        read_index(shards / "{0009..0009}.tar")


def test_a_folder_column_goes_before_the_name_of_the_archive(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "train-0000.tar", range(8), {"split": "open"})
    assert {r.fold for r in read_index(path).records} == {"open"}


@pytest.mark.parametrize("end", [600, 5000])
def test_a_cut_archive_is_an_error(shards: Path, end: int) -> None:
    path = shards / "0001.tar"
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(DataError, match=r"0001\.tar cannot be read"):
        read_index(shards)


@pytest.mark.parametrize("further", [0, 300])
def test_an_archive_cut_between_members_is_listed(shards: Path, further: int) -> None:
    path = shards / "0001.tar"
    with tarfile.open(path) as file:
        end = file.getmembers()[4].offset + further
    path.write_bytes(path.read_bytes()[:end])
    index = read_index(shards)
    assert reasons(index) == {"0001.tar": "has no end mark: it may be cut off"}
    assert len(index.records) == 8 + 2 + 8


def test_an_archive_that_is_cut_after_it_was_indexed_is_a_reason(shards: Path) -> None:
    index = read_index(shards)
    path = shards / "0001.tar"
    path.write_bytes(path.read_bytes()[:3000])
    (last,) = (r for r in index.records if r.path.endswith("00015.png"))
    with pytest.raises(OSError, match="unexpected end of data"):
        read_image(index.root / last.path)


def test_odd_members_are_listed_and_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(99))
    path = write_shard(tmp_path / "x.tar", range(8))
    with tarfile.open(path, "a") as file:
        add(file, "00001.png", png(50))  # a name for the second time
        add(file, "../../etc/00020.png", png(20))
        add(file, "../../etc/00020.cls", b"ada")
        add(file, "/secret.png", png(21))
        add(file, "/secret.cls", b"ada")
        add(file, "notes.txt", b"no image")
        for kind, name in ((tarfile.SYMTYPE, "00030.png"), (tarfile.LNKTYPE, "00031.png")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "../secret.png"
            file.addfile(link)
        pipe = tarfile.TarInfo("00032.png")
        pipe.type = tarfile.FIFOTYPE
        file.addfile(pipe)
    index = read_index(path)
    assert reasons(index) == {
        "x.tar/00001.png": "the archive has two members of this name",
        "x.tar//notes": "has no image",
        "x.tar/00030.png": "is a link",
        "x.tar/00031.png": "is a link",
        "x.tar/00032.png": "is no regular file",
    }
    assert contents(index) == {png(n) for n in (*range(8), 20, 21)}
    assert {r.path for r in index.records} >= {"x.tar/etc/00020.png", "x.tar/secret.png"}
    with pytest.raises(OSError, match="no such member"):
        read_image(path / "00030.png")


def test_a_name_that_is_no_utf8_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as file:
        for name in ("1.png", "é.png"):
            add(file, name, png(1))
            add(file, name.replace("png", "cls"), b"ada")
    index = read_index(path, open_set=True)
    assert [r.path for r in index.records] == ["x.tar/1.png"]
    assert reasons(index)["x.tar/\\xe9.png"] == "the name is not valid UTF-8"


def test_a_compressed_archive_is_refused_with_the_cure(tmp_path: Path) -> None:
    plain = write_shard(tmp_path / "x.tar", range(4))
    import gzip

    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "x.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    for root in (tmp_path / "y", tmp_path / "y" / "x.tar.gz"):
        with pytest.raises(DataError, match=r"compressed.*leak data unpack"):
            read_index(root)


def test_commands_that_take_images_take_archives(shards: Path) -> None:
    found = find_images([str(shards / "{0000..0001}.tar")])
    assert len(found) == 16
    assert {read_image(path) for path, _ in found} == {png(n) for n in range(16)}
    assert len(find_images([str(shards)])) == 24
    assert find_images([str(shards / "0000.tar" / "00001.png")])[0][1] == ""
    with pytest.raises(DataError, match="no such file"):
        find_images([str(shards / "0000.tar" / "nothing.png")])


# Parquet.


def test_rows_of_parquet_files_are_read_in_place(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    for k, fold in enumerate(("train", "test")):
        numbers = range(10 * k, 10 * k + 10)
        values = [{"bytes": png(n), "path": "../../x.png"} for n in numbers]
        labels = [("ada", "bob")[n % 2] for n in numbers]
        frame = pandas.DataFrame({"image": values, "label": labels})
        frame.to_parquet(tmp_path / f"{fold}-00000-of-00001.parquet", row_group_size=3)
    index = read_index(tmp_path)
    assert contents(index) == {png(n) for n in range(20)}
    assert len({r.group for r in index.records}) == 20
    assert index.counts()["ada"]["test"] == 5
    assert index.counts()["ada"]["val"] > 0


def test_one_of_several_columns_of_images_is_chosen(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    values = [{"bytes": png(n)} for n in range(4)]
    frame = pandas.DataFrame({"source": values, "edited": values[::-1], "label": list("abab")})
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="source, edited: give --image"):
        read_index(tmp_path / "t.parquet")
    index = read_index(tmp_path / "t.parquet", image="Edited")
    (first,) = (r for r in index.records if r.path.endswith("000"))
    assert read_image(index.root / first.path) == png(3)
    assert index.reading["image"] == "Edited"


def test_a_row_without_an_image_is_a_reason(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"image": [png(0), None, b""], "label": list("aba")})
    frame.to_parquet(tmp_path / "t.parquet")
    index = read_index(tmp_path / "t.parquet")
    for row in (1, 2):
        with pytest.raises(OSError, match="no image"):
            read_image(tmp_path / "t.parquet" / "image" / f"{row:09d}")
    assert len(index.records) == 3
    with pytest.raises(OSError, match="no such row"):
        read_image(tmp_path / "t.parquet" / "image" / "000000003")


def test_a_row_group_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"image": [png(0)], "label": ["a"]}).to_parquet(tmp_path / "t.parquet")
    monkeypatch.setattr(archive, "GROUP_LIMIT", 10)
    with pytest.raises(OSError, match="a row group has more than 10 bytes"):
        read_image(tmp_path / "t.parquet" / "image" / "000000000")
