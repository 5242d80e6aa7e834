"""Images inside Parquet files and tar shards: the bytes, labels, prompts and folds survive."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from leakcache.dataset.image_files import unpack
from leakcache.dataset.index import read_index
from leakcache.errors import DataError

pandas = pytest.importorskip("pandas")


def image(number: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 2 * number, 90)).save(buffer, kind)
    return buffer.getvalue()


def contents(root: Path) -> set[bytes]:
    index = read_index(root)
    return {(index.root / record.path).read_bytes() for record in index.records}


@pytest.mark.parametrize("form", ["bytes", "struct"])
def test_parquet_shards_become_an_image_folder(tmp_path: Path, form: str) -> None:
    source = tmp_path / "data"
    source.mkdir()
    for shard, fold in enumerate(("train", "validation", "test")):
        rows = [image(10 * shard + n, "JPEG" if n % 2 else "PNG") for n in range(6)]
        values = rows if form == "bytes" else [{"bytes": r, "path": "../../x.png"} for r in rows]
        frame = pandas.DataFrame(
            {"image": values, "label": [n % 2 for n in range(6)], "prompt": list("abcdef")}
        )
        frame.to_parquet(source / f"{fold}-00000-of-00001.parquet")
    done = unpack(source, tmp_path / "out")
    assert (done.images, done.skipped, done.labels) == (18, 0, {"0": 9, "1": 9})
    index = read_index(tmp_path / "out")
    assert index.counts()["0"] == {"train": 3, "val": 3, "test": 3, "open": 0}
    assert {r.group for r in index.records} == set("abcdef")
    assert image(3, "JPEG") in contents(tmp_path / "out")
    assert not (tmp_path / "x.png").exists()


def test_real_or_generated_and_generators_in_one_table_are_a_question(tmp_path: Path) -> None:
    models = ["sd", "glide", "adm", "coco"]
    frame = pandas.DataFrame(
        {"image_data": [image(n) for n in range(4)], "model_name": models, "label": [1, 1, 1, 0]}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="--label model_name or --label label"):
        unpack(tmp_path / "t.parquet", tmp_path / "out")
    done = unpack(tmp_path / "t.parquet", tmp_path / "out", label="model_name")
    assert sorted(done.labels) == sorted(models)


def shard(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("form", ["cls", "json"])
def test_webdataset_shards_become_an_image_folder(tmp_path: Path, form: str) -> None:
    files = {}
    for number in range(6):
        files[f"../{number:05}.png"] = image(number)
        label = "ab"[number % 2]
        about = label if form == "cls" else json.dumps({"label": label, "width": 8})
        files[f"../{number:05}.{form}"] = about.encode()
        files[f"../{number:05}.txt"] = f"prompt {number // 2}".encode()
    done = unpack(shard(tmp_path / "train-0001.tar", files), tmp_path / "out")
    assert done.labels == {"a": 3, "b": 3}
    assert {r.group for r in read_index(tmp_path / "out").records} == {
        "prompt 0", "prompt 1", "prompt 2",
    }  # fmt: skip
    assert contents(tmp_path / "out") == {image(number) for number in range(6)}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "train-0001.tar"]


@pytest.mark.parametrize("name", ["22.{n:02}", "v1.0/{n}", "{n}.left.v2"])
def test_dots_in_names_of_a_shard_lose_no_image(tmp_path: Path, name: str) -> None:
    files = {}
    for number in range(4):
        files[f"{name.format(n=number)}.PNG"] = image(number)
        files[f"{name.format(n=number)}.cls"] = b"ab"[number % 2 : number % 2 + 1]
    done = unpack(shard(tmp_path / "x.tar", files), tmp_path / "out")
    assert (done.images, done.labels) == (4, {"a": 2, "b": 2})
    assert contents(tmp_path / "out") == {image(number) for number in range(4)}


def test_several_images_of_a_sample_are_one_group(tmp_path: Path) -> None:
    files = {}
    for number in range(4):
        files |= {f"{number}.left.png": image(number), f"{number}.right.png": image(50 + number)}
        files[f"{number}.json"] = json.dumps({"label": "ab"[number % 2]}).encode()
    done = unpack(shard(tmp_path / "x.tar", files), tmp_path / "out")
    assert done.labels == {"a": 4, "b": 4}
    assert len({r.group for r in read_index(tmp_path / "out").records}) == 4


def test_a_list_of_images_a_row_is_one_group(tmp_path: Path) -> None:
    rows = [[{"bytes": image(n)}, {"bytes": image(50 + n)}] for n in range(4)]
    frame = pandas.DataFrame({"images": rows, "label": list("abab")})
    frame.to_parquet(tmp_path / "t.parquet")
    assert unpack(tmp_path / "t.parquet", tmp_path / "out").labels == {"a": 4, "b": 4}
    assert len({r.group for r in read_index(tmp_path / "out").records}) == 4


def test_several_columns_of_images_are_a_question(tmp_path: Path) -> None:
    values = [{"bytes": image(n)} for n in range(4)]
    frame = pandas.DataFrame({"source": values, "edited": values[::-1], "label": list("abab")})
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="source, edited: give --image"):
        unpack(tmp_path / "t.parquet", tmp_path / "out")
    unpack(tmp_path / "t.parquet", tmp_path / "out2", image="Edited")
    assert (tmp_path / "out2" / "images" / "000000" / "00000000.png").read_bytes() == image(3)


@pytest.mark.parametrize("missing", [-1, None])
def test_a_row_without_a_label_is_skipped(tmp_path: Path, missing: int | None) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    names = {"info": {"features": {"label": {"names": ["sd", "glide"], "_type": "ClassLabel"}}}}
    table = pyarrow.table({"image": [image(n) for n in range(3)], "label": [0, 1, missing]})
    table = table.replace_schema_metadata({b"huggingface": json.dumps(names).encode()})
    parquet.write_table(table, tmp_path / "t.parquet")
    done = unpack(tmp_path / "t.parquet", tmp_path / "out")
    assert (done.skipped, done.labels) == (1, {"glide": 1, "sd": 1})


def test_a_tar_archive_of_class_folders_is_refused_with_the_cure(tmp_path: Path) -> None:
    source = shard(tmp_path / "a.tar", {"sd/0.png": image(0), "glide/0.png": image(1)})
    with pytest.raises(DataError, match="unpack it with tar"):
        unpack(source, tmp_path / "out")


@pytest.mark.parametrize("damage", [b"", b"junk" * 300])
def test_what_is_no_archive_is_refused_in_one_line(tmp_path: Path, damage: bytes) -> None:
    for name in ("x.tar", "x.parquet"):
        (tmp_path / name).write_bytes(damage)
        with pytest.raises(DataError) as caught:
            unpack(tmp_path / name, tmp_path / "out")
        assert "\n" not in str(caught.value)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    source = shard(tmp_path / "a.tar", {"0.png": image(0), "0.cls": b"x"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(DataError, match="not empty"):
        unpack(source, tmp_path / "out")
