"""Photographs are one more class, cut by camera."""

from __future__ import annotations

from pathlib import Path

import pytest

from leakcache.dataset.index import read_index
from leakcache.errors import DataError
from tests.tiny_data import tiny_image


def images(folder: Path, count: int, first: int = 0) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        tiny_image(first + number, (64, 64)).save(folder / f"{number:02}.png")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    data, photographs = tmp_path / "data", tmp_path / "cameras"
    images(data / "ada", 6)
    images(data / "bob", 6, first=10)
    for number, camera in enumerate(("canon", "nikon", "sony", "leica", "fuji", "pentax")):
        images(photographs / camera, 3, first=100 * (number + 1))
    return data, photographs


def test_photographs_are_a_class_whose_groups_are_cameras(folders: tuple[Path, Path]) -> None:
    data, photographs = folders
    plain = read_index(data)
    index = read_index(data, photographs=str(photographs))
    assert index.classes == ("ada", "bob", "real")
    added = [record for record in index.records if record.label == "real"]
    assert tuple(record for record in index.records if record.label != "real") == plain.records
    assert len(added) == 18
    assert {record.group for record in added} == {
        f"cameras/{name}" for name in ("canon", "nikon", "sony", "leica", "fuji", "pentax")
    }
    assert {record.fold for record in added} == {"train", "val", "test"}
    assert not index.crossing_groups
    assert all((index.root / record.path).is_file() for record in added)
    assert "18 photographs" in index.layout
    again = read_index(index.source or data, **index.reading)
    assert again == index


def test_single_photographs_are_groups_of_their_own(tmp_path: Path) -> None:
    images(tmp_path / "data" / "ada", 6)
    images(tmp_path / "photos", 5, first=50)
    index = read_index(tmp_path / "data", photographs=str(tmp_path / "photos"))
    assert len({record.group for record in index.records if record.label == "real"}) == 5


@pytest.mark.parametrize("fault", ["missing", "empty", "class", "inside"])
def test_other_folders_are_refused(folders: tuple[Path, Path], fault: str, tmp_path: Path) -> None:
    data, photographs = folders
    if fault == "missing":
        photographs = tmp_path / "nowhere"
    elif fault == "empty":
        photographs = tmp_path / "none"
        photographs.mkdir()
    elif fault == "class":
        images(data / "real", 3, first=70)
    else:
        photographs = data / "ada"
    with pytest.raises(DataError, match=r"--photographs"):
        read_index(data, photographs=str(photographs))
