"""Images of equal pixels are named at the index, before anything is built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leakcache.dataset import findings
from leakcache.dataset.findings import inspect, join_equal_images
from leakcache.dataset.index import read_index


def write(root: Path, *names: str, seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def sample(root: Path) -> Path:
    for number in range(6):
        write(root, f"a/{number}.png", seed=number)
        write(root, f"b/{number + 50}.png", seed=number + 50)
    return root


def test_equal_pixels_under_other_bytes_are_one_group_and_named(tmp_path: Path) -> None:
    sample(tmp_path)
    write(tmp_path, "a/again.bmp", "b/wrong.bmp", seed=3)
    index = join_equal_images(read_index(tmp_path))
    warned = " ".join(finding.sentence for finding in inspect(index))
    assert "1 set of images has equal pixels in several classes" in warned
    assert "a/again.bmp and b/wrong.bmp" in warned
    groups = {record.path: record.group for record in index.records}
    assert groups["a/3.png"] == groups["a/again.bmp"] == groups["b/wrong.bmp"]
    assert index.crossing_groups == ()


def test_equal_pixels_in_several_given_folds_are_named(tmp_path: Path) -> None:
    sample(tmp_path / "train")
    write(tmp_path, "test/a/other.png", seed=2)
    write(tmp_path, "test/b/t.png", seed=99)
    index = join_equal_images(read_index(tmp_path))
    warned = " ".join(finding.sentence for finding in inspect(index))
    assert "equal pixels in several folds" in warned


def test_of_many_images_files_of_equal_bytes_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample(tmp_path)
    write(tmp_path, "b/copy.png", seed=1)
    write(tmp_path, "b/other.bmp", seed=2)
    monkeypatch.setattr(findings, "MOST_BYTES", 100)
    found = inspect(join_equal_images(read_index(tmp_path)))
    sentences = " ".join(finding.sentence for finding in found)
    assert "a/1.png and b/copy.png" in sentences
    assert "other.bmp" not in sentences
    assert "`leak cache build` compares pixels" in sentences


def test_what_is_no_image_is_left_as_it_is(tmp_path: Path) -> None:
    sample(tmp_path)
    (tmp_path / "a" / "empty.png").touch()
    (tmp_path / "b" / "empty.png").touch()
    assert len(join_equal_images(read_index(tmp_path)).records) == 14
